"""Many at once: threads and processes that promote the same epoch make one step together."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

from relations.errors import GateRefused
from stores.ledger import Ledger
from stores.ledger_records import Champion, VersionRecord
from stores.ledger_tables import Database

T0 = datetime(2026, 1, 1, tzinfo=UTC)
THREADS = 32
PROCESSES = 4
ROUNDS = 5


def prepared(url: str) -> Ledger:
    """Champion version 1, and a version more for every round."""
    ledger = Ledger(url)
    for number in range(1, ROUNDS + 2):
        ledger.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return ledger


def waiting_trial(ledger: Ledger, number: int) -> str:
    trial = f"trial-{number}"
    ledger.open_trial(trial, {"n": number}, challenger=number + 1, salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence(trial, {"decision": "PROMOTE"}, now=T0)
    return trial


def test_threads_that_approve_at_once_make_one_step(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = prepared(url)
    for number in range(1, ROUNDS + 1):
        trial = waiting_trial(ledger, number)
        start = Barrier(THREADS)

        def approve(turn: int, trial: str = trial, start: Barrier = start) -> Champion:
            mine = Ledger(url)
            start.wait()
            return mine.approve(trial, actor=f"person {turn}", reason="good", now=T0)

        with ThreadPoolExecutor(THREADS) as pool:
            answers = set(pool.map(approve, range(THREADS)))
        assert answers == {Champion(number + 1, f"{number + 1:064x}", number + 1, T0)}
        assert ledger.champion() in answers
    assert len(ledger.history()) == ROUNDS + 1
    assert sum(entry.action == "promote" for entry in ledger.audit()) == ROUNDS
    assert ledger.verify() == []


def test_threads_that_approve_reject_and_roll_back_at_once_have_one_winner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = prepared(url)
    first = waiting_trial(ledger, 1)
    ledger.approve(first, actor="ann", reason="good", now=T0)
    trial = waiting_trial(ledger, 2)
    start = Barrier(THREADS)

    def decide(turn: int) -> str:
        mine = Ledger(url)
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
    assert ledger.verify() == []


APPROVER = """
import sys
from datetime import UTC, datetime
from stores.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.champion()
print("ready", flush=True)
for line in sys.stdin:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reached = ledger.approve(line.strip(), actor=f"process {sys.argv[2]}", reason="good", now=now)
    print(reached.version, reached.epoch, flush=True)
"""


def test_processes_that_approve_at_once_make_one_step(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = prepared(url)
    root = Path(__file__).parents[2]
    approvers = [
        subprocess.Popen(
            [sys.executable, "-c", APPROVER, url, str(turn)],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for turn in range(PROCESSES)
    ]
    try:
        for each in approvers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for number in range(1, ROUNDS + 1):
            trial = waiting_trial(ledger, number)
            for each in approvers:
                assert each.stdin is not None
                each.stdin.write(f"{trial}\n")
                each.stdin.flush()
            answers = [each.stdout.readline() for each in approvers if each.stdout is not None]
            assert answers == [f"{number + 1} {number + 1}\n"] * PROCESSES
    finally:
        for each in approvers:
            each.communicate(timeout=30)
    assert len(ledger.history()) == ROUNDS + 1
    assert sum(entry.action == "promote" for entry in ledger.audit()) == ROUNDS
    assert ledger.verify() == []


def test_first_starts_at_once_make_one_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    start = Barrier(8)

    def first(_turn: int) -> Champion | None:
        start.wait()
        return Ledger(url).champion()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(first, range(8))) == {None}
    with Database(url).read() as tx:
        assert tx.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = prepared(url)
    with Database(url).write() as tx:
        tx.exec_driver_sql("UPDATE champion SET epoch = 99")
        state = ledger.serving_state()  # would wait ten seconds and fail
        tx.rollback()
    assert state.champion is not None
    assert state.champion.epoch == 1
