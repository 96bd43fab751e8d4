"""Trials: freeze a configuration, look at the sums, record the decision."""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from gate.boundaries import Spending
from gate.decision import decide
from gate.looks import LookSums, MetricSums
from gate.trial import Metric, TrialConfig, Value
from relations.errors import GateRefused, UsageError
from relations.sums import OutcomeRule, TrialWindow, arm_day_sums, exposed_counts, user_outcomes
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.settings import MetricSettings, Settings
from tasks.jobs import write_json
from tasks.reports import write_trial_report

BOT_RULES = ("rate>30/min",)


@task(name="start trial", cache_policy=NO_CACHE)
def start_trial(
    home: Home,
    settings: Settings,
    *,
    challenger: int | None,
    actor: str,
    now: datetime,
    allow_offline_worse: bool = False,
) -> dict[str, Any]:
    """Freeze the configuration, open the trial in the ledger, write `trial.json`; returns the configuration.

    `challenger` None: the candidate. Raises GateRefused without a champion, a candidate, or where the ledger refuses.
    """
    ledger = Ledger.of(home, settings)
    champion = ledger.champion()
    if champion is None:
        raise GateRefused(
            f"{home.root}: no champion to meet; the first one is made by `ratchet trial bootstrap VERSION`"
        )
    if challenger is None:
        candidate = ledger.candidate()
        if candidate is None:
            raise GateRefused("no candidate: no version newer than the champion passed the offline check; train one")
        challenger = candidate.version
    record = ledger.version(challenger)
    trial_id = f"trial-{len(ledger.trials()) + 1}"
    config = trial_config(
        settings,
        trial_id=trial_id,
        challenger=(record.version, record.digest),
        champion=(champion.version, champion.digest, champion.epoch),
        now=now,
    )
    ledger.open_trial(
        trial_id,
        config.as_json(),
        challenger=challenger,
        salt=config.salt,
        allocation=config.allocation,
        actor=actor,
        now=now,
        allow_offline_worse=allow_offline_worse,
        simulation=home.simulation,
    )
    folder = home.trials / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "trial.json", config.as_json())
    return config.as_json()


def trial_config(
    settings: Settings,
    *,
    trial_id: str,
    challenger: tuple[int, str],
    champion: tuple[int, str, int],
    now: datetime,
) -> TrialConfig:
    """The frozen promise, from the settings of this moment. `challenger` (version, digest), `champion` with epoch."""
    stated = settings.trial
    salt = hashlib.sha256(f"{trial_id}:{challenger[1]}:{champion[1]}:{champion[2]}".encode()).hexdigest()[:16]
    return TrialConfig(
        trial_id=trial_id,
        challenger_version=challenger[0],
        challenger_digest=challenger[1],
        champion_version=champion[0],
        champion_digest=champion[1],
        champion_epoch=champion[2],
        salt=salt,
        start=now,
        deadline=now + timedelta(days=stated.deadline_days),
        n_max=stated.n_max,
        primary=_metric(settings, stated.metric),
        guardrails=tuple(_metric(settings, name) for name in stated.guardrails),
        allocation=stated.allocation,
        window_hours=stated.window_hours,
        minimum_effect=stated.minimum_effect,
        min_users=stated.min_users,
        looks=stated.looks,
        alpha=stated.alpha,
        spending=Spending(stated.spending),
        harm_alpha=stated.harm_alpha,
        srm_alpha=stated.srm_alpha,
        bot_rules=BOT_RULES,
    )


