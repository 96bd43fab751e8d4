import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.continual.line_search import RateChoice, choose_rate, newest_new, search_rate
from model.fitted import Fitted
from model.growth import grow
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.optimizers.options import Schedule
from model.options import Loss, TrainOptions
from model.sequences import Histories
from model.windows import Corpus, Epoch, cover
from relations.errors import UsageError

TABLES = ("ranker.item_table.weight",)


def test_the_lowest_loss_wins() -> None:
    """(rate − 2)² at 1, 2 and 4: 1, 0, 4."""
    choice = choose_rate(2.0, loss_after=lambda rate: (rate - 2) ** 2)
    assert choice == RateChoice(2.0, ((1.0, 1.0), (2.0, 0.0), (4.0, 4.0)))
    assert choose_rate(2.0, loss_after=lambda rate: -rate).rate == 4
    assert choose_rate(2.0, loss_after=lambda rate: rate).rate == 1


def test_of_equals_the_stated_rate() -> None:
    assert choose_rate(1e-3, loss_after=lambda _: 1.0).rate == 1e-3


def test_what_diverges_loses_and_all_of_it_is_refused() -> None:
    def loss_after(rate: float) -> float:
        if rate > 1:
            raise UsageError("the loss is not finite")
        return math.nan if rate == 1 else 3.0

    assert choose_rate(1.0, loss_after=loss_after) == RateChoice(0.5, ((0.5, 3.0), (1.0, math.inf), (2.0, math.inf)))
    with pytest.raises(UsageError, match="no finite loss at 2, 4, 8"):
        choose_rate(4.0, loss_after=loss_after)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_newest_are_new_and_later_than_the_rest(times: list[int], share: float) -> None:
    time_N = np.array(times)
    new_N = np.arange(len(times)) % 2 == 0
    newest_N = newest_new(time_N, new_N, share=share)
    assert not (newest_N & ~new_N).any()
    assert newest_N.sum() <= math.ceil(share * new_N.sum())
    if newest_N.any():
        assert time_N[newest_N].min() > time_N[new_N & ~newest_N].max()


def test_newest_by_hand() -> None:
    """Of five new events the newest fifth is one; two at the same last second cannot be parted, and none is left."""
    assert newest_new(np.arange(6), np.array([0, 1, 1, 1, 1, 1], dtype=bool)).tolist() == 5 * [False] + [True]
    assert not newest_new(np.array([1, 1, 1]), np.ones(3, dtype=bool)).any()
    assert not newest_new(np.arange(3), np.zeros(3, dtype=bool)).any()


@pytest.mark.parametrize("loss", [Loss.FULL, Loss.SAMPLED])
def test_a_search_takes_the_better_rate_and_leaves_no_trace(
    cycle: Histories, fitted: Fitted, brief: TrainOptions, histories_of: Callable[..., Histories], loss: Loss
) -> None:
    """The walk now goes backwards, and ten steps at a twentieth of the rate learn less of that than at the rate."""
    rows = [(f"u{u}", f"i{(60 - t) % 12:02d}", "view", 10**9 + 10 * t) for u in range(20) for t in range(12)]
    back = histories_of(rows)
    corpus = Corpus.of(back, fitted.vocabulary.rows(back.items))
    newest_N = newest_new(back.time_N, np.ones(len(back), dtype=bool))
    rng = np.random.default_rng(0)
    options = replace(brief, schedule=Schedule.CONSTANT, warm_up=0.0, loss=loss, negatives=6)
    nobody = np.zeros(20, dtype=bool)
    plan, judged = (
        Epoch.of(corpus, cover(corpus, which_N, length=8), opens_U=nobody, batch_tokens=128, rng=rng)
        for which_N in (~newest_N, newest_N)
    )
    ranker = grow(fitted.ranker, items=12, row_N=corpus.row_N, user_N=back.user_N(), modalities={})
    objective = Objective(ObjectiveOptions(), item=ItemObjective(loss), width=16)
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}

    def search(of: Epoch, judge: Epoch) -> RateChoice:
        return search_rate(
            ranker,
            objective,
            plan=of,
            judged=judge,
            options=options,
            optimizer_state=fitted.optimizer_state,
            tables=TABLES,
            count_V=np.ones(12),
            steps=10,
            factors=(0.05, 1.0),
        )

    found = search(plan, judged)
    assert found.rate == options.learning_rate
    assert [rate for rate, _ in found.tried] == [0.05 * options.learning_rate, options.learning_rate]
    assert search(plan, judged) == found
    assert all(torch.equal(tensor, before[name]) for name, tensor in ranker.state_dict().items())
    nothing = Epoch(corpus, plan.windows, (), ())
    assert search(plan, nothing) == search(nothing, judged) == RateChoice(options.learning_rate)
