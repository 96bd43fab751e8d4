"""What a challenger would have earned on the champion's logged requests: a hint before a trial, never a decision."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate.metrics import PER_IMPRESSION, Metric
from gate.off_policy import Estimator, OffPolicy, evaluate_policy
from gate.slates import SlotTargets, item_rewards, slot_targets
from model.evaluation import RankerRecommender
from model.offered import Offered
from model.recommending import Question, best_items
from relations.errors import GateRefused, UsageError
from relations.schemas import ITEM_BEHAVIOURS
from stores.blocklist import read as read_blocklist
from stores.candidate_sets import rows_as_bytes, set_hash
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from tasks.allowed import withdrawn_items
from tasks.logged_requests import RequestLog, read_questions, read_requests
from tasks.training import load_version
from tasks.trial_plans import metric_of

FOUND = 0.1
"""Of the logged requests at least this share must be found again: the champion, asked with the history of that moment,
comes to the candidates whose hash was logged. Whether it does depends on the request, never on what was drawn, so that
leaving the others out biases no weight. Where a side index of new items stood beside the network, which is not kept, a
request counts as found where all its slots come out with their logged propensity: nearly the same, but not quite."""
REBUILT = 0.9
"""And for these the champion must come to the logged propensities for at least this share of slots."""
INTERVALS = 2 * len(Estimator)
"""Two policies by three estimators hold jointly."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEDY = (
    "let both rank one list instead, which needs no overlap (an interleave stage), or raise [policy] exploration and "
    "come back when that was logged"
)


@dataclass(frozen=True)
class Screening:
    """`read` requests of the log, of which `log` holds those that were found again. `rebuilt`: share of their slots
    whose propensity the champion comes to again. `champion` and `challenger` are None where nothing can be judged by.
    `reasons`: why there is no answer; none with one."""

    metric: str
    champion_version: int
    challenger_version: int
    since: datetime
    until: datetime
    read: int
    log: RequestLog
    reasons: tuple[str, ...]
    rebuilt: float | None
    champion: OffPolicy | None
    challenger: OffPolicy | None

    @property
    def refused(self) -> bool:
        return bool(self.reasons)

    @property
    def reading(self) -> str:
        """What the two DR intervals say, which hold jointly: better, worse, not told apart; or refused."""
        if self.refused or self.champion is None or self.challenger is None:
            return "refused"
        ours, theirs = self.challenger.value(Estimator.DR), self.champion.value(Estimator.DR)
        if ours.lower > theirs.upper:
            return "better"
        return "worse" if ours.upper < theirs.lower else "not told apart"

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "champion": {"version": self.champion_version, **(self.champion.as_json() if self.champion else {})},
            "challenger": {
                "version": self.challenger_version,
                **(self.challenger.as_json() if self.challenger else {}),
            },
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "read": self.read,
            "requests": len(self.log.requests),
            "users": self.log.users,
            "rebuilt": self.rebuilt,
            "reading": self.reading,
            "refused": self.refused,
            "reasons": list(self.reasons),
        }


def screen_challenger(
    home: Home, settings: Settings, *, challenger: int, metric: str | None = None, days: float = 28, most: int = 2_000
) -> Screening:
    """Estimate both models' value per impression from at most `most` of the champion's logged requests. Writes nothing.

    Only requests after both models' training data end count: a model may have learnt the outcomes of earlier ones, and
    would look as if it had foreseen them. And only those whose attribution window is over.

    Raises GateRefused without a champion, UsageError for an unknown version, a metric that is not of single
    impressions, or numbers that are not above 0.
    """
    what = _metric(settings, metric or settings.trial.metric)
    if not days > 0 or most < 1:
        raise UsageError(f"screen: days = {days:g} and requests = {most} must be above 0")
    ledger = Ledger.of(home, settings)
    champion = ledger.champion()
    if champion is None:
        raise GateRefused(f"{home.root}: no champion, so nothing was logged that a challenger could be held against")
    records = (ledger.version(champion.version), ledger.version(challenger))
    window = timedelta(hours=what.window_hours or settings.trial.window_hours)
    learnt = _EPOCH + timedelta(microseconds=max(each.cutoff_us for each in records))
    with closing(Lake.of(home, settings.lake)) as lake:
        until = (lake.watermark("exposures") or _EPOCH) - window
        since = max(learnt, until - timedelta(days=days))
        log = read_requests(lake, what, digest=champion.digest, since=since, until=until, window=window, most=most)
        told = _Told(log, reasons=(_nothing(champion.version, since, until),))
        if log.requests:
            told = _estimated(home, settings, lake, log, records)
    return Screening(
        metric=what.name,
        champion_version=champion.version,
        challenger_version=challenger,
        since=since,
        until=until,
        read=len(log.requests),
        **vars(told),
    )


@dataclass(frozen=True)
class _Told:
    """What the log tells, as in `Screening`."""

    log: RequestLog
    reasons: tuple[str, ...]
    rebuilt: float | None = None
    champion: OffPolicy | None = None
    challenger: OffPolicy | None = None


