"""The engine that runs the relations of `relations/`: DuckDB inside the process, or Spark on this machine.

`[lake] engine` chooses. The relations are the same Ibis expressions on both and give the same rows, by test. An
engine is owned by whoever connects: `close` ends it, and with the last Spark engine of a process its Java process.
"""

import glob
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from relations.errors import DependencyFailed

if TYPE_CHECKING:
    import ibis

EngineName = Literal["duckdb", "spark"]
MEMORY_MB = 512


@dataclass(frozen=True)
class Engine:
    """`backend`: an Ibis backend on which all relations of one query must live."""

    name: EngineName
    backend: Any

    def rows(self, files: Sequence[str], *, schema: pa.Schema, name: str) -> "ibis.Table":
        """The Parquet files of one table version as a view `name`, with exactly the columns of `schema`.

        A column that a file lacks, because it was written before the column was added, is null there. No files: no
        rows. The files are read where they lie, column by column as a query asks.
        """
        if self.name == "spark":
            return self.backend.read_rows(files, schema=schema, name=name)
        import ibis

        with _quiet():
            if not files:
                self.backend.con.register(name, schema.empty_table())
                return self.backend.table(name)
            found = self.backend.read_parquet(
                [glob.escape(file) for file in files], table_name=name, union_by_name=True
            )
            kinds = ibis.Schema.from_pyarrow(schema)
            if found.columns == tuple(kinds):
                return found
            present = {
                column: found[column] if column in found.columns else ibis.null(kinds[column]) for column in kinds
            }
            return found.select(**present)

    def close(self) -> None:
        """End the engine; its relations can no longer be asked."""
        self.backend.disconnect()


def connect(engine: EngineName, *, folder: Path, memory_mb: int = MEMORY_MB, threads: int | None = None) -> Engine:
    """Start an engine that holds at most `memory_mb` of rows in memory and spills to `folder`. Times are UTC.

    `threads`: None takes every core on DuckDB and two on Spark. Spark's limits are those of the process's first
    connection, because a process has one Java process. Raises DependencyFailed where pyspark or Java is missing.
    """
    if engine == "spark":
        return Engine("spark", _spark(folder, memory_mb=memory_mb, threads=threads or 2))
    from stores.duck import DuckBackend

    # A name of its own: two DuckDB instances in one spill folder would write each other's files.
    spill = folder / f"duckdb-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True, exist_ok=True)  # DuckDB makes the last folder alone, and only once it spills
    limits: dict[str, Any] = {"memory_limit": f"{memory_mb}MiB", "temp_directory": str(spill)}
    if threads is not None:
        limits["threads"] = threads
    backend = DuckBackend().connect(**limits)
    backend.raw_sql("SET enable_progress_bar = false")  # from two seconds on it would print over a command's own words
    return Engine("duckdb", backend)


@contextmanager
def connected(
    engine: EngineName, *, folder: Path, memory_mb: int = MEMORY_MB, threads: int | None = None
) -> Iterator[Engine]:
    """`connect`, and `close` at the end of the block."""
    made = connect(engine, folder=folder, memory_mb=memory_mb, threads=threads)
    try:
        yield made
    finally:
        made.close()


def _spark(folder: Path, *, memory_mb: int, threads: int) -> Any:
    try:
        with _quiet():
            from stores.spark import start
    except ImportError as error:
        raise DependencyFailed(
            f'[lake] engine = "spark": {error}; install the extra (pip install "ratchet-rec[spark]") '
            'or set engine = "duckdb"'
        ) from error
    return start(folder, memory_mb=memory_mb, threads=threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ibis 12 asks DuckDB 2 for a schema by a name that DuckDB has renamed, and PySpark for what doubts pandas 3."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PySpark does not yet fully", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        yield
