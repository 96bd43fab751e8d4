"""What a log tells of single choices: which item stood where, how likely it was, what it earned, what was known then.

For off-policy estimates. Only exposures whose propensity is exact, of one model's own policy, count.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import ibis

from relations.sequences import moment
from relations.trial_users import counted

EXACT = "exact"
SLOT_COLUMNS = (
    *("request_id", "user", "shown_time", "served_by", "candidate_set_hash"),
    *("position", "item_id", "propensity"),
)


def logged_slots(
    exposures: ibis.Table, *, digest: str, policy: str, since: datetime, until: datetime, most: int
) -> ibis.Table:
    """Slots that `policy` filled from the model `digest` in [since, until], of the first `most` requests by their id.

    Serving's request ids are random, so that is a random sample, and the same at each call. Columns: SLOT_COLUMNS and
    `exposure_id`; no bots, no shadows.
    """
    rows = counted(exposures)
    rows = rows.filter(
        rows.propensity_kind == EXACT,
        rows.digest == digest,
        rows.policy == policy,
        rows.variant == "champion",
        rows.shown_time >= moment(since, name="since"),
        rows.shown_time <= moment(until, name="until"),
    )
    sample = rows.select("request_id").distinct().order_by("request_id").limit(most)
    return rows.semi_join(sample, "request_id").select(*SLOT_COLUMNS, "exposure_id")


def slot_rewards(
    slots: ibis.Table, events: ibis.Table, *, behaviour: str, summed: bool, window: timedelta
) -> ibis.Table:
    """`slots` with their `reward`: events of `behaviour` that name the exposure, at most `window` after it was shown.

    At most one an exposure, or with `summed` the events' values. Ordered by (request_id, position).
    """
    wanted = events.filter(events.behaviour == behaviour, events.exposure_id.notnull())
    wanted = wanted.select("exposure_id", "event_time", "value")
    named = wanted.join(slots.select("exposure_id", "shown_time"), "exposure_id")
    named = named.filter(named.event_time <= named.shown_time + ibis.interval(seconds=round(window.total_seconds())))
    named = named.mutate(worth=named.value.fill_null(0.0) if summed else ibis.literal(1.0))
    earned = named.worth.sum() if summed else named.worth.max()
    found = slots.left_join(named.group_by("exposure_id").agg(earned=earned), "exposure_id")
    return found.select(*SLOT_COLUMNS, reward=found.earned.fill_null(0.0)).order_by(["request_id", "position"])


def histories_at(requests: ibis.Table, events: ibis.Table, *, told_at_once: Sequence[str], length: int) -> ibis.Table:
    """What serving can have known of each request's user: the newest `length` events on items, oldest first.

    `requests`: request_id, user, shown_time. An event was known once it was received; one from the sources
    `told_at_once` (feedback goes to serving itself) from its own time on. What happened at the request's own instant
    was not known. Columns: request_id, item_id, behaviour, event_time; by request and (event_time, event_id).
    """
    items = events.filter(events.item_id.notnull())
    later = ibis.greatest(items.event_time, items.received_time)
    known = items.source.isin(tuple(told_at_once)).ifelse(items.event_time, later)
    past = items.select("user", "event_id", "item_id", "behaviour", "event_time", known=known)
    asked = requests.select("request_id", "user", "shown_time")
    pairs = asked.join(past, "user")
    pairs = pairs.filter(pairs.known < pairs.shown_time)
    newest = ibis.window(group_by=pairs.request_id, order_by=[pairs.event_time.desc(), pairs.event_id.desc()])
    ranked = pairs.mutate(place=ibis.row_number().over(newest))
    kept = ranked.filter(ranked.place < length).order_by(["request_id", "event_time", "event_id"])
    return kept.select("request_id", "item_id", "behaviour", "event_time")
