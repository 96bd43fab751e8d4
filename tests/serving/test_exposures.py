"""Exposure lines are JSON put together by hand: whatever was shown has to come back as it was."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from serving.choosing.candidates import Candidates
from serving.choosing.exposures import exposure_lines
from serving.choosing.slots import Shown

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=4)  # half characters too: JSON may state them


@given(
    items=st.lists(ANY_TEXT, max_size=3),
    surface=ANY_TEXT,
    score=st.floats(allow_nan=False, allow_infinity=False),
    propensity=st.floats(0, 1),
    explored=st.booleans(),
)
def test_a_line_says_all_of_a_slot(
    items: list[str], surface: str, score: float, propensity: float, explored: bool
) -> None:
    chosen = Candidates(items, [score] * len(items), 3, "d" * 64, "onnxruntime/CPU", "greedy", "5e7")
    slots = [Shown(chosen, place, propensity, explored, "greedy") for place in range(len(items))]
    lines = list(exposure_lines({"request_id": "r", "surface": surface, "error": None}, slots))
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert [json.loads(line) for line in lines] == [
        {
            "request_id": "r",
            "surface": surface,
            "error": None,
            "policy": "greedy",
            "model_version": 3,
            "digest": "d" * 64,
            "served_by": "onnxruntime/CPU",
            "candidate_set_hash": "5e7",
            "exposure_id": f"r:{position}",
            "item_id": item,
            "position": position,
            "propensity": propensity,
            "score": score,
            "explored": explored,
        }
        for position, item in enumerate(items, start=1)
    ]
    assert all(math.copysign(1, json.loads(line)["score"]) == math.copysign(1, score) for line in lines)
