"""Profiles of deliveries small enough to count by hand, the flip evidence against a reference, and laws."""

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import log, log2
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.flips import LARGEST_RATIO, LEVELS, PRIOR, SHARE
from relations.profile import numbers, plain_profile, profile
from relations.schemas import EVENTS, ITEMS

START = datetime(2026, 3, 2, tzinfo=UTC)
Row = dict[str, Any]
Take = Callable[..., dict[str, float]]


def event(user: str, item: str | None = "i", second: float = 0.0, behaviour: str = "view", **more: Any) -> Row:
    moment = START + timedelta(seconds=second)
    row = {
        "user": user,
        "item_id": item,
        "behaviour": behaviour,
        "event_time": moment,
        "delivery_id": "d",
        "source": "s",
    }
    return {**row, "event_id": "e", "received_time": START + timedelta(hours=1), **more}


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EVENTS)


def known(connection: Any, name: str) -> ibis.Table:
    with warnings.catch_warnings():
        # Ibis 12 asks DuckDB 2 for a schema by a name that DuckDB has renamed.
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        return connection.table(name)


@pytest.fixture(scope="module")
def take() -> Iterator[Take]:
    """The profile of rows against trailing rows; the expression is compiled once."""
    connection = ibis.duckdb.connect()
    connection.raw_sql("SET TimeZone = 'UTC'")
    for name, schema in (("now", EVENTS), ("before", EVENTS), ("things", ITEMS)):
        connection.con.register(name, schema.empty_table())
    tables = [known(connection, name) for name in ("now", "before", "things")]
    statement = connection.compile(profile(tables[0], trailing=tables[1], items=tables[2]))

    def taken(now: list[Row], before: list[Row] = [], things: tuple[str, ...] = ()) -> dict[str, float]:  # noqa: B006
        connection.con.register("now", table(now))
        connection.con.register("before", table(before))
        connection.con.register("things", pa.table({"item_id": pa.array(things, pa.string())}))
        return numbers(connection.con.sql(statement).to_arrow_table())

    yield taken
    connection.disconnect()


def test_people_and_things(take: Take) -> None:
    rows = [event("🦉", "é")] * 3 + [event("b", "j", behaviour="click"), event("c", None, behaviour="search")]
    seen = take(rows, [event("z", "é"), event("z", "k")], ("j",))
    assert seen["rows"] == 5
    assert (seen["users"], seen["items"]) == (3, 2)
    assert seen["user_top"] == 3 / 5
    assert seen["user_top10"] == 1
    assert seen["user_mean"] == pytest.approx(5 / 3)
    assert seen["item_top"] == 3 / 4  # of the rows on items
    assert (seen["share_view"], seen["share_click"], seen["share_search"]) == (3 / 5, 1 / 5, 1 / 5)
    assert seen["item_surge"] == pytest.approx(max(3 / 4 - 1 / 2, 1 / 4 - 0))
    assert seen["item_unseen"] == 1 / 4  # j
    assert seen["item_unknown"] == 0  # é from the window, j from the items table
    assert seen["item_surprise"] == pytest.approx((3 * -log2(1.5 / 2) + -log2(0.5 / 2)) / 4)
    assert take(rows, [], ("j",))["item_unknown"] == 3 / 4


def test_the_mix_of_behaviours(take: Take) -> None:
    now = [event("a")] * 2 + [event("b", behaviour="click")] * 2
    before = [event("a")] * 3 + [event("b", behaviour="click")]
    expected = (0.5 - 0.75) * log(0.5 / 0.75) + (0.5 - 0.25) * log(0.5 / 0.25)
    assert take(now, before)["behaviour_psi"] == pytest.approx(expected)


def test_clocks(take: Take) -> None:
    """Received at 01:00: one row 10 minutes ahead, one 8 days behind, two half an hour old."""
    rows = [event("a", second=4_200), event("a", second=3_600 - 8 * 86_400), event("a", second=1_800)]
    seen = take([*rows, event("b", second=1_800)])
    assert (seen["ahead"], seen["behind"]) == (1 / 4, 1 / 4)
    assert seen["newest_age_hours"] == pytest.approx(-1 / 6)
    assert seen["span_hours"] == pytest.approx(8 * 24 + 1 / 6)


def test_pace(take: Take) -> None:
    """A timer (gaps of 10 s), a sprinter (20 rows in 4 s, bursts) and somebody with pauses."""
    timer = [event("timer", second=10.4 * place) for place in range(12)]
    sprint = [event("sprinter", second=0.001 * place + 3.99 * (place >= 10)) for place in range(20)]
    person = [event("person", second=float(place**3)) for place in range(8)] + [event("person", second=5_000.0)] * 10
    seen = take([*timer, *sprint, *person])
    assert seen["regular"] == 12 / 50
    assert seen["fast"] == 20 / 50


def test_equal_times_are_no_pace(take: Take) -> None:
    seen = take([event("a")] * 40)
    assert (seen["regular"], seen["fast"]) == (0, 0)


def test_presence_tells_a_visit_from_a_shared_id(take: Take) -> None:
    crowd = [event(f"u{place}", second=10.0 * place) for place in range(640)]
    visit = [event("visitor", second=3_000 + 5.0 * place) for place in range(40)]  # 200 of 6,400 seconds: 2 to 4 slices
    shared = [event("shared", second=160.0 * place) for place in range(40)]
    assert 2 / 64 <= take(crowd + visit)["presence"] <= 4 / 64
    assert take(crowd + shared)["presence"] >= 36 / 64
    assert take(crowd)["presence"] == 0


