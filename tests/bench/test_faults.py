"""The fault benchmarks at small counts: every promise holds, and a broken one would show."""

from pathlib import Path

import pytest

import bench.faults
from bench.fault_disks import may_mount, measure_full_disk
from bench.fault_drift import MUTATIONS
from bench.fault_homes import NOW, Workers, record, unaccounted, write
from bench.fault_inputs import measure_bad_values, measure_bomb, measure_empty
from bench.fault_kills import Expected, measure_kills
from bench.fault_orders import measure_duplicates, measure_future, measure_order, measure_skew
from bench.fault_privacy import hits, measure_forgetting, measure_leak
from bench.fault_trainings import PRELOAD
from bench.rows import Row
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.ingesting import deliver_file


def failing(rows: list[Row]) -> list[Row]:
    """Rows that do not hold, but for seconds: a busy machine breaks no promise."""
    assert rows
    return [row for row in rows if row["holds"] is False and row["unit"] != "s"]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers(also=PRELOAD)  # one server forks the workers of every test file


def test_kills_lose_and_double_nothing(tmp_path: Path, workers: Workers) -> None:
    assert failing(measure_kills(tmp_path, kills=2, workers=workers, cold=False)) == []


def test_lost_and_doubled_rows_would_show(home: Home) -> None:
    state = Expected(home)
    state.put()
    # nothing is ingested yet: 81 events, 18 late ones and 20 broken ones are lost
    assert state.differences() == (81 + 18 + 20, 0)
    deliver_file(write(home.root / "e.jsonl", [record(1)]), home=home, settings=Settings(), now=NOW)
    assert state.differences() == (81 + 18 + 20, 1)


def test_duplicates_and_any_order_leave_the_same_tables(tmp_path: Path) -> None:
    assert failing(measure_duplicates(tmp_path, events=300)) == []
    assert failing(measure_order(tmp_path, permutations=2)) == []


def test_skewed_clocks_and_the_future(tmp_path: Path) -> None:
    assert failing(measure_skew(tmp_path)) == []
    assert failing(measure_future(tmp_path, streams=2)) == []


def test_there_are_thirty_mutations() -> None:
    assert len({mutation.what for mutation in MUTATIONS}) == 30


def test_broken_hostile_and_empty_inputs(tmp_path: Path) -> None:
    assert failing(measure_bad_values(tmp_path)) == []
    assert failing(measure_empty(tmp_path)) == []


def test_a_bomb_is_refused_at_the_door(tmp_path: Path, workers: Workers) -> None:
    assert failing(measure_bomb(tmp_path, workers=workers, size=200_000_000)) == []


def test_a_full_disk_is_told_of_and_waited_out(tmp_path: Path, workers: Workers) -> None:
    if why := may_mount(tmp_path):
        pytest.skip(why)
    assert failing(measure_full_disk(tmp_path, workers=workers, rooms_kib=(0,))) == []


def test_ids_leak_nowhere_and_a_forgotten_user_is_gone(tmp_path: Path) -> None:
    assert failing(measure_leak(tmp_path, users=40, train=False)) == []
    assert failing(measure_forgetting(tmp_path)) == []


def test_a_leak_would_show(home: Home) -> None:
    path = write(home.reports / "page.parquet", [record(1, user_id="canary-1")])
    assert hits(home.root, b"canary-1") == [str(path.relative_to(home.root))]


def test_a_row_that_is_not_accounted_for_would_show(home: Home) -> None:
    deliver_file(write(home.root / "e.csv", [record(1)]), home=home, settings=Settings(), now=NOW)
    assert unaccounted(home) == 0
    lake = Lake(home.lake)
    lake.append("events", lake.read("events"), transaction="again")
    assert unaccounted(home) == 1


def test_a_part_that_breaks_is_a_row_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object, **__: object) -> list[Row]:
        raise ValueError("no such thing")

    for name in [name for name in vars(bench.faults) if name.startswith("measure_")]:
        monkeypatch.setattr(bench.faults, name, breaks)
    rows = bench.faults.run(1)
    assert [row["holds"] for row in rows].count(None) >= 1  # poison without data
    assert {row["holds"] for row in rows} == {False, None}
    assert "no such thing" in capsys.readouterr().err
    assert bench.faults.main(["--repetitions", "1"]) == 1
