"""The relations of a trial against the same rules as slow plain loops, on small random tables full of ties."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.contexts import says
from relations.credit import credit_counts, user_credits
from relations.schemas import EVENTS, EXPOSURES, ITEM_BEHAVIOURS, USERS
from relations.served import Asked, served_digests, served_figures
from relations.slices import SliceRule, columns_of, slice_sums
from relations.sums import (
    OutcomeRule,
    head_items,
    largest_outcomes,
    late_counts,
    of_rule,
    outcome_counts,
    user_outcomes,
)
from relations.trial_users import Comparison, TrialWindow, bot_counts, exposed_counts

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

Row = dict[str, Any]
START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)
ARMS = ("champion", "challenger", "challenger-2")
WINDOW = TrialWindow("t1", START, START + 40 * HOUR, 12 * HOUR, 30 * HOUR, ARMS)
WEIGHTED = OutcomeRule("weighted", weights=(("click", 1.0), ("dwell", 0.5), ("purchase", -4.0)))
RULES = (
    OutcomeRule("click"),
    OutcomeRule("dwell", summed=True),
    OutcomeRule("dwell", per="user", summed=True, window=5 * HOUR),
    OutcomeRule("purchase", per="click"),
    OutcomeRule("latency"),
    OutcomeRule("failure"),
    OutcomeRule("distinct"),
    OutcomeRule("distinct", window=3 * HOUR),
    OutcomeRule("tail"),
    WEIGHTED,
    OutcomeRule("dwell", per="user", summed=True, cap=3.5),
    OutcomeRule("click", cap=1.0),
    OutcomeRule("weighted", weights=WEIGHTED.weights, cap=0.5),
    OutcomeRule("return", per="user", after=4 * HOUR),
    OutcomeRule("return", per="user", after=2 * HOUR, window=6 * HOUR),
)
SLICES = (
    SliceRule("newcomers", "new", "true"),
    SliceRule("old hands", "new", "false"),
    SliceRule("home page", "surface", "home"),
    SliceRule("on a phone", "context.device", "phöne"),
    SliceRule("readers", "attribute.tier", "a"),
)
LAWS = settings(max_examples=30)
SEEDS = st.integers(0, 2**32)
HOURS = (-31, -30, -29, -1, 0, 1, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18, 28, 29)
"""Few instants, most of them a window of some rule apart."""


def exposures(seed: int, *, variants: tuple[str, ...] = (*ARMS, *ARMS, "popularity")) -> list[Row]:
    """Drawn by the seed and not by hypothesis, which would need longer for that than all questions together."""
    chance = random.Random(seed)

    def row(place: int) -> Row:
        def pick(*choices: Any) -> Any:
            return chance.choice(choices)

        return {
            **{"exposure_id": f"x{place}", "request_id": f"r{place // pick(2, 3)}", "user": pick(*"abcd")},
            **{"item_id": pick("i", "j", "k", "l"), "propensity": 1.0, "propensity_kind": "exact", "score": None},
            **{"policy": pick("team-draft", "team-draft", "team-draft/agreed", "team-draft/filled"), "position": 1},
            **{"surface": pick("home", "detail"), "trial": pick("t1", "t1", "t1", "t1", "t2", None)},
            **{"variant": pick(*variants), "allocation": 0.5, "champion_epoch": pick(1, 2), "model_version": 1},
            **{"assignment_reason": pick("trial", "trial", "trial", "trial", "fallback", "canary", "shadow")},
            **{"digest": pick("C", "C", "D", "D", "E"), "served_by": "model", "candidate_set_hash": "h"},
            **{"explored": False, "is_shadow": chance.random() < 0.1, "is_bot": chance.random() < 0.1},
            **{"bot_rules": None, "latency_ms": pick(0.5, 1.0, 2.25), "error": pick(None, None, "timeout")},
            **{"context": pick(None, '{"device": "ph\\u00f6ne"}', '{"device":"tv"}'), "delivery_id": "d"},
            **{"shown_time": START + pick(*HOURS) * HOUR, "received_time": START, "source": "s"},
        }

    return [row(place) for place in range(chance.choice([0, 1, 8, 30, 30, 30]))]


def events(seed: int) -> list[Row]:
    chance = random.Random(seed + 1)
    return [
        {
            **{"event_id": f"e{place}", "user": chance.choice("abcd"), "query": None, "context": None},
            **{"item_id": chance.choice(["i", "i", "j", "k", None]), "received_time": START, "source": "s"},
            **{"behaviour": chance.choice(["click", "click", "dwell", "purchase"]), "delivery_id": "d"},
            **{"value": chance.choice([None, 0.5, 3.0]), "event_time": START + chance.choice(HOURS) * HOUR},
            **{"exposure_id": chance.choice([None, *(f"x{number}" for number in range(30))])},
        }
        for place in range(chance.choice([0, 5, 60, 60]))
    ]


def states(seed: int) -> list[Row]:
    chance = random.Random(seed + 2)
    said = ([("tier", "a")], [("tier", "b"), ("x", "a")], [], None)
    times = {(chance.choice("abcd"), chance.choice(HOURS)) for _ in range(8)}
    stamps = {"received_time": START, "source": "s", "delivery_id": "d"}
    return [
        {"user": user, "valid_from": START + at * HOUR, "attributes": chance.choice(said), **stamps}
        for user, at in sorted(times)
    ]


class Asker:
    """Relations on tables that change; compiled once, as that takes longer than asking."""

    def __init__(self) -> None:
        self.connection = ibis.duckdb.connect()
        self.connection.raw_sql("SET TimeZone = 'UTC'")
        self.compiled: dict[str, str] = {}

    def __call__(self, name: str, relation: Callable[..., Any], *rows: list[Row]) -> list[Row]:
        schemas = {"exposures": EXPOSURES, "events": EVENTS, "users": USERS}
        for (table, schema), each in zip(schemas.items(), rows, strict=False):
            self.connection.con.register(table, pa.Table.from_pylist(each, schema=schema))
        if name not in self.compiled:
            tables = [self.connection.table(table) for table in list(schemas)[: len(rows)]]
            self.compiled[name] = self.connection.compile(relation(*tables))
        return self.connection.con.sql(self.compiled[name]).to_arrow_table().to_pylist()


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    made = Asker()
    yield made
    made.connection.disconnect()


def people_saw(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row["is_bot"] and not row["is_shadow"]]


def compared(rows: list[Row], *, canary: bool = False) -> list[Row]:
    """In order; bots' among them."""
    found = [
        row
        for row in rows
        if row["trial"] == "t1"
        and row["variant"] in ARMS
        and (row["assignment_reason"] == "canary") is canary
        and not row["is_shadow"]
        and row["shown_time"] >= START
    ]
    return sorted(found, key=lambda row: (row["shown_time"], row["exposure_id"]))


