"""What a look reads from a lake: numbers counted by hand, and every kind of missing data said in words."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gate.looks import LookSums
from gate.metrics import Metric, Slice, Value
from gate.served import Served
from gate.states import TrialMode
from gate.trial import Challenger, TrialConfig
from relations.errors import UsageError
from relations.schemas import DELIVERIES, EVENTS, EXPOSURES, QUARANTINE, USERS
from stores.home import Home
from stores.lake import Lake
from tasks.sums import Credit, reign_served, reign_sums, trial_credit, trial_served, trial_sums, waiting_files

Row = dict[str, Any]
START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DIGESTS = {"champion": "c" * 64, "challenger": "d" * 64, "challenger-2": "e" * 64}
CONFIG = TrialConfig(
    trial_id="t1",
    challenger_version=2,
    challenger_digest=DIGESTS["challenger"],
    champion_version=1,
    champion_digest=DIGESTS["champion"],
    champion_epoch=3,
    salt="salt",
    start=START,
    deadline=START + timedelta(days=14),
    n_max=1_000,
    primary=Metric("clicks", "click"),
    guardrails=(Metric("revenue", "purchase", per="user", value=Value.SUM), Metric("latency", "latency")),
    slices=(Slice("phones", "context.device", "phone"), Slice("plus", "attribute.tier", "plus")),
    others=(Challenger("challenger-2", 3, DIGESTS["challenger-2"]),),
    window_hours=24,
)
STAMPS = {"received_time": START, "source": "s", "delivery_id": "d"}


def exposure(name: str, user: str, hours: float, *, arm: str = "champion", **others: Any) -> Row:
    return {
        **{"exposure_id": f"{name}:1", "request_id": name, "user": user, "item_id": "i", "position": 1},
        **{"propensity": 1.0, "propensity_kind": "exact", "score": None, "policy": "p", "surface": "default"},
        **{"trial": "t1", "variant": arm, "allocation": 0.5, "assignment_reason": "trial", "champion_epoch": 3},
        **{"model_version": 1, "digest": DIGESTS.get(arm, "popularity"), "served_by": "model", "explored": False},
        **{"candidate_set_hash": "h", "is_shadow": False, "is_bot": False, "bot_rules": None, "latency_ms": 5.0},
        **{"error": None, "shown_time": START + hours * HOUR, "context": None, **STAMPS, **others},
    }


def event(name: str, shown: str | None, hours: float, *, behaviour: str = "click", value: float | None = None) -> Row:
    return {
        **{"event_id": name, "user": "u", "item_id": "i", "behaviour": behaviour, "value": value, "query": None},
        **{"event_time": START + hours * HOUR, "exposure_id": shown and f"{shown}:1", "context": None, **STAMPS},
    }


def receipt(
    name: str, hours: float, *, kind: str = "events", state: str = "quarantined_whole", source: str = "s"
) -> Row:
    counts = {"delivered": 45, "accepted": 0, "quarantined": 45, "duplicate": 0, "late": 0}
    return {
        **{"delivery_id": name, "digest": "", "kind": kind, "source": source, "uri": "", "table_versions": []},
        **{"received_time": START + hours * HOUR, "state": state, **counts},
    }


def held(delivery: str, *, state: str = "open") -> Row:
    return {
        **{"delivery_id": delivery, "row": 0, "kind": "events", "format": "json", "raw": b"{}", "reasons": []},
        **{"source": "s", "received_time": START, "state": state},
    }


Fill = Callable[..., Lake]


@pytest.fixture
def fill(tmp_path: Path) -> Iterator[Fill]:
    """A lake of these rows."""
    schemas = {"exposures": EXPOSURES, "events": EVENTS, "users": USERS, "deliveries": DELIVERIES} | {
        "quarantine": QUARANTINE
    }
    made: list[Lake] = []

    def fill(**rows: list[Row]) -> Lake:
        lake = Lake(tmp_path / str(len(made)) / "lake")
        for table, each in rows.items():
            lake.append(table, pa.Table.from_pylist(each, schema=schemas[table]), transaction="t")
        made.append(lake)
        return lake

    yield fill
    for lake in made:
        lake.close()


END = [exposure("end", "zoe", 60), event("e-end", None, 61)]
"""Data reach to 60 hours: users first shown by hour 36 are matured."""


def test_a_look_by_hand(fill: Fill) -> None:
    """ann and bob meet the champion, cat the challenger, dan the second one; eve is a bot, zoe not matured."""
    phone = '{"device": "phone"}'
    lake = fill(
        exposures=[
            exposure("p1", "ann", -5, trial=None),
            exposure("a1", "ann", 1, context=phone, latency_ms=10.0),
            exposure("a2", "ann", 2, latency_ms=20.0),
            exposure("b1", "bob", 30),
            exposure("c1", "cat", 3, arm="challenger", context=phone),
            exposure("c2", "cat", 4),  # seen in the other arm too
            exposure("d1", "dan", 5, arm="challenger-2"),
            exposure("e1", "eve", 5, arm="challenger", is_bot=True),
            END[0],
        ],
        events=[
            event("1", "p1", -4),
            event("2", "a1", 3),
            event("3", "a2", 24.5),
            event("4", "a2", 25.5),  # after 1 + 24 h: late
            event("5", "c1", 9, behaviour="purchase", value=2.5),
            event("6", "c1", 9, behaviour="purchase", value=4.0),
            END[1],
        ],
        users=[{"user": "ann", "valid_from": START - HOUR, "attributes": [("tier", "plus")], **STAMPS}],
    )
    look = trial_sums(lake, CONFIG)
    assert look.watermark == START + 60 * HOUR
    assert look.since == START
    assert look.problems == ()
    assert look.exposed == {"champion": 3, "challenger": 1, "challenger-2": 1}  # ann, bob, zoe; cat; dan
    assert look.crossed == 1
    assert look.bots == {"challenger": 1}
    assert look.late == {"champion": 1, "challenger": 0, "challenger-2": 0}
    clicks = look.metrics["clicks"]
    assert [day.day for day in clicks.days] == [date(2026, 3, 2), date(2026, 3, 3)]
    champion = clicks.arm("champion")
    assert (champion.n, champion.s, champion.i) == (2, 2, 2 + 1)  # ann's two clicks on two, bob's none on one
    assert (champion.s0, champion.i0, champion.s_s0) == (1, 1, 2 * 1)
    revenue = look.metrics["revenue"].arm("challenger")
    assert (revenue.n, revenue.s, revenue.i) == (1, 2.5 + 4.0, 1)
    assert look.metrics["latency"].arm("champion").s == 10 + 20 + 5
    assert look.metrics["latency"].arm("challenger").i == 1 + 1  # cat's second one was served by the other arm
    assert {name: {arm: sums.n for arm, sums in arms.items()} for name, arms in look.slices.items()} == {
        "phones": {"champion": 1, "challenger": 1},
        "plus": {"champion": 1},
    }
    assert look.slices["phones"]["champion"].s == 2
    assert LookSums.from_json(look.as_json()) == look


def test_a_look_at_values_tells_how_much_one_user_has(fill: Fill) -> None:
    """ann has 6 of the champion's 8, and with a cap of 3 as much as 3 of 5; a look at counts says nothing of it."""
    lake = fill(
        exposures=[
            exposure("a1", "ann", 1),
            exposure("b1", "bob", 1),
            exposure("c1", "cat", 1, arm="challenger"),
            *END[:1],
        ],
        events=[
            event("1", "a1", 2, behaviour="purchase", value=6.0),
            event("2", "b1", 2, behaviour="purchase", value=2.0),
            END[1],
        ],
    )
    revenue = Metric("revenue", "purchase", per="user", value=Value.SUM)
    look = trial_sums(lake, replace(CONFIG, primary=revenue, guardrails=()))
    assert look.dominance == {"champion": 6 / 8}  # nothing was earned of the challenger's users
    assert LookSums.from_json(look.as_json()) == look
    capped = trial_sums(lake, replace(CONFIG, primary=replace(revenue, cap=3.0), guardrails=()))
    assert capped.metrics["revenue"].arm("champion").s == 3 + 2
    assert capped.metrics["revenue"].arm("champion").ss == 9 + 4
    assert capped.dominance == {"champion": 3 / 5}
    assert "dominance" not in trial_sums(lake, CONFIG).as_json()


