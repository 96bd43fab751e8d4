"""What the lake tells of its traffic: rates and variances as if the last weeks had been a trial of one arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import ibis
import numpy as np

from gate.accumulation import Accumulation
from gate.estimator import ArmSums
from gate.metrics import PER_USER, Metric, Value
from gate.planning import Observed
from gate.tails import Tail, suggested_caps, told_cap, told_largest
from relations.sums import arm_day_sums, of_rule, outcome_counts, user_outcomes
from relations.traffic import EVERYBODY, as_one_arm, shown_to, visits
from relations.trial_users import TrialWindow
from stores.lake import Lake
from stores.trial_settings import TrialSettings
from tasks.sums import outcome_rule

_DAY = timedelta(days=1)


def somebody_matured(lake: Lake, stated: TrialSettings, *, until: datetime) -> bool:
    """Whether any user was first shown something a window before `until`, the newest exposure."""
    first = _oldest(shown_to(lake.relation("exposures")), otherwise=until)
    return until - first >= timedelta(hours=stated.window_hours)


def observe_metrics(
    lake: Lake, stated: TrialSettings, metrics: Sequence[Metric], *, until: datetime, history_days: int, k: int
) -> tuple[Mapping[str, Observed], tuple[str, ...]]:
    """Rates and variances of users first shown something in the last days, as if that had been a trial of one arm; and
    notes. No cap is suggested that fewer than `k` users exceed."""
    exposures, events = lake.relation("exposures"), lake.relation("events")
    span = (until - _oldest(shown_to(exposures), otherwise=until)) / _DAY
    # Half of what there is, at most, is left to be the pre-period.
    measured = min(history_days, span - min(stated.before_days, span / 2))
    measured = max(measured, min(span, 2 * stated.window_hours / 24))
    window = TrialWindow(
        trial_id=EVERYBODY,
        start=until - timedelta(days=measured),
        watermark=until,
        window=timedelta(hours=stated.window_hours),
        before=timedelta(days=stated.before_days),
    )
    tailed = [metric for metric in metrics if metric.cap is not None or _is_value_per_user(metric)]
    rules = [outcome_rule(metric) for metric in (*metrics, *(replace(metric, cap=None) for metric in tailed))]
    users = user_outcomes(as_one_arm(exposures), events, window=window, rules=rules)
    found = {}
    for place, metric in enumerate(metrics):
        rows = arm_day_sums(of_rule(users, place)).to_pyarrow().to_pylist()
        found[metric.name] = Observed.from_sums(
            metric.name, sum((ArmSums.from_mapping(row) for row in rows), ArmSums())
        )
    seen_before = min(stated.before_days, max(0.0, span - measured))
    notes = []
    if seen_before < stated.before_days:
        notes.append(
            f"only {seen_before:.1f} of {stated.before_days:g} days of pre-period are there to adjust by; with all of "
            "them a trial may need fewer users"
        )
    for place, metric in enumerate(tailed, start=len(metrics)):
        notes += _about_tail(metric, _tail(of_rule(users, place)), k=k)
    return found, tuple(notes)


def _is_value_per_user(metric: Metric) -> bool:
    return metric.value is Value.SUM and metric.per == PER_USER


def _tail(users: ibis.Table) -> Tail:
    counts = outcome_counts(users).to_pyarrow()
    return Tail(*(np.asarray(counts[name], dtype=np.float64) for name in ("S", "users")))


def _about_tail(metric: Metric, tail: Tail, *, k: int) -> tuple[str, ...]:
    """What the metric's cap touches, or which caps there could be: one line, or none where no tail is seen."""
    if metric.cap is not None:
        return (f"{metric.name}: {told_cap(tail, cap=metric.cap)}",)
    caps = suggested_caps(tail, least=k)
    if not caps:
        return ()
    choices = "; ".join(told_cap(tail, cap=cap) for cap in caps)
    return (f"{metric.name} has no cap, and of all its value {told_largest(tail.largest)}: {choices}",)


def observe_arrivals(seen: ibis.Table, *, until: datetime, history_days: int) -> Accumulation:
    """How many different users of `seen` (columns user and at) come over the days before `until`.

    Raises UsageError for fewer than two days of them.
    """
    # Three quarters of the oldest day are a day: nights are quiet.
    days = min(history_days, math.floor((until - _oldest(seen, otherwise=until)) / _DAY + 0.25))
    rows = visits(seen, until=until, days=days).to_pyarrow().to_pylist() if days > 0 else []
    counts = [(int(row["first"]), int(row["visited"]), int(row["users"])) for row in rows]
    return Accumulation.from_counts(counts, days=days)


def _oldest(seen: ibis.Table, *, otherwise: datetime) -> datetime:
    found: datetime | None = seen["at"].min().to_pyarrow().as_py()
    return otherwise if found is None else found
