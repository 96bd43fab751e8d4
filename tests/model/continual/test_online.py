"""Online steps on a small walk: same input same bits, only rows that were seen change, and what is new is learnt."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.continual.online import OnlineOptions, OnlineStep, _plan, begin, changed_rows, online_step, weights_of
from model.fitted import Fitted
from model.options import TrainOptions
from model.sequences import Histories, merge
from model.windows import Corpus
from relations.errors import DataRejected, UsageError

Make = Callable[..., Histories]
FAST = OnlineOptions(learning_rate=0.05, batch_events=8, negatives=6, replay_share=0.0)


@pytest.fixture(scope="module")
def news(cycle: Histories, histories_of: Make) -> Histories:
    """From now on i00 is followed by i05 and that by i00, for users who are known and a new one."""
    later = int(cycle.time_N.max() // 1_000_000)
    walk = ["i00", "i05", "i00", "i05", "i00"]
    return histories_of([(f"u{u:02d}", i, "view", later + 9 * t) for u in range(36, 41) for t, i in enumerate(walk)])


def take(
    parent: Fitted, base: Fitted, new: Histories, past: Histories, brief: TrainOptions, options: OnlineOptions = FAST
) -> OnlineStep:
    return online_step(parent, base=base, new=new, past=past, options=options, training=brief)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "ftrl", "rowwise_ftrl"])
def test_steps_repeat_to_the_bit_and_leave_the_parent(
    optimizer: str, cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions
) -> None:
    digest = fitted.digest
    options = replace(FAST, optimizer=optimizer)  # type: ignore[arg-type]
    first, again = (take(begin(fitted), fitted, news, cycle, brief, options) for _ in range(2))
    assert fitted.digest == digest != first.fitted.digest == again.fitted.digest
    kind = {"rowwise_adagrad": "row_sum", "ftrl": "n", "rowwise_ftrl": "row_n"}[optimizer]
    assert f"ranker.item_table.weight/{kind}" in first.fitted.optimizer_state  # the next step goes on with it
    second = take(first.fitted, fitted, news, cycle, brief, options)
    held, grown = (s.fitted.optimizer_state[f"ranker.item_table.weight/{kind}"] for s in (first, second))
    assert (grown >= held).all()
    assert bool((grown > held).any())
    assert all(weight.requires_grad for weight in second.fitted.ranker.parameters())


def test_only_rows_that_were_seen_change_and_the_body_stays(
    cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions
) -> None:
    """One new user, no replay: of the past the network sees nothing, so two items of twelve change."""
    only = news.keep(np.isin(news.users, ["u40"])[news.user_N()])
    step = take(begin(fitted), fitted, only, cycle.keep(np.zeros(len(cycle), dtype=bool)), brief)
    rows = fitted.vocabulary.rows(["i00", "i05"])
    assert changed_rows(step.fitted, base=fitted).tolist() == sorted(rows.tolist())
    before, after = weights_of(fitted), weights_of(step.fitted)
    assert all(np.array_equal(before.body[name], after.body[name]) for name in before.body)
    moved = take(begin(fitted), fitted, only, cycle, brief, replace(FAST, body_learning_rate=0.01))
    after = weights_of(moved.fitted)
    assert not all(np.array_equal(before.body[name], after.body[name]) for name in before.body)


def test_what_is_new_is_learnt(cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions) -> None:
    """After i00 came i01; the stream says i05, and a few steps over it say so too."""
    now, past = begin(fitted), cycle

    def odds(model: Fitted) -> float:
        row = torch.from_numpy(model.vocabulary.rows(["i11", "i00"]))[None]
        with torch.inference_mode():
            scores = model.ranker(row, torch.ones_like(row), torch.tensor([[100, 9]]))[0]
        wanted, former = model.vocabulary.rows(["i05", "i01"]) - 1
        return float(scores[wanted] - scores[former])

    before = odds(now)
    losses = []
    for _ in range(6):
        step = take(now, fitted, news, past, brief)
        now = step.fitted
        losses.append(step.log_loss)
    assert odds(now) > before + 1
    assert losses[-1] < losses[0]


def test_each_event_is_asked_about_before_it_is_learnt(
    cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions
) -> None:
    first = take(begin(fitted), fitted, news, cycle, brief).prequential
    # five users of two items; those who have met neither are few, and the new one has met none: two rows
    assert np.array_equal(first.ndcg_R, first.base_ndcg_R)  # the parent is the base still
    assert set(first.user_R) <= set(news.users)
    assert (first.user_R == "u40").sum() == 2
    assert np.array_equal(first.hit_R, first.ndcg_R > 0)


def test_batches_follow_time_and_hold_each_new_target_once(
    cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions
) -> None:
    histories, new_N = merge(cycle, news)
    corpus = Corpus.of(histories, fitted.vocabulary.rows(histories.items))
    options = replace(FAST, batch_events=4, replay_share=0.5)
    plan = _plan(corpus, new_N, options=options, length=8, seed=1)
    wanted = int(((corpus.next_N[:-1] > 0) & new_N[1:]).sum())
    trained, newest = [], []
    for batch, windows in enumerate(plan.plan):
        targets = []
        for window in windows:
            at = np.arange(plan.windows.train_W[window], plan.windows.end_W[window])
            targets += [event + 1 for event in at if corpus.next_N[event] > 0]
        fresh = [event for event in targets if new_N[event]]
        trained += fresh
        newest.append(max((corpus.time_N[event] for event in fresh), default=newest[-1] if batch else 0))
        assert not fresh or len(targets) > len(fresh)  # something is replayed beside
    assert newest == sorted(newest)
    assert len(trained) == len(set(trained)) == wanted
    assert not any(len(users) for users in plan.firsts)  # the padding row stays


def test_items_that_the_base_does_not_know_wait(
    cycle: Histories, fitted: Fitted, histories_of: Make, brief: TrainOptions
) -> None:
    new = histories_of([("u99", "ny", "view", 10**6), ("u99", "äu", "view", 10**6 + 1)])
    parent = begin(fitted)
    step = take(parent, fitted, new, cycle, brief)
    assert step.fitted is parent
    assert step.targets == 0
    assert step.prequential.ndcg_R.tolist() == [0.0, 0.0]  # misses of both
    with pytest.raises(DataRejected, match="none is new"):
        take(parent, fitted, new.keep(np.zeros(2, dtype=bool)), cycle, brief)


def test_refusals_name_key_and_remedy(cycle: Histories, fitted: Fitted, news: Histories, brief: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"\[online\] optimizer = adamw is none of"):
        OnlineOptions(optimizer="adamw")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"replay_share = 1\.0"):
        OnlineOptions(replay_share=1.0)
    with pytest.raises(UsageError, match=r"dp_clip"):
        take(begin(fitted), fitted, news, cycle, replace(brief, dp_clip=1.0))
    with pytest.raises(UsageError, match="not finite"):
        take(begin(fitted), fitted, news, cycle, brief, replace(FAST, learning_rate=1e30))
