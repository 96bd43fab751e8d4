from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.continual.anchoring import Anchor, empirical_fisher
from model.fitted import Fitted
from model.growth import grow
from model.objectives.next_item import ItemObjective, Negatives
from model.optimizers.building import Optimizers
from model.optimizers.options import Algorithm, OptimizerOptions, Schedule
from model.options import Loss
from model.sequences import Histories
from model.windows import Batch, Corpus, Epoch, tile

FULL = ItemObjective(Loss.FULL)


def weights(*values: float) -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.tensor(values))}


def test_by_hand() -> None:
    """λ = 10, F = (1, .5), θ* = (1, 2), θ = (1.5, 1), 4 targets: 4 · 10 · (1 · .5, .5 · −1) = (20, −20)."""
    named = weights(1.0, 2.0)
    anchor = Anchor.of(named, strength=10.0, fisher={"w": torch.tensor([1.0, 0.5])})
    named["w"].data = torch.tensor([1.5, 1.0])
    named["w"].grad = torch.tensor([1.0, 1.0])
    anchor.pull(named, weight=4.0)
    assert named["w"].grad.tolist() == [21.0, -19.0]


@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(0.1, 50))
@settings(max_examples=20, deadline=None)
def test_it_is_the_gradient_of_the_penalty(seed: int, strength: float, weight: float) -> None:
    """Added to summed gradients and divided by their weight: the mean loss's, and that of λ/2 Σ F (θ − θ*)²."""
    draw = torch.Generator().manual_seed(seed)
    start, theta, fisher, sums = (torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(4))
    named = {"w": nn.Parameter(start)}
    anchor = Anchor.of(named, strength=strength, fisher={"w": fisher.square()})
    named["w"].data = theta.clone()
    named["w"].grad = sums.clone()
    anchor.pull(named, weight=weight)
    leaf = theta.clone().requires_grad_()
    loss = (sums / weight * leaf).sum() + strength / 2 * (fisher.square() * (leaf - start).square()).sum()
    torch.testing.assert_close(named["w"].grad / weight, torch.autograd.grad(loss, leaf)[0])


def test_without_fisher_all_are_as_stiff_and_what_has_no_gradient_stays() -> None:
    named = weights(1.0, 2.0) | {"idle": nn.Parameter(torch.ones(2)), "scalar": nn.Parameter(torch.tensor(3.0))}
    anchor = Anchor.of(named, strength=1.0)
    for name in ("w", "scalar"):
        named[name].data += 1
        named[name].grad = torch.zeros_like(named[name])
    anchor.pull(named, weight=2.0)
    gradients = [None if weight.grad is None else weight.grad.tolist() for weight in named.values()]
    assert gradients == [[2.0, 2.0], None, 2.0]


@pytest.mark.parametrize("with_fisher", [False, True])
def test_sparse_gradients_get_what_dense_ones_get_and_new_rows_are_free(with_fisher: bool) -> None:
    """A table of 4 rows grows to 6; rows 1, 3 and 5 are looked up, row 3 twice."""
    table = torch.arange(8.0).reshape(4, 2)
    fisher = {"t": torch.arange(8.0).reshape(4, 2) / 8} if with_fisher else None
    anchor = Anchor.of({"t": nn.Parameter(table)}, strength=3.0, fisher=fisher)
    moved = torch.cat([table + 1, torch.full((2, 2), 9.0)])
    found = []
    for sparse in (True, False):
        grown = nn.Parameter(moved.clone())
        looked = nn.functional.embedding(torch.tensor([3, 1, 5, 3]), grown, sparse=sparse)
        looked.sum().backward()
        anchor.pull({"t": grown}, weight=2.0)
        assert grown.grad is not None
        assert grown.grad.is_sparse is sparse
        found.append(grown.grad.to_dense() if sparse else grown.grad)
    assert torch.equal(found[0][[1, 3, 5]], found[1][[1, 3, 5]])
    assert found[0][5].tolist() == [1.0, 1.0]
    stiff = fisher["t"][3] if fisher else torch.ones(2)
    assert torch.equal(found[0][3], 2 + 2 * 3 * stiff)  # looked up twice, moved by 1


def test_the_balance_of_two_quadratics() -> None:
    """½·a(θ − b)² + λ/2·F(θ − θ*)², a = 1, b = 4, λF = 2 · ½ and 0, θ* = 0: at 4 / (1 + 1) = 2, and at 4."""
    named = weights(0.0, 0.0)
    anchor = Anchor.of(named, strength=2.0, fisher={"w": torch.tensor([0.5, 0.0])})
    options = OptimizerOptions(
        optimizer=Algorithm.SGD, learning_rate=0.1, weight_decay=0.0, schedule=Schedule.CONSTANT, warm_up=0.0
    )
    optimizers = Optimizers(named, options=options)
    for _ in range(200):
        named["w"].grad = 5 * (named["w"].detach() - 4)  # of five targets
        anchor.pull(named, weight=5.0)
        optimizers.step(0.0, weight=5.0)
    assert named["w"].tolist() == pytest.approx([2.0, 4.0], abs=1e-3)


