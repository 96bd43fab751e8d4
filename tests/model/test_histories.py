from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sequences import BEHAVIOUR_NAMES, Histories, merge, split_by_time
from relations.errors import DataRejected

Make = Callable[..., Histories]

ROW = st.tuples(
    st.sampled_from(["u", "v", "w"]),
    st.sampled_from(["a", "b", "c", "😀"]),
    st.sampled_from(["view", "cart", "dislike"]),
    st.integers(0, 12),
)
ROWS = st.lists(ROW, min_size=1, max_size=30)


def test_events_are_sorted_by_user_and_time(histories_of: Make) -> None:
    h = histories_of([("v", "b", "view", 3), ("u", "c", "cart", 9), ("u", "a", "view", 1), ("v", "a", "view", 3)])
    assert h.users.tolist() == ["u", "v"]
    assert h.offsets_U1.tolist() == [0, 2, 4]
    assert h.sequences() == [(["a", "c"], ["view", "cart"]), (["b", "a"], ["view", "view"])]
    assert h.time_N.tolist() == [1_000_000, 9_000_000, 3_000_000, 3_000_000]


def test_event_ids_decide_between_equal_times() -> None:
    times = pa.array([5, 5], pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "user": ["u"] * 2,
            "item_id": ["x", "y"],
            "behaviour": ["view"] * 2,
            "event_time": times,
            "event_id": ["2", "1"],
        }
    )
    assert Histories.from_table(table).sequences()[0][0] == ["y", "x"]


def test_an_empty_table_is_no_history() -> None:
    columns = {name: pa.array([], pa.string()) for name in ("user", "item_id", "behaviour")}
    h = Histories.from_table(pa.table({**columns, "event_time": pa.array([], pa.timestamp("us", tz="UTC"))}))
    assert len(h) == 0
    assert h.sequences() == []
    with pytest.raises(DataRejected, match="none to split"):
        split_by_time(h, holdout_share=0.1)


def test_an_unknown_behaviour_is_named(histories_of: Make) -> None:
    with pytest.raises(DataRejected, match="'lick' is not one of view, click"):
        histories_of([("u", "a", "lick", 1)])


def test_merge_puts_late_arrivals_where_they_belong(histories_of: Make) -> None:
    past = histories_of([("u", "a", "view", 1), ("u", "c", "view", 5), ("v", "c", "view", 2)])
    new = histories_of([("u", "b", "view", 3), ("u", "d", "view", 5), ("t", "a", "cart", 9)])
    whole, new_N = merge(past, new)
    assert whole.users.tolist() == ["t", "u", "v"]
    assert [items for items, _ in whole.sequences()] == [["a"], ["a", "b", "c", "d"], ["c"]]
    assert new_N.tolist() == [True, False, True, False, True, False]


def test_nothing_is_neutral_in_a_merge(histories_of: Make) -> None:
    h = histories_of([("u", "a", "view", 1), ("v", "b", "cart", 2)])
    for first, second, late in ((h.before(0), h, True), (h, h.before(0), False)):
        whole, new_N = merge(first, second)
        assert whole.sequences() == h.sequences()
        assert new_N.tolist() == [late] * 2


def test_share_keeps_one_instant_together(histories_of: Make) -> None:
    h = histories_of([("u", "a", "view", t) for t in (1, 2, 3, 4, 4, 4)])
    split = split_by_time(h, holdout_share=1 / 6)  # one of six events; two more share its instant
    assert split.cutoff_us == 4_000_000
    assert len(split.train) == 3


def test_rows_are_the_first_events_of_runs_and_never_dislikes(histories_of: Make) -> None:
    h = histories_of(
        [
            ("u", "a", "view", 1),
            ("u", "a", "click", 10),  # goes on with a run from before the cutoff: no row
            ("u", "b", "view", 11),  # row
            ("u", "b", "cart", 12),  # the same run
            ("u", "c", "dislike", 13),  # never a target
            ("u", "d", "view", 14),  # row
            ("u", "b", "purchase", 15),  # row: another run
        ]
    )
    holdout = split_by_time(h, cutoff_us=10_000_000).holdout
    assert h.items[h.item_N[holdout.event_R]].tolist() == ["b", "d", "b"]
    assert holdout.visible_R.tolist() == [2, 5, 6]
    assert holdout.trained_I.tolist() == [1, 0, 0, 0]
    reached = [{BEHAVIOUR_NAMES[code] for code in np.flatnonzero(row)} for row in holdout.reached_RB]
    assert reached == [{"view", "cart", "purchase"}, {"view"}, {"view", "cart", "purchase"}]


def test_events_of_the_same_instant_are_not_visible(histories_of: Make) -> None:
    h = histories_of([("u", "a", "view", 1), ("u", "b", "view", 5), ("u", "c", "view", 5)])
    holdout = split_by_time(h, cutoff_us=5_000_000).holdout
    assert holdout.visible_R.tolist() == [1, 1]


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, cutoff=st.integers(0, 13))
def test_nothing_at_or_after_the_cutoff_is_trained_on(histories_of: Make, rows: list, cutoff: int) -> None:
    h = histories_of(rows)
    split = split_by_time(h, cutoff_us=cutoff * 1_000_000)
    assert (split.train.time_N < split.cutoff_us).all()
    assert len(split.train) == sum(row[3] < cutoff for row in rows)
    assert split.holdout.trained_I.sum() == split.holdout.trained_U.sum() == len(split.train)
    for user, visible, event in zip(split.holdout.user_R, split.holdout.visible_R, split.holdout.event_R, strict=True):
        begin = h.offsets_U1[user]
        assert h.time_N[event] >= split.cutoff_us
        assert (h.time_N[begin:visible] < h.time_N[event]).all()  # strictly earlier
        assert (h.time_N[visible:event] == h.time_N[event]).all()  # and nothing earlier is hidden


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, cutoff=st.integers(0, 13))
def test_cutting_and_merging_gives_the_whole_back(histories_of: Make, rows: list, cutoff: int) -> None:
    h = histories_of(rows)
    whole, new_N = merge(h.before(cutoff * 1_000_000), h.since(cutoff * 1_000_000))
    assert whole.sequences() == h.sequences()
    assert new_N.sum() == sum(row[3] >= cutoff for row in rows)


def test_sampled_users_keep_all_their_rows(histories_of: Make) -> None:
    h = histories_of([(f"u{u}", f"i{i}", "view", i) for u in range(20) for i in range(3)])
    holdout = split_by_time(h, cutoff_us=0).holdout
    sample = holdout.sample_users(5, seed=1)
    assert np.unique(sample.user_R, return_counts=True)[1].tolist() == [3] * 5
    assert np.array_equal(sample.event_R, holdout.sample_users(5, seed=1).event_R)
    assert len(holdout.sample_users(20, seed=1)) == 60
