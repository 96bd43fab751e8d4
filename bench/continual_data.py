"""Real streams cut into periods, for what learns from them a period at a time."""

import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relations.errors import DataRejected, UsageError

if TYPE_CHECKING:
    from model.sequences import Histories, Holdout

WEEK_US = 7 * 86_400_000_000
SECOND_US = 1_000_000


@dataclass(frozen=True)
class Stream:
    """Period p is the events from `starts[p]` (microseconds) up to `starts[p + 1]`; the last one has no end."""

    name: str
    histories: "Histories"
    starts: tuple[int, ...]
    base: int
    """Periods that the first model learns from."""
    sessions: bool
    """Users are sessions: an item may come again, and nothing can be said before a session's first event."""

    def before(self, period: int) -> "Histories":
        """All events of the periods before `period`."""
        return self.histories.before(self.starts[period]) if period < len(self.starts) else self.histories

    def only(self, period: int) -> "Histories":
        return self.before(period + 1).since(self.starts[period])

    def holdout(self, period: int, *, most_users: int, seed: int = 0) -> "Holdout":
        """Rows of `period` as serving would meet them one after another, of at most `most_users` users."""
        from model.sequences import split_by_time

        rows = split_by_time(self.before(period + 1), cutoff_us=self.starts[period]).holdout
        if self.sessions:
            rows = rows.keep(rows.visible_R > rows.histories.offsets_U1[rows.user_R])
        return rows.sample_users(most_users, seed=seed)


def read(path: Path, *, base: int | None = None) -> Stream:
    """A folder of `period_N.txt.gz` (lines `session item`), of MovieLens 100k (weeks) or of Amazon 2023 (months).

    Raises UsageError for a folder of none of these, DataRejected for a line that is not of two words.
    """
    if (path / "u.data").is_file():
        return _movielens(path, base=24 if base is None else base)
    if (path / "interactions.parquet").is_file():
        return _amazon(path, base=186 if base is None else base)
    if (path / "period_0.txt.gz").is_file():
        return _periods(path, base=10 if base is None else base)
    raise UsageError(f"{path}: holds no period_0.txt.gz, u.data or interactions.parquet; name a stream's folder")


def _periods(path: Path, *, base: int) -> Stream:
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    count = 0
    while (file := path / f"period_{count}.txt.gz").is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                words = line.split()
                if len(words) != 2:
                    raise DataRejected(f"{file}, line {number + 1}: {line.strip()!r} is not `session item`")
                users.append(f"{count}-{words[0]}")  # the number of a session may come again in another period
                items.append(words[1])
                times.append(count * WEEK_US + number * SECOND_US)
        count += 1
    starts = tuple(period * WEEK_US for period in range(count))
    return _stream(path.name, users, items, np.array(times), "click", starts=starts, base=base, sessions=True)


def _movielens(path: Path, *, base: int) -> Stream:
    table = np.loadtxt(path / "u.data", dtype=np.int64)
    time_N = table[:, 3] * SECOND_US
    first = int(time_N.min())
    starts = tuple(range(first, int(time_N.max()) + 1, WEEK_US))
    users, items = ([str(value) for value in table[:, column]] for column in (0, 1))
    return _stream(path.name, users, items, time_N, "rating", starts=starts, base=base, sessions=False)


def _amazon(path: Path, *, base: int) -> Stream:
    import pyarrow.parquet as pq

    table = pq.read_table(path / "interactions.parquet")
    names = table.column_names
    user, item, when = (
        next(name for name in names if name in wanted)
        for wanted in (("user_id", "user"), ("parent_asin", "item_id", "item", "asin"), ("timestamp", "time"))
    )
    time_N = np.asarray(table[when].to_numpy()).astype("datetime64[ms]").astype(np.int64) * 1000
    month_N = np.array([date.year * 12 + date.month - 1 for date in _dates(time_N)])
    first = month_N.min()
    starts = tuple(_month_us(month) for month in range(first, month_N.max() + 1))
    users, items = (table[name].to_pylist() for name in (user, item))
    return _stream(path.name, users, items, time_N, "rating", starts=starts, base=base, sessions=False)


def _dates(time_N: np.ndarray) -> list[datetime]:
    return [datetime.fromtimestamp(time / 1e6, tz=UTC) for time in time_N.tolist()]


def _month_us(month: int) -> int:
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1e6)


def _stream(
    name: str,
    users: list[str],
    items: list[str],
    time_N: np.ndarray,
    behaviour: str,
    *,
    starts: tuple[int, ...],
    base: int,
    sessions: bool,
) -> Stream:
    from model.sequences import BEHAVIOUR_NAMES, Histories

    if not 0 < base < len(starts) - 1:
        raise UsageError(f"--base {base}: {name} has {len(starts)} periods; one to learn from and two more are needed")
    user_ids, user_N = np.unique(np.array(users, dtype=object), return_inverse=True)
    item_ids, item_N = np.unique(np.array(items, dtype=object), return_inverse=True)
    order_N = np.lexsort([time_N, user_N])  # stable: equal times keep the order of the file
    histories = Histories(
        users=user_ids,
        items=item_ids,
        item_N=item_N[order_N].astype(np.int64),
        behaviour_N=np.full(len(order_N), BEHAVIOUR_NAMES.index(behaviour), dtype=np.int64),
        time_N=time_N[order_N].astype(np.int64),
        offsets_U1=np.concatenate([[0], np.cumsum(np.bincount(user_N))]).astype(np.int64),
    )
    return Stream(name, histories, starts, base, sessions)
