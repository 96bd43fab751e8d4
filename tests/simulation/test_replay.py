from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DependencyFailed
from simulation.client import RecommendClient
from simulation.replay import Group, LoggedEvent, in_groups, replay


def rated(user: str, item: str, time: float) -> LoggedEvent:
    return LoggedEvent(user, item, time, "rating", 4.0)


# Two users share the time stamp 100, their rows interleaved; "b" comes first in the file.
LOG = [
    rated("b", "i3", 100),
    rated("a", "i1", 100),
    rated("b", "i2", 100),
    rated("a", "i9", 50),
    rated("a", "i4", 100 + 30 * 60),
    rated("a", "i5", 100 + 60 * 60 + 1),
]


def test_groups_by_hand() -> None:
    assert list(in_groups(LOG)) == [
        Group("a", 50, ("i9",), "rating", starts_session=True),
        Group("b", 100, ("i3", "i2"), "rating", starts_session=True),
        Group("a", 100, ("i1",), "rating", starts_session=False),
        Group("a", 1900, ("i4",), "rating", starts_session=False),  # exactly 30 minutes: the same session
        Group("a", 3701, ("i5",), "rating", starts_session=True),  # 30 minutes and a second
    ]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 5)), max_size=30),
)
def test_groups_lose_nothing_and_go_forward(rows: list[tuple[str, str, int]]) -> None:
    events = [rated(user, item, time) for user, item, time in rows]
    groups = list(in_groups(events))
    assert len({(group.user_id, group.time) for group in groups}) == len(groups)
    assert [group.time for group in groups] == sorted(group.time for group in groups)
    for group in groups:
        assert group.item_ids == tuple(i for u, i, t in rows if (u, t) == (group.user_id, group.time))
    assert sum(len(group.item_ids) for group in groups) == len(rows)


def test_a_click_when_an_item_of_the_group_is_shown(stub: Any) -> None:
    stub.show = lambda body: ["i2", "i3", "i5", "i7"]
    past: dict[str, list[dict[str, str]]] = {}
    day = replay(LOG, RecommendClient(stub.url), past=past, slots=4)
    # Groups b@100 (i2, i3 shown: one click, on the first) and a@3701 (i5).
    assert stub.events() == [
        {
            "token": "r2:1",
            "user_id": "b",
            "item_id": "i2",
            "behaviour": "click",
            "event_time": "1970-01-01T00:01:40.000Z",
        },
        {
            "token": "r6:3",
            "user_id": "a",
            "item_id": "i5",
            "behaviour": "click",
            "event_time": "1970-01-01T01:01:41.000Z",
        },
    ]
    assert (day.groups, day.requests, day.impressions, day.clicks) == (5, 5, 20, 2)
    assert (day.sessions, day.users, day.failed, day.refused) == (3, 2, 0, 0)
    assert day.arms["champion"].clicks == 2
    assert [body["user_id"] for body in stub.recommended()] == ["a", "b", "a", "a", "a"]
    # Each request carries what its user had done before: a is asked for with 0, 1, 2 and 3 events.
    assert [len(body["events"]) for body in stub.recommended()] == [0, 0, 1, 2, 3]
    assert [event["item_id"] for event in past["a"]] == ["i9", "i1", "i4", "i5"]
    headers = [now for _, _, now in stub.requests]
    assert headers == sorted(headers)


def test_a_dead_server_ends_the_replay(stub: Any) -> None:
    stub.status = 500
    events = [rated("a", "i", number) for number in range(200)]
    with pytest.raises(DependencyFailed, match="status 500"):
        replay(events, RecommendClient(stub.url), past={})
    assert len(stub.requests) == 50
