import asyncio
import multiprocessing
import random
import sqlite3
import time
from pathlib import Path

import pytest

from relations.errors import DependencyFailed
from stores.preferences import Preferences
from stores.sqlite_state import SqliteState
from stores.user_states import Row


def row(user: str, event_id: str, time_us: int, item: str = "i") -> Row:
    return (user, event_id, item, "click", time_us)


def test_known_takes_more_ids_than_one_statement_can_bind(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.db", keep=5_000)
    state.absorb(row("u", f"e{n}", n) for n in range(0, 3_000, 2))
    assert len(asyncio.run(state.known([row("u", f"e{n}", n) for n in range(3_000)]))) == 1_500


@pytest.mark.parametrize("n", [9_999, 10_000, 10_001])  # around two whole transactions
def test_many_transactions_keep_no_more(tmp_path: Path, n: int) -> None:
    state = SqliteState(tmp_path / "state.db", keep=3)
    assert state.absorb(row(f"u{number % 2}", f"e{number:05d}", number) for number in range(n)) == n
    last = n - 1 - (n - 1) % 2  # user u0 has the even ones
    assert [event.event_time_us for event in state.newest("u0", n)] == [last - 4, last - 2, last]
    assert len(state.newest("u1", n)) == 3


def test_a_hundred_thousand_rows_in_a_few_seconds(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [row(f"p1_{rng.randrange(2_000):032x}", f"e_{rng.getrandbits(128):032x}", n) for n in range(100_000)]
    state = SqliteState(tmp_path / "state.db")
    start = time.process_time()
    assert state.absorb(rows) == 100_000
    # Measured 0.6–0.9 s of CPU; the bound leaves room for a busy machine.
    assert time.process_time() - start < 3.0


def _absorb_in_a_process(path: Path, name: str) -> None:
    state = SqliteState(path, keep=10_000)
    for start in range(0, 2_000, 100):
        state.absorb([row("u", f"{name}{n}", n) for n in range(start, start + 100)])


def test_two_processes_write_at_once_and_a_third_reads(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    reader = SqliteState(path, keep=10_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_absorb_in_a_process, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        reader.newest("u", 50)
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(reader.newest("u", 9_999)) == 4_000


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(DependencyFailed, match=r"state\.db"):
        SqliteState(path)


def test_a_failed_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.db")
    broken = ("u", "b", None, "click", 2)
    with pytest.raises(DependencyFailed, match="NOT NULL"):
        state.absorb([row("u", "a", 1), broken])  # type: ignore[list-item]
    assert state.newest("u", 9) == []
    assert state.absorb([row("u", "a", 1)]) == 1
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def kept(folder: Path) -> bytes:
    """All bytes, and all names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() + bytes(path) for path in files)


def test_a_forgotten_user_is_gone_from_the_bytes_too(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.db", keep=3)
    # Seven of the ten rows were trimmed before: what they left in the file must be gone as well.
    state.absorb(row("p1_canary", f"c{n}", n) for n in range(10))
    state.absorb(row("p1_other", f"o{n}", n) for n in range(10))
    asyncio.run(state.set_preferences("p1_canary", Preferences(hidden_items=frozenset({"hat-of-canary"}))))
    assert len(kept(tmp_path)) > len(kept(tmp_path).replace(b"p1_canary", b""))
    assert state.forget(["p1_canary", "p1_unknown"]) == 3
    assert state.newest("p1_canary", 9) == []
    assert len(state.newest("p1_other", 9)) == 3
    assert b"canary" not in kept(tmp_path)
    assert state.forget(["p1_canary"]) == 0
