"""The store of sequences: any way of delivering gives the same arrays, a kill leaves them whole, and so does damage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import stores.sequences.store as module
from model.sequences import BEHAVIOUR_NAMES, Histories
from relations.errors import DependencyFailed
from relations.schemas import DELIVERIES, EVENTS
from stores.lake import Lake
from stores.sequences.arrays import Sequences
from stores.sequences.store import FAIL_POINTS, SequenceStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Event = tuple[str, str, str | None, str, int, float | None]  # event id, user, item, behaviour, second, value


def deliver(lake: Lake, rows: Sequence[Event], *, name: str, receipt: bool = True) -> None:
    """Append `rows` as the door does, and file their receipt."""
    events = [
        {
            "event_id": event,
            "user": user,
            "item_id": item,
            "behaviour": behaviour,
            "value": value,
            "event_time": NOON + timedelta(seconds=second),
            "received_time": NOON,
            "source": "file",
            "delivery_id": name,
        }
        for event, user, item, behaviour, second, value in rows
    ]
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction=name)
    if receipt:
        file_receipt(lake, name)


def file_receipt(lake: Lake, name: str) -> None:
    counts = dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
    said = {
        **counts,
        "delivery_id": name,
        "digest": name,
        "kind": "events",
        "source": "file",
        "uri": name,
        "received_time": NOON,
        "table_versions": sorted(lake.versions().items()),
        "state": "committed",
    }
    lake.append("deliveries", pa.Table.from_pylist([said], schema=DELIVERIES), transaction=name)


def told(found: Sequences) -> list[tuple[Any, ...]]:
    """One row an event, in order, with names in place of codes: the same whatever order items were met in."""
    items = found.items.to_pylist()
    return [
        (user.decode(), items[item], BEHAVIOUR_NAMES[behaviour], int(time), repr(float(value)), int(arrived))
        for user, item, behaviour, time, value, arrived in zip(
            found.user_U[found.user_N()].tolist(),
            found.item_N,
            found.behaviour_N,
            found.time_N,
            found.value_N,
            found.arrived_N,
            strict=True,
        )
    ]


def expected(rows: Sequence[Event], arrived: dict[str, int]) -> list[tuple[Any, ...]]:
    """The definition: by user, then (event time, event id); a search has no item and is no step of a sequence."""
    steps = sorted((row for row in rows if row[2] is not None), key=lambda row: (row[1], row[4], row[0]))
    return [
        (
            user,
            item,
            behaviour,
            int(NOON.timestamp()) * 1_000_000 + second * 1_000_000,
            "nan" if value is None else repr(value),
            arrived[event],
        )
        for event, user, item, behaviour, second, value in steps
    ]


def segments(store: SequenceStore) -> list[str]:
    return [each["name"] for each in json.loads((store.root / "current.json").read_text())["segments"]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def store(tmp_path: Path) -> SequenceStore:
    return SequenceStore(tmp_path / "sequences")


@pytest.fixture
def unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas stay, however small the base is beside them."""
    monkeypatch.setattr(module, "MERGE_SHARE", 9.0)


FIRST: list[Event] = [
    ("e2", "b", "🦉", "view", 5, None),
    ("e1", "a", "x", "view", 5, 1.5),
    ("e4", "a", "y", "cart", 9, None),
    ("e5", "a", None, "search", 10, None),
]


@pytest.mark.usefixtures("unmerged")
def test_a_late_event_stands_where_it_belongs(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST, name="d1")
    one = store.update(lake)
    # earlier than all, at an instant between two others by event id, and of a new user on a new item
    more: list[Event] = [
        ("e9", "a", "y", "view", 1, None),
        ("e0", "a", "z", "view", 5, None),
        ("e3", "c", "w", "view", 0, None),
    ]
    deliver(lake, more, name="d2")
    two = store.update(lake)
    assert two > one
    found = store.read(lake)
    assert [(user, item) for user, item, *_ in told(found)] == [
        ("a", "y"),  # e9, second 1
        ("a", "z"),  # e0, second 5
        ("a", "x"),  # e1, second 5
        ("a", "y"),  # e4
        ("b", "🦉"),
        ("c", "w"),
    ]
    assert found.arrived_N.tolist() == [two, two, one, one, one, two]
    assert found.offsets_U1.tolist() == [0, 4, 5, 6]
    assert segments(store) == ["segment-00000000", "segment-00000001"]
    delta = np.load(store.root / "segment-00000001" / "user.npy")
    assert delta.tolist() == [b"a", b"c"]  # b had no new event, and was not written again


