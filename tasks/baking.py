"""A promotion, watched: served at last, quiet for long enough, or taken back.

Plain functions without Prefect: the way back must work when Prefect does not.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gate.baking import Baked, BakeFacts, Watch, bake_window, judge_bake, served_everywhere
from gate.life import within
from gate.served import Served
from gate.states import TrialMode, TrialState
from gate.trial import CHAMPION, TrialConfig
from relations.errors import GateRefused
from stores.approval import check_named
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import GATE, TrialRecord
from stores.settings import Settings
from tasks.asking import champions_served
from tasks.deciding import Decided, mirror_decision, rollback_champion
from tasks.jobs import write_json
from tasks.sums import reign_served, reign_sums, trial_served, trial_sums, waiting_files
from tasks.trial_stages import served_limits

_CLOCKS_APART = timedelta(minutes=10)
"""Exposures are timed by servers, an approval by who typed it; the epoch tells whose they are."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """One look at a promotion. `state`: the trial's, after it. `baked`: None before the bundle is served.
    `decided`: the rollback that an alarm has made."""

    trial: str
    state: TrialState
    reasons: tuple[str, ...]
    baked: Baked | None = None
    decided: Decided | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "state": str(self.state),
            "reasons": list(self.reasons),
            "bake": None if self.baked is None else self.baked.as_json(),
            "rollback": None if self.decided is None else self.decided.as_json(),
        }


def watched_trial(ledger: Ledger) -> TrialRecord | None:
    """The trial whose promotion is watched; None where none is."""
    return next((record for record in reversed(ledger.trials()) if record.is_watched), None)


def watch_promotion(home: Home, settings: Settings, trial: str, *, now: datetime, wait_seconds: float = 0.0) -> Watched:
    """Take a promotion one step: PROMOTING begins to bake where its bundle is served; BAKING passes, goes on, or rolls
    back. `wait_seconds`: how long to wait for serving after a rollback.

    Raises GateRefused for a trial that is not watched, UsageError for an unknown one.
    """
    ledger = Ledger.of(home, settings)
    record = ledger.trial(trial)
    if not record.is_watched:
        raise GateRefused(f"{trial} is {record.state}; only a promotion that is PROMOTING or BAKING is watched")
    config = TrialConfig.from_json(record.config)
    if record.state is TrialState.PROMOTING:
        return _begin(home, settings, record, config, now=now, wait_seconds=wait_seconds)
    lake = Lake.of(home, settings.lake)
    facts = bake_facts(home, lake, record, config)
    baked = judge_bake(config, facts, limits=served_limits(settings))
    write_json(bake_file(home, trial), baked.as_json())
    if baked.outcome is Watch.ROLL_BACK:
        return _roll_back(home, settings, record, baked.reasons, now=now, wait_seconds=wait_seconds, baked=baked)
    if baked.outcome is Watch.PASSED and record.bakes_until is not None and now >= record.bakes_until:
        done = ledger.end_bake(trial, now=now)
        mirror_decision(home, settings)
        return Watched(trial, done.state, baked.reasons, baked)
    return Watched(trial, record.state, baked.reasons, baked)


def believe_promotion(
    home: Home, settings: Settings, trial: str, *, actor: str, reason: str, now: datetime, wait_seconds: float = 0.0
) -> Watched:
    """A person's word where data are too few to tell: that the bundle is served, where no server here can be asked, or,
    when its hours are over, that it may stay. An alarm rolls back all the same.

    Raises GateRefused before the hours are over, and while servers report another bundle.
    """
    check_named(actor, reason, what=f"trial {trial}")
    watched = watch_promotion(home, settings, trial, now=now, wait_seconds=wait_seconds)
    ledger = Ledger.of(home, settings)
    steps = {TrialState.PROMOTING: ledger.begin_bake, TrialState.BAKING: ledger.end_bake}
    if watched.state not in steps:
        return watched
    if watched.state is TrialState.PROMOTING and champions_served(home):
        raise GateRefused(f"{trial}: {watched.reasons[0]}; a server that can be asked is believed, not {actor}")
    done = steps[watched.state](trial, now=now, actor=actor)
    ledger.note(
        actor=actor,
        action=f"believe_{watched.state.lower()}",
        subject=f"trial {trial}",
        payload={"reason": reason},
        now=now,
    )
    mirror_decision(home, settings)
    return Watched(trial, done.state, (f"{actor}: {reason}", *watched.reasons), watched.baked)


def bake_facts(home: Home, lake: Lake, record: TrialRecord, config: TrialConfig) -> BakeFacts:
    """What has happened since the bake began, and the same of the former champion in the comparison.

    Its users are those of as many hours from the comparison's beginning on: who comes in the first hours is not who
    comes in the first weeks.
    """
    since, epoch = record.changed, record.promoted_epoch or 0
    began = record.stages[-1].since if record.stages else config.start
    ended = datetime.fromisoformat(record.evidence[-1].evidence["sums"]["watermark"])
    short = replace(within(config, hours=bake_window(config) / timedelta(hours=1)), guardrails=(), slices=())
    new = reign_sums(lake, short, epoch=epoch, since=since, waiting=waiting_files(home))
    former = trial_sums(lake, short, since=began, until=min(ended, began + (new.watermark - since)))
    served = trial_served(lake, config, since=began, until=ended, stage=TrialMode.COMPARE)
    return BakeFacts(
        digest=record.proposed.digest,
        since=since,
        watermark=new.watermark,
        reported=champions_served(home),
        new=reign_served(lake, epoch=epoch, since=since),
        former=served.get(CHAMPION, Served()),
        new_sums=new.metrics[config.primary.name].arm(CHAMPION),
        former_sums=former.metrics[config.primary.name].arm(CHAMPION),
        problems=new.problems,
    )


def bake_file(home: Home, trial: str) -> Path:
    """Where the newest look at a promotion stands, as JSON."""
    return home.trials / trial / "bake.json"


def _begin(
    home: Home, settings: Settings, record: TrialRecord, config: TrialConfig, *, now: datetime, wait_seconds: float
) -> Watched:
    """PROMOTING: verify the digest that serving serves. Servers that go on reporting another one are an alarm."""
    digest, reported = record.proposed.digest, champions_served(home)
    logged = reign_served(
        Lake.of(home, settings.lake), epoch=record.promoted_epoch or 0, since=record.changed - _CLOCKS_APART
    )
    unserved = served_everywhere(digest, reported=reported, logged=logged)
    if not unserved:
        begun = Ledger.of(home, settings).begin_bake(record.id, now=now)
        mirror_decision(home, settings)
        return Watched(
            record.id, begun.state, (f"serving serves {digest[:12]}…; watched for {record.bake_hours:g} hours",)
        )
    if reported and now - record.changed >= timedelta(hours=config.bake_hours):
        why = f"not served within {config.bake_hours:g} hours of its approval: {unserved}"
        return _roll_back(home, settings, record, (why,), now=now, wait_seconds=wait_seconds)
    _LOG.warning("%s is promoted and not served yet: %s", record.id, unserved)
    return Watched(record.id, record.state, (unserved,))


def _roll_back(
    home: Home,
    settings: Settings,
    record: TrialRecord,
    reasons: tuple[str, ...],
    *,
    now: datetime,
    wait_seconds: float,
    baked: Baked | None = None,
) -> Watched:
    """The gate's own decision: nobody need be awake. Refused where the champion has changed meanwhile."""
    decided = rollback_champion(
        home,
        settings,
        actor=GATE,
        reason=f"alarm while {record.id} was {record.state}: {'; '.join(reasons)}",
        now=now,
        expected_epoch=record.promoted_epoch,
        wait_seconds=wait_seconds,
    )
    _LOG.error(
        "ratchet.bake.rolled_back trial=%s from_version=%s to_version=%s reasons=%s",
        record.id,
        record.proposed.version,
        decided.champion.version,
        "; ".join(reasons),
    )
    return Watched(record.id, TrialState.ROLLED_BACK, reasons, baked, decided)


def watch_markdown(watched: Watched) -> str:
    """A look at a promotion for the Prefect UI, an alarm first."""
    head = "# ALARM: rolled back\n\n" if watched.decided is not None else ""
    reasons = "\n".join(f"- {reason}" for reason in watched.reasons)
    rows = [("trial", watched.trial), ("state", str(watched.state))]
    baked = watched.baked
    if baked is not None:
        new, former = baked.facts.new, baked.facts.former
        rows += [
            ("answers (former)", f"{new.requests:,} ({former.requests:,})"),
            ("failed (former)", f"{new.failing:.2%} ({former.failing:.2%})"),
            ("p99 ms (former)", f"{_ms(new.p99_ms)} ({_ms(former.p99_ms)})"),
        ]
        if baked.metric is not None:
            metric = baked.metric
            rows.append((f"{metric.name} (former)", f"{metric.challenger_rate:.5f} ({metric.champion_rate:.5f})"))
    if watched.decided is not None:
        rows.append(("champion now", f"v{watched.decided.champion.version}, epoch {watched.decided.champion.epoch}"))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"{head}# {watched.trial}: {watched.state}\n\n{reasons}\n\n| | |\n|---|---|\n{table}\n"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
