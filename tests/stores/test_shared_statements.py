"""What two rooms must state alike, because neither may import the other.

The ledger's states of a trial are the gate's, and it takes no step that the gate's machine forbids."""

from gate.trial import TrialState as GateState
from serving.bots import RATE_RULE
from stores.ledger_records import OPEN_STATES, STATE_AFTER, TrialState
from tasks.trials import BOT_RULES


def test_a_trial_freezes_the_bot_rules_that_serving_applies() -> None:
    assert BOT_RULES == (RATE_RULE,)


def test_each_state_of_the_ledger_is_one_of_the_gates() -> None:
    assert {state.value for state in TrialState} <= {state.value for state in GateState}


def test_what_a_look_decides_is_a_legal_step_from_compare() -> None:
    for state in STATE_AFTER.values():
        assert state is None or GateState.COMPARE.may_become(GateState(state.value))


def test_open_states_lead_on_and_all_others_but_promoted_are_ends() -> None:
    for state in TrialState:
        is_open = state in OPEN_STATES
        assert GateState(state.value).is_end is (not is_open and state is not TrialState.PROMOTED)
