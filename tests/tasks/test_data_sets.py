"""Each real data set comes in with one command, with the counts that its publishers state."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pytest

from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.ingesting import deliver_file, kinds_in

pytestmark = pytest.mark.realdata
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def bring_in(files: list[Path], format: str, *, home: Home) -> tuple[Lake, dict[str, tuple[int, int, int, int]]]:
    """As `ratchet ingest FILES --format FORMAT`; kind → (delivered, accepted, quarantined, duplicate)."""
    settings = Settings()
    found: dict[str, tuple[int, int, int, int]] = {}
    for file in files:
        for kind in kinds_in(file, settings=settings, source="file", format=format):
            receipt = deliver_file(file, home=home, settings=settings, kind=kind, format=format, now=NOW)
            counts = (receipt.delivered, receipt.accepted, receipt.quarantined, receipt.duplicate)
            before = found.get(kind, (0, 0, 0, 0))
            found[kind] = (before[0] + counts[0], before[1] + counts[1], before[2] + counts[2], before[3] + counts[3])
    return Lake(home.lake), found


def distinct(lake: Lake, table: str, column: str) -> int:
    return int(pc.count_distinct(lake.read(table, columns=[column]).column(0)).as_py())


def test_movielens_100k(realdata: Path, home: Home) -> None:
    folder = realdata / "ml-100k"
    lake, found = bring_in([folder / name for name in ("u.item", "u.user", "u.data")], "movielens", home=home)
    assert found == {
        "items": (1_682, 1_682, 0, 0),
        "users": (943, 943, 0, 0),
        "events": (100_000, 100_000, 0, 0),
    }
    assert (distinct(lake, "events", "user"), distinct(lake, "events", "item_id")) == (943, 1_682)


def test_movielens_1m(realdata: Path, home: Home) -> None:
    folder = realdata / "ml-1m"
    names = ("movies.dat", "users.dat", "ratings_ordered.parquet")
    lake, found = bring_in([folder / name for name in names], "movielens", home=home)
    assert found == {
        "items": (3_883, 3_883, 0, 0),
        "users": (6_040, 6_040, 0, 0),
        "events": (1_000_209, 1_000_209, 0, 0),
    }
    assert (distinct(lake, "events", "user"), distinct(lake, "events", "item_id")) == (6_040, 3_706)


def test_amazon_reviews(realdata: Path, home: Home) -> None:
    folder = realdata / "amazon2023"
    lake, found = bring_in([folder / "items.parquet", folder / "interactions.parquet"], "amazon", home=home)
    assert found == {"items": (10_000, 10_000, 0, 0), "events": (25_023, 25_023, 0, 0)}
    assert (distinct(lake, "events", "user"), distinct(lake, "events", "item_id")) == (3_744, 3_700)
    reviewed = lake.read("events", columns=["item_id"]).column(0)
    assert pc.all(pc.is_in(reviewed, lake.read("items", columns=["item_id"]).column(0))).as_py()


def test_diginetica(realdata: Path, home: Home) -> None:
    files = sorted((realdata / "diginetica-weeks").glob("*.txt.gz"))
    _, found = bring_in(files, "diginetica", home=home)
    assert len(files) == 17
    assert found == {"events": (993_483, 993_483, 0, 0)}


def test_mind(realdata: Path, home: Home) -> None:
    folder = realdata / "mind"
    lake, found = bring_in([folder / "news.tsv.gz", folder / "behaviors.tsv.gz"], "mind", home=home)
    assert found["exposures"] == (189_359, 189_359, 0, 0)
    assert found["events"] == (7_542, 7_542, 0, 0)
    assert distinct(lake, "exposures", "request_id") == 5_000
    clicked = lake.read("events", columns=["exposure_id"]).column(0)
    assert pc.all(pc.is_in(clicked, lake.read("exposures", columns=["exposure_id"]).column(0))).as_py()


@pytest.mark.parametrize("policy", ["random", "bts"])
def test_open_bandit(realdata: Path, home: Home, policy: str) -> None:
    lake, found = bring_in(sorted((realdata / "obd" / policy).glob("*/*.csv.gz")), "openbandit", home=home)
    assert found["exposures"] == (20_000, 20_000, 0, 0)  # two campaigns of 10,000 rounds
    shown = lake.read("exposures", columns=["propensity", "propensity_kind", "policy"])
    assert set(shown.column("propensity_kind").to_pylist()) == {"exact"}
    assert set(shown.column("policy").to_pylist()) == {policy}
