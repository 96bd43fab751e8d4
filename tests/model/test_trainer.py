"""What a training does beside learning: sums, stops, memory, early stopping, odd data."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import gradients, trainer
from model.evaluation import RankerRecommender, evaluate
from model.fit import fit_full
from model.fitted import Fitted
from model.gradients import Gradients
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Losses, Objective
from model.objectives.options import ObjectiveOptions
from model.options import Loss, NetworkOptions, Precision, TrainOptions
from model.sequences import Histories, split_by_time
from model.trainer import Step
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected, DependencyFailed, UsageError

Make = Callable[..., Histories]
GOLDEN = (2.4896512, 2.4908514, 2.4821434)


class Setting:
    """A network without dropout, its loss, and two epochs of the same windows: in one batch and in many."""

    def __init__(self, histories: Histories, options: TrainOptions, loss: Loss = Loss.FULL) -> None:
        torch.manual_seed(0)
        config = RankerConfig(items=12, behaviours=9, width=8, blocks=1, max_history=8, dropout=0.0, block="hstu")
        self.ranker = Ranker(config)
        self.objective = Objective(ObjectiveOptions(), item=ItemObjective(loss), width=8)
        self.options = replace(options, loss=loss, negatives=6)
        self.corpus = Corpus.of(histories, np.arange(1, 13))
        self.windows = tile(self.corpus, length=8, rng=np.random.default_rng(0))

    def epoch(self, tokens: int) -> Epoch:
        rng = np.random.default_rng(0)
        return Epoch.of(self.corpus, self.windows, opens_U=None, batch_tokens=tokens, rng=rng)

    def gradients(self, objective: nn.Module | None = None) -> Gradients:
        return Gradients(
            self.ranker,
            objective or self.objective,  # type: ignore[arg-type]
            options=self.options,
            count_V=np.ones(12),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    def mean(self, weight: float) -> dict[str, Tensor]:
        """Gradients as a step takes them; they are gone then."""
        found = {name: p.grad / weight for name, p in self.ranker.named_parameters() if p.grad is not None}
        self.ranker.zero_grad()
        return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture
def setting(cycle: Histories, brief: TrainOptions) -> Setting:
    return Setting(cycle, brief)


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("weighted", [False, True])
def test_many_batches_of_a_step_are_one_big_batch(
    cycle: Histories, brief: TrainOptions, loss: Loss, weighted: bool
) -> None:
    if weighted:
        weight_N = np.random.default_rng(0).integers(0, 4, size=len(cycle)).astype(np.float32) / 2
        cycle = replace(cycle, weight_N=weight_N)
    setting = Setting(cycle, brief, loss)
    whole, parts = setting.epoch(10**6), setting.epoch(64)
    assert (len(whole), len(parts) > 5) == (1, True)
    one = setting.gradients()(whole, [0], step=3)
    expected = setting.mean(one.weight)
    many = setting.gradients()(parts, range(len(parts)), step=3)
    assert (many.targets, many.tokens - one.tokens, many.weight) == (one.targets, len(parts) - 1, one.weight)
    assert many.loss == pytest.approx(one.loss, abs=1e-6)
    assert many.parts["next_item"] == pytest.approx(one.parts["next_item"], abs=1e-6)
    same(setting.mean(many.weight), expected)


@pytest.mark.parametrize("loss", [Loss.SAMPLED, Loss.GBCE])
@pytest.mark.parametrize("stated", [{}, {"self_supervised": 0.5}])
def test_a_sparse_gradient_is_the_dense_one(
    cycle: Histories, brief: TrainOptions, loss: Loss, stated: dict[str, float]
) -> None:
    setting = Setting(cycle, brief, loss)
    setting.objective = Objective(ObjectiveOptions(**stated), item=setting.objective.item, width=8)  # type: ignore[arg-type]
    plan, table = setting.epoch(64), setting.ranker.item_table
    dense = setting.gradients()(plan, [0, 1], step=0)
    expected = setting.mean(dense.weight)
    table.sparse = True
    sparse = setting.gradients()(plan, [0, 1], step=0)
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    touched = {int(row) for n in (0, 1) for row in (*plan.batch(n).row_N, *plan.batch(n).target_T)}
    assert touched <= set(table.weight.grad.coalesce().indices()[0].tolist())
    table.weight.grad = table.weight.grad.to_dense()
    assert sparse.loss == pytest.approx(dense.loss, abs=1e-6)
    same(setting.mean(sparse.weight), expected)


@pytest.mark.parametrize("algorithm", ["adagrad", "rowwise_adagrad", "ftrl"])
def test_training_with_sparse_gradients_gives_the_same_losses(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, algorithm: str
) -> None:
    training = replace(brief, epochs=1, loss=Loss.SAMPLED, negatives=6, embedding_optimizer=algorithm)
    traces = [
        [loss for _, loss in fit_full(cycle, network=tiny, training=replace(training, sparse=sparse)).losses]
        for sparse in ("dense", "sparse")
    ]
    assert traces[1] == pytest.approx(traces[0], abs=1e-5)


class Hungry(nn.Module):
    """Runs out of memory above so many positions, after it has left gradients behind."""

    def __init__(self, objective: Objective, most: int, error: Exception) -> None:
        super().__init__()
        self.objective, self.most, self.error, self.sizes = objective, most, error, list[int]()

    def forward(self, ranker: Ranker, batch: Any, **how: Any) -> Losses:
        self.sizes.append(batch.tokens)
        found: Losses = self.objective(ranker, batch, **how)
        if batch.tokens > self.most:
            found.total.backward()
            raise self.error
        return found


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_too_little_memory_is_answered_with_smaller_pieces(setting: Setting, error: Exception) -> None:
    plan = setting.epoch(200)
    expected = [(setting.gradients()(plan, [n], step=n), setting.mean(1.0)) for n in (0, 1)]
    hungry = Hungry(setting.objective, 60, error)
    careful = setting.gradients(hungry)
    for n, (sums, gradient) in enumerate(expected):
        found = careful(plan, [n], step=n)
        assert found.loss == pytest.approx(sums.loss, abs=1e-6)
        same(setting.mean(found.weight), {name: g / sums.weight for name, g in gradient.items()})
    # 200 positions fit in quarters of at most 60: the whole is tried once, and perhaps a half; never again afterwards
    assert 1 <= sum(size > 60 for size in hungry.sizes) <= 3
    with pytest.raises(DependencyFailed, match="one user's window does not fit"):
        setting.gradients(Hungry(setting.objective, 0, error))(plan, [0], step=0)
    with pytest.raises(RuntimeError, match="something else"):
        setting.gradients(Hungry(setting.objective, 0, RuntimeError("something else")))(plan, [0], step=0)


def test_a_loss_that_is_not_finite_names_its_batch(setting: Setting) -> None:
    setting.ranker.item_bias.data.fill_(torch.nan)
    plan = setting.epoch(64)
    user = min(user for user in plan.batch(2).user_B.tolist() if user >= 0)
    with pytest.raises(UsageError, match=rf"not finite at step 8 \(batch 2 of its epoch: .* users number \[{user},"):
        setting.gradients()(plan, [2], step=7)


def test_a_step_with_nothing_to_learn_is_left_out(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    """Half the users weigh nothing, and batches of one window hold one user each."""
    once = replace(brief, epochs=1, batch_tokens=8, ema=0.9)
    weight_N = (cycle.user_N() % 2).astype(np.float32)
    told: list[Step] = []
    found = fit_full(replace(cycle, weight_N=weight_N), network=tiny, training=once, on_step=told.append)
    whole = fit_full(cycle, network=tiny, training=once)
    assert 0 < found.steps < whole.steps
    assert all(step.targets > 0 and np.isfinite(step.loss) for step in told)
    with pytest.raises(DataRejected, match="every target weighs 0"):
        fit_full(replace(cycle, weight_N=np.zeros(len(cycle), np.float32)), network=tiny, training=once)


def test_the_golden_trace(cycle: Histories, brief: TrainOptions) -> None:
    """Plain float32 on one thread of a CPU, dropout 0: a change of these numbers changes what is learnt."""
    network = NetworkOptions(width=8, blocks=1, heads=2, max_history=8, dropout=0.0, block="softmax")
    found = fit_full(cycle, network=network, training=replace(brief, epochs=1, batch_tokens=256))
    assert [loss for _, loss in found.losses[:3]] == pytest.approx(GOLDEN, abs=2e-5)


def test_bfloat16_learns_as_well(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    training = replace(brief, epochs=6)
    exact, rough = (
        fit_full(cycle, network=tiny, training=replace(training, precision=precision)).losses
        for precision in (Precision.FLOAT32, Precision.BFLOAT16)
    )
    last = [np.mean([loss for _, loss in losses[-5:]]) for losses in (exact, rough)]
    assert last[1] == pytest.approx(last[0], rel=0.05)
    assert last[1] < 0.7 * rough[0][1]


def test_progress_is_told_as_it_is(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    told: list[Step] = []
    epochs: list[tuple[int, bool]] = []
    training = replace(brief, epochs=2, batch_tokens=64, accumulate=3)
    found = fit_full(
        cycle,
        network=tiny,
        training=training,
        on_step=told.append,
        on_epoch=lambda n, ranker: epochs.append((n, ranker.training)),
    )
    assert [step.step for step in told] == list(range(1, found.steps + 1))
    assert told[0].total == pytest.approx(found.steps, abs=1)  # another epoch may be a batch longer
    assert told[-1].total == found.steps
    assert [(n, loss) for n, loss in found.losses] == [(step.step, step.loss) for step in told]
    assert all(step.parts == {"next_item": pytest.approx(step.loss)} for step in told)
    assert (np.diff([step.targets for step in told]) > 0).all()
    assert told[-1].targets == found.targets == 2 * len(cycle)  # every event, the first of each user included
    assert epochs == [(1, False), (2, False)]


def test_clipping_bounds_a_step(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    """SGD at rate 1 without momentum moves by the gradient: by at most .01 in each of the steps."""
    plain = replace(brief, epochs=1, optimizer="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warm_up=0.0)
    start, end = (
        fit_full(cycle, network=tiny, training=training).ranker.state_dict()
        for training in (replace(plain, learning_rate=1e-30), replace(plain, clip_norm=0.01))
    )
    moved = sum(float((end[name] - start[name]).square().sum()) for name in start) ** 0.5
    steps = fit_full(cycle, network=tiny, training=plain).steps
    assert 0 < moved <= 0.01 * steps * 1.001


class Scripted:
    """A judge whose answers are written down; remembers the weights that it saw."""

    def __init__(self, *answers: float) -> None:
        self.answers, self.seen = list(answers), list[dict[str, Tensor]]()

    def __call__(self, ranker: Ranker) -> float:
        self.seen.append({name: tensor.clone() for name, tensor in ranker.state_dict().items()})
        return self.answers[len(self.seen) - 1]


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_early_stopping_keeps_the_best_epoch_whole(setting: Setting, ema: float) -> None:
    """Weights, moments and moving average are those of the second epoch; the training ends two epochs after it."""
    judge = Scripted(0.1, 0.5, 0.5, 0.2, 9.9)
    options = replace(setting.options, epochs=9, patience=2, ema=ema)

    def run(**how: Any) -> trainer.Outcome:
        return trainer.train(
            setting.ranker,
            setting.objective,
            epoch_of=lambda _: setting.epoch(64),
            options=how.pop("options", options),
            optimizer_state=None,
            count_V=np.ones(12),
            fingerprint="",
            **how,
        )

    found = run(validate=judge)
    assert len(judge.seen) == 4
    assert found.steps == 4 * len(setting.epoch(64))
    for name, tensor in setting.ranker.state_dict().items():
        assert torch.equal(tensor, judge.seen[1][name])
    step = found.optimizer_state["ranker.item_bias/step"]
    assert int(step) == 2 * len(setting.epoch(64))
    if ema:
        for name, weight in setting.ranker.named_parameters():
            if weight.requires_grad:
                assert torch.equal(found.optimizer_state[f"ranker.{name}/ema"], weight)


def test_early_stopping_needs_something_to_judge_on(
    histories_of: Make, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    alone = histories_of([("u", "a", "view", 1)])
    with pytest.raises(DataRejected, match="patience = 1: the newest tenth of 1 events"):
        fit_full(alone, network=tiny, training=replace(brief, patience=1))
    disliked = histories_of(
        [*(("u", f"i{n}", "view", n) for n in range(20)), *(("u", "x", "dislike", 30 + n) for n in (0, 1))]
    )
    with pytest.raises(DataRejected, match="nothing to judge on"):
        fit_full(disliked, network=tiny, training=replace(brief, patience=1))


ODD: dict[str, list[tuple[str, str, str, int]]] = {
    "one event": [("u", "a", "view", 1)],
    "one user": [("u", item, "view", n) for n, item in enumerate("abcab")],
    "one item": [(f"u{n % 5}", "a", "view", n) for n in range(20)],
    "all ties": [(f"u{n % 5}", "abc"[n % 3], "view", 7) for n in range(30)],
    "no successor": [(f"u{n}", "ab"[n % 2], "view", n) for n in range(10)],
    "other alphabets": [("ü", "日本", "view", 1), ("ü", "😀", "view", 2), ("", "\u0000", "view", 3)],
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("loss", list(Loss))
def test_odd_data_trains(histories_of: Make, tiny: NetworkOptions, brief: TrainOptions, case: str, loss: Loss) -> None:
    h = histories_of(ODD[case])
    found = fit_full(h, network=tiny, training=replace(brief, epochs=1, loss=loss, negatives=4))
    assert found.steps >= 1
    assert all(bool(weight.isfinite().all()) for weight in found.ranker.state_dict().values())
    with torch.inference_mode():
        nothing = torch.zeros((1, 1), dtype=torch.int64)
        assert found.ranker(nothing, nothing, nothing).isfinite().all()


def test_a_user_with_100_000_events_trains(brief: TrainOptions) -> None:
    count = 100_000
    item_N = np.random.default_rng(0).integers(0, 20, size=count)
    ids = [np.array(names, dtype=object) for names in (["u"], [f"i{n:02d}" for n in range(20)])]
    h = Histories(*ids, item_N, np.ones(count, dtype=np.int64), np.arange(count) * 10**6, np.array([0, count]))
    seen: list[Step] = []

    class Enough(Exception):  # noqa: N818 -- not an error
        pass

    def three(step: Step) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise Enough

    with pytest.raises(Enough):
        fit_full(h, network=NetworkOptions(width=8, blocks=1), training=replace(brief, epochs=1), on_step=three)
    assert seen[0].total == pytest.approx(count / 100, rel=0.02)  # two windows of 50 positions a step


def test_items_never_seen_are_missed_not_an_error(fitted: Fitted, histories_of: Make) -> None:
    rows = [(f"u{n}", f"i{(n + t) % 12:02d}", "view", t) for n in range(5) for t in range(4)]
    split = split_by_time(histories_of([*rows, ("u0", "never", "view", 99)]), cutoff_us=50 * 10**6)
    found = evaluate(RankerRecommender.of(fitted), split.holdout)
    assert found.rank_R.tolist() == [0]
    assert found.overall["ndcg@10"] == 0
    nothing = evaluate(RankerRecommender.of(fitted), split_by_time(histories_of(rows), cutoff_us=50 * 10**6).holdout)
    assert (len(nothing), nothing.overall["ndcg@10"]) == (0, 0)


def test_seeds_of_steps_differ_by_process() -> None:
    assert gradients.seed_of(1, 2) == gradients.seed_of(1, 2, 0)
    assert len({gradients.seed_of(1, step, rank) for step in range(5) for rank in range(3)}) == 15
