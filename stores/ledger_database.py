"""How the ledger's database is opened: SQLite in WAL mode, or PostgreSQL. One writer at a time, on both.

Writers of one process stand in line for a lock of the process before they ask the database: SQLite has no queue, only
waits of random length that can run out, and on PostgreSQL each that waits would hold a connection. Between processes
it is SQLite's BEGIN IMMEDIATE, or a row lock on PostgreSQL, that lets one in.
"""

import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from relations.errors import DependencyFailed, SettingsError, UsageError
from stores.ledger_schema import SCHEMA, bring_up_to_date, found_schema
from stores.ledger_tables import meta

BUSY_SECONDS = 30.0
"""How long a process waits for another's write to end."""
TURN_SECONDS = 120.0
"""How long a thread waits for the others of its process."""
IDLE_SECONDS = 60.0
"""PostgreSQL ends a writer that says nothing for so long: its machine may have gone with the lock in its hand."""
KEPT_CONNECTIONS = 2
MOST_CONNECTIONS = 8
"""Of one process to PostgreSQL, which serves a hundred in all unless told otherwise. Who needs another one waits."""
FIRST_START = 7_233_045_118
"""The advisory lock under which PostgreSQL's tables are made or changed. Any number that nobody else takes."""


class Database:
    """Transactions on one ledger. The file and its tables are made at the first use, not before."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise SettingsError(
                f"[ledger] url = {url!r}: not a database URL; e.g. sqlite:////data/ledger.db"
            ) from error
        if self.url.drivername in ("postgres", "postgresql"):
            self.url = self.url.set(drivername="postgresql+psycopg")
        self._shared: _Shared | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot: all that is read inside belongs to one moment. It waits for no writer."""
        with self._translated(), self._opened().reader.connect() as tx, tx.begin():
            yield tx

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writer at a time, from the first statement on: what was checked inside still holds at the commit.

        Raises DependencyFailed where the turn does not come, and UsageError where a newer version of Ratchet has
        changed the ledger's schema since it was opened.
        """
        with self._translated(), self._writing(self._opened()) as tx:
            # On PostgreSQL this row lock does what BEGIN IMMEDIATE does on SQLite.
            found = tx.execute(select(meta.c.value).where(meta.c.key == "schema").with_for_update()).scalar_one()
            if found != SCHEMA:
                raise UsageError(
                    f"ledger {self.url.render_as_string()}: its schema is {found} now, it was {SCHEMA} when this "
                    "process opened it; restart with the version of Ratchet that the ledger has now"
                )
            yield tx

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise DependencyFailed(
                f"ledger {self.url.render_as_string()}: {cause}; check [ledger] url, the disk and its permissions"
            ) from error

    @contextmanager
    def _writing(self, shared: "_Shared") -> Iterator[Connection]:
        turn = shared.turn
        if not turn.acquire(timeout=TURN_SECONDS):
            raise DependencyFailed(
                f"ledger {self.url.render_as_string()}: other threads of this process have been writing for "
                f"{TURN_SECONDS:g} s; restart it"
            )
        try:
            with shared.writer.begin() as tx:
                if shared.writer.dialect.name == "postgresql":
                    tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:g}s'")
                    tx.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS:g}s'")
                yield tx
        finally:
            turn.release()

    def _opened(self) -> "_Shared":
        if self._shared is None:
            with self._translated():
                try:
                    shared = _share(self.url)
                except (NoSuchModuleError, ImportError) as error:
                    raise SettingsError(f"[ledger] url = {self.url.render_as_string()!r}: {error}") from error
                self._prepare(shared)
            self._shared = shared
        return self._shared

    def _prepare(self, shared: "_Shared") -> None:
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            _enter_wal(self.url.database)
        with shared.reader.connect() as tx, tx.begin():
            if found_schema(tx) == SCHEMA:
                return
        with self._writing(shared) as tx:
            if shared.writer.dialect.name == "postgresql":
                tx.exec_driver_sql(f"SELECT pg_advisory_xact_lock({FIRST_START})")
            bring_up_to_date(tx, self.url)


class _Shared:
    """What a process has once for a database, however many ledgers are open on it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.turn = Lock()
        self.reader = self.writer = engine
        if engine.dialect.name == "sqlite":
            self.writer = engine.execution_options(writes=True)
        if engine.dialect.name == "postgresql":
            # A writer stays at READ COMMITTED: its snapshot must be newer than the lock that it waited for.
            self.reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        weakref.finalize(self, engine.dispose)

    def forked(self) -> None:
        """In a child the connections are the parent's, and so is who holds the lock."""
        self.engine.dispose(close=False)
        self.turn = Lock()


_open: weakref.WeakValueDictionary[URL, _Shared] = weakref.WeakValueDictionary()
_opening = Lock()


def _share(url: URL) -> _Shared:
    with _opening:
        found = _open.get(url)
        if found is None:
            found = _open[url] = _Shared(_engine(url))
        return found


def _after_fork() -> None:
    global _opening
    _opening = Lock()
    for shared in list(_open.values()):
        shared.forked()


os.register_at_fork(after_in_child=_after_fork)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=MOST_CONNECTIONS - KEPT_CONNECTIONS,
            pool_timeout=TURN_SECONDS,
        )
    # No pool: a connection costs 0.2 ms, and one that outlives a fork corrupts the file.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _no_implicit_begin)
    event.listen(engine, "begin", _begin)
    return engine


def _no_implicit_begin(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is deferred, and a deferred write can lose its turn


def _begin(tx: Connection) -> None:
    tx.exec_driver_sql("BEGIN IMMEDIATE" if tx.get_execution_options().get("writes") else "BEGIN")


def _enter_wal(database: str) -> None:
    """Readers never wait for the writer. The mode stays in the file.

    SQLite's busy timeout does not cover this switch, so first starts that meet wait for each other here.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        connection = sqlite3.connect(database, timeout=BUSY_SECONDS)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
        finally:
            connection.close()
