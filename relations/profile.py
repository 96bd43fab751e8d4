"""What a delivery looks like: one row of named numbers, as Ibis expressions.

A batch can pass row by row and still be poisoned. These numbers are what tells: a receipt keeps them, and
`expectations.batches` holds them against those of earlier deliveries. Shares are of all rows and lie in [0, 1]. A
number that does not apply is null: no ratings, no times apart, nothing trailing.

What needs to know what was normal for an item or a pair (surges, surprise, flips, orphans) takes that from `trailing`,
the accepted events of earlier deliveries, never from the batch alone: a batch that is poisoned enough is its own norm.

Patterns in time, orphans and flips look at whole users, all of them up to `SAMPLE_ROWS` rows and one in k beyond, so
that time and memory stay flat; shares of rows are estimated without bias by it, because users are drawn by their hash.
"""

import ibis
import pyarrow as pa

from relations.flips import flip_evidence
from relations.schemas import BEHAVIOURS, SCHEMAS

SAMPLE_ROWS = 1_000_000
BUSY = 10
"""Rows from which a user's pace can be told."""
SLICES = 64
"""Equal parts of a delivery's time, for telling a long presence from a visit."""
HEAVY_SHARE = 0.02
"""Share of the rows (and `2 * BUSY` of them) from which one user's presence is looked at."""
REGULAR = 0.5
"""Coefficient of variation of the gaps below which a pace is a machine's. Memoryless gaps have 1, people more."""
FAST_PER_MINUTE = 60.0
AHEAD_SECONDS = 300
"""Clocks this far ahead of arrival are wrong rather than unsynchronised."""
BEHIND_SECONDS = 7 * 86_400

SHALLOW: tuple[str, ...] = ("view", "click")
DEEP: tuple[str, ...] = ("cart", "purchase")
"""What nobody does to an item without having looked at it."""


def profile(events: ibis.Table, *, trailing: ibis.Table | None = None, items: ibis.Table | None = None) -> ibis.Table:
    """One row: the profile of `events` (columns of EVENTS; times in UTC). All tables live on one backend.

    `trailing`: accepted events of the window; without it what is relative to it is left out. `items`: the items table,
    for the share of rows on items that neither it nor `trailing` knows.
    """
    sample = _whole_users(events)
    parts = [_rows(events), _people(events), _things(events), _presence(events, sample), _pace(sample)]
    if trailing is not None:
        parts += [
            _mix(events, trailing),
            _surges(events, trailing),
            _orphans(sample, trailing),
            _heavy(events, trailing),
        ]
        parts.append(flip_evidence(sample, trailing))
    if items is not None:
        parts.append(_unknown(events, trailing, items))
    row = parts[0]
    for part in parts[1:]:
        row = row.cross_join(part)
    return row


def plain_profile(rows: ibis.Table, *, kind: str) -> ibis.Table:
    """One row for a table without behaviour (items, users, exposures): `rows`, and `null_NAME` a nullable column."""
    nullable = [field.name for field in SCHEMAS[kind] if field.nullable and field.name in rows.columns]
    nulls = {f"null_{name}": rows[name].isnull().mean() for name in nullable}
    people = {"users": rows.user.nunique().cast("float64")} if "user" in rows.columns else {}
    things = {"items": rows.item_id.nunique().cast("float64")} if "item_id" in rows.columns else {}
    return rows.agg(rows=rows.count().cast("float64"), **people, **things, **nulls)


def numbers(row: pa.Table) -> dict[str, float]:
    """The profile's one row as a receipt keeps it: null and NaN are left out."""
    found = {name: row.column(name)[0].as_py() for name in row.column_names}
    return {name: float(value) for name, value in found.items() if value is not None and value == value}


def _rows(events: ibis.Table) -> ibis.Table:
    """Volume, behaviour shares, ratings, nulls and clocks. Grouped first: strings are compared once a behaviour."""
    by = events.group_by("behaviour").agg(
        n=events.count(), mean=events.value.mean(), std=events.value.std(how="pop"), nulls=events.value.isnull().sum()
    )
    rating = by.behaviour == "rating"
    total = by.n.sum().nullif(0)
    mixed = by.agg(
        rows=by.n.sum().fill_null(0).cast("float64"),
        **{f"share_{name}": by.n.sum(where=by.behaviour == name).fill_null(0) / total for name in BEHAVIOURS},
        ratings=by.n.sum(where=rating).fill_null(0).cast("float64"),
        rating_mean=by["mean"].max(where=rating),
        rating_std=by["std"].max(where=rating),
        null_value=by.nulls.sum() / total,
    )
    clocks = events.agg(
        ahead=(events.event_time > events.received_time + ibis.interval(seconds=AHEAD_SECONDS)).mean(),
        behind=(events.event_time < events.received_time - ibis.interval(seconds=BEHIND_SECONDS)).mean(),
        received=events.received_time.max(),
        newest=events.event_time.max(),
        oldest=events.event_time.min(),
    )
    joined = mixed.cross_join(clocks)
    return joined.select(
        *mixed.columns,
        "ahead",
        "behind",
        newest_age_hours=(_seconds(joined.received) - _seconds(joined.newest)) / 3600,
        span_hours=(_seconds(joined.newest) - _seconds(joined.oldest)) / 3600,
    )