def firsts(rows: list[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row["user"], row)
    return found


def head(told: list[Row]) -> set[str]:
    counts = Counter(each["item_id"] for each in told if each["event_time"] < START and each["item_id"])
    reached, found = 0, set()
    for item, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        if reached * 2 < counts.total():
            found.add(item)
        reached += count
    return found


def measured(
    shown: list[Row], named: dict[str, list[Row]], head_items: set[str], rule: OutcomeRule, until: datetime
) -> tuple[float, float]:
    """(S, N) of exposures."""

    def told(row: Row, behaviour: str) -> list[Row]:
        return [e for e in named[row["exposure_id"]] if e["behaviour"] == behaviour and e["event_time"] <= until]

    failed = [row["error"] is not None or row["assignment_reason"] == "fallback" for row in shown]
    s = {
        "distinct": lambda: len({row["item_id"] for row in shown}),
        "latency": lambda: sum(row["latency_ms"] for row in shown),
        "failure": lambda: sum(failed),
        "tail": lambda: sum(row["item_id"] not in head_items for row in shown),
        "return": lambda: 0,
        "weighted": lambda: sum(worth * bool(told(row, each)) for row in shown for each, worth in rule.weights),
    }.get(rule.outcome)
    if s is None and rule.summed:
        s = lambda: sum(each["value"] or 0.0 for row in shown for each in told(row, rule.outcome))  # noqa: E731
    elif s is None:
        s = lambda: sum(bool(told(row, rule.outcome)) for row in shown)  # noqa: E731
    n = {"impression": len(shown), "user": bool(shown)}.get(rule.per)
    if n is None:
        assert rule.per in ITEM_BEHAVIOURS
        n = sum(bool(told(row, rule.per)) for row in shown)
    return float(s()), float(n)


def plain_outcomes(rows: list[Row], told: list[Row], rule: OutcomeRule) -> dict[str, tuple[Any, ...]]:
    named, head_items = defaultdict(list), head(told)
    for each in told:
        named[each["exposure_id"]].append(each)
    found = {}
    for user, first in firsts(people_saw(compared(rows))).items():
        begun = first["shown_time"]
        if begun + WINDOW.window > WINDOW.watermark:
            continue
        mine = [row for row in people_saw(rows) if row["user"] == user]
        trial = compared(mine)
        until = begun + (rule.window or WINDOW.window)
        earlier = [row for row in mine if START - WINDOW.before <= row["shown_time"] < START]
        s, n = measured([row for row in trial if row["shown_time"] <= until], named, head_items, rule, until)
        s0, n0 = measured(earlier, named, head_items, rule, START - INSTANT)
        if rule.outcome == "return":
            seen = [row["shown_time"] for row in mine] + [e["event_time"] for e in told if e["user"] == user]
            s, s0, n0 = float(any(begun + rule.after <= time <= until for time in seen)), 0.0, 0.0
        if rule.cap is not None:
            s, s0 = min(s, rule.cap), min(s0, rule.cap)
        late = sum(
            each["behaviour"] == rule.outcome and each["event_time"] > until
            for row in trial
            if row["shown_time"] <= begun + WINDOW.window
            for each in named[row["exposure_id"]]
        )
        crossed = len({row["variant"] for row in trial}) > 1
        found[user] = (first["variant"], begun.date(), not earlier, crossed, late, s, n, s0, n0)
    return found


@LAWS
@given(seed=SEEDS)
def test_every_metric_is_what_plain_loops_count(ask: Asker, seed: int) -> None:
    shown, told = exposures(seed), events(seed)
    wide = ask("all", lambda x, e: user_outcomes(x, e, window=WINDOW, rules=RULES), shown, told)
    for place, rule in enumerate(RULES):
        expected = plain_outcomes(shown, told, rule)
        found = {
            row["user"]: (
                *(row[name] for name in ("arm", "day", "is_new", "crossed")),
                expected[row["user"]][4] if place else row["late"],  # of the first rule
                *(row[f"{name}_{place}"] for name in ("S", "N", "S0", "N0")),
            )
            for row in wide
        }
        assert found == expected, rule


@LAWS
@given(seed=SEEDS)
def test_totals_and_the_largest_of_an_arm(ask: Asker, seed: int) -> None:
    shown, told = exposures(seed), events(seed)
    dwell = next(rule for rule in RULES if rule.summed)
    totals = plain_outcomes(shown, told, dwell).values()

    def users(x: Any, e: Any) -> Any:
        return of_rule(user_outcomes(x, e, window=WINDOW, rules=[dwell]), 0)

    arms: dict[str, list[float]] = defaultdict(list)
    for arm, *_, s, _n, _s0, _n0 in totals:
        arms[arm].append(s)
    found = ask("largest", lambda x, e: largest_outcomes(users(x, e)), shown, told)
    assert found == [{"arm": arm, "largest": max(arms[arm])} for arm in sorted(arms)]
    counts = Counter(s for each in arms.values() for s in each)
    found = ask("counts", lambda x, e: outcome_counts(users(x, e)), shown, told)
    assert found == [{"S": s, "users": counts[s]} for s in sorted(counts)]


@LAWS
@given(seed=SEEDS)
def test_users_of_arms_and_bots(ask: Asker, seed: int) -> None:
    shown = exposures(seed)
    for canary in (False, True):
        which = Comparison("t1", ARMS, START, canary)
        of_trial = compared(shown, canary=canary)
        arms: dict[str, set[str]] = defaultdict(set)
        for row in people_saw(of_trial):
            arms[row["user"]].add(row["variant"])
        first = firsts(people_saw(of_trial))
        users = Counter(row["variant"] for row in first.values())
        crossed = Counter(row["variant"] for user, row in first.items() if len(arms[user]) > 1)
        counts = ask(f"exposed {canary}", lambda x, which=which: exposed_counts(x, which), shown)
        assert counts == [{"arm": a, "users": users[a], "crossed": crossed[a]} for a in sorted(users)]
        bots = Counter(row["variant"] for row in firsts([row for row in of_trial if row["is_bot"]]).values())
        assert ask(f"bots {canary}", lambda x, which=which: bot_counts(x, which), shown) == [
            {"arm": arm, "users": bots[arm]} for arm in sorted(bots)
        ]


@LAWS
@given(seed=SEEDS)
def test_a_slice_sums_up_its_own_users(ask: Asker, seed: int) -> None:
    shown, told, known = exposures(seed), events(seed), states(seed)

    def relation(x: Any, e: Any, u: Any) -> Any:
        users = user_outcomes(x, e, window=WINDOW, rules=RULES[:1], also=columns_of(SLICES))
        return slice_sums(of_rule(users, 0), u, rules=SLICES)

    expected: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 4)
    first = firsts(people_saw(compared(shown)))
    for user, (arm, _, is_new, _, _, s, n, s0, _) in plain_outcomes(shown, told, RULES[0]).items():
        row = first[user]
        before = [state for state in known if state["user"] == user and state["valid_from"] <= row["shown_time"]]
        newest = max(before, key=lambda state: state["valid_from"], default={"attributes": None})
        said = {
            "newcomers": is_new,
            "old hands": not is_new,
            "home page": row["surface"] == "home",
            "on a phone": json.loads(row["context"] or "{}").get("device") == "phöne",
            "readers": dict(newest["attributes"] or []).get("tier") == "a",
        }
        for name, holds in said.items():
            if holds:
                expected[name, arm] = [a + b for a, b in zip(expected[name, arm], (1, s, n * n, s * s0), strict=True)]
    found = ask("slices", relation, shown, told, known)
    assert {(r["slice"], r["arm"]): [r["n"], r["s"], r["ii"], r["s_s0"]] for r in found} == dict(expected)
    assert [(row["slice"], row["arm"]) for row in found] == sorted(expected)


