import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.objectives.masked import choose_masked, masked_vector_loss

Rows = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=5)


def packed(windows: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0] + [len(window) for window in windows])
    return torch.tensor([row for window in windows for row in window]), lengths.cumsum(0)


@given(Rows, st.floats(0, 1), st.integers(0, 9))
def test_every_window_hides_whole_runs_and_at_least_one(windows: list[list[int]], share: float, seed: int) -> None:
    row, offsets = packed(windows)
    masked = choose_masked(row, offsets, share=share, seed=seed)
    assert torch.equal(masked, choose_masked(row, offsets, share=share, seed=seed))
    for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        assert masked[a:b].any()
        for n in range(a + 1, b):
            assert row[n] != row[n - 1] or masked[n] == masked[n - 1]
    if share == 0:  # exactly one run of each window
        alone = sum(
            int(masked[n]) and (n == a or row[n] != row[n - 1])
            for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
            for n in range(a, b)
        )
        assert alone == len(windows)
    if share == 1:
        assert masked.all()


def test_the_share_is_met_and_padding_never_hidden() -> None:
    row = torch.arange(1, 20_001)
    row[-1] = 0  # a window of padding alone, as the last of a batch may be
    offsets = torch.tensor([0, 10_000, 19_999, 20_000])
    masked = choose_masked(row, offsets, share=0.2, seed=0)
    assert masked.double().mean().item() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 20_000))
    assert not masked[-1]
    assert not torch.equal(masked, choose_masked(row, offsets, share=0.2, seed=1))


def test_both_sides_are_hidden_alike() -> None:
    """A window's end is hidden as often as its middle: 2,000 windows of 5 at share 0, one position each."""
    row, offsets = torch.arange(1, 6).repeat(2_000), torch.arange(0, 10_001, 5)
    often = choose_masked(row, offsets, share=0.0, seed=3).view(-1, 5).sum(0)
    assert often.sum() == 2_000
    assert (often - 400).abs().max() < 4 * math.sqrt(2_000 * 0.2 * 0.8)


@pytest.mark.parametrize("temperature", [0.5, None])
def test_vectors_value_and_gradient_are_the_plain_loops(temperature: float | None) -> None:
    draw = torch.Generator().manual_seed(0)
    predicted = torch.randn(5, 4, generator=draw, dtype=torch.float64).requires_grad_()
    vectors = torch.randn(6, 4, generator=draw, dtype=torch.float64).requires_grad_()
    with torch.no_grad():
        vectors[3] = 0
        vectors[5] = math.nan
    item = torch.tensor([2, 0, 3, 2, 5])  # 3 and 5 have no vector
    ours = masked_vector_loss(predicted, item, vectors, temperature=temperature)
    cosine = torch.nn.functional.cosine_similarity
    terms = []
    for m in (0, 1, 3):
        near = {v: cosine(predicted[m], vectors[v].detach(), dim=0) for v in (0, 2)}
        own = near[int(item[m])]
        scaled = torch.stack(list(near.values())) / (temperature or 1)
        terms.append(1 - own if temperature is None else scaled.logsumexp(0) - own / temperature)
    theirs = torch.stack(terms).mean()
    torch.testing.assert_close(ours, theirs)
    grad = torch.autograd.grad(ours, predicted)[0]
    torch.testing.assert_close(grad, torch.autograd.grad(theirs, predicted)[0])
    assert torch.autograd.gradcheck(lambda x: masked_vector_loss(x, item, vectors, temperature=temperature), predicted)


def test_no_vector_at_all_is_zero() -> None:
    predicted = torch.ones(2, 3, requires_grad=True)
    for temperature in (0.1, None):
        loss = masked_vector_loss(predicted, torch.tensor([0, 1]), torch.zeros(2, 3), temperature=temperature)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, predicted)[0].abs().sum() == 0
        nothing = masked_vector_loss(
            predicted[:0], torch.tensor([], dtype=torch.int64), torch.ones(2, 3), temperature=1
        )
        assert nothing.item() == 0
