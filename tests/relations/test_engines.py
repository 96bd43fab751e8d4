"""The same input gives the same rows on DuckDB and on Spark, for every relation.

Values are eighths: their sums are exact in any order, and the engines add in different ones.
"""

import importlib
import json
import os
import pkgutil
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import relations
from relations.arrivals import EPOCH, arrivals, newest_version, since, trained_on, visible
from relations.asof import training_rows, with_attributes, with_state
from relations.consent import opted_out, returned
from relations.credit import credit_counts, user_credits
from relations.digest import content_digest
from relations.errors import DependencyFailed
from relations.flips import flip_evidence
from relations.held import broken_since
from relations.logged import histories_at, logged_slots, slot_rewards
from relations.newest import newest_events, next_state, states_now, withdrawn
from relations.profile import numbers, plain_profile, profile
from relations.schemas import DELIVERIES, EVENTS, EXPOSURES, ITEMS, QUARANTINE, USERS
from relations.sequences import user_histories
from relations.served import Asked, served_digests, served_figures
from relations.slices import SliceRule, columns_of, slice_sums
from relations.standing import contested, item_counts, keyed, newly_held, standings
from relations.sums import (
    OutcomeRule,
    arm_day_sums,
    head_items,
    largest_outcomes,
    late_counts,
    of_rule,
    outcome_counts,
    user_outcomes,
)
from relations.traces import rows_of as rows_of_users
from relations.traces import sightings
from relations.traffic import as_one_arm, shown_to, visits
from relations.trial_users import Comparison, TrialWindow, bot_counts, counted, exposed_counts, first_exposures
from stores.engine import Engine, connect, connected

Tables = Mapping[str, ibis.Table]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CUTOFF_US = (NOON + timedelta(hours=40) - EPOCH) // timedelta(microseconds=1)
PEOPLE = ["p1_a", "p1_b", "Ünal", "日本", "𝔘𝔫𝔦", "e\u0301", "\u00e9", "z z", "O'Hara", 'q"\\n']
THINGS = ["i1", "I1", "ï", "ı", "物", "\x1fi", "a\x1d", "%_", "i\n2"]
WINDOW = TrialWindow(
    trial_id="t1",
    start=NOON + timedelta(hours=24),
    watermark=NOON + timedelta(hours=70),
    window=timedelta(hours=6),
    before=timedelta(days=2),
)
ROWS = pa.schema([("row", pa.int64()), ("key", pa.string()), ("content", pa.binary())])
HELD = pa.schema([("row", pa.int64()), ("user", pa.string()), ("raw", pa.binary())])
VARIANTS = ["champion", "champion", "challenger", "challenger", "interleaved", "popularity"]
TIME = "timestamp('UTC', 6)"
TRADE_OFF = OutcomeRule("weighted", weights=(("click", 1.0), ("cart", -2.5)))
RULES = (
    OutcomeRule("click"),
    OutcomeRule("cart", summed=True, window=timedelta(hours=3)),
    OutcomeRule("click", per="view"),
    OutcomeRule("cart", per="user", summed=True),
    OutcomeRule("cart", per="user", summed=True, cap=2.5),
    *(OutcomeRule(outcome) for outcome in ("latency", "failure", "distinct", "tail")),
    TRADE_OFF,
    OutcomeRule("return", per="user", after=timedelta(hours=2)),
)
SLICES = (
    SliceRule("new", "new", "true"),
    SliceRule("seen", "new", "false"),
    SliceRule("näch\\'ster", "surface", "s"),
    *(SliceRule(f"context {value}", "context.gerät", value) for value in ("☎", '"q"\\', "12", "true")),
    SliceRule("told", "attribute.opt_out", "TRUE"),
)
COMPARED = Comparison("t1", since=WINDOW.start)
REIGN = TrialWindow(None, WINDOW.start, WINDOW.watermark, WINDOW.window, WINDOW.before, ("champion",), epoch=1)
CONTEXTS = [{"gerät": said, "b": [{"gerät": "☎"}]} for said in ("☎", '"q"\\', 12, True, None, "𝔘\n")]


def outcomes(tables: Tables, *, window: TrialWindow = WINDOW) -> ibis.Table:
    also = columns_of(SLICES)
    return user_outcomes(tables["exposures"], tables["events"], window=window, rules=RULES, also=also)


