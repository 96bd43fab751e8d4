"""Standing approvals: what they allow, what they refuse, and how they end."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.standing_records import DeltaFacts, DeltaLimits, StandingRecord

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASE, RECIPE = f"{1:064x}", "r" * 64
LIMITS = DeltaLimits(deltas=3, rows=100, relative_change=0.5, overlap=0.8)


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    """Version 1 is the champion, version 2 descends from it."""
    made = Ledger(ledger_url)
    for number in (1, 2):
        made.record_version(
            VersionRecord(
                number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "", submitter="tom"
            )
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    return made


def allow(ledger: Ledger, **stated: Any) -> StandingRecord:
    given = {"recipe": RECIPE, "limits": LIMITS, "expires": T0 + 24 * HOUR, "actor": "ann", "reason": "sale", "now": T0}
    return ledger.allow_deltas(**(given | stated))


def delta(sequence: int = 1, **stated: Any) -> DeltaFacts:
    given = {"digest": f"{sequence:064d}", "base_digest": BASE, "sequence": sequence, "recipe": RECIPE, "rows": 10}
    return DeltaFacts(**({"bytes": 5_000_000_000, "relative_change": 0.1} | given | stated))


def test_deltas_under_a_standing_approval_until_it_is_withdrawn(ledger: Ledger) -> None:
    assert (ledger.standing(now=T0), ledger.serving_state().delta) == (None, None)
    granted = allow(ledger)
    assert (granted.number, granted.version, granted.base_digest, granted.champion_epoch) == (1, 1, BASE, 1)
    assert allow(ledger) == granted, "the same again is the same answer"
    assert ledger.serving_state().delta is None, "allowed, and none there yet"
    for sequence in (1, 3):
        ledger.record_delta(delta(sequence), now=T0 + HOUR)
    standing = ledger.record_delta(delta(3), now=T0 + HOUR)
    assert standing.deltas == (delta(1), delta(3))
    assert ledger.standing(now=T0 + HOUR) == standing
    newest = ledger.serving_state().delta
    assert newest is not None
    assert (newest.digest, newest.base_digest, newest.sequence, newest.limits) == (delta(3).digest, BASE, 3, LIMITS)
    assert newest.expires == T0 + 24 * HOUR
    assert ledger.withdraw_deltas(actor="ann", reason="complaints", now=T0 + 2 * HOUR) == 1
    assert ledger.withdraw_deltas(actor="ann", reason="complaints", now=T0 + 2 * HOUR) is None
    assert (ledger.standing(now=T0 + HOUR), ledger.serving_state().delta) == (None, None)
    (ended,) = ledger.standings()
    assert (ended.ended, ended.ended_by, ended.ended_reason) == (T0 + 2 * HOUR, "ann", "complaints")
    steps = [entry.action for entry in ledger.audit()[-4:]]
    assert steps == ["allow_deltas", "record_delta", "record_delta", "end_deltas"]
    assert allow(ledger, now=T0 + 3 * HOUR).number == 2
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"base_digest": "b" * 64}, "base bbbbbbbbbbbb…, not 000000000000…"),
        ({"recipe": "s" * 64}, "recipe ssssssssssss…, not rrrrrrrrrrrr…"),
        ({"sequence": 1}, "sequence 1, and 1 is there already"),
        ({"rows": 101}, "rows: 101 > 100"),
        ({"relative_change": 0.51}, r"relative_change: 0\.51 > 0\.5"),
        ({"relative_change": float("nan")}, "relative_change: nan"),
    ],
)
def test_a_delta_outside_the_limits_leaves_no_trace(ledger: Ledger, stated: dict[str, Any], named: str) -> None:
    allow(ledger)
    ledger.record_delta(delta(1), now=T0)
    before = ledger.audit()
    with pytest.raises(GateRefused, match=named):
        ledger.record_delta(delta(**({"sequence": 2, "digest": "d" * 64} | stated)), now=T0)
    assert ledger.audit() == before
    ledger.record_delta(delta(2, rows=100, relative_change=0.5), now=T0)  # the limits themselves are allowed
    ledger.record_delta(delta(3), now=T0)
    with pytest.raises(GateRefused, match="deltas: 3 are there, the most allowed"):
        ledger.record_delta(delta(4), now=T0)


def test_expiry_needs_nobodys_doing(ledger: Ledger) -> None:
    granted = allow(ledger)
    ledger.record_delta(delta(), now=T0)
    assert ledger.standing(now=granted.expires - timedelta(microseconds=1)) is not None
    assert ledger.standing(now=granted.expires) is None
    with pytest.raises(GateRefused, match="no standing approval is live"):
        ledger.record_delta(delta(2), now=granted.expires)
    assert allow(ledger, now=granted.expires, expires=granted.expires + HOUR).number == 2
    assert [each.ended_reason for each in ledger.standings()] == ["expired", ""]
    assert ledger.serving_state().delta is None, "the former approval's deltas do not count for the new one"
    assert ledger.verify() == []


def test_an_open_trial_is_against_the_full_bundle(ledger: Ledger) -> None:
    allow(ledger)
    ledger.record_delta(delta(), now=T0)
    assert ledger.serving_state().delta is not None
    ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    assert ledger.serving_state().delta is None
    ledger.record_delta(delta(2), now=T0)  # learning goes on
    ledger.stop_trial("t1", actor="bob", reason="enough", now=T0)
    state = ledger.serving_state()
    assert state.trial is None
    assert state.delta is not None
    assert state.delta.sequence == 2


def _promote(ledger: Ledger) -> None:
    ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    ledger.approve("t1", actor="ann", reason="better", now=T0)


def _roll_back(ledger: Ledger) -> None:
    ledger.rollback(actor="ann", reason="worse", now=T0)


@pytest.mark.parametrize("change", [_promote, _roll_back])
def test_another_champion_ends_it(ledger: Ledger, change: Callable[[Ledger], None]) -> None:
    if change is _roll_back:
        _promote(ledger)
    champion = ledger.champion()
    assert champion is not None
    allow(ledger)
    ledger.record_delta(delta(base_digest=champion.digest), now=T0)
    change(ledger)
    assert (ledger.standing(now=T0), ledger.serving_state().delta) == (None, None)
    assert ledger.standings()[-1].ended_reason.startswith(f"the champion is version {3 - champion.version} at epoch")
    assert ledger.verify() == []


def test_a_guardrail_ends_it(ledger: Ledger) -> None:
    allow(ledger)
    ledger.record_delta(delta(1), now=T0)
    ledger.record_delta(delta(2), now=T0)
    assert not ledger.breach_delta(delta(1).digest, reason="overlap", now=T0), "an older one proves nothing of today"
    assert ledger.breach_delta(delta(2).digest, reason="overlap: 0.1", now=T0)
    assert not ledger.breach_delta(delta(2).digest, reason="overlap: 0.1", now=T0)
    (ended,) = ledger.standings()
    assert (ended.ended_by, ended.ended_reason) == ("gate", f"delta 2 ({delta(2).digest}): overlap: 0.1")


def test_who_may_allow_what(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match="Tom submitted it and cannot approve"):
        allow(ledger, actor=" Tom")
    with pytest.raises(UsageError, match="--as"):
        allow(ledger, actor=" ")
    with pytest.raises(UsageError, match="--reason"):
        allow(ledger, reason="")
    with pytest.raises(UsageError, match="would have expired"):
        allow(ledger, expires=T0)
    for none in ({"deltas": 0}, {"rows": -1}, {"relative_change": 0.0}, {"overlap": 1.1}):
        with pytest.raises(UsageError, match="allow nothing"):
            allow(ledger, limits=replace(LIMITS, **none))
    allow(ledger)
    with pytest.raises(GateRefused, match="standing approval 1: lives on"):
        allow(ledger, recipe="s" * 64)
    with pytest.raises(GateRefused, match="no champion to change"):
        allow(Ledger(f"sqlite:///{tmp_path / 'empty.db'}"))


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE standing SET expires = '2027-01-01T00:00:00.000000Z'", "standing approval 1: the ledger holds"),
        ("UPDATE standing SET most_rows = 1000", "standing approval 1: the ledger holds"),
        ("UPDATE standing SET ended = '2026-01-01T00:00:00.000000Z'", "standing approval 1: the ledger holds"),
        ("DELETE FROM standing", "standing approval 1: the ledger holds None"),
        ("UPDATE delta SET digest = 'x'", "delta 1 of standing approval 1: the ledger holds"),
        ("DELETE FROM delta", "delta 1 of standing approval 1: the ledger holds None"),
    ],
)
def test_a_change_behind_its_back_is_named(ledger: Ledger, statement: str, named: str) -> None:
    allow(ledger)
    ledger.record_delta(delta(), now=T0)
    with ledger._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    assert any(named in problem for problem in ledger.verify())
