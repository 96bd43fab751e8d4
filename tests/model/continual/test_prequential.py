"""Tested on each event before it is learnt from, with what was visible then and nothing later."""

from collections.abc import Callable, Iterable, Sequence
from math import log2, sqrt

import numpy as np
import pytest

from model.continual.prequential import Figure, Prequential, judge_ahead
from model.inputs import Inputs
from model.sequences import Histories

Row = tuple[str, str, str, int]
DAY = 86_400


class Newest:
    """Puts the items in a fixed order: a first, then b, then c."""

    items: Sequence[str] = ("a", "b", "c")
    max_history = 10

    def scores(self, inputs: Inputs) -> np.ndarray:
        return np.tile(np.array([3.0, 2.0, 1.0], dtype=np.float32), (len(inputs.row_BL), 1))


def test_figures_by_hand(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    histories = histories_of(
        [
            ("u", "c", "view", 0),
            ("u", "a", "view", DAY + 5),  # rank 1
            ("u", "b", "view", 3 * DAY),  # rank 1 of what is left: a and c were seen
            ("v", "b", "view", DAY + 7),  # rank 2
            ("v", "z", "view", DAY + 9),  # unknown: a miss
            ("w", "a", "view", DAY + 1),  # not new
        ]
    )
    new_N = np.array([False, True, True, True, True, False])
    found = judge_ahead(Newest(), histories, new_N=new_N, cutoff_us=DAY * 1_000_000)
    assert found.overall.mean == pytest.approx((1 + 1 + 1 / log2(3) + 0) / 4)
    assert (found.overall.rows, found.known.rows) == (4, 3)
    assert found.known.mean == pytest.approx((1 + 1 + 1 / log2(3)) / 3)
    assert [(each.day, each.rows) for each in found.days] == [(0, 3), (2, 1)]
    assert found.days[0].ndcg == pytest.approx((1 + 1 / log2(3)) / 3)
    assert Prequential.from_json(found.as_json()) == found
    assert found.metrics()["prequential/ndcg@10/known"] == found.known.mean
    assert "| 2 | 1 | 1.0000 |" in found.markdown()


def test_late_events_are_no_test(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    histories = histories_of([("ü", "a", "view", 1), ("ü", "b", "view", 2), ("ü", "c", "view", 30)])
    found = judge_ahead(Newest(), histories, new_N=np.array([True, False, True]), cutoff_us=10_000_000)
    assert found.overall.rows == 1
    assert found.interval is None  # one user tells nothing of others
    assert found.overall.error is None
    nothing = judge_ahead(Newest(), histories, new_N=np.zeros(3, dtype=bool), cutoff_us=0)
    assert (nothing.overall.rows, nothing.days, nothing.markdown(), nothing.metrics()) == (0, (), "", {})
    assert (
        judge_ahead(
            Newest(),
            histories_of([("u", "a", "view", 1)]).keep(np.array([False])),
            new_N=np.zeros(0, dtype=bool),
            cutoff_us=0,
        )
        == nothing
    )


def test_the_sample_of_users_bounds_the_rows(histories_of: Callable[[Iterable[Row]], Histories]) -> None:
    histories = histories_of([(f"u{n}", item, "view", n) for n in range(9) for item in "ab"])
    whole = judge_ahead(Newest(), histories, new_N=np.ones(18, dtype=bool), cutoff_us=0)
    part = judge_ahead(Newest(), histories, new_N=np.ones(18, dtype=bool), cutoff_us=0, max_users=4)
    assert (whole.overall.rows, part.overall.rows) == (18, 8)


def test_figures_are_pooled_by_rows() -> None:
    pooled = Figure.pooled([Figure(0.2, 0.03, 100), Figure(0.5, 0.01, 300), Figure(0.9, None, 0)])
    assert pooled is not None
    assert pooled.mean == pytest.approx((100 * 0.2 + 300 * 0.5) / 400)
    assert pooled.error == pytest.approx(sqrt(3.0**2 + 3.0**2) / 400)  # 100 · .03, 300 · .01
    # without a figure of its own a part is as uncertain a row as the others: variance × 200 / 100, over 200 rows
    half = Figure.pooled([Figure(0.2, 0.03, 100), Figure(0.2, None, 100)])
    assert half is not None
    assert half.error == pytest.approx(sqrt(3.0**2 * 2) / 200)
    assert Figure.pooled([]) is None
    assert Figure.pooled([Figure(0.2, None, 3)]) == Figure(pytest.approx(0.2), None, 3)
    assert Figure.better(None, Figure(0.1, None, 1), Figure(0.3, None, 1)) == Figure(0.3, None, 1)
