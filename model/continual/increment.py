"""Going on from a parent with what is new."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import nn

from model.continual.anchoring import Anchor, empirical_fisher
from model.continual.line_search import newest_new, search_rate
from model.continual.options import IncrementOptions, Trained
from model.continual.parts import SplitState, dropping, only
from model.continual.replay import choose, cut
from model.fit import beside_of, digests_of, fingerprint_of, fitted_of, loss_of, trusted
from model.fitted import Fitted
from model.gradients import Sampler
from model.growth import grow
from model.machine import choose_dtype, seeded_threads
from model.modalities.material import NamedVectors
from model.network.ranker import Ranker
from model.objectives.distillation import Teacher, adaptive_weight
from model.objectives.objective import Objective
from model.optimizers.private import Phase
from model.options import Loss, TrainOptions
from model.private_steps import refuse_unbounded
from model.sequences import Histories, merge
from model.trainer import TABLE, OnStep, train
from model.vocabulary import Vocabulary
from model.windows import Corpus, Epoch, Windows, cover
from relations.errors import DataRejected, UsageError

FISHER_TARGETS = 20_000
"""Of the past, to measure the weights' Fisher information by."""


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
    and else of the parent. Weights, optimiser state and rows carry over, and so does the parent's objective; unknown
    items get rows (`model.growth`). `training` gives batch size, loss, seed, device and threads, `increment` the
    epochs, the learning rate and its schedule, negatives, and which weights may change. Raises DataRejected for fewer
    than `min_new_events` events or none that is a target, DependencyFailed for `cuda` without CUDA.
    """
    if len(new) < max(1, increment.min_new_events):
        raise DataRejected(f"events: {len(new)} new events, fewer than min_new_events = {increment.min_new_events}")
    options = replace(
        training,
        epochs=increment.epochs,
        learning_rate=increment.learning_rate or training.learning_rate / 2,
        schedule=increment.schedule,
        negatives=increment.negatives or training.negatives * 3 // 2,
        warm_up=0.0,
        patience=0,
    )
    if options.dp_clip:
        refuse_unbounded(options, parent.objective)
        _refuse_private(increment)
    length = parent.ranker.config.max_history
    if replayed_N is None and options.dp_clip:  # whose events are kept must not follow from other users' events
        replayed_N = np.ones(len(past), dtype=bool)
    elif replayed_N is None:
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
    beside = beside_of(modalities, vocabulary)

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
        count_V = np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:]
        with (
            only(ranker, loss, trained=increment.trained, rank=increment.lora_rank, seed=options.seed),
            dropping(ranker, increment.dropout),
        ):
            named = dict(nn.ModuleDict({"ranker": ranker, "objective": loss}).named_parameters())
            state = SplitState.of(parent.optimizer_state, named)
            if increment.line_search:
                judged_N = newest_new(histories.time_N, new_N)
                rate = search_rate(
                    ranker,
                    loss,
                    plan=_new_alone(corpus, new_N & ~judged_N, options, length=length),
                    judged=_new_alone(corpus, judged_N, options, length=length),
                    options=options,
                    optimizer_state=state.used,
                    tables=(TABLE,),
                    count_V=count_V,
                ).rate
                options = replace(options, learning_rate=rate)
            outcome = train(
                ranker,
                loss,
                epoch_of=epoch_of,
                options=options,
                optimizer_state=state.used,
                count_V=count_V,
                users=len(histories.users),
                anchor=_anchor(ranker, loss, corpus, old, options, increment) if increment.ewc else None,
                spent=_spent(parent, private=options.dp_clip > 0),
                fingerprint=fingerprint_of(
                    corpus,
                    vocabulary,
                    new_N,
                    replay_N,
                    asdict(increment),
                    asdict(options),
                    parent.digest,
                    "" if teacher is None else teacher.digest,
                    digests_of(beside),
                ),
                run=run,
                on_step=on_step,
            )
    outcome = replace(outcome, optimizer_state=state.joined(outcome.optimizer_state))
    return fitted_of(ranker, loss, vocabulary, parent.features, outcome)


def _refuse_private(increment: IncrementOptions) -> None:
    """What looks at the past, or at the newest events, beside the private steps has no bound on what it tells."""
    kept = {"distillation": increment.distillation, "ewc": increment.ewc, "line_search": increment.line_search}
    if stated := [name for name, value in kept.items() if value]:
        raise UsageError(
            f"[increment] {stated[0]}: not with differential privacy; set it to 0, or [train] dp_clip to 0"
        )
    if increment.trained is not Trained.ALL:
        raise UsageError(f'[increment] trained = "{increment.trained}": not with differential privacy; set it to "all"')


def _new_alone(corpus: Corpus, new_N: np.ndarray, options: TrainOptions, *, length: int) -> Epoch:
    told = corpus.only(new_N)
    rng = np.random.default_rng([options.seed, 3])
    windows = cover(told, new_N, length=length)
    opens_U = new_N[corpus.offsets_U1[:-1]]
    return Epoch.of(told, windows, opens_U=opens_U, batch_tokens=options.batch_tokens, rng=rng)


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
    windows, no_first_U = _draw(past, corpus, FISHER_TARGETS, rng), np.zeros(len(corpus.first_U), dtype=bool)
    plan = Epoch.of(corpus, windows, opens_U=no_first_U, batch_tokens=options.batch_tokens, rng=rng)
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


def _spent(parent: Fitted, *, private: bool) -> tuple[Phase, ...]:
    """Of what the parent learnt: without privacy it has no bound, and neither has what goes on from it."""
    if parent.privacy is not None:
        return parent.privacy.phases
    return (Phase(0.0, 1.0, parent.steps),) if private else ()


def _draw(windows: Windows, corpus: Corpus, targets: float, rng: np.random.Generator) -> Windows:
    """Random windows until they hold `targets` targets, or all."""
    order_W = rng.permutation(len(windows))
    held_W = np.cumsum(windows.targets_W(corpus.next_N)[order_W])
    return windows.keep(order_W[: int(np.searchsorted(held_W, targets, side="left")) + 1] if targets else order_W[:0])
