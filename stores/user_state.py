"""User state: the newest events of each user, for the next answer.

A cache, never the record: the events table is the record, and absorbing its rows again rebuilds the state. SQLite in
WAL mode, so that the serving process reads while ingest, another process, writes. Standard library only.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from relations.errors import DependencyFailed

# Rows a transaction: the other process waits for the lock at most this long (about 50 ms).
_ROWS_A_TRANSACTION = 5_000
_USERS_A_TRIM = 5_000
_VARIABLES = 500  # ids in one look-up, below SQLite's limit on bound variables
_TRIES = 50

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    user TEXT NOT NULL,
    event_time INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    behaviour TEXT NOT NULL,
    PRIMARY KEY (user, event_time, event_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_row_an_event ON events (event_id);
"""


class PastEvent(NamedTuple):
    event_id: str
    item_id: str
    behaviour: str
    event_time_us: int
    """UTC microseconds since 1970."""


class UserState:
    """The newest `keep` events of each user in the SQLite file `path`, made on first use.

    Safe to share between threads of a process and between processes.
    """

    def __init__(self, path: Path, *, keep: int = 200, busy_seconds: float = 30.0) -> None:
        """Open. Raises DependencyFailed where the file cannot be opened or is no database."""
        self.path = path
        self.keep = keep
        # Reads have a connection of their own: with WAL they never wait for a writer, not even one in this process.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, busy_seconds)
            self._writer.executescript(_SCHEMA)
            self._reader = _connect(path, busy_seconds)
        except (sqlite3.Error, OSError) as error:
            raise self._failed("opened", error) from error

    def absorb(self, rows: Iterable[tuple[str, str, str, str, int]]) -> int:
        """Add events `(user, event_id, item_id, behaviour, event_time_us)` in any order; returns how many are new.

        Idempotent by `event_id`: the first row of an id stays. Only the newest `keep` events of a user remain, so an
        event older than those counts as new and is dropped again.
        """
        fresh = 0
        pending = iter(rows)
        touched: set[str] = set()
        try:
            with self._writing:
                while (batch := list(islice(pending, _ROWS_A_TRANSACTION))) or touched:
                    touched.update(row[0] for row in batch)
                    # A user of many batches is trimmed once, at the end: most of the cost would be there otherwise.
                    surplus = touched if len(batch) < _ROWS_A_TRANSACTION or len(touched) > _USERS_A_TRIM else set()
                    fresh += self._absorb_batch(batch, surplus)
                    if surplus:
                        touched = set()
        except sqlite3.Error as error:
            raise self._failed("written", error) from error
        return fresh

    def newest(self, user: str, n: int, *, formerly: str | None = None) -> list[PastEvent]:
        """The user's newest `n` events, oldest first, in (event_time, event_id) order; empty for an unknown user.

        `formerly` is another id of the same user. Both are read at one instant: a user who is renamed meanwhile is
        found under one of them.
        """
        try:
            with self._reading:
                rows = self._reader.execute(
                    "SELECT event_id, item_id, behaviour, event_time FROM events WHERE user IN (?, ?) "
                    "ORDER BY event_time DESC, event_id DESC LIMIT ?",
                    (user, formerly, n),
                ).fetchall()
        except sqlite3.Error as error:
            raise self._failed("read", error) from error
        return [PastEvent(*row) for row in reversed(rows)]

    def known(self, event_ids: Sequence[str]) -> set[str]:
        """Which of these events are held."""
        found: set[str] = set()
        try:
            with self._reading:
                for start in range(0, len(event_ids), _VARIABLES):
                    part = event_ids[start : start + _VARIABLES]
                    marks = ",".join("?" * len(part))
                    found.update(
                        row[0]
                        for row in self._reader.execute(
                            f"SELECT event_id FROM events WHERE event_id IN ({marks})", part
                        )
                    )
        except sqlite3.Error as error:
            raise self._failed("read", error) from error
        return found

    def forget(self, users: Sequence[str]) -> int:
        """Drop these users' events, from the file's bytes too; returns how many there were.

        Raises DependencyFailed where a reader of another process keeps the write-ahead log from being emptied.
        """
        gone = 0
        try:
            with self._writing:
                for user in users:
                    gone += self._writer.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
                self._empty_log()
        except sqlite3.Error as error:
            raise self._failed("written", error) from error
        return gone

    def rename(self, prefix: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        """Give each user whose id does not begin with `prefix` the id that `newest` makes of it.

        Returns how many were renamed. A look costs next to nothing while there are none: the ids are in order.
        """
        # Prefixes end in "_"; the character after it bounds the ids in force from above. Two ranges, for the index.
        beyond = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return self._rename_between("", prefix, newest) + self._rename_between(beyond, chr(0x10FFFF), newest)

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    def _absorb_batch(self, batch: list[tuple[str, str, str, str, int]], trimmed: set[str]) -> int:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            before = writer.total_changes
            writer.executemany(
                "INSERT INTO events (user, event_id, item_id, behaviour, event_time) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                batch,
            )
            fresh = writer.total_changes - before
            for user in trimmed:
                self._trim(user)
            writer.execute("COMMIT")
        except BaseException:
            writer.execute("ROLLBACK")
            raise
        return fresh

    def _rename_between(self, first: str, end: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        renamed = 0
        try:
            while True:
                with self._reading:
                    found = self._reader.execute(
                        "SELECT DISTINCT user FROM events WHERE user >= ? AND user < ? ORDER BY user LIMIT ?",
                        (first, end, _USERS_A_TRIM),
                    ).fetchall()
                if not found:
                    return renamed
                former = [row[0] for row in found]
                first = former[-1] + "\0"
                pairs = [(new, old) for new, old in zip(newest(former), former, strict=True) if new != old]
                if pairs:
                    with self._writing:
                        self._rename_batch(pairs)
                renamed += len(pairs)
        except sqlite3.Error as error:
            raise self._failed("written", error) from error

    def _rename_batch(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            self._writer.executemany("UPDATE events SET user = ? WHERE user = ?", pairs)
            for user, _ in pairs:
                self._trim(user)
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise

    def _empty_log(self) -> None:
        """What was deleted is overwritten in the file, but its old pages lie in the write-ahead log until it is cut."""
        for _ in range(_TRIES):
            busy, _, _ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return
            time.sleep(0.1)
        raise DependencyFailed(f"{self.path}: a reader holds the write-ahead log; repeat the command")

    def _trim(self, user: str) -> None:
        oldest_surplus = self._writer.execute(
            "SELECT event_time, event_id FROM events WHERE user = ? "
            "ORDER BY event_time DESC, event_id DESC LIMIT 1 OFFSET ?",
            (user, self.keep),
        ).fetchone()
        if oldest_surplus is not None:
            self._writer.execute(
                "DELETE FROM events WHERE user = ? AND (event_time, event_id) <= (?, ?)", (user, *oldest_surplus)
            )

    def _failed(self, verb: str, error: Exception) -> DependencyFailed:
        return DependencyFailed(
            f"{self.path}: user state cannot be {verb}: {error}; check the disk, or delete the file: ingest rebuilds it"
        )


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL may lose the newest commits on power loss, never the file's consistency; the events table has them.
    connection.execute("PRAGMA synchronous = NORMAL")
    # What is deleted is overwritten with zeros: a forgotten user, and the rows that were trimmed before.
    connection.execute("PRAGMA secure_delete = ON")
    return connection
