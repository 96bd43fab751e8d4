"""Fitting a ranker from scratch, and going on from a parent with what is new."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from model.continual.anchoring import Anchor, empirical_fisher
from model.continual.options import IncrementOptions
from model.continual.replay import choose, cut
from model.evaluation import RankerRecommender, evaluate
from model.features import FeatureOptions, FeatureSpec
from model.fitted import Fitted
from model.gradients import Sampler
from model.growth import grow
from model.machine import choose_dtype, seeded_threads
from model.modalities.fusion import TowerConfig
from model.modalities.material import Modality, NamedVectors
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.distillation import Teacher, adaptive_weight
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.objectives.weighting import bot_weight, measure_activity
from model.optimizers.private import Phase
from model.options import Loss, NetworkOptions, TrainOptions
from model.private_steps import refuse_unbounded
from model.sequences import BEHAVIOUR_NAMES, Histories, merge, split_by_time
from model.trainer import OnEpoch, OnStep, Outcome, Validate, train
from model.vocabulary import Vocabulary
from model.windows import Corpus, Epoch, Windows, cover, tile
from relations.errors import DataRejected, UsageError

VALIDATION_SHARE = 0.1
"""Newest share of the events that early stopping is judged on."""
VALIDATION_USERS = 2_000
FISHER_TARGETS = 20_000
"""Of the past, to measure the weights' Fisher information by."""
PLAIN = ObjectiveOptions()
NO_FEATURES = FeatureOptions()


