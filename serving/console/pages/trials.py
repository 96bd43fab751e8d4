"""All trials, newest first, or those in one state."""

from collections import Counter
from typing import Any

from serving.console.pages.waits import shown
from serving.console.place import Place

MOST = 200
"""Rows on a page; the ledger's export has them all."""


def trials_view(place: Place, *, state: str = "") -> dict[str, Any]:
    """`state`: as the ledger names it; empty or unknown: all."""
    now = place.now()
    found = place.ledger.trials()[::-1]
    counts = Counter(str(trial.state) for trial in found)
    chosen = state if state in counts else ""
    wanted = [trial for trial in found if chosen in ("", str(trial.state))]
    return {
        "trials": [shown(place, trial, now=now) for trial in wanted[:MOST]],
        "left_out": max(len(wanted) - MOST, 0),
        "chosen": chosen,
        "counts": sorted(counts.items()),
        "total": len(found),
    }
