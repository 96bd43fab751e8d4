"""How answers came: how many failed, how slow they were and which bundle gave them, as Ibis expressions.

A request is one, however many items it showed. It failed where the assigned model did not answer, or with an error.
Bots' requests are left out, as everywhere in a trial.
"""

from dataclasses import dataclass
from datetime import datetime

import ibis

from relations.sequences import moment
from relations.sums import FALLBACK

SHADOW = "shadow"
"""Why people met the champion while a challenger was scored and shown to nobody."""
_KEY = ("arm", "is_shadow")


@dataclass(frozen=True)
class Asked:
    """Which requests: those in [since, until), of the trial and of what people were shown while its challenger was in
    the shadow; `trial_id` None: all under the champion of `epoch`, shadows left out."""

    since: datetime
    until: datetime | None = None
    trial_id: str | None = None
    epoch: int | None = None


def served_figures(exposures: ibis.Table, which: Asked) -> ibis.Table:
    """One row an arm that answered: `arm` (the variant), `is_shadow`, `requests`, `users`, `failures`, `p50_ms`,
    `p99_ms`. A percentile is the smallest latency that at least so many of the requests had at most (nearest rank).
    """
    asked = _requests(exposures, which)
    asked = asked.group_by([*_KEY, "request_id"]).agg(
        user=asked.user.min(), latency_ms=asked.latency_ms.max(), failed=asked.failed.max()
    )
    key = [asked[name] for name in _KEY]
    asked = asked.mutate(
        place=ibis.row_number().over(ibis.window(group_by=key, order_by=[asked.latency_ms, asked.request_id])) + 1,
        requests=asked.request_id.count().over(ibis.window(group_by=key)),
    )
    return (
        asked.group_by(_KEY)
        .agg(
            requests=asked.count(),
            users=asked.user.nunique(),
            failures=asked.failed.sum(),
            p50_ms=asked.latency_ms.min(where=asked.place * 100 >= asked.requests * 50),
            p99_ms=asked.latency_ms.min(where=asked.place * 100 >= asked.requests * 99),
        )
        .order_by(_KEY)
    )


def served_digests(exposures: ibis.Table, which: Asked) -> ibis.Table:
    """One row an arm and bundle that gave answers which did not fail: `arm`, `is_shadow`, `digest`, `requests`."""
    asked = _requests(exposures, which)
    asked = asked.filter(asked.failed == 0)
    return (
        asked.group_by([*_KEY, "digest"])
        .agg(requests=asked.request_id.nunique())
        .order_by([*_KEY, ibis.desc("requests"), "digest"])
    )


def _requests(exposures: ibis.Table, which: Asked) -> ibis.Table:
    rows = exposures.filter(~exposures.is_bot, exposures.shown_time >= moment(which.since, name="since"))
    if which.until is not None:
        rows = rows.filter(rows.shown_time < moment(which.until, name="until"))
    if which.trial_id is None:
        rows = rows.filter(rows.champion_epoch == which.epoch, ~rows.is_shadow)
    else:
        beside = (rows.assignment_reason == SHADOW) & ~rows.is_shadow
        rows = rows.filter((rows.trial == which.trial_id).fill_null(False) | beside)
    failed = rows.error.notnull() | (rows.assignment_reason == FALLBACK)
    return rows.select(
        "is_shadow", "request_id", "user", "digest", "latency_ms", arm=rows.variant, failed=failed.cast("int64")
    )