def test_a_base_alone_is_read_where_it_lies(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST, name="d1")
    found = store.read(lake)
    assert all(isinstance(column, np.memmap) for column in (found.item_N, found.time_N, found.value_N, found.user_U))


def test_nothing_new_writes_nothing(lake: Lake, store: SequenceStore) -> None:
    assert store.update(lake) == -1
    assert told(store.read(lake)) == []
    deliver(lake, FIRST, name="d1")
    version = store.update(lake)
    before = (store.root / "current.json").stat()
    assert store.update(lake) == version
    assert (store.root / "current.json").stat() == before
    kept = segments(store)
    deliver(lake, [("s1", "a", None, "search", 11, None)], name="d2")
    assert store.update(lake) == version + 1  # absorbed, though a search is no step of a sequence
    assert segments(store) == kept


def test_a_delivery_without_a_receipt_is_not_there_yet(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST[:2], name="d1")
    one = store.update(lake)
    deliver(lake, FIRST[2:], name="d2", receipt=False)
    assert store.update(lake) == one
    assert len(store.read(lake)) == 2
    file_receipt(lake, "d2")  # what the next ingest does first
    assert store.update(lake) == one + 1
    assert store.read(lake).arrived_N.tolist() == [one, one + 1, one]


@pytest.mark.usefixtures("unmerged")
def test_compaction_and_vacuum_change_nothing(lake: Lake, store: SequenceStore) -> None:
    for number, row in enumerate(FIRST):
        deliver(lake, [row], name=f"d{number}")
        store.update(lake)
    before, kept = told(store.read(lake)), segments(store)
    lake.compact("events", above=1)
    table = DeltaTable(str(lake.root / "events"))
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert told(store.read(lake)) == before
    assert segments(store) == kept
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d9")
    assert [row for row in told(store.read(lake)) if row[1] != "z"] == before


@pytest.mark.parametrize("change", ["delete", "overwrite", "another table"])
def test_what_is_not_an_append_leads_to_a_rebuild(lake: Lake, store: SequenceStore, change: str) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    table = DeltaTable(str(lake.root / "events"))
    if change == "delete":
        table.delete("\"user\" IN ('a')")
    else:
        from deltalake import write_deltalake

        left = lake.read("events").filter(pa.array([True, False, False, False]))
        if change == "another table":
            import shutil

            shutil.rmtree(lake.root / "events")
            write_deltalake(str(lake.root / "events"), left)
        else:
            write_deltalake(table, left, mode="overwrite")
    assert [user for user, *_ in told(store.read(lake))] == ["b"]
    assert b"p" not in b"".join(np.load(store.root / segments(store)[0] / "user.npy").tolist())
    assert len(list(store.root.glob("segment-*"))) == 1


ROW = st.tuples(
    st.sampled_from(["ann", "bob", "cyd", "dée"]),
    st.sampled_from(["a", "b", "🦉", "a\x1f", None]),
    st.sampled_from(["view", "cart", "dislike", "rating"]),
    st.integers(0, 6),  # few seconds, so that instants are shared
    st.sampled_from([None, 0.5, -2.0]),
)


@examples(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=24), data=st.data())
def test_any_split_into_deliveries_gives_the_same_arrays(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("split")
    lake, store = Lake(root / "lake"), SequenceStore(root / "sequences")
    numbered = [(f"e{number:02d}", *row) for number, row in enumerate(rows)]
    shuffled = data.draw(st.permutations(numbered), label="order of arrival")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)), max_size=4), label="deliveries"))
    arrived: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", data.draw(st.integers(1, 8), label="block"))
        patch.setattr(module, "MERGE_SHARE", data.draw(st.sampled_from([0.0, 0.5, 9.0]), label="merge share"))
        for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            part = shuffled[begin:end]
            deliver(lake, part, name=f"d{begin}-{end}")
            arrived |= {event: lake.version("events") for event, *_ in part}
            if data.draw(st.booleans(), label="update here"):
                store.update(lake)
        grown = store.read(lake)
        assert told(grown) == expected(numbered, arrived)
        store.rebuild(lake)
        assert told(store.read(lake)) == told(grown)
    everything = np.ones(len(grown), dtype=bool)
    assert_equal(grown.histories(everything), Histories.from_table(lake.read("events").filter(_on_items(lake))))


