"""A person's decisions, carried out: the ledger first, then serving and MLflow follow.

Plain functions without Prefect, so that a promotion and above all a rollback work when Prefect and MLflow do not. From
the ledger's commit on the decision holds; serving finds it by itself, and a mirror that fails is said, not raised.
"""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from relations.errors import DependencyFailed
from stores.bundle import open_bundle
from stores.failpoints import reach
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import Champion, TrialRecord, stamp
from stores.mirror import reconcile
from stores.registry import Registry
from stores.settings import Settings

FAIL_POINTS = (
    "decide.swapped",  # inside the ledger's transaction
    "decide.committed",
    "mirror.tags",  # MLflow's tags are set, its aliases not yet
)


@dataclass(frozen=True)
class Decided:
    """What a decision changed. `serving`: whether serving reports the champion's digest; None: not running, not asked.

    `mirrored`: what was changed in MLflow; `warning`: why MLflow does not show it yet, or empty.
    """

    action: str
    actor: str
    reason: str
    champion: Champion
    before: Champion | None
    trial: TrialRecord | None
    serving: bool | None
    mirrored: tuple[str, ...]
    warning: str

    def as_json(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "actor": self.actor,
            "reason": self.reason,
            "champion": _facts(self.champion),
            "before": None if self.before is None else _facts(self.before),
            "trial": None if self.trial is None else self.trial.id,
            "evidence": self.trial.evidence[-1].sha256 if self.trial and self.trial.evidence else None,
            "serving": self.serving,
            "warning": self.warning,
        }


def bootstrap_champion(
    home: Home,
    settings: Settings,
    version: int,
    *,
    actor: str,
    reason: str,
    now: datetime,
    wait_seconds: float = 0.0,
) -> Decided:
    """Approve the first champion. Raises GateRefused where there is one."""
    ledger = Ledger.of(home, settings)
    open_bundle(home.releases, ledger.version(version).digest)
    champion = ledger.bootstrap(version, actor=actor, reason=reason, now=now)
    return _follow(
        home,
        settings,
        ledger,
        "bootstrap",
        champion,
        before=None,
        actor=actor,
        reason=reason,
        wait_seconds=wait_seconds,
    )


def approve_trial(
    home: Home,
    settings: Settings,
    trial: str,
    *,
    actor: str,
    reason: str,
    now: datetime,
    wait_seconds: float = 0.0,
) -> Decided:
    """Promote the challenger of a trial that waits. Raises GateRefused, or DataRejected for a damaged bundle.

    The bundle is verified before the ledger moves: an approval of something that cannot serve would serve nobody.
    """
    ledger = Ledger.of(home, settings)
    record = ledger.trial(trial)
    open_bundle(home.releases, record.challenger_digest)
    champion = ledger.approve(trial, actor=actor, reason=reason, now=now)
    before = Champion(record.champion, record.champion_digest, record.champion_epoch, record.opened)
    return _follow(
        home,
        settings,
        ledger,
        "promote",
        champion,
        before=before,
        trial=ledger.trial(trial),
        actor=actor,
        reason=reason,
        wait_seconds=wait_seconds,
    )


def reject_trial(home: Home, settings: Settings, trial: str, *, actor: str, reason: str, now: datetime) -> TrialRecord:
    """A person's no: the challenger gets no more users, and the same bundle cannot come back."""
    ledger = Ledger.of(home, settings)
    ledger.reject(trial, actor=actor, reason=reason, now=now)
    mirror_decision(home, settings)
    return ledger.trial(trial)


def rollback_champion(
    home: Home,
    settings: Settings,
    *,
    actor: str,
    reason: str,
    now: datetime,
    expected_epoch: int | None = None,
    wait_seconds: float = 0.0,
) -> Decided:
    """Bring the former champion back. Raises GateRefused where there is none, DataRejected for a damaged bundle.

    `expected_epoch`: the epoch that the caller saw; refuse if the champion has changed since.
    """
    ledger = Ledger.of(home, settings)
    before = ledger.champion()
    former = ledger.former()
    if former is not None:
        open_bundle(home.releases, former.digest)
    epoch = expected_epoch if expected_epoch is not None or before is None else before.epoch
    champion = ledger.rollback(actor=actor, reason=reason, now=now, expected_epoch=epoch)
    return _follow(
        home,
        settings,
        ledger,
        "rollback",
        champion,
        before=before,
        actor=actor,
        reason=reason,
        wait_seconds=wait_seconds,
    )


def mirror_decision(home: Home, settings: Settings) -> tuple[tuple[str, ...], str]:
    """Show the ledger's state in MLflow: what was changed, and a warning where that failed."""
    try:
        return tuple(reconcile(Ledger.of(home, settings), Registry(home, settings))), ""
    except DependencyFailed as error:
        return (), f"decided, but MLflow does not show it yet: {error}"


def wait_until_serving(home: Home, digest: str, *, timeout_s: float) -> bool | None:
    """Whether serving reports `digest` as its champion within `timeout_s`; None when no server runs on the home."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            stated = json.loads((home.run / "serving.json").read_text(encoding="utf-8"))
            address = f"http://127.0.0.1:{int(stated['port'])}/readyz"
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            champion = httpx.get(address, timeout=2.0, trust_env=False).json().get("champion")
        except httpx.ConnectError:
            return None  # a file that a killed server left behind
        except (httpx.HTTPError, ValueError, AttributeError):
            champion = None  # busy, or starting
        if champion and champion.get("digest") == digest:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def decision_markdown(decided: Decided) -> str:
    """A decision for the Prefect UI: who, what, from where to where, on which evidence."""
    before, after, trial = decided.before, decided.champion, decided.trial
    came = "none" if before is None else f"v{before.version} (epoch {before.epoch})"
    serving = {True: "reports it", False: "does not report it yet", None: "not asked"}[decided.serving]
    rows = [
        ("decided by", decided.actor),
        ("reason", decided.reason),
        ("champion", f"{came} → v{after.version} (epoch {after.epoch})"),
        ("digest before", "–" if before is None else f"`{before.digest}`"),
        ("digest now", f"`{after.digest}`"),
        ("since", stamp(after.since)),
        ("serving", serving),
        ("MLflow", decided.warning or "shows it"),
    ]
    if trial is not None and trial.evidence:
        latest = trial.evidence[-1]
        rows += [
            ("trial", f"{trial.id}, submitted by {trial.submitter}"),
            ("evidence", f"look {latest.number}, {latest.decision}, `{latest.sha256}`"),
            ("configuration", f"`{trial.config_hash}`"),
        ]
    table = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows)
    return f"# {decided.action}: v{after.version} is champion\n\n| | |\n|---|---|\n{table}\n"


def _follow(
    home: Home,
    settings: Settings,
    ledger: Ledger,
    action: str,
    champion: Champion,
    *,
    before: Champion | None,
    actor: str,
    reason: str,
    wait_seconds: float,
    trial: TrialRecord | None = None,
) -> Decided:
    reach("decide.committed")
    serving = wait_until_serving(home, champion.digest, timeout_s=wait_seconds) if wait_seconds > 0 else None
    mirrored, warning = mirror_decision(home, settings)
    return Decided(action, actor, reason, champion, before, trial, serving, mirrored, warning)


def _facts(champion: Champion) -> dict[str, Any]:
    return {
        "version": champion.version,
        "digest": champion.digest,
        "epoch": champion.epoch,
        "since": stamp(champion.since),
    }


def _cell(text: str) -> str:
    """A person's words cannot break the table."""
    return text.replace("|", "\\|").replace("\n", " ")
