import math
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.schemas import BEHAVIOURS
from simulation.clock import DAY_US
from simulation.funnel import CART, CLICK, FAVOURITE, PURCHASE, STEPS, VIEW
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters

SMALL = Parameters(users=300, items=200, new_users_per_day=2, bots=2, horizon_days=12)


def same(a: object, b: object) -> bool:
    """Equal, NaN to itself."""
    return repr(a) == repr(b)


def test_same_seed_same_rows_in_whatever_order_the_days_are_asked_for() -> None:
    one, other = Marketplace(SMALL, seed=3), Marketplace(SMALL, seed=3)
    backwards = {day: other.organic_day(day) for day in (5, 2, 0)}
    assert all(same(one.organic_day(day), rows) for day, rows in backwards.items())
    assert same(one.organic_day(2), one.organic_day(2))
    assert one.items(0) == other.items(0)
    assert one.items(4) == other.items(4)


def test_another_seed_other_rows() -> None:
    one, other = Marketplace(SMALL, seed=3), Marketplace(SMALL, seed=4)
    assert not same(one.organic_day(0), other.organic_day(0))
    assert one.items(0) != other.items(0)


def test_a_week_of_organic_days_has_the_stated_size_and_is_made_quickly() -> None:
    market = Marketplace(seed=5)
    began = time.process_time()
    rows = [row for day in range(7) for row in market.organic_day(day)]
    assert time.process_time() - began < 3
    assert 45_000 < len(rows) < 65_000
    assert len({row["user_id"] for row in rows}) > 4_500


def test_every_event_lies_in_its_day(marketplace: Marketplace) -> None:
    for day in range(4):
        time_us = marketplace.events(day).time_us_E
        assert time_us.min() >= day * DAY_US
        assert time_us.max() < (day + 1) * DAY_US
        assert (np.diff(time_us) >= 0).all()
    start = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=3)
    stamps = [row["event_time"] for row in marketplace.organic_day(3) if row["event_time"] != "yesterday"]
    assert all(start <= datetime.fromisoformat(stamp) < start + timedelta(days=1) for stamp in stamps)


def test_some_purchases_come_on_a_later_day_than_their_click(marketplace: Marketplace) -> None:
    clicked: dict[tuple[int, int], set[int]] = {}
    late, prompt = 0, 0
    for day in range(6):
        events = marketplace.events(day)
        for user, item, behaviour in zip(events.user_E, events.item_E, events.behaviour_E, strict=True):
            if behaviour == CLICK:
                clicked.setdefault((user, item), set()).add(day)
            elif behaviour == PURCHASE:
                days = clicked[user, item]  # a purchase without a click would be a KeyError
                late += day not in days
                prompt += day in days
    assert 0.1 < late / (late + prompt) < 0.6
    assert late > 50


def test_the_funnel_narrows_at_every_step(marketplace: Marketplace) -> None:
    counts = marketplace.account(8).behaviours
    assert list(counts) == list(STEPS)
    assert set(STEPS) <= set(BEHAVIOURS)
    narrowing = [counts[step] for step in STEPS]
    assert narrowing == sorted(narrowing, reverse=True)
    assert len(set(narrowing)) == len(narrowing)
    # Each deeper step of a person in a session is of an item that the person clicked before.
    seen: set[tuple[int, int]] = set()
    events = marketplace.events(0)
    for user, item, behaviour in zip(events.user_E, events.item_E, events.behaviour_E, strict=True):
        if behaviour == CLICK:
            seen.add((user, item))
        elif behaviour in (FAVOURITE, CART):
            assert (user, item) in seen


def test_the_account_says_what_the_rows_hold(marketplace: Marketplace) -> None:
    rows, account = marketplace.organic_day(2), marketplace.account(2)
    assert len(rows) == account.delivered == account.genuine + account.duplicate + sum(account.dirty.values())
    assert account.duplicate == round(account.genuine * 0.001) > 0
    assert sum(account.dirty.values()) == round(account.genuine * 0.004)
    assert max(account.dirty.values()) - min(account.dirty.values()) <= 1
    assert sum(row["behaviour"] not in BEHAVIOURS for row in rows) == account.dirty["behaviour"]
    assert sum(row["item_id"] is None for row in rows) == account.dirty["item"]
    assert sum(row["event_time"] == "yesterday" for row in rows) == account.dirty["time"]
    assert sum(row["value"] is not None and math.isnan(row["value"]) for row in rows) == account.dirty["value"]
    good = [
        tuple(row.values())
        for row in rows
        if row["behaviour"] in BEHAVIOURS
        and row["item_id"] is not None
        and row["event_time"] != "yesterday"
        and not (row["value"] is not None and math.isnan(row["value"]))
    ]
    assert len(good) - len(set(good)) == account.duplicate
    assert len(set(good)) == account.genuine


