from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective, Negatives
from model.objectives.objective import Losses, Objective
from model.objectives.options import ObjectiveOptions
from model.objectives.packed import windows_of
from model.objectives.rating import RatingLoss
from model.objectives.softmax import full_softmax
from model.options import Loss
from model.windows import Batch

BatchOf = Callable[..., Batch]
NEGATIVES = Negatives(torch.tensor([0, 3, 3, 8]), torch.tensor([0.2, 0.1, 0.1, 0.05]).log())
VECTORS = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))


def objective(width: int = 4, loss: Loss = Loss.FULL, vector_width: int = 0, **chosen: Any) -> Objective:
    return Objective(ObjectiveOptions(**chosen), item=ItemObjective(loss), width=width, vector_width=vector_width)


@pytest.fixture
def batch(batch_of: BatchOf) -> Batch:
    return batch_of([1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11, 12])


def states(network: Any, batch: Batch, **chosen: Any) -> Tensor:
    found: Tensor = network.encode(
        batch.row_N, batch.behaviour_N, batch.age_N, batch.place_N, groups=batch.groups, **chosen
    )
    return found


def same_gradients(ours: Tensor, theirs: Tensor, network: nn.Module) -> None:
    leaves = list(network.parameters())
    for a, b in zip(
        torch.autograd.grad(ours, leaves, allow_unused=True, retain_graph=True),
        torch.autograd.grad(theirs, leaves, allow_unused=True, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def cross_entropy(network: Any, state_TD: Tensor, target_T: Tensor) -> Tensor:
    table, bias = network.catalogue()
    return functional.cross_entropy(state_TD @ table.T + bias, target_T - 1)


def test_the_default_is_the_plain_softmax_bit_for_bit(network: Any, batch: Batch) -> None:
    whole = objective()
    assert not list(whole.parameters())
    assert not whole.state_dict()
    found = whole(network, batch, seed=3)
    plain = full_softmax(
        states(network, batch)[batch.at_T], *network.catalogue(), batch.target_T - 1, weight_N=batch.weight_T
    )
    assert torch.equal(found.total, plain)
    assert {name: part.item() for name, part in found.parts.items()} == {"next_item": plain.item()}
    leaves = list(network.parameters())
    for a, b in zip(
        torch.autograd.grad(found.total, leaves, allow_unused=True),
        torch.autograd.grad(plain, leaves, allow_unused=True),
        strict=True,
    ):
        assert (a is None and b is None) or torch.equal(a, b)
    assert len(network.passes) == 2  # ours, and the one above: nothing else was computed


@pytest.mark.parametrize("loss", list(Loss))
def test_everything_at_once_trains(network: Any, batch: Batch, loss: Loss) -> None:
    """Every part is there, finite, seeded, and gives every parameter that is its own a gradient."""
    whole = objective(
        loss=loss,
        vector_width=5,
        behaviour_weights={"purchase": 3.0},
        behaviour_queries=True,
        behaviour_untold=0.3,
        rating_weight=0.5,
        rating_behaviour="view",
        task_weighting="uncertainty",
        self_supervised=0.3,
        masked_text_weight=1.0,
        adversarial_epsilon=0.1,
        robust="soften",
    )
    whole.start(torch.tensor([1, 1, 5]), torch.tensor([1.0, 3.0, 99.0]))
    assert whole.rating is not None
    assert (whole.rating.mean.item(), whole.rating.std.item()) == (2.0, 1.0)

    def run(seed: int) -> Losses:
        found: Losses = whole(network, batch, seed=seed, negatives=NEGATIVES, vector_VE=VECTORS)
        return found

    found = run(7)
    assert set(found.parts) == {"next_item", "rating", "adversarial", "masked", "masked_text", "contrastive"}
    assert torch.equal(run(7).total, found.total)
    assert not torch.equal(run(8).total, found.total)
    found.total.backward()
    for name, parameter in [*whole.named_parameters(), *network.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_sum_of_parts_by_the_formula(network: Any, batch: Batch) -> None:
    whole = objective(
        rating_weight=0.5, rating_behaviour="view", self_supervised=0.25, masked_weight=2.0, contrastive_weight=0.1
    )
    found = whole(network, batch, seed=0)
    part = {name: value.item() for name, value in found.parts.items()}
    supervised = part["next_item"] + 0.5 * part["rating"]
    own = 2 * part["masked"] + 0.1 * part["contrastive"]
    assert found.total.item() == pytest.approx(0.75 * supervised + 0.25 * own)


def test_masked_items_are_told_from_both_sides(network: Any, batch: Batch) -> None:
    whole = objective(self_supervised=1.0, contrastive_weight=0.0, masked_share=0.4)
    found = whole(network, batch, seed=5)
    asked = network.passes[-1]
    assert not asked["causal"]
    hidden = asked["masked_N"]
    assert hidden[:2].any()
    theirs = cross_entropy(network, states(network, batch, masked_N=hidden, causal=False)[hidden], batch.row_N[hidden])
    torch.testing.assert_close(found.parts["masked"], theirs.detach())
    same_gradients(found.total, theirs + 0 * states(network, batch).sum(), network)  # α = 1: the supervised part is off


def test_a_view_of_no_user_is_no_view(network: Any, batch_of: BatchOf) -> None:
    """The window of padding that carries first events has no part in the contrast, nor is it hidden."""
    whole = objective(self_supervised=0.5, contrastive_weight=1.0)
    batch = batch_of([0], [1, 2, 3], users=[-1, 0])
    found = whole(network, batch, seed=0)
    assert found.parts["contrastive"] == 0  # one user alone has no strangers
    assert not any(asked["masked_N"][0] for asked in network.passes if asked["masked_N"] is not None)


def test_behaviours_as_weights_and_as_tasks(network: Any, batch: Batch) -> None:
    """Views are 1, purchases 5: weighted they are one mean, as tasks each has its own."""
    state, table, bias = states(network, batch)[batch.at_T], *network.catalogue()
    each = functional.cross_entropy(state @ table.T + bias, batch.target_T - 1, reduction="none")
    bought = batch.behaviour_T == 5
    factor = torch.where(bought, 4.0, 1.0)
    weighted = objective(behaviour_weights={"purchase": 4.0})(network, batch, seed=0)
    torch.testing.assert_close(weighted.total, (factor * each).sum() / factor.sum())
    same_gradients(weighted.total, (factor * each).sum() / factor.sum(), network)
    tasks = objective(behaviour_weights={"purchase": 4.0}, behaviour_tasks=True)(network, batch, seed=0)
    theirs = each[~bought].mean() + 4 * each[bought].mean()
    torch.testing.assert_close(tasks.total, theirs)
    same_gradients(tasks.total, theirs, network)
    assert tasks.parts["next_item.cart"] == 0  # none in this batch
    assert "next_item.dislike" not in tasks.parts


def test_a_batch_that_counts_for_nothing(network: Any, batch: Batch) -> None:
    ignored = objective(behaviour_weights={"view": 0.0, "purchase": 0.0})
    total = ignored(network, batch, seed=0).total
    assert total.item() == 0
    assert all(not grad.any() for grad in torch.autograd.grad(total, [network.table, network.bias]))


@pytest.mark.parametrize("kind", list(RatingLoss))
def test_ratings_are_of_the_named_behaviour(network: Any, batch: Batch, kind: RatingLoss) -> None:
    """Only targets of view events with a value count; the head starts at the mean."""
    whole = objective(rating_weight=1.0, rating_behaviour="view", rating_loss=kind)
    found = whole(network, batch, seed=0)
    wanted = batch.value_T[(batch.behaviour_T == 1) & ~batch.value_T.isnan()]
    error = wanted if kind is RatingLoss.HUBER else wanted**2
    each = torch.where(wanted.abs() <= 1, wanted**2 / 2, error - 0.5) if kind is RatingLoss.HUBER else error
    assert found.parts["rating"].item() == pytest.approx(each.mean().item())


def test_the_adversary_moves_items_of_each_window(network: Any, batch: Batch) -> None:
    whole = objective(adversarial_epsilon=0.3, adversarial_weight=0.5)
    found = whole(network, batch, seed=0)
    shift = torch.zeros(len(batch.row_N), 4, requires_grad=True)

    def loss_of(x: Tensor) -> Tensor:
        return cross_entropy(network, states(network, batch, shift_ND=x)[batch.at_T], batch.target_T)

    (slope,) = torch.autograd.grad(loss_of(shift), shift)
    window = windows_of(batch.offsets_B1, positions=len(batch.row_N))
    for b in range(3):
        slope[window == b] *= 0.3 / slope[window == b].norm()
    theirs = loss_of(torch.zeros_like(shift)) + 0.5 * loss_of(slope)
    torch.testing.assert_close(found.total, theirs)
    assert found.parts["adversarial"] > found.parts["next_item"]
    same_gradients(found.total, theirs, network)


def test_truncation_forgets_the_worst_target(network: Any, batch: Batch) -> None:
    state, table, bias = states(network, batch)[batch.at_T], *network.catalogue()
    each = functional.cross_entropy(state @ table.T + bias, batch.target_T - 1, reduction="none")
    found = objective(robust="truncate", robust_share=1.5 / len(each))(network, batch, seed=0)  # ⌊1.5⌋ = 1
    torch.testing.assert_close(found.total, (each.sum() - each.max()) / (len(each) - 1))


def test_what_cannot_be_is_refused(network: Any, batch: Batch) -> None:
    with pytest.raises(ValueError, match="negatives"):
        objective(loss=Loss.GBCE)(network, batch, seed=0)
    with pytest.raises(ValueError, match="text vectors"):
        objective(self_supervised=0.5, masked_text_weight=1.0)


@pytest.mark.parametrize("block", ["softmax", "hstu"])
@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_with_the_ranker_itself(batch: Batch, block: str, temperature: float) -> None:
    """In training; views and hidden positions go through its groups."""
    torch.manual_seed(0)
    config = RankerConfig(
        items=12, behaviours=9, width=8, blocks=1, heads=2, max_history=8, block=block, temperature=temperature
    )
    ranker = Ranker(config).train()
    whole = Objective(
        ObjectiveOptions(
            behaviour_queries=True,
            rating_weight=1.0,
            rating_behaviour="view",
            self_supervised=0.3,
            adversarial_epsilon=0.01,
            robust="soften",
        ),
        item=ItemObjective(Loss.FULL),
        width=8,
        cosine=temperature > 0,
    )
    parameters = [*ranker.parameters(), *whole.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=3e-3)
    totals = []
    for step in range(60):
        found = whole(ranker, batch, seed=step)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        totals.append(found.total.item())
    assert all(torch.isfinite(torch.tensor(totals)))
    assert sum(totals[-10:]) < 0.8 * sum(totals[:10])
    assert ranker.mask_vector.grad is not None
    assert ranker.mask_vector.grad.any()
