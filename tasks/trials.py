"""Trials: freeze a configuration, look at what a stage has shown, record the decision, and let the trial go on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from gate.decision import Judgement, decide
from gate.life import judge_stage, present_stage
from gate.looks import LookSums
from gate.schedule import MIN_STEP
from gate.states import TrialMode
from gate.trial import StagePlan, TrialConfig
from gate.verdict import Verdict
from relations.errors import GateRefused, RatchetError, UsageError
from stores.bundle import open_bundle
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import GATE, TrialRecord
from stores.settings import Settings
from tasks.jobs import write_json
from tasks.killing import settle_kills
from tasks.spending import read_alpha_ledger
from tasks.sums import trial_served, trial_sums, waiting_files
from tasks.trial_page.page import write_trial_page
from tasks.trial_plans import trial_config
from tasks.trial_stages import served_json, served_limits, stage_evidence, stage_facts

RECORD_EVERY = timedelta(days=1)
"""A scheduled look that has nothing new to say is put on record this often all the same: evidence must not grow old."""


@task(name="start trial", cache_policy=NO_CACHE)
def start_trial(
    home: Home,
    settings: Settings,
    *,
    actor: str,
    now: datetime,
    challengers: Sequence[int] = (),
    is_aa: bool = False,
    allow_offline_worse: bool = False,
    mode: TrialMode | None = None,
    share: float | None = None,
) -> dict[str, Any]:
    """Freeze the configuration, open the trial in the ledger, write `trial.json`; returns the configuration.

    `challengers`: versions; none: the candidate. `is_aa`: the champion against itself, to test the measuring.
    `mode`: the stage to begin with; None: the first of [trial] stages. `share`: its share of users, see
    `tasks.trial_plans.planned_stages`.

    Raises GateRefused without a champion, a candidate, or where the ledger refuses, UsageError for settings that no
    trial can have.
    """
    ledger = Ledger.of(home, settings)
    champion = ledger.champion()
    if champion is None:
        raise GateRefused(
            f"{home.root}: no champion to meet; the first one is made by `ratchet trial bootstrap VERSION`"
        )
    if is_aa and challengers:
        raise UsageError("an A/A trial lets the champion meet itself; leave --challenger out")
    versions = [champion.version] if is_aa else list(challengers)
    if not versions:
        candidate = ledger.candidate()
        if candidate is None:
            raise GateRefused("no candidate: no version newer than the champion passed the offline check; train one")
        versions = [candidate.version]
    trial_id = f"trial-{len(ledger.trials()) + 1}"
    config = trial_config(
        settings,
        trial_id=trial_id,
        challengers=[ledger.version(version) for version in versions],
        champion=champion,
        now=now,
        mode=mode,
        share=share,
        is_aa=is_aa,
    )
    first = config.stages[0]
    ledger.open_trial(
        trial_id,
        config.as_json(),
        challengers=versions,
        salt=config.salt,
        allocation=config.allocation,
        actor=actor,
        now=now,
        is_aa=is_aa,
        allow_offline_worse=allow_offline_worse,
        simulation=home.simulation,
        mode=first.mode,
        share=first.share or None,
    )
    folder = home.trials / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "trial.json", config.as_json())
    return config.as_json()


@task(name="look", cache_policy=NO_CACHE)
def look_at_trial(
    home: Home, settings: Settings, *, trial_id: str, now: datetime, scheduled: bool = False
) -> dict[str, Any]:
    """Judge the trial's present stage on what it has shown so far, record the evidence, and go on to the next stage
    where the plan says so; returns the evidence, with `state`, `report` and `recorded`.

    `scheduled`: record only where there is something new, see `worth_recording`; a person's look is always recorded.
    Looks of the comparison are replayed from the ledger, so the decision follows from it alone. Raises GateRefused for
    a trial that is over, UsageError for an unknown one.
    """
    ledger, lake = Ledger.of(home, settings), Lake.of(home, settings.lake)
    settle_kills(home, ledger, now=now)
    record = ledger.trial(trial_id)
    config = _open_config(record)
    step: StagePlan | None = None
    if record.mode is TrialMode.COMPARE:
        judged = _compare(home, lake, record, config)
    else:
        judged, step = _early_stage(home, settings, lake, record, config)
    evidence = {
        **_standing(home, ledger, lake, record, config, challenger=judged.get("challenger"), now=now),
        **judged,
        "decision": judged["verdict"],
    }
    latest = record.evidence[-1] if record.evidence else None
    if scheduled and latest is not None and step is None:
        news = worth_recording(latest.evidence, evidence, n_max=config.n_max, age=now - latest.recorded)
        if not news:
            return _answer(home, record, evidence, recorded=False)
    ledger.record_evidence(trial_id, evidence, now=now)
    if step is not None:
        share = step.share or None
        ledger.set_stage(trial_id, step.mode, allocation=share, actor=GATE, reason=judged["reasons"][-1], now=now)
    record = ledger.trial(trial_id)
    write_json(home.trials / trial_id / f"look-{record.looks}.json", evidence)
    write_trial_page(home.reports / f"{trial_id}.html", record, k=settings.privacy.k)
    return _answer(home, record, evidence, recorded=True)


def worth_recording(before: Mapping[str, Any], found: Mapping[str, Any], *, n_max: int, age: timedelta) -> bool:
    """Whether a scheduled look says something that the one on record, `age` old, does not.

    A look that spends α is recorded whatever it shows: to keep only those that promote would be to peek. Any other can
    change the verdict by proven harm, by data that fail or are whole again, or at the trial's end, and then it is
    recorded; or when enough users matured, a challenger is out, or a day has passed. That nobody matured is no news.
    """
    if age >= RECORD_EVERY or before.get("stage") != found["stage"]:
        return True
    if list(before.get("out", ())) != list(found["out"]) or _spends(before, found):
        return True
    grown = _users(found) - _users(before)
    if grown >= MIN_STEP * n_max:
        return True
    if before["verdict"] == found["verdict"]:
        return False
    if not _is_compare(found):
        return True
    idle = {before["verdict"], found["verdict"]} == {Verdict.CONTINUE.value, Verdict.HOLD.value}
    return not (idle and grown == 0 and _problems(before) == _problems(found))


def aa_outcome(records: Sequence[TrialRecord], primary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest A/A trial with this primary metric, as evidence shows it; None where none was begun."""
    for record in reversed(records):
        if record.is_aa and record.config.get("primary") == primary:
            return {"trial": record.id, "state": str(record.state), "verdict": record.decision}
    return None


