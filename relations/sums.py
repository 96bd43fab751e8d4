"""From exposures and outcomes to the numbers that a trial is judged on, as Ibis expressions.

A user's arm is the variant of the first exposure, whatever served later (intention to treat; fallbacks included). A
user is *matured* once the attribution window W after that first exposure lies behind the watermark; nobody else counts,
so a late outcome biases nothing. An outcome counts when it names one of the user's exposures and happened within W.

Run on DuckDB here, on any Ibis backend elsewhere: only group-bys, joins and one row number, no vendor's function.
All tables of one call must live on one backend; `ibis.memtable` tables live on any.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import ibis

ARMS: tuple[str, str] = ("champion", "challenger")
SUM_COLUMNS: tuple[str, ...] = (
    *("n", "s", "i", "s0", "i0"),
    *("ss", "si", "ii", "s_s0", "s_i0", "i_s0", "i_i0", "s0s0", "s0i0", "i0i0"),
)
"""Users, then the sums of outcomes S, impressions N and their pre-period values S0, N0, then of all their products."""


@dataclass(frozen=True)
class OutcomeRule:
    """Which events count for an exposure. `summed`: the events' values (none counts 0), not at most one an exposure."""

    behaviour: str
    summed: bool = False


@dataclass(frozen=True)
class TrialWindow:
    """Whose exposures and outcomes a trial is judged on. Times are UTC.

    `start`: what was shown before belongs to the pre-period, `before` long. `window`: W. `watermark`: event time up to
    which data are complete.
    """

    trial_id: str
    start: datetime
    watermark: datetime
    window: timedelta
    before: timedelta


def first_exposures(exposures: ibis.Table, *, trial_id: str) -> ibis.Table:
    """One row a user of the trial: `user`, `arm`, `first_shown`, `crossed` (shown both arms; the first one is kept).

    Shadow and bot exposures, and variants that are no arm, do not count. Ties in time go to the smaller exposure id.
    """
    shown = _counted(exposures)
    shown = shown.filter(shown.trial == trial_id, shown.variant.isin(ARMS))
    by_user = ibis.window(group_by=shown.user)
    ranked = shown.select(
        "user",
        arm=shown.variant,
        first_shown=shown.shown_time,
        place=ibis.row_number().over(ibis.window(group_by=shown.user, order_by=[shown.shown_time, shown.exposure_id])),
        crossed=shown.variant.min().over(by_user) != shown.variant.max().over(by_user),
    )
    return ranked.filter(ranked.place == 0).drop("place")


def exposed_counts(exposures: ibis.Table, *, trial_id: str) -> ibis.Table:
    """One row an arm that has users: `arm`, `users`, `crossed`; matured or not, for the sample-ratio test."""
    first = first_exposures(exposures, trial_id=trial_id)
    return first.group_by("arm").agg(users=first.count(), crossed=first.crossed.cast("int64").sum()).order_by("arm")


def user_outcomes(
    exposures: ibis.Table, events: ibis.Table, *, window: TrialWindow, outcome: OutcomeRule
) -> ibis.Table:
    """One row a matured user: `user`, `arm`, `day` (UTC date of the first exposure), S, N, S0, N0, `is_new`, `crossed`.

    N: impressions shown in [first, first + W] under this trial; S: outcomes of these exposures at or before first + W.
    N0, S0: the same user's impressions of the pre-period, under any trial or none, and their outcomes before the start.
    `is_new`: no impression in the pre-period.
    """
    first = first_exposures(exposures, trial_id=window.trial_id)
    first = first.filter(first.first_shown <= _time(window.watermark - window.window))
    first = first.mutate(until=first.first_shown + _span(window.window))

    shown = _counted(exposures)
    ours = shown.filter(shown.trial == window.trial_id, shown.variant.isin(ARMS))
    ours = ours.join(first.select("user", "until"), "user")
    ours = ours.filter(ours.shown_time <= ours.until).select("user", "exposure_id", "until")
    during = _totals(ours, events, outcome=outcome).rename(S="outcomes", N="impressions")

    began = window.start - window.before
    earlier = shown.filter(shown.shown_time >= _time(began), shown.shown_time < _time(window.start))
    # An outcome at the start itself already belongs to the trial's time; microseconds are the tables' resolution.
    earlier = earlier.select("user", "exposure_id", until=_time(window.start - timedelta(microseconds=1)))
    earlier = earlier.semi_join(first, "user")
    before = _totals(earlier, events, outcome=outcome).rename(S0="outcomes", N0="impressions")

    joined = first.join(during, "user").left_join(before, "user")
    return joined.select(
        "user",
        "arm",
        "S",
        "N",
        "crossed",
        day=joined.first_shown.date(),
        S0=joined.S0.fill_null(0.0),
        N0=joined.N0.fill_null(0.0),
        is_new=joined.N0.isnull(),
    )


def arm_day_sums(users: ibis.Table) -> ibis.Table:
    """One row an arm and day: `arm`, `day`, the columns of SUM_COLUMNS. One group-by over `user_outcomes`."""
    s, i, s0, i0 = users.S, users.N, users.S0, users.N0
    moments = (s, i, s0, i0, s * s, s * i, i * i, s * s0, s * i0, i * s0, i * i0, s0 * s0, s0 * i0, i0 * i0)
    sums = {name: moment.sum() for name, moment in zip(SUM_COLUMNS[1:], moments, strict=True)}
    return users.group_by(["arm", "day"]).agg(n=users.count().cast("float64"), **sums).order_by(["day", "arm"])


def _counted(exposures: ibis.Table) -> ibis.Table:
    return exposures.filter(~exposures.is_shadow, ~exposures.is_bot)


def _totals(shown: ibis.Table, events: ibis.Table, *, outcome: OutcomeRule) -> ibis.Table:
    """Per user: `impressions`, and the `outcomes` of these exposures at or before their `until`."""
    wanted = events.filter(events.behaviour == outcome.behaviour, events.exposure_id.notnull())
    wanted = wanted.select("exposure_id", "event_time", "value")
    named = wanted.join(shown.select("exposure_id", "until"), "exposure_id")
    named = named.filter(named.event_time <= named.until)
    if outcome.summed:
        each = named.group_by("exposure_id").agg(outcomes=named.value.fill_null(0.0).sum())
    else:
        each = named.select("exposure_id").distinct().mutate(outcomes=ibis.literal(1.0))
    scored = shown.left_join(each, "exposure_id")
    return scored.group_by("user").agg(
        impressions=scored.count().cast("float64"), outcomes=scored.outcomes.fill_null(0.0).sum()
    )


def _time(moment: datetime) -> ibis.Value:
    return ibis.literal(moment.astimezone(UTC), type="timestamp('UTC', 6)")


def _span(length: timedelta) -> ibis.Value:
    """Whole seconds: every backend has them."""
    return ibis.interval(seconds=round(length.total_seconds()))
