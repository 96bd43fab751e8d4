"""A plan from a lake whose traffic is known: rates, days and the lines for ratchet.toml."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from cli.commands.trial_plan import plan as plan_command
from gate.planning import Design, Observed, users_needed
from relations.errors import UsageError
from relations.schemas import EVENTS, EXPOSURES
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings, load_settings
from tasks.planning import PlanQuestion, plan_trial

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = 20
REGULARS, STRANGERS = 60, 10
TOML = """
[trial]
guardrails = ["purchases"]
stages = ["compare"]
minimum_days = 3
before_days = 7
[trial.metrics.clicks]
outcome = "click"
[trial.metrics.purchases]
outcome = "purchase"
margin = 0.5
[trial.metrics.favourites]
outcome = "favourite"
"""


def rows(seed: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """60 regulars who come every day, and ten strangers a day; two impressions each, of which a tenth is clicked."""
    chance = np.random.default_rng(seed)
    exposures, events = [], []
    for day in range(DAYS):
        people = [f"ü{number}" for number in range(REGULARS)]
        people += [f"stranger-{day}-{number}" for number in range(STRANGERS)]
        for place, user in enumerate(people):
            taste = 0.4 if place % 4 == 0 else 0.02
            for position in (1, 2):
                name, shown = f"{day}-{user}:{position}", START + timedelta(days=day, hours=1 + place % 23)
                exposures.append(_exposure(name, user, shown))
                for behaviour, rate in (("click", taste), ("purchase", taste / 2)):
                    if chance.random() < rate:
                        events.append(_event(f"{name}-{behaviour}", user, behaviour, shown, name))
    return exposures, events


def _exposure(name: str, user: str, shown: datetime) -> dict[str, Any]:
    return {
        **{"exposure_id": name, "request_id": name, "user": user, "item_id": "i", "position": 1, "propensity": 1.0},
        **{"propensity_kind": "exact", "policy": "p", "surface": "default", "variant": "champion", "allocation": 0.0},
        **{"assignment_reason": "no trial", "champion_epoch": 1, "model_version": 1, "digest": "d", "served_by": "m"},
        **{"candidate_set_hash": "h", "explored": False, "is_shadow": False, "is_bot": False, "latency_ms": 1.0},
        **{"shown_time": shown, "received_time": shown, "source": "s", "delivery_id": "d"},
    }


def _event(name: str, user: str, behaviour: str, at: datetime, exposure: str | None) -> dict[str, Any]:
    return {
        **{"event_id": name, "user": user, "item_id": "i", "behaviour": behaviour, "value": None, "event_time": at},
        **{"received_time": at, "source": "s", "exposure_id": exposure, "delivery_id": "d"},
    }


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home.create(tmp_path_factory.mktemp("planned") / "home", simulation=True)
    exposures, events = rows()
    lake = Lake.of(home, settings_of(home).lake)
    lake.append("exposures", pa.Table.from_pylist(exposures, schema=EXPOSURES), transaction="t")
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction="t")
    lake.close()
    return home


def settings_of(home: Home) -> Settings:
    if not (home.root / "ratchet.toml").exists():
        (home.root / "ratchet.toml").write_text(TOML)
    return load_settings(home.root / "ratchet.toml", environment={})


def asked(home: Home, question: PlanQuestion, **changed: Any) -> Any:
    settings = settings_of(home)
    settings = settings.model_copy(update={"trial": settings.trial.model_copy(update=changed)})
    lake = Lake.of(home, settings.lake)
    try:
        return plan_trial(lake, settings, question)
    finally:
        lake.close()


def test_traffic_and_rate_are_those_of_the_lake(lived: Home) -> None:
    """20 days: 70 users on the first, ten new ones each day after it; regulars and strangers click alike."""
    found = asked(lived, PlanQuestion(effect=0.2))
    assert found.accumulation.cumulative == tuple(70 + 10 * day for day in range(DAYS))
    # 13 days measured, the first 7 being the pre-period; the last W of them do not mature
    assert found.primary.users == pytest.approx(REGULARS + STRANGERS * 12, abs=STRANGERS)
    assert found.primary.rate == pytest.approx((0.4 + 3 * 0.02) / 4, abs=0.02)
    # Regulars' past tells of their taste: a user is shown two items and clicks one with .4 or with .02
    assert 0.02 < found.primary.reduction < 0.8
    design = Design(alpha=0.025)
    assert found.chosen.plan.requirements[0].users == users_needed(found.primary, design=design, effect=0.2)
    assert found.chosen.plan.binding == "clicks"
    purchases = found.chosen.plan.requirements[1].users
    assert purchases is not None
    assert purchases < found.chosen.plan.n_max


def test_days_are_arrivals_and_then_the_window(lived: Home) -> None:
    """n users of ten strangers a day beyond the first 70, one day more to mature, none of them before minimum_days."""
    found = asked(lived, PlanQuestion(effect=2.0))
    assert found.chosen.days == pytest.approx(max(3.0, 1 + found.accumulation.days(found.chosen.plan.n_max)))
    large = asked(lived, PlanQuestion(effect=0.8))
    if large.chosen.plan.n_max <= found.accumulation.cumulative[-1]:
        assert large.chosen.days == pytest.approx(1 + (large.chosen.plan.n_max - 60) / 10, abs=1)
    shown = asked(lived, PlanQuestion(days=11))
    users, effect = shown.within
    assert users == 70 + 9 * 10  # ten days of arrivals, and one to mature
    assert shown.chosen.plan.effect == effect
    assert shown.chosen.plan.requirements[0].users == pytest.approx(users, abs=2)


@pytest.mark.parametrize(
    ("stated", "k", "said"),
    [
        (
            "",
            2,
            "revenue has no cap, and of all its value one user has 50% or more: cap = 40 is exceeded by 0.50% of users "
            "and takes 86.8% of the value away",
        ),
        ("", 3, None),  # two users exceed it: too few for a figure
        ("cap = 100", 3, "revenue: cap = 100 is exceeded by 0.50% of users and takes 78.9% of the value away"),
    ],
)
def test_a_cap_is_suggested_and_what_it_touches_is_said(tmp_path: Path, stated: str, k: int, said: str | None) -> None:
    """400 users: of five who buy, two spend 900 and 500 and three 40; 1,400 − 2 · 40 and 1,400 − 2 · 100 of 1,520
    (.868 and .789) are beyond the caps."""
    home = Home.create(tmp_path / "home", simulation=True)
    (home.root / "ratchet.toml").write_text(
        f"[privacy]\nk = {k}\n[trial]\nbefore_days = 7\nstages = ['compare']\n"
        f"[trial.metrics.revenue]\noutcome = 'purchase'\nvalue = 'sum'\nper = 'user'\n{stated}\n"
    )
    shown = START + timedelta(days=DAYS - 3)
    exposures = [_exposure("old", "earlier", START), _exposure("end", "later", START + timedelta(days=DAYS))]
    exposures += [_exposure(f"x{user}", f"u{user}", shown) for user in range(400)]
    spent = [900.0, 500.0, 40.0, 40.0, 40.0]
    events = [
        {**_event(f"e{user}", f"u{user}", "purchase", shown, f"x{user}"), "value": value}
        for user, value in enumerate(spent)
    ]
    lake = Lake.of(home, settings_of(home).lake)
    lake.append("exposures", pa.Table.from_pylist(exposures, schema=EXPOSURES), transaction="t")
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction="t")
    lake.close()
    found = asked(home, PlanQuestion(effect=0.2, metric="revenue"))
    assert found.primary.users == 400
    assert found.primary.rate == pytest.approx(sum(min(value, 100) if stated else value for value in spent) / 400)
    assert [note for note in found.notes if note.startswith("revenue")] == ([said] if said else [])


def test_what_traffic_never_brings_is_said(lived: Home) -> None:
    found = asked(lived, PlanQuestion(effect=0.001))
    assert found.chosen.days is None
    assert any("too few for this plan" in note for note in found.notes)
    assert any("never brings so many" in line for line in found.lines)


def test_challengers_canaries_and_held_back_users_leave_fewer(lived: Home) -> None:
    one, three = (asked(lived, PlanQuestion(effect=0.2, challengers=count)) for count in (1, 3))
    assert one.compared == 1.0
    assert three.compared == pytest.approx(0.5 + 0.5 / 3)
    assert three.design.alpha == pytest.approx(0.025 / 3)
    assert three.design.challenger_share == pytest.approx((0.5 / 3) / (0.5 + 0.5 / 3))
    assert three.chosen.plan.n_max > one.chosen.plan.n_max
    canary = asked(lived, PlanQuestion(effect=0.2), stages=("canary", "compare"))
    assert canary.compared == pytest.approx(1 - 0.05 / 0.5)
    settings = settings_of(lived)
    held = settings.model_copy(update={"policy": settings.policy.model_copy(update={"holdback": 0.02})})
    lake = Lake.of(lived, held.lake)
    assert plan_trial(lake, held, PlanQuestion(effect=0.2)).compared == pytest.approx(0.98)
    lake.close()


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (PlanQuestion(metric="clikcs"), "'clikcs' is not declared; known: clicks, favourites, purchases"),
        (PlanQuestion(metric="favourites"), "metric favourites: its rate is 0"),
        (PlanQuestion(effect=-0.1), "effect of -0.1 cannot"),
        (PlanQuestion(power=1.0), "power = 1.0 must"),
        (PlanQuestion(challengers=0), "challengers = 0 must"),
        (PlanQuestion(rate=0.1), "the lake has matured users"),
        (PlanQuestion(days=0.5), "0 users detect nothing"),
    ],
)
def test_what_cannot_be_planned_is_named(lived: Home, question: PlanQuestion, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked(lived, question)


def test_without_exposures_a_rate_must_be_told(tmp_path: Path) -> None:
    """Then traffic is that of events, and the variance a coin's: n = θ²·(1/½ + 1.1²/½)·r(1 − r)/(r·e)²."""
    home = Home.create(tmp_path / "home", simulation=True)
    with pytest.raises(UsageError, match=r"no exposures yet.*--rate"):
        asked(home, PlanQuestion())
    with pytest.raises(UsageError, match="no events"):
        asked(home, PlanQuestion(rate=0.2))
    settings = settings_of(home)
    lake = Lake.of(home, settings.lake)
    _, events = rows()
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction="t")
    lake.close()
    found = asked(home, PlanQuestion(effect=0.1, rate=0.2))
    assert found.traffic == "events"
    assert found.primary == Observed.assumed("clicks", rate=0.2)
    expected = found.design.drift**2 * (2 + 2 * 1.1**2) * 0.2 * 0.8 / 0.02**2
    assert found.chosen.plan.n_max == pytest.approx(expected, abs=2)
    assert "assumed" in found.notes[0]