def test_what_does_not_fit_is_named() -> None:
    anchor = Anchor.of({"t": nn.Parameter(torch.ones(4, 2))}, strength=1.0)
    for shape in ((3, 2), (4, 3)):
        with pytest.raises(ValueError, match=r"t: .* for an anchor of \(4, 2\)"):
            anchor.pull({"t": nn.Parameter(torch.ones(*shape))}, weight=1.0)


@pytest.fixture(scope="module")
def batches(cycle: Histories) -> list[Batch]:
    corpus = Corpus.of(cycle, np.arange(1, 13))
    windows = tile(corpus, length=8, rng=None).keep(np.arange(4))
    rng = np.random.default_rng(0)
    epoch = Epoch.of(corpus, windows, opens_U=np.zeros(40, dtype=bool), batch_tokens=16, rng=rng)
    return [epoch.batch(step) for step in range(len(epoch))]


def each_target(fitted: Fitted, batches: list[Batch]) -> Iterator[dict[str, Tensor]]:
    """Its own gradient, a backward each."""
    ranker = fitted.ranker
    for batch in batches:
        for t in range(batch.targets):
            state = ranker.encode(batch.row_N, batch.behaviour_N, batch.age_N, batch.place_N, groups=batch.groups)
            table, bias = ranker.catalogue()
            logits = state[batch.at_T[t]] @ table.T + bias
            loss = -torch.log_softmax(logits, dim=0)[batch.target_T[t] - 1]
            names, leaves = zip(*ranker.named_parameters(), strict=True)
            yield dict(zip(names, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True))


def test_fisher_is_the_mean_square_of_each_targets_gradient(fitted: Fitted, batches: list[Batch]) -> None:
    """60 passes over the sample: a standard error of at most √(2/60) = 18 % an entry, less for sums over entries."""
    found = empirical_fisher(fitted.ranker, FULL, batches=batches * 60, seed=0)
    count, sums = 0, {name: torch.zeros_like(weight) for name, weight in fitted.ranker.named_parameters()}
    for gradients in each_target(fitted, batches):
        count += 1
        for name, gradient in gradients.items():
            sums[name] += 0 if gradient is None else gradient.square()
    assert count == sum(batch.targets for batch in batches)
    assert found.keys() == {f"ranker.{name}" for name in sums}
    for name, total in sums.items():
        exact = total / count
        assert found[f"ranker.{name}"].sum().item() == pytest.approx(exact.sum().item(), rel=0.25, abs=1e-12)
    exact = sums["item_table.weight"] / count
    near = found["ranker.item_table.weight"]
    assert torch.corrcoef(torch.stack([near.flatten(), exact.flatten()]))[0, 1] > 0.95
    assert not fitted.ranker.training
    assert all(weight.grad is None for weight in fitted.ranker.parameters())


def test_fisher_of_a_sampled_loss_and_of_nothing(fitted: Fitted, batches: list[Batch]) -> None:
    negatives = Negatives(torch.tensor([0, 3, 5]), torch.tensor([0.3, 0.3, 0.4]).log())
    asked: list[int] = []

    def negatives_of(step: int) -> Negatives:
        asked.append(step)
        return negatives

    item = ItemObjective(Loss.SAMPLED)
    found = empirical_fisher(fitted.ranker, item, batches=batches, negatives_of=negatives_of, seed=0)
    assert asked == list(range(len(batches)))
    assert all((tensor >= 0).all() and tensor.isfinite().all() for tensor in found.values())
    with pytest.raises(ValueError, match="of no target"):
        empirical_fisher(fitted.ranker, FULL, batches=[], seed=0)


def test_an_anchored_ranker_that_grows(fitted: Fitted, batches: list[Batch]) -> None:
    """The parent's Fisher knows 12 items, the grown ranker has 13: of that one's row nothing is pulled."""
    fisher = empirical_fisher(fitted.ranker, FULL, batches=batches, seed=0)
    grown = grow(fitted.ranker, items=13, row_N=np.array([1, 13]), user_N=np.zeros(2), modalities={})
    named = {f"ranker.{name}": weight for name, weight in grown.named_parameters()}
    anchor = Anchor.of(named, strength=1.0, fisher=fisher)
    for weight in named.values():
        weight.data += 1
        weight.grad = torch.zeros_like(weight)
    anchor.pull(named, weight=1.0)
    table = named["ranker.item_table.weight"].grad
    assert table is not None
    torch.testing.assert_close(table[:13], fisher["ranker.item_table.weight"], rtol=1e-3, atol=1e-5)
    assert not table[13].any()
