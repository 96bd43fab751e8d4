"""Poisoned increments at small size, on a simulated log: what is stopped is poison, and clean ones pass."""

import numpy as np
import pyarrow as pa
import pytest

from bench.forgetting import FULLY, SHUFFLED, World, champion_of, run, spoilt
from bench.poison_worlds import SCHEMA, marketplace
from model.options import Device, NetworkOptions, TrainOptions
from relations.errors import UsageError
from simulation.parameters import Parameters

ROWS = 400
NETWORK = NetworkOptions(width=16, blocks=1, heads=1, max_history=10)
TRAINING = TrainOptions(epochs=6, batch_tokens=800, learning_rate=1e-2, device=Device.CPU, threads=1)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    parameters = Parameters(users=300, items=60, topics=4, subtopics_per_topic=2, horizon_days=8)
    return pa.concat_tables(marketplace(seed=5, days=8, parameters=parameters))


@pytest.fixture(scope="module")
def world(log: pa.Table) -> World:
    return champion_of(log, base=len(log) // 2, share=0.3, network=NETWORK, training=TRAINING)


def test_the_champion_has_not_met_the_panel(log: pa.Table, world: World) -> None:
    panel = set(world.cohorts.holdout.histories.users)
    assert panel
    assert not panel & set(world.past.users)
    assert not panel & set(world.later.column("user").to_pylist())


def test_poison_is_what_it_says(world: World) -> None:
    batch, rng = world.later.slice(0, ROWS), np.random.default_rng(0)
    whole = spoilt(batch, FULLY, 0, catalogue=world.catalogue, rng=rng)
    items = [sorted(each.column("item_id").to_pylist()) for each in (whole, batch)]
    assert items[0] == items[1]  # the same items, on other rows
    assert not whole.equals(batch)
    for kind in ("bots", "popularity bomb", SHUFFLED):
        bad = spoilt(batch, kind, 100, catalogue=world.catalogue, rng=rng)
        assert bad.schema.equals(SCHEMA)
        assert len(bad) == ROWS + 100


def test_clean_increments_pass_and_shuffled_ones_do_not(world: World) -> None:
    rows = {row["name"].partition(" (")[0]: row for row in run(repetitions=2, world=world, rows=ROWS)}
    assert rows["clean increments, passed"]["measured"] == 100.0


def test_other_data_is_refused() -> None:
    with pytest.raises(UsageError, match="MovieLens 100k"):
        run(None)
