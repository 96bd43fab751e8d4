"""Tables that forget: rows, the versions that had them, and what the log says of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DependencyFailed
from relations.schemas import EVENTS, QUARANTINE
from stores.lake import Lake
from stores.privacy import Mentions
from stores.upkeep import LakeKeeper

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = "p1_" + "c0ffee" * 5 + "aa"
NONE = timedelta(0)


def events(users: list[str], delivery: str) -> pa.Table:
    rows = [
        {
            "event_id": f"{delivery}-{n}",
            "user": user,
            "behaviour": "click",
            "item_id": "i",
            "context": [("device", "phone")],
            "event_time": NOW,
            "received_time": NOW,
            "source": "s",
            "delivery_id": delivery,
        }
        for n, user in enumerate(users)
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS)


def traces(folder: Path, text: str) -> list[str]:
    """Files whose bytes, or whose values where they are Parquet, hold `text`."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        decoded = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
        if text.encode() in path.read_bytes() or text in decoded:
            found.append(str(path.relative_to(folder)))
    return found


def test_a_user_in_twelve_versions_is_gone_from_all_of_them(tmp_path: Path) -> None:
    lake, keeper = Lake(tmp_path), LakeKeeper(tmp_path)
    for n in range(12):
        lake.append("events", events(["p1_" + "a" * 32, CANARY, "p1_" + "f" * 32], f"d{n}"), transaction=f"d{n}")
    assert not [name for name in traces(tmp_path, CANARY) if "_delta_log" in name]  # no statistics of ids
    keeper.delete("events", column="user", values=[CANARY, "p1_it's not there"])
    assert lake.read("events").num_rows == 24  # 12 × 2
    keeper.vacuum("events", keep=NONE)
    keeper.trim("events", keep=NONE)
    assert traces(tmp_path, CANARY) == []
    assert lake.read("events").num_rows == 24
    # Exactly once still: the checkpoint knows the transactions of the log that went.
    lake.append("events", events(["again"], "d3"), transaction="d3")
    lake.append("events", events(["new"], "d12"), transaction="d12")
    assert lake.read("events").num_rows == 25


def test_a_rewrite_changes_rows_and_nothing_else(tmp_path: Path) -> None:
    lake, keeper = Lake(tmp_path), LakeKeeper(tmp_path)
    for n in range(3):
        lake.append("events", events(["a", "b"], f"d{n}"), transaction=f"d{n}")
    before = lake.read("events").drop_columns(["user"]).sort_by("event_id")
    upper = EVENTS.get_field_index("user")
    keeper.rewrite("events", lambda rows: rows.set_column(upper, EVENTS.field(upper), pc.utf8_upper(rows["user"])))
    after = lake.read("events").sort_by("event_id")
    assert after["user"].to_pylist() == ["A", "B"] * 3
    assert after.drop_columns(["user"]).equals(before)
    lake.append("events", events(["again"], "d1"), transaction="d1")
    assert lake.read("events").num_rows == 6
    keeper.rewrite("events", lambda rows: rows.slice(0, 0))
    assert lake.read("events").num_rows == 0


def test_absent_and_empty_tables_have_nothing_to_do(tmp_path: Path) -> None:
    keeper = LakeKeeper(tmp_path)
    keeper.delete("late", column="user", values=["a"])
    keeper.rewrite("late", lambda rows: rows)
    assert list(keeper.batches("late", ["user"])) == []
    assert (keeper.vacuum("late", keep=NONE), keeper.trim("late", keep=NONE)) == (0, 0)


def test_young_files_and_log_entries_stay(tmp_path: Path) -> None:
    lake, keeper = Lake(tmp_path), LakeKeeper(tmp_path)
    for n in range(3):
        lake.append("events", events(["a"], f"d{n}"), transaction=f"d{n}")
    lake.compact("events", above=1)
    assert keeper.vacuum("events", keep=timedelta(hours=1)) == 0
    assert keeper.trim("events", keep=timedelta(hours=1)) == 0
    assert lake.read("events", version=1).num_rows == 1  # as of the first append still
    assert keeper.vacuum("events", keep=NONE) == 3
    # Creation, three appends, the compaction, the vacuum's begin and end make 0 … 6; the checkpoint is of 6. The
    # checkpoint that the first trim left, of 4, goes too.
    assert keeper.trim("events", keep=NONE) == 7
    assert lake.read("events").num_rows == 3


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("events", events(["a"], "d"), transaction="d")
    next((tmp_path / "events").glob("*.parquet")).unlink()
    with pytest.raises(DependencyFailed, match="events: cannot be rewritten"):
        LakeKeeper(tmp_path).rewrite("events", lambda rows: rows)


def test_rows_with_structs_are_deleted_and_rewritten(tmp_path: Path) -> None:
    held = {
        "delivery_id": "d",
        "kind": "events",
        "format": "json",
        "raw": b"{}",
        "reasons": [{"expectation": "e", "column": "c", "message": "m"}],
        "source": "s",
        "received_time": NOW,
        "state": "open",
    }
    rows = pa.Table.from_pylist([{**held, "row": n, "user": user} for n, user in enumerate(["a", None])], QUARANTINE)
    lake, keeper = Lake(tmp_path), LakeKeeper(tmp_path)
    lake.append("quarantine", rows, transaction="d")
    keeper.delete("quarantine", column="user", values=["a"])
    keeper.rewrite("quarantine", lambda rows: rows)
    assert lake.read("quarantine").to_pylist() == [{**held, "row": 1, "user": None, "settled_by": None}]


words = st.text(st.sampled_from('aé-_ ".<&,{}\\'), min_size=1, max_size=4)


@given(words, st.text(st.sampled_from(' ,;{}"\n'), max_size=3))
def test_a_mention_is_found_between_any_separators_and_blotted_whole(name: str, around: str) -> None:
    said = f"{around} {name} {around}".encode()
    mentions = Mentions([name])
    assert mentions.within(said)
    assert not mentions.within(mentions.blotted(said).replace(b"[forgotten]", b""))


def test_a_mention_is_a_whole_word() -> None:
    ada = Mentions(["ada", "ada-1", "Zoë & Co"])
    assert not any(map(ada.within, (b"adam", b"lada", b"ada_x", b"ada-2", "adaé".encode(), b"")))
    assert ada.blotted(b'{"u":"ada-1"},ada') == b'{"u":"[forgotten]"},[forgotten]'
    assert ada.within(b"Zo\\u00eb & Co")
    assert ada.within("Zoë &amp; Co".encode())
    assert not Mentions([]).within(b"anything")