def _people(events: ibis.Table) -> ibis.Table:
    """How the rows spread over users: `users`, rows a user (mean, 99th percentile), shares of the busiest."""
    count = events.group_by("user").agg(n=events.count())
    ranked = count.order_by(ibis.desc("n")).limit(10)
    total = count.n.sum()
    busiest = ranked.agg(top=ranked.n.max(), top10=ranked.n.sum())
    spread = count.agg(
        users=count.count().cast("float64"), user_mean=count.n.mean(), user_p99=count.n.quantile(0.99), total=total
    )
    joined = spread.cross_join(busiest)
    return joined.select(
        "users",
        "user_mean",
        user_p99=joined.user_p99.cast("float64"),
        user_top=joined.top / joined.total,
        user_top10=joined.top10 / joined.total,
    )


def _things(events: ibis.Table) -> ibis.Table:
    on_items = events.filter(events.item_id.notnull())
    count = on_items.group_by("item_id").agg(n=on_items.count())
    ranked = count.order_by(ibis.desc("n")).limit(10)
    busiest = ranked.agg(top=ranked.n.max(), top10=ranked.n.sum())
    joined = count.agg(items=count.count().cast("float64"), total=count.n.sum()).cross_join(busiest)
    return joined.select("items", item_top=joined.top / joined.total, item_top10=joined.top10 / joined.total)


def _presence(events: ibis.Table, sample: ibis.Table) -> ibis.Table:
    """`presence`: the largest share of the delivery's time slices in which one heavy user is active; 0 without one.

    A person comes, writes and goes; an id that many share (a client that lost its users) is always there. The slices
    run between the 1st and the 99th percentile of time, so that one wrong clock does not stretch them.
    """
    count = events.group_by("user").agg(n=events.count())
    # A column first: Spark does not find a filter's own columns beside a sum over all rows.
    count = count.mutate(enough=ibis.greatest(HEAVY_SHARE * count.n.sum().over(ibis.window()), 2.0 * BUSY))
    heavy = count.filter(count.n >= count.enough)
    timed = events.semi_join(heavy, "user").select("user", at=_seconds(events.event_time))
    clock = sample.select(at=_seconds(sample.event_time))
    edges = clock.agg(low=clock.at.quantile(0.01), high=clock.at.quantile(0.99))
    placed = timed.cross_join(edges)
    width = ibis.greatest(placed.high - placed.low, 1e-6)
    place = ibis.greatest(ibis.least(((placed.at - placed.low) / width * SLICES).floor(), SLICES - 1.0), 0.0)
    active = placed.select("user", place=place).distinct().group_by("user").agg(slices=ibis._.count())
    return active.agg(presence=(active.slices.max() / SLICES).fill_null(0.0))


def _whole_users(events: ibis.Table) -> ibis.Table:
    one_in = (events.count() / SAMPLE_ROWS).ceil().cast("int64").as_scalar()
    return events.filter(events.user.hash() % ibis.greatest(one_in, 1) == 0)


def _pace(events: ibis.Table) -> ibis.Table:
    """Machines by their pace: shares of rows of users with `BUSY` rows or more.

    `regular`: whose gaps between events vary little (standard deviation / mean ≤ REGULAR). Source of the statistic: the
    burstiness of human dynamics, Goh and Barabási, EPL 2008: people are burstier than a memoryless process (ratio
    1), timers are below it. `fast`: who write more than `FAST_PER_MINUTE` events a minute from first to last.
    """
    at = events.select("user", at=_seconds(events.event_time))
    previous = at.at.lag().over(ibis.window(group_by=at.user, order_by=at.at))
    gaps = at.mutate(gap=at.at - previous)
    user = gaps.group_by("user").agg(
        n=gaps.count(),
        mean=gaps.gap.mean(),
        deviation=gaps.gap.std(how="pop"),
        span=gaps.at.max() - gaps.at.min(),
    )
    total = user.n.sum()
    busy = user.n >= BUSY
    regular = busy & (user["mean"] > 0) & (user.deviation <= REGULAR * user["mean"])
    fast = busy & (user.span > 0) & (user.n * 60.0 > FAST_PER_MINUTE * user.span)  # one stamp for all is no pace
    return user.agg(
        regular=user.n.sum(where=regular).fill_null(0) / total,
        fast=user.n.sum(where=fast).fill_null(0) / total,
    )


