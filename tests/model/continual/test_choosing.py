"""What follows from which evidence, and what does not follow again an hour later."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.continual.choosing import Action, Evidence, RetrainOptions, State, decide
from model.continual.drift import Shift
from model.continual.prequential import Figure
from relations.errors import UsageError

OPTIONS = RetrainOptions()
GOOD = Evidence(
    events_version=7,
    parent=3,
    new_events=500,
    events=10_000,
    since_full=2_000,
    full_age_days=5.0,
    baseline=Figure(0.30, 0.01, 900),
    prequential=Figure(0.29, 0.01, 900),
    full_seconds=100.0,
    increment_seconds=8.0,
)
LOST = Figure(0.20, 0.01, 900)  # a third less, ten standard errors of .014
DRIFT = Shift("popularity", value=0.9, expected=0.1, critical=0.2, usual=0.1)


def action(evidence: Evidence, state: State | None = None) -> Action:
    return decide(evidence, options=OPTIONS, state=state or State()).action


def test_the_plain_cases() -> None:
    assert action(GOOD) is Action.INCREMENT
    assert action(replace(GOOD, full_age_days=None)) is Action.FULL
    assert action(replace(GOOD, full_age_days=28.0)) is Action.FULL
    assert action(replace(GOOD, new_events=0)) is Action.SKIP
    assert action(replace(GOOD, new_events=9)) is Action.SKIP  # 9 < .001 · 10,000
    assert action(replace(GOOD, new_events=10)) is Action.INCREMENT
    assert action(replace(GOOD, parent=None)) is Action.SKIP
    assert action(replace(GOOD, increment_seconds=101.0)) is Action.FULL
    assert action(replace(GOOD, forgotten=("old users",))) is Action.FULL
    old = decide(replace(GOOD, new_events=0, since_full=0, full_age_days=99.0), options=OPTIONS, state=State())
    assert (old.action, old.because) == (Action.SKIP, "no new events since the last full retrain")


def test_decay_with_drift_is_acted_on_at_once() -> None:
    found = decide(replace(GOOD, prequential=LOST, shifts=(DRIFT,)), options=OPTIONS, state=State())
    assert found.action is Action.FULL
    assert found.drifted
    assert found.because == "NDCG on new events is 33.3% below what it was, with drift of popularity"
    assert [each.measure for each in found.reasons if each.breached] == [
        "decay of NDCG on new events",
        "drift of popularity",
    ]
    assert "| drift of popularity | 0.7 | 0.25 | **drift** |" in found.markdown()  # .9 − .1 − .1
    json.dumps(found.as_json(), allow_nan=False)


def test_drift_that_the_models_follow_costs_nothing() -> None:
    state = State()
    for version in range(7, 12):
        found = decide(replace(GOOD, shifts=(DRIFT,), events_version=version), options=OPTIONS, state=state)
        assert found.action is Action.INCREMENT
        state = found.state
    assert state.drift == 5
    # with nothing to test on, or too little to be sure of the decay, the second sight of it counts
    for unsure in (None, Figure(0.2, 0.05, 30)):
        blind = replace(GOOD, shifts=(DRIFT,), prequential=unsure)
        first = decide(blind, options=OPTIONS, state=State())
        assert first.action is Action.INCREMENT
        assert action(replace(blind, events_version=8), first.state) is Action.FULL


def test_decay_alone_is_confirmed_on_other_events() -> None:
    worse = replace(GOOD, prequential=LOST)
    first = decide(worse, options=OPTIONS, state=State())
    assert first.action is Action.INCREMENT
    assert "waiting for a second look" in first.because
    assert action(worse, first.state) is Action.INCREMENT  # the same events confirm nothing
    assert action(replace(worse, events_version=8), first.state) is Action.FULL
    # about the threshold the streak holds, below its half it ends
    about = decide(
        replace(GOOD, prequential=Figure(0.28, 0.01, 900), events_version=8), options=OPTIONS, state=first.state
    )
    assert about.state.decay == 1
    mended = decide(replace(GOOD, events_version=8), options=OPTIONS, state=first.state)
    assert mended.state.decay == 0


def test_noise_is_no_decay() -> None:
    few = Figure(0.20, 0.05, 30)
    assert not replace(GOOD, prequential=few).decayed(OPTIONS)  # .1 < 2.33 · .051
    assert not replace(GOOD, prequential=Figure(0.20, None, 1)).decayed(OPTIONS)
    small = Shift("popularity", value=0.9, expected=0.5, critical=1.0, usual=0.0)
    assert not small.beyond(0.25)
    assert replace(GOOD, baseline=Figure(0.0, 0.0, 5)).decay is None


def test_one_drift_is_one_retrain() -> None:
    """Hourly decisions while new events are still unlike what came before the retrain."""
    bad = replace(GOOD, prequential=LOST, shifts=(DRIFT,))
    fulls, state, age = 0, State(), 5.0
    for hour in range(24):
        found = decide(replace(bad, full_age_days=age, events_version=8 + hour), options=OPTIONS, state=state)
        state, age = found.state, age + 1 / 24
        if found.action is Action.FULL:
            fulls, age = fulls + 1, 0.0
        elif fulls:
            assert found.because.endswith("and cooling down")
    assert fulls == 1


EVIDENCE = st.builds(
    Evidence,
    events_version=st.integers(0, 9),
    parent=st.none() | st.integers(1, 5),
    new_events=st.integers(0, 50),
    events=st.integers(1, 9_000),
    since_full=st.integers(0, 90),
    full_age_days=st.none() | st.floats(0, 60),
    baseline=st.none() | st.builds(Figure, st.floats(0, 1), st.none() | st.floats(0, 0.1), st.integers(0, 9)),
    prequential=st.none() | st.builds(Figure, st.floats(0, 1), st.none() | st.floats(0, 0.1), st.integers(0, 9)),
    shifts=st.sampled_from([(), (DRIFT,)]),
    forgotten=st.sampled_from([(), ("tail",)]),
    full_seconds=st.none() | st.floats(0, 99),
    increment_seconds=st.none() | st.floats(0, 99),
)


@given(EVIDENCE, st.builds(State, st.integers(0, 3), st.integers(0, 3), st.integers(-1, 9)))
def test_laws(evidence: Evidence, state: State) -> None:
    found = decide(evidence, options=OPTIONS, state=state)
    assert found == decide(evidence, options=OPTIONS, state=state)
    assert found.because
    assert State(**json.loads(json.dumps(asdict(found.state)))) == found.state
    if found.action is Action.INCREMENT:
        assert evidence.new_events
        assert evidence.parent is not None
    cooling = evidence.full_age_days is not None and evidence.full_age_days < OPTIONS.cool_down_days
    assert not (cooling and found.action is Action.FULL)
    assert found.markdown().count("\n| ") == len(found.reasons) + 1


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="alpha = 1 is not in"):
        RetrainOptions(alpha=1)
