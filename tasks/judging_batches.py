"""The verdict on a delivery as a whole: what it looks like beside the trailing window."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expectations.verdicts import Reason
from stores.delivery import Intent
from stores.lake import Lake
from tasks.staging_rows import Stage


@dataclass(frozen=True)
class BatchJudgement:
    critical: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    profile: Mapping[str, float] = field(default_factory=dict)
    results: tuple[Any, ...] = ()


def judge_batch(
    passed: Stage, *, broken: Mapping[str, int], rows: int, intent: Intent, lake: Lake
) -> BatchJudgement:
    return BatchJudgement()
