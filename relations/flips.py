"""Flipped labels: evidence that some of a delivery's ratings r are lowest + highest − r, as one Ibis row.

Each rating falls on one of `LEVELS` levels between the lowest and the highest trailing rating. The chance of level k
for user u and item i is naive Bayes, P(k | u) · P(k | i) / P(k), normalised; P(k | u) and P(k | i) are counts over
the trailing rows and this delivery without the row itself, with `PRIOR` rows of the overall distribution added.

A flipped rating has level LEVELS − 1 − k. The evidence of a row is the log-likelihood ratio of "a share ε of the rows
is flipped" over "none is", s(k) = ln(1 − ε + ε · P(flipped k) / P(k)), less its expectation under P: so a delivery of
opinionated or of erratic users moves it little. Summed, and divided by the standard deviation that P gives to the
sum, it is a z value that grows with √rows times the flipped share. What is not 0 of it in clean deliveries is how far
people are from naive Bayes: the same from delivery to delivery, so that the trailing window takes it away. A
likelihood ratio at a fixed small alternative, standardised as the score test is (Rao 1948).
"""

import ibis

LEVELS = 5
PRIOR = 20.0
SHARE = 0.02
"""ε. Small, so that the statistic is sharpest where detection is hard."""
LARGEST_RATIO = 1_000.0


def flip_evidence(events: ibis.Table, trailing: ibis.Table) -> ibis.Table:
    """One row: `flip_rows`, ratings judged, and `flip_mean`, z / √flip_rows. Null without a rating on either side."""
    before, now = _ratings(trailing), _ratings(events)
    scale = before.agg(low=before.value.min(), high=before.value.max())
    then = _levels(before, scale)
    here = _levels(now, scale)
    both = then.union(here)
    overall = _counts(both, [], "g")
    judged = here.left_join(_counts(both, ["user"], "u"), "user")
    judged = judged.left_join(_counts(both, ["item_id"], "i"), "item_id").cross_join(overall)

    own = [(judged.level == k).cast("float64") for k in range(LEVELS)]
    total = sum((judged[f"g{k}"] for k in range(1, LEVELS)), judged.g0) + LEVELS
    share = [(judged[f"g{k}"] + 1) / total for k in range(LEVELS)]  # Laplace: no level is impossible
    weight = [
        (judged[f"u{k}"] - own[k] + PRIOR * share[k]) * (judged[f"i{k}"] - own[k] + PRIOR * share[k]) / share[k]
        for k in range(LEVELS)
    ]
    rows = judged.select("level", **{f"w{k}": weight[k] for k in range(LEVELS)})
    sum_w = sum((rows[f"w{k}"] for k in range(1, LEVELS)), rows.w0)
    ratio = [ibis.least(rows[f"w{LEVELS - 1 - k}"] / rows[f"w{k}"], LARGEST_RATIO) for k in range(LEVELS)]
    scored = rows.select(
        "level",
        **{f"p{k}": rows[f"w{k}"] / sum_w for k in range(LEVELS)},
        **{f"s{k}": (1 - SHARE + SHARE * ratio[k]).ln() for k in range(LEVELS)},
    )
    mean = sum((scored[f"p{k}"] * scored[f"s{k}"] for k in range(1, LEVELS)), scored.p0 * scored.s0)
    square = sum((scored[f"p{k}"] * scored[f"s{k}"] ** 2 for k in range(1, LEVELS)), scored.p0 * scored.s0**2)
    seen = ibis.cases(*((scored.level == k, scored[f"s{k}"]) for k in range(LEVELS)))
    final = scored.select(excess=seen - mean, variance=square - mean**2)
    n = final.count()
    z = final.excess.sum() / final.variance.sum().nullif(0.0).sqrt()
    return final.agg(flip_rows=n.cast("float64"), flip_mean=z / n.cast("float64").sqrt())


def _ratings(events: ibis.Table) -> ibis.Table:
    return events.filter((events.behaviour == "rating") & events.value.notnull()).select("user", "item_id", "value")


def _levels(ratings: ibis.Table, scale: ibis.Table) -> ibis.Table:
    """Ratings outside the trailing scale fall on its ends. No scale (or one value): no rows."""
    placed = ratings.cross_join(scale)
    placed = placed.filter(placed.high > placed.low)
    level = ((placed.value - placed.low) / (placed.high - placed.low) * (LEVELS - 1)).round()
    return placed.select("user", "item_id", level=ibis.greatest(ibis.least(level, LEVELS - 1.0), 0.0))


def _counts(ratings: ibis.Table, by: list[str], prefix: str) -> ibis.Table:
    """Rows a level, in columns `prefix`0 …, for each value of `by`."""
    sums = {f"{prefix}{k}": (ratings.level == k).sum().cast("float64") for k in range(LEVELS)}
    return ratings.group_by(by).agg(**sums) if by else ratings.agg(**sums)
