"""Which pieces of the past are kept: the same however the stream was cut, and as often as was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from model.continual.options import IncrementOptions, Replay
from model.continual.replay import DAY_US, choose, cut
from model.sequences import BEHAVIOUR_NAMES, Histories

CLICK = BEHAVIOUR_NAMES.index("click")


def histories(events: list[tuple[str, str, int]]) -> Histories:
    """From (user, item, day)."""
    users, user_N = np.unique(np.array([user for user, _, _ in events], dtype=object), return_inverse=True)
    items, item_N = np.unique(np.array([item for _, item, _ in events], dtype=object), return_inverse=True)
    time_N = np.array([day * DAY_US for _, _, day in events], dtype=np.int64)
    order_N = np.lexsort([time_N, user_N])
    return Histories(
        users,
        items,
        item_N[order_N],
        np.full(len(events), CLICK),
        time_N[order_N],
        np.concatenate([[0], np.cumsum(np.bincount(user_N))]),
    )


def kept(past: Histories, options: IncrementOptions, length: int = 4) -> set[tuple[str, int, int]]:
    """(user, first time, events) of each piece."""
    found = choose(cut(past, length=length, options=options, seed=3), past, options=options)
    user_N = past.user_N()
    return {
        (str(past.users[user_N[a]]), int(past.time_N[a]), int(b - a))
        for a, b in zip(found.begin_P, found.end_P, strict=True)
    }


def test_a_history_is_cut_from_its_beginning_and_a_lone_event_is_no_piece() -> None:
    past = histories([("anna", f"i{day}", day) for day in range(10)] + [("bob", "i1", 3)])
    pieces = cut(past, length=4, options=IncrementOptions(), seed=0)
    assert pieces.begin_P.tolist() == [0, 4, 8]
    assert pieces.end_P.tolist() == [4, 8, 10]
    assert pieces.mask(11).tolist() == [True] * 10 + [False]


@examples(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 4), min_size=1, max_size=30),
    st.booleans(),
    st.integers(0, 30),
    st.sampled_from([Replay.RESERVOIR, Replay.RECENT]),
    st.integers(1, 60),
)
def test_the_best_of_the_best_and_what_came_since_are_the_best_of_all(
    lengths: list[int], even: bool, early: int, replay: Replay, room: int
) -> None:
    """Users who come later change nothing about who of the earlier ones was out. Where pieces differ in size, one that
    was out because it did not fit may make room for a smaller one: then the best of all are among those kept."""
    options = IncrementOptions(replay=replay, replay_events=room, replay_half_life_days=3.0)
    counts = [3] * len(lengths) if even else lengths
    events = [(f"ü{user}", f"i{n}", user + n) for user, count in enumerate(counts) for n in range(count)]
    best = {user for user, _, _ in kept(histories([e for e in events if int(e[0][1:]) < early]), options)}
    again = kept(histories([e for e in events if int(e[0][1:]) >= early or e[0] in best]), options)
    whole = kept(histories(events), options)
    assert whole <= again
    assert not even or whole == again
    assert sum(count for _, _, count in again) <= room


def test_a_piece_keeps_its_priority_while_its_history_goes_on() -> None:
    short = cut(histories([("a", "x", 0), ("a", "y", 1)]), length=4, options=IncrementOptions(), seed=0)
    longer = cut(histories([("a", "xyz"[day], day) for day in range(3)]), length=4, options=IncrementOptions(), seed=0)
    assert short.priority_P.tolist() == longer.priority_P.tolist()
    other = cut(histories([("a", "x", 0), ("a", "y", 1)]), length=4, options=IncrementOptions(), seed=1)
    assert other.priority_P.tolist() != short.priority_P.tolist()


@pytest.mark.parametrize("replay", list(Replay))
def test_room_holds_at_most_what_it_says_and_none_holds_nothing(replay: Replay) -> None:
    past = histories([(f"u{user}", f"i{n}", user) for user in range(50) for n in range(3)])
    options = IncrementOptions(replay=replay, replay_events=31)
    assert sum(count for _, _, count in kept(past, options)) == 30
    assert not kept(past, replace(options, replay_events=0))
    assert len(kept(past, replace(options, replay_events=1000))) == 50


def test_a_reservoir_is_uniform_and_recency_halves_by_the_half_life() -> None:
    """2,000 users at day 0 and as many at day 10: with a half-life of 10 days the newer are twice as likely."""
    past = histories([(f"{day}-{user}", f"i{n}", day + n) for day in (0, 10) for user in range(2000) for n in range(2)])
    share = {}
    for replay in (Replay.RESERVOIR, Replay.RECENT):
        options = IncrementOptions(replay=replay, replay_events=600, replay_half_life_days=10.0)
        found = kept(past, options)
        share[replay] = sum(user.startswith("10-") for user, _, _ in found) / len(found)
    # 300 pieces: a standard error of .029 about 1/2 and .027 about 2/3 (a little less: without replacement)
    assert abs(share[Replay.RESERVOIR] - 1 / 2) < 0.09
    assert abs(share[Replay.RECENT] - 2 / 3) < 0.09


def test_exemplars_give_each_item_its_share_and_each_at_least_one() -> None:
    """90 pieces end with `often`, 10 with ten other items; room for 20 pieces: 11 items once, then 9 more by share."""
    past = histories(
        [(f"u{user}", item, day) for user in range(90) for day, item in enumerate(("a", "often"))]
        + [(f"v{user}", item, day) for user in range(10) for day, item in enumerate(("a", f"rare{user}"))]
    )
    options = IncrementOptions(replay=Replay.EXEMPLARS, replay_events=40)
    found = kept(past, options)
    assert len(found) == 20
    assert sum(user.startswith("v") for user, _, _ in found) == 10
