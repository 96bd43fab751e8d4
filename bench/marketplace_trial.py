"""One trial on the marketplace, from its opening to the champion's return; every answer of serving is checked."""

import hashlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.marketplace_challengers import Challenger, Roster
from bench.marketplace_home import APPROVER, SUBMITTER, Shop
from simulation.client import RecommendClient, RequestFailed
from simulation.clock import DAY_US, SECOND_US, iso
from simulation.panel import Wave

HOUR_US = 3_600 * SECOND_US
WAVE_US = HOUR_US + HOUR_US // 4
"""Between two waves: more than the attribution window, so that each wave tells that the one before has matured."""
ENDLESS = ("CONTINUE", "HOLD")
BUCKETS = 10_000


@dataclass
class Tally:
    """What clients saw, to be found again in the lake, and what was wrong with it."""

    requests: int = 0
    failed: int = 0
    impressions: int = 0
    events: int = 0
    repeated: int = 0
    strangers: int = 0
    """Answers of a model, trial or arm that this user was not to get."""
    clicks: Counter[str] = field(default_factory=Counter)
    expected: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Clicks that the truth expects of the very requests that were answered, by arm."""
    variance: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def off(self, arm: str) -> float:
        """Clicks beyond what the truth expects, in standard deviations (a sum of independent draws)."""
        return float((self.clicks[arm] - self.expected[arm]) / max(self.variance[arm], 1e-9) ** 0.5)


def warm_up(shop: Shop) -> None:
    """Everybody comes once while no trial is open: the pre-period that estimates are adjusted for."""
    shop.day += 1
    rng = np.random.default_rng([shop.seed, 4])
    shop.panel.visit(np.arange(len(shop.panel)), shop.client, at_us=shop.day * DAY_US, rng=rng)
    shop.ingest(shop.now() + timedelta(hours=2))


def hold_trial(shop: Shop, roster: Roster, challenger: Challenger, *, attempt: int) -> dict[str, Any]:
    """Open, visit, look until the gate has an answer; approve and roll back a promotion. Returns the trial's row."""
    from flows.trial import trial as look
    from tasks.trials import start_trial

    began, spent = time.monotonic(), dict.fromkeys(("visits", "ingest", "looks", "promotion"), 0.0)
    before = shop.totals()["accepted"]
    tally = Tally()
    config = start_trial.fn(
        shop.home,
        shop.settings,
        challengers=[challenger.version],
        actor=SUBMITTER,
        now=shop.now(),
        allow_offline_worse=True,
    )
    trial_id = str(config["trial_id"])
    shop.wait_for_trial(trial_id)
    checker = Checker(shop, roster, challenger, trial_id=trial_id, salt=str(config["salt"]), tally=tally)
    rng = np.random.default_rng([shop.seed, 5, challenger.place, attempt])
    evidence: dict[str, Any] = {}
    for number, people_P in enumerate(_waves(shop, rng)):
        at_us = shop.day * DAY_US + number * WAVE_US
        with _timed(spent, "visits"):
            checker.check(shop.panel.visit(people_P, shop.client, at_us=at_us, rng=rng))
        now = shop.at(at_us + HOUR_US)
        with _timed(spent, "ingest"):
            shop.ingest(now)
        if number == 0:  # nobody has matured
            continue
        with _timed(spent, "looks"):
            evidence = look(**shop.where, trial=trial_id, now=now)
        if evidence["verdict"] not in ENDLESS:
            break
    row = _row(challenger, evidence)
    if evidence["verdict"] == "PROMOTE":
        with _timed(spent, "promotion"):
            row |= _there_and_back(shop, roster, challenger, trial_id, tally)
    tally.failed += shop.client.counts.failures
    shop.client.counts.failures = 0
    after = shop.totals()["accepted"]
    return row | {
        "attempt": attempt,
        "day": shop.day,
        "state": str(shop.ledger.trial(trial_id).state),
        "requests": tally.requests,
        "failed": tally.failed,
        "strangers": tally.strangers,
        "impressions": tally.impressions,
        "events": tally.events,
        "repeated": tally.repeated,
        "unlogged": tally.impressions + tally.events - (after - before),
        "off": [tally.off(arm) for arm in ("champion", "challenger")],
        "seconds": time.monotonic() - began,
        **{f"{name}_seconds": round(seconds, 2) for name, seconds in spent.items()},
    }


def _row(challenger: Challenger, evidence: dict[str, Any]) -> dict[str, Any]:
    return {
        "place": challenger.place,
        "kind": challenger.kind,
        "true_lift": challenger.true_lift,
        "panel_error": challenger.panel_error,
        "same": challenger.same,
        "trial": evidence["trial_id"],
        "verdict": evidence["verdict"],
        "reason": evidence["reasons"][0],
        "looks": evidence["look"],
        "users": sum(evidence["matured"]),
        "exposed": _total(evidence["exposed"]),
        "lift": evidence["lift"],
        "lift_interval": evidence["lift_interval"],
        "relative_error": evidence["standard_error"] / evidence["champion_rate"],
        "variance_reduction": evidence["variance_reduction"],
        "srm_p": evidence["srm_p"],
    }