def fit_full(
    histories: Histories,
    *,
    network: NetworkOptions,
    training: TrainOptions,
    objective: ObjectiveOptions = PLAIN,
    modalities: Mapping[str, NamedVectors] | None = None,
    features: FeatureOptions = NO_FEATURES,
    run: Path | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Fit from scratch on all of `histories`; cut them by time first (`split_by_time`).

    `run` holds the checkpoint that a killed training resumes from; it is left there, and the caller may delete it.
    `features` declares what else of `histories.attributes` the network sees; the spec is fitted on the same events.
    With `patience` the newest tenth of the events is judged on, not learnt from. Raises DataRejected without a single
    target, DependencyFailed for `cuda` without CUDA.
    """
    validate = None
    if training.dp_clip:
        refuse_unbounded(training, objective)
    if training.patience:
        histories, validate = _judged(histories, training)
    histories = trusted(histories, objective)
    vocabulary = Vocabulary(tuple(str(item) for item in histories.items))
    spec = FeatureSpec.fit(histories, features)
    corpus = Corpus.of(histories, np.arange(1, len(vocabulary) + 1), spec)
    if not corpus.first_U.any() and not corpus.next_N.any():
        raise DataRejected(f"events: {len(histories)} events hold nothing to learn from; ingest more events first")
    beside = _beside(modalities, vocabulary)

    def epoch_of(epoch: int) -> Epoch:
        rng = np.random.default_rng([training.seed, epoch])
        windows = tile(corpus, length=network.max_history, rng=None if training.dp_clip else rng)
        return Epoch.of(corpus, windows, opens_U=None, batch_tokens=training.batch_tokens, rng=rng)

    with seeded_threads(training.threads):
        torch.manual_seed(training.seed)
        config = RankerConfig(
            items=len(vocabulary),
            behaviours=len(BEHAVIOUR_NAMES) - 1,
            modalities=TowerConfig.of(beside),
            attributes=spec.sizes,
            **asdict(network),
        )
        ranker = Ranker(config)
        count_V = np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:]
        # popular items would outrank all that nobody has met, however well their vectors fit; nor are counts private
        if not beside and not training.dp_clip:
            ranker.start_from_popularity(count_V)
        ranker.item_table.start(beside)
        loss = loss_of(objective, training, config)
        loss.start(torch.from_numpy(corpus.behaviour_N), torch.from_numpy(corpus.value_N))
        outcome = train(
            ranker,
            loss,
            epoch_of=epoch_of,
            options=training,
            optimizer_state=None,
            count_V=count_V,
            users=len(histories.users),
            fingerprint=_fingerprint(
                corpus,
                vocabulary,
                asdict(network),
                asdict(training),
                asdict(objective),
                _digests(beside),
                spec.stated(),
            ),
            run=run,
            validate=None if validate is None else validate(vocabulary, spec),
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return fitted_of(ranker, loss, vocabulary, spec, outcome)


def fit_increment(
    parent: Fitted,
    *,
    new: Histories,
    past: Histories,
    training: TrainOptions,
    increment: IncrementOptions,
    replayed_N: np.ndarray | None = None,
    teacher: Fitted | None = None,
    modalities: Mapping[str, NamedVectors] | None = None,
    run: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Go on from `parent` with the events of `new`; `parent` stays as it is.

    Targets are new events, in the context of their user's history, plus past targets until these make up
    `replay_share` of all. `past`: events that the parent was trained on, as far as they are context of new or replayed
    ones; `replayed_N` says which of them may be replayed, and None lets `model.continual.replay` choose among all.
    With `distillation` the increment stays near the answers of `teacher`, where its items are the parent's first ones,
    and else of the parent.
    Weights, optimiser state and rows carry over, and so does the parent's objective; unknown items get rows
    (`model.growth`). `training` gives batch size, loss, seed, device and threads, `increment` the epochs, the
    learning rate and its schedule. Raises DataRejected for fewer
    than `min_new_events` events or none that is a target, DependencyFailed for `cuda` without CUDA.
    """
    if len(new) < max(1, increment.min_new_events):
        raise DataRejected(f"events: {len(new)} new events, fewer than min_new_events = {increment.min_new_events}")
    options = replace(
        training,
        epochs=increment.epochs,
        learning_rate=increment.learning_rate,
        schedule=increment.schedule,
        warm_up=0.0,
        patience=0,
    )
    if options.dp_clip:
        refuse_unbounded(options, parent.objective)
    length = parent.ranker.config.max_history
    if replayed_N is None:
        pieces = cut(past, length=length, options=increment, seed=options.seed)
        replayed_N = choose(pieces, past, options=increment).mask(len(past))
    histories, new_N = merge(past, new)
    replay_N = np.zeros(len(histories), dtype=bool)
    replay_N[~new_N] = replayed_N
    histories = trusted(histories, parent.objective)
    vocabulary = parent.vocabulary.grown(str(item) for item in histories.items)
    corpus = Corpus.of(histories, vocabulary.rows(histories.items), parent.features).only(new_N | replay_N)
    fresh, old = (cover(corpus, which_N, length=length) for which_N in (new_N, replay_N))
    opens_U = new_N[corpus.offsets_U1[:-1]]
    if not len(fresh) and not corpus.first_U[opens_U].any():
        raise DataRejected(f"events: {len(new)} new events hold no target (dislikes, or repeats of one item)")
    told = int(fresh.targets_W(corpus.next_N).sum())
    wanted = increment.replay_share / (1 - increment.replay_share) * told
    beside = _beside(modalities, vocabulary)

    def epoch_of(epoch: int) -> Epoch:
        rng = np.random.default_rng([options.seed, epoch])
        # privately all of them: how many of one user's are replayed must not follow from another's events
        windows = fresh + (old if options.dp_clip else _draw(old, corpus, wanted, rng))
        return Epoch.of(corpus, windows, opens_U=opens_U, batch_tokens=options.batch_tokens, rng=rng)

    with seeded_threads(options.threads):
        ranker = grow(
            parent.ranker, items=len(vocabulary), row_N=corpus.row_N, user_N=histories.user_N(), modalities=beside
        )
        loss = loss_of(parent.objective, training, ranker.config)
        loss.load_state_dict(parent.objective_state)
        if increment.distillation:
            loss.learn_from(_teacher(parent, teacher, vocabulary, increment, new=told, replayed=wanted))
        outcome = train(
            ranker,
            loss,
            epoch_of=epoch_of,
            options=options,
            optimizer_state=parent.optimizer_state,
            count_V=np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:],
            users=len(histories.users),
            anchor=_anchor(ranker, loss, corpus, old, options, increment) if increment.ewc else None,
            spent=_spent(parent, private=options.dp_clip > 0),
            fingerprint=_fingerprint(
                corpus,
                vocabulary,
                new_N,
                replay_N,
                asdict(increment),
                asdict(options),
                parent.digest,
                "" if teacher is None else teacher.digest,
                _digests(beside),
            ),
            run=run,
            on_step=on_step,
        )
    return fitted_of(ranker, loss, vocabulary, parent.features, outcome)


def _teacher(
    parent: Fitted,
    stated: Fitted | None,
    vocabulary: Vocabulary,
    increment: IncrementOptions,
    *,
    new: int,
    replayed: float,
) -> Teacher:
    """A champion that the parent does not descend from may have other rows; then the parent teaches."""
    if stated is None or parent.vocabulary.items[: len(stated.vocabulary)] != stated.vocabulary.items:
        stated = parent
    weight = adaptive_weight(
        increment.distillation,
        old_items=len(stated.vocabulary),
        items=len(vocabulary),
        new_events=new,
        replayed_events=round(replayed),
    )
    return Teacher(stated.ranker, weight=weight, temperature=increment.distillation_temperature)


def _anchor(
    ranker: Ranker, loss: Objective, corpus: Corpus, past: Windows, options: TrainOptions, increment: IncrementOptions
) -> Anchor:
    """At the weights that the increment starts from, by what a sample of what may be replayed says of them."""
    rng = np.random.default_rng([options.seed, 2])
    plan = Epoch.of(
        corpus, _draw(past, corpus, FISHER_TARGETS, rng), opens_U=None, batch_tokens=options.batch_tokens, rng=rng
    )
    if not len(plan):
        raise DataRejected("[increment] ewc: there is no past to measure by what the weights matter; set ewc = 0")
    count_V = np.bincount(corpus.row_N, minlength=ranker.config.items + 1)[1:]
    draw = None if options.loss is Loss.FULL else Sampler(count_V, options)
    fisher = empirical_fisher(
        ranker,
        loss.item,
        batches=(plan.batch(step) for step in range(len(plan))),
        negatives_of=lambda step: None if draw is None else draw(step, ranker.device),
        seed=options.seed,
        dtype=choose_dtype(options.precision, ranker.device),
    )
    return Anchor.of(
        {f"ranker.{name}": weight for name, weight in ranker.named_parameters()}, strength=increment.ewc, fisher=fisher
    )