def credits_of(tables: Tables, *challengers: str, rule: OutcomeRule = RULES[0]) -> ibis.Table:
    given = {"window": WINDOW, "rule": rule, "champion": "d", "challengers": challengers}
    return user_credits(tables["exposures"], tables["events"], **given)


def logged(exposures: ibis.Table) -> ibis.Table:
    until = NOON + timedelta(hours=60)
    return logged_slots(exposures, digest="d", policy="team-draft", since=NOON, until=until, most=50)


def rewards(tables: Tables, behaviour: str, *, summed: bool) -> ibis.Table:
    window = timedelta(hours=24)
    return slot_rewards(
        logged(tables["exposures"]), tables["events"], behaviour=behaviour, summed=summed, window=window
    )


RELATIONS: dict[str, Callable[[Tables], ibis.Table]] = {
    "user_histories": lambda t: user_histories(t["events"]),
    "user_histories before": lambda t: user_histories(t["events"], before=NOON + timedelta(hours=30)),
    "user_histories also": lambda t: user_histories(t["events"], also=("event_id", "context")),
    "arrivals": lambda t: arrivals(t["events"], t["deliveries"]),
    "newest_version": lambda t: newest_version(t["deliveries"]).as_table(),
    "visible": lambda t: visible(t["events"], t["deliveries"], version=5),
    "trained_on": lambda t: trained_on(t["events"], t["deliveries"], version=5, cutoff_us=CUTOFF_US),
    "since": lambda t: since(t["events"], t["deliveries"], version=5, also=("d2",)),
    "with_state": lambda t: with_state(t["distinct"], t["items"], key="item_id", columns=("price",), prefix="item_"),
    "with_attributes": lambda t: with_attributes(t["distinct"], t["items"], t["users"]),
    "training_rows": lambda t: training_rows(
        t["distinct"], t["items"], t["users"], as_of=NOON + timedelta(hours=60), length=4
    ),
    "opted_out": lambda t: opted_out(t["users"]),
    "returned": lambda t: returned(t["users"]),
    "withdrawn": lambda t: withdrawn(t["items"]),
    "states_now": lambda t: states_now(t["items"], as_of=NOON + timedelta(hours=48)),
    "next_state": lambda t: next_state(t["items"], after=NOON - timedelta(days=9_999)).as_table(),
    "item_counts": lambda t: item_counts(t["events"], since=ibis.literal(NOON + timedelta(hours=8), type=TIME)),
    "keyed by one": lambda t: keyed(t["events"], ("event_id",), "item_id"),
    "keyed by two": lambda t: keyed(t["events"], ("item_id", "event_time"), "event_id"),
    "contested": lambda t: contested(t["rows"], t["known"]),
    "standings": lambda t: standings(t["rows"], t["known"]),
    "newly_held": lambda t: newly_held(t["failed"], t["held"]),
    "newest_events": lambda t: newest_events(t["distinct"], per_user=3),
    "rows_of": lambda t: rows_of_users(t["events"], t["users"].select("user")),
    "sightings": lambda t: sightings(t["events"], t["deliveries"], t["users"].select("user").limit(3)),
    "logged_slots": lambda t: logged(t["exposures"]),
    "slot_rewards of clicks": lambda t: rewards(t, "click", summed=False),
    "slot_rewards of values": lambda t: rewards(t, "cart", summed=True),
    "histories_at": lambda t: histories_at(
        t["exposures"].mutate(request_id=t["exposures"].exposure_id), t["distinct"], told_at_once=("test",), length=3
    ),
    "shown_to": lambda t: shown_to(t["exposures"]),
    "visits": lambda t: visits(shown_to(t["exposures"]), until=NOON + timedelta(hours=68), days=2),
    "as_one_arm": lambda t: as_one_arm(t["exposures"]),
    "counted": lambda t: counted(t["exposures"]),
    "first_exposures": lambda t: first_exposures(t["exposures"], COMPARED, also=("surface", "context")),
    "exposed_counts": lambda t: exposed_counts(t["exposures"], COMPARED),
    "exposed_counts of a canary": lambda t: exposed_counts(t["exposures"], Comparison("t1", canary=True)),
    "bot_counts": lambda t: bot_counts(t["exposures"], COMPARED),
    "head_items": lambda t: head_items(t["events"], window=WINDOW),
    "user_outcomes": outcomes,
    "user_outcomes of a reign": lambda t: outcomes(t, window=REIGN),
    "of_rule": lambda t: of_rule(outcomes(t), 3),
    "arm_day_sums of clicks": lambda t: arm_day_sums(of_rule(outcomes(t), 0)),
    "arm_day_sums of values": lambda t: arm_day_sums(of_rule(outcomes(t), 1)),
    "arm_day_sums of capped values": lambda t: arm_day_sums(of_rule(outcomes(t), 4)),
    "largest_outcomes": lambda t: largest_outcomes(of_rule(outcomes(t), 3)),
    "outcome_counts": lambda t: outcome_counts(of_rule(outcomes(t), 3)),
    "late_counts": lambda t: late_counts(outcomes(t)),
    "slice_sums": lambda t: slice_sums(of_rule(outcomes(t), 0), t["users"], rules=SLICES),
    "user_credits": lambda t: credits_of(t, "e"),
    "user_credits of a trade-off": lambda t: credits_of(t, "e", rule=TRADE_OFF),
    "credit_counts": lambda t: credit_counts(credits_of(t, "e", "f")),
    "served_figures": lambda t: served_figures(t["exposures"], Asked(NOON, WINDOW.watermark, trial_id="t1")),
    "served_figures of a reign": lambda t: served_figures(t["exposures"], Asked(NOON, epoch=1)),
    "broken_since": lambda t: broken_since(t["quarantine"], since=NOON, most=4),
    "served_digests": lambda t: served_digests(t["exposures"], Asked(NOON, trial_id="t1")),
}
PROFILES: dict[str, Callable[[Tables], ibis.Table]] = {
    "profile": lambda t: profile(t["events"], trailing=t["earlier"], items=t["items"]),
    "flip_evidence": lambda t: flip_evidence(t["events"], t["earlier"]),
    **{
        f"plain_profile of {kind}": lambda t, kind=kind: plain_profile(t[kind], kind=kind)
        for kind in ("items", "users")
    },
}
ORDERED = {
    "user_histories",
    "user_histories before",
    "user_histories also",
    "item_counts",
    "standings",
    "newly_held",
    "exposed_counts",
    "exposed_counts of a canary",
    "bot_counts",
    "arm_day_sums of clicks",
    "arm_day_sums of capped values",
    "largest_outcomes",
    "outcome_counts",
    "late_counts",
    "slice_sums",
    "credit_counts",
    "served_figures",
    "served_digests",
    "broken_since",
}


