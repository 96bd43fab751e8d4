"""Off-policy estimates on real logs: what one policy would have earned, told from the other policy's log.

The Open Bandit sample (Saito, Aihara, Matsutani & Narita, NeurIPS 2021 Datasets and Benchmarks) has, for two campaigns,
the logs of two policies that ran side by side: uniform random and Bernoulli Thompson sampling (bts). Each policy's
value is estimated from the other one's log and compared with the mean reward of its own, which no estimate has seen.

Thompson sampling changes its probabilities as it learns; what is asked for is its value over these days, so its
probability of an item at a position is its share of the choices there in its own log.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.rows import Row, at_least, at_most, figure
from gate.off_policy import Estimator, OffPolicy, RewardModel, cross_fitted, evaluate_policy
from relations.errors import UsageError

Array = NDArray[np.float64]

CAMPAIGNS = ("all", "men")
POLICIES = ("random", "bts")
PRIOR = 500.0
"""Rows' worth of the campaign's mean that an item's click rate begins with: an item has some ten clicks at most."""


@dataclass(frozen=True)
class Log:
    """Rounds as they were logged: _N one entry a round; items and positions are numbered from 0."""

    item_N: NDArray[np.int64]
    position_N: NDArray[np.int64]
    propensity_N: Array
    click_N: Array

    @property
    def shares(self) -> Array:
        """How often each item was chosen at each position, (items, positions); columns sum to 1."""
        counts = np.zeros((self.item_N.max() + 1, self.position_N.max() + 1))
        np.add.at(counts, (self.item_N, self.position_N), 1.0)
        return np.asarray(counts / counts.sum(axis=0), dtype=np.float64)


def rows(data: Path | None) -> list[Row]:
    """`data`: the folder with random/ and bts/; without it the row is left out, and says so."""
    if data is None:
        return [figure("15. Open Bandit sample: not measured, it needs --data FOLDER with random/ and bts/", None)]
    found = [
        (campaign, target, *_against_its_own_log(data, campaign, logged=logged, target=target))
        for campaign in CAMPAIGNS
        for logged, target in (POLICIES, POLICIES[::-1])
    ]
    cases = [row for campaign, target, truth, answer in found for row in _case(campaign, target, truth, answer)]
    answered = [(truth, each) for _, _, truth, answer in found for each in answer.values]
    outside = sum(not each.lower <= truth <= each.upper for truth, each in answered)
    return [
        at_most(
            "15. Open Bandit sample: estimates whose joint 95 % interval misses the truth", outside, 0, unit="estimates"
        ),
        at_least("15. Open Bandit sample: policies answered, of 4", sum(not f[3].refused for f in found), 1, unit=""),
        *cases,
    ]


def _case(campaign: str, target: str, truth: float, answer: OffPolicy) -> list[Row]:
    what = f"15. {target} on {campaign}, true {100 * truth:.2f} %"
    if answer.refused:
        return [figure(f"{what}: refused: {answer.reasons[0]}", None)]
    return [
        figure(
            f"{what}: {each.estimator.upper()} [{100 * each.lower:.2f}, {100 * each.upper:.2f}]",
            round(100 * each.value, 3),
        )
        for each in answer.values
        if each.estimator is not Estimator.IPS
    ]


def _against_its_own_log(data: Path, campaign: str, *, logged: str, target: str) -> tuple[float, OffPolicy]:
    """The target's mean reward in its own log, and its estimate from the other one's."""
    log, other = read_log(data, logged, campaign), read_log(data, target, campaign)
    shares = other.shares
    answer = evaluate_policy(
        reward_N=log.click_N,
        target_N=shares[log.item_N, log.position_N],
        propensity_N=log.propensity_N,
        model=cross_fitted(lambda train_N: _fitted(log, shares, train_N), cluster_N=np.arange(len(log.click_N))),
    )
    return float(other.click_N.mean()), answer


def _fitted(log: Log, shares: Array, train_N: NDArray[np.bool_]) -> RewardModel:
    """Each item's click rate, drawn towards the log's mean: q̂(item), whatever the position."""
    items, clicks = log.item_N[train_N], log.click_N[train_N]
    shown, clicked = (np.bincount(items, weights=part, minlength=len(shares)) for part in (None, clicks))
    rate = (clicked + PRIOR * clicks.mean()) / (shown + PRIOR)
    return RewardModel(logged_N=rate[log.item_N], target_N=(rate @ shares)[log.position_N])


def read_log(data: Path, policy: str, campaign: str) -> Log:
    """Raises UsageError, naming the file, where it is missing."""
    path = data / policy / campaign / f"{campaign}.csv.gz"
    if not path.exists():
        raise UsageError(f"{path} is missing; --data names the folder of the Open Bandit sample, with random/ and bts/")
    table = pd.read_csv(path, usecols=["item_id", "position", "click", "propensity_score"])
    return Log(
        item_N=table["item_id"].to_numpy(dtype=np.int64),
        position_N=table["position"].to_numpy(dtype=np.int64) - 1,
        propensity_N=table["propensity_score"].to_numpy(dtype=np.float64),
        click_N=table["click"].to_numpy(dtype=np.float64),
    )
