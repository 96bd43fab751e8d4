"""DuckDB 2 as an Ibis 12 backend: Ibis asks for streams of rows by a name that DuckDB has renamed."""

from typing import Any

from ibis.backends.duckdb import Backend


class DuckBackend(Backend):  # type: ignore[misc]  # Ibis has no types
    def to_pyarrow_batches(
        self, expr: Any, /, *, params: Any = None, limit: Any = None, chunk_size: int = 1_000_000, **kwargs: Any
    ) -> Any:
        """A reader that computes as it is read; no other query may run on this backend meanwhile."""
        self._run_pre_execute_hooks(expr)
        query = self.compile(expr.as_table(), params=params, limit=limit, **kwargs)
        return self.con.sql(query).to_arrow_reader(chunk_size)
