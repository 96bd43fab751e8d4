"""A person's decisions, carried out: the ledger first, then serving and MLflow follow.

Plain functions without Prefect, so that a promotion and above all a rollback work when Prefect and MLflow do not. From
the ledger's commit on the decision holds; serving finds it by itself, and a mirror that fails is said, not raised.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx

from gate.states import TrialState
from relations.errors import DependencyFailed
from stores.break_glass_records import BreakGlassRecord
from stores.bundle import open_bundle
from stores.failpoints import reach
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import Champion, TrialRecord, Waiting, stamp
from stores.mirror import reconcile
from stores.registry import Registry
from stores.settings import Settings
from stores.signatures import verify
from tasks.asking import wait_until_serving
from tasks.killing import settle_kills

MIRROR_SECONDS = 3.0
"""How long a decision waits at most for a tracking server's first word; whoever rolls back does not wait for MLflow."""


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
            "state": None if self.trial is None else str(self.trial.state),
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
    _check_servable(home, settings, ledger.version(version).digest)
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
    evidence: str | None = None,
    wait_seconds: float = 0.0,
) -> Decided | Waiting:
    """Promote the challenger of a trial that waits, or keep the approval while another person's is needed.

    `evidence`: the SHA-256 of the look that `actor` saw. Raises GateRefused, or DataRejected for a damaged bundle.

    The bundle is verified before the ledger moves: an approval of something that cannot serve would serve nobody. And
    the gate's decision is made again from what is on record (`tasks.rejudging`): it must be the same PROMOTE. Where
    serving is seen to serve it, within `wait_seconds`, the promotion begins to bake; else `tasks.baking` sees to it.
    """
    from tasks.rejudging import check_again  # a second of scipy, which a rollback does without

    ledger = Ledger.of(home, settings)
    settle_kills(home, ledger, now=now)
    record = ledger.trial(trial)
    if record.state is TrialState.AWAIT_APPROVAL and evidence in (None, record.evidence[-1].sha256):
        _check_servable(home, settings, record.proposed.digest)
        evidence = check_again(record)  # what the ledger promotes by is what was checked here
    champion = ledger.approve(trial, actor=actor, reason=reason, now=now, evidence=evidence)
    if isinstance(champion, Waiting):
        mirror_decision(home, settings)
        return champion
    before = Champion(record.champion, record.champion_digest, record.champion_epoch, record.opened)
    decided = _follow(
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
    if decided.serving and ledger.trial(trial).state is TrialState.PROMOTING:
        decided = replace(decided, trial=ledger.begin_bake(trial, now=now))
        mirror_decision(home, settings)
    return decided


def reject_trial(home: Home, settings: Settings, trial: str, *, actor: str, reason: str, now: datetime) -> TrialRecord:
    """A person's no: the challenger gets no more users, and the same bundle cannot come back."""
    ledger = Ledger.of(home, settings)
    settle_kills(home, ledger, now=now)
    ledger.reject(trial, actor=actor, reason=reason, now=now)
    mirror_decision(home, settings)
    return ledger.trial(trial)


def ask_break_glass(
    home: Home,
    settings: Settings,
    version: int,
    *,
    hours: float,
    actor: str,
    reason: str,
    now: datetime,
    expected_epoch: int | None = None,
) -> BreakGlassRecord:
    """Ask that a version serve without evidence; nothing changes until another person confirms. Raises GateRefused, or
    DataRejected for a damaged bundle: nobody shall confirm at night what cannot serve.

    `expected_epoch`: of the champion that the caller saw; refuse if it has changed since.
    """
    ledger = Ledger.of(home, settings)
    _check_servable(home, settings, ledger.version(version).digest)
    return ledger.ask_break_glass(
        version, hours=hours, actor=actor, reason=reason, now=now, expected_epoch=expected_epoch
    )


def confirm_break_glass(
    home: Home, settings: Settings, number: int, *, actor: str, reason: str, now: datetime, wait_seconds: float = 0.0
) -> Decided:
    """The second person's yes: a version serves without evidence. Raises GateRefused, or DataRejected for a damaged
    bundle, which is verified before the ledger moves."""
    ledger = Ledger.of(home, settings)
    before = ledger.champion()
    _check_servable(home, settings, ledger.break_glass(number).digest)
    champion = ledger.confirm_break_glass(number, actor=actor, reason=reason, now=now)
    return _follow(
        home,
        settings,
        ledger,
        "break_glass",
        champion,
        before=before,
        actor=actor,
        reason=reason,
        wait_seconds=wait_seconds,
    )


def end_break_glass(
    home: Home,
    settings: Settings,
    number: int,
    *,
    actor: str,
    reason: str,
    now: datetime,
    expected_epoch: int | None = None,
    wait_seconds: float = 0.0,
) -> Decided | None:
    """Withdraw a request, or bring the former champion back before the time is up. None: nothing serves otherwise.

    `expected_epoch` and what is raised: as with `rollback_champion`.
    """
    ledger = Ledger.of(home, settings)
    before, former = ledger.champion(), ledger.former()
    if ledger.break_glass(number).in_force and former is not None:
        _check_servable(home, settings, former.digest)
    champion = ledger.end_break_glass(number, actor=actor, reason=reason, now=now, expected_epoch=expected_epoch)
    if champion is None:
        return None
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


def end_overdue(home: Home, settings: Settings, *, now: datetime) -> tuple[str, ...]:
    """What has waited or reigned for too long is over; returns its names, as `trial-3` or `break-glass 1`."""
    ended = Ledger.of(home, settings).expire(now)
    if ended:
        mirror_decision(home, settings)
    return ended


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
        _check_servable(home, settings, former.digest)
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


def _check_servable(home: Home, settings: Settings, digest: str) -> None:
    """Raises what serving, by the same settings, would refuse the bundle for."""
    bundle = open_bundle(home.releases, digest)
    if settings.serving.trusted_keys:
        verify(bundle, trusted=settings.serving.trusted_keys)
    reach("decide.checked")


def mirror_decision(home: Home, settings: Settings) -> tuple[tuple[str, ...], str]:
    """Show the ledger's state in MLflow: what was changed, and a warning where that failed."""
    away = _unanswered(settings.tracking.uri)
    if away:
        return (), f"decided, but MLflow does not show it yet: {away}"
    try:
        return tuple(reconcile(Ledger.of(home, settings), Registry(home, settings))), ""
    except DependencyFailed as error:
        return (), f"decided, but MLflow does not show it yet: {error}"


def _unanswered(uri: str) -> str:
    """Why a tracking server says nothing; empty for one that does, and for none. MLflow's client would wait 20 s."""
    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=MIRROR_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"MLflow at {uri}: {error or type(error).__name__}; check [tracking] uri"
    return ""


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
            ("trial is now", watch_told(trial)),
        ]
    table = "\n".join(f"| {name} | {_cell(text)} |" for name, text in rows)
    return f"# {decided.action}: v{after.version} is champion\n\n| | |\n|---|---|\n{table}\n"


def watch_told(trial: TrialRecord) -> str:
    """Where a promotion stands, in words."""
    if trial.state is TrialState.PROMOTING:
        return f"{trial.state}: watched for {trial.bake_hours:g} hours once serving is seen to serve it"
    if trial.bakes_until is not None:
        return f"{trial.state}: watched until {stamp(trial.bakes_until)}"
    return str(trial.state)


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
    reach("decide.mirrored")
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
