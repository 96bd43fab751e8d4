"""`ratchet trial` as a person types it: what it starts, what a trial waits for, and refusals without tracebacks."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.commands.decide import approve
from cli.commands.trial import trial
from cli.trial_status import trial_lines, trial_summary
from gate.states import TrialMode
from stores.bundle import write_bundle
from stores.clock import set_clock
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings, load_settings

T0 = datetime(2026, 3, 2, tzinfo=UTC)
TOML = '[home]\nclock = "request"\n[tracking]\nuri = "http://127.0.0.1:9"\n'


@pytest.fixture
def ledger(home: Home, tmp_path: Path) -> Ledger:
    """Version 1 is champion; 2 and 3 are newer."""
    (home.root / "ratchet.toml").write_text(TOML)
    set_clock(home, T0)
    ledger = Ledger.of(home, Settings())
    for number in (1, 2, 3):
        files = tmp_path / f"files-{number}"
        files.mkdir()
        (files / "model.onnx").write_bytes(bytes([number]))
        ready = write_bundle(files, describe={}, releases=home.releases, attestation={})
        ledger.record_version(
            VersionRecord(number, ready.digest, "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return ledger


def typed(home: Home, *words: str) -> Result:
    command, arguments = (approve, words[1:]) if words[0] == "approve" else (trial, words)
    return CliRunner().invoke(command, [*arguments, "--home", str(home.root)])


def waits(home: Home, ledger: Ledger, name: str = "trial-1") -> str:
    settings = load_settings(home.root / "ratchet.toml", environment={})
    told = trial_lines(trial_summary(home, settings, ledger.trial(name)))
    return told[1] if len(told) > 1 else ""


def test_a_start_tells_its_way_and_that_the_measuring_was_never_tested(home: Home, ledger: Ledger) -> None:
    done = typed(home, "start", "--challenger", "2", "--challenger", "3")
    assert done.exit_code == 0, done.output
    head, way, warning = done.output.splitlines()
    assert head.startswith("trial-1: v2 and v3 against v1, 50% of users")
    assert way == "its way: shadow → canary 0.01 → canary 0.05 → compare"
    assert warning.startswith("warning: no A/A trial was run for clicks yet; `ratchet trial start --aa`")
    shown = typed(home, "status").output
    assert "trial-1: SHADOW (shadow) · v2 and v3 against v1 · 0 looks" in shown
    assert "waits for the first look at its shadow stage (since 2026-03-02 00:00 UTC)" in shown
    assert ledger.trial("trial-1").mode is TrialMode.SHADOW


def test_an_a_a_trial_starts_and_later_trials_know_of_it(home: Home, ledger: Ledger) -> None:
    done = typed(home, "start", "--aa", "--mode", "compare")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("trial-1: v1 against itself (A/A), 50% of users")
    assert "A/A, v1 against itself" in typed(home, "status", "trial-1").output
    ledger.stop_trial("trial-1", actor="ann", reason="enough", now=T0)
    assert "warning" not in typed(home, "start", "--challenger", "2").output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["start", "--aa", "--challenger", "2"], 2, "leave --challenger out"),
        (["start", "--challenger", "9"], 2, "9"),
        (["start", "--challenger", "1"], 2, "another bundle than the champion's"),
        (["start", "--challenger", "2", "--allocation", ".2"], 2, "the shadow has none to choose"),
        (["start", "--challenger", "2", "--mode", "canary", "--allocation", ".2"], 2, "at most 0.05"),
        (["start", "--mode", "sideways"], 2, "sideways"),
        (["status", "trial-9"], 2, "no such trial"),
        (["approve", "trial-9", "--as", "ann", "--reason", "good"], 2, "no such trial"),
    ],
)
def test_mistakes_are_refused_by_name(home: Home, ledger: Ledger, words: list[str], code: int, says: str) -> None:
    done = typed(home, *words)
    assert (done.exit_code, says in done.output) == (code, True), done.output
    assert "Traceback" not in done.output
    assert ledger.trials() == ()


@pytest.mark.parametrize("step", ["look", "bake"])
def test_a_step_of_no_trial_is_refused_before_prefect_is_started(
    home: Home, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr("cli.commands.trial.use_prefect", lambda home: pytest.fail("Prefect was started"))
    done = typed(home, step, "trial-9")
    assert done.exit_code == 2
    assert "trial 'trial-9': no such trial" in done.output


def test_what_a_trial_waits_for_at_each_state(home: Home, ledger: Ledger) -> None:
    assert typed(home, "start", "--challenger", "2", "--mode", "compare").exit_code == 0
    assert "the first look at its compare stage" in waits(home, ledger)
    held = {"decision": "HOLD", "reasons": ["3 files wait"], "stage": "compare"}
    ledger.record_evidence("trial-1", held, now=T0)
    assert "waits for 3 files wait (since 2026-03-02 00:00 UTC)" in waits(home, ledger)
    ledger.record_evidence("trial-1", {"decision": "PROMOTE", "stage": "compare"}, now=T0 + timedelta(hours=1))
    person = "a person until 2026-03-05 01:00 UTC: ratchet approve trial-1 --as NAME --reason TEXT"
    assert person in waits(home, ledger)


def test_what_a_promotion_waits_for(home: Home, ledger: Ledger, passing_trial: Callable[..., str]) -> None:
    passing_trial(ledger, "trial-1", challenger=2, actor="bob", now=T0, bake_hours=24)
    done = typed(home, "approve", "trial-1", "--as", "ann", "--reason", "good")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "champion is v2, epoch 2"
    assert "PROMOTING: watched for 24 hours once serving is seen to serve it; an alarm brings v1 back" in done.output
    assert "serving to serve v2: ratchet trial bake trial-1" in waits(home, ledger)
    ledger.begin_bake("trial-1", now=T0 + timedelta(hours=2))
    assert "the end of its bake, 2026-03-03 02:00 UTC at the earliest" in waits(home, ledger)
    ledger.rollback(actor="ann", reason="complaints", now=T0 + timedelta(hours=3))
    assert waits(home, ledger) == ""
