"""A ledger that an older version wrote opens, verifies, and goes on; one of a newer version is refused.

`ledger_schema_3.sql` is a dump of one that the last version with schema 3 wrote: `t1` promoted, `t2` found
inconclusive at its canary, `t3` rejected after a shadow, `t4` open at its canary, and
on the surface `cart` `t5` waiting for approval. `ledger_schema_4.sql` is of the last version with schema 4: `t1`
promoted with a standing approval and a delta, `t2` stopped with one of three challengers out, `aa` an A/A trial, `t3`
waiting for approval with its second challenger proposed, `t4` baking on `cart`, `t5` in the shadow on `mail`.
"""

import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, select

from gate.states import TrialMode, TrialState
from relations.errors import DependencyFailed, GateRefused, UsageError
from stores import ledger_schema
from stores.ledger import Ledger
from stores.ledger_export import check_export
from stores.ledger_records import Champion
from stores.ledger_schema import MIGRATIONS, SCHEMA
from stores.ledger_tables import meta, metadata
from stores.people import Role
from stores.standing_records import DeltaFacts, DeltaLimits

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 14, tzinfo=UTC)
WHO = {"actor": "ann", "reason": "so far so good"}
Older = Callable[..., str]


def config(tx: Connection) -> Config:
    stated = Config()
    stated.set_main_option("script_location", str(MIGRATIONS))
    stated.attributes["connection"] = tx
    return stated


def run(url: str, step: Callable[[Connection], Any]) -> Any:
    """`step` in a transaction of its own, by nothing of the ledger's."""
    engine = create_engine(url)
    try:
        with engine.begin() as tx:
            return step(tx)
    finally:
        engine.dispose()


def empty(tx: Connection) -> None:
    found = MetaData()
    found.reflect(tx)
    found.drop_all(tx)


@pytest.fixture
def older(tmp_path: Path, ledger_url: str) -> Older:
    """`older(schema, edit)` makes the database what the dump of that schema says, after `edit` by SQL, and returns its
    URL. On PostgreSQL it has the tables that an older version made there, and no trace of alembic."""

    def make(schema: str, *edit: str, dump: str = "") -> str:
        path = tmp_path / ("ledger.db" if ledger_url.startswith("sqlite") else "dump.db")
        with closing(sqlite3.connect(path)) as written:
            text = (Path(__file__).parent / f"ledger_schema_{dump or schema}.sql").read_text(encoding="utf-8")
            written.executescript(text)
            for statement in edit:
                written.execute(statement)
            written.execute("UPDATE meta SET value = ?", [schema])
            written.commit()
        if ledger_url.startswith("sqlite"):
            return ledger_url

        def fill(tx: Connection) -> None:
            empty(tx)
            command.upgrade(config(tx), schema)
            tx.exec_driver_sql("DROP TABLE alembic_version")
            for table in metadata.sorted_tables:
                if table.name in inspect(tx).get_table_names():
                    rows = run(f"sqlite:///{path}", lambda old, table=table: old.execute(select(table)).all())
                    if rows:
                        tx.execute(table.insert(), [dict(row._mapping) for row in rows])

        run(ledger_url, fill)
        return ledger_url

    return make


def told(url: str) -> dict[str, list[Any]]:
    """Everything that is in the database, by table."""

    def read(tx: Connection) -> dict[str, list[Any]]:
        found = MetaData()
        found.reflect(tx)
        return {table.name: sorted(tuple(row) for row in tx.execute(select(table))) for table in found.sorted_tables}

    answer: dict[str, list[Any]] = run(url, read)
    return answer


def schema_of(url: str) -> tuple[Any, Any]:
    read = {
        name: tuple(row[-1] for row in rows) for name, rows in told(url).items() if name in ("meta", "alembic_version")
    }
    return read["meta"], read.get("alembic_version")


