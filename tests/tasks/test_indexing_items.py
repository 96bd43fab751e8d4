"""Side indexes kept up to the items table: what is made, what is taken over, and when nothing is done at all."""

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.features import PLAIN
from model.fitted import Fitted, save_fitted
from model.modalities.fusion import TowerConfig
from model.modalities.material import NamedVectors
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.options import ObjectiveOptions
from model.vocabulary import Vocabulary
from relations.errors import GateRefused, RatchetError
from relations.schemas import ITEMS
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.serving_settings import ReleaseSettings
from stores.settings import Settings
from stores.side_index import SideIndex, read_in_force, read_side_index
from stores.signatures import make_key
from tasks.indexing_items import index_new_items

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings.model_validate({"modalities": {"clip": {"kind": "vector"}}})
KNOWN = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]}


def item(name: str, vector: Sequence[float] | None = None, *, day: int = 0, **rest: Any) -> dict[str, Any]:
    stated = {
        "item_id": name,
        "valid_from": NOW + timedelta(days=day),
        "title": name,
        "categories": [],
        "available": True,
        "vectors": None if vector is None else [("clip", vector)],
        "received_time": NOW,
        "source": "test",
        "delivery_id": "one",
    }
    return stated | rest


def deliver(home: Home, *rows: dict[str, Any]) -> int:
    return Lake(home.lake).append("items", pa.Table.from_pylist(list(rows), schema=ITEMS), transaction=str(rows))


def version(home: Home, number: int, *, items: Sequence[str] = tuple(KNOWN), modal: bool = True) -> str:
    """A version with random weights; its digest, which stands for a bundle that nobody opens here."""
    named = NamedVectors(tuple(items), np.array([KNOWN[name] for name in items]), source="vectors.clip/2")
    beside = {"clip": named.beside(items)} if modal else {}
    with torch.random.fork_rng():
        torch.manual_seed(number)
        config = RankerConfig(
            items=len(items), behaviours=1, width=8, heads=2, blocks=1, max_history=4, modalities=TowerConfig.of(beside)
        )
        ranker = Ranker(config).eval()
    if modal:
        ranker.item_table.start(beside)
    fitted = Fitted(ranker, ObjectiveOptions(), {}, Vocabulary(tuple(items)), {}, (), 0, 0.0, 0, 0, PLAIN)
    save_fitted(fitted, home.checkpoints / f"full-{number}" / "fitted")
    digest = f"{number:064x}"
    Ledger.of(home, SETTINGS).record_version(
        VersionRecord(
            version=number, digest=digest, mode="full", parent=None, events_version=0, items_version=0, cutoff_us=0,
            offline_passed=True, metrics={}, run_id="", created=NOW, checkpoint=f"checkpoints/full-{number}/fitted",
            submitter="trainer",
        )
    )  # fmt: skip
    return digest


def crown(home: Home, **shape: Any) -> str:
    digest = version(home, 1, **shape)
    Ledger.of(home, SETTINGS).bootstrap(1, actor="ada", reason="first", now=NOW)
    return digest


def of(home: Home, base: str) -> SideIndex | None:
    in_force = read_in_force(home.side_in_force)
    assert in_force is not None
    digest = in_force.indexes[base]
    return read_side_index(home.side_indexes, digest) if digest else None


def rows_of(index: SideIndex | None) -> dict[str, list[float]]:
    assert index is not None
    return dict(zip(index.ids, index.vector_RD.tolist(), strict=True))


def test_an_index_is_signed_where_releases_are(home: Home, tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    signing = SETTINGS.model_copy(update={"release": ReleaseSettings(signing_key=str(tmp_path / "key"))})
    deliver(home, *(item(name, vector) for name, vector in KNOWN.items()), item("new", [1.0, 0.5]))
    base = crown(home)
    index_new_items(home, signing, now=NOW)
    index = of(home, base)
    assert index is not None
    assert read_side_index(home.side_indexes, index.digest, trusted=[public]).ids == ("new",)
    with pytest.raises(GateRefused, match="not trusted"):
        read_side_index(home.side_indexes, index.digest, trusted=["0" * 64])


def test_items_that_came_later_get_rows(home: Home) -> None:
    deliver(home, *(item(name, vector) for name, vector in KNOWN.items()))
    assert index_new_items(home, SETTINGS, now=NOW) is None  # there is no champion
    base = crown(home)
    deliver(home, item("é", [1.0, 0.5]), item("gone", [1.0, 0.0], available=False), item("mute"))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert (indexed.items, indexed.encoded) == ({base: 1}, 1)
    assert list(rows_of(of(home, base))) == ["é"]
    assert index_new_items(home, SETTINGS, now=NOW) is None


def test_rows_are_made_once_for_each_state_of_an_item(home: Home) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5], day=-2), item("y", [0.5, 1.0], day=-2))
    index_new_items(home, SETTINGS, now=NOW)
    before = rows_of(of(home, base))
    deliver(home, item("z", [1.0, 1.0]), item("y", [0.0, 1.0], day=-1))  # y says something else now
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert (indexed.items, indexed.encoded) == ({base: 3}, 2)
    after = rows_of(of(home, base))
    assert (after["x"], after["y"] == before["y"]) == (before["x"], False)
    deliver(home, item("x", [1.0, 0.5], available=False))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert (indexed.items, indexed.encoded) == ({base: 2}, 0)
    assert list(rows_of(of(home, base))) == ["y", "z"]
    assert len(list(home.side_indexes.iterdir())) == 2  # this one and the one before