@dataclass(frozen=True)
class Engines:
    duckdb: Tables
    spark: Tables


@pytest.fixture(scope="module")
def inputs() -> dict[str, pa.Table]:
    """300 events and 300 exposures on a few instants, so that ties are the rule; 120 rows to deduplicate."""
    chance = random.Random(5)

    def instant(step: float) -> datetime:
        return NOON + timedelta(hours=chance.randrange(70)) + timedelta(microseconds=chance.choice([0, 0, 1])) * step

    def event(place: int) -> dict[str, object]:
        behaviour = chance.choice(["view", "click", "click", "cart", "rating", "dislike", "search"])
        return {
            "event_id": f"e{place % 290:03}",  # ten ids come twice
            "user": chance.choice(PEOPLE),
            "item_id": None if behaviour == "search" else chance.choice(THINGS),
            "behaviour": behaviour,
            "value": chance.choice([None, -0.0, chance.randrange(-80, 80) / 8]),
            "query": "schöne Schuhe" if behaviour == "search" else None,
            "context": chance.choice([None, [], [("device", "☎"), ("hour", "12")]]),
            "event_time": instant(1),
            "received_time": NOON,
            "source": "test",
            "exposure_id": chance.choice([None, f"x{chance.randrange(300)}", f"x{chance.randrange(300)}", "elsewhere"]),
            "delivery_id": f"d{chance.randrange(9)}",
        }

    told = [None, "{}", "[1", *(json.dumps(each, ensure_ascii=ascii) for each in CONTEXTS for ascii in (False, True))]

    def exposure(place: int) -> dict[str, object]:
        return {
            **{"exposure_id": f"x{place}", "request_id": f"r{place // 3}", "user": chance.choice(PEOPLE)},
            **{"item_id": chance.choice(THINGS), "position": 1, "propensity": 0.125, "propensity_kind": "exact"},
            **{"score": None, "policy": chance.choice(["team-draft", "team-draft/agreed"]), "surface": "s"},
            **{"trial": chance.choice(["t1", "t1", "t2", None]), "variant": chance.choice(VARIANTS), "allocation": 0.5},
            **{"assignment_reason": chance.choice(["hash", "hash", "canary", "fallback"]), "champion_epoch": 1},
            **{"model_version": 1, "digest": chance.choice("def"), "served_by": "model", "candidate_set_hash": "h"},
            **{"explored": False, "is_shadow": chance.random() < 0.1, "is_bot": chance.random() < 0.1},
            **{"bot_rules": None, "latency_ms": chance.randrange(1, 80) / 8, "shown_time": instant(0)},
            **{"error": chance.choice([None, None, "zu spät"]), "context": chance.choice(told)},
            **{"received_time": NOON, "source": "s", "delivery_id": "d"},
        }

    def row(place: int) -> dict[str, object]:
        return {
            "row": place,
            "key": f"{chance.choice(PEOPLE)}{place % 40}",
            "content": chance.choice([b"\x00", b"\xff"]),
        }

    def held(place: int) -> dict[str, object]:
        return {
            "row": place,
            "user": chance.choice([None, "", "日本"]),
            "raw": chance.choice([b"", b"{}", b"\xff\x00"]),
        }

    def broken(place: int) -> dict[str, object]:
        """Each delivery at a time of its own, so that the newest is one; a rule may be broken twice by a row."""
        whys = [
            {"expectation": f"ä{chance.randrange(3)}", "column": chance.choice(["user", "日本"]), "message": "m"}
            for _ in range(chance.randrange(4))
        ]
        received = NOON + timedelta(hours=place % 9)
        return {
            **{"delivery_id": f"d{place % 9}", "row": place, "kind": "events", "user": None, "format": "json"},
            **{"raw": b"{}", "reasons": whys, "source": "s", "received_time": received, "state": "open"},
        }

    def item(place: int) -> dict[str, object]:
        return {
            **{"item_id": THINGS[place % 9], "valid_from": NOON + timedelta(hours=place), "title": f"Schuh {place}"},
            **{"description": None, "categories": chance.choice([[], ["ï", "ı"]])},
            **{"price": chance.choice([None, 0.1, 1e300]), "attributes": chance.choice([None, [("ä", "1")]])},
            **{"vectors": chance.choice([None, [("text", [0.5, -1.0])]]), "available": chance.random() < 0.5},
            **{"received_time": NOON, "source": "s", "delivery_id": "d"},
        }

    def user(place: int) -> dict[str, object]:
        said = chance.choice([None, [], [("opt_out", "TRUE")], [("opt_out", "no")], [("opt_out", "?")], [("age", "7")]])
        when = NOON + timedelta(hours=chance.randrange(40), microseconds=place)
        return {
            **{"user": chance.choice(PEOPLE), "valid_from": when, "attributes": said},
            **{"received_time": NOON, "source": "s", "delivery_id": "d"},
        }

    def delivery(place: int) -> dict[str, object]:
        """Of `d0` there is no receipt; the others were committed at different versions, one of items alone."""
        versions = [("events", place)] if place < 8 else [("items", 3)]
        counts = dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
        return {
            **{"delivery_id": f"d{place}", "digest": "", "kind": "events", "source": "s", "uri": "", **counts},
            **{"received_time": NOON, "table_versions": versions, "state": "committed", "profile": [("x", 0.1)]},
        }

    events = pa.Table.from_pylist([event(place) for place in range(300)], schema=EVENTS)
    rows = pa.Table.from_pylist([row(place) for place in range(120)], schema=ROWS)
    return {
        "events": events,
        "distinct": events.slice(0, 290),
        "earlier": events.slice(0, 150),
        "items": pa.Table.from_pylist([item(place) for place in range(30)], schema=ITEMS),
        "users": pa.Table.from_pylist([user(place) for place in range(80)], schema=USERS),
        "deliveries": pa.Table.from_pylist([delivery(place) for place in range(1, 9)], schema=DELIVERIES),
        "exposures": pa.Table.from_pylist([exposure(place) for place in range(300)], schema=EXPOSURES),
        "rows": rows,
        "known": rows.slice(0, 30).select(["key", "content"]),
        "failed": pa.Table.from_pylist([held(place) for place in range(30)], schema=HELD),
        "held": pa.Table.from_pylist([held(place) for place in range(8)], schema=HELD).select(["user", "raw"]),
        "quarantine": pa.Table.from_pylist([broken(place) for place in range(40)], schema=QUARANTINE),
        "none": EVENTS.empty_table(),
    }


