"""Increments against the full retrain: the stream's files, what is run, the arithmetic of the rows, the picture."""

import gzip
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.continual import COST, DRIFT, FLOORS, Point, Recipe, go_through, rows_of
from bench.continual_curves import Sizes, Spent, measure
from bench.continual_curves import rows_of as curve_rows_of
from bench.continual_data import SECOND_US, WEEK_US, read
from bench.continual_picture import draw
from relations.errors import DataRejected, UsageError

PERIODS, SESSIONS, ITEMS = 5, 120, 30


def write_period(folder: Path, period: int, lines: list[str]) -> None:
    with gzip.open(folder / f"period_{period}.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sessions of four clicks that walk a ring of items; the same numbers of sessions come again in each period."""
    rng = np.random.default_rng(0)
    (tmp_path / "walks").mkdir()
    for period in range(PERIODS):
        lines = [
            f"{session} ünit-{(start + step) % ITEMS}"
            for session, start in enumerate(rng.integers(0, ITEMS, SESSIONS))
            for step in range(4)
        ]
        write_period(tmp_path / "walks", period, lines)
    return tmp_path / "walks"


def test_a_folder_of_periods_is_read(folder: Path) -> None:
    stream = read(folder, base=3)
    assert (stream.name, stream.base, stream.sessions) == ("walks", 3, True)
    assert stream.starts == tuple(period * WEEK_US for period in range(5))
    assert len(stream.histories.users) == 600  # 5 periods of 120 sessions: equal numbers are other sessions
    assert len(stream.histories) == 2_400
    assert len(stream.before(3)) == 3 * 480
    assert len(stream.only(4)) == len(stream.before(5)) - len(stream.before(4)) == 480
    asked = stream.holdout(4, most_users=10)
    assert len(asked) == 10 * 3  # nothing is asked before a session's first click
    assert asked.cutoff_us == 4 * WEEK_US


def test_lines_are_seconds_of_their_period(tmp_path: Path) -> None:
    for period in range(3):
        write_period(tmp_path, period, ["7 a", "7 b"])
    stream = read(tmp_path, base=1)
    assert stream.histories.users.tolist() == ["0-7", "1-7", "2-7"]
    assert stream.histories.time_N.tolist() == [
        period * WEEK_US + line * SECOND_US for period in range(3) for line in range(2)
    ]


def test_a_malformed_line_is_named(folder: Path) -> None:
    write_period(folder, 2, ["1 a", "2 b and more"])
    with pytest.raises(DataRejected, match=r"period_2\.txt\.gz, line 2: '2 b and more' is not `session item`"):
        read(folder)


def test_a_wrong_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no period_0\.txt\.gz, u\.data or interactions\.parquet"):
        read(tmp_path)


@pytest.mark.parametrize("base", [0, 4, 5])
def test_a_base_leaves_a_period_to_learn_and_one_to_ask(folder: Path, base: int) -> None:
    with pytest.raises(UsageError, match=rf"--base {base}: walks has 5 periods"):
        read(folder, base=base)


TINY = Recipe(
    {"width": 8, "blocks": 1, "heads": 1, "max_history": 4, "relative_times": False},
    {"epochs": 4, "learning_rate": 0.01, "small_events": 0},
    {"epochs": 1},
)
ARMS = ["stale", "fine-tune", "default", "full"]


def test_arms_go_through_the_periods_side_by_side(folder: Path) -> None:
    stream = read(folder, base=2)
    found = list(go_through(stream, TINY, arms=ARMS, seed=0, steps=2))
    assert [(point.step, point.period, point.arm) for point in found] == [
        *((1, 2, arm) for arm in ARMS),
        *((2, 3, arm) for arm in ARMS),
    ]
    of = {(point.step, point.arm): point for point in found}
    for step in (1, 2):
        stale, tuned, default, full = (of[step, arm] for arm in ARMS)
        assert len({point.rows for point in (stale, tuned, default, full)}) == 1  # all are asked the same
        assert stale.targets == 0 < tuned.targets < default.targets < full.targets  # replay comes beside what is new
        assert full.targets > 4 * (step + 1) * 400  # 4 epochs over periods of 480 events but for the panel's
        assert tuned.cpu_s < full.cpu_s
    assert all(0 <= point.ndcg10 <= point.recall20 <= 1 for point in found)  # ten of the twenty, each counting ≤ 1
    assert of[1, "stale"].kept == of[2, "stale"].kept != {}  # frozen users, an unchanged model
    again = list(go_through(stream, TINY, arms=["stale", "full"], seed=0, steps=1))
    assert [(point.ndcg10, point.kept) for point in again] == [
        (of[1, arm].ndcg10, of[1, arm].kept) for arm in ("stale", "full")
    ]  # an arm's figures do not depend on what runs beside it


def point(arm: str, *, seed: int, step: int, cpu_s: float, recall20: float, ndcg10: float, kept: float = 0.2) -> Point:
    targets = {"stale": 0, "default": 50, "full": 1_000}[arm]
    return Point(seed, arm, step, 9 + step, cpu_s, targets, recall20, ndcg10, 100, {"all": kept})


POINTS = [
    point("stale", seed=0, step=1, cpu_s=0.0, recall20=0.4, ndcg10=0.20),
    point("default", seed=0, step=1, cpu_s=0.5, recall20=0.5, ndcg10=0.25, kept=0.21),
    point("full", seed=0, step=1, cpu_s=10.0, recall20=0.5, ndcg10=0.25),
    point("stale", seed=0, step=2, cpu_s=0.0, recall20=0.3, ndcg10=0.10),
    point("default", seed=0, step=2, cpu_s=1.0, recall20=0.4, ndcg10=0.19, kept=0.19),
    point("full", seed=0, step=2, cpu_s=10.0, recall20=0.5, ndcg10=0.20),
    point("stale", seed=1, step=1, cpu_s=0.0, recall20=0.4, ndcg10=0.20),
    point("default", seed=1, step=1, cpu_s=0.4, recall20=0.5, ndcg10=0.25),
    point("full", seed=1, step=1, cpu_s=10.0, recall20=0.5, ndcg10=0.25),
    point("stale", seed=1, step=2, cpu_s=0.0, recall20=0.3, ndcg10=0.10),
    point("default", seed=1, step=2, cpu_s=0.4, recall20=0.5, ndcg10=0.20),
    point("full", seed=1, step=2, cpu_s=10.0, recall20=0.5, ndcg10=0.20),
]


def test_rows_are_shares_of_the_full_retrain_of_the_same_seed_and_step() -> None:
    rows = rows_of(POINTS, floors=True)
    measured = {re.sub(r", 2 seeds, ± .*", "", row["name"]): row["measured"] for row in rows}
    assert measured["full: CPU-seconds a step"] == 10
    assert measured["full: ndcg@10"] == pytest.approx((0.25 + 0.20) / 2)
    assert measured["default: recall@20 over the full retrain's"] == 0.95  # ((1 + 0.4 / 0.5) / 2 + 1) / 2
    assert measured["default: ndcg@10 over the full retrain's"] == 0.9875  # ((1 + 0.19 / 0.20) / 2 + 1) / 2
    assert measured["default: cost over the full retrain's"] == 0.0575  # ((0.05 + 0.1) / 2 + 0.04) / 2
    assert measured["default: targets trained over the full retrain's"] == pytest.approx(50 / 1_000)
    assert measured["default: ndcg@10 over the full retrain's, worst of 2 steps"] == 0.975  # step 2: (0.95 + 1) / 2
    assert measured["stale: ndcg@10 over the full retrain's"] == pytest.approx((0.20 / 0.25 + 0.10 / 0.20) / 2)
    kept = "default: what the base knew of all, after 2 steps, ndcg@10 changed by"
    assert measured[kept] == pytest.approx((0.19 / 0.2 - 1 + 0) / 2)  # against the stale model's, at the last step


def test_of_a_cohort_that_the_base_ranked_nowhere_nothing_is_said() -> None:
    rows = rows_of([replace(each, kept={"all": 0.0}) for each in POINTS], floors=True)
    assert len(rows) == len(rows_of(POINTS, floors=True)) - 2  # of the two arms that are compared with the full one
    assert not any("what the base knew" in row["name"] for row in rows)


def test_the_spread_is_students_over_seeds() -> None:
    named = [row["name"] for row in rows_of(POINTS, floors=True)]
    # seeds' means 0.9 and 1: standard deviation 0.1/√2, of the mean 0.05; times t(0.975, 1) = tan(0.475 π) = 12.706
    half = 0.05 * math.tan(0.475 * math.pi)
    assert f"default: recall@20 over the full retrain's, 2 seeds, ± {half:.4f}" in named
    alone = [row["name"] for row in rows_of([each for each in POINTS if each.seed == 0], floors=True)]
    assert "default: recall@20 over the full retrain's, one seed" in alone


def test_bars_are_the_defaults_and_only_where_there_are_floors() -> None:
    barred = [row for row in rows_of(POINTS, floors=True) if row["bar"] is not None]
    assert [(row["measured"], row["bar"], row["holds"]) for row in barred] == [
        (0.95, f"≥ {FLOORS['recall@20']:g}", False),
        (0.9875, f"≥ {FLOORS['ndcg@10']:g}", False),
        (0.0575, f"≤ {COST:g}", True),
        (0.975, f"≥ {DRIFT:g}", True),
    ]
    assert all(row["name"].startswith("default: ") for row in barred)
    assert all(row["bar"] is None and row["holds"] is None for row in rows_of(POINTS, floors=False))


def test_the_picture_is_whole_in_itself(tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "continual.svg"
    draw(POINTS, file, name="walks")
    drawn = file.read_text(encoding="utf-8")
    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    links = [value for each in root.iter() for name, value in each.attrib.items() if name.split("}")[-1] == "href"]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.findall(r"url\((?!#)|@import|<script|<image|font-family", drawn)
    draw(POINTS, file, name="walks")
    assert file.read_text(encoding="utf-8") == drawn


def test_a_curves_rows_are_of_differences_and_ratios() -> None:
    sizes = Sizes(new_users=20)
    found = {f"new {times}": Spent(absorb=0.1, load=0.2, fit=0.5 * times) for times in (1, 2, 4, 8)}
    found |= {"users": Spent(absorb=0.1, load=0.5, fit=2.0), "length": Spent(absorb=0.1, load=0.2, fit=2.0)}
    rows = curve_rows_of(found, sizes=sizes)
    assert rows[0]["name"] == "increment, 100 new events: CPU"  # 20 users of 5
    assert rows[3]["measured"] == pytest.approx(0.1 + 0.2 + 4.0)
    bent, straight = (row for row in rows if row["name"].startswith("a new event's cost"))
    assert bent["measured"] == straight["measured"] == 1.0  # (2.0 / 400) / (1.5 / 300): the fixed part is in neither
    flat = [row for row in rows if row["bar"] == "≤ 1.15" and row["name"].startswith("history")]
    assert [row["measured"] for row in flat] == [1.13, 1.0]  # (0.1 + 0.5 + 2.0) / (0.1 + 0.2 + 2.0)
    quadratic = found | {f"new {times}": Spent(0.0, 0.0, times**2) for times in (1, 2, 4, 8)}
    bends = [row for row in curve_rows_of(quadratic, sizes=sizes) if row["name"].startswith("a new event's cost")]
    assert [(row["measured"], row["holds"]) for row in bends] == [(2.4, True), (2.4, False)]  # (48 / 4) / (15 / 3)


def test_curves_are_measured_in_real_homes(tmp_path: Path) -> None:
    tiny = Sizes(users=80, history=8, growth=2, new_users=10, items=20, replay_events=100, parent_users=30)
    found = measure(tiny, folder=tmp_path, repetitions=1)
    assert set(found) == {"new 1", "new 2", "new 4", "new 8", "users", "length"}
    assert all(part > 0 for spent in found.values() for part in (spent.absorb, spent.load, spent.fit))
