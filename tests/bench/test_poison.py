"""Poison and its detection at small size: copies are what they say they are, and most of them are caught."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bench.poison import World, _rows, hunt
from bench.poison_worlds import KINDS, SCHEMA, Poison, cut, marketplace, movielens, poisoned
from relations.errors import DataRejected
from simulation.parameters import Parameters


@pytest.fixture(scope="module")
def days() -> list[pa.Table]:
    """Some 3,000 rows a day."""
    return marketplace(seed=5, days=12, parameters=Parameters(users=2_000, horizon_days=12))


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_poison_has_the_stated_share(days: list[pa.Table], kind: str, added: bool) -> None:
    batch = days[0]
    rows = round(0.1 * batch.num_rows)
    catalogue = sorted(set(batch.column("item_id").to_pylist()))
    bad = poisoned(batch, Poison(kind, 0.1, added), catalogue=catalogue, rng=np.random.default_rng(1))
    assert bad.schema.equals(SCHEMA)
    assert bad.num_rows == batch.num_rows + (rows if added and kind != "label flips" else 0)
    if kind == "label flips":
        changed = pc.not_equal(bad.column("behaviour"), batch.column("behaviour"))
        assert pc.sum(changed).as_py() == rows
    if kind == "bots":
        new = pc.starts_with(bad.column("user"), "bot ")
        assert pc.sum(new).as_py() == rows
        assert pc.count_distinct(bad.column("user").filter(new)).as_py() == 5
    if kind in ("one user", "popularity bomb"):
        column = "user" if kind == "one user" else "item_id"
        assert max(pc.value_counts(bad.column(column)).field(1).to_pylist()) >= rows


def test_unknown_poison_is_refused(days: list[pa.Table]) -> None:
    with pytest.raises(DataRejected, match="arsenic"):
        poisoned(days[0], Poison("arsenic", 0.1, False), catalogue=["i"], rng=np.random.default_rng(1))


def test_a_marketplace_poisoned(days: list[pa.Table]) -> None:
    found = hunt(World("small", days, held_out=True, every=2))
    assert found.clean.caught == 0
    assert found.clean.of == 12 - 1 - 8
    everything = list(found.poison.values())
    assert sum(count.of for count in everything) == 12  # four kinds, three shares, one of the three judged days
    assert sum(count.caught for count in everything) >= 11
    assert [row["holds"] for row in _rows("x", found.clean, found.poison)[:1]] == [True]


@pytest.mark.realdata
def test_movielens_poisoned(realdata: Path) -> None:
    found = hunt(World("MovieLens", cut(movielens(realdata), rows=5_000), held_out=False, every=5))
    assert (found.clean.caught, found.clean.of) == (0, 20 - 1 - 8)
    caught, of = (sum(getattr(count, name) for count in found.poison.values()) for name in ("caught", "of"))
    assert of == 12 * 2
    assert caught >= 23
