"""Who is in the panel, and which of its rows belong to which cohort."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.continual.cohorts import ALL, OLD_ITEMS, OLD_USERS, TAIL_ITEMS, freeze, in_panel
from model.sequences import Histories

Row = tuple[str, str, str, int]


@given(st.lists(st.text(), unique=True, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_panel_holds_a_smaller_one(users: list[str], one: float, other: float) -> None:
    small, large = (in_panel(users, share=share, least=0) for share in sorted((one, other)))
    if panel_of_both := len(users) * min(one, other) >= 1:
        assert not (small & ~large).any()
    assert panel_of_both or not small.any()


def test_the_panel_is_a_share_of_the_users_and_the_same_for_text_and_bytes() -> None:
    users = [f"ключ {number}" for number in range(20_000)]
    chosen = in_panel(users, share=0.05, least=20)
    assert chosen.mean() == pytest.approx(0.05, abs=0.005)  # 3 standard errors: 3·√(.05·.95/20,000) = .0046
    assert np.array_equal(chosen, in_panel([user.encode() for user in users], share=0.05, least=20))
    assert np.array_equal(chosen[:10_000], in_panel(users[:10_000], share=0.05, least=20))  # others change nothing


def test_too_few_users_have_no_panel() -> None:
    users = [f"u{number}" for number in range(399)]
    assert not in_panel(users, share=0.05, least=20).any()  # 399 · .05 < 20
    assert in_panel([*users, "one more"], share=0.05, least=20).any()
    assert not in_panel([], share=1.0, least=0).any()


def test_rows_and_cohorts(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    histories = histories_of(
        [
            ("ann", "a", "view", 1),  # nothing before it: no row
            ("ann", "b", "view", 2),
            ("ann", "b", "purchase", 3),  # goes on with the run on b
            ("ann", "c", "dislike", 4),  # never a target
            ("ann", "d", "view", 5),
            ("ben", "a", "view", 11),
            ("ben", "c", "view", 12),
        ]
    )
    # five items learnt from: the best fifth is a alone
    found = freeze(histories, trained={"a": 9, "b": 2, "c": 1, "e": 1, "f": 1}, old_before_us=10_000_000)
    assert found is not None
    items = [str(histories.items[histories.item_N[at]]) for at in found.holdout.event_R]
    assert items == ["b", "d", "c"]
    members = {name: in_R.tolist() for name, in_R in found.of_rows(found.holdout.event_R).items()}
    assert members == {
        ALL: [True, True, True],
        OLD_ITEMS: [True, False, True],  # the base never met d
        TAIL_ITEMS: [True, False, True],
        OLD_USERS: [True, True, False],  # ben came later
        "view": [True, True, True],
        "purchase": [True, False, False],
    }


def test_only_the_newest_rows_of_a_user(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    histories = histories_of([("ann", f"i{at}", "view", at) for at in range(9)] + [("ben", "x", "view", 0)])
    found = freeze(histories, trained={}, old_before_us=0, rows_per_user=3)
    assert found is not None
    assert histories.time_N[found.holdout.event_R].tolist() == [6_000_000, 7_000_000, 8_000_000]


def test_nothing_to_freeze(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    one = histories_of([("ann", "a", "view", 1)])
    assert freeze(one, trained={"a": 1}, old_before_us=0) is None
    assert freeze(one.keep(np.zeros(1, dtype=bool)), trained={}, old_before_us=0) is None