def test_no_faults_when_none_are_wanted() -> None:
    clean = Marketplace(Parameters(users=100, items=100, horizon_days=3, dirty=0, duplicate=0), seed=0)
    assert clean.account(1).delivered == clean.account(1).genuine == len(clean.organic_day(1))


def test_items_arrive_daily_and_can_be_read(marketplace: Marketplace) -> None:
    first, later = marketplace.items(0), [marketplace.items(day) for day in range(1, 15)]
    assert len(first) == 1_200
    assert 15 < np.mean([len(rows) for rows in later]) < 25
    everything = [*first, *(row for rows in later for row in rows)]
    assert len({row["item_id"] for row in everything}) == len(everything)
    assert set(first[0]) == {"item_id", "title", "description", "categories", "price", "available", "valid_from"}
    assert all(len(row["categories"]) == 2 and row["price"] > 0 for row in everything)
    assert 0.03 < np.mean([not row["title"].isascii() for row in everything]) < 0.15
    assert {row["valid_from"] for row in marketplace.items(9)} == {"2026-01-14T00:00:00.000Z"}
    # Nobody meets an item before its release.
    for day in (0, 7):
        events = marketplace.events(day)
        assert (marketplace.catalogue.release_N[events.item_E] <= day).all()


def test_new_items_get_about_three_tenths_of_the_attention(marketplace: Marketplace) -> None:
    events = marketplace.events(14)
    views = events.select(events.behaviour_E == VIEW)
    assert 0.2 < (marketplace.catalogue.release_N[views.item_E] >= 7).mean() < 0.4


def test_people_come_by_habit_and_new_ones_join(marketplace: Marketplace) -> None:
    seen: set[int] = set()
    for day in range(14, 20):
        user_V = marketplace.visits(day).user_V
        assert 1_000 < len(user_V) < 1_400
        assert len(set(user_V.tolist())) == len(user_V)
        assert user_V.min() >= marketplace.people.bots
        seen |= set(user_V.tolist())
    assert len(seen) > 4_000
    assert marketplace.people.first_day_U[max(seen)] > 14


def test_the_last_item_foretells_the_next_one(marketplace: Marketplace) -> None:
    events = marketplace.events(1)
    views = events.select((events.behaviour_E == VIEW) & (events.user_E >= marketplace.people.bots))
    order = np.lexsort((views.time_us_E, views.user_E))
    user_E, subtopic_E = views.user_E[order], marketplace.catalogue.subtopic_N[views.item_E[order]]
    together = user_E[1:] == user_E[:-1]
    before, after = subtopic_E[:-1][together], subtopic_E[1:][together]
    complement = (after == marketplace.tastes.complement_S[before]).mean()
    backwards = (before == marketplace.tastes.complement_S[after]).mean()
    # Order matters: the complement follows (.15 at least), it does not precede. By chance either is about 1/36.
    assert complement > 0.14
    assert backwards < complement / 2


def test_people_browse_what_they_care_about(marketplace: Marketplace) -> None:
    events = marketplace.events(0)
    views = events.select((events.behaviour_E == VIEW) & (events.user_E >= marketplace.people.bots))
    interest_US = marketplace.tastes.interest_logits(0)
    wanted = interest_US[views.user_E, marketplace.catalogue.subtopic_N[views.item_E]] > 0
    assert wanted.mean() > 0.5  # 3 of 36 sub-topics


def test_tastes_drift(marketplace: Marketplace) -> None:
    first, later = marketplace.tastes.interests(0)[0], marketplace.tastes.interests(14)[0]
    # 1 − .975^14 = .30 are redrawn, a few of them to what they were.
    assert 0.2 < (first != later).mean() < 0.32
    trend_DS = marketplace.tastes.trend_DS
    assert 0.1 < np.abs(trend_DS[14] - trend_DS[0]).mean() < 0.6


def test_days_outside_the_horizon_are_refused(marketplace: Marketplace) -> None:
    with pytest.raises(ValueError, match="horizon_days"):
        marketplace.organic_day(90)
    with pytest.raises(ValueError, match="day -1"):
        marketplace.items(-1)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(30, 120), items=st.integers(40, 120))
def test_any_marketplace_keeps_the_laws(seed: int, users: int, items: int) -> None:
    market = Marketplace(Parameters(users=users, items=items, new_users_per_day=1, bots=1, horizon_days=4), seed)
    for day in range(3):
        account, events = market.account(day), market.events(day)
        assert account.delivered == len(market.organic_day(day))
        assert account.behaviours["view"] >= account.behaviours["click"]
        assert ((events.time_us_E // DAY_US) == day).all()
        assert (events.item_E < market.catalogue.released(day)).all()
