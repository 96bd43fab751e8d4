"""What the catalogue, filters and the blocklist do to answers, on every path; and the cache, which changes none."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relations.errors import DataRejected, DependencyFailed
from stores import blocklist
from stores.catalogue import Catalogue, publish
from stores.ledger_records import TrialMode
from stores.pseudonyms import Keys
from stores.side_index import NEVER, InForce, NewItem, SideIndex, write_side_index
from stores.side_index import publish as put_side

Start = Callable[..., TestClient]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GREEDY = {"exploration": 0.0}
T = "2026-01-01T00:00:00Z"
ITEMS = [f"item-{n:02d}" for n in range(20)]
CLICK = [{"item_id": "item-00", "behaviour": "click", "event_time": T}]


def eye(n: int = 20, *, shift: int = 1) -> dict[str, np.ndarray]:
    """A network whose best item after a history ending in row r is row r + shift, the next one r + shift + 1, …"""
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None] - shift) % n
    return {"embedding_IxD": np.vstack([np.zeros(n), np.eye(n)]), "output_DxV": -distance.astype(np.float32)}


def ask(client: TestClient, user: str = "u", *, k: int = 3, now: str = T, **body: Any) -> list[str]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": k, **body}, headers={"X-Ratchet-Now": now})
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def refused(client: TestClient, **filters: Any) -> str:
    answer = client.post("/v1/recommend", json={"user_id": "u", "filters": filters})
    assert answer.status_code == 422, answer.text
    return str(answer.json()["detail"])


def stock(shop: Any, **away: bool) -> None:
    """Even items are toys, every fifth one is for adults, item n costs n; those named are not available."""
    rows = {
        item: (
            item.replace("-", "_") not in away,
            float(n),
            ["toys"] * (n % 2 == 0) + ["18+"] * (n % 5 == 0),
        )
        for n, item in enumerate(ITEMS)
    }
    publish(shop.home.catalogue, Catalogue.of(rows))


def block(shop: Any, *items: str) -> None:
    blocklist.add(shop.home.blocklist, items, by="ada", reason="recalled", now=NOW)


def look(client: TestClient) -> None:
    """As the watch does every poll_seconds; these apps poll too rarely to do it themselves."""
    client.app.state.service.watcher.refresh()  # type: ignore[attr-defined]


@pytest.fixture
def quiet(start: Start) -> Start:
    def started(**sections: dict[str, Any]) -> TestClient:
        # A busy machine is no failure here.
        serving = {"poll_seconds": 60.0, "queue_ms": 60_000.0, "timeout_ms": 60_000.0, **sections.pop("serving", {})}
        return start(serving=serving, policy={**GREEDY, **sections.pop("policy", {})}, **sections)

    return started


# The catalogue


def test_an_item_withdrawn_after_the_release_is_shown_no_more_and_one_that_is_back_is(shop: Any, quiet: Start) -> None:
    shop.crown(**eye(), withdrawn=[2])  # row 2 is item-01
    client = quiet()
    assert ask(client, events=CLICK) == ["item-02", "item-03", "item-04"]
    stock(shop, item_03=True)
    look(client)
    assert ask(client, events=CLICK) == ["item-01", "item-02", "item-04"]


def test_withdrawals_hold_for_newcomers_and_without_a_champion(shop: Any, quiet: Start) -> None:
    shop.publish("item-03", "gone for good", "item-01", "item-02")
    stock(shop, item_03=True)
    client = quiet(policy={"newcomers": "popularity"})
    assert ask(client) == ["gone for good", "item-01", "item-02"]  # unknown to the catalogue: nothing said against it
    shop.crown(**eye())
    look(client)
    assert ask(client, k=4) == ["item-01", "item-02", "item-00", "item-04"]


# Filters


@pytest.mark.parametrize("path", ["model", "newcomer", "popularity"])
def test_filters_hold_on_every_path(shop: Any, quiet: Start, path: str) -> None:
    stock(shop)
    shop.publish(*ITEMS[1:], ITEMS[0])  # the same order as the network's after item-00
    if path != "popularity":
        shop.crown(**eye())
    client = quiet(policy={"newcomers": "popularity"})
    body: dict[str, Any] = {"events": CLICK} if path == "model" else {"exclude": ["item-00"]}
    assert ask(client, **body) == ["item-01", "item-02", "item-03"]
    assert ask(client, **body, filters={"categories": ["toys"]}) == ["item-02", "item-04", "item-06"]
    assert ask(client, **body, filters={"categories": ["toys", "18+"]}) == ["item-02", "item-04", "item-05"]
    only = {"categories": ["18+"], "without_categories": ["toys"]}
    assert ask(client, **body, filters=only) == ["item-05", "item-15"]  # fewer than k
    assert ask(client, **body, filters={"min_price": 7, "max_price": 8.0}) == ["item-07", "item-08"]
    assert ask(client, **body, filters={"items": ["item-09", "item-04", "item-00", "x"]}) == ["item-04", "item-09"]
    assert ask(client, **body, filters={"items": ["x"]}) == []
    block(shop, "item-02", "item-04")
    look(client)
    assert ask(client, **body, filters={"categories": ["toys"]}) == ["item-06", "item-08", "item-10"]


def test_filters_that_cannot_be_meant_are_refused(shop: Any, quiet: Start) -> None:
    shop.crown(**eye())
    client = quiet()
    assert "deliver the catalogue" in refused(client, categories=["toys"])
    stock(shop)
    look(client)
    assert "did you mean 'toys'" in refused(client, categories=["toy"])
    assert "filters.categories" in refused(client, categories=[])
    assert "filters.colour" in refused(client, colour="red")
    assert "filters.items" in refused(client, items=["x"] * 10_001)
    assert "min_price is above" in refused(client, min_price=2, max_price=1)


# The blocklist


def test_a_block_holds_within_a_poll_and_slates_stay_full(shop: Any, start: Start) -> None:
    shop.crown(**eye())
    client = start(policy=GREEDY)
    assert ask(client, events=CLICK) == ["item-01", "item-02", "item-03"]
    block(shop, "item-02")
    until = time.monotonic() + 10
    while "item-02" in (shown := ask(client, events=CLICK)):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert shown == ["item-01", "item-03", "item-04"]
    blocklist.remove(shop.home.blocklist, ["item-02"], by="ada", reason="checked", now=NOW)
    while "item-02" not in ask(client, events=CLICK):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_damaged_blocklist_keeps_the_former_and_stops_a_start(shop: Any, quiet: Start) -> None:
    shop.crown(**eye())
    block(shop, "item-01")
    client = quiet()
    shop.home.blocklist.write_text("{")
    look(client)
    assert ask(client, events=CLICK) == ["item-02", "item-03", "item-04"]
    (problem,) = client.get("/readyz").json()["problems"]
    assert "blocklist is damaged" in problem
    with pytest.raises(DataRejected, match="damaged"):
        quiet()


# The cache


def counts(client: TestClient) -> tuple[int, int]:
    """Hits and misses."""
    metrics = client.app.state.service.metrics  # type: ignore[attr-defined]
    of = (metrics.registry.get_sample_value("ratchet_cache_lookups_total", {"result": at}) for at in ("hit", "miss"))
    hits, misses = map(int, of)
    return hits, misses


def test_a_hit_is_an_answer_of_its_own_with_the_same_items(shop: Any, quiet: Start) -> None:
    shop.crown()
    client = quiet(policy={"exploration": 0.5})
    answers = [client.post("/v1/recommend", json={"user_id": "u", "events": CLICK}).json() for _ in range(2)]
    assert counts(client) == (1, 1)
    one, other = answers
    assert one["request_id"] != other["request_id"]
    assert {item["token"] for item in one["items"]}.isdisjoint(item["token"] for item in other["items"])
    rows = shop.logged("exposures")
    assert len({row["exposure_id"] for row in rows}) == 20
    assert len({row["candidate_set_hash"] for row in rows}) == 1
    cold = quiet(policy={"exploration": 0.5}, serving={"cache_seconds": 0.0})
    answer = cold.post("/v1/recommend", json={"user_id": "u", "events": CLICK}).json()
    assert counts(cold) == (0, 0)
    scores = {item["item_id"]: item["score"] for each in (answer, one, other) for item in each["items"]}
    for each in (answer, one, other):
        assert {item["item_id"]: item["score"] for item in each["items"]}.items() <= scores.items()


def test_what_changes_the_question_is_a_miss(shop: Any, quiet: Start) -> None:
    stock(shop)
    shop.crown(**eye())
    client = quiet()
    asked = [
        {},
        {"events": CLICK},
        {"events": [{**CLICK[0], "behaviour": "view"}]},
        {"events": [{**CLICK[0], "event_time": "2025-12-31T00:00:00Z"}]},
        {"events": CLICK, "exclude": ["item-01"]},
        {"events": CLICK, "filters": {"categories": ["toys"]}},
    ]
    first = [ask(client, **body) for body in asked]
    assert counts(client) == (0, len(asked))
    assert [ask(client, **body) for body in asked] == first
    assert counts(client) == (len(asked), len(asked))
    assert ask(client, k=2, events=CLICK) == first[1][:2]  # k draws from the same candidates
    assert ask(client, "v", events=CLICK) == first[1]  # as does anybody with the same history
    assert counts(client) == (len(asked) + 2, len(asked))


def test_feedback_a_block_a_withdrawal_a_swap_and_time_each_end_it(shop: Any, quiet: Start) -> None:
    shop.publish("item-05")
    shop.crown(**eye())
    client = quiet()

    def told(item: str) -> None:
        event = {"user_id": "u", "item_id": item, "behaviour": "click", "event_time": T}
        answer = client.post("/v1/feedback", json={"events": [event]}, headers={"X-Ratchet-Now": T})
        assert answer.json()["accepted"] == 1

    def missed(**body: Any) -> list[str]:
        before = counts(client)
        items = ask(client, **body)
        assert counts(client) == (before[0], before[1] + 1)
        assert ask(client, **body) == items
        assert counts(client) == (before[0] + 1, before[1] + 1)
        return items

    told("item-00")
    assert missed() == ["item-01", "item-02", "item-03"]
    told("item-09")  # after item-00 at the same instant, by the event's id or before it: what counts is both
    after = missed()
    assert "item-09" not in after
    block(shop, after[0])
    look(client)
    assert after[0] not in missed()
    stock(shop, **{after[1].replace("-", "_"): True})
    look(client)
    assert not {after[0], after[1]} & set(missed())
    missed(now="2026-01-01T00:00:11Z")
    shop.trial(shop.version(**eye(shift=2)))
    shop.promote()
    look(client)
    missed()
    assert len(client.app.state.service.cache) == 1  # type: ignore[attr-defined]  # nothing of the former champion


# The law


class Breaking:
    """A network that fails when told to."""

    def __init__(self, best: Callable[..., Any]) -> None:
        self._best, self.broken = best, False

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.broken:
            raise ArithmeticError("the network's scores are not finite")
        return await self._best(*arguments, **named)


NEW = [f"new-{n}" for n in range(4)]
NAMES = st.lists(st.sampled_from([*ITEMS, *NEW]), max_size=6)
FILTERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "categories": st.lists(st.sampled_from(["toys", "18+"]), min_size=1, max_size=2),
        "without_categories": st.lists(st.sampled_from(["toys", "18+"]), min_size=1, max_size=1),
        "items": st.lists(st.sampled_from(ITEMS), min_size=1, max_size=8),
        "max_price": st.sampled_from([0.0, 7.5, 99.0]),
    },
)


def begin(shop: Any, path: str) -> None:
    """A home in which answers come this way, to the same users at each run."""
    Keys.write_derived(shop.home.keys, seed=7)
    if path == "popularity":
        return
    bundle = shop.release(seed=77)
    shop.crown(shop.version(bundle))
    if path == "new items":
        rows = tuple(NewItem(item, 0, True) for item in NEW)
        index = SideIndex(bundle.digest, rows, np.ones((len(NEW), 16), np.float32), np.full(len(NEW), 9.0, np.float32))
        digest = write_side_index(index, shop.home.side_indexes, items_version=1, now=NOW).digest
        put_side(shop.home.side_in_force, InForce(1, NEVER, "recipe", {bundle.digest: digest}))
    elif path != "champion":
        mode = TrialMode(path)
        share = None if mode in (TrialMode.COMPARE, TrialMode.SHADOW) else 0.45
        shop.ledger.open_trial(
            "t",
            {},
            challengers=[shop.version()],
            salt="s",
            allocation=0.5,
            actor="flow",
            now=NOW,
            mode=mode,
            share=share,
        )


@pytest.mark.parametrize("path", ["popularity", "champion", "new items", "compare", "interleave", "shadow"])
def test_a_blocked_item_is_in_no_answer_and_no_exposure(shop: Any, quiet: Start, path: str) -> None:
    stock(shop, item_07=True)
    shop.publish(*ITEMS)
    begin(shop, path)
    client = quiet(policy={"newcomers": "popularity", "exploration": 0.5, "candidates": 15})
    assert client.get("/readyz").json()["problems"] == []
    service = client.app.state.service  # type: ignore[attr-defined]
    service.batcher.best = network = Breaking(service.batcher.best)
    blocked_at: dict[str, set[str]] = {}

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        blocked=NAMES,
        hidden=NAMES,
        adults=st.booleans(),
        user=st.sampled_from("abcdefgh"),
        events=st.none() | NAMES,
        exclude=NAMES,
        filters=FILTERS,
        k=st.integers(1, 20),
        broken=st.booleans(),
        again=st.booleans(),
    )
    def holds(
        blocked: list[str],
        hidden: list[str],
        adults: bool,
        user: str,
        events: list[str] | None,
        exclude: list[str],
        filters: dict[str, Any] | None,
        k: int,
        broken: bool,
        again: bool,
    ) -> None:
        held = list(blocklist.read(shop.home.blocklist).items)
        if held:
            blocklist.remove(shop.home.blocklist, held, by="ada", reason="law", now=NOW)
        body: dict[str, Any] = {"user_id": user, "k": k, "exclude": exclude, "filters": filters}
        if events is not None:
            body["events"] = [{"item_id": item, "behaviour": "click", "event_time": T} for item in events]
        if again:  # what was chosen before the block may lie in the cache
            look(client)
            network.broken = False
            client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": T})
        if blocked:
            block(shop, *blocked)
        look(client)
        wishes = {"personalised": True, "hidden_items": hidden, "hidden_categories": [] if adults else ["18+"]}
        assert client.put("/v1/users/preferences", json={"user_id": user, **wishes}).status_code == 200
        network.broken = broken
        answer = client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": T})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        shown = [item["item_id"] for item in told["items"]]
        forbidden = {*blocked, *hidden, *exclude, *(events or ()), "item-07", *(() if adults else ITEMS[::5])}
        assert not forbidden & set(shown)
        if filters and "items" in filters:
            assert set(shown) <= set(filters["items"])
        if filters is None:
            new = path == "new items" and told["model"]["digest"] != "popularity"  # that list knows of none
            full = min(
                k, 15, len({*ITEMS, *(NEW if new else ())} - forbidden)
            )  # of 15 candidates; two lists of them may hold more
            assert len(shown) == full or (path == "interleave" and full < len(shown) <= k)
        blocked_at[told["request_id"]] = forbidden

    holds()
    if path == "shadow":
        until = time.monotonic() + 10
        while not any(row["is_shadow"] for row in shop.logged("exposures")):
            assert time.monotonic() < until
            time.sleep(0.05)
    rows = [(row, row["request_id"].removesuffix("~shadow")) for row in shop.logged("exposures")]
    counted = [(row["item_id"], blocked_at[request]) for row, request in rows if request in blocked_at]
    assert counted
    assert not [item for item, forbidden in counted if item in forbidden]
    ways = {
        "popularity": lambda row: row["digest"] == "popularity",
        "champion": lambda row: row["variant"] == "champion",
        "new items": lambda row: row["item_id"] in NEW,
        "compare": lambda row: row["variant"] == "challenger",
        "interleave": lambda row: row["variant"] == "interleaved",
        "shadow": lambda row: row["is_shadow"],
    }
    assert any(ways[path](row) for row, _ in rows)  # the way was gone


def test_a_block_waits_for_no_ledger_and_no_mask(shop: Any, start: Start) -> None:
    """While the ledger hangs, or a model loads, no new snapshot is made: the last word holds all the same."""
    shop.crown(**eye())
    client = start(policy=GREEDY)
    service = client.app.state.service  # type: ignore[attr-defined]
    hanging = threading.Event()

    def hang() -> None:
        hanging.wait()
        raise DependencyFailed("gone")

    service.watcher._ledger = SimpleNamespace(serving_state=hang)
    before = service.watcher.current
    while (now := service.watcher.current) is not before:  # a look that had begun ends
        before = now
        time.sleep(0.3)
    block(shop, "item-01", "item-03")
    until = time.monotonic() + 10
    while (shown := ask(client, events=CLICK)) != ["item-02", "item-04", "item-05"]:
        assert time.monotonic() < until, shown
        time.sleep(0.02)
    assert service.watcher.current.offer.blocked == frozenset()
    hanging.set()