@task(name="look", cache_policy=NO_CACHE)
def look_at_trial(home: Home, settings: Settings, *, trial_id: str, now: datetime) -> dict[str, Any]:
    """Judge the trial on the users matured so far, record the evidence, write its page; returns the evidence.

    Looks are replayed from the ledger, so the decision follows from it alone. Raises GateRefused for a trial that is
    over, UsageError for an unknown one.
    """
    ledger, lake = Ledger.of(home, settings), Lake.of(home, settings.lake)
    record = ledger.trial(trial_id)
    if not record.is_open:
        raise GateRefused(f"{trial_id} is {record.state}; a trial that is over is not looked at again")
    config = TrialConfig.from_json(record.config)
    if config.digest() != record.config_hash:
        raise GateRefused(f"{trial_id}: its configuration does not hash to {record.config_hash}: an edit voids it")
    before = [LookSums.from_json(each.evidence["sums"]) for each in record.evidence]
    versions = lake.versions()
    decision = decide(config, [*before, trial_sums(lake, config, waiting=waiting_files(home))])
    evidence = {
        **decision.as_json(),
        "decision": decision.verdict.value,
        "data_versions": {name: versions[name] for name in ("events", "exposures") if name in versions},
        "champion_digest": config.champion_digest,
        "challenger_digest": config.challenger_digest,
        "champion_epoch": config.champion_epoch,
    }
    ledger.record_evidence(trial_id, evidence, now=now)
    record = ledger.trial(trial_id)
    looks = [dict(each.evidence) for each in record.evidence]
    write_json(home.trials / trial_id / f"look-{len(looks)}.json", evidence)
    report = home.reports / f"{trial_id}.html"
    write_trial_report(report, config=record.config, config_hash=record.config_hash, looks=looks, k=settings.privacy.k)
    return {
        **evidence,
        "state": str(record.state),
        "report": str(report),
        "evidence_sha256": record.evidence[-1].sha256,
    }


def trial_sums(lake: Lake, config: TrialConfig, *, waiting: int = 0) -> LookSums:
    """The sums of every metric over the users matured at the exposures' watermark.

    Missing data are a stated problem, never a zero: no exposures of this trial, or files still waiting for ingest.
    """
    exposures, events = lake.relation("exposures"), lake.relation("events")
    watermark = lake.watermark("exposures")
    problems = []
    if watermark is None or watermark < config.start:
        watermark = config.start
        problems.append("no exposures have been ingested since the trial began")
    if waiting:
        problems.append(f"{waiting} files wait in the landing folder; ingest them first")
    window = TrialWindow(
        trial_id=config.trial_id,
        start=config.start,
        watermark=watermark,
        window=timedelta(hours=config.window_hours),
        before=timedelta(days=config.before_days),
    )
    counted = {row["arm"]: row for row in exposed_counts(exposures, trial_id=config.trial_id).to_pyarrow().to_pylist()}
    metrics = {}
    for metric in (config.primary, *config.guardrails):
        rule = OutcomeRule(metric.outcome, summed=metric.value is Value.SUM)
        users = user_outcomes(exposures, events, window=window, outcome=rule)
        metrics[metric.name] = MetricSums.from_rows(arm_day_sums(users).to_pyarrow().to_pylist())
    return LookSums(
        watermark=watermark,
        exposed=(_users(counted, "champion"), _users(counted, "challenger")),
        metrics=metrics,
        crossed=sum(int(row["crossed"]) for row in counted.values()),
        problems=tuple(problems),
    )


def waiting_files(home: Home) -> int:
    """Landing files of serving that no ingest has taken yet; open ones do not count."""
    return sum(
        1
        for kind in ("exposures", "feedback")
        for file in (home.landing / kind).iterdir()
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".part"
    )


def newest_open_trial(ledger: Ledger) -> str | None:
    return next((record.id for record in reversed(ledger.trials()) if record.is_open), None)


def summary_markdown(evidence: dict[str, Any]) -> str:
    """A look for the Prefect UI."""
    interval = evidence["lift_interval"]
    span = "" if not interval or None in interval else f" [{interval[0]:+.1%}, {interval[1]:+.1%}]"
    lift = "not estimated" if evidence["lift"] is None else f"{evidence['lift']:+.1%}{span}"
    reasons = "\n".join(f"- {reason}" for reason in evidence["reasons"])
    facts = json.dumps(evidence["data_versions"])
    return (
        f"# {evidence['trial_id']}, look {evidence['look']}: {evidence['verdict']}\n\n{reasons}\n\n"
        f"| | |\n|---|---|\n| lift | {lift} |\n| matured users | {sum(evidence['matured']):,} |\n"
        f"| sample ratio p | {evidence['srm_p']:.4f} |\n| data versions | `{facts}` |\n"
        f"| evidence | `{evidence['evidence_sha256']}` |\n"
    )


def _metric(settings: Settings, name: str) -> Metric:
    stated: MetricSettings | None = settings.trial.metrics.get(name)
    if stated is None:
        known = ", ".join(sorted(settings.trial.metrics))
        raise UsageError(f"[trial] metric {name!r} is not declared; known: {known}; add [trial.metrics.{name}]")
    return Metric(name, stated.outcome, value=Value(stated.value), margin=stated.margin)


def _users(counted: dict[str, Any], arm: str) -> int:
    return int(counted[arm]["users"]) if arm in counted else 0
