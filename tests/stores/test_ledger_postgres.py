"""What is PostgreSQL's own in how the ledger uses it. What the ledger does on both is tested on both."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.clusters import Cluster
from bench.fault_races import prepared, waiting_trial
from relations.errors import DependencyFailed, SettingsError
from stores.ledger import Ledger
from stores.ledger_database import Database
from stores.ledger_records import VersionRecord

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_url_without_a_driver_means_the_one_that_is_installed(scheme: str, postgres_url: str) -> None:
    url = postgres_url.replace("postgresql+psycopg", scheme)
    assert Ledger(url).champion() is None


def test_a_server_that_is_not_there_or_refuses_is_told_in_one_line_without_the_password(
    tmp_path: Path, postgres: Cluster
) -> None:
    away = Ledger(f"postgresql://ratchet:very-secret@/ledger?host={tmp_path}")
    for ledger in (away, Ledger(f"postgresql://nobody:very-secret@/ledger?host={postgres.folder}")):
        with pytest.raises(DependencyFailed, match=r"ledger postgresql\+psycopg://.*connection.*failed.*check") as told:
            ledger.champion()
        assert "very-secret" not in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(SettingsError, match="nosuchdatabase"):
        Ledger("nosuchdatabase://host/ledger").champion()


def test_after_the_server_has_ended_a_connection_the_next_look_makes_a_new_one(postgres_url: str) -> None:
    ledger = prepared(postgres_url, versions=1)
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = %s"
    with Database(postgres_url).write() as tx:
        # All but this one, which goes back to the pool and is ended by a connection of its own.
        tx.exec_driver_sql(end, (Database(postgres_url).url.database,))
    assert ledger.champion() is not None
    ledger.note(actor="ann", action="look", subject="x", payload={}, now=T0)
    assert ledger.verify() == []


FORKS = """
import os, sys
from datetime import UTC, datetime
from stores.ledger import Ledger
def note(subject):
    ledger.note(actor="ann", action="look", subject=subject, payload={}, now=datetime(2026, 1, 1, tzinfo=UTC))
ledger = Ledger(sys.argv[1])
note("before")
child = os.fork()
if not child:
    note("in the child")
    sys.exit()
note("meanwhile")
assert os.waitpid(child, 0)[1] == 0
note("after")
"""


def test_a_child_process_has_connections_of_its_own(postgres_url: str) -> None:
    """The parent's would be used by both at once, and closed under it when the child ends."""
    subprocess.run([sys.executable, "-c", FORKS, postgres_url], cwd=ROOT, check=True, timeout=120)
    ledger = Ledger(postgres_url)
    assert {entry.subject for entry in ledger.audit()} == {"before", "in the child", "meanwhile", "after"}
    assert ledger.verify() == []


def test_times_and_names_keep_their_order_and_texts_come_back_whole(ledger_url: str) -> None:
    """On both: the test's PostgreSQL sorts texts as a dictionary does, not by their bytes."""
    ledger = prepared(ledger_url, versions=5)
    wide = "zażółć 你好 \u202e\u2028 'quoted\" 100% {} \\ " + "x" * 5_000
    for number, surface in ((2, "Zoo"), (3, "apple"), (4, "Éclair"), (5, "_")):
        ledger.bootstrap(number, actor="ann", reason=wide, now=T0 + timedelta(microseconds=number), surface=surface)
        assert ledger.history(surface)[0].reason == wide
    opened: dict[str, Any] = {"salt": "s", "allocation": 0.5, "actor": "bob"}
    for number, (trial, surface) in enumerate((("b", "Zoo"), ("B", "apple"), ("a-1", "Éclair"), ("a", "_"))):
        at = T0 + timedelta(days=400, microseconds=9 - number)
        ledger.open_trial(trial, {}, challengers=[1], now=at, surface=surface, **opened)
    assert [trial.id for trial in ledger.trials()] == ["a", "a-1", "B", "b"], "by time"
    assert ledger.verify() == []


def test_figures_come_back_bit_for_bit(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    metrics = {"ndcg@10": 0.1 + 0.2, "tiny": 5e-324, "huge": 1.7976931348623157e308}
    cutoff = 2**62 + 1
    ledger.record_version(
        VersionRecord(1, "d" * 64, "full", None, 2**31 - 1, 1, cutoff, False, metrics, "run", T0, "", submitter="bob")
    )
    found = ledger.version(1)
    assert (found.metrics, found.cutoff_us, found.offline_passed) == (metrics, cutoff, False)
    assert found.events_version == 2**31 - 1
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.record_version(VersionRecord(2, "e" * 64, "full", 1, 1, 1, 0, True, {}, "run", T0, ""))
    share = 0.1 + 0.2
    ledger.open_trial("t", {}, challengers=[2], salt="s", allocation=share, actor="bob", now=T0)
    assert ledger.trial("t").allocation == share
    assert ledger.verify() == []


def test_what_failed_inside_leaves_nothing_behind(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=2)
    trial = waiting_trial(ledger, 2)
    entries = ledger.audit()

    def break_off() -> None:
        with Database(ledger_url).write() as tx:
            tx.exec_driver_sql("UPDATE champion SET epoch = 9")
            tx.exec_driver_sql("DELETE FROM audit")
            raise KeyError("something else")

    with pytest.raises(KeyError, match="something else"):
        break_off()
    assert ledger.audit() == entries
    ledger.approve(trial, actor="ann", reason="good", now=T0)
    assert ledger.verify() == []
