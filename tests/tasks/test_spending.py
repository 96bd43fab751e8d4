"""The α of a ledger's trials, from their newest looks."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from cli.commands.trial_plan import alpha as alpha_command
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import TrialRecord
from tasks.spending import read_alpha_ledger, spent_by

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def record(
    name: str,
    evidence: Mapping[str, Any] | None = None,
    *,
    challengers: int = 1,
    out: tuple[str, ...] = (),
    epoch: int | None = None,
    is_aa: bool = False,
) -> TrialRecord:
    """As much of a trial as is read."""
    looks = () if evidence is None else (SimpleNamespace(evidence=evidence),)
    stated = {"id": name, "opened": NOW - timedelta(days=30), "config": {"alpha": 0.03}, "evidence": looks, "out": out}
    told = {"challengers": ("",) * challengers, "promoted_epoch": epoch, "is_aa": is_aa}
    return cast(TrialRecord, SimpleNamespace(**stated, **told))


def test_a_look_has_spent_what_all_its_comparisons_did() -> None:
    assert spent_by(record("t")) == 0
    assert spent_by(record("t", {"stage": "shadow"})) == 0
    assert spent_by(record("t", {"spent": None, "challenger": "challenger"})) == 0
    assert spent_by(record("t", {"spent": 0.004, "comparisons": {}, "challenger": "challenger"})) == 0.004
    both = {"challenger": {"spent": 0.004}, "challenger-2": {"spent": 0.006}}
    assert spent_by(record("t", {"spent": 0.006, "comparisons": both}, challengers=2)) == pytest.approx(0.010)
    # One is out: its α/3 counts whole, the other two as they stand
    three = record("t", {"spent": 0.006, "comparisons": both}, challengers=3, out=("challenger-3",))
    assert spent_by(three) == pytest.approx(0.010 + 0.03 / 3)
    alone = record("t", {"spent": 0.004, "challenger": "challenger-2"}, challengers=2, out=("challenger",))
    assert spent_by(alone) == pytest.approx(0.004 + 0.03 / 2)


def test_rehearsals_do_not_count() -> None:
    trials = (
        record("a", {"spent": 0.02, "challenger": "challenger"}, epoch=2),
        record("b", {"spent": 0.025, "challenger": "challenger"}, is_aa=True),
        record("c"),
    )
    ledger = cast(Ledger, SimpleNamespace(trials=lambda: trials))
    found = read_alpha_ledger(ledger, now=NOW, alpha=0.025)
    assert [each.trial for each in found.spendings] == ["a", "c"]
    assert found.may_be_false == pytest.approx(0.02)
    assert found.promotions == 1


def test_the_command_tells_what_more_trials_would_do(home: Home) -> None:
    done = CliRunner().invoke(alpha_command, ["--home", str(home.root)])
    assert done.exit_code == 0, done.output
    assert "no trials yet" in done.output
    assert "none yet" in done.output
    assert "         52             1.30            73%" in done.output  # 52 · .025 and 1 − .975⁵²
