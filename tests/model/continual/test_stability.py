"""What a challenger changes of lists and scores, by hand and against itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from model.continual.cohorts import freeze
from model.continual.stability import StabilityBounds, measure_stability
from model.evaluation import RankerRecommender
from model.fitted import Fitted
from model.inputs import Inputs
from model.sequences import Histories, Holdout

Row = tuple[str, str, str, int]


@dataclass(frozen=True)
class Fixed:
    """The same scores for everybody."""

    items: Sequence[str]
    score_V: tuple[float, ...]
    max_history: int = 5

    def scores(self, inputs: Inputs) -> np.ndarray:
        return np.tile(np.array(self.score_V, dtype=np.float32), (len(inputs.row_BL), 1))


@pytest.fixture
def holdout(histories_of: Callable[[Iterable[Row]], Histories]) -> Holdout:
    rows = [(f"u{user}", item, "view", at) for user in range(4) for at, item in enumerate(("a", "b", "z"))]
    found = freeze(histories_of(rows), trained={}, old_before_us=0)
    assert found is not None
    return found.holdout


def test_by_hand(holdout: Holdout) -> None:
    """All have seen a and b. Of c, d, e, z the best 2 were c, d; now they are c and the new n."""
    champion = Fixed(("a", "b", "c", "d", "e", "z"), (9, 9, 3, 2, 1, 0))
    challenger = Fixed(("a", "b", "c", "d", "e", "z", "n"), (9, 9, 3, 2, 1, 0, 5))
    found = measure_stability(champion=champion, challenger=challenger, holdout=holdout, k=2)
    assert (found.users, found.overlap, found.shift) == (4, 0.5, 0.0)  # {c, d} ∩ {n, c}
    assert (found.surge, found.surged) == (1.0, "n")


def test_shift_is_in_deviations_and_blind_to_a_constant(holdout: Holdout) -> None:
    champion = Fixed(("c", "d"), (1, -1))  # deviation 1
    found = measure_stability(champion=champion, challenger=Fixed(("c", "d"), (9, 5)), holdout=holdout)
    assert found.shift == pytest.approx(1.0)  # (9, 5) less their mean is (2, −2): each has moved by 1
    assert measure_stability(champion=champion, challenger=Fixed(("c", "d"), (8, 6)), holdout=holdout).shift == 0


def test_a_model_is_stable_against_itself(fitted: Fitted, cycle: Histories) -> None:
    found = freeze(cycle, trained={}, old_before_us=0)
    assert found is not None
    model = RankerRecommender.of(fitted)
    same = measure_stability(champion=model, challenger=model, holdout=found.holdout, k=3, batch=7)
    assert (same.users, same.overlap, same.shift, same.surge) == (40, 1.0, 0.0, 0.0)
    again = measure_stability(champion=model, challenger=model, holdout=found.holdout, k=3)
    assert again == same


def test_nothing_in_common(holdout: Holdout) -> None:
    found = measure_stability(champion=Fixed(("c",), (1,)), challenger=Fixed(("d",), (1,)), holdout=holdout)
    assert (found.overlap, found.shift) == (0.0, 0.0)


def test_breaches_name_the_setting(holdout: Holdout) -> None:
    found = measure_stability(champion=Fixed(("c",), (1,)), challenger=Fixed(("d",), (1,)), holdout=holdout)
    bounds = StabilityBounds(overlap=0.5, shift=1.0, surge=0.5, min_users=2, prefix="full_")
    said = found.breaches(bounds, k=10)
    assert [each.split("[forgetting] ")[1] for each in said] == ["full_overlap = 0.5", "full_surge = 0.5"]
    assert found.breaches(StabilityBounds(0.5, 1.0, 0.5, min_users=5), k=10) == ()


def test_no_rows(holdout: Holdout) -> None:
    model = Fixed(("c",), (1,))
    with pytest.raises(ValueError, match="no rows"):
        measure_stability(champion=model, challenger=model, holdout=holdout.keep(np.zeros(len(holdout), dtype=bool)))
