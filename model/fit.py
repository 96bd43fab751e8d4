"""Fitting a ranker from scratch."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from model.evaluation import RankerRecommender, evaluate
from model.features import FeatureOptions, FeatureSpec
from model.fitted import Fitted
from model.machine import seeded_threads
from model.modalities.fusion import TowerConfig
from model.modalities.material import Modality, NamedVectors
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.objectives.weighting import bot_weight, measure_activity
from model.options import NetworkOptions, TrainOptions
from model.private_steps import refuse_unbounded
from model.sequences import BEHAVIOUR_NAMES, Histories, split_by_time
from model.trainer import OnEpoch, OnStep, Outcome, Validate, train
from model.vocabulary import Vocabulary
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected, UsageError

VALIDATION_SHARE = 0.1
"""Newest share of the events that early stopping is judged on."""
VALIDATION_USERS = 2_000
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
    beside = beside_of(modalities, vocabulary)

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
            fingerprint=fingerprint_of(
                corpus,
                vocabulary,
                asdict(network),
                asdict(training),
                asdict(objective),
                digests_of(beside),
                spec.stated(),
            ),
            run=run,
            validate=None if validate is None else validate(vocabulary, spec),
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return fitted_of(ranker, loss, vocabulary, spec, outcome)


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


def beside_of(modalities: Mapping[str, NamedVectors] | None, vocabulary: Vocabulary) -> dict[str, Modality]:
    return {name: named.beside(vocabulary.items) for name, named in (modalities or {}).items()}


def digests_of(modalities: Mapping[str, Modality]) -> dict[str, str]:
    return {name: modality.digest for name, modality in modalities.items()}


def fingerprint_of(corpus: Corpus, vocabulary: Vocabulary, *parts: object) -> str:
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
