"""Figures and verdicts as people read them. "–" is: not known."""

from collections.abc import Sequence

UNKNOWN = "–"
SIGNS = {"PROMOTE": "✓", "REJECT": "✗", "INCONCLUSIVE": "?", "HOLD": "‖", "CONTINUE": "…"}
"""A shape beside each word, for who does not see the colour."""
TONES = {"PROMOTE": "good", "REJECT": "bad", "INCONCLUSIVE": "wait", "HOLD": "wait", "CONTINUE": "plain"}


def count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, *, digits: int = 4) -> str:
    """Significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def score(value: float | None) -> str:
    """A z, a boundary."""
    return UNKNOWN if value is None else f"{value:.2f}"


def percent(value: float | None, *, digits: int = 2) -> str:
    """A change, with its sign."""
    if value is None:
        return UNKNOWN
    return f"{value:+.{digits}%}" if value else "0%"


def tick(value: float) -> str:
    """A change at an axis, with as many digits as it needs."""
    return f"{value * 100:+.4g}%" if abs(value) > 1e-9 else "0%"


def share(value: float | None, *, digits: int = 1) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}%}"


def chance(value: float | None) -> str:
    """A p-value; 0 is one too small for a double."""
    if value is None:
        return UNKNOWN
    return "< 1e-300" if value == 0 else f"{value:.2g}"


def interval(ends: Sequence[float] | None) -> str:
    return UNKNOWN if ends is None else f"[{percent(ends[0])}, {percent(ends[1])}]"


def moment(stamp: str) -> str:
    """`2026-03-04T05:06:07.000000Z` as `2026-03-04 05:06 UTC`; other texts as they are."""
    day, mark, clock = stamp.partition("T")
    return f"{day} {clock[:5]} UTC" if mark and stamp.endswith(("Z", "+00:00")) else stamp


def several(amount: float, one: str) -> str:
    return f"{count(amount)} {one}" if round(amount) == 1 else f"{count(amount)} {one}s"