def test_heavy_is_more_than_nearly_everybody_wrote_and_needs_three(take: Take) -> None:
    before = [event(f"u{number}") for number in range(50)] * 2  # two rows each
    bots = [event(name) for name in ("x", "y", "z") for _ in range(5)]
    assert take([*bots, *[event("u1")] * 2], before)["heavy"] == 5 / 17  # without two of the three
    assert take([*bots[:10], *[event("u1")] * 2], before)["heavy"] == 0


def test_orphans_are_bought_unseen(take: Take) -> None:
    now = [
        *(event("a", "x"), event("a", "x", behaviour="purchase"), event("a", "y", behaviour="purchase")),
        *(event("b", "x", behaviour="cart"), event("b", "z", behaviour="rating", value=3.0)),
    ]
    assert take(now)["orphans"] == 2 / 5  # a on y, b on x; a rating is neither
    assert take(now, [event("a", "y", behaviour="click")])["orphans"] == 1 / 5


def test_nothing_and_little(take: Take) -> None:
    assert take([])["rows"] == 0
    one = take([event("a", None, behaviour="search")])
    assert one["rows"] == one["users"] == one["user_top"] == 1
    assert "flip_mean" not in one
    assert "item_top" not in one
    assert all(value == value for value in one.values())


def rating(user: int, item: int, level: int) -> Row:
    return event(f"u{user}", f"i{item}", behaviour="rating", value=float(level + 1))


def drawn(rng: np.random.Generator, rows: int) -> list[tuple[int, int, int]]:
    """Users of one opinion each, items of one quality each, little noise."""
    user, item = rng.integers(0, 30, rows), rng.integers(0, 40, rows)
    level = np.clip(np.round((user % 3) + (item % 3) + rng.normal(0, 0.5, rows)), 0, 4)
    return [(int(u), int(i), int(k)) for u, i, k in zip(user, item, level, strict=True)]


def evidence(now: list[tuple[int, int, int]], before: list[tuple[int, int, int]]) -> float:
    """The reference: one row after another, as the docstring of `relations.flips` says."""
    user, item, overall = np.zeros((30, LEVELS)), np.zeros((40, LEVELS)), np.ones(LEVELS)
    for u, i, k in [*before, *now]:
        user[u, k] += 1
        item[i, k] += 1
        overall[k] += 1
    overall /= overall.sum()
    excess = variance = 0.0
    for u, i, k in now:
        own = np.eye(LEVELS)[k]
        chance = (user[u] - own + PRIOR * overall) * (item[i] - own + PRIOR * overall) / overall
        chance /= chance.sum()
        score = np.log(1 - SHARE + SHARE * np.minimum(chance[::-1] / chance, LARGEST_RATIO))
        excess += score[k] - chance @ score
        variance += chance @ score**2 - (chance @ score) ** 2
    return float(excess / np.sqrt(variance) / np.sqrt(len(now)))


def test_flip_evidence_is_the_reference_and_grows_with_flips(take: Take) -> None:
    rng = np.random.default_rng(3)
    before, now = drawn(rng, 900), drawn(rng, 400)
    found = []
    for flipped in (0, 20, 80):  # of 400: 0, 5, 20 %
        bad = [(u, i, LEVELS - 1 - k if row < flipped else k) for row, (u, i, k) in enumerate(now)]
        seen = take([rating(*row) for row in bad], [rating(*row) for row in before])
        assert seen["flip_rows"] == 400
        assert seen["flip_mean"] == pytest.approx(evidence(bad, before), rel=1e-9)
        found.append(seen["flip_mean"] * 20)  # z = mean · √400
    assert found[0] < 0  # these people are more consistent than counts of 20 and more rows can tell
    assert found[0] + 4 < found[1] < found[2]


def test_one_trailing_value_is_no_scale(take: Take) -> None:
    seen = take([rating(1, 1, 4)] * 3, [rating(1, 1, 2)] * 3)
    assert "flip_mean" not in seen


rows_strategy = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4), st.sampled_from(["view", "rating", "purchase"])),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(rows=rows_strategy, split=st.integers(0, 30), seed=st.integers(0, 100))
def test_order_and_names_do_not_matter_and_shares_are_shares(
    take: Take, rows: list[tuple[int, int, int, str]], split: int, seed: int
) -> None:
    def made(order: np.ndarray[Any, Any], prefix: str) -> list[Row]:
        return [
            event(f"{prefix}{rows[at][0]}", f"{prefix}{rows[at][1]}", 7.0 * at, rows[at][3], value=float(rows[at][2]))
            for at in order.tolist()
        ]

    split = min(split, len(rows))
    order = np.arange(len(rows))
    shuffled = np.random.default_rng(seed).permutation(split)
    plain = take(made(order[:split], "a"), made(order[split:], "a"))
    other = take(made(shuffled, "ü "), made(order[split:], "ü "))
    assert plain == pytest.approx(other, rel=1e-9, abs=1e-12)
    for name in ("user_top", "presence", "regular", "fast", "heavy", "orphans", "item_unseen", "null_value"):
        assert 0 <= plain.get(name, 0) <= 1


def test_tables_without_behaviour() -> None:
    connection = ibis.duckdb.connect()
    items = pa.Table.from_pylist(
        [{"item_id": name, "title": "t", "price": price} for name, price in (("a", 1.0), ("b", None))],
        schema=pa.schema([ITEMS.field(name) for name in ("item_id", "title", "price")]),
    )
    connection.con.register("items", items)
    statement = connection.compile(plain_profile(known(connection, "items"), kind="items"))
    seen = numbers(connection.con.sql(statement).to_arrow_table())
    connection.disconnect()
    assert seen == {"rows": 2, "items": 2, "null_price": 0.5}
