"""The ledger's tables, and how its database is opened: SQLite in WAL mode with immediate writes, or PostgreSQL.

Times are text in UTC (`stamp`), JSON is canonical text, so that what was hashed is what is stored.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from relations.errors import DependencyFailed, SettingsError, UsageError

SCHEMA = 2
"""1 had no standing approvals and deltas. A newer schema only adds tables: an older ledger gets them when opened."""
_EXTENDED = ("1",)
BUSY_SECONDS = 10.0

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

champions = Table(
    "champion",
    metadata,
    Column("surface", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("since", String, nullable=False),
)

reigns = Table(
    "champion_history",
    metadata,
    Column("surface", String, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("since", String, nullable=False),
    Column("how", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("trial", String),
    Column("restores", Integer),
)

versions = Table(
    "version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String, nullable=False, unique=True),
    Column("mode", String, nullable=False),
    Column("parent", Integer),
    Column("events_version", Integer, nullable=False),
    Column("items_version", Integer, nullable=False),
    Column("cutoff_us", String, nullable=False),  # beyond 32 bits, where PostgreSQL's integers end
    Column("offline_passed", Boolean, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("run_id", String, nullable=False),
    Column("created", String, nullable=False),
    Column("checkpoint", String, nullable=False),
    Column("note", Text, nullable=False),
    Column("submitter", String, nullable=False),
)

trials = Table(
    "trial",
    metadata,
    Column("id", String, primary_key=True),
    Column("surface", String, nullable=False),
    Column("state", String, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("challenger_digest", String, nullable=False),
    Column("champion", Integer, nullable=False),
    Column("champion_digest", String, nullable=False),
    Column("champion_epoch", Integer, nullable=False),
    Column("config", Text, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("salt", String, nullable=False),
    Column("allocation", Float, nullable=False),
    Column("submitter", String, nullable=False),
    Column("opened", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("awaiting_since", String),
    Column("offline_worse", Boolean, nullable=False),
    Column("decided_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("promoted_epoch", Integer),
)

evidence = Table(
    "evidence",
    metadata,
    Column("trial", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String, nullable=False),
    Column("decision", String, nullable=False),
    Column("recorded", String, nullable=False),
    Column("evidence", Text, nullable=False),
    UniqueConstraint("trial", "sha256"),
)

audits = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
)


standings = Table(
    "standing",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("surface", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("base_digest", String, nullable=False),
    Column("champion_epoch", Integer, nullable=False),
    Column("recipe", String, nullable=False),
    Column("most_deltas", Integer, nullable=False),
    Column("most_rows", Integer, nullable=False),
    Column("most_relative_change", Float, nullable=False),
    Column("least_overlap", Float, nullable=False),
    Column("granted", String, nullable=False),
    Column("expires", String, nullable=False),
    Column("granted_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended", String),
    Column("ended_by", String, nullable=False),
    Column("ended_reason", Text, nullable=False),
)

deltas = Table(
    "delta",
    metadata,
    Column("standing", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("digest", String, nullable=False),
    Column("base_digest", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("bytes", String, nullable=False),  # may be beyond 32 bits
    Column("relative_change", Float, nullable=False),
    Column("recorded", String, nullable=False),
    UniqueConstraint("standing", "digest"),
)


class Database:
    """Transactions on one ledger. The file and its tables are made at the first use, not before."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise SettingsError(
                f"[ledger] url = {url!r}: not a database URL; e.g. sqlite:////data/ledger.db"
            ) from error
        self._engine: Engine | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot: all that is read inside belongs to one moment."""
        with self._translated(), self._opened().connect() as tx, tx.begin():
            yield tx

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writer at a time, from the first statement on: what was checked inside still holds at the commit."""
        engine = self._opened().execution_options(writes=True)
        with self._translated(), engine.begin() as tx:
            # On PostgreSQL this row lock does what BEGIN IMMEDIATE does on SQLite.
            tx.execute(select(meta.c.value).where(meta.c.key == "schema").with_for_update())
            yield tx

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            cause = getattr(error, "orig", None) or error
            raise DependencyFailed(
                f"ledger {self.url.render_as_string()}: {cause}; check [ledger] url, the disk and its permissions"
            ) from error

    def _opened(self) -> Engine:
        if self._engine is None:
            with self._translated():
                engine = self._connect()
                self._prepare(engine)
            self._engine = engine
        return self._engine

    def _connect(self) -> Engine:
        if self.url.get_backend_name() != "sqlite":
            try:
                return create_engine(self.url, pool_pre_ping=True)
            except (NoSuchModuleError, ImportError) as error:
                raise SettingsError(f"[ledger] url = {self.url.render_as_string()!r}: {error}") from error
        # No pool: a connection costs 0.2 ms, and one that outlives a fork corrupts the file.
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _no_implicit_begin)
        event.listen(engine, "begin", _begin)
        return engine

    def _prepare(self, engine: Engine) -> None:
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            _enter_wal(self.url.database)
        try:
            with engine.execution_options(writes=True).begin() as tx:
                if not inspect(tx).has_table("meta"):
                    metadata.create_all(tx)
                    tx.execute(insert(meta).values(key="schema", value=str(SCHEMA)))
                else:
                    _add_tables(tx)
        except IntegrityError:
            pass  # on PostgreSQL two first starts may meet: the other one has made the tables
        with engine.connect() as tx, tx.begin():
            found = tx.execute(select(meta.c.value).where(meta.c.key == "schema")).scalar_one_or_none()
        if found != str(SCHEMA):
            raise UsageError(
                f"ledger {self.url.render_as_string()}: schema {found}, this version of Ratchet reads {SCHEMA}; "
                "use the version that wrote it, or a newer one"
            )


def _add_tables(tx: Connection) -> None:
    """What newer schemas have beyond the one found."""
    schema = meta.c.key == "schema"
    found = tx.execute(select(meta.c.value).where(schema).with_for_update()).scalar_one_or_none()
    if found in _EXTENDED:
        metadata.create_all(tx)
        tx.execute(update(meta).where(schema).values(value=str(SCHEMA)))


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
