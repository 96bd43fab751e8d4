"""What MLflow is told of looks: each challenger's own figures, and nothing that stops a trial."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relations.errors import DependencyFailed
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from tasks import tracking_looks
from tasks.tracking_looks import look_metrics, track_look

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LOOK: dict[str, Any] = {
    "stage": "compare", "look": 3, "challenger": "challenger", "verdict": "CONTINUE", "decision": "CONTINUE",
    "reasons": ["z below"], "lift": 0.1, "lift_interval": [0.02, 0.18], "lift_sequence": [0.0, 0.2],
    "z": 2.5, "boundary": 3.0,
    "standard_error": 0.004, "champion_rate": 0.1, "challenger_rate": 0.11, "matured": [60, 40], "exposed": [70, 50],
    "spent": 0.01, "srm_p": 1.0, "bots_p": None,
    "guardrails": [{"name": "latency", "z": 4.0, "holds": True}],
    "slices": [{"name": "new", "users": [50, 30], "z": 1.0, "holds": False},
               {"name": "few", "users": [9, 3], "z": 2.0}],
    "served": {"challenger": {"requests": 100, "failures": 1, "p99_ms": 20.5}},
}  # fmt: skip


def test_a_look_in_figures() -> None:
    found = {name: value for name, value in look_metrics(LOOK, "challenger", k=5).items() if value is not None}
    assert found == {
        "lift": 0.1, "lift_low": 0.02, "lift_high": 0.18, "always_low": 0.0, "always_high": 0.2, "z": 2.5,
        "boundary": 3.0,
        "champion_rate": 0.1, "challenger_rate": 0.11, "matured_users": 100, "exposed_users": 120, "alpha_spent": 0.01,
        "srm_p": 1.0, "needed_lift": pytest.approx(0.12),  # 3.0 · 0.004 / 0.1
        "guardrails/latency/z": 4.0, "guardrails/latency/holds": 1.0, "slices/new/z": 1.0, "slices/new/holds": 0.0,
        "compare/requests": 100, "compare/failures": 1, "compare/p99_ms": 20.5,
    }  # fmt: skip
    assert "slices/few/z" in look_metrics(LOOK, "challenger", k=3)


def test_an_early_stage_and_another_challenger_have_their_own() -> None:
    stage = {"stage": "interleave", "credit": {"challenger": {"wins": 5, "losses": 4, "e_win": 1.5}}, "served": None}
    found = {name: value for name, value in look_metrics(stage, "challenger", k=5).items() if value is not None}
    assert found == {"interleave/wins": 5, "interleave/losses": 4, "interleave/e_win": 1.5}
    several = {**LOOK, "comparisons": {"challenger-2": {"lift": -0.3}}}
    assert look_metrics(several, "challenger-2", k=5)["lift"] == -0.3
    assert look_metrics(LOOK, "challenger-3", k=5)["lift"] is None, "it is out, and nothing was measured"


class Told:
    """Stands for MLflow: remembers what it was told. It numbers versions in its own way."""

    calls: list[tuple[int, str, list[int], list[str]]]
    known: Mapping[str, int]

    def __init__(self, home: Home, settings: Settings) -> None:
        pass

    def version_of(self, digest: str) -> int | None:
        return self.known.get(digest)

    def log_trial(
        self,
        version: int,
        trial: str,
        *,
        looks: Sequence[tuple[int, Mapping[str, float | None]]],
        pages: Mapping[str, Path],
    ) -> None:
        self.calls.append(
            (version, trial, [look for look, _ in looks], [name for name in pages if pages[name].exists()])
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Versions 2 and 3 against the champion 1, after a look at the shadow and one at the comparison."""
    home = Home.create(tmp_path / "home", simulation=True)
    ledger = Ledger.of(home, Settings())
    for number in (1, 2, 3):
        ledger.record_version(
            VersionRecord(number, f"{number}" * 64, "full", None, 1, 1, 0, True, {}, "run", T0, "checkpoint")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial("t1", {}, challengers=[2, 3], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"stage": "shadow", "look": 1, "decision": "CONTINUE"}, now=T0)
    ledger.record_evidence("t1", {**LOOK, "trial_id": "t1"}, now=T0)
    return home


def test_every_challenger_is_told_every_look_with_the_page(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    page = home.reports / "t1.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text("evidence", encoding="utf-8")
    monkeypatch.setattr(Told, "calls", [], raising=False)
    monkeypatch.setattr(Told, "known", {"2" * 64: 7, "3" * 64: 8}, raising=False)
    monkeypatch.setattr(tracking_looks, "Registry", Told)
    monkeypatch.setattr(tracking_looks, "mirror_decision", lambda *_: ((), ""))
    track_look.fn(home, Settings(), {"trial_id": "t1", "report": str(page)})
    assert Told.calls == [(7, "t1", [1, 3], ["look-002.html"]), (8, "t1", [1, 3], ["look-002.html"])]


@pytest.mark.parametrize("broken", ["unknown version", "no answer", "no mirror"])
def test_mlflow_stops_nothing(
    broken: str, home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> int:
        raise DependencyFailed("MLflow at http://127.0.0.1:9: refused")

    known = {} if broken == "unknown version" else {"2" * 64: 7, "3" * 64: 8}
    monkeypatch.setattr(Told, "calls", [], raising=False)
    monkeypatch.setattr(Told, "known", known, raising=False)
    if broken == "no answer":
        monkeypatch.setattr(Told, "version_of", away)
    monkeypatch.setattr(tracking_looks, "Registry", Told)
    monkeypatch.setattr(tracking_looks, "mirror_decision", lambda *_: ((), f"{DependencyFailed('away')}"))
    with caplog.at_level(logging.WARNING):
        track_look.fn(home, Settings(), {"trial_id": "t1", "look": 3})
    said = {
        "unknown version": "MLflow does not know version 2 yet",
        "no answer": "127.0.0.1:9: refused",
        "no mirror": "away",
    }
    assert "t1 look 3 is not in MLflow yet" in caplog.text
    assert said[broken] in caplog.text