def test_a_champion_without_anything_new_has_no_index(home: Home) -> None:
    base = crown(home)
    deliver(home, *(item(name, vector) for name, vector in KNOWN.items()))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert (indexed.items, indexed.encoded, of(home, base)) == ({base: 0}, 0, None)


def test_both_arms_of_a_trial_have_one(home: Home) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5]))
    index_new_items(home, SETTINGS, now=NOW)
    challenger = version(home, 2, items=("a", "b"))
    Ledger.of(home, SETTINGS).open_trial(
        "t1", {"name": "t1"}, challengers=[2], salt="salt", allocation=0.5, actor="flow", now=NOW
    )
    deliver(home, item("c", [1.0, 1.0]))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert indexed.items == {base: 1, challenger: 2}  # the challenger has not learnt c
    assert index_new_items(home, SETTINGS, now=NOW) is None
    Ledger.of(home, SETTINGS).stop_trial("t1", actor="ada", reason="enough", now=NOW)
    assert index_new_items(home, SETTINGS, now=NOW) is None  # the champion's stands


def test_a_failure_leaves_what_is_in_force(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5]))
    index_new_items(home, SETTINGS, now=NOW)
    before = home.side_in_force.read_bytes()
    deliver(home, item("broken", [1.0, 0.5, 0.0], day=-1))
    with pytest.raises(RatchetError, match="full retrain"):
        index_new_items(home, SETTINGS, now=NOW)
    assert home.side_in_force.read_bytes() == before
    deliver(home, item("broken", [1.0, 0.2]))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert indexed.items == {base: 2}


def test_damage_is_made_good(home: Home) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5]))
    index_new_items(home, SETTINGS, now=NOW)
    good = rows_of(of(home, base))
    (folder,) = home.side_indexes.iterdir()
    (folder / "vectors.bin").write_bytes(b"")
    home.side_in_force.write_text("{")
    assert index_new_items(home, SETTINGS, now=NOW) is not None
    assert rows_of(of(home, base)) == good
    (folder / "biases.bin").write_bytes(b"")
    deliver(home, item("y", [0.5, 1.0]))
    indexed = index_new_items(home, SETTINGS, now=NOW)
    assert indexed is not None
    assert (indexed.items, indexed.encoded) == ({base: 2}, 2)


def test_what_begins_later_is_waited_for(home: Home) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5]), item("soon", [0.5, 0.5], day=1), item("x", [1.0, 0.5], day=2, available=False))
    days = (0.0, 0.5, 1.0, 1.5, 2.0)
    indexed = [index_new_items(home, SETTINGS, now=NOW + timedelta(days=day)) for day in days]
    found = [None if each is None else each.items[base] for each in indexed]
    assert found == [1, None, 2, None, 1]  # x; x and soon; soon


def test_only_the_newest_where_there_are_too_many(home: Home) -> None:
    base = crown(home)
    deliver(home, *(item(f"x{n}", [1.0, n], day=n - 9) for n in range(5)))
    stated = SETTINGS.model_dump()
    stated["serving"]["new_items_most"] = 2
    indexed = index_new_items(home, Settings.model_validate(stated), now=NOW)
    assert indexed is not None
    assert list(rows_of(of(home, base))) == ["x3", "x4"]


def test_without_a_modality_an_item_stands_where_its_categories_do(home: Home) -> None:
    base = crown(home, modal=False)
    deliver(home, *(item(name, categories=["hats"]) for name in ("a", "b")), item("c", categories=["shoes"]))
    deliver(home, item("x", categories=["hats", "new"]), item("y", categories=["new"]))
    indexed = index_new_items(home, Settings(), now=NOW)
    assert indexed is not None
    index = of(home, base)
    assert index is not None
    assert [(each.item_id, each.described) for each in index.items] == [("x", False)]
    from model.fitted import load_fitted

    table = load_fitted(home.checkpoints / "full-1" / "fitted").ranker.item_table.weight.detach().numpy()
    np.testing.assert_allclose(index.vector_RD[0], (table[1] + table[2]) / 2, rtol=1e-6)


def test_switched_off_nothing_serves(home: Home) -> None:
    base = crown(home)
    deliver(home, item("x", [1.0, 0.5]))
    index_new_items(home, SETTINGS, now=NOW)
    stated = SETTINGS.model_dump()
    stated["serving"]["new_items"] = False
    off = Settings.model_validate(stated)
    indexed = index_new_items(home, off, now=NOW)
    assert indexed is not None
    assert indexed.items == {}
    assert read_in_force(home.side_in_force).indexes == {}  # type: ignore[union-attr]
    assert index_new_items(home, off, now=NOW) is None
    assert index_new_items(home, SETTINGS, now=NOW) is not None
    assert list(rows_of(of(home, base))) == ["x"]


def test_without_work_no_network_is_loaded(home: Home) -> None:
    crown(home)
    deliver(home, *(item(name, vector) for name, vector in KNOWN.items()))
    code = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from stores.home import Home; from stores.settings import Settings; from tasks.indexing_items import *\n"
        "home = Home.open(Path(sys.argv[1]))\n"
        "first, second = (index_new_items(home, Settings(), now=datetime.now(UTC)) for _ in range(2))\n"
        "assert first is not None and second is None and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(home.root)], check=True, cwd=Path(__file__).parents[2])
