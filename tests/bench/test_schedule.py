"""The replay of schedules, in a small world of walks that models learn at once."""

import numpy as np
import pytest

from bench.schedule import Policy, Replay
from bench.schedule_worlds import Sessions, drawn
from model.continual.choosing import Action

WALKS = Sessions.synthetic(count=1_500, items=40)


def test_no_drift_no_retrain() -> None:
    found = Replay(drawn(WALKS, periods=4, size=250, seed=1), Policy.EVIDENCE).run()
    assert [each.action for each in found.decisions] == [Action.INCREMENT] * 4


@pytest.mark.parametrize("drift", ["popularity", "catalogue"])
def test_planted_drift_is_met_within_two_periods(drift: str) -> None:
    found = Replay(drawn(WALKS, periods=3, size=250, seed=1, drift=drift, at=1), Policy.EVIDENCE).run()
    assert found.fulls[0] in (1, 2)


def test_worlds_are_what_they_say() -> None:
    plain, other, new = (
        drawn(WALKS, periods=2, size=50, seed=1, drift=kind, at=1) for kind in ("", "relations", "catalogue")
    )
    assert not any(item.startswith("new-") for period in plain.periods for item in period.items)
    assert 0.2 < np.mean([item.startswith("new-") for item in new.periods[1].items]) < 0.8
    assert not any(item.startswith("new-") for item in new.periods[0].items)
    assert set(other.periods[1].items) <= {f"i{code:04d}" for code in range(40)}
    assert all((np.diff(period.time_N)[np.diff(period.user_N()) == 0] > 0).all() for period in other.periods)
