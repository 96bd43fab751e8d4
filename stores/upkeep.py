"""What changes a table's history: deleting and rewriting rows, and dropping what no current version needs.

Only under the ingest lock: nobody else may write meanwhile. Older versions of a table can be read until `vacuum` and
`trim` have passed them; readers that began before must begin again.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from relations.errors import DependencyFailed
from relations.schemas import KEYS, SCHEMAS
from stores.lake import Lake, configuration, files_of

_BATCH = 131_072
_VALUES = 1_000  # in one predicate
_LOG_FILE = re.compile(r"(\d{20})\..+")


class LakeKeeper(Lake):
    """The lake, with the means to forget. Absent tables have nothing to do. Raises DependencyFailed: the disk."""

    def delete(self, table: str, *, column: str, values: Sequence[str]) -> None:
        """Drop the rows whose `column` is one of `values`. Files without such a row stay as they are."""
        if (found := self._open(table)) is None:
            return
        for start in range(0, len(values), _VALUES):
            listed = ", ".join(_quoted(value) for value in values[start : start + _VALUES])
            with self._writing(table):
                found.delete(f"{column} IN ({listed})")

    def rewrite(self, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace all rows by `change` of them, in one commit; a batch of rows at a time, so that memory is flat."""
        if (found := self._open(table)) is None or not (files := files_of(found)):
            return
        schema = SCHEMAS[table]

        def changed() -> Iterator[pa.RecordBatch]:
            for rows in _batches(files, schema):
                yield from change(rows).cast(schema).to_batches()

        with self._writing(table):
            write_deltalake(
                found, pa.RecordBatchReader.from_batches(schema, changed()), mode="overwrite", schema_mode="overwrite"
            )

    def replace(self, table: str, rows: pa.Table) -> None:
        """Make `rows`, which fit in memory, all that the table holds, in one commit; none where it holds them now."""
        rows = rows.cast(SCHEMAS[table])
        if (found := self._open(table)) is None:
            if not rows.num_rows:
                return
            with self._writing(table):
                made = {"mode": "ignore", "configuration": configuration(table)}
                found = DeltaTable.create(str(self._path(table)), SCHEMAS[table], **made)
        keys = [(key, "ascending") for key in KEYS[table]]
        if self.read(table).sort_by(keys).equals(rows.sort_by(keys)):
            return
        with self._writing(table):
            write_deltalake(found, rows, mode="overwrite")

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, some at a time."""
        found = self._open(table)
        schema = pa.schema([SCHEMAS[table].field(name) for name in columns])
        yield from _batches([] if found is None else files_of(found), schema)

    def size(self, table: str) -> tuple[int, int]:
        """Files of the current version; bytes of all that lies in the table's folder."""
        found = self._open(table)
        files = 0 if found is None else len(found.file_uris())
        return files, sum(path.stat().st_size for path in self._path(table).rglob("*") if path.is_file())

    def vacuum(self, table: str, *, keep: timedelta) -> int:
        """Delete the files that left the table, or were never in it, longer ago than `keep`; returns their number."""
        if (found := self._open(table)) is None:
            return 0
        hours = math.ceil(keep / timedelta(hours=1))
        with self._writing(table):
            # `full`: also what a killed writer left, which no log entry names.
            dropped = found.vacuum(retention_hours=hours, enforce_retention_duration=False, full=True)
            if dropped:
                found.vacuum(retention_hours=hours, enforce_retention_duration=False, full=True, dry_run=False)
        return len(dropped)

    def trim(self, table: str, *, keep: timedelta) -> int:
        """Checkpoint the log, then delete its entries before the newest checkpoint that is older than `keep`.

        App transactions are in the checkpoint. Returns how many files of the log went: they name files, versions and
        the predicates of deletions.
        """
        if (found := self._open(table)) is None:
            return 0
        log = self._path(table) / "_delta_log"
        with self._writing(table):
            found.create_checkpoint()
            oldest = time.time() - keep.total_seconds()
            entries = [(int(match[1]), path) for path in log.iterdir() if (match := _LOG_FILE.fullmatch(path.name))]
            passed = [
                version
                for version, path in entries
                if ".checkpoint." in path.name and (not keep or path.stat().st_mtime < oldest)
            ]
            gone = [path for version, path in entries if version < max(passed, default=0)]
            for path in gone:
                path.unlink(missing_ok=True)
        return len(gone)

    @contextmanager
    def _writing(self, table: str) -> Iterator[None]:
        try:
            yield
        except (OSError, DeltaError) as error:
            raise DependencyFailed(
                f"{self._path(table)}: cannot be rewritten: {error}; make space or fix the disk, then repeat"
            ) from error


def _batches(files: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    # Not delta-rs's own reader: it cannot run inside its writer.
    for batch in ds.dataset(list(files), schema=schema, format="parquet").to_batches(
        batch_size=_BATCH, batch_readahead=2, fragment_readahead=1
    ):
        yield pa.Table.from_batches([batch])


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
