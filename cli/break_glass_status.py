"""Where a broken glass stands, in words and as JSON."""

from typing import Any

from stores.break_glass_records import BreakGlassRecord


def break_glass_line(record: BreakGlassRecord) -> str:
    """Where one stands, for a list."""
    who_ = record.asked_by if not record.confirmed_by else f"{record.asked_by} and {record.confirmed_by}"
    head = f"{record.name}: v{record.version} for {record.hours:g} hours, by {who_}"
    if record.ended is not None:
        return f"{head}; over since {record.ended:%Y-%m-%d %H:%M} UTC, by {record.ended_by}: {record.ended_reason}"
    if record.until is not None:
        return f"{head}; serves until {record.until:%Y-%m-%d %H:%M} UTC"
    return f"{head}; waits for another approver until {record.expires:%Y-%m-%d %H:%M} UTC"


def break_glass_stated(record: BreakGlassRecord) -> dict[str, Any]:
    """As `--json` gives it."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in vars(record).items()}
