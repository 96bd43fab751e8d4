"""From exposures and outcomes to the numbers that a trial is judged on, as Ibis expressions.

A user is *matured* once the attribution window W after the first exposure lies behind the watermark; nobody else
counts, so a late outcome biases nothing. An outcome counts when it names one of the user's exposures and happened
within W, or within the metric's own shorter window. Whose exposures count, and in which arm, says
`relations.trial_users`.

Run on DuckDB here, on any Ibis backend elsewhere: only group-bys, joins and row numbers, no vendor's function. All
metrics of a look come of one pass: `user_outcomes` has a row a user, and every sum is a group-by over its rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import add, or_

import ibis

from relations.schemas import ITEM_BEHAVIOURS
from relations.sequences import moment
from relations.trial_users import TrialWindow, counted, first_exposures

LATENCY, FAILURE, DISTINCT, TAIL = "latency", "failure", "distinct", "tail"
RETURN, WEIGHTED = "return", "weighted"
PER_IMPRESSION, PER_USER = "impression", "user"
FALLBACK = "fallback"
"""Why a user has an arm whose model did not answer. Such exposures stay in the arm, and count as failures."""
SUM_COLUMNS: tuple[str, ...] = (
    *("n", "s", "i", "s0", "i0"),
    *("ss", "si", "ii", "s_s0", "s_i0", "i_s0", "i_i0", "s0s0", "s0i0", "i0i0"),
)
"""Users, then the sums of outcomes S, impressions N and their pre-period values S0, N0, then of all their products."""
USER_COLUMNS: tuple[str, ...] = ("user", "arm", "day", "first_shown", "crossed", "is_new", "late")
OWN_COLUMNS: tuple[str, ...] = ("S", "N", "S0", "N0")
_INSTANT = timedelta(microseconds=1)
"""The tables' resolution."""


@dataclass(frozen=True)
class OutcomeRule:
    """A metric, ΣS/ΣN. `outcome`, what S counts:

    - an item behaviour: exposures that an event of it names, at most one each; `summed`: the events' values (none is 0)
    - latency: the exposures' milliseconds; failure: exposures with an error, or that a fallback served
    - distinct: different items shown to the user; tail: exposures of items outside the head, see `head_items`
    - weighted: for each of `weights` (behaviour, worth), its worth for each exposure that an event of it names
    - return: 1 where the user is seen again, by an exposure or any event, no earlier than `after` the first exposure

    `per`, what N counts: impression, user (1 each), or exposures that an event of this item behaviour names. `window`:
    how long after the first exposure what is counted may happen; None: W. `cap`: a user's S and S0 count as this much
    at most; None: as they are.
    """

    outcome: str
    per: str = PER_IMPRESSION
    summed: bool = False
    window: timedelta | None = None
    after: timedelta = timedelta(days=1)
    weights: tuple[tuple[str, float], ...] = ()
    cap: float | None = None


@dataclass(frozen=True)
class _Told:
    """What events say of an exposure, as one column."""

    behaviour: str
    summed: bool
    window: timedelta


def user_outcomes(
    exposures: ibis.Table,
    events: ibis.Table,
    *,
    window: TrialWindow,
    rules: Sequence[OutcomeRule],
    also: Sequence[str] = (),
) -> ibis.Table:
    """One row a matured user: USER_COLUMNS, `also` of the first exposure, and OWN_COLUMNS of each rule, see `of_rule`.

    `day`: UTC date of the first exposure. N: impressions shown in [first, first + window] under this trial; S: outcomes
    of these exposures at or before first + window. N0, S0 by the same rule: of the same user's impressions of the
    pre-period, under any trial or none, and their outcomes before the comparison began; `return` has none. `is_new`: no
    impression in the pre-period. `late`: events that are outcomes of the first rule but for being after its window.
    """
    first = first_exposures(exposures, window.comparison, also=also)
    first = first.filter(first.first_shown <= moment(window.watermark - window.window, name="watermark"))
    shown = _shown(exposures, first, window=window)
    if any(rule.outcome == TAIL for rule in rules):
        head = head_items(events, window=window).mutate(is_head=True)
        shown = shown.left_join(head, "item_id").drop("item_id_right")
        shown = shown.mutate(is_tail=shown.is_head.isnull())
    told = list(dict.fromkeys(each for rule in rules for each in _needed(rule, window=window)))
    shown = _with_told(shown, events, told=told, window=window, late=_outcomes(rules[0], window=window))
    totals = shown.group_by("user").agg(
        shown_before=(~shown.during).sum(),
        late=shown.late.sum(),
        **{
            f"{name}_{place}": column
            for place, rule in enumerate(rules)
            for name, column in _own(shown, rule, told=told, window=window)
        },
    )
    users = first.join(totals, "user")
    returns = {f"S_{place}": rule for place, rule in enumerate(rules) if rule.outcome == RETURN}
    if returns:
        again = _seen_again(exposures, events, first, rules=returns, window=window)
        users = users.left_join(again, "user").drop("user_right")
    own = [f"{name}_{place}" for place in range(len(rules)) for name in OWN_COLUMNS]
    users = users.mutate(**{name: ibis.literal(0.0) for name in own if name not in users.columns})
    caps = {f"{name}_{place}": rule.cap for place, rule in enumerate(rules) for name in ("S", "S0")}
    return users.select(
        "user",
        "arm",
        "first_shown",
        "crossed",
        *also,
        day=users.first_shown.date(),
        is_new=users.shown_before == 0,
        late=users.late.fill_null(0).cast("int64"),
        **{name: _winsorised(users[name].cast("float64").fill_null(0.0), cap=caps.get(name)) for name in own},
    )


