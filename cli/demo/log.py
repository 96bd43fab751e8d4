"""A MovieLens log cut by its calendar, as files for the door and as traffic for the server."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from relations.errors import DataRejected
from simulation.replay import LoggedEvent

WEEK_SECONDS = 7 * 86_400
FIRST_SHARE = 0.6
"""Share of the calendar time that the first champion learns from."""


@dataclass(frozen=True)
class Slice:
    """A stretch of the log in the order of the file: its lines as they stand, and what they say."""

    number: int
    begin: float
    end: float
    """Unix seconds; `end` is not included."""
    lines: tuple[bytes, ...]
    events: tuple[LoggedEvent, ...]

    @property
    def until(self) -> datetime:
        return datetime.fromtimestamp(self.end, UTC)


def cut_log(file: Path) -> tuple[Slice, list[Slice]]:
    """The first 60 % of the calendar time, then week by week. Raises DataRejected for a line that is no rating."""
    rows: list[tuple[float, bytes, LoggedEvent]] = []
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), start=1):
        fields = line.decode("ascii", "replace").split("\t")
        try:
            user, item, rating, time = fields[0], fields[1], float(fields[2]), float(fields[3])
        except (ValueError, IndexError) as error:
            raise DataRejected(
                f"{file}: line {number}: {line[:60]!r} is not user, item, rating, unix time with tabs between; "
                "is it MovieLens 100k's u.data?"
            ) from error
        rows.append((time, line, LoggedEvent(user, item, time, "rating", rating)))
    if len(rows) < 2:
        raise DataRejected(f"{file}: {len(rows)} ratings cannot be cut by time; give the whole log")
    first, last = min(row[0] for row in rows), max(row[0] for row in rows)
    cut = first + FIRST_SHARE * (last - first)
    bounds = [cut]
    while bounds[-1] <= last:
        bounds.append(bounds[-1] + WEEK_SECONDS)
    history = _slice(rows, 0, float("-inf"), cut)
    weeks = [_slice(rows, n, a, b) for n, (a, b) in enumerate(pairwise(bounds), start=1)]
    return history, [week for week in weeks if week.lines]


def _slice(rows: list[tuple[float, bytes, LoggedEvent]], number: int, begin: float, end: float) -> Slice:
    inside = [row for row in rows if begin <= row[0] < end]
    return Slice(number, begin, end, tuple(row[1] for row in inside), tuple(row[2] for row in inside))
