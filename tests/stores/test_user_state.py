import multiprocessing
import random
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.errors import DependencyFailed
from stores.user_state import PastEvent, UserState

Row = tuple[str, str, str, str, int]


def row(user: str, event_id: str, time_us: int, item: str = "i") -> Row:
    return (user, event_id, item, "click", time_us)


def test_a_user_who_is_renamed_between_two_reads_is_found_by_one(tmp_path: Path) -> None:
    state = UserState(tmp_path / "user_state.db")
    state.absorb([("p1_a", "e1", "i", "click", 1), ("p2_a", "e2", "j", "click", 2), ("p1_b", "e3", "k", "click", 3)])
    assert [event.event_id for event in state.newest("p2_a", 9, formerly="p1_a")] == ["e1", "e2"]
    assert [event.event_id for event in state.newest("p2_a", 1, formerly="p1_a")] == ["e2"]
    assert [event.event_id for event in state.newest("p2_b", 9, formerly="p1_b")] == ["e3"]


def test_newest_is_the_tail_in_time_then_id_order(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db")
    assert state.absorb([row("u", "c", 5), row("u", "b", 5), row("v", "x", 9), row("u", "a", 7), row("u", "z", 1)]) == 5
    assert [event.event_id for event in state.newest("u", 3)] == ["b", "c", "a"]
    assert state.newest("u", 1) == [PastEvent("a", "i", "click", 7)]
    assert state.newest("nobody", 3) == []


def test_an_event_counts_once_whoever_delivers_it_again(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db")
    assert state.absorb([row("u", "a", 1), row("u", "a", 1)]) == 1
    assert state.absorb([row("u", "a", 99, item="other"), row("u", "b", 2)]) == 1
    assert state.newest("u", 9) == [PastEvent("a", "i", "click", 1), PastEvent("b", "i", "click", 2)]
    assert state.known(["a", "b", "c"]) == {"a", "b"}


def test_known_takes_more_ids_than_one_statement_can_bind(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db", keep=5_000)
    state.absorb(row("u", f"e{n}", n) for n in range(0, 3_000, 2))
    assert len(state.known([f"e{n}" for n in range(3_000)])) == 1_500


def test_only_the_newest_events_are_kept(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db", keep=3)
    state.absorb([row("u", f"e{n}", n) for n in range(10)])
    state.absorb([row("u", "late", 2), row("u", "new", 11)])
    assert [event.event_id for event in state.newest("u", 99)] == ["e8", "e9", "new"]


@pytest.mark.parametrize("n", [9_999, 10_000, 10_001])  # around two whole transactions
def test_many_transactions_keep_no_more(tmp_path: Path, n: int) -> None:
    state = UserState(tmp_path / "state.db", keep=3)
    assert state.absorb(row(f"u{number % 2}", f"e{number:05d}", number) for number in range(n)) == n
    last = n - 1 - (n - 1) % 2  # user u0 has the even ones
    assert [event.event_time_us for event in state.newest("u0", n)] == [last - 4, last - 2, last]
    assert len(state.newest("u1", n)) == 3


def test_any_unicode(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db")
    state.absorb([("ü👩‍👩‍👧", "é\x00'\"", "日本", "click", 1)])
    assert state.newest("ü👩‍👩‍👧", 1) == [PastEvent("é\x00'\"", "日本", "click", 1)]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("uvw"), st.integers(0, 30), st.integers(0, 9)), max_size=60),
    seed=st.integers(0, 99),
    keep=st.integers(1, 6),
)
def test_order_of_arrival_and_redelivery_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]], seed: int, keep: int
) -> None:
    events = {f"{user}{number}": row(user, f"{user}{number}", number % 7) for user, number, _ in rows}
    expected = {
        user: sorted((e[4], e[1]) for e in events.values() if e[0] == user)[-keep:] for user in {r[0] for r in rows}
    }
    shuffled = [*events.values(), *events.values()]
    random.Random(seed).shuffle(shuffled)
    state = UserState(tmp_path_factory.mktemp("state") / "state.db", keep=keep)
    for start in range(0, len(shuffled), 7):
        state.absorb(shuffled[start : start + 7])
    for user, tail in expected.items():
        assert [(e.event_time_us, e.event_id) for e in state.newest(user, 99)] == tail
    state.close()


def test_a_hundred_thousand_rows_in_a_few_seconds(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [row(f"p1_{rng.randrange(2_000):032x}", f"e_{rng.getrandbits(128):032x}", n) for n in range(100_000)]
    state = UserState(tmp_path / "state.db")
    start = time.process_time()
    assert state.absorb(rows) == 100_000
    # Measured 0.6–0.9 s of CPU; the bound leaves room for a busy machine.
    assert time.process_time() - start < 3.0


def _absorb_in_a_process(path: Path, name: str) -> None:
    state = UserState(path, keep=10_000)
    for start in range(0, 2_000, 100):
        state.absorb([row("u", f"{name}{n}", n) for n in range(start, start + 100)])


def test_two_processes_write_at_once_and_a_third_reads(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    reader = UserState(path, keep=10_000)
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
        UserState(path)


def test_a_failed_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db")
    broken = ("u", "b", None, "click", 2)
    with pytest.raises(DependencyFailed, match="NOT NULL"):
        state.absorb([row("u", "a", 1), broken])  # type: ignore[list-item]
    assert state.newest("u", 9) == []
    assert state.absorb([row("u", "a", 1)]) == 1
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_forgotten_user_is_gone_from_the_bytes_too(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db", keep=3)
    # Seven of the ten rows were trimmed before: what they left in the file must be gone as well.
    state.absorb(row("p1_canary", f"c{n}", n) for n in range(10))
    state.absorb(row("p1_other", f"o{n}", n) for n in range(10))
    assert b"p1_canary" in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert state.forget(["p1_canary", "p1_unknown"]) == 3
    assert state.newest("p1_canary", 9) == []
    assert len(state.newest("p1_other", 9)) == 3
    assert b"p1_canary" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert state.forget(["p1_canary"]) == 0


def test_users_are_renamed_where_their_id_is_an_older_one(tmp_path: Path) -> None:
    state = UserState(tmp_path / "state.db", keep=3)
    state.absorb(row(user, f"{user}-{n}", n) for user in ("p1_a", "p1_b", "p2_b", "p3_x", "z") for n in range(3))
    # Every old id, whichever side of "p2_" it sorts to, and b's newest three of the six rows of both its ids.
    assert state.rename("p2_", lambda users: [user.replace("p1_", "p2_") for user in users]) == 2
    assert state.newest("p1_a", 9) == []
    assert [event.event_id for event in state.newest("p2_a", 9)] == ["p1_a-0", "p1_a-1", "p1_a-2"]
    assert [event.event_id for event in state.newest("p2_b", 9)] == ["p2_b-1", "p1_b-2", "p2_b-2"]
    assert len(state.newest("p3_x", 9)) == len(state.newest("z", 9)) == 3
    assert state.rename("p2_", lambda users: [user.replace("p1_", "p2_") for user in users]) == 0