def of_rule(users: ibis.Table, place: int) -> ibis.Table:
    """The rows of `user_outcomes` with S, N, S0, N0 of the rule at `place`, and without the other rules'."""
    own = {name: users[f"{name}_{place}"] for name in OWN_COLUMNS}
    return users.select(*(name for name in users.columns if name.partition("_")[0] not in OWN_COLUMNS), **own)


def arm_day_sums(users: ibis.Table) -> ibis.Table:
    """One row an arm and day: `arm`, `day`, the columns of SUM_COLUMNS. One group-by over `of_rule`."""
    return users.group_by(["arm", "day"]).agg(**user_sums(users)).order_by(["day", "arm"])


def late_counts(users: ibis.Table) -> ibis.Table:
    """One row an arm: `arm`, `late` outcomes over `user_outcomes`."""
    return users.group_by("arm").agg(late=users.late.sum().cast("int64")).order_by("arm")


def largest_outcomes(users: ibis.Table) -> ibis.Table:
    """One row an arm: `arm`, `largest`: the largest S of one of its users, over `of_rule`."""
    return users.group_by("arm").agg(largest=users.S.max()).order_by("arm")


def outcome_counts(users: ibis.Table) -> ibis.Table:
    """One row a different S over `of_rule`, ascending: `S`, `users` that have it. All that tails are told from."""
    return users.group_by("S").agg(users=users.count()).order_by("S")


def user_sums(users: ibis.Table) -> dict[str, ibis.Value]:
    """The columns of SUM_COLUMNS, for a group-by over rows with S, N, S0, N0."""
    s, i, s0, i0 = (users[name] for name in OWN_COLUMNS)
    moments = (s, i, s0, i0, s * s, s * i, i * i, s * s0, s * i0, i * s0, i * i0, s0 * s0, s0 * i0, i0 * i0)
    sums = {name: moment.sum() for name, moment in zip(SUM_COLUMNS[1:], moments, strict=True)}
    return {"n": users.count().cast("float64"), **sums}


def head_items(events: ibis.Table, *, window: TrialWindow) -> ibis.Table:
    """The items (one column, `item_id`) that make up the first half of all interactions before the comparison began.

    Most interactions first, ties by item id; the item with which the half is reached belongs to the head. Fixed before
    anyone was exposed, so that no arm can change what it is measured by.
    """
    past = events.filter(events.event_time < moment(window.start, name="start"), events.item_id.notnull())
    counts = past.group_by("item_id").agg(count=past.count())
    ordered = ibis.window(order_by=[ibis.desc(counts["count"]), counts.item_id], rows=(None, 0))
    ranked = counts.mutate(reached=counts["count"].sum().over(ordered), all=counts["count"].sum().over(ibis.window()))
    return ranked.filter((ranked.reached - ranked["count"]) * 2 < ranked["all"]).select("item_id")


def span(length: timedelta) -> ibis.Value:
    """Whole seconds: every backend has them."""
    return ibis.interval(seconds=round(length.total_seconds()))


def _shown(exposures: ibis.Table, first: ibis.Table, *, window: TrialWindow) -> ibis.Table:
    """The exposures that count for matured users: `during` the comparison, within W of the first, or before it."""
    began = window.start - window.before
    rows = counted(exposures)
    rows = rows.filter(rows.shown_time >= moment(began, name="start"))
    rows = rows.select(
        "user",
        "exposure_id",
        "item_id",
        "shown_time",
        "latency_ms",
        failed=rows.error.notnull() | (rows.assignment_reason == FALLBACK),
        ours=window.comparison.has(rows),
    )
    rows = rows.join(first.select("user", "first_shown"), "user")
    earlier = rows.shown_time < moment(window.start, name="start")
    within = rows.ours & (rows.shown_time <= rows.first_shown + span(window.window))
    return rows.filter(earlier | within).mutate(during=~earlier).drop("ours")


