"""Standing of a delivery's staged rows against each other and against the tables, with bounded memory.

Keys are compared in DuckDB, which spills; contents are compared for contested keys alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from relations.digest import row_digests
from relations.schemas import KEYS, OUTSIDE_DIGEST, SCHEMAS
from relations.standing import CONFLICT, DUPLICATE, contested, keyed, newly_held, standings
from stores.lake import Lake
from tasks.staging_rows import ROWS, Stage

if TYPE_CHECKING:
    import ibis

_CONTENT = pa.schema([("row", pa.int64()), ("key", pa.string()), ("content", pa.string())])
_NONE: np.ndarray[Any, Any] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Standings:
    """Row numbers, sorted."""

    duplicates: np.ndarray[Any, Any]
    conflicts: np.ndarray[Any, Any]


def find_standings(
    passed: Stage, *, kind: str, tables: Sequence[str], base: Mapping[str, int], lake: Lake
) -> Standings:
    """Which passed rows duplicate or contradict another, in the delivery or in `tables` at their `base` versions."""
    if not passed.rows:
        return Standings(_NONE, _NONE)
    key = KEYS[kind]
    rows = lake.staged(passed.path)
    known = [lake.relation(table, version=base.get(table, -1)) for table in tables]
    known_keys = _union([keyed(each, key) for each in known])
    ours = contested(keyed(rows, key, "row"), known_keys)
    folder = passed.path.parent
    suspects = _written(ours, folder / "contested.parquet", lake)
    if suspects is None:
        return Standings(_NONE, _NONE)
    said = [name for name in SCHEMAS[kind].names if name not in ("source", *OUTSIDE_DIGEST[kind])]
    mine = _contents(keyed(rows, key, "row", *said).semi_join(suspects, "row"), said, folder / "ours.parquet", lake)
    keys = suspects.select("key").distinct()
    theirs = [
        _contents(keyed(each, key, *said).semi_join(keys, "key"), said, folder / f"known-{table}.parquet", lake)
        for table, each in zip(tables, known, strict=True)
    ]
    judged = standings(mine, _union([each.select("key", "content") for each in theirs])).to_pyarrow()
    found, numbers = judged.column("standing").to_numpy(), judged.column("row").to_numpy()
    return Standings(np.sort(numbers[found == DUPLICATE]), np.sort(numbers[found == CONFLICT]))


def find_newly_held(
    failed: Sequence[Stage], *, kind: str, source: str, version: int, lake: Lake
) -> np.ndarray[Any, Any]:
    """Row numbers, sorted, of failed rows that the quarantine does not hold yet, from this source."""
    staged = [lake.staged(stage.path).select("row", "user", "raw") for stage in failed if stage.rows]
    if not staged:
        return _NONE
    held = lake.relation("quarantine", version=version)
    held = held.filter((held.kind == kind) & (held.source == source)).select("user", "raw")
    rows: np.ndarray[Any, Any] = newly_held(_union(staged), held).to_pyarrow().column("row").to_numpy()
    return rows


def _union(tables: Sequence["ibis.Table"]) -> "ibis.Table":
    import ibis

    return ibis.union(*tables) if len(tables) > 1 else tables[0]


def _written(rows: "ibis.Table", path: Path, lake: Lake) -> "ibis.Table | None":
    """The rows in a file of their own, computed once; None without any."""
    rows.to_parquet(path)
    return lake.staged(path) if pq.read_metadata(path).num_rows else None


def _contents(rows: "ibis.Table", columns: Sequence[str], path: Path, lake: Lake) -> "ibis.Table":
    """(row, key, content) of keyed rows; known ones have no row number."""
    with pq.ParquetWriter(path, _CONTENT) as writer:
        for batch in rows.to_pyarrow_batches(chunk_size=ROWS):
            table = pa.Table.from_batches([batch])
            contents = [digest.hex() for digest in row_digests(table, columns=columns)]
            numbers = table.column("row") if "row" in table.column_names else pa.nulls(table.num_rows, pa.int64())
            keys = table.column("key").cast(pa.string())
            writer.write_table(pa.table([numbers, keys, pa.array(contents, pa.string())], schema=_CONTENT))
    return lake.staged(path)