def fitted_of(
    ranker: Ranker, loss: Objective, vocabulary: Vocabulary, features: FeatureSpec, outcome: Outcome
) -> Fitted:
    return Fitted(
        ranker=ranker,
        objective=loss.options,
        objective_state=loss.state_dict(),
        vocabulary=vocabulary,
        features=features,
        **outcome.__dict__,
    )


def _spent(parent: Fitted, *, private: bool) -> tuple[Phase, ...]:
    """Of what the parent learnt: without privacy it has no bound, and neither has what goes on from it."""
    if parent.privacy is not None:
        return parent.privacy.phases
    return (Phase(0.0, 1.0, parent.steps),) if private else ()


def loss_of(options: ObjectiveOptions, training: TrainOptions, config: RankerConfig) -> Objective:
    item = ItemObjective(training.loss, smoothing=training.label_smoothing, calibration=options.gbce_calibration)
    vector_width = next((tower["kept"] for tower in config.modalities.values()), 0)
    if options.self_supervised and options.masked_text_weight and not vector_width:
        raise UsageError(
            f"[objective] masked_text_weight = {options.masked_text_weight} needs vectors to predict; declare a "
            "[modalities.NAME], the first of which it takes, or set it to 0"
        )
    return Objective(options, item=item, width=config.width, cosine=bool(config.temperature), vector_width=vector_width)


def trusted(histories: Histories, objective: ObjectiveOptions) -> Histories:
    """With less weight on the targets of users who look like bots, where that is asked for."""
    if not objective.bot_threshold or not len(histories):
        return histories
    activity = measure_activity(histories.item_N, histories.time_N, histories.offsets_U1)
    weight_U = bot_weight(activity, threshold=objective.bot_threshold)
    return replace(histories, weight_N=histories.weight_N * weight_U[histories.user_N()])


def _judged(
    histories: Histories, training: TrainOptions
) -> tuple[Histories, Callable[[Vocabulary, FeatureSpec], Validate]]:
    """What is left to learn from, and the judge of a network with a vocabulary: NDCG@10 on the newest events."""
    split = split_by_time(histories, holdout_share=VALIDATION_SHARE)
    holdout = split.holdout.sample_users(VALIDATION_USERS, seed=training.seed)
    if not len(split.train) or not len(holdout):
        raise DataRejected(
            f"[train] patience = {training.patience}: the newest tenth of {len(histories)} events leaves nothing to "
            "learn from or nothing to judge on; set patience = 0 or ingest more events"
        )

    def judge_of(vocabulary: Vocabulary, features: FeatureSpec) -> Validate:
        return lambda ranker: evaluate(RankerRecommender(ranker, vocabulary.items, features), holdout, draws=0).overall[
            "ndcg@10"
        ]

    return split.train, judge_of


def _beside(modalities: Mapping[str, NamedVectors] | None, vocabulary: Vocabulary) -> dict[str, Modality]:
    return {name: named.beside(vocabulary.items) for name, named in (modalities or {}).items()}


def _digests(modalities: Mapping[str, Modality]) -> dict[str, str]:
    return {name: modality.digest for name, modality in modalities.items()}


def _draw(windows: Windows, corpus: Corpus, targets: float, rng: np.random.Generator) -> Windows:
    """Random windows until they hold `targets` targets, or all."""
    order_W = rng.permutation(len(windows))
    held_W = np.cumsum(windows.targets_W(corpus.next_N)[order_W])
    return windows.keep(order_W[: int(np.searchsorted(held_W, targets, side="left")) + 1] if targets else order_W[:0])


def _fingerprint(corpus: Corpus, vocabulary: Vocabulary, *parts: object) -> str:
    """What a checkpoint must agree on to be continued. The device and threads may differ; the bits then may too."""
    h = hashlib.sha256(vocabulary.to_json().encode())
    for array in _arrays(corpus.__dict__.values()):
        h.update(np.ascontiguousarray(array).data)
    for part in parts:
        if isinstance(part, np.ndarray):
            h.update(np.ascontiguousarray(part).data)
        else:
            stated = (
                {k: v for k, v in part.items() if k not in ("device", "threads")} if isinstance(part, dict) else part
            )
            h.update(json.dumps(stated, sort_keys=True).encode())
    return h.hexdigest()


def _arrays(values: Iterable[object]) -> list[np.ndarray]:
    return [value for value in values if isinstance(value, np.ndarray)]