def shape(tx: Connection) -> dict[str, Any]:
    """What the database itself says of its tables."""
    found = inspect(tx)
    return {
        name: (
            [
                (column["name"], str(column["type"]), column["nullable"], column["default"], column.get("primary_key"))
                for column in found.get_columns(name)
            ],
            found.get_pk_constraint(name),
            sorted(found.get_unique_constraints(name), key=repr),
            sorted(found.get_indexes(name), key=repr),
        )
        for name in sorted(found.get_table_names())
    }


def test_both_ways_to_the_newest_schema_lead_to_the_same(ledger_url: str) -> None:
    """A new database gets its tables at once, an older one by every revision in turn."""

    def differences(tx: Connection) -> Any:
        compared = MigrationContext.configure(tx, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(compared, metadata)

    Ledger(ledger_url).champion()
    at_once = run(ledger_url, shape)
    assert run(ledger_url, differences) == []
    run(ledger_url, empty)
    assert run(ledger_url, shape) == {}
    run(ledger_url, lambda tx: command.upgrade(config(tx), "head"))
    assert run(ledger_url, shape) == at_once
    assert run(ledger_url, differences) == []
    assert set(at_once) == {*metadata.tables, "alembic_version"}


def test_the_newest_revision_is_the_schema_and_every_older_one_is_known() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_heads() == [SCHEMA]
    assert [each.revision for each in scripts.walk_revisions()][::-1] == [*ledger_schema._OLDER, SCHEMA]


def test_a_new_ledger_is_marked_with_the_newest_revision_and_alembic_is_not_loaded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    code = (
        "import sys; from stores.ledger import Ledger; Ledger(sys.argv[1]).champion(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert schema_of(url) == ((SCHEMA,), (SCHEMA,))
    assert [file.name for file in tmp_path.glob("*before*")] == []


def test_one_of_schema_3_verifies_and_its_states_are_those_of_their_stages(older: Older) -> None:
    url = older("3")
    ledger = Ledger(url)
    assert ledger.verify() == []
    found = {trial.id: (str(trial.state), str(trial.mode), trial.looks) for trial in ledger.trials()}
    assert found == {
        "t1": ("PROMOTED", "compare", 2),
        "t2": ("INCONCLUSIVE", "canary", 1),
        "t3": ("REJECTED", "compare", 1),
        "t4": ("CANARY", "canary", 1),
        "t5": ("AWAIT_APPROVAL", "compare", 1),
    }
    trial = ledger.trial("t4")
    assert (trial.others, trial.out, trial.bake_hours, trial.is_aa, trial.proposed.version) == ((), (), 0.0, False, 5)
    serving = ledger.serving_state()
    assert serving.trial is not None
    assert (serving.trial.mode, serving.trial.allocation, serving.trial.others) == (TrialMode.CANARY, 0.01, ())
    assert serving.bake is None
    assert schema_of(url) == ((SCHEMA,), (SCHEMA,))


def test_its_open_trials_go_on_to_the_end(older: Older) -> None:
    ledger = Ledger(older("3"))
    assert reached(ledger, "t5").version == 1
    with pytest.raises(GateRefused, match="t4: is at canary; only a comparison can promote"):
        ledger.record_evidence("t4", {"decision": "PROMOTE"}, now=LATER)
    ledger.set_stage("t4", TrialMode.COMPARE, now=LATER, **WHO)
    assert ledger.trial("t4").state is TrialState.COMPARE
    ledger.record_evidence("t4", {"decision": "PROMOTE"}, now=LATER)
    assert ledger.verify() == []
    assert reached(ledger, "t4").version == 5
    assert ledger.trial("t4").state is TrialState.PROMOTED, "its configuration knows no bake_hours"
    assert ledger.rollback(actor="ann", reason="complaints", now=LATER + timedelta(hours=1)).version == 2
    assert ledger.trial("t4").state is TrialState.ROLLED_BACK
    assert ledger.verify() == []


def reached(ledger: Ledger, trial: str) -> Champion:
    answer = ledger.approve(trial, actor="ann", reason="clicks rose", now=LATER)
    assert isinstance(answer, Champion)
    return answer


def test_what_it_rejected_stays_rejected_and_new_trials_have_the_new_rules(older: Older) -> None:
    ledger = Ledger(older("3"))
    ledger.stop_trial("t4", now=LATER, **WHO)
    opened: dict[str, Any] = {"salt": "s", "allocation": 0.5, "actor": "bob", "now": LATER}
    with pytest.raises(GateRefused, match="rejected in trial t3"):
        ledger.open_trial("t6", {}, challengers=[5, 4], **opened)
    ledger.open_trial("t6", {"bake_hours": 1}, challengers=[5, 3], **opened)
    ledger.record_evidence("t6", {"decision": "PROMOTE", "challenger": "challenger-2"}, now=LATER)
    assert reached(ledger, "t6").version == 3
    assert ledger.trial("t6").state is TrialState.PROMOTING
    assert ledger.verify() == []


def test_one_of_schema_4_verifies_and_everything_in_it_goes_on(older: Older) -> None:
    ledger = Ledger(older("4"))
    assert ledger.verify() == []
    found = {trial.id: (str(trial.state), trial.proposed.version, trial.out) for trial in ledger.trials()}
    assert found == {
        "t1": ("PROMOTED", 2, ()),
        "t2": ("ABORTED", 3, ("challenger-2",)),
        "aa": ("INCONCLUSIVE", 2, ()),
        "t3": ("AWAIT_APPROVAL", 7, ()),
        "t4": ("BAKING", 2, ()),
        "t5": ("SHADOW", 8, ()),
    }
    standing = ledger.standing(now=LATER)
    assert standing is not None
    assert [delta.bytes for delta in standing.deltas] == [5_000_000_000]
    assert reached(ledger, "t3") == Champion(7, f"{7:064x}", 3, LATER)
    assert ledger.end_bake("t4", now=T0 + timedelta(hours=36)).state is TrialState.PROMOTED
    ledger.set_stage("t5", TrialMode.COMPARE, now=LATER, **WHO)
    assert ledger.rollback(actor="dora", reason="worse", now=LATER).version == 2
    assert ledger.verify() == []


@pytest.mark.parametrize(("schema", "waits"), [("3", "t5"), ("4", "t3")])
def test_nobody_is_accused_of_what_was_decided_before_there_were_people(
    older: Older, schema: str, waits: str, tmp_path: Path
) -> None:
    """Where roles are enforced, they count from the first person on."""
    ledger = Ledger(older(schema), enforce_roles=True)
    assert ledger.verify() == []
    assert check_export(ledger.export(tmp_path / "before", now=LATER).file).problems == ()
    ledger.add_first_admin("root", password=None, now=LATER)
    ledger.add_person("ann", roles=frozenset({Role.APPROVER}), password=None, actor="root", now=LATER)
    assert isinstance(reached(ledger, waits), Champion)
    ledger.rollback(actor="root", reason="worse", now=LATER, surface=ledger.trial(waits).surface)
    assert ledger.verify() == []
    assert check_export(ledger.export(tmp_path / "after", now=LATER).file).problems == ()


@pytest.mark.parametrize("schema", ["1", "2"])
def test_ledgers_older_still_get_what_they_lack(older: Older, schema: str) -> None:
    """Schema 2 had no stages: its trials compared from the start. Schema 1 had no standing approvals either."""
    url = older(
        schema,
        "DELETE FROM audit WHERE number >= 12",  # the trials with stages
        "DELETE FROM trial WHERE id != 't1'",
        "DELETE FROM evidence WHERE trial != 't1'",
        "DELETE FROM champion WHERE surface = 'cart'",
        "DELETE FROM champion_history WHERE surface = 'cart'",
        *(f"DROP TABLE {table}" for table in ("trial_stages", *(("standing", "delta") if schema == "1" else ()))),
        dump="3",
    )
    ledger = Ledger(url)
    assert ledger.verify() == []
    assert [(trial.id, trial.state) for trial in ledger.trials()] == [("t1", TrialState.PROMOTED)]
    assert ledger.standings() == ()
    limits = DeltaLimits(5, 1000, 0.1, 0.9)
    ledger.allow_deltas(recipe="r", limits=limits, expires=LATER + timedelta(hours=9), now=LATER, **WHO)
    ledger.record_delta(DeltaFacts("d" * 64, f"{2:064x}", 1, "r", 10, 100, 0.01), now=LATER)
    ledger.open_trial("t2", {}, challengers=[3], salt="s", allocation=0.5, actor="bob", now=LATER)
    ledger.kill_trial("t2", now=LATER, **WHO)
    assert ledger.verify() == []


def test_an_sqlite_file_is_copied_beside_before_it_is_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.db"
    text = (Path(__file__).parent / "ledger_schema_4.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as written:
        written.executescript(text)
    path.chmod(0o640)
    before = told(f"sqlite:///{path}")
    Ledger(f"sqlite:///{path}").champion()
    kept = tmp_path / f"ledger.db.before-{SCHEMA}"
    assert told(f"sqlite:///{kept}") == before
    assert before["meta"] == [("schema", "4")]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert [record.getMessage() for record in caplog.records if record.name == "stores.ledger_schema"] == [
        f"ledger sqlite:///{path}: changed from schema 4 to {SCHEMA}; as it was: {kept}"
    ]
    Ledger(f"sqlite:///{path}").champion()
    assert sorted(file.name for file in tmp_path.iterdir() if "before" in file.name) == [kept.name]


@pytest.mark.parametrize("schema", ["3", "4"])
def test_a_step_that_fails_leaves_the_ledger_as_it_was(
    older: Older, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = older(schema)
    before = told(url)
    broken = tmp_path / "a folder with 100% more"
    shutil.copytree(MIGRATIONS, broken, ignore=shutil.ignore_patterns("__pycache__"))
    last = next((broken / "versions").glob(f"revision_{SCHEMA}_*.py"))
    last.write_text(last.read_text() + '    op.execute("DELETE FROM audit")\n    raise ValueError("out of\\nluck")\n')
    monkeypatch.setattr(ledger_schema, "MIGRATIONS", broken)
    for _attempt in range(2):
        with pytest.raises(
            DependencyFailed, match=f"from schema {schema} to {SCHEMA}: out of luck; it is as it was"
        ) as refused:
            Ledger(url).champion()
        assert "\n" not in str(refused.value)
        assert told(url) == before
    monkeypatch.undo()
    assert Ledger(url).verify() == []
    assert schema_of(url) == ((SCHEMA,), (SCHEMA,))


def test_a_newer_one_is_refused_and_an_older_ratchet_is_kept_out(ledger_url: str) -> None:
    opened = Ledger(ledger_url)
    assert opened.champion() is None
    # By this alone versions before alembic decide whether they may write; they knew 1 to 4.
    assert schema_of(ledger_url)[0] == (SCHEMA,)
    assert int(SCHEMA) > 4
    run(ledger_url, lambda tx: tx.execute(meta.update().values(value="99")))
    with pytest.raises(UsageError, match=f"schema 99, this version of Ratchet reads {SCHEMA}; use the version that"):
        Ledger(ledger_url).champion()
    before = told(ledger_url)
    with pytest.raises(UsageError, match=f"its schema is 99 now, it was {SCHEMA} when this process opened it"):
        opened.note(actor="ann", action="look", subject="x", payload={}, now=LATER)
    assert told(ledger_url) == before
    run(ledger_url, lambda tx: tx.execute(meta.delete()))
    with pytest.raises(UsageError, match="schema unknown"):
        Ledger(ledger_url).champion()


OPENER = """
import sys
from stores.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(len(ledger.trials()), ledger.verify(), flush=True)
"""


def test_processes_that_open_an_older_one_at_once_change_it_once(older: Older) -> None:
    url = older("4")
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _turn in range(3)
    ]
    for each in openers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in openers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    answers = [each.communicate(timeout=120) for each in openers]
    assert [answer[0] for answer in answers] == ["6 []\n"] * len(openers), answers
    assert sum("changed from schema 4" in answer[1] for answer in answers) == 1
    assert schema_of(url) == ((SCHEMA,), (SCHEMA,))
