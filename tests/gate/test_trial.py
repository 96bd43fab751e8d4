import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gate.metrics import Better, Metric, Slice
from gate.states import OPEN_STATES, TRANSITIONS, WATCHED_STATES, TrialMode, TrialState
from gate.trial import Challenger, StagePlan, TrialConfig, canonical
from relations.errors import UsageError
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
    guardrails=(
        Metric("dislikes", "dislike", better=Better.LOWER),
        Metric("worth", "weighted", weights=(("click", 1.0), ("dislike", -5.0))),
    ),
    slices=(Slice("newcomers", by="new", equals="true", protected=True),),
    others=(Challenger("challenger-2", 3, "c" * 64),),
    stages=(StagePlan(TrialMode.CANARY, share=0.01, hours=6), StagePlan(TrialMode.COMPARE)),
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


def test_a_trial_frozen_before_there_were_caps_keeps_its_hash():
    """Recorded when metrics had no cap: neither the key nor its absence may move it."""
    assert CONFIG.digest() == "8b964c513bd4ec97575154a88ee4380c78da16067bbc818f6728cfd461cd0e08"
    assert "cap" not in CONFIG.as_json()["primary"]
    capped = replace(CONFIG, primary=replace(CONFIG.primary, cap=100.0))
    assert capped.digest() != CONFIG.digest()
    assert TrialConfig.from_json(json.loads(canonical(capped.as_json()))) == capped


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
        ({"primary": Metric("clicks", "click", better=Better.LOWER)}, "more is better"),
        ({"guardrails": (Metric("clicks", "click"),)}, "repeat"),
        (
            {"guardrails": (Metric("carts", "cart", window_hours=48),)},
            "carts: window_hours 48 is longer than the trial's 24",
        ),
        ({"guardrails": (Metric("back", "return", per="user"),)}, "back: after_hours 24 must be below"),
        ({"minimum_days": 15}, "minimum_days = 15"),
        ({"slices": tuple(Slice(f"s{n}", by="surface", equals=str(n)) for n in range(11))}, "at most 10"),
        ({"slices": (Slice("s", by="surface", equals="a"),) * 2}, "each name once"),
        ({"others": (Challenger("challenger-3", 3, "c" * 64),)}, "challenger-2, challenger-3"),
        ({"others": (Challenger("challenger-2", 3, "b" * 64),)}, "one bundle twice"),
        ({"others": (Challenger("challenger-2", 3, "a" * 64),)}, "needs another bundle than the champion's"),
        ({"others": (), "is_aa": True}, "has the champion as its one challenger"),
        ({"allocation": 0.0001}, "leaves an arm without users"),
        ({"stages": (StagePlan(TrialMode.COMPARE), StagePlan(TrialMode.SHADOW))}, "end with compare"),
        ({"stages": (StagePlan(TrialMode.SHADOW),)}, "end with compare"),
        (
            {
                "primary": Metric("variety", "distinct"),
                "stages": (StagePlan(TrialMode.INTERLEAVE, share=0.2), StagePlan(TrialMode.COMPARE)),
            },
            "distinct names no item, .*leave the stage interleave out",
        ),
        ({"stages": (StagePlan(TrialMode.KILLED), StagePlan(TrialMode.COMPARE))}, "end with compare"),
        ({"stages": ()}, "stages none"),
    ],
)
def test_impossible_trials_are_refused_by_name(edit, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        replace(CONFIG, **edit)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"outcome": "clicked"}, "outcome 'clicked'"),
        ({"per": "session"}, "per 'session'"),
        ({"outcome": "return"}, "needs per = 'user'"),
        ({"outcome": "latency", "per": "user"}, "per must be 'impression'"),
        ({"outcome": "weighted"}, "outcome 'weighted' and weights belong together"),
        ({"weights": (("click", 1.0),)}, "outcome 'weighted' and weights belong together"),
        ({"outcome": "weighted", "weights": (("clicked", 1.0),)}, "weights of clicked"),
        ({"margin": 1.0}, "margin 1.0"),
        ({"absolute": -0.1}, "absolute margin -0.1"),
        ({"window_hours": 0.0}, "window_hours 0.0"),
        ({"outcome": "return", "per": "user", "window_hours": 12.0}, "after_hours 24.0 must be below"),
        ({"cap": 0.0}, "cap 0.0 must be above 0"),
        ({"cap": float("inf")}, "cap inf must be above 0 and finite"),
        ({"outcome": "latency", "cap": 5.0}, "latency has no tail of users' own doing; leave cap out"),
        ({"outcome": "return", "per": "user", "cap": 1.0}, "return has no tail"),
    ],
)
def test_impossible_metrics_are_refused_by_name(stated, words):
    with pytest.raises(UsageError, match=f"metric m: .*{words}"):
        Metric(**{"name": "m", "outcome": "click", **stated})


@pytest.mark.parametrize(
    ("by", "equals", "words"),
    [("country", "de", "by 'country'"), ("context.", "x", "by 'context.'"), ("new", "yes", "equals 'yes'")],
)
def test_impossible_slices_are_refused_by_name(by, equals, words):
    with pytest.raises(UsageError, match=f"slice s: {words}"):
        Slice("s", by=by, equals=equals)


def test_users_split_over_the_arms_as_buckets_do():
    alone = replace(CONFIG, others=())
    assert alone.shares == (0.5, 0.5)
    assert alone.pair("challenger") == (0.5, 0.5)
    three = replace(CONFIG, others=(*CONFIG.others, Challenger("challenger-3", 4, "d" * 64)), allocation=0.4)
    # 4,000 treated buckets: 0, 3, … are 1,334 of them, the two other rests 1,333 each.
    assert three.shares == (0.6, 0.1334, 0.1333, 0.1333)
    assert three.pair("challenger-2") == pytest.approx((6_000 / 7_333, 1_333 / 7_333))
    assert three.arms == ("champion", "challenger", "challenger-2", "challenger-3")
    assert (three.alpha_each, three.harm_alpha_each) == (0.025 / 3, 0.01 / 3)


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
    for needed in (TrialState.COMPARE, TrialState.AWAIT_APPROVAL):
        assert not reaches(start, goal, without=(needed,))
        assert not reaches(start, TrialState.PROMOTING, without=(needed,))
    for state in TrialState:
        assert reaches(start, state, without=())


def test_the_ledger_hashes_the_same_text():
    assert sha256(canonical_json(CONFIG.as_json(), what="trial.json")) == CONFIG.digest()


def test_ends_are_ends():
    ends = {state for state in TrialState if state.is_end}
    assert ends == {
        *(TrialState.REJECTED, TrialState.ABORTED, TrialState.EXPIRED),
        *(TrialState.INCONCLUSIVE, TrialState.STALE, TrialState.ROLLED_BACK),
    }
    assert not ends & {*OPEN_STATES, *WATCHED_STATES}
    assert TrialState.AWAIT_APPROVAL.may_become(TrialState.STALE)
    assert not TrialState.INCONCLUSIVE.may_become(TrialState.AWAIT_APPROVAL)
