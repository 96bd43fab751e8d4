"""The lake: one Delta table a schema, read by version, appended exactly once.

Every append carries a Delta app transaction. delta-rs accepts the same transaction a second time, so the last one
is read first and the write goes through the same handle; the delivery lock keeps other writers away meanwhile.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError

from relations.digest import BATCH, content_digest_of
from relations.errors import DependencyFailed, UsageError
from relations.schemas import KEYS, OUTSIDE_DIGEST, SCHEMAS, TIME
from stores.engine import MEMORY_MB, Engine, EngineName, connect
from stores.failpoints import reach
from stores.home import Home
from stores.parts import write_parts
from stores.settings import LakeSettings

if TYPE_CHECKING:
    import ibis

FILES = 64
COUNTS = ("delivered", "accepted", "quarantined", "duplicate", "late")
CLOCK = {"events": "event_time", "late": "event_time", "exposures": "shown_time"}


def configuration(table: str) -> dict[str, str]:
    """Delta's properties of a table.

    App transactions are remembered for retries; nobody retries a delivery after this long. The log holds statistics of
    the times alone: smallest and largest ids would stay in it when their rows are gone.
    """
    times = [field.name for field in SCHEMAS[table] if field.type == TIME]
    return {
        "delta.setTransactionRetentionDuration": "interval 365 days",
        "delta.dataSkippingStatsColumns": ",".join(times),
    }


def files_of(table: DeltaTable) -> list[str]:
    """Paths of a version's Parquet files. Delta writes them as URLs do: a blank in the home's path is %20."""
    return [unquote(uri) for uri in table.file_uris()]


class Lake:
    """All tables below one folder. Absent tables read as empty ones of their schema."""

    def __init__(self, root: Path, *, engine: EngineName = "duckdb", memory_mb: int = MEMORY_MB) -> None:
        """`engine` runs the relations, with at most `memory_mb` of rows in memory; the rest spills beside the lake."""
        self.root = root
        self._choice = engine, memory_mb

    @staticmethod
    def of(home: Home, settings: LakeSettings) -> "Lake":
        """The home's lake, on the engine that the settings name."""
        return Lake(home.lake, engine=settings.engine, memory_mb=settings.memory_mb)

    def version(self, table: str) -> int:
        """Newest version, -1 while the table does not exist."""
        found = self._open(table)
        return -1 if found is None else int(found.version())

    def versions(self) -> dict[str, int]:
        """Newest version of every table that exists."""
        found = {table: self.version(table) for table in SCHEMAS}
        return {table: version for table, version in found.items() if version >= 0}

    def read(self, table: str, *, version: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one version (None: the newest) in the schema's column order."""
        schema = SCHEMAS[table]
        names = list(schema.names if columns is None else columns)
        found = self._open(table, version)
        wanted = pa.schema([schema.field(name) for name in names])
        if found is None:
            return wanted.empty_table()
        return found.to_pyarrow_dataset().to_table(columns=names).cast(wanted)

    def relation(self, table: str, *, version: int | None = None) -> "ibis.Table":
        """The rows as an Ibis table on this lake's one engine, so that relations of a lake join.

        The engine reads the table's Parquet files where they lie, column by column as a query asks.
        """
        found = self._open(table, version)
        files = [] if found is None else files_of(found)
        name = f"{table}_{'empty' if found is None else found.version()}"
        return self._engine.rows(files, schema=SCHEMAS[table], name=name)

    def staged(self, path: Path) -> "ibis.Table":
        """A Parquet file outside the tables, on the same engine as `relation`."""
        import pyarrow.parquet as pq

        return self._engine.rows([str(path)], schema=pq.read_schema(path), name=f"staged_{uuid.uuid4().hex}")

    def append(
        self,
        table: str,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        transaction: str,
        offsets: Mapping[str, int] | None = None,
    ) -> int:
        """Append `rows` once: a transaction that the table has seen changes nothing. An empty table, no commit.

        A reader is streamed, so that memory does not grow with it. `offsets` (stream partition → next offset) are
        committed as app transactions of their own in the same commit. Returns the table's version afterwards. Raises
        DependencyFailed when the disk fails.
        """
        if isinstance(rows, pa.Table):
            if rows.num_rows == 0:
                return self.version(table)
            rows = rows.cast(SCHEMAS[table]).to_reader()
        path = self._path(table)
        try:
            found = self._open(table)
            if found is None:
                # `ignore`: after a kill between creation and first append the empty table is there already.
                found = DeltaTable.create(str(path), SCHEMAS[table], mode="ignore", configuration=configuration(table))
                reach("ingest.created")
            if found.transaction_version(transaction) is None:
                marks = [Transaction(transaction, 0), *(Transaction(*mark) for mark in (offsets or {}).items())]
                properties = CommitProperties(app_transactions=marks)
                parts = write_parts(path, rows, transaction=transaction)
                found.create_write_transaction(parts, "append", found.schema(), commit_properties=properties)
            return int(DeltaTable(str(path)).version())
        except OSError as error:
            raise DependencyFailed(f"{path}: cannot write: {error}; make space or fix the disk, then repeat") from error
        except DeltaError as error:
            raise DependencyFailed(f"{path}: Delta refused the commit: {error}; repeat the command") from error

    def update(self, table: str, rows: pa.Table) -> None:
        """Give the rows with the keys of `rows` the values of its other columns, in one commit. Idempotent.

        Raises DependencyFailed when the disk fails.
        """
        found, key = self._open(table), KEYS[table]
        if found is None or not rows.num_rows:
            return
        same = " AND ".join(f"here.{name} = there.{name}" for name in key)
        values = {name: f"there.{name}" for name in rows.column_names if name not in key}
        try:
            merge = found.merge(rows, predicate=same, source_alias="there", target_alias="here")
            merge.when_matched_update(values).execute()
        except (OSError, DeltaError) as error:
            raise DependencyFailed(f"{self._path(table)}: cannot be updated: {error}; make space, repeat") from error

    def offset(self, table: str, name: str) -> int | None:
        """The newest offset that an append committed under `name`; None before the first."""
        found = self._open(table)
        return None if found is None else found.transaction_version(name)

    def compact(self, table: str, *, above: int = FILES) -> None:
        """Merge a table's small files once it has more than `above`: each append adds one, and each read opens all.

        A new version with the same rows. The old files stay, so that older versions can be read.
        """
        found = self._open(table)
        try:
            if found is not None and len(found.file_uris()) > above:
                found.optimize.compact()
        except (OSError, DeltaError) as error:
            raise DependencyFailed(f"{self._path(table)}: cannot be compacted: {error}; make space, repeat") from error

    def content_digest(self, table: str, *, version: int | None = None) -> str:
        """Order-blind digest of what the rows say, 64 hex digits; see `relations.digest`."""
        columns = [name for name in SCHEMAS[table].names if name not in OUTSIDE_DIGEST[table]]
        schema = pa.schema([SCHEMAS[table].field(name) for name in columns])
        found = self._open(table, version)
        batches = [] if found is None else found.to_pyarrow_dataset().to_batches(columns=columns, batch_size=BATCH)
        return content_digest_of((batch.cast(schema) for batch in batches), columns=columns)

    def totals(self) -> dict[str, int]:
        """The identity's five counts, summed over all deliveries."""
        receipts = self.read("deliveries", columns=COUNTS)
        return {name: pc.sum(receipts.column(name)).as_py() or 0 for name in COUNTS}

    def watermark(self, table: str = "events", *, version: int | None = None) -> datetime | None:
        """Newest event (or showing) time of the accepted rows; None while there are none."""
        newest: datetime | None = self.relation(table, version=version)[CLOCK[table]].max().to_pyarrow().as_py()
        return newest

    def close(self) -> None:
        """End the engine and give back what Arrow keeps for later. The next relation starts another engine; earlier
        relations are void."""
        if "_engine" in self.__dict__:
            self._engine.close()
            del self._engine
        pa.default_memory_pool().release_unused()

    @cached_property
    def _engine(self) -> Engine:
        name, memory_mb = self._choice
        return connect(name, folder=self.root.parent / "run", memory_mb=memory_mb)

    def _path(self, table: str) -> Path:
        if table not in SCHEMAS:
            raise UsageError(f"{table}: no such table; known: {', '.join(SCHEMAS)}")
        return self.root / table

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        path = self._path(table)
        if version == -1 or not (path / "_delta_log").is_dir() or not DeltaTable.is_deltatable(str(path)):
            return None
        try:
            return DeltaTable(str(path), version=version)
        except DeltaError as error:
            wanted = "newest version" if version is None else f"version {version}"
            raise DependencyFailed(f"{path}: cannot open {wanted}: {error}") from error
