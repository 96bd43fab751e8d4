"""Learning online: θ ← θ − η∇ℓ over the newest events, once, in their order, and the model is asked before it is told.

A step goes on from the last one's weights and accumulators. Rows of the item table and the items' biases are trained
by row-wise Adagrad or FTRL (`model.optimizers`), which keep their state from step to step; the body by plain SGD, or
not at all. The loss is sampled, and negatives are drawn among the items of the stream and of what is replayed beside
it, so that a step changes the rows that it has seen and no others: what is published is small.

Testing each event before it is trained on is prequential evaluation (Dawid, JRSS A 1984; progressive validation in
McMahan et al., Ad Click Prediction, KDD 2013, section 5.1).

Shapes: N events, R rows of a test, C changed rows, V items.
"""

import copy
import hashlib
from dataclasses import dataclass, replace

import numpy as np
from torch.nn import functional

from model.evaluation import Evaluation, RankerRecommender, evaluate
from model.fit import fitted_of, loss_of, trusted
from model.fitted import Fitted
from model.machine import seeded_threads
from model.network.ranker import Ranker, materialised
from model.optimizers.options import Algorithm, Schedule, TableAlgorithm
from model.options import Loss, TrainOptions
from model.sequences import Histories, Holdout, merge, split_by_time
from model.trainer import BIAS, TABLE, train
from model.windows import Corpus, Epoch, Windows, cover
from relations.errors import DataRejected, UsageError

BY_ROW = (TableAlgorithm.ROWWISE_ADAGRAD, TableAlgorithm.FTRL, TableAlgorithm.ROWWISE_FTRL)


@dataclass(frozen=True)
class OnlineOptions:
    """The same names as in `[online]` of `ratchet.toml`."""

    optimizer: TableAlgorithm = TableAlgorithm.ROWWISE_ADAGRAD
    """Of the item table and the items' biases: rowwise_adagrad, ftrl or rowwise_ftrl."""
    learning_rate: float = 1e-3
    """Of rows and biases; for FTRL its α."""
    body_learning_rate: float = 0.0
    """Of everything else, by SGD; 0: it stays as it is, and only rows are published."""
    batch_events: int = 128
    """New events in one gradient step."""
    negatives: int = 256
    """Drawn in a step."""
    replay_share: float = 0.2
    """Share of the targets trained on that come from before."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", TableAlgorithm(self.optimizer))
        _demand(self.optimizer in BY_ROW, "optimizer", self.optimizer, f"is none of {', '.join(BY_ROW)}")
        _demand(self.learning_rate > 0, "learning_rate", self.learning_rate, "is not above 0")
        _demand(self.body_learning_rate >= 0, "body_learning_rate", self.body_learning_rate, "is below 0")
        _demand(self.batch_events >= 1, "batch_events", self.batch_events, "is below 1")
        _demand(self.negatives >= 1, "negatives", self.negatives, "is below 1")
        _demand(0 <= self.replay_share < 1, "replay_share", self.replay_share, "is not in [0, 1)")


@dataclass(frozen=True)
class Prequential:
    """How the model before a step, and its base, rank the step's events, which neither has seen.

    One entry a row: an event with an item that its user has not met before, of a sample of the users.
    """

    k: int
    ndcg_R: np.ndarray
    hit_R: np.ndarray  # bool
    base_ndcg_R: np.ndarray
    base_hit_R: np.ndarray  # bool
    user_R: np.ndarray  # ids

    def __len__(self) -> int:
        return len(self.ndcg_R)


@dataclass(frozen=True)
class OnlineStep:
    """`fitted` is the parent itself where there was nothing to learn from."""

    fitted: Fitted
    prequential: Prequential
    log_loss: float
    """Nats a target, each batch before its own step: of the sampled softmax, replay included; NaN without a target."""
    targets: int
    """Trained on, replayed ones included."""
    seconds: float
    """Spent on training."""


@dataclass(frozen=True)
class Weights:
    """What answers, by name. `rows`: [V + 1, …], one row an item, row 0 padding; `body`: everything else."""

    rows: dict[str, np.ndarray]
    body: dict[str, np.ndarray]


def begin(base: Fitted) -> Fitted:
    """What the first step after `base` starts from: its optimiser's state is of another algorithm, and not used."""
    return replace(base, optimizer_state={})