def test_until_somebody_has_matured_a_rate_may_be_assumed(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", simulation=True)
    settings = settings_of(home)
    exposures, events = rows()
    newest = max(row["shown_time"] for row in exposures)
    window = timedelta(hours=settings.trial.window_hours)
    lake = Lake.of(home, settings.lake)
    young = [row for row in exposures if row["shown_time"] > newest - window]
    lake.append("exposures", pa.Table.from_pylist(young, schema=EXPOSURES), transaction="t")
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction="t")
    lake.close()
    with pytest.raises(UsageError, match=r"nobody who was shown something has matured.*window_hours.*--rate"):
        asked(home, PlanQuestion(effect=0.1))
    found = asked(home, PlanQuestion(effect=0.1, rate=0.2))
    assert found.traffic == "events"
    assert found.primary == Observed.assumed("clicks", rate=0.2)
    assert found.notes[0].startswith("nobody has matured yet")


def test_the_command_prints_a_table_and_the_settings(lived: Home, capfd: pytest.CaptureFixture[str]) -> None:
    done = CliRunner().invoke(plan_command, ["--home", str(lived.root), "--mde", "0.2"])
    assert done.exit_code == 0, done.output
    assert "+20.00%" in done.output
    assert "   ←" in done.output
    stated = done.output.split("\n[trial]\n")[1]
    assert "n_max = " in stated
    capfd.readouterr()
    CliRunner().invoke(plan_command, ["--home", str(lived.root), "--mde", "0.2", "--days", "9", "--json"])
    answer = json.loads(capfd.readouterr().out)
    assert answer["plan"]["effect"] == 0.2
    assert answer["within"]["users"] == 70 + 7 * 10
    assert f"n_max = {math.ceil(answer['plan']['n_max'] / 100) * 100}" in done.output
    refused = CliRunner().invoke(plan_command, ["--home", str(lived.root), "--metric", "nothing"])
    assert refused.exit_code == 2
    assert "is not declared" in refused.stderr