def test_until_and_out_and_the_canary(fill: Fill) -> None:
    lake = fill(
        exposures=[
            exposure("k1", "kim", 1, assignment_reason="canary", arm="challenger"),
            exposure("l1", "lee", 1, assignment_reason="canary"),
            exposure("a1", "ann", 13),
            END[0],
        ],
        events=[event("1", "k1", 2), END[1]],
    )
    look = trial_sums(lake, CONFIG, out=("challenger-2",))
    assert (look.out, look.exposed) == (("challenger-2",), {"champion": 2})
    canary = trial_sums(lake, CONFIG, canary=True)
    assert canary.exposed == {"challenger": 1, "champion": 1}
    assert canary.metrics["clicks"].arm("challenger").s == 1
    earlier = trial_sums(lake, CONFIG, until=START + 30 * HOUR)
    assert earlier.watermark == START + 30 * HOUR
    assert earlier.metrics["clicks"].days == ()  # ann matures at 13 + 24


def test_of_a_comparison_that_began_later_the_rest_is_pre_period(fill: Fill) -> None:
    lake = fill(exposures=[exposure("a1", "ann", 1), exposure("a2", "ann", 11), END[0]], events=END[1:])
    look = trial_sums(lake, CONFIG, since=START + 10 * HOUR)
    champion = look.metrics["clicks"].arm("champion")
    assert (look.since, champion.i, champion.i0) == (START + 10 * HOUR, 1, 1)


