import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.objectives.contrastive import Augmentation, augment, nt_xent
from model.windows import Batch

BatchOf = Callable[..., Batch]
Windows = Callable[[Tensor, Batch], list[list[int]]]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_each_window_is_cropped_masked_or_reordered(
    batch_of: BatchOf, windows_in: Windows, lengths: list[int], seed: int
) -> None:
    lengths = sorted(lengths)
    batch = batch_of(*(list(range(100 * b + 1, 100 * b + 1 + length)) for b, length in enumerate(lengths)))
    view = augment(batch, Augmentation(crop=0.6, mask=0.3, reorder=0.6), seed=seed)
    seen = view.batch
    assert len(view.masked_N) == len(seen.row_N) == int(seen.offsets_B1[-1])
    rows, ages, places = (windows_in(x, seen) for x in (seen.row_N, seen.age_N, seen.place_N))
    hidden, before, aged = (
        windows_in(view.masked_N, seen),
        windows_in(batch.row_N, batch),
        windows_in(batch.age_N, batch),
    )
    for b, length in enumerate(lengths):
        old, new = before[b], rows[b]
        assert places[b] == list(range(len(new)))
        assert sum(hidden[b]) in (0, math.floor(0.3 * length))
        if len(new) < length:  # cropped: a run, with its own ages, nothing hidden
            at = old.index(new[0])
            assert new == old[at : at + max(1, math.floor(0.6 * length))]
            assert ages[b] == aged[b][at : at + len(new)]
            assert not any(hidden[b])
        else:
            assert sorted(new) == sorted(old)
            assert ages[b] == aged[b]
            moved = [place for place in range(length) if new[place] != old[place]]
            assert not moved or moved[-1] - moved[0] < math.floor(0.6 * length)
            assert not (moved and any(hidden[b]))
    assert len(seen.target_T) == 0


def test_an_event_moves_with_its_behaviour(batch_of: BatchOf) -> None:
    """A reordering of the whole window: rows and behaviours stay pairs."""
    batch = batch_of(list(range(1, 41)))
    seen = next(
        view.batch
        for seed in range(50)
        if not torch.equal((view := augment(batch, Augmentation(reorder=1.0), seed=seed)).batch.row_N, batch.row_N)
        and len(view.batch.row_N) == 40
    )
    assert torch.equal(seen.behaviour_N, 1 + 4 * ((seen.row_N - 1) % 2))
    assert torch.equal(seen.age_N, batch.age_N)


def test_the_three_are_drawn_alike_and_runs_everywhere(batch_of: BatchOf) -> None:
    batch = batch_of(*([1, 2, 3, 4, 5, 6, 7, 8, 9, 10] for _ in range(3_000)))
    view = augment(batch, Augmentation(crop=0.5, mask=0.5, reorder=0.5), seed=1)
    length = view.batch.offsets_B1.diff()
    cropped = length == 5
    assert ((length == 10) | cropped).all()
    assert cropped.double().mean().item() == pytest.approx(1 / 3, abs=0.04)
    assert view.masked_N.sum().item() == pytest.approx(3_000 / 3 * 5, rel=0.1)
    starts = Counter(view.batch.row_N[view.batch.offsets_B1[:-1][cropped]].tolist())
    assert set(starts) == {1, 2, 3, 4, 5, 6}  # each place a run of 5 of 10 can begin
    assert min(starts.values()) > 1_000 / 6 - 4 * math.sqrt(1_000 / 6)


def test_groups_lay_out_what_is_left(batch_of: BatchOf) -> None:
    """A group's rectangle holds each position at (its window, its place)."""
    batch = batch_of([1, 2], [3, 4, 5], [6, 7, 8, 9, 10, 11, 12, 13, 14])
    for seed in range(12):
        seen = augment(batch, Augmentation(crop=0.3), seed=seed).batch
        group = seen.groups[0]
        assert (group.begin, group.end, group.windows) == (0, len(seen.row_N), 3)
        table = group.pad(seen.row_N[:, None].float(), 1)[:, 0, :, 0]
        for window, (a, b) in enumerate(zip(seen.offsets_B1[:-1], seen.offsets_B1[1:], strict=True)):
            assert table[window, : b - a].tolist() == seen.row_N[a:b].tolist()
            assert table[window, b - a :].sum() == 0


@pytest.mark.parametrize("users", [None, [7, 8, 7, 9]])
def test_nt_xent_is_the_plain_loop(users: list[int] | None) -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(4, 3, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    user = None if users is None else torch.tensor(users)
    ours = nt_xent(first, second, temperature=0.5, user_B=user)
    views = [*first, *second]
    owner = users or [0, 1, 2, 3]
    terms = []
    for i in range(8):
        like = {j: torch.nn.functional.cosine_similarity(views[i], views[j], dim=0) / 0.5 for j in range(8) if j != i}
        partner = (i + 4) % 8
        against = [like[j] for j in like if j == partner or owner[j % 4] != owner[i % 4]]
        terms.append(torch.stack(against).logsumexp(0) - like[partner])
    theirs = torch.stack(terms).mean()
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (first, second)), torch.autograd.grad(theirs, (first, second)), strict=True
    ):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5, user_B=user), (first, second))


def test_one_window_and_none() -> None:
    one = torch.ones(1, 3, requires_grad=True)
    for count in (1, 0):
        loss = nt_xent(one[:count], one[:count] * 2, temperature=0.1)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, one)[0].abs().sum() == 0
