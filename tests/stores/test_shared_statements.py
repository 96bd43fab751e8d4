"""What two rooms must state alike, because neither may import the other."""

from gate.states import OPEN_STATES, STAGES, WATCHED_STATES, TrialState
from gate.trial import CHALLENGER, MOST_CHALLENGERS
from serving.choosing.bots import RATE_RULE
from stores import ledger_records
from stores.ledger_records import STATE_AFTER
from tasks.trial_plans import BOT_RULES


def test_a_trial_freezes_the_bot_rules_that_serving_applies() -> None:
    assert BOT_RULES == (RATE_RULE,)


def test_the_ledger_names_and_counts_challengers_as_the_gate_does() -> None:
    assert (ledger_records.CHALLENGER, ledger_records.MOST_CHALLENGERS) == (CHALLENGER, MOST_CHALLENGERS)


def test_every_stage_has_a_state_of_its_name_that_a_trial_may_begin_in() -> None:
    for mode in STAGES:
        assert TrialState.OFFLINE_OK.may_become(TrialState(mode.name))


def test_what_a_look_decides_is_a_legal_step_from_compare() -> None:
    for state in STATE_AFTER.values():
        assert state is None or TrialState.COMPARE.may_become(state)


def test_a_state_is_open_watched_promoted_before_the_trial_or_an_end() -> None:
    before = (TrialState.REGISTERED, TrialState.OFFLINE_OK)
    for state in TrialState:
        kinds = (state in OPEN_STATES, state in WATCHED_STATES, state in before, state is TrialState.PROMOTED)
        assert state.is_end is not any(kinds)
        assert sum(kinds) <= 1