class Checker:
    """Judges answers: of the right model for this user, and clicked as the truth says."""

    def __init__(
        self, shop: Shop, roster: Roster, challenger: Challenger, *, trial_id: str, salt: str, tally: Tally
    ) -> None:
        from stores.pseudonyms import Keys

        keys = Keys.load(shop.home.keys)
        treated = round(BUCKETS * shop.settings.trial.allocation)
        arms = (("champion", roster.champion["digest"]), ("challenger", challenger.digest))
        names = [keys.history(context.user_id)[0] for context in shop.panel.contexts]
        self._arm_P = [arms[_bucket(name, salt=salt) < treated] for name in names]
        self._trial, self._tally = trial_id, tally
        self._policies = {}
        for (_, digest), version in zip(arms, (roster.champion["version"], challenger.version), strict=True):
            lists = shop.candidates(shop.fitted(version))
            mean_P, _ = shop.panel.expected(lists, exploration=shop.settings.policy.exploration)
            self._policies[digest] = mean_P

    def check(self, wave: Wave) -> None:
        tally = self._tally
        tally.requests += len(wave.answers)
        tally.impressions += sum(answer.shown for answer in wave.answers)
        tally.events += wave.events
        tally.repeated += wave.repeated
        for answer in wave.answers:
            arm, digest = self._arm_P[answer.place]
            if (answer.arm, answer.digest, answer.trial) != (arm, digest, self._trial):
                tally.strangers += 1
                continue
            tally.clicks[arm] += answer.clicks
            mean = float(self._policies[digest][answer.place])
            tally.expected[arm] += mean
            # Clicks of one page are independent given the page, and pages of one policy differ little.
            tally.variance[arm] += mean * (1 - mean / answer.shown)


def _bucket(unit: str, *, salt: str) -> int:
    """The assignment by the specification, apart from serving's own code."""
    return int(hashlib.sha256(f"{salt}:ranker:{unit}".encode()).hexdigest()[:8], 16) % BUCKETS


def _waves(shop: Shop, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Places of the panel in the order of their coming: equal waves, then the latecomers."""
    order = rng.permutation(len(shop.panel))
    return [*np.array_split(order[: shop.plan.n_max], shop.plan.looks), order[shop.plan.n_max :]]


def _there_and_back(shop: Shop, roster: Roster, challenger: Challenger, trial_id: str, tally: Tally) -> dict[str, Any]:
    """A person approves, serving swaps, another decision brings the champion back; requests go on all the while."""
    from flows.promote import promote
    from flows.rollback import rollback

    now = shop.at(shop.day * DAY_US + (shop.plan.looks + 1) * WAVE_US)
    champion = str(roster.champion["digest"])
    with asking(shop, now=iso((shop.day * DAY_US) + (shop.plan.looks + 1) * WAVE_US, shop.market.parameters)) as asked:
        began = time.monotonic()
        promote(**shop.where, trial=trial_id, actor=APPROVER, reason="clicks rose, no check objects", now=now)
        shop.wait_for_champion(challenger.digest)
        swapped = time.monotonic() - began
        asked.until(challenger.digest)
        rollback(**shop.where, actor=APPROVER, reason="the next trial meets the same champion", now=now)
        shop.wait_for_champion(champion)
        asked.until(champion)
    tally.requests += asked.requests
    tally.failed += asked.failed
    tally.impressions += asked.impressions
    tally.strangers += sum(digest not in (champion, challenger.digest) for digest in asked.digests)
    shop.ingest(now + timedelta(hours=1))
    return {"swap_seconds": round(swapped, 2), "swap_requests": asked.requests}


@dataclass
class Asked:
    """Visitors whom nobody knows, without a pause."""

    requests: int = 0
    failed: int = 0
    impressions: int = 0
    digests: list[str] = field(default_factory=list)

    def until(self, digest: str, *, seconds: float = 60.0) -> None:
        """Until an answer is of this model. Raises RuntimeError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.digests or self.digests[-1] != digest:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer of {digest[:12]} within {seconds:.0f} s")
            time.sleep(0.01)


@contextmanager
def asking(shop: Shop, *, now: str) -> Iterator[Asked]:
    asked, stop = Asked(), threading.Event()

    def ask() -> None:
        with RecommendClient(f"http://127.0.0.1:{shop.port}", timeout_seconds=60.0) as client:
            while not stop.is_set():
                asked.requests += 1
                try:
                    slate = client.recommend(f"visitor-{asked.requests}", k=1, now=now)
                    asked.impressions += len(slate.item_ids)
                    asked.digests.append(slate.digest)
                except RequestFailed:
                    asked.failed += 1
                time.sleep(0.01)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        spent[name] += time.monotonic() - began


def _total(users: Any) -> int:
    return int(sum(users.values() if isinstance(users, dict) else users))
