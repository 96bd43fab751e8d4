"""The verdict on a delivery as a whole: what it looks like beside the trailing window of its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from expectations.batches import judge_profile
from expectations.verdicts import Reason
from relations.profile import numbers, plain_profile, profile
from stores.delivery import COMMITTED, Intent
from stores.lake import Lake
from tasks.staging_rows import Stage

if TYPE_CHECKING:
    import ibis

TRAILING_ROWS = 2_000_000
"""The trailing window holds whole deliveries, the newest first, until it has this many rows."""


@dataclass(frozen=True)
class BatchJudgement:
    """`critical`: why the batch is held whole. `results`: Great Expectations' own."""

    critical: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    profile: Mapping[str, float] = field(default_factory=dict)
    results: tuple[Any, ...] = ()


def judge_batch(passed: Stage, *, intent: Intent, lake: Lake) -> BatchJudgement:
    """Profile the rows that passed and hold them against the window. A backfill is warned of, never held."""
    limits, kind = intent.reading.validation, intent.request.kind
    if limits.anomalies == "off" or passed.rows < limits.min_rows:
        return BatchJudgement()
    if not intent.request.streamed and passed.rows > TRAILING_ROWS:
        return BatchJudgement()  # a history brought in at once: nothing that came before compares
    window = _window(intent, lake)
    found = _profile(passed, window, intent, lake)
    verdict = judge_profile(
        found,
        baseline=[dict(said) for said in window.column("profile").to_pylist()],
        kind=kind,
        min_window=limits.min_window,
        min_rows=limits.min_rows,
    )
    holds = intent.request.streamed and limits.anomalies == "quarantine"
    told = verdict.warnings if holds else (*verdict.critical, *verdict.warnings)
    return BatchJudgement(
        critical=verdict.critical if holds else (),
        warnings=tuple(why.message for why in told),
        profile=found,
        results=() if verdict.result is None else (verdict.result,),
    )


def _window(intent: Intent, lake: Lake) -> pa.Table:
    """Receipts with a profile of this source and kind, the newest first, as of the intent's base versions."""
    request = intent.request
    receipts = lake.read(
        "deliveries",
        version=intent.base.get("deliveries", -1),
        columns=["received_time", "delivery_id", "kind", "source", "state", "accepted", "profile"],
    )
    mine = receipts.filter(
        (pc.field("kind") == request.kind) & (pc.field("source") == request.source) & (pc.field("state") == COMMITTED)
    )
    profiled = mine.filter(pc.is_valid(mine.column("profile")))
    newest = profiled.sort_by([("received_time", "descending"), ("delivery_id", "descending")])
    return newest.slice(0, intent.reading.validation.window)


def _profile(passed: Stage, window: pa.Table, intent: Intent, lake: Lake) -> dict[str, float]:
    import ibis

    rows = lake.staged(passed.path)
    if intent.request.kind != "events":
        return numbers(plain_profile(rows, kind=intent.request.kind).to_pyarrow())
    rows = rows.mutate(received_time=ibis.literal(intent.received_time, type="timestamp('UTC', 6)"))
    items = intent.base.get("items", -1)
    return numbers(
        profile(
            rows,
            trailing=_trailing(window, intent, lake),
            items=lake.relation("items", version=items) if items >= 0 else None,
        ).to_pyarrow()
    )


def _trailing(window: pa.Table, intent: Intent, lake: Lake) -> "ibis.Table | None":
    """Accepted events of the window's deliveries, once there are enough of them to compare with."""
    if window.num_rows < intent.reading.validation.min_window:
        return None
    before = pc.subtract(pc.cumulative_sum(window.column("accepted")), window.column("accepted"))
    recent = window.filter(pc.less(before, TRAILING_ROWS)).column("delivery_id").to_pylist()
    events = lake.relation("events", version=intent.base.get("events", -1))
    return events.filter(events.delivery_id.isin(recent))
