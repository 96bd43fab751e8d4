"""Times at the API's edge: UTC microseconds inside, ISO 8601 or epoch seconds outside."""

import math
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_END_US = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def parse_time(stated: str | float) -> int:
    """UTC microseconds of an ISO 8601 time (without an offset: UTC) or of epoch seconds.

    Raises ValueError that says what is wrong: not a time, before 1970, or so late that the unit must be another.
    """
    if isinstance(stated, str):
        try:
            time = datetime.fromisoformat(stated)
            us = ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError):
            raise ValueError(f"{stated[:40]!r} is not an ISO 8601 time; write 2026-01-31T12:00:00Z") from None
    elif isinstance(stated, bool) or not math.isfinite(stated):
        raise ValueError(f"{stated!r} is not a time; write ISO 8601 or epoch seconds")
    else:
        us = round(min(max(stated, -1.0), 1e15) * 1_000_000)
    if not 0 <= us < _END_US:
        raise ValueError(f"{str(stated)[:40]!r} is outside 1970 to 9998; numbers are epoch seconds")
    return us


def format_time(us: int) -> str:
    """ISO 8601 with microseconds and Z."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
