from typing import Any

import pytest

from model.objectives.options import ObjectiveOptions, Robust, TaskWeighting
from model.objectives.rating import RatingLoss
from relations.errors import UsageError
from stores.learning_settings import ObjectiveSettings


def test_names_become_kinds() -> None:
    options = ObjectiveOptions(rating_loss="huber", task_weighting="uncertainty", robust="truncate")  # type: ignore[arg-type]
    assert options.rating_loss is RatingLoss.HUBER
    assert options.task_weighting is TaskWeighting.UNCERTAINTY
    assert options.robust is Robust.TRUNCATE


def test_the_settings_have_the_same_names_and_defaults() -> None:
    assert ObjectiveOptions(**ObjectiveSettings().model_dump()) == ObjectiveOptions()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masked_share": 1.5}, r"\[objective\] masked_share = 1.5 is above 1"),
        ({"self_supervised": 2.0}, r"\[objective\] self_supervised = 2.0 is above 1"),
        ({"adversarial_epsilon": -1.0}, r"\[objective\] adversarial_epsilon = -1.0 is below 0"),
        ({"rating_weight": float("nan")}, r"\[objective\] rating_weight = nan"),
        ({"behaviour_weights": {"buy": 1.0}}, r"'buy' is not a behaviour; known: view, click"),
        ({"behaviour_weights": {"view": -1.0}}, r"view = -1.0 is below 0"),
        ({"rating_behaviour": "stars"}, r"'stars' is not a behaviour"),
        ({"self_supervised": 0.5, "masked_weight": 0.0, "contrastive_weight": 0.0}, r"are all 0"),
        ({"contrastive_temperature": 0.0}, r"contrastive_temperature = 0"),
    ],
)
def test_what_no_objective_can_be_made_of(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ObjectiveOptions(**wrong)
