"""User state in the home's SQLite file: the default, for one server.

WAL mode, so that the serving process reads while ingest, another process, writes. Standard library only.
"""

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from relations.errors import DependencyFailed
from stores.preferences import PreferenceFiles, Preferences
from stores.user_states import KEPT, PastEvent, Remembered, Row

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
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
"""
# One row of three JSON arrays: each row that a cursor gives lets the interpreter's lock go, and other threads take it.
# The limit keeps SQLite from dropping the inner order, in which the arrays are then filled.
_COLUMNS = """
SELECT json_group_array(item_id), json_group_array(behaviour), json_group_array(event_time)
FROM (SELECT item_id, behaviour, event_time FROM events WHERE {who} ORDER BY event_time DESC, event_id DESC LIMIT ?)
"""
_LOG = logging.getLogger(__name__)


class SqliteState:
    """Users' newest `keep` events in the SQLite file `path`, made on first use, and their preferences beside it.

    Safe to share between threads of a process and between processes. Methods as `user_states.UserState` has them.
    """

    shared = False
    problem = None

    def __init__(self, path: Path, *, keep: int = KEPT, busy_seconds: float = 30.0) -> None:
        """Open. Raises DependencyFailed where the file cannot be opened or is no database."""
        self.path = path
        self.keep = keep
        self._record = PreferenceFiles(path.parent / "preferences")
        # Reads have a connection of their own: with WAL they never wait for a writer, not even one in this process.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, busy_seconds)
            self._writer.executescript(_SCHEMA)
            self._reader = _connect(path, busy_seconds)
        except (sqlite3.Error, OSError) as error:
            raise self._failed("opened", error) from error

    async def read(self, user: str, *, formerly: str | None = None) -> Remembered:
        # On the event loop: a thread would cost more than the look-up, which never waits for a writer.
        try:
            return Remembered(*self._columns(user, formerly), self.preferences(user, formerly=formerly))
        except DependencyFailed as error:
            _LOG.warning("%s", error)
            return Remembered(error=str(error))

    async def known(self, rows: Sequence[Row]) -> set[str]:
        with self._told("read"), self._reading:
            return _held(self._reader, [row[1] for row in rows])

    async def admit(self, rows: Sequence[Row]) -> set[str]:
        # In a thread: ingest, another process, may hold the write lock for a moment.
        return await asyncio.to_thread(self._admit, rows)

    async def set_preferences(self, user: str, preferences: Preferences) -> Preferences:
        return await asyncio.to_thread(self._prefer, user, preferences)

    async def aclose(self) -> None:
        self.close()

    def absorb(self, rows: Iterable[Row]) -> int:
        fresh = 0
        pending = iter(rows)
        touched: set[str] = set()
        with self._told("written"), self._writing:
            while (batch := list(islice(pending, _ROWS_A_TRANSACTION))) or touched:
                touched.update(row[0] for row in batch)
                # A user of many batches is trimmed once, at the end: most of the cost would be there otherwise.
                surplus = touched if len(batch) < _ROWS_A_TRANSACTION or len(touched) > _USERS_A_TRIM else set()
                with _transaction(self._writer):
                    fresh += self._insert(batch)
                    for user in surplus:
                        self._trim(user)
                if surplus:
                    touched = set()
        return fresh

    def newest(self, user: str, n: int, *, formerly: str | None = None) -> list[PastEvent]:
        who, names = _named(user, formerly)
        with self._told("read"), self._reading:
            rows = self._reader.execute(
                f"SELECT event_id, item_id, behaviour, event_time FROM events WHERE {who} "
                "ORDER BY event_time DESC, event_id DESC LIMIT ?",
                (*names, n),
            ).fetchall()
        rows.reverse()
        return list(map(PastEvent._make, rows))

    def preferences(self, user: str, *, formerly: str | None = None) -> Preferences:
        return self._record.read(user, formerly=formerly)

    def forget(self, users: Sequence[str]) -> int:
        """From the file's bytes too. Raises DependencyFailed where a reader keeps the log from being emptied."""
        gone = 0
        with self._told("written"), self._writing:
            for user in users:
                gone += self._writer.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
            self._empty_log()
        self._record.forget(users)
        return gone

    def rename(self, prefix: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        # The character after the prefix's "_" bounds the ids in force from above. Two ranges, for the index.
        beyond = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        renamed = self._rename_between("", prefix, newest) + self._rename_between(beyond, chr(0x10FFFF), newest)
        return max(renamed, self._record.rename(prefix, newest))

    def absorbed(self) -> int:
        with self._told("read"), self._reading:
            found = self._reader.execute("SELECT version FROM marks WHERE name = 'absorbed'").fetchone()
        return -1 if found is None else int(found[0])

    def mark_absorbed(self, version: int) -> None:
        with self._told("written"), self._writing:
            self._writer.execute("INSERT OR REPLACE INTO marks (name, version) VALUES ('absorbed', ?)", (version,))

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    def _columns(self, user: str, formerly: str | None) -> tuple[list[str], list[str], list[int]]:
        """Items, behaviours and times of the newest events, oldest first."""
        who, names = _named(user, formerly)
        with self._told("read"), self._reading:
            told = self._reader.execute(_COLUMNS.format(who=who), (*names, self.keep)).fetchone()
        item_ids, behaviours, times_us = map(json.loads, told)
        for column in (item_ids, behaviours, times_us):
            column.reverse()
        return item_ids, behaviours, times_us

    def _prefer(self, user: str, preferences: Preferences) -> Preferences:
        with self._writing:  # two at once would have the same time
            if not preferences.set_us:
                preferences = preferences.set_after(self._record.read(user))
            return self._record.keep(user, preferences)

    def _admit(self, rows: Sequence[Row]) -> set[str]:
        ids = [row[1] for row in rows]
        with self._told("written"), self._writing, _transaction(self._writer):
            fresh = set(ids) - _held(self._writer, ids)
            self._insert(rows)
            for user in {row[0] for row in rows}:
                self._trim(user)
        return fresh

    def _insert(self, rows: Sequence[Row]) -> int:
        before = self._writer.total_changes
        self._writer.executemany(
            "INSERT INTO events (user, event_id, item_id, behaviour, event_time) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            rows,
        )
        return self._writer.total_changes - before

    def _rename_between(self, first: str, end: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        renamed = 0
        with self._told("written"):
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

    def _rename_batch(self, pairs: Sequence[tuple[str, str]]) -> None:
        with _transaction(self._writer):
            self._writer.executemany("UPDATE events SET user = ? WHERE user = ?", pairs)
            for user, _ in pairs:
                self._trim(user)

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

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(verb, error) from error

    def _failed(self, verb: str, error: Exception) -> DependencyFailed:
        return DependencyFailed(
            f"{self.path}: user state cannot be {verb}: {error}; check the disk, or delete the file: ingest rebuilds it"
        )


def _named(user: str, formerly: str | None) -> tuple[str, tuple[str, ...]]:
    """A condition and its values. One user's rows lie in the order of time; two users' have to be sorted."""
    return ("user = ?", (user,)) if formerly is None else ("user IN (?, ?)", (user, formerly))


def _held(connection: sqlite3.Connection, event_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(event_ids), _VARIABLES):
        part = event_ids[start : start + _VARIABLES]
        marks = ",".join("?" * len(part))
        rows = connection.execute(f"SELECT event_id FROM events WHERE event_id IN ({marks})", part)
        found.update(row[0] for row in rows)
    return found


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL may lose the newest commits on power loss, never the file's consistency; the events table has them.
    connection.execute("PRAGMA synchronous = NORMAL")
    # What is deleted is overwritten with zeros: a forgotten user, and the rows that were trimmed before.
    connection.execute("PRAGMA secure_delete = ON")
    return connection
