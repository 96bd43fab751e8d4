import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gate.trial import TRANSITIONS, Better, Metric, TrialConfig, TrialState, canonical
from relations.errors import UsageError
from stores.ledger_records import TrialState as LedgerState
from stores.ledger_records import canonical_json, sha256

START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = TrialConfig(
    trial_id="trial-1",
    challenger_version=2,
    challenger_digest="b" * 64,
    champion_version=1,
    champion_digest="a" * 64,
    champion_epoch=1,
    salt="salt",
    start=START,
    deadline=START + timedelta(days=14),
    n_max=4_000,
    primary=Metric("clicks", "click"),
    guardrails=(Metric("dislikes", "dislike", better=Better.LOWER),),
    bot_rules=("more than 500 requests an hour",),
)


def test_it_survives_json():
    text = canonical(CONFIG.as_json())
    assert TrialConfig.from_json(json.loads(text)) == CONFIG
    assert TrialConfig.from_json(json.loads(text)).digest() == CONFIG.digest()


def test_the_canonical_text_is_sorted_and_tight():
    assert canonical({"b": 1, "a": ["ü", 0.1]}) == '{"a":["ü",0.1],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


@pytest.mark.parametrize(
    "edit",
    [
        {"alpha": 0.05},
        {"n_max": 4_001},
        {"deadline": START + timedelta(days=15)},
        {"guardrails": ()},
        {"bot_rules": ()},
    ],
)
def test_any_edit_changes_the_hash(edit):
    assert replace(CONFIG, **edit).digest() != CONFIG.digest()


def test_the_same_instant_in_another_zone_is_the_same_promise():
    elsewhere = replace(CONFIG, start=datetime.fromisoformat("2026-03-01T02:00:00+02:00"))
    assert elsewhere.digest() == CONFIG.digest()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"allocation": 1.0}, "allocation = 1.0"),
        ({"deadline": START}, "deadline"),
        ({"start": datetime(2026, 3, 1)}, "zone"),  # noqa: DTZ001 -- the point of the case
        ({"n_max": 100}, "n_max = 100"),
        ({"min_users": 0}, "min_users = 0"),
        ({"alpha": 0.7}, "alpha = 0.7"),
        ({"primary": Metric("clicks", "clicked")}, "clicked"),
        ({"primary": Metric("clicks", "click", better=Better.LOWER)}, "more is better"),
        ({"guardrails": (Metric("clicks", "click"),)}, "repeat"),
        ({"guardrails": (Metric("carts", "cart", margin=1.0),)}, "margin 1.0"),
    ],
)
def test_impossible_trials_are_refused_by_name(edit, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        replace(CONFIG, **edit)


def test_an_edited_file_is_refused():
    stated = CONFIG.as_json()
    with pytest.raises(UsageError, match="salt"):
        TrialConfig.from_json({key: value for key, value in stated.items() if key != "salt"})
    with pytest.raises(UsageError, match="extra"):
        TrialConfig.from_json({**stated, "extra": 1})
    with pytest.raises(UsageError, match="spend"):
        TrialConfig.from_json({**stated, "spending": "spend it all"})


def test_every_way_to_promoted_passes_a_comparison_and_an_approval():
    def reaches(state, goal, without):
        seen, open_states = set(), [state]
        while open_states:
            here = open_states.pop()
            if here == goal:
                return True
            if here not in seen and here not in without:
                seen.add(here)
                open_states.extend(TRANSITIONS[here])
        return False

    start, goal = TrialState.REGISTERED, TrialState.PROMOTED
    assert reaches(start, goal, without=())
    for needed in (TrialState.COMPARE, TrialState.AWAIT_APPROVAL, TrialState.PROMOTING):
        assert not reaches(start, goal, without=(needed,))
    for state in TrialState:
        assert reaches(start, state, without=())


def test_the_ledger_hashes_the_same_text_and_knows_no_other_state():
    assert sha256(canonical_json(CONFIG.as_json(), what="trial.json")) == CONFIG.digest()
    assert {state.value for state in LedgerState} <= {state.value for state in TrialState}


def test_ends_are_ends():
    ends = {state for state in TrialState if state.is_end}
    assert ends == {
        *(TrialState.REJECTED, TrialState.ABORTED, TrialState.EXPIRED),
        *(TrialState.INCONCLUSIVE, TrialState.STALE, TrialState.ROLLED_BACK),
    }
    assert TrialState.AWAIT_APPROVAL.may_become(TrialState.STALE)
    assert not TrialState.INCONCLUSIVE.may_become(TrialState.AWAIT_APPROVAL)