def _on_items(lake: Lake) -> Any:
    return lake.read("events").column("item_id").is_valid()


def assert_equal(ours: Histories, theirs: Histories) -> None:
    assert ours.users.tolist() == theirs.users.tolist()
    assert ours.items.tolist() == theirs.items.tolist()
    for name in ("item_N", "behaviour_N", "time_N", "offsets_U1"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.dtype == other.dtype == np.int64
        assert mine.tolist() == other.tolist()


def test_a_part_of_the_sequences_as_histories(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST, name="d1")
    found = store.read(lake)
    assert found.among(["b", "nobody"]).tolist() == [False, True]
    assert found.among([]).tolist() == [False, False]
    kept = found.histories(~found.among(["a"])[found.user_N()])
    assert kept.users.tolist() == ["b"]
    assert kept.items.tolist() == ["🦉"]
    assert kept.item_N.tolist() == [0]
    assert len(found.histories(np.zeros(len(found), dtype=bool))) == 0


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda root: (root / "current.json").unlink(),
    "half a manifest": lambda root: os.truncate(root / "current.json", 40),
    "another format": lambda root: (root / "current.json").write_text('{"format": 0}'),
    "a list": lambda root: (root / "current.json").write_text("[]"),
    "no segment": lambda root: (root / "segment-00000000" / "time.npy").unlink(),
    "half a segment": lambda root: os.truncate(root / "segment-00000000" / "item.npy", 130),
    "a flipped byte": lambda root: flip(root / "segment-00000000" / "time.npy"),
    "a flipped id": lambda root: flip(root / "segment-00000001" / "event_id.arrow"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.usefixtures("unmerged")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_built_again(lake: Lake, store: SequenceStore, damage: str) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")
    whole = told(store.read(lake))
    assert len(segments(store)) == 2
    DAMAGE[damage](store.root)
    assert told(store.read(lake)) == whole
    assert len(segments(store)) == 1


def test_damage_does_not_survive_a_merge(lake: Lake, store: SequenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    flip(store.root / "segment-00000000" / "time.npy")
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")
    monkeypatch.setattr(module, "MERGE_SHARE", 0.0)
    store.update(lake)
    found = told(store.read(lake))
    assert found == expected(
        [*FIRST, ("e9", "a", "z", "view", 20, None)], dict.fromkeys(("e1", "e2", "e4"), 1) | {"e9": 2}
    )


def test_nothing_is_pickled(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    files = [path for path in store.root.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock")]
    assert {path.suffix for path in files if path.name != ".lock"} == {".npy", ".arrow"}
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_discarded_sequences_leave_nothing(lake: Lake, store: SequenceStore) -> None:
    deliver(lake, FIRST, name="d1")
    whole = told(store.read(lake))
    store.discard()
    assert [path.name for path in store.root.iterdir()] == [".lock"]
    assert told(store.read(lake)) == whole


def test_a_full_disk_is_told_and_leaves_the_old_state(
    lake: Lake, store: SequenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(lake, FIRST, name="d1")
    before = told(store.read(lake))
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stores.sequences.segments._save", full)
        with pytest.raises(DependencyFailed, match=r"cannot write the sequences.*No space left.*make space"):
            store.update(lake)
    manifest = json.loads((store.root / "current.json").read_text())
    assert manifest["absorbed"] == 1
    assert [row for row in told(store.read(lake)) if row[1] != "z"] == before
    assert {path.name for path in store.root.iterdir()} == {".lock", "current.json", *segments(store)}  # no leftovers


KILLED = """
import sys
from pathlib import Path
from stores.lake import Lake
import stores.sequences.store as module
module.MERGE_SHARE = float(sys.argv[2])
module.SequenceStore(Path(sys.argv[1]) / "sequences").update(Lake(Path(sys.argv[1]) / "lake"))
"""


@pytest.mark.parametrize("point", FAIL_POINTS)
def test_a_kill_leaves_the_old_state_or_the_new(tmp_path: Path, lake: Lake, store: SequenceStore, point: str) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    old = (store.root / "current.json").read_text()
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "9"],
        env={**os.environ, "RATCHET_FAIL_AT": point},
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    moved = (store.root / "current.json").read_text() != old
    assert moved == (point == "sequences.current")
    found = told(store.read(lake))
    assert [row[1] for row in found] == ["x", "y", "z", "🦉"]
    assert len(list(store.root.glob("segment-*"))) == len(segments(store)) == 2
    assert not list(store.root.glob(".new-*"))
