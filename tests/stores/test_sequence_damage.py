"""A damaged store is built again, a kill leaves the old state or the new, a full disk is told."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stores.sequences.store as module
from relations.errors import DependencyFailed
from stores.lake import Lake
from stores.sequences.store import FAIL_POINTS, SequenceStore
from stores.upkeep import LakeKeeper

START = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp())
FIRST = [
    ("e2", "b", "🦉", "view", 5, None),
    ("e1", "a", "x", "view", 5, 1.5),
    ("e4", "a", "y", "cart", 9, None),
]


def segments(store: SequenceStore) -> list[str]:
    return [each["name"] for each in json.loads((store.root / "current.json").read_text())["segments"]]


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
def test_a_damaged_store_is_built_again(lake: Lake, store: SequenceStore, damage: str, deliver: Any, told: Any) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")
    whole = told(store.read(lake))
    assert len(segments(store)) == 2
    DAMAGE[damage](store.root)
    assert told(store.read(lake)) == whole
    assert len(segments(store)) == 1


def test_damage_does_not_survive_a_merge(
    lake: Lake, store: SequenceStore, monkeypatch: pytest.MonkeyPatch, deliver: Any, told: Any
) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    flip(store.root / "segment-00000000" / "time.npy")
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")
    monkeypatch.setattr(module, "MERGE_SHARE", 0.0)
    store.update(lake)
    assert [(row[1], row[3] // 1_000_000 - START) for row in told(store.read(lake))] == [
        ("x", 5),
        ("y", 9),
        ("z", 20),
        ("🦉", 5),
    ]


def test_nothing_is_pickled(lake: Lake, store: SequenceStore, deliver: Any) -> None:
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    files = [path for path in store.root.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock")]
    assert {path.suffix for path in files if path.name != ".lock"} == {".npy", ".arrow"}
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_discarded_sequences_leave_nothing(lake: Lake, store: SequenceStore, deliver: Any, told: Any) -> None:
    deliver(lake, FIRST, name="d1")
    whole = told(store.read(lake))
    store.discard()
    assert [path.name for path in store.root.iterdir()] == [".lock"]
    assert told(store.read(lake)) == whole


def test_a_full_disk_is_told_and_leaves_the_old_state(
    lake: Lake, store: SequenceStore, monkeypatch: pytest.MonkeyPatch, deliver: Any, told: Any
) -> None:
    deliver(lake, FIRST, name="d1")
    before = told(store.read(lake))
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d2")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stores.sequences.segments._save", full)
        with pytest.raises(DependencyFailed, match=r"cannot bring the sequences up to date.*No space left.*make space"):
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
def test_a_kill_leaves_the_old_state_or_the_new(
    tmp_path: Path, lake: Lake, store: SequenceStore, point: str, deliver: Any, told: Any
) -> None:
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


@pytest.mark.usefixtures("unmerged")
def test_a_trimmed_log_is_no_obstacle(lake: Lake, store: SequenceStore, deliver: Any, told: Any) -> None:
    """Maintenance deletes the log's old entries; whether rows were deleted meanwhile cannot be told then."""
    deliver(lake, FIRST, name="d1")
    store.update(lake)
    deliver(lake, [("e7", "b", "z", "view", 18, None)], name="d2")
    deliver(lake, [("e8", "b", "z", "view", 19, None)], name="d3")
    keeper = LakeKeeper(lake.root)
    keeper.vacuum("events", keep=timedelta(0))
    keeper.trim("events", keep=timedelta(0))
    deliver(lake, [("e9", "a", "z", "view", 20, None)], name="d4")
    assert [row[1] for row in told(store.read(lake))] == ["x", "y", "z", "🦉", "z", "z"]
    assert len(segments(store)) == 1
