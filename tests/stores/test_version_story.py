"""What MLflow is to say of each version of a trial, whatever became of it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gate.states import TrialMode, TrialState
from stores.ledger_records import ChallengerRecord, EvidenceRecord, Reign, StageRecord, TrialRecord, VersionRecord
from stores.version_story import MOST, description, gate_tags

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = Reign(1, 1, "d1", T0, "bootstrap", "ann", "the first", None)
COMPARISONS = {
    "challenger": {"verdict": "CONTINUE", "reasons": ["z = 1.00 is below 2.00"], "lift": 0.01, "matured": [50, 25]},
    "challenger-2": {
        "verdict": "PROMOTE", "reasons": ["z = 3.00 reaches 2.00"], "lift": 0.125, "lift_interval": [0.05, 0.2],
        "matured": [50, 30],
    },
}  # fmt: skip


def version(number: int, *, passed: bool = True) -> VersionRecord:
    return VersionRecord(number, f"d{number}", "full", None, 1, 1, 0, passed, {}, "run", T0, "checkpoint")


def trial(state: TrialState, evidence: Mapping[str, Any] | None = None, **changed: Any) -> TrialRecord:
    """v2, v3 and v4 against v1."""
    looks = () if evidence is None else (EvidenceRecord(4, "f" * 64, str(evidence["verdict"]), T0, evidence),)
    stated: dict[str, Any] = {
        "id": "t9", "surface": "default", "state": state, "challenger": 2, "challenger_digest": "d2", "champion": 1,
        "champion_digest": "d1", "champion_epoch": 1, "config": {"primary": {"name": "clicks"}}, "config_hash": "h",
        "salt": "s", "allocation": 0.5, "submitter": "bob", "opened": T0, "changed": T0, "awaiting_since": None,
        "offline_worse": False, "decided_by": "", "reason": "", "promoted_epoch": None, "looks": 4, "evidence": looks,
        "others": (ChallengerRecord("challenger-2", 3, "d3"), ChallengerRecord("challenger-3", 4, "d4")),
    }  # fmt: skip
    return TrialRecord(**{**stated, **changed})


def promoting(state: TrialState, **changed: Any) -> TrialRecord:
    evidence = {
        **COMPARISONS["challenger-2"], "challenger": "challenger-2", "comparisons": COMPARISONS, "stage": "compare",
        "reasons": ["challenger-2 (v3): z = 3.00 reaches 2.00"],
    }  # fmt: skip
    return trial(state, evidence, out=("challenger-3",), **changed)


def test_each_of_several_challengers_has_its_own() -> None:
    found = {
        n: gate_tags(version(n), trials=(promoting(TrialState.AWAIT_APPROVAL),), history=(FIRST,)) for n in (2, 3, 4)
    }
    assert found[3] == {
        "gate.state": "AWAIT_APPROVAL", "gate.trial": "t9", "gate.stage": "compare", "gate.evidence": "f" * 64,
        "gate.decision": "PROMOTE", "gate.lift": "+0.1250", "gate.interval": "[+0.0500, +0.2000]", "gate.users": "80",
        "gate.reason": "z = 3.00 reaches 2.00",
    }  # fmt: skip
    shown = ("gate.state", "gate.decision", "gate.lift", "gate.users", "gate.reason")
    assert [found[2][name] for name in shown] == ["COMPARE", "CONTINUE", "+0.0100", "75", "z = 1.00 is below 2.00"]
    assert found[4]["gate.state"] == "REJECTED"
    assert found[4]["gate.reason"] == "rejected by an earlier look"
    assert "gate.lift" not in found[4]


def test_who_was_not_chosen_is_told_so() -> None:
    reign = Reign(2, 3, "d3", T0 + timedelta(days=3), "promote", "ann", "good", "t9")
    done = promoting(TrialState.PROMOTED, decided_by="ann", reason="good", promoted_epoch=2)
    told = {n: description(version(n), trials=(done,), history=(FIRST, reign)) for n in (1, 2, 3, 4)}
    assert told[3] == (
        "Champion since 2026-01-04 00:00 UTC (epoch 2): ann approved it (good). t9, look 4, PROMOTE: clicks +12.50% "
        "[+5.00%, +20.00%] over 80 users; z = 3.00 reaches 2.00."
    )
    assert told[2].startswith(
        "Not champion: t9 promoted another challenger. t9, look 4, CONTINUE: clicks +1.00% over 75"
    )
    assert told[4] == "Not champion: t9 rejected it at an earlier look."
    assert told[1] == "Not champion any more: v3 was approved on 2026-01-04 00:00 UTC (ann: good)."
    tags = gate_tags(version(2), trials=(done,), history=(FIRST, reign))
    assert tags["gate.state"] == "NOT_CHOSEN"
    watched = promoting(TrialState.BAKING, decided_by="ann", reason="good")
    assert description(version(3), trials=(watched,), history=(FIRST, reign)).endswith(" still being watched.")


@pytest.mark.parametrize(
    ("state", "by", "said", "reason"),
    [
        (TrialState.REJECTED, "gate", "t9 rejected it. t9, look 4, REJECT: clicks -9.00%", "proven harm"),
        (TrialState.REJECTED, "eve", "t9 rejected it by eve (it looks odd).", "it looks odd"),
        (TrialState.ABORTED, "eve", "t9 was stopped by eve (it looks odd).", "it looks odd"),
        (TrialState.INCONCLUSIVE, "gate", "t9 ended without an answer.", "proven harm"),
        (TrialState.EXPIRED, "gate", "t9 would have promoted it, and nobody answered in time.", "proven harm"),
        (TrialState.STALE, "gate", "t9 was overtaken by another change of the champion.", "proven harm"),
        (TrialState.AWAIT_APPROVAL, "", "t9 would promote it, and waits for a person's approval.", "proven harm"),
        (TrialState.COMPARE, "", "t9 is still trying it, at the stage compare.", "proven harm"),
    ],
)  # fmt: skip
def test_why_a_version_is_not_champion(state: TrialState, by: str, said: str, reason: str) -> None:
    """The gate's sentence where the gate decided, a person's where a person did."""
    evidence = {"verdict": "REJECT", "reasons": ["proven harm"], "lift": -0.09, "matured": [5, 4], "stage": "compare"}
    one = trial(state, evidence, others=(), decided_by=by, reason="it looks odd" if by else "")
    told = description(version(2), trials=(one,), history=(FIRST,))
    assert told.startswith(f"Not champion: {said}")
    assert told.endswith("; proven harm.")
    assert gate_tags(version(2), trials=(one,), history=(FIRST,))["gate.reason"] == reason


def test_an_early_stage_is_named_and_an_aa_trial_says_nothing_of_the_version() -> None:
    stage = StageRecord("t9", 1, TrialMode.SHADOW, 0.0, T0, "gate", "first")
    early = trial(TrialState.SHADOW, {"verdict": "CONTINUE", "reasons": ["so far"], "stage": "shadow"}, stages=(stage,))
    tags = gate_tags(version(2), trials=(early,), history=(FIRST,))
    assert (tags["gate.stage"], tags["gate.state"], tags["gate.reason"]) == ("shadow", "SHADOW", "so far")
    assert "at the stage shadow. t9, look 4, CONTINUE; so far." in description(version(2), trials=(early,), history=())
    rehearsal = trial(TrialState.INCONCLUSIVE, others=(), challenger=1, challenger_digest="d1")
    assert gate_tags(version(1), trials=(rehearsal,), history=(FIRST,)) == {
        "gate.state": "BOOTSTRAP",
        "approved_by": "ann",
    }


def test_words_are_one_line_of_a_readable_length_and_no_key_is_needed() -> None:
    long = trial(TrialState.REJECTED, {"verdict": "REJECT", "reasons": ["a\n b " * 999]}, decided_by="gate", others=())
    reason = gate_tags(version(2), trials=(long,), history=(FIRST,))["gate.reason"]
    assert len(reason) == MOST
    assert reason.startswith("a b a b")
    bare = trial(TrialState.REJECTED, {"verdict": "REJECT", "reasons": None, "lift": None, "matured": None}, others=())
    assert description(version(2), trials=(bare,), history=()) == "Not champion: t9 rejected it. t9, look 4, REJECT."
    assert description(version(7), trials=(bare,), history=()).startswith("Not champion: it passed the offline check")
