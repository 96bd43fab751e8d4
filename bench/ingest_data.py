"""Events as a shop's log would hold them: the same rows each time, as CSV and as Parquet, drawn by DuckDB.

Of each hundred rows one is broken, in one of five ways; of each two hundred one repeats an earlier row whole. Users and
items have long tails, ids have their usual length, times rise with an hour of jitter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from relations.schemas import BEHAVIOURS

FORMATS = ("csv", "parquet")
COLUMNS = {
    **{"event_id": "VARCHAR", "user_id": "VARCHAR", "item_id": "VARCHAR", "behaviour": "VARCHAR"},
    **{"value": "DOUBLE", "event_time": "TIMESTAMPTZ"},
}
LATEST = "2026-03-01T00:00:00+00:00"
"""After every event."""

_DIRTY, _REPEATS = 100, 200
_DRAWN = """
    WITH numbered AS (
        SELECT CASE WHEN i % {repeats} = {repeats} - 1 THEN i - 7 ELSE i END AS n FROM range({rows}) AS _(i)
    ), drawn AS (
        SELECT n, CASE WHEN n % {dirty} = 50 THEN n // {dirty} % 5 ELSE -1 END AS broken,
               (hash(4 * n) >> 11) / 9007199254740992 AS u, (hash(4 * n + 1) >> 11) / 9007199254740992 AS i,
               hash(4 * n + 2) % 100 AS b, hash(4 * n + 3) % 7_200_000 AS jitter_ms
        FROM numbered
    ), said AS (
        SELECT n, broken, CASE WHEN broken = 2 OR b >= 95 THEN 'rating' WHEN b >= 92 THEN 'purchase'
                               WHEN b >= 85 THEN 'cart' WHEN b >= 70 THEN 'click' ELSE 'view' END AS behaviour,
               u, i, b, 1_767_225_600_000 + n * 2_505_600_000 // {rows} + jitter_ms AS ms
        FROM drawn
    )
    SELECT md5('event ' || n)::UUID::VARCHAR AS event_id,
           CASE WHEN broken = 0 THEN NULL ELSE 'customer-' || lpad((1 + {users} * u * u)::BIGINT::VARCHAR, 9, '0') END
               AS user_id,
           CASE WHEN broken = 4 THEN ' ' ELSE 'B0' || upper(hex((1 + {items} * i * i * i)::BIGINT + 268435456)) END
               AS item_id,
           CASE WHEN broken = 1 THEN 'hover' ELSE behaviour END AS behaviour,
           CASE WHEN broken = 2 THEN 99.0 WHEN behaviour = 'rating' THEN 1.0 + n % 5
                WHEN behaviour = 'purchase' THEN 4.99 + n % 200 END::DOUBLE AS value,
           make_timestamp(1000 * CASE WHEN broken = 3 THEN -3_000_000_000_000 ELSE ms END::BIGINT)::TIMESTAMPTZ
               AS event_time
    FROM said
"""
_IN_CSV = """
    SELECT * REPLACE (strftime(event_time, '%Y-%m-%dT%H:%M:%S.%gZ') AS event_time) FROM read_parquet('{file}')
"""
PASSES = f"""
    length(event_id) BETWEEN 1 AND 512 AND length(user_id) BETWEEN 1 AND 512 AND length(item_id) BETWEEN 1 AND 512
    AND regexp_matches(item_id, '\\S') AND behaviour IN {BEHAVIOURS} AND coalesce(value BETWEEN -1e12 AND 1e12, true)
    AND (behaviour <> 'rating' OR (value IS NOT NULL AND value BETWEEN 0 AND 10))
    AND event_time BETWEEN '1970-01-01T00:00:00+00:00'::TIMESTAMPTZ AND '{LATEST}'::TIMESTAMPTZ
"""
"""What the suite of events says of a row, as one SQL condition."""


@dataclass(frozen=True)
class Log:
    """One drawn log. `files`: format → file."""

    rows: int
    files: Mapping[str, Path]

    @staticmethod
    def counts(rows: int) -> tuple[int, int]:
        """Of so many rows: those that are broken, and those that repeat an earlier one. None is both."""
        return (rows + _DIRTY // 2 - 1) // _DIRTY, rows // _REPEATS


def write_log(rows: int, *, folder: Path) -> Log:
    """Write `rows` events (at least 200) below `folder`, in both formats; some 3 s a million on two cores."""
    files = {format: folder / f"events-{rows}.{format}" for format in FORMATS}
    drawn = _DRAWN.format(rows=rows, dirty=_DIRTY, repeats=_REPEATS, users=max(1, rows // 20), items=100_000)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute(f"COPY ({drawn}) TO '{files['parquet']}'")
        connection.execute(f"COPY ({_IN_CSV.format(file=files['parquet'])}) TO '{files['csv']}'")
    return Log(rows, files)
