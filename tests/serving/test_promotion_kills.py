"""Decisions that are killed, champions that nobody approved, and the way back, at small counts, on real servers."""

from pathlib import Path
from typing import Any

import pytest

from bench.fault_homes import Workers
from bench.fault_promotions import ADMIN, measure_promotions
from bench.fault_trainings import PRELOAD
from bench.fault_unauthorised import measure_rollback, measure_unauthorised
from bench.rows import Row
from stores.failpoints import PROMOTION
from stores.home import Home


@pytest.fixture
def trading(shop: Any, tmp_path: Path) -> Home:
    """A production's home with champion 1 and a version 2, both able to serve."""
    home = Home.create(tmp_path / "production")
    (home.root / "ratchet.toml").write_text("[serving]\npoll_seconds = 0.05\n", encoding="utf-8")
    made = type(shop)(home, tmp_path / "more", shop.settings)
    made.ledger.add_first_admin(ADMIN, password=None, now=made.ledger.version(made.version()).created)
    made.crown(1)
    made.version()
    return home


def failing(rows: list[Row]) -> list[Row]:
    """Rows that do not hold, but for seconds: a busy machine breaks no promise."""
    assert rows
    return [row for row in rows if row["holds"] is False and row["unit"] != "s"]


def test_a_killed_decision_is_old_or_new_served_and_shown(trading: Home, tmp_path: Path) -> None:
    workers = Workers(also=PRELOAD)
    rows = measure_promotions(tmp_path, kills=8, workers=workers, home=trading, every=0.2)
    assert failing(rows) == []
    told = {row["name"].partition(": ")[2]: row["measured"] for row in rows}
    assert told["ended with the old champion"] + told["ended with the new one"] == told["kills"] == 8


def test_every_place_of_a_kill_is_one() -> None:
    root = Path(__file__).parents[2]
    code = "".join((root / name).read_text() for name in ("tasks/deciding.py", "stores/mirror.py", "stores/champion.py",
                                                          "stores/promotion.py"))  # fmt: skip
    assert [name for name in PROMOTION if f'reach("{name}")' not in code] == []


def test_nobody_becomes_champion_without_an_approval(trading: Home, tmp_path: Path) -> None:
    assert failing(measure_unauthorised(tmp_path, home=trading, every=0.2, commands=1)) == []


def test_a_rollback_needs_neither_mlflow_nor_prefect(trading: Home, tmp_path: Path) -> None:
    assert failing(measure_rollback(tmp_path, home=trading)) == []
