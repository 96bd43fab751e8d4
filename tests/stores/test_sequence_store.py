"""The store of sequences: whatever is delivered when, in the order of time it is the same arrays."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import stores.sequences.store as module
from model.sequences import Histories
from stores.lake import Lake
from stores.sequences.store import SequenceStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Event = tuple[str, str, str | None, str, int, float | None]  # event id, user, item, behaviour, second, value


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


FIRST: list[Event] = [
    ("e2", "b", "🦉", "view", 5, None),
    ("e1", "a", "x", "view", 5, 1.5),
    ("e4", "a", "y", "cart", 9, None),
    ("e5", "a", None, "search", 10, None),
]


@pytest.mark.usefixtures("unmerged")
def test_a_late_event_stands_where_it_belongs(lake: Lake, store: SequenceStore, deliver: Any, told: Any) -> None:
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


def test_a_base_alone_is_read_where_it_lies(lake: Lake, store: SequenceStore, deliver: Any) -> None:
    deliver(lake, FIRST, name="d1")
    found = store.read(lake)
    assert all(isinstance(column, np.memmap) for column in (found.item_N, found.time_N, found.value_N, found.user_U))


def test_nothing_new_writes_nothing(lake: Lake, store: SequenceStore, deliver: Any, told: Any) -> None:
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


def test_a_delivery_without_a_receipt_is_not_there_yet(
    lake: Lake, store: SequenceStore, deliver: Any, file_receipt: Any
) -> None:
    deliver(lake, FIRST[:2], name="d1")
    one = store.update(lake)
    deliver(lake, FIRST[2:], name="d2", receipt=False)
    assert store.update(lake) == one
    assert len(store.read(lake)) == 2
    file_receipt(lake, "d2")  # what the next ingest does first
    assert store.update(lake) == one + 1
    assert store.read(lake).arrived_N.tolist() == [one, one + 1, one]


@pytest.mark.usefixtures("unmerged")
def test_compaction_and_vacuum_change_nothing(lake: Lake, store: SequenceStore, deliver: Any, told: Any) -> None:
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
def test_what_is_not_an_append_leads_to_a_rebuild(
    lake: Lake, store: SequenceStore, change: str, deliver: Any, told: Any
) -> None:
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
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], data: st.DataObject, deliver: Any, told: Any
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


def test_a_part_of_the_sequences_as_histories(lake: Lake, store: SequenceStore, deliver: Any) -> None:
    deliver(lake, FIRST, name="d1")
    found = store.read(lake)
    assert found.among(["b", "nobody"]).tolist() == [False, True]
    assert found.among([]).tolist() == [False, False]
    kept = found.histories(~found.among(["a"])[found.user_N()])
    assert kept.users.tolist() == ["b"]
    assert kept.items.tolist() == ["🦉"]
    assert kept.item_N.tolist() == [0]
    assert len(found.histories(np.zeros(len(found), dtype=bool))) == 0


@pytest.mark.usefixtures("unmerged")
def test_a_flood_is_built_again_in_flat_memory(
    lake: Lake, store: SequenceStore, deliver: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    deliver(lake, FIRST[:1], name="d1")
    store.update(lake)
    deliver(
        lake, [(f"f{n}", "a", "x", "view", n, None) for n in range(4)], name="d2"
    )  # 4 more than 1, and than a block
    found = store.read(lake)
    assert [(row[0], row[1]) for row in told(found)] == [("a", "x")] * 4 + [("b", "🦉")]
    assert found.arrived_N.tolist() == [2, 2, 2, 2, 1]
    assert len(segments(store)) == 1
