"""Many at once, on both databases: threads and processes that promote from the same epoch make one step together."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from bench.clusters import Cluster
from bench.fault_races import judged, prepared, race, race_threads, waiting_trial
from relations.errors import DependencyFailed, GateRefused
from stores import ledger_database
from stores.ledger import Ledger
from stores.ledger_database import MOST_CONNECTIONS, Database
from stores.ledger_records import Champion

T0 = datetime(2026, 1, 1, tzinfo=UTC)
THREADS = 200
PROCESSES = 3
ROUNDS = 4


def test_threads_that_approve_at_once_make_one_step(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=2)
    found = race_threads(ledger, ledger_url, challenger=2, threads=THREADS)
    assert found.problems == ()
    assert found.winners == 1
    assert ledger.champion() == Champion(2, f"{2:064x}", 2, T0)
    assert sum(entry.action == "promote" for entry in ledger.audit()) == 1
    assert ledger.verify() == []


def test_threads_that_approve_reject_and_roll_back_at_once_have_one_winner(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=3)
    ledger.approve(waiting_trial(ledger, 2), actor="ann", reason="good", now=T0)
    trial = waiting_trial(ledger, 3)
    start = Barrier(THREADS)

    def decide(turn: int) -> str:
        mine = Ledger(ledger_url)
        start.wait()
        try:
            if turn % 3 == 0:
                mine.approve(trial, actor="ann", reason="good", now=T0)
                return "approved"
            if turn % 3 == 1:
                mine.reject(trial, actor="dora", reason="no", now=T0)
                return "rejected"
            mine.rollback(actor="dora", reason="worse", now=T0, expected_epoch=2)
            return "rolled back"
        except GateRefused:
            return "refused"

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(decide, range(THREADS)))
    assert answers.count("rolled back") <= 1
    assert not ("approved" in answers and "rejected" in answers)
    moves = ("approved" in answers) + ("rolled back" in answers)
    champion = ledger.champion()
    assert champion is not None
    assert champion.epoch == 2 + moves
    assert moves <= 1, "both were against epoch 2"
    assert set(answers) - {"refused"}, "somebody came first"
    assert ledger.verify() == []


def test_processes_that_approve_and_roll_back_at_once_make_one_step_a_round(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=ROUNDS + 1)
    found = race(ledger, ledger_url, rounds=ROUNDS, most=PROCESSES)
    assert found.problems == ()
    assert found.winners == ROUNDS
    moves = [entry for entry in ledger.audit() if entry.action in ("promote", "rollback")]
    assert len(moves) == ROUNDS == len(ledger.history()) - 1
    assert ledger.verify() == []


def approved(epoch: int = 2, version: int = 2) -> dict[str, Any]:
    return {"step": "approve", "epoch": epoch, "version": version}


ROLLED_BACK = {"step": "rollback", "epoch": 2, "version": 2}
REFUSED = {"step": "rollback", "refused": "look again"}


@pytest.mark.parametrize(
    ("answers", "epoch", "epochs", "named"),
    [
        ([approved(), approved(), REFUSED], 2, 2, ""),
        ([approved(), REFUSED], 3, 3, "from epoch 1 to 3"),
        ([approved(), REFUSED], 2, 3, "3 in the history"),
        ([REFUSED], 1, 1, "from epoch 1 to 1"),
        ([REFUSED], 2, 2, "0 kinds of step"),
        ([approved(), ROLLED_BACK], 2, 2, "2 kinds of step"),
        ([ROLLED_BACK, ROLLED_BACK], 2, 2, "more than one rollback"),
        ([approved(), approved(version=3)], 2, 2, "another champion"),
        ([approved(), {"step": "approve", "error": "database is locked"}], 2, 2, "database is locked"),
    ],
)
def test_a_round_with_two_winners_or_none_is_told(
    answers: Sequence[dict[str, Any]], epoch: int, epochs: int, named: str
) -> None:
    before, after = Champion(1, "a", 1, T0), Champion(2, "b", epoch, T0)
    problem = judged(answers, before=before, after=after, epochs=epochs)
    assert named in problem
    assert bool(problem) is bool(named)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_first_starts_at_once_make_one_ledger(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if database == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.create("first")
        request.addfinalizer(lambda: cluster.drop("first"))
    start = Barrier(8)

    def first(_turn: int) -> Champion | None:
        ledger = Ledger(url)
        start.wait()
        return ledger.champion()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(first, range(8))) == {None}
    assert Ledger(url).verify() == []
    if database == "sqlite":
        with Database(url).read() as tx:
            assert tx.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_readers_do_not_wait_for_a_writer(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=1)
    with Database(ledger_url).write() as tx:
        tx.exec_driver_sql("UPDATE champion SET epoch = 99")
        state = ledger.serving_state()  # would wait half a minute and fail
        tx.rollback()
    assert state.champion is not None
    assert state.champion.epoch == 1


def test_what_is_read_in_one_transaction_is_of_one_moment(ledger_url: str) -> None:
    ledger = prepared(ledger_url, versions=2)
    trial = waiting_trial(ledger, 2)
    epoch = "SELECT epoch FROM champion"
    with Database(ledger_url).read() as tx:
        assert tx.exec_driver_sql(epoch).scalar_one() == 1
        ledger.approve(trial, actor="ann", reason="good", now=T0)
        assert tx.exec_driver_sql(epoch).scalar_one() == 1
        assert tx.exec_driver_sql("SELECT count(*) FROM champion_history").scalar_one() == 1
    with Database(ledger_url).read() as tx:
        assert tx.exec_driver_sql(epoch).scalar_one() == 2


def test_a_writer_sees_what_the_one_before_it_has_committed(ledger_url: str) -> None:
    """It may have begun to wait before: what it then reads must not be of the moment at which it began."""
    ledger = prepared(ledger_url, versions=1)
    engine = ledger_database._engine(Database(ledger_url).url)  # as another process has one
    begun, seen = Event(), []

    def second() -> None:
        begun.set()
        with Database(ledger_url).write() as tx:
            seen.append(tx.exec_driver_sql("SELECT epoch FROM champion").scalar_one())

    try:
        with engine.execution_options(writes=True).begin() as tx:
            tx.exec_driver_sql("UPDATE meta SET value = value")
            tx.exec_driver_sql("UPDATE champion SET epoch = 7")
            waiter = Thread(target=second)
            waiter.start()
            begun.wait()
            waiter.join(0.2)  # it waits for this one; whether it has begun to or not, it must see 7
            assert waiter.is_alive()
        waiter.join()
    finally:
        engine.dispose()
    assert seen == [7]
    assert ledger.champion() is not None


def test_a_writer_that_never_ends_is_told_of(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = prepared(ledger_url, versions=1)
    monkeypatch.setattr(ledger_database, "TURN_SECONDS", 0.05)
    with Database(ledger_url).write(), pytest.raises(DependencyFailed, match=r"other threads .* writing for 0.05 s"):
        ledger.note(actor="ann", action="look", subject="x", payload={}, now=T0)
    ledger.note(actor="ann", action="look", subject="x", payload={}, now=T0)


def test_another_process_that_never_ends_is_told_of(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_database, "BUSY_SECONDS", 0.2)
    ledger = prepared(ledger_url, versions=1)
    engine = ledger_database._engine(Database(ledger_url).url)
    try:
        with engine.execution_options(writes=True).begin() as tx:
            tx.exec_driver_sql("UPDATE meta SET value = value")
            with pytest.raises(DependencyFailed, match=r"database is locked|lock timeout") as refused:
                ledger.note(actor="ann", action="look", subject="x", payload={}, now=T0)
            assert "\n" not in str(refused.value)
    finally:
        engine.dispose()
    ledger.note(actor="ann", action="look", subject="x", payload={}, now=T0)


def test_all_of_a_process_share_its_connections_to_postgresql(postgres_url: str) -> None:
    ledgers = [Ledger(postgres_url) for _ in range(30)]
    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(lambda ledger: ledger.champion(), ledgers)) == {None}
    with Database(postgres_url).read() as tx:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert 1 <= tx.exec_driver_sql(count).scalar_one() <= MOST_CONNECTIONS