def newest_open_trial(ledger: Ledger) -> TrialRecord | None:
    return next((record for record in reversed(ledger.trials()) if record.is_open), None)


def _open_config(record: TrialRecord) -> TrialConfig:
    """The frozen configuration of a trial that may be looked at. Raises GateRefused for any other."""
    if not record.is_open:
        raise GateRefused(f"{record.id} is {record.state}; a trial that is over is not looked at again")
    if record.killed:
        raise GateRefused(
            f"{record.id} was killed: {record.killed.reason}; end it with `ratchet trial stop {record.id}`"
        )
    config = TrialConfig.from_json(record.config)
    if config.digest() != record.config_hash:
        raise GateRefused(f"{record.id}: its configuration does not hash to {record.config_hash}: an edit voids it")
    return config


def _compare(home: Home, lake: Lake, record: TrialRecord, config: TrialConfig) -> dict[str, Any]:
    """A look at the comparison: its numbers since it began, and the decision that follows from all its looks."""
    since = record.stages[-1].since if record.stages else config.start
    before = [LookSums.from_json(each.evidence["sums"]) for each in record.evidence if _is_compare(each.evidence)]
    sums = trial_sums(lake, config, since=since, out=record.out, waiting=waiting_files(home))
    if before and sums.watermark < before[-1].watermark:
        # Whose newest row told it has been forgotten; the data were complete to there all the same.
        sums = replace(sums, watermark=before[-1].watermark)
    judged: Judgement = decide(config, [*before, sums])
    served = trial_served(lake, config, since=since, stage=TrialMode.COMPARE)
    return {
        **judged.as_json(),
        "stage": str(TrialMode.COMPARE),
        "served": {arm: each for arm, each in served_json(served).items() if arm in config.arms},
    }