def test_data_reach_as_far_as_both_tables_do(fill: Fill) -> None:
    """Outcomes that have not arrived are no zeros: bob, shown at hour 20, is immature while events end at hour 40."""
    rows = [exposure("a1", "ann", 1), exposure("b1", "bob", 20), END[0]]
    look = trial_sums(fill(exposures=rows, events=[event("1", None, 40)]), CONFIG)
    assert (look.watermark, look.problems) == (START + 40 * HOUR, ())
    assert look.metrics["clicks"].arm("champion").n == 1
    (problem,) = trial_sums(fill(exposures=rows, events=[event("1", None, 35.9)]), CONFIG).problems
    assert problem == (
        "events reach to 2026-03-03 11:54 UTC only, exposures to 2026-03-04 12:00 UTC: outcomes are missing"
    )


def test_missing_data_are_said_and_never_a_zero(fill: Fill) -> None:
    nothing = trial_sums(fill(), CONFIG, waiting=2)
    assert nothing.problems == (
        "no exposures have been ingested since the comparison began",
        "2 files wait in the landing folder; ingest them first",
    )
    assert (nothing.watermark, nothing.exposed, nothing.metrics["clicks"].days) == (START, {}, ())
    old = fill(exposures=[exposure("a1", "ann", -1)], events=[event("1", None, 3)])
    assert trial_sums(old, CONFIG).problems == ("no exposures have been ingested since the comparison began",)
    mute = fill(exposures=[exposure("a1", "ann", 1), END[0]], events=[event("1", None, -1)])
    look = trial_sums(mute, CONFIG)
    assert look.problems == ("no events have been ingested since the comparison began: outcomes are missing",)
    assert (look.exposed, look.metrics["clicks"].days) == ({"champion": 2}, ())


def test_answers_of_another_bundle_are_a_problem(fill: Fill) -> None:
    """What failed may be anybody's: the champion's, or popularity's."""
    lake = fill(
        exposures=[
            exposure("a1", "ann", 1, arm="challenger", digest="c" * 64, assignment_reason="fallback"),
            exposure("b1", "bob", 1, arm="challenger", digest="popularity", error="c: timeout"),
            exposure("c1", "cat", 1, arm="challenger", digest="f" * 64),
            exposure("d1", "dan", 1, arm="challenger", digest="f" * 64, is_shadow=True),
            END[0],
        ],
        events=END[1:],
    )
    assert trial_sums(lake, CONFIG).problems == (
        "1 answers of the arm challenger came from bundle ffffffffffff, its own is dddddddddddd",
    )


@pytest.mark.parametrize(
    ("receipts", "open_rows", "said"),
    [
        ([receipt("d1", 2)], [held("d1")], "delivery d1 .events of s, 45 rows. was held back whole by validation"),
        ([receipt("d1", 2, kind="exposures"), receipt("d2", 3, state="committed")], [held("d1")], "delivery d1"),
        ([receipt("d1", 2)], [held("d1", state="replayed")], None),
        ([receipt("d1", -2)], [held("d1")], None),  # before the comparison
        ([receipt("d1", 2, kind="items")], [held("d1")], None),
        ([receipt("d1", 2, state="unreadable")], [], "delivery d1 .* could not be read"),
        ([receipt("d1", 2, state="unreadable"), receipt("d2", 3, state="committed")], [], None),
        ([receipt("d1", 2, state="unreadable"), receipt("d2", 3, source="t", state="committed")], [], "delivery d1"),
        ([receipt("d1", 2, state="committed")], [held("d1")], None),  # some rows held back are no failed delivery
    ],
)
def test_a_delivery_held_back_whole_is_a_problem_until_it_is_settled(
    fill: Fill, receipts: list[Row], open_rows: list[Row], said: str | None
) -> None:
    lake = fill(
        exposures=[exposure("a1", "ann", 1)], events=[event("1", None, 1)], deliveries=receipts, quarantine=open_rows
    )
    problems = trial_sums(lake, CONFIG).problems
    assert len(problems) == (said is not None)
    if said is not None:
        assert re.match(said, problems[0])