def _mix(events: ibis.Table, trailing: ibis.Table) -> ibis.Table:
    """`behaviour_psi`: population stability index Σ (p − q) ln(p / q) of the behaviours, p here and q trailing.

    Source: Siddiqi, Credit Risk Scorecards, 2006. A share of 0 counts as 1e-4.
    """
    now, then = _shares(events, ""), _shares(trailing, "_then")
    joined = now.cross_join(then)
    terms = [
        (joined[name] - joined[f"{name}_then"]) * (joined[name] / joined[f"{name}_then"]).ln() for name in BEHAVIOURS
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return joined.select(behaviour_psi=total)


def _shares(events: ibis.Table, suffix: str) -> ibis.Table:
    by = events.group_by("behaviour").agg(n=events.count())
    total = by.n.sum()
    shares = {name: by.n.sum(where=by.behaviour == name).fill_null(0) / total for name in BEHAVIOURS}
    return by.agg(**{f"{name}{suffix}": ibis.greatest(share.fill_null(0.0), 1e-4) for name, share in shares.items()})


def _heavy(events: ibis.Table, trailing: ibis.Table) -> ibis.Table:
    """`heavy`: share of rows of users who write more here than all but one in 1,000 did in an earlier delivery.

    Without the two busiest of them: enthusiasts are nothing, several at once are a fleet.
    """
    before = trailing.group_by(["user", "delivery_id"]).agg(n=trailing.count())
    usual = before.agg(most=before.n.quantile(0.999))
    user = events.group_by("user").agg(n=events.count())
    joined = user.cross_join(usual)
    above = joined.filter(joined.n > joined.most)
    busiest = above.order_by(ibis.desc("n")).limit(2)
    sums = above.agg(above=above.n.sum().fill_null(0)).cross_join(busiest.agg(two=busiest.n.sum().fill_null(0)))
    sums = sums.cross_join(user.agg(total=user.n.sum()))
    return sums.select(heavy=(sums.above - sums.two) / sums.total)


def _surges(events: ibis.Table, trailing: ibis.Table) -> ibis.Table:
    """`item_surge`: the most by which one item's share of the rows exceeds its share of the trailing rows.

    `item_surprise`: mean of −log2 of the items' trailing shares, in bits, half a row added to each: what people choose
    is mostly what they chose; a crawler's choice is not. `item_unseen`: share of rows on items without trailing rows.
    """
    on_items = events.filter(events.item_id.notnull())
    now = on_items.group_by("item_id").agg(n=on_items.count())
    before = trailing.filter(trailing.item_id.notnull())
    then = before.group_by("item_id").agg(then=before.count())
    total = then.agg(all_then=then.then.sum().fill_null(0))
    joined = now.left_join(then, "item_id").cross_join(total)
    counted = joined.select("n", then=joined.then.fill_null(0), all_then=ibis.greatest(joined.all_then, 1))
    rows = counted.n.sum()
    counted = counted.mutate(
        rise=counted.n / rows.over(ibis.window()) - counted.then / counted.all_then,
        bits=-((counted.then + 0.5) / counted.all_then).log2(),
    )
    return counted.agg(
        item_surge=counted.rise.max(),
        item_surprise=(counted.bits * counted.n).sum() / counted.n.sum(),
        item_unseen=counted.n.sum(where=counted.then == 0).fill_null(0) / counted.n.sum(),
    )


def _orphans(events: ibis.Table, trailing: ibis.Table) -> ibis.Table:
    """`orphans`: share of rows that put in a cart or buy what the user looked at neither here nor in the trailing rows.

    A sale changes how many buy; it does not let people buy what they never saw. Flipped labels do.
    """
    deep = events.filter(events.behaviour.isin(DEEP)).select("user", "item_id")
    looked = _looks(events).union(_looks(trailing.semi_join(deep, ["user", "item_id"])))
    orphan = deep.anti_join(looked, ["user", "item_id"])
    return (
        orphan.agg(orphan_rows=orphan.count())
        .cross_join(events.agg(all_rows=events.count()))
        .select(orphans=ibis._.orphan_rows / ibis._.all_rows)
    )


def _looks(events: ibis.Table) -> ibis.Table:
    return events.filter(events.behaviour.isin(SHALLOW)).select("user", "item_id")


def _unknown(events: ibis.Table, trailing: ibis.Table | None, items: ibis.Table) -> ibis.Table:
    """`item_unknown`: share of rows on items that the items table does not have (and no trailing event either)."""
    known = items.select("item_id")
    if trailing is not None:
        known = known.union(trailing.select("item_id"))
    on_items = events.filter(events.item_id.notnull()).select("item_id")
    missing = on_items.anti_join(known, "item_id")
    return (
        missing.agg(missing=missing.count())
        .cross_join(on_items.agg(total=on_items.count()))
        .select(item_unknown=ibis._.missing / ibis._.total)
    )


def _seconds(moment: ibis.Value) -> ibis.Value:
    """Seconds since 1970, to the microsecond."""
    # Truncated first: DuckDB rounds a time to its nearest second.
    return moment.truncate("s").epoch_seconds().cast("float64") + moment.microsecond() / 1e6