def online_step(
    parent: Fitted,
    *,
    base: Fitted,
    new: Histories,
    past: Histories,
    options: OnlineOptions,
    training: TrainOptions,
    k: int = 10,
    test_users: int = 500,
) -> OnlineStep:
    """Test `parent` and `base` on the events `new`, then go on from `parent` with them.

    `parent` is what the last step gave, or `begin(base)`; it stays as it is. `past` holds at least the former events of
    the users of `new`; replay is drawn from it. `training` gives seed, device, precision and threads. The same
    arguments give the same bits (CPU, same threads). Events on items that the base does not know count as misses in
    the test and are not trained on: a base's graph has its number of items built in. Raises DataRejected without new
    events, UsageError for a differentially private training or a loss that is not finite.
    """
    if not len(new):
        raise DataRejected("events: none is new; an online step needs at least one")
    if training.dp_clip:
        raise UsageError(
            f"[train] dp_clip = {training.dp_clip}: a step on the newest events alone cannot hide a user; set "
            "[online] enabled = false, or dp_clip = 0"
        )
    histories, new_N = merge(past, new)
    tested = compare_on(parent, base, histories, new_N, k=k, users=test_users, seed=training.seed)
    histories = trusted(histories, parent.objective)
    vocabulary = parent.vocabulary
    known_N = vocabulary.rows(histories.items)[histories.item_N] > 0
    histories, new_N = histories.keep(known_N), new_N[known_N]
    corpus = Corpus.of(histories, vocabulary.rows(histories.items), parent.features)
    seed = _seed(parent, training.seed, new)
    plan = _plan(corpus, new_N, options=options, length=parent.ranker.config.max_history, seed=seed)
    if not any(len(windows) for windows in plan.plan):
        return OnlineStep(parent, tested, float("nan"), 0, 0.0)
    stated = _training(training, options, seed)
    seen_V = np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:]
    with seeded_threads(training.threads):
        ranker = copy.deepcopy(parent.ranker)
        _freeze(ranker, body=options.body_learning_rate > 0)
        loss = loss_of(parent.objective, stated, ranker.config)
        loss.load_state_dict(parent.objective_state)
        loss.requires_grad_(False)
        outcome = train(
            ranker,
            loss,
            epoch_of=lambda epoch: plan,
            options=stated,
            optimizer_state=parent.optimizer_state,
            count_V=np.where(seen_V > 0, seen_V, -1),
            users=len(histories.users),
            spent=() if parent.privacy is None else parent.privacy.phases,
            tables=(TABLE, BIAS),
            fingerprint="",
        )
        ranker.requires_grad_(True)
    fitted = fitted_of(ranker, loss, vocabulary, parent.features, outcome)
    losses = [nats for _, nats in outcome.losses]
    return OnlineStep(fitted, tested, float(np.mean(losses)), outcome.targets, outcome.seconds)


def weights_of(fitted: Fitted) -> Weights:
    """The weights as they are exported: modalities worked into the table, and of a cosine its unit rows beside it."""
    ranker = materialised(fitted.ranker)
    named = {name: tensor.detach().numpy() for name, tensor in ranker.state_dict().items()}
    rows = {name: named.pop(name) for name in ("item_table.weight", "item_bias")}
    if ranker.config.temperature:
        rows["item_table.cosine"] = functional.normalize(ranker.item_table.weight.detach(), dim=-1).numpy()
    return Weights(rows, named)


def changed_rows(now: Fitted, *, base: Fitted) -> np.ndarray:
    """int64 [C]: the rows whose vector or bias is no longer the base's, ascending."""
    before, after = weights_of(base).rows, weights_of(now).rows
    moved = [(before[name] != after[name]).reshape(len(before[name]), -1).any(axis=1) for name in before]
    return np.flatnonzero(np.logical_or.reduce(moved))