def test_served_answers_by_stage(fill: Fill) -> None:
    """A request is one, whatever it showed; a bot's is none."""
    lake = fill(
        exposures=[
            exposure("s1", "ann", 1, trial=None, assignment_reason="shadow", latency_ms=4.0),
            exposure(
                "s1~shadow", "ann", 1, arm="challenger", assignment_reason="shadow", is_shadow=True, latency_ms=9.0
            ),
            exposure("a1", "ann", 2, latency_ms=1.0),
            {**exposure("a1", "ann", 2, latency_ms=1.0), "exposure_id": "a1:2", "position": 2},
            exposure("b1", "bob", 2, error="timeout", latency_ms=100.0, digest="popularity"),
            exposure("e1", "eve", 2, is_bot=True, latency_ms=500.0),
            exposure("c1", "cat", 2, arm="challenger", latency_ms=2.0),
        ]
    )
    own = {arm: (digest,) for arm, digest in DIGESTS.items()}
    shadow = trial_served(lake, CONFIG, since=START, stage=TrialMode.SHADOW, until=START + 2 * HOUR)
    assert shadow == {
        "champion": Served(1, 0, 4.0, 4.0, own["champion"]),
        "challenger": Served(1, 0, 9.0, 9.0, own["challenger"]),
    }
    compared = trial_served(lake, CONFIG, since=START + 2 * HOUR, stage=TrialMode.COMPARE)
    assert compared == {
        "champion": Served(2, 1, 1.0, 100.0, own["champion"]),
        "challenger": Served(1, 0, 2.0, 2.0, own["challenger"]),
    }


def test_a_reign_has_one_arm(fill: Fill) -> None:
    lake = fill(
        exposures=[
            exposure("p1", "ann", -1, champion_epoch=2),
            exposure("a1", "ann", 1, trial=None, champion_epoch=4, assignment_reason="no trial"),
            exposure("b1", "bob", 1, trial=None, champion_epoch=3, assignment_reason="no trial"),
            END[0],
        ],
        events=[event("1", "a1", 2), END[1]],
    )
    look = reign_sums(lake, CONFIG, epoch=4, since=START)
    assert (look.exposed, set(look.metrics), look.slices) == ({"champion": 1}, {"clicks"}, {})
    sums = look.metrics["clicks"].arm("champion")
    assert (sums.n, sums.s, sums.i, sums.i0) == (1, 1, 1, 1)
    assert reign_served(lake, epoch=4, since=START) == Served(1, 0, 5.0, 5.0, (DIGESTS["champion"],))
    assert reign_served(lake, epoch=5, since=START) == Served()


def test_credit_by_challenger(fill: Fill) -> None:
    """ann's click falls on the challenger's pick, bob's on the champion's, cat's on a place where both agreed."""

    def drafted(name: str, user: str, team: str, **others: Any) -> Row:
        row = exposure(name, user, 1, arm="interleaved", digest=DIGESTS[team], assignment_reason="interleave")
        return {**row, "policy": "team-draft", **others}

    lake = fill(
        exposures=[
            *(drafted(f"a-{team}", "ann", team) for team in ("champion", "challenger")),
            *(drafted(f"b-{team}", "bob", team) for team in ("champion", "challenger")),
            *(drafted(f"c-{team}", "cat", team, policy="team-draft/agreed") for team in ("champion", "challenger-2")),
            END[0],
        ],
        events=[event("1", "a-challenger", 2), event("2", "b-champion", 2), event("3", "c-champion", 2), END[1]],
    )
    assert trial_credit(lake, CONFIG, since=START) == {"challenger": Credit(1, 1, 0), "challenger-2": Credit(0, 0, 1)}
    assert trial_credit(fill(), CONFIG, since=START) == {"challenger": Credit(), "challenger-2": Credit()}
    latency = replace(CONFIG, primary=Metric("speed", "latency"), guardrails=())
    with pytest.raises(UsageError, match="metric speed: latency names no item"):
        trial_credit(lake, latency, since=START)


def test_nothing_is_left_behind(fill: Fill) -> None:
    lake = fill(exposures=[exposure("a1", "ann", 1)], events=[event("1", None, 1)])
    trial_sums(lake, CONFIG)
    assert [path.name for path in (lake.root.parent / "run").iterdir() if path.name.startswith("look-")] == []


def test_files_that_wait(home: Home) -> None:
    assert waiting_files(home) == 0
    for name in ("exposures/1.jsonl", "feedback/2.jsonl", "feedback/3.part", "exposures/.hidden"):
        (home.landing / name).write_text("{}\n")
    assert waiting_files(home) == 2
