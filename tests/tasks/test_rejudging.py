"""Decisions made again from the record: the same to the last bit, or they are not carried out."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gate.states import TrialState
from relations.errors import GateRefused
from stores.ledger import Ledger
from stores.ledger_records import EvidenceRecord, TrialRecord, VersionRecord
from tasks.rejudging import check_again, compared_looks, replay

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in (1, 2, 3):
        made.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    return made


@pytest.fixture
def waiting(ledger: Ledger, passing_trial: Callable[..., str], look_again: Callable[..., str]) -> TrialRecord:
    """Three looks: CONTINUE, CONTINUE, PROMOTE."""
    passing_trial(ledger, "t1", challenger=2, actor="bob", now=T0, looks=False)
    for day, rate in enumerate((0.1, 0.101, 0.2), start=1):
        look_again(ledger, "t1", now=T0 + day * DAY, rate=rate)
    return ledger.trial("t1")


def edited(record: TrialRecord, number: int, **changed: Any) -> TrialRecord:
    """As if somebody had written another look into the tables."""
    looks = list(record.evidence)
    look = looks[number - 1]
    looks[number - 1] = replace(
        look, evidence={**look.evidence, **changed}, decision=changed.get("decision", look.decision)
    )
    return replace(record, evidence=tuple(looks))


def test_every_look_comes_out_as_it_was_recorded(waiting: TrialRecord) -> None:
    assert [look.decision for look in waiting.evidence] == ["CONTINUE", "CONTINUE", "PROMOTE"]
    assert len(compared_looks(waiting)) == 3
    assert replay(waiting) == ()
    assert check_again(waiting) == waiting.evidence[-1].sha256


@pytest.mark.parametrize(
    ("number", "key", "value"),
    [
        (1, "decision", "PROMOTE"),
        (2, "z", 2.5),
        (2, "reasons", ["because"]),
        (3, "verdict", "REJECT"),
        (3, "boundary", 1.0),
        (3, "srm_p", 1e-9),
        (3, "guardrails", []),
    ],
)
def test_what_was_written_otherwise_is_named(waiting: TrialRecord, number: int, key: str, value: Any) -> None:
    found = replay(edited(waiting, number, **{key: value}))
    assert [(each.trial, each.look, each.key) for each in found] == [("t1", number, key)]
    assert f"look {number}: {key} is " in str(found[0])
    with pytest.raises(GateRefused, match=rf"look {number}: {key} is .* does not follow from what is on record"):
        check_again(edited(waiting, number, **{key: value}))


def test_the_last_bit_counts(waiting: TrialRecord) -> None:
    z = waiting.evidence[-1].evidence["z"]
    (found,) = replay(edited(waiting, 3, z=z * (1 + 2**-52)))
    assert found.key == "z"
    assert replay(edited(waiting, 3, look=3.0)) != (), "3.0 is not 3"


def test_sums_that_were_changed_change_what_follows(waiting: TrialRecord) -> None:
    sums = dict(waiting.evidence[1].evidence["sums"])
    found = replay(edited(waiting, 2, sums={**sums, "crossed": 9_000}))
    assert {each.look for each in found} == {2}
    assert {"verdict", "decision", "crossed"} <= {each.key for each in found}


def test_a_promotion_against_a_broken_split_is_refused_though_it_is_recorded_as_promote(
    ledger: Ledger, waiting: TrialRecord
) -> None:
    """As somebody would write it who can call the ledger and not the gate: the sums say HOLD."""
    latest = waiting.evidence[-1].evidence
    forged = {**latest, "sums": {**latest["sums"], "crossed": 9_000, "problems": []}, "look": 4}
    ledger.record_evidence("t1", forged, now=T0 + 4 * DAY)
    record = ledger.trial("t1")
    assert (record.state, record.decision) == (TrialState.AWAIT_APPROVAL, "PROMOTE")
    with pytest.raises(GateRefused, match=r"look 4: .* does not follow from what is on record"):
        check_again(record)


def test_a_guardrail_that_does_not_hold_is_no_promotion(ledger: Ledger, waiting: TrialRecord) -> None:
    latest = waiting.evidence[-1].evidence
    carts = [
        {**row, "s": row["s"] / 2} if row["arm"] == "challenger" else row for row in latest["sums"]["metrics"]["carts"]
    ]
    sums = {**latest["sums"], "metrics": {**latest["sums"]["metrics"], "carts": carts}}
    ledger.record_evidence("t1", {**latest, "sums": sums, "look": 4}, now=T0 + 4 * DAY)
    with pytest.raises(GateRefused, match=r"guardrails is|verdict is"):
        check_again(ledger.trial("t1"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda record: replace(record, config={}), "config"),
        (lambda record: replace(record, config={**record.config, "alpha": 0.2}), "config"),
        (lambda record: replace(record, config={**record.config, "primary": 3}), "config"),
        (lambda record: edited(record, 1, sums=None), "sums"),
        (lambda record: edited(record, 2, sums={}), "sums"),
        (lambda record: edited(record, 3, sums={"watermark": 1}), "sums"),
    ],
)
def test_what_cannot_be_made_again_is_a_difference(
    waiting: TrialRecord, change: Callable[[TrialRecord], TrialRecord], key: str
) -> None:
    assert [each.key for each in replay(change(waiting))] == [key]


def test_looks_before_the_comparison_are_not_made_again(waiting: TrialRecord) -> None:
    early = EvidenceRecord(0, "0" * 64, "CONTINUE", T0, {"stage": "shadow", "decision": "CONTINUE"})
    record = replace(waiting, evidence=(early, *waiting.evidence))
    assert replay(record) == ()
    assert replay(replace(record, evidence=(early,))) == ()
    with pytest.raises(GateRefused, match="look 0 says CONTINUE; only PROMOTE is approved"):
        check_again(replace(record, evidence=(early,)))
    with pytest.raises(GateRefused, match="has no look yet"):
        check_again(replace(record, evidence=()))