def _estimated(
    home: Home, settings: Settings, lake: Lake, log: RequestLog, records: tuple[VersionRecord, VersionRecord]
) -> _Told:
    hidden = {*withdrawn_items(lake, version=lake.version("items")), *read_blocklist(home.blocklist).items}
    questions = read_questions(lake, log.requests, exclude_seen=settings.policy.exclude_seen)
    exploration = settings.policy.exploration

    def ranked(record: VersionRecord, asked: Sequence[Question]) -> tuple[Sequence[str], list[list[str]]]:
        ranker = RankerRecommender.of(load_version(home, settings, record.version))
        return ranker.items, best_items(Offered(ranker, withdrawn=hidden), asked, n=settings.policy.candidates)

    items, lists = ranked(records[0], questions)
    codes: dict[str, int] = {}

    def targets(log: RequestLog, lists: Sequence[Sequence[str]]) -> SlotTargets:
        shown, candidates = (
            [[codes.setdefault(item, len(codes)) for item in each] for each in part]
            for part in ([each.items for each in log.requests], lists)
        )
        return slot_targets(shown, candidates, exploration=exploration)

    def same(log: RequestLog, found: SlotTargets) -> NDArray[np.bool_]:
        return np.isclose(found.probability_N, log.propensity_N, rtol=0.05, atol=0)

    ends = np.cumsum([len(each.items) for each in log.requests])[:-1]
    whole = [bool(part.all()) for part in np.split(same(log, targets(log, lists)), ends)]
    row = {item: place for place, item in enumerate(items)}
    hashes = [set_hash(records[0].digest, rows_as_bytes(row[item] for item in each)) for each in lists]
    kept = [
        each.set_hash == found or (each.beside and comes)
        for each, found, comes in zip(log.requests, hashes, whole, strict=True)
    ]
    if sum(kept) < FOUND * len(kept):
        return _Told(log.keep(kept), (_not_found(sum(kept), len(kept)), _REMEDY))
    log = log.keep(kept)
    champion = targets(log, list(compress(lists, kept)))
    challenger = targets(log, ranked(records[1], list(compress(questions, kept)))[1])
    item_N = np.array([codes[item] for each in log.requests for item in each.items], dtype=np.int64)
    theirs, ours = (_value(log, each, item_N=item_N, exploration=exploration) for each in (champion, challenger))
    rebuilt = float(same(log, champion).mean())
    return _Told(log, _reasons(rebuilt, (theirs, ours)), rebuilt, theirs, ours)


def _value(log: RequestLog, targets: SlotTargets, *, item_N: NDArray[np.int64], exploration: float) -> OffPolicy:
    model = None
    if log.users > 1:  # else refused anyway, and nothing can be cross-fitted
        model = item_rewards(
            targets,
            item_N=item_N,
            position_N=log.position_N,
            reward_N=log.reward_N,
            cluster_N=log.user_N,
            exploration=exploration,
        )
    return evaluate_policy(
        reward_N=log.reward_N,
        target_N=targets.probability_N,
        propensity_N=log.propensity_N,
        cluster_N=log.user_N,
        model=model,
        jointly=INTERVALS,
    )


def _nothing(champion: int, since: datetime, until: datetime) -> str:
    if until <= since:
        return (
            f"a model may have learnt from what is older than {since:%Y-%m-%d %H:%M} UTC, and nothing that champion "
            f"v{champion} answered later is in the lake with its outcomes: serve, `ratchet ingest` what was logged and "
            "wait for traffic, or start a trial"
        )
    return (
        f"no request that champion v{champion} answered with exact propensities lies between {since:%Y-%m-%d %H:%M} "
        f"and {until:%Y-%m-%d %H:%M} UTC: a model may have learnt from what is older, and the outcomes of what is "
        "newer are not all in; wait for traffic, or start a trial"
    )


def _not_found(found: int, requests: int) -> str:
    return (
        f"for {found:,} of {requests:,} requests the champion comes to the candidates that were logged ({FOUND:.0%} "
        "are needed): callers stated histories, filters or items to leave out, which are not logged, or items came or "
        "went"
    )


def _reasons(rebuilt: float, values: Sequence[OffPolicy]) -> tuple[str, ...]:
    found = []
    if rebuilt < REBUILT:
        found.append(
            f"only {rebuilt:.0%} of the champion's own slots come out with the propensity that was logged "
            f"({REBUILT:.0%} are needed): [policy] exploration is not what it was, or the order of equal candidates"
        )
    for name, value in zip(("champion", "challenger"), values, strict=True):
        found += [f"{name}: {reason}" for reason in value.reasons]
    return (*found, _REMEDY) if found else ()


def _metric(settings: Settings, name: str) -> Metric:
    metric = metric_of(settings, name)
    if metric.outcome not in ITEM_BEHAVIOURS or metric.per != PER_IMPRESSION:
        raise UsageError(
            f"metric {name}: {metric.outcome} per {metric.per} is not told of single impressions; pass --metric with "
            "one that is an item behaviour per impression"
        )
    if metric.cap is not None:
        raise UsageError(
            f"metric {name}: cap = {metric.cap:g} is on a user's total, which single impressions do not tell; pass "
            "--metric with one that has no cap"
        )
    return metric