@pytest.fixture(scope="module")
def files(inputs: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each table in two files, the first of events older than the columns `query` and `context`; of `none` no file."""
    folder = tmp_path_factory.mktemp("tables") / "a[b] {c} é"  # both engines read paths as patterns
    folder.mkdir()
    found: dict[str, list[str]] = {}
    for name, table in inputs.items():
        half = table.num_rows // 2
        parts = [table.slice(0, half), table.slice(half)] if table.num_rows else []
        for place, part in enumerate(parts):
            if place == 0 and name == "events":
                part = part.drop_columns(["query", "context"])
            pq.write_table(part, folder / f"{name}-{place}.parquet")
        found[name] = [str(folder / f"{name}-{place}.parquet") for place in range(len(parts))]
    return found


def opened(engine: Engine, inputs: dict[str, pa.Table], files: dict[str, list[str]]) -> Tables:
    return {name: engine.rows(files[name], schema=table.schema, name=name) for name, table in inputs.items()}


@pytest.fixture(scope="module")
def engines(
    inputs: dict[str, pa.Table], files: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    pytest.importorskip("pyspark", reason="the extra `spark` is not installed")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("no Java: Spark needs Java 17")
    folder = tmp_path_factory.mktemp("spill")
    with pytest.MonkeyPatch.context() as patch:
        # A few hundred rows: compiling costs more than it gains.
        patch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
        spark = connect("spark", folder=folder)
    with closing(spark), connected("duckdb", folder=folder) as duckdb:
        for setting in ("codegen.wholeStage = false", "adaptive.enabled = false", "shuffle.partitions = 1"):
            spark.backend.raw_sql(f"SET spark.sql.{setting}")
        yield Engines(duckdb=opened(duckdb, inputs, files), spark=opened(spark, inputs, files))


def plain(kind: pa.DataType, *, inside: bool = False) -> pa.DataType:
    """The type with dates as text and nested times as numbers, for which a digest has a form."""
    if pa.types.is_date(kind):
        return pa.string()
    if pa.types.is_timestamp(kind) and inside:
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_type, inside=True))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain(field.type, inside=True)) for field in kind])
    return kind


def rows_of(relation: ibis.Table) -> pa.Table:
    found = relation.to_pyarrow()
    return found.cast(pa.schema([(field.name, plain(field.type)) for field in found.schema]))


def test_every_relation_is_compared() -> None:
    found = set()
    for module in pkgutil.iter_modules(relations.__path__):
        for name, function in vars(importlib.import_module(f"relations.{module.name}")).items():
            returned = getattr(function, "__annotations__", {}).get("return")
            if not name.startswith("_") and returned in (ibis.Table, ibis.Scalar):
                found.add(name)
    assert found - {"moment"} == {name.split()[0] for name in (*RELATIONS, *PROFILES)}  # a literal


@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_gives_the_same_rows(name: str, engines: Engines) -> None:
    here = rows_of(RELATIONS[name](engines.duckdb))
    there = rows_of(RELATIONS[name](engines.spark))
    assert here.num_rows > 0
    assert there.schema.names == here.schema.names
    there = there.cast(here.schema)
    assert content_digest(there) == content_digest(here)
    if name in ORDERED:
        assert there.equals(here)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_the_same(name: str, engines: Engines) -> None:
    """Means and deviations of thousands of numbers, added in another order: equal to nine digits, not to the bit."""
    here = numbers(PROFILES[name](engines.duckdb).to_pyarrow())
    there = numbers(PROFILES[name](engines.spark).to_pyarrow())
    assert here
    assert there == pytest.approx(here, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["events", "exposures", "items", "users", "deliveries", "failed"])
def test_a_table_is_read_as_it_was_written(name: str, engines: Engines, inputs: dict[str, pa.Table]) -> None:
    """Maps, nulls, absent columns, times and bytes: what the first file lacks is null there."""
    written = inputs[name]
    if name == "events":
        half = written.num_rows // 2
        bare = pa.Table.from_pylist(
            [{**row, "query": None, "context": None} for row in written.slice(0, half).to_pylist()], schema=EVENTS
        )
        written = pa.concat_tables([bare, written.slice(half)])
    for tables in (engines.duckdb, engines.spark):
        assert content_digest(tables[name].to_pyarrow().cast(written.schema)) == content_digest(written)


def test_no_files_are_no_rows(engines: Engines) -> None:
    for tables in (engines.duckdb, engines.spark):
        assert tables["none"].to_pyarrow().num_rows == 0
        assert tables["none"].schema().names == tuple(EVENTS.names)
        assert user_histories(tables["none"]).to_pyarrow().num_rows == 0


def test_rows_in_memory_join_on_both(engines: Engines) -> None:
    """Whole numbers stay whole beside a null, NaN stays apart from null, maps stay maps."""
    kinds = pa.schema(
        [("key", pa.int64()), ("user", pa.string()), ("x", pa.float64()), ("m", EVENTS.field("context").type)]
    )
    said = [(2**53 + 1, "日本", float("nan"), [("k", "v")]), (None, "日本", None, None), (3, "nobody", 1.5, [])]
    memory = pa.Table.from_pylist([dict(zip(kinds.names, row, strict=True)) for row in said], schema=kinds)
    found = [
        ibis.memtable(memory).semi_join(tables["exposures"], "user").to_pyarrow().cast(kinds)
        for tables in (engines.duckdb, engines.spark)
    ]
    assert content_digest(found[0]) == content_digest(found[1]) == content_digest(memory.slice(0, 2))


@pytest.mark.parametrize("rows", [0, 300])
def test_a_result_is_written_as_one_file(
    rows: int, engines: Engines, inputs: dict[str, pa.Table], tmp_path: Path
) -> None:
    for engine, tables in (("duckdb", engines.duckdb), ("spark", engines.spark)):
        file = tmp_path / f"{engine}.parquet"
        tables["events" if rows else "none"].to_parquet(file)
        assert content_digest(pq.read_table(file).cast(EVENTS)) == content_digest(
            tables["events"].to_pyarrow().cast(EVENTS).slice(0, rows)
        )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_result_comes_in_batches(engines: Engines) -> None:
    """The same rows in the same order, none of them twice."""
    for tables in (engines.duckdb, engines.spark):
        ordered = user_histories(tables["events"], also=("event_id",))
        batches = list(ordered.to_pyarrow_batches(chunk_size=64))
        assert max(batch.num_rows for batch in batches) <= 64
        assert pa.Table.from_batches(batches).to_pylist() == ordered.to_pyarrow().to_pylist()
        assert list(user_histories(tables["none"]).to_pyarrow_batches()) == []


def test_without_java_the_message_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="the extra `spark` is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with (
        pytest.raises(DependencyFailed, match=r'no java on the PATH.*Java 17.*engine = "duckdb"'),
        connected("spark", folder=tmp_path),
    ):
        pass


def test_without_pyspark_the_message_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stores.spark", None)
    with pytest.raises(DependencyFailed, match=r"ratchet-rec\[spark\]"), connected("spark", folder=tmp_path):
        pass


def test_duckdb_spills_below_its_limit_and_leaves_nothing(tmp_path: Path) -> None:
    """Two million distinct rows of some 40 bytes sorted within 128 MiB and two threads; the spill folder goes."""
    with connected("duckdb", folder=tmp_path, memory_mb=128, threads=2) as engine:
        engine.backend.raw_sql(
            "CREATE TABLE ids AS SELECT md5(i::VARCHAR) AS id FROM range(2_000_000) t(i) ORDER BY id"
        )
        assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["duckdb"]
    assert list(tmp_path.iterdir()) == []
