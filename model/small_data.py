"""Small data: how long to train, and how far to trust what was learnt, as users who were held out say.

A few thousand events make too few steps for the network to learn what there is, and many steps learn by heart where
there is little to learn. Neither number of epochs is right for all data, so both are tried on users who are left out of
the training, and beside each the logarithmic opinion pool of network and popularity,

    p(item | history) ∝ network(item | history)^λ · popularity(item)^(1 − λ),

λ = 1 being the network alone. What gives the left-out users' events the greatest likelihood is fitted on all events.
The pool is worked into the weights: it costs nothing to serve, and an increment goes on from it. Source: Heskes,
"Selecting weighting factors in logarithmic opinion pools", NIPS 1997.

Shapes: T targets, V items, D width, S shares λ, E numbers of epochs, U users.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from model.features import FeatureOptions
from model.fit import NO_FEATURES, PLAIN, fit_full
from model.fitted import Fitted
from model.modalities.material import NamedVectors
from model.network.ranker import materialised
from model.objectives.options import ObjectiveOptions
from model.options import NetworkOptions, TrainOptions
from model.popularity import Popularity
from model.sequences import Histories
from model.trainer import OnStep
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)
"""λ that are tried; a cosine network cannot take 0, and .05 hardly differs from it."""
LONGER = 3
"""Times the stated epochs that are tried as well."""
FOLDS = 5
JUDGED = 500
"""Targets that should be judged on: of more folds where one holds fewer, `MOST` at most."""
MOST = 3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    epochs: int
    share: float
    """λ."""
    targets: int = 0
    """Judged on; 0: nothing was tried."""
    nats: float = 0.0
    """Mean negative log-likelihood of these, and of popularity alone."""
    popularity_nats: float = 0.0


def fit_small_or_full(
    histories: Histories,
    *,
    network: NetworkOptions,
    training: TrainOptions,
    objective: ObjectiveOptions = PLAIN,
    modalities: Mapping[str, NamedVectors] | None = None,
    features: FeatureOptions = NO_FEATURES,
    run: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """`fit_full`, and below `training.small_events` events with the epochs and the λ that held-out users ask for.

    From so many events on it is `fit_full` to the bit. Below, the tries are `1 + LONGER` trainings on four fifths of
    the events, and of less than 2,500 events up to `MOST` times as many. A try leaves nothing behind; a killed one is
    done anew.
    """
    chosen = choose(
        histories, network=network, training=training, objective=objective, modalities=modalities, features=features
    )
    fitted = fit_full(
        histories,
        network=network,
        training=replace(training, epochs=chosen.epochs),
        objective=objective,
        modalities=modalities,
        features=features,
        run=run,
        on_step=on_step,
    )
    return shrunk(fitted, share=chosen.share, log_V=log_popularity(histories, fitted.vocabulary.items))


def choose(
    histories: Histories,
    *,
    network: NetworkOptions,
    training: TrainOptions,
    objective: ObjectiveOptions = PLAIN,
    modalities: Mapping[str, NamedVectors] | None = None,
    features: FeatureOptions = NO_FEATURES,
) -> Choice:
    """As stated where there is nothing to judge on: enough events, one user, or items that each but one user met.

    Private trainings are not tried out: each try would tell of the users. With `patience` the epochs are as stated;
    with modalities λ is 1, since popularity would outrank the items that nobody has met.
    """
    stated = Choice(training.epochs, 1.0)
    if training.dp_clip or len(histories) >= training.small_events or len(histories.users) < 2:
        return stated
    folds = min(FOLDS, len(histories.users))
    fold_U = np.random.default_rng(training.seed).permutation(len(histories.users)) % folds
    wanted = min(folds, MOST, -(-JUDGED * folds // len(histories)))
    epochs_E = (training.epochs,) if training.patience else (training.epochs, LONGER * training.epochs)
    shares = SHARES[:1] if modalities else SHARES
    nats_ES, popularity_nats, targets = np.zeros((len(epochs_E), len(SHARES))), 0.0, 0
    for fold in range(wanted):
        learnt_N = (fold_U != fold)[histories.user_N()]
        learnt = histories.keep(learnt_N)
        judged = histories.keep(~learnt_N & np.isin(histories.items, learnt.items)[histories.item_N])
        if not len(judged):
            continue
        for place, epochs in enumerate(epochs_E):
            try:
                fitted = fit_full(
                    learnt,
                    network=network,
                    training=replace(training, epochs=epochs, patience=0),
                    objective=objective,
                    modalities=modalities,
                    features=features,
                )
            except DataRejected:  # what is left without the fold holds nothing to learn, or too few users of a value
                return stated
            found = nats_of(fitted, judged, log_V=log_popularity(learnt, fitted.vocabulary.items))
            nats_ES[place] += found.nats_S
        popularity_nats, targets = popularity_nats + found.popularity, targets + found.targets
    if not targets:
        return stated
    nats_ES = nats_ES[:, : len(shares)] / targets
    best, share = np.unravel_index(nats_ES.argmin(), nats_ES.shape)
    choice = Choice(epochs_E[best], shares[share], targets, float(nats_ES.min()), popularity_nats / targets)
    _LOG.info(
        "%d events are few: %d epochs and λ = %g, by %d events of users held out (%.3f nats; popularity %.3f)",
        len(histories), choice.epochs, choice.share, targets, choice.nats, choice.popularity_nats,
    )  # fmt: skip
    return choice


@dataclass(frozen=True)
class Nats:
    """Negative log-likelihoods, summed over `targets`."""

    nats_S: np.ndarray
    """For each of `SHARES`."""
    popularity: float
    targets: int


@torch.inference_mode()
def nats_of(fitted: Fitted, judged: Histories, *, log_V: np.ndarray) -> Nats:
    """Of each next item of users whom `fitted` has not met, their first one included. All items must be known."""
    corpus = Corpus.of(judged, fitted.vocabulary.rows(judged.items), fitted.features)
    ranker = materialised(fitted.ranker)
    windows = tile(corpus, length=ranker.config.max_history, rng=None)
    epoch = Epoch.of(corpus, windows, opens_U=None, batch_tokens=512, rng=np.random.default_rng(0))
    table_VD, bias_V = ranker.catalogue()
    prior_V = torch.from_numpy(log_V).to(bias_V)
    nats_S, popularity, targets = np.zeros(len(SHARES)), 0.0, 0
    for step in range(len(epoch)):
        batch = epoch.batch(step)
        state_ND = ranker.encode(
            batch.row_N,
            batch.behaviour_N,
            batch.age_N,
            batch.place_N,
            groups=batch.groups,
            attribute_NA=batch.attribute_NA,
        )
        logit_TV = state_ND[batch.at_T] @ table_VD.T + bias_V
        column_T1 = batch.target_T[:, None] - 1
        nats_S -= [_log_likelihood(share * logit_TV + (1 - share) * prior_V, column_T1) for share in SHARES]
        popularity -= float(torch.log_softmax(prior_V, dim=0)[column_T1].sum())
        targets += batch.targets
    return Nats(nats_S, popularity, targets)


@torch.no_grad()
def shrunk(fitted: Fitted, *, share: float, log_V: np.ndarray) -> Fitted:
    """`fitted` whose scores are λ · its own + (1 − λ) · `log_V`; itself for λ = 1.

    A final norm's output is linear in its weights, a cosine's in the inverse temperature. What else reads the state, as
    the head that predicts ratings, learns the new scale in the next increment.
    """
    if share == 1:
        return fitted
    ranker = copy.deepcopy(fitted.ranker)
    if ranker.config.temperature:
        ranker.config.temperature /= share
    else:
        ranker.final_norm.weight.mul_(share)
        ranker.final_norm.bias.mul_(share)
    ranker.item_bias[1:] = share * ranker.item_bias[1:] + (1 - share) * torch.from_numpy(log_V).to(ranker.item_bias)
    return replace(fitted, ranker=ranker)


def log_popularity(histories: Histories, items: Sequence[str]) -> np.ndarray:
    """Centred log counts [V] of `items`; one without an event counts as one that has one."""
    popular = Popularity.of(histories)
    count = dict(zip(popular.items, popular.counts, strict=True))
    log_V = np.log(np.maximum([count.get(item, 0) for item in items], 1))
    return np.asarray(log_V - log_V.mean())


def _log_likelihood(logit_TV: torch.Tensor, column_T1: torch.Tensor) -> float:
    return float(torch.log_softmax(logit_TV, dim=1).gather(1, column_T1).sum())