@LAWS
@given(seed=SEEDS, rule=st.sampled_from([OutcomeRule("click", window=5 * HOUR), RULES[1], WEIGHTED]))
@pytest.mark.parametrize("challengers", [("D",), ("D", "E")])
def test_credit_of_interleaved_lists(ask: Asker, challengers: tuple[str, ...], seed: int, rule: OutcomeRule) -> None:
    shown, told = exposures(seed, variants=("interleaved", "interleaved", "champion")), events(seed)
    lists = [row for row in people_saw(shown) if row["trial"] == "t1" and row["variant"] == "interleaved"]
    lists = [row for row in lists if row["shown_time"] >= START]
    expected: dict[str, Counter[str]] = defaultdict(Counter)
    for user in {row["user"] for row in lists}:
        mine = [row for row in lists if row["user"] == user]
        begun = min(row["shown_time"] for row in mine)
        met = {row["digest"] for row in mine}
        rivals = met & {*challengers}
        if begun + WINDOW.window > WINDOW.watermark or (len(challengers) > 1 and ("C" not in met or len(rivals) != 1)):
            continue
        until, credit = begun + (rule.window or WINDOW.window), {"C": 0.0, "D": 0.0, "E": 0.0}
        for row in mine:
            if row["policy"] == "team-draft" and row["digest"] in credit:
                named = {row["exposure_id"]: [each for each in told if each["exposure_id"] == row["exposure_id"]]}
                credit[row["digest"]] += measured([row], named, set(), rule, until)[0]
        rival = challengers[0] if len(challengers) == 1 else rivals.pop()
        more = credit[rival] - credit["C"]
        expected[rival]["won" if more > 0 else "lost" if more < 0 else "tied"] += 1

    def relation(x: Any, e: Any) -> Any:
        given = {"window": WINDOW, "rule": rule, "champion": "C", "challengers": challengers}
        return credit_counts(user_credits(x, e, **given))

    found = ask(f"credit {challengers} {rule}", relation, shown, told)
    assert {row.pop("challenger"): row for row in found} == {
        digest: {name: counts[name] for name in ("won", "lost", "tied")} for digest, counts in expected.items()
    }


