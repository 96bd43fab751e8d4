from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.continual.options import Trained
from model.continual.parts import SplitState, only
from model.fitted import Fitted
from model.growth import grow
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.optimizers.building import Optimizers
from model.optimizers.options import OptimizerOptions
from model.options import Loss
from model.sequences import Histories
from model.windows import Batch, Corpus, Epoch, tile
from relations.errors import UsageError

OPTIONS = OptimizerOptions(learning_rate=1e-2)
EMA = OptimizerOptions(learning_rate=1e-2, ema=0.9)


@pytest.fixture(scope="module")
def batch(cycle: Histories) -> Batch:
    corpus = Corpus.of(cycle, np.arange(1, 13))
    windows = tile(corpus, length=8, rng=None).keep(np.arange(3))
    rng = np.random.default_rng(0)
    return Epoch.of(corpus, windows, opens_U=np.zeros(40, dtype=bool), batch_tokens=100, rng=rng).batch(0)


@pytest.fixture
def ranker(fitted: Fitted) -> Ranker:
    """A copy, with one new item."""
    return grow(fitted.ranker, items=13, row_N=np.array([1, 13]), user_N=np.zeros(2), modalities={})


def objective_of(**chosen: Any) -> Objective:
    return Objective(ObjectiveOptions(**chosen), item=ItemObjective(Loss.FULL), width=16)


def named_of(ranker: Ranker, objective: Objective) -> dict[str, nn.Parameter]:
    return dict(nn.ModuleDict({"ranker": ranker, "objective": objective}).named_parameters())


def learn(
    ranker: Ranker, objective: Objective, batch: Batch, state: dict[str, Tensor], options: OptimizerOptions = OPTIONS
) -> dict[str, Tensor]:
    """Three steps from `state`."""
    optimizers = Optimizers(named_of(ranker, objective), options=options)
    optimizers.load_state_tensors(state)
    for step in range(3):
        objective(ranker, batch, seed=step).total.backward()
        optimizers.step(step / 3)
        optimizers.zero_grad()
    optimizers.adopt_average()
    return {name: tensor.clone() for name, tensor in optimizers.state_tensors().items()}


def changed(ranker: Ranker, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in ranker.state_dict().items() if not torch.equal(tensor, before[name])}


def weights_of(ranker: Ranker) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in ranker.state_dict().items()}


def test_all_is_left_alone(ranker: Ranker) -> None:
    objective, needs = objective_of(), [weight.requires_grad for weight in ranker.parameters()]
    with only(ranker, objective, trained=Trained.ALL, rank=8, seed=0):
        assert [weight.requires_grad for weight in ranker.parameters()] == needs


@pytest.mark.parametrize("trained", [Trained.ITEMS, Trained.LORA])
def test_only_these_parts_move(ranker: Ranker, batch: Batch, trained: Trained) -> None:
    objective = objective_of(behaviour_queries=True)
    before, heads = weights_of(ranker), {name: w.clone() for name, w in objective.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in before.items()}
    needs = {name: weight.requires_grad for name, weight in ranker.named_parameters()}
    with only(ranker, objective, trained=trained, rank=2, seed=0):
        learn(ranker, objective, batch, {})
    moved = {"item_table.weight", "item_bias"}
    if trained is Trained.LORA:
        layers = ("query", "key_value", "out", "widen", "narrow")
        moved |= {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in layers}
    assert changed(ranker, before) == moved
    assert all(torch.equal(tensor, heads[name]) for name, tensor in objective.state_dict().items())
    # as plain as it was
    assert {name: tensor.shape for name, tensor in ranker.state_dict().items()} == shapes
    assert {name: weight.requires_grad for name, weight in ranker.named_parameters()} == needs
    assert all(type(layer) is nn.Linear for layer in ranker.modules() if isinstance(layer, nn.Linear))
    for name in moved & {name for name in before if name.startswith("blocks")}:
        assert torch.linalg.matrix_rank(ranker.state_dict()[name] - before[name], rtol=1e-3) == 2


def test_merged_it_answers_as_it_did_beside(ranker: Ranker, batch: Batch) -> None:
    def states() -> Tensor:
        return ranker.encode(batch.row_N, batch.behaviour_N, batch.age_N, batch.place_N, groups=batch.groups)

    at_first = states()
    with only(ranker, objective_of(), trained=Trained.LORA, rank=2, seed=0):
        assert torch.equal(states(), at_first)  # a new addition is nothing
        learn(ranker, objective_of(), batch, {})
        beside = states()
    torch.testing.assert_close(states(), beside, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(beside, at_first, atol=1e-3)


def test_the_seed_decides(ranker: Ranker, fitted: Fitted) -> None:
    drawn = []
    for seed in (0, 0, 1):
        with only(ranker, objective_of(), trained=Trained.LORA, rank=2, seed=seed):
            drawn.append([w.clone() for name, w in ranker.named_parameters() if "down_RI" in name])
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])


@pytest.mark.parametrize("options", [OPTIONS, EMA])
@pytest.mark.parametrize("trained", [Trained.ITEMS, Trained.LORA])
def test_the_next_increment_goes_on(ranker: Ranker, batch: Batch, trained: Trained, options: OptimizerOptions) -> None:
    """All, a part, all again: the frozen weights' state waits, and a moving average does not undo what was merged."""
    objective = objective_of()
    whole = learn(ranker, objective, batch, {}, options)
    with only(ranker, objective, trained=trained, rank=2, seed=0):
        split = SplitState.of(whole, named_of(ranker, objective))
        found = learn(ranker, objective, batch, split.used, options)
    after = split.joined(found)
    waited = "ranker.blocks.0.query.weight/exp_avg"
    assert waited in split.kept
    assert torch.equal(after[waited], whole[waited])
    assert after["ranker.item_bias/step"] == whole["ranker.item_bias/step"] + 3
    left_out = {f"ranker.{name}/ema" for name in ranker.state_dict() if name.endswith("weight") and "blocks" in name}
    left_out = {name for name in left_out if "norm" not in name and trained is Trained.LORA}
    assert after.keys() == whole.keys() - left_out
    before = weights_of(ranker)
    optimizers = Optimizers(named_of(ranker, objective), options=options)
    optimizers.load_state_tensors(after)
    if trained is Trained.LORA:
        optimizers.adopt_average()
        assert not any("query" in name for name in changed(ranker, before))
    learn(ranker, objective, batch, after, options)


def test_a_broken_training_leaves_a_plain_ranker(ranker: Ranker) -> None:
    names = list(ranker.state_dict())
    with (
        pytest.raises(RuntimeError, match="killed"),
        only(ranker, objective_of(), trained=Trained.LORA, rank=2, seed=0),
    ):
        raise RuntimeError("killed")
    assert sorted(ranker.state_dict()) == sorted(names)


def test_a_rank_of_nothing_is_refused(ranker: Ranker) -> None:
    with (
        pytest.raises(UsageError, match="lora_rank = 0"),
        only(ranker, objective_of(), trained=Trained.LORA, rank=0, seed=0),
    ):
        pass
