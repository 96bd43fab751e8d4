"""Spark on this machine as an Ibis backend: one Java process, bound to loopback, nothing listening but for it.

Ibis's own PySpark backend moves rows by way of pandas, where a null among whole numbers makes them floats, NaN is
null, and maps fail. Here they move as Arrow, as on DuckDB.
"""

import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
from ibis.backends.pyspark import Backend
from ibis.backends.pyspark.datatypes import PySparkSchema
from ibis.backends.sql.compilers.pyspark import PySparkCompiler
from ibis.expr import operations as ops
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from relations.errors import DependencyFailed

_REMEDY = 'install Java 17 (Debian: openjdk-17-jre-headless), or set [lake] engine = "duckdb"'
_lock = threading.Lock()
_open: set[int] = set()
"""Backends of this process that are not closed: they share its one Java process, which ends with the last."""


class _Compiler(PySparkCompiler):  # type: ignore[misc]
    # Ibis takes Spark's 32-bit hash: of ten million keys, ten thousand pairs would share one.
    SIMPLE_OPS = {ops.Hash: "xxhash64"}  # noqa: RUF012

    def visit_ExtractMicrosecond(self, op: Any, *, arg: Any) -> Any:  # noqa: N802
        """Of the second, as on DuckDB. Ibis has none for Spark."""
        return self.f.anon.pmod(self.f.anon.unix_micros(arg), 1_000_000)


class SparkBackend(Backend):  # type: ignore[misc]  # Ibis has no types
    """A session of its own (its own views) in the process's Spark."""

    compiler = _Compiler()

    def read_rows(self, files: Sequence[str], *, schema: pa.Schema, name: str) -> ibis.Table:
        """Parquet files as `name`; stating the schema spares Spark reading every footer, and fills absent columns."""
        # Nullable throughout, as on DuckDB: an outer join of these columns has nulls.
        kinds = ibis.schema({column: kind(nullable=True) for column, kind in ibis.Schema.from_pyarrow(schema).items()})
        wanted = PySparkSchema.from_ibis(kinds)
        with _quiet():
            if files:
                frame = self._session.read.schema(wanted).parquet(*(_literal(file) for file in files))
            else:
                frame = self._session.createDataFrame(schema.empty_table())
            frame.createOrReplaceTempView(name)
        # `self.table` would take Spark's times, which are instants, for times without a zone.
        return ops.DatabaseTable(name=name, schema=kinds, source=self).to_expr()

    def to_pyarrow(self, expr: Any, /, *, params: Any = None, limit: Any = None, **kwargs: Any) -> Any:
        with _quiet():
            self._run_pre_execute_hooks(expr)
            query = self.compile(expr.as_table(), params=params, limit=limit, **kwargs)
            return expr.__pyarrow_result__(self._session.sql(query).toArrow())

    def to_parquet(
        self, expr: Any, /, path: str | Path, *, params: Any = None, limit: Any = None, **kwargs: Any
    ) -> None:
        """One file, as on DuckDB, where Spark would write a folder of them."""
        folder = Path(f"{path}.parts")
        with _quiet():
            self._run_pre_execute_hooks(expr)
            frame = self._session.sql(self.compile(expr.as_table(), params=params, limit=limit))
        frame.coalesce(1).write.parquet(str(folder), mode="overwrite", **kwargs)
        next(folder.glob("part-*.parquet")).replace(path)
        shutil.rmtree(folder)

    def _register_in_memory_table(self, op: Any) -> None:
        with _quiet():
            frame = self._session.createDataFrame(op.data.to_pyarrow(op.schema))
            frame.createOrReplaceTempView(op.name)

    def disconnect(self) -> None:
        with _lock:
            _open.discard(id(self))
            if not _open:
                _stop(self._session)


def start(folder: Path, *, memory_mb: int, threads: int) -> SparkBackend:
    """A backend in the process's Spark, started if need be. Raises DependencyFailed without Java 17 or later."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise DependencyFailed(f'[lake] engine = "spark": no java on the PATH and no JAVA_HOME; {_REMEDY}')
    folder.mkdir(parents=True, exist_ok=True)
    with _lock, _quiet():
        try:
            session = _session(folder, memory_mb=memory_mb, threads=threads)
        except PySparkException as error:
            raise DependencyFailed(f'[lake] engine = "spark": Spark does not start: {error}; {_REMEDY}') from error
        SparkBackend.register_options()  # Ibis does it for backends that it finds by itself
        backend: SparkBackend = SparkBackend().connect(session)
        _open.add(id(backend))
    return backend


def _session(folder: Path, *, memory_mb: int, threads: int) -> SparkSession:
    if _open:
        running = SparkSession.getActiveSession()
        if running is not None:
            return running.newSession()
    # Spark looks up this machine's name and takes the first address from outside, unless told otherwise.
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    said = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": f"{memory_mb}m",
        "spark.local.dir": str(folder),
        "spark.log.level": "ERROR",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(threads),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return SparkSession.builder.master(f"local[{threads}]").appName("ratchet").config(map=said).getOrCreate()


def _stop(session: SparkSession) -> None:
    session.stop()
    # `stop` keeps the Java process for a next session; nobody may come, and an owner leaves nothing behind.
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        process = gateway.proc
        process.stdin.close()
        process.wait(timeout=30)
        SparkContext._gateway = SparkContext._jvm = None


def _literal(file: str) -> str:
    """Spark reads paths as patterns; a folder may really be called `[a]`."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", file)


@contextmanager
def _quiet() -> Iterator[None]:
    """PySpark 4.3 doubts pandas 3; rows here never pass through pandas."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
        yield