def test_credit_needs_an_outcome_that_names_an_item() -> None:
    tables = [ibis.memtable(schema.empty_table()) for schema in (EXPOSURES, EVENTS)]
    with pytest.raises(ValueError, match=r"'return' names no pick"):
        user_credits(*tables, window=WINDOW, rule=OutcomeRule("return"), champion="C", challengers=["D"])


@LAWS
@given(seed=SEEDS)
@pytest.mark.parametrize(
    "which", [Asked(START - 9 * HOUR, START + 30 * HOUR, trial_id="t1"), Asked(START, epoch=2)], ids=["trial", "epoch"]
)
def test_served_figures_are_of_requests(ask: Asker, which: Asked, seed: int) -> None:
    shown = exposures(seed)

    def belongs(row: Row) -> bool:
        if row["is_bot"] or row["shown_time"] < which.since or (which.until and row["shown_time"] >= which.until):
            return False
        if which.trial_id is None:
            return row["champion_epoch"] == which.epoch and not row["is_shadow"]
        return row["trial"] == which.trial_id or (row["assignment_reason"] == "shadow" and not row["is_shadow"])

    asked: dict[tuple[str, bool], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    digests: dict[tuple[str, bool, str], set[str]] = defaultdict(set)
    for row in filter(belongs, shown):
        asked[row["variant"], row["is_shadow"]][row["request_id"]].append(row)
        if row["error"] is None and row["assignment_reason"] != "fallback":
            digests[row["variant"], row["is_shadow"], row["digest"]].add(row["request_id"])
    expected = []
    for (arm, is_shadow), requests in sorted(asked.items()):
        slowest = sorted(max(row["latency_ms"] for row in rows) for rows in requests.values())
        failed = [
            any(row["error"] is not None or row["assignment_reason"] == "fallback" for row in rows)
            for rows in requests.values()
        ]
        users = {min(row["user"] for row in rows) for rows in requests.values()}
        expected.append(
            {
                **{"arm": arm, "is_shadow": is_shadow, "requests": len(requests), "users": len(users)},
                **{"failures": sum(failed), "p50_ms": slowest[ceil(0.5 * len(slowest)) - 1]},
                **{"p99_ms": slowest[ceil(0.99 * len(slowest)) - 1]},
            }
        )
    assert ask(f"served {which}", lambda x: served_figures(x, which), shown) == expected
    found = ask(f"digests {which}", lambda x: served_digests(x, which), shown)
    assert {tuple(row.values()) for row in found} == {(*key, len(ids)) for key, ids in digests.items()}


def test_percentiles_by_nearest_rank() -> None:
    """Of 1, 2, … 200 ms: rank ⌈.5 · 200⌉ = 100 and rank ⌈.99 · 200⌉ = 198."""
    row = next(row for row in exposures(5) if not row["is_bot"])
    same = {"shown_time": START, "champion_epoch": 1, "is_shadow": False, "variant": "champion"}
    rows = [{**row, **same, "request_id": f"r{ms}", "latency_ms": float(ms)} for ms in range(1, 201)]
    table = ibis.memtable(pa.Table.from_pylist(rows, schema=EXPOSURES))
    (found,) = served_figures(table, Asked(START, epoch=1)).to_pyarrow().to_pylist()
    assert (found["requests"], found["p50_ms"], found["p99_ms"]) == (200, 100.0, 198.0)


@LAWS
@given(seed=SEEDS)
def test_the_head_makes_half_of_the_interactions(ask: Asker, seed: int) -> None:
    told = events(seed)
    found = {row["item_id"] for row in ask("head", lambda _, e: head_items(e, window=WINDOW), [], told)}
    past = [each["item_id"] for each in told if each["event_time"] < START and each["item_id"]]
    inside = sum(item in found for item in past)
    assert found == head(told)
    assert inside * 2 >= len(past)
    assert not found or (inside - min(Counter(past)[item] for item in found)) * 2 < len(past)  # none can be spared


WORDS = st.sampled_from(["a", "b", "device", "phöne", "日本", "𝔘", 'q"\\{', "x:y,z", "", " ", "12", "true", "]}"])
SCALARS = WORDS | st.integers(-20, 20) | st.booleans() | st.none() | st.sampled_from([1.5, 1e300, -0.25])
DEEPER = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


class Contexts:
    """Asks of several texts at once."""

    def __init__(self) -> None:
        self.connection = ibis.duckdb.connect()

    def say(self, texts: list[str | None], key: str, value: str) -> list[bool]:
        self.connection.con.register("contexts", pa.table({"text": pa.array(texts, pa.string())}))
        asked = self.connection.compile(says(self.connection.table("contexts").text, key=key, value=value))
        return [row[0] for row in self.connection.con.sql(asked).fetchall()]


@pytest.fixture(scope="module")
def contexts() -> Iterator[Contexts]:
    made = Contexts()
    yield made
    made.connection.disconnect()


@settings(max_examples=40)
@given(told=st.lists(st.dictionaries(WORDS, DEEPER, max_size=5), min_size=1, max_size=8), key=WORDS, value=SCALARS)
def test_a_context_says_what_json_says(contexts: Contexts, told: list[Row], key: str, value: Any) -> None:
    told += [{**each, key: value} for each in told]
    told = [each for each in told if depth(each) <= 4]
    wanted = value if isinstance(value, str) else json.dumps(value)
    expected = [key in each and as_text(each[key]) == wanted for each in told]
    for form in ({}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}):
        assert contexts.say([json.dumps(each, **form) for each in told], key, wanted) == expected, form


def as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None if isinstance(value, list | dict) else json.dumps(value)


def depth(value: Any) -> int:
    """Levels of lists and objects inside `value`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((1 + depth(each) for each in inner if isinstance(each, dict | list)), default=0)


def test_what_is_no_object_says_nothing(contexts: Contexts) -> None:
    texts = ["", "no", "[1]", '{"a": 1', '{"a": 1}}', '{"a": 1,}', '{"b": {"a": 1}}', '["a", 1]', '{"a": [1]}', None]
    assert contexts.say(texts, "a", "1") == [False] * len(texts)
    assert contexts.say([' {"a" : 1 } ', '{"a": 2, "a": 1}', '{"b": [[[[2]]]], "a": 1}'], "a", "1") == [True] * 3
    assert contexts.say(['{"b": [[[[[2]]]]], "a": 1}'], "a", "1") == [False]  # too deep to be read


def test_late_outcomes_by_arm() -> None:
    rows = pa.table({"arm": ["champion", "champion", "challenger"], "late": [2, 0, 5]})
    assert late_counts(ibis.memtable(rows)).to_pyarrow().to_pylist() == [
        {"arm": "challenger", "late": 5},
        {"arm": "champion", "late": 2},
    ]
