"""The log that the ingest benchmark draws: the same each time, with broken and repeated rows counted in advance."""

from pathlib import Path

import duckdb
import pytest

from bench.ingest_data import COLUMNS, PASSES, Log, write_log

ROWS = 1_400


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return write_log(ROWS, folder=tmp_path_factory.mktemp("log"))


def asked(query: str, log: Log) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        csv = f"read_csv('{log.files['csv']}', header = true, columns = {COLUMNS})"
        return connection.execute(query.format(csv=csv, parquet=f"'{log.files['parquet']}'")).fetchall()


def test_broken_and_repeated_rows_are_as_many_as_stated(log: Log) -> None:
    # 50, 150, …, 1350 are broken; 199, 399, …, 1399 say what the row seven before them says
    assert Log.counts(ROWS) == (14, 7)
    counts = f"SELECT count(*), count(*) FILTER (NOT coalesce({PASSES}, false)), count(DISTINCT event_id) FROM {{csv}}"
    assert asked(counts, log) == [(ROWS, 14, ROWS - 7)]
    assert asked("SELECT count(*) FROM (SELECT DISTINCT * FROM {csv})", log) == [(ROWS - 7,)]


def test_both_formats_say_the_same(log: Log) -> None:
    assert asked("SELECT * FROM {csv} EXCEPT ALL SELECT * FROM {parquet}", log) == []
    assert asked("SELECT count(*) FROM {parquet}", log) == [(ROWS,)]


def test_the_same_log_is_drawn_again(log: Log, tmp_path: Path) -> None:
    again = write_log(ROWS, folder=tmp_path)
    assert again.files["csv"].read_bytes() == log.files["csv"].read_bytes()
