"""What the stages before a comparison have shown, from the lake and the running servers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gate.interleaving import judge_interleaving
from gate.life import StageFacts, Step, canary_window, told, within
from gate.served import Served, ServedLimits
from gate.states import TrialMode
from gate.trial import StagePlan, TrialConfig
from stores.home import Home
from stores.lake import Lake
from stores.ledger_records import TrialRecord
from stores.settings import Settings
from tasks.asking import ask_servers
from tasks.sums import trial_credit, trial_served, trial_sums, waiting_files


def served_limits(settings: Settings) -> ServedLimits:
    return ServedLimits(failures=settings.trial.failures, latency=settings.trial.latency)


def stage_facts(home: Home, lake: Lake, record: TrialRecord, config: TrialConfig, *, plan: StagePlan) -> StageFacts:
    """The facts of the stage that the trial is at, since it entered it; problems where data are missing."""
    since = record.stages[-1].since
    watermark = lake.watermark("exposures")
    problems = []
    if plan.mode is not record.mode:
        problems.append(
            f"a person moved it to {record.mode}, which its plan has not; go on by `ratchet trial stage {record.id}`"
        )
    if watermark is None or watermark < since:
        watermark = since
        problems.append(f"no exposures have been ingested since the {record.mode} stage began")
    waiting = waiting_files(home)
    if waiting:
        problems.append(f"{waiting} files wait in the landing folder; ingest them first")
    facts = StageFacts(since=since, watermark=watermark, out=record.out, problems=tuple(problems))
    if problems:
        return facts
    if plan.mode is TrialMode.INTERLEAVE:
        alpha = config.interleave_alpha / len(config.challengers)
        credit = trial_credit(lake, config, since=since)
        judged = {arm: judge_interleaving(each.won, each.lost, alpha=alpha) for arm, each in credit.items()}
        return replace(facts, credit=judged)
    facts = replace(facts, served=trial_served(lake, config, since=since, stage=plan.mode))
    if plan.mode is TrialMode.SHADOW:
        return _with_failures(home, config, facts)
    first = next(stage.since for stage in record.stages if stage.mode is TrialMode.CANARY)
    short = within(config, hours=canary_window(config, plan))
    return replace(facts, sums=trial_sums(lake, short, since=first, out=record.out, canary=True))


def _with_failures(home: Home, config: TrialConfig, facts: StageFacts) -> StageFacts:
    """What a shadow's failures are only servers know: an answer that was not given is in no table."""
    trials = [stated.get("trial") or {} for stated in ask_servers(home)]
    fates = [trial["shadow"] for trial in trials if trial.get("id") == config.trial_id and "shadow" in trial]
    if not fates:
        silent = (
            "no server here tells how many requests of the shadow failed; run the trial's flow where serving runs, or "
            f"go on by `ratchet trial stage {config.trial_id}`"
        )
        return replace(facts, problems=(silent,))
    failed = sum(int(each.get("failed", 0)) for each in fates)
    standing = [each for each in config.challengers if each.name not in facts.out]
    if failed and len(standing) > 1:
        shared = f"{failed:,} requests of the shadow failed, of {len(standing)} challengers; serving's log tells whose"
        return replace(facts, problems=(shared,))
    served = dict(facts.served)
    for each in standing:
        found = served.get(each.name, Served())
        served[each.name] = replace(found, requests=found.requests + failed, failures=found.failures + failed)
    return replace(facts, served=served)


def stage_evidence(
    config: TrialConfig, facts: StageFacts, step: Step, *, plan: StagePlan, mode: TrialMode
) -> dict[str, Any]:
    """What a look at a stage before the comparison puts on record, beside what every look does. `mode`: where it is."""
    found: dict[str, Any] = {
        "stage": str(mode),
        "planned": told(plan),
        "since": facts.since.isoformat(),
        "watermark": facts.watermark.isoformat(),
        "verdict": step.verdict.value,
        "reasons": list(step.reasons),
        "out": list(step.out),
        "next": None if step.into is None else {"mode": str(step.into.mode), "share": step.into.share},
        "digests": {each.name: each.digest for each in config.challengers},
        "served": served_json(facts.served),
    }
    if facts.sums is not None:
        found["canary"] = facts.sums.as_json()
        found["canary_window_hours"] = canary_window(config, plan)
    if facts.credit:
        found["credit"] = {name: each.as_json() for name, each in facts.credit.items()}
    return found


def served_json(served: Mapping[str, Served]) -> dict[str, Any]:
    return {arm: each.as_json() for arm, each in served.items()}