def _early_stage(
    home: Home, settings: Settings, lake: Lake, record: TrialRecord, config: TrialConfig
) -> tuple[dict[str, Any], StagePlan | None]:
    """A look at a stage before the comparison, and the stage that follows now."""
    place = present_stage(config, mode=record.mode, share=record.stages[-1].allocation)
    plan = config.stages[place]
    facts = stage_facts(home, lake, record, config, plan=plan)
    step = judge_stage(config, facts, place=place, limits=served_limits(settings))
    return stage_evidence(config, facts, step, plan=plan, mode=record.mode), step.into


def _standing(
    home: Home,
    ledger: Ledger,
    lake: Lake,
    record: TrialRecord,
    config: TrialConfig,
    *,
    challenger: str | None,
    now: datetime,
) -> dict[str, Any]:
    """What every look puts on record beside its numbers: which data, which bundles, and what is known of the gate."""
    versions = lake.versions()
    named = {each.name: each for each in config.challengers}
    about = named[challenger] if challenger else config.challengers[0]
    records = ledger.trials()
    return {
        "trial_id": config.trial_id,
        "config_hash": record.config_hash,
        "look": record.looks + 1,
        "data_versions": {name: versions[name] for name in ("events", "exposures") if name in versions},
        "champion_digest": config.champion_digest,
        "challenger_digest": about.digest,
        "champion_epoch": config.champion_epoch,
        "parity": _parity(home, about.digest),
        "alpha_ledger": _alpha_ledger(ledger, config, now=now),
        "aa": None if config.is_aa else aa_outcome(records, record.config["primary"]),
    }


def _alpha_ledger(ledger: Ledger, config: TrialConfig, *, now: datetime) -> dict[str, Any]:
    """What luck may have promoted here so far, this trial's earlier looks included."""
    told = read_alpha_ledger(ledger, now=now, alpha=config.alpha).as_json()
    return {name: told[name] for name in ("trials", "expected_false", "a_year", "promotions")}


def _parity(home: Home, digest: str) -> dict[str, Any] | None:
    """How well ONNX reproduced the network when the bundle was made; None where nothing attests it."""
    try:
        stated = open_bundle(home.releases, digest).attestation.get("parity")
    except RatchetError:
        return None
    return dict(stated) if stated else None


def _answer(home: Home, record: TrialRecord, evidence: Mapping[str, Any], *, recorded: bool) -> dict[str, Any]:
    return {
        **evidence,
        "state": str(record.state),
        "mode": str(record.mode),
        "recorded": recorded,
        "report": str(home.reports / f"{record.id}.html"),
        "evidence_sha256": record.evidence[-1].sha256 if record.evidence else None,
    }


def _is_compare(evidence: Mapping[str, Any]) -> bool:
    """Whether a look was at the comparison; the others hold no numbers of it."""
    return str(evidence.get("stage", TrialMode.COMPARE)) == TrialMode.COMPARE


def _comparisons(evidence: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    several: Mapping[str, Mapping[str, Any]] = evidence.get("comparisons") or {}
    return several or {str(evidence.get("challenger")): evidence}


def _spends(before: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a comparison tests here that had not had its last test before."""
    known = _comparisons(before)
    return any(each.get("tested") and not known.get(arm, {}).get("final") for arm, each in _comparisons(found).items())


def _users(evidence: Mapping[str, Any]) -> float:
    """Matured users of all arms."""
    metrics = evidence.get("sums", {}).get("metrics", {})
    return max((sum(float(row["n"]) for row in rows) for rows in metrics.values()), default=0.0)


def _problems(evidence: Mapping[str, Any]) -> list[str]:
    return list(evidence.get("sums", {}).get("problems", []))