def _training(training: TrainOptions, options: OnlineOptions, seed: int) -> TrainOptions:
    """One pass at a constant rate; a full softmax would move every row, so its negatives are sampled."""
    return replace(
        training,
        epochs=1,
        loss=Loss.SAMPLED if training.loss is Loss.FULL else training.loss,
        negatives=options.negatives,
        label_smoothing=0.0,
        optimizer=Algorithm.SGD,
        momentum=0.0,  # it would go on moving rows that no gradient touches any more
        learning_rate=options.body_learning_rate or options.learning_rate,
        embedding_optimizer=options.optimizer,
        embedding_learning_rate=options.learning_rate,
        weight_decay=0.0,
        schedule=Schedule.CONSTANT,
        warm_up=0.0,
        accumulate=1,
        ema=0.0,
        patience=0,
        seed=seed,
    )


def _plan(corpus: Corpus, new_N: np.ndarray, *, options: OnlineOptions, length: int, seed: int) -> Epoch:
    """New events in the order of time, `batch_events` a step, each step with replayed windows of its own.

    Users' first events are no targets: they are told from the padding row, which a delta leaves as it is.
    """
    rng = np.random.default_rng(seed)
    order_N = np.flatnonzero(new_N)
    order_N = order_N[np.argsort(corpus.time_N[order_N], kind="stable")]
    old = cover(corpus, ~new_N, length=length)
    old = old.keep(rng.permutation(len(old)))
    held_W1 = np.concatenate([[0], np.cumsum(old.targets_W(corpus.next_N))])
    ratio, begin = options.replay_share / (1 - options.replay_share), 0
    whole = Windows(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    plan = []
    for at in range(0, len(order_N), options.batch_events):
        step_N = np.zeros(len(new_N), dtype=bool)
        step_N[order_N[at : at + options.batch_events]] = True
        fresh = cover(corpus, step_N, length=length)
        wanted = ratio * fresh.targets_W(corpus.next_N).sum()
        end = min(len(old), int(np.searchsorted(held_W1, held_W1[begin] + wanted, side="left")))
        added = fresh + old.keep(np.arange(begin, end))
        begin = 0 if end == len(old) else end  # a long step meets the past again
        plan.append(np.arange(len(whole), len(whole) + len(added)))
        whole = whole + added
    return Epoch(corpus, whole, tuple(plan), (np.zeros(0, dtype=np.int64),) * len(plan))


def _freeze(ranker: Ranker, *, body: bool) -> None:
    """What modalities add is frozen with or without the body: it is part of every row. The mask never answers."""
    for name, weight in ranker.named_parameters():
        by_row = f"ranker.{name}" in (TABLE, BIAS)
        weight.requires_grad_(by_row or (body and not name.startswith(("item_table.", "mask_vector"))))


def compare_on(
    parent: Fitted, base: Fitted, histories: Histories, new_N: np.ndarray, *, k: int, users: int, seed: int
) -> Prequential:
    """Both on the events where `new_N`, of at most `users` users, each as of its time."""
    holdout: Holdout = split_by_time(histories, cutoff_us=int(histories.time_N[new_N].min())).holdout
    holdout = holdout.keep(new_N[holdout.event_R]).sample_users(users, seed=seed)
    ours = evaluate(RankerRecommender.of(parent), holdout, k=k, draws=0)
    theirs = ours if parent.ranker is base.ranker else evaluate(RankerRecommender.of(base), holdout, k=k, draws=0)
    return Prequential(k, ours.ndcg_R, _hits(ours), theirs.ndcg_R, _hits(theirs), histories.users[ours.user_R])


def _hits(evaluation: Evaluation) -> np.ndarray:
    return np.asarray((evaluation.rank_R > 0) & (evaluation.rank_R <= evaluation.k))


def _seed(parent: Fitted, seed: int, new: Histories) -> int:
    """Another for each step, for each draws its own negatives; the same for the same step."""
    stated = f"{seed} {parent.digest} {len(new)} {new.time_N.max()}"
    return int.from_bytes(hashlib.sha256(stated.encode()).digest()[:6], "big")


def _demand(holds: bool, key: str, value: object, remedy: str) -> None:
    if not holds:
        raise UsageError(f"[online] {key} = {value} {remedy}")