def _with_told(
    shown: ibis.Table, events: ibis.Table, *, told: Sequence[_Told], window: TrialWindow, late: Sequence[_Told]
) -> ibis.Table:
    """`shown` with a column `told_…` for each of `told`, null without such an event, and `late` events."""
    if not told:
        return shown.mutate(late=ibis.literal(0))
    wanted = events.filter(events.behaviour.isin([each.behaviour for each in told]), events.exposure_id.notnull())
    wanted = wanted.select("exposure_id", "behaviour", "event_time", "value")
    named = wanted.join(shown.select("exposure_id", "first_shown", "during"), "exposure_id")

    def in_time(each: _Told) -> ibis.Value:
        # An outcome at the beginning itself already belongs to the comparison's time.
        before = moment(window.start - _INSTANT, name="start")
        until = named.during.ifelse(named.first_shown + span(each.window), before)
        return (named.behaviour == each.behaviour) & (named.event_time <= until)

    columns: dict[str, ibis.Value] = {}
    for place, each in enumerate(told):
        counts = in_time(each)
        values = named.value.fill_null(0.0).sum(where=counts)
        columns[f"told_{place}"] = values if each.summed else counts.cast("int64").max()
    if late:
        is_late = reduce(or_, [(named.behaviour == each.behaviour) & ~in_time(each) for each in late])
        columns["late"] = (named.during & is_late).cast("int64").sum()
    each_exposure = named.group_by("exposure_id").agg(**columns)
    joined = shown.left_join(each_exposure, "exposure_id").drop("exposure_id_right")
    return joined if late else joined.mutate(late=ibis.literal(0))


def _own(
    shown: ibis.Table, rule: OutcomeRule, *, told: Sequence[_Told], window: TrialWindow
) -> Iterator[tuple[str, ibis.Value]]:
    """OWN_COLUMNS of `rule` by user, as far as the exposures shown tell them; null is 0."""
    length = rule.window or window.window
    within = shown.during & (shown.shown_time <= shown.first_shown + span(length))

    def named(behaviour: str, *, summed: bool) -> ibis.Value:
        return shown[f"told_{told.index(_Told(behaviour, summed, length))}"]

    def outcome(where: ibis.Value) -> ibis.Value:
        if rule.outcome == DISTINCT:
            return shown.item_id.nunique(where=where)
        if rule.outcome == LATENCY:
            return shown.latency_ms.sum(where=where)
        if rule.outcome in (FAILURE, TAIL):
            flag = shown.failed if rule.outcome == FAILURE else shown.is_tail
            return flag.cast("int64").sum(where=where)
        if rule.outcome == WEIGHTED:
            worths = [named(behaviour, summed=False).fill_null(0) * worth for behaviour, worth in rule.weights]
            return reduce(add, worths).sum(where=where)
        return named(rule.outcome, summed=rule.summed).sum(where=where)

    def base(where: ibis.Value) -> ibis.Value:
        if rule.per == PER_USER:
            return where.cast("int64").max()
        if rule.per == PER_IMPRESSION:
            return where.cast("int64").sum()
        return named(rule.per, summed=False).sum(where=where)

    if rule.outcome == RETURN:
        yield "N", base(within)
        return
    yield from (("S", outcome(within)), ("N", base(within)))
    yield from (("S0", outcome(~shown.during)), ("N0", base(~shown.during)))


def _winsorised(outcome: ibis.Value, *, cap: float | None) -> ibis.Value:
    return outcome if cap is None else ibis.least(outcome, cap)


def _needed(rule: OutcomeRule, *, window: TrialWindow) -> Iterator[_Told]:
    yield from _outcomes(rule, window=window)
    if rule.per in ITEM_BEHAVIOURS:
        yield _Told(rule.per, False, rule.window or window.window)


def _outcomes(rule: OutcomeRule, *, window: TrialWindow) -> tuple[_Told, ...]:
    """What events tell of the rule's S; nothing where the exposures tell it."""
    length = rule.window or window.window
    if rule.outcome in ITEM_BEHAVIOURS:
        return (_Told(rule.outcome, rule.summed, length),)
    return tuple(_Told(behaviour, False, length) for behaviour, _ in rule.weights)


def _seen_again(
    exposures: ibis.Table,
    events: ibis.Table,
    first: ibis.Table,
    *,
    rules: dict[str, OutcomeRule],
    window: TrialWindow,
) -> ibis.Table:
    """Of the users of `first` that were seen after they came: `user`, and for each rule's column 1 where it holds."""
    shown = counted(exposures)
    since = moment(window.start, name="start")
    seen = ibis.union(shown.select("user", at=shown.shown_time), events.select("user", at=events.event_time))
    seen = seen.filter(seen["at"] >= since).join(first.select("user", "first_shown"), "user")

    def again(rule: OutcomeRule) -> ibis.Value:
        late_enough = seen["at"] >= seen.first_shown + span(rule.after)
        return late_enough & (seen["at"] <= seen.first_shown + span(rule.window or window.window))

    return seen.group_by("user").agg(**{name: again(rule).cast("int64").max() for name, rule in rules.items()})
