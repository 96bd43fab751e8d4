"""The frozen promise of a trial, from the settings of the moment it begins in."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from gate.boundaries import Spending
from gate.metrics import Better, Metric, Slice, Value
from gate.states import STAGES, TrialMode
from gate.trial import CHALLENGER, Challenger, StagePlan, TrialConfig
from relations.errors import UsageError
from stores.ledger_records import Champion, VersionRecord
from stores.settings import Settings
from stores.stages import share_of
from stores.trial_settings import TrialSettings

BOT_RULES = ("rate>30/min",)


def trial_config(
    settings: Settings,
    *,
    trial_id: str,
    challengers: Sequence[VersionRecord],
    champion: Champion,
    now: datetime,
    mode: TrialMode | None = None,
    share: float | None = None,
    is_aa: bool = False,
) -> TrialConfig:
    """`challengers`: the first one first. `mode`, `share`, `is_aa`: see `planned_stages`.

    The deadline is [trial] deadline_days of comparison, behind what the stages before it last at least.
    """
    stated = settings.trial
    first, *others = challengers
    seeds = ":".join((trial_id, *(each.digest for each in challengers), champion.digest, str(champion.epoch)))
    stages = planned_stages(stated, mode=mode, share=share, is_aa=is_aa)
    before = timedelta(hours=sum(stage.hours for stage in stages))
    config = TrialConfig(
        trial_id=trial_id,
        challenger_version=first.version,
        challenger_digest=first.digest,
        others=tuple(
            Challenger(f"{CHALLENGER}-{number}", each.version, each.digest)
            for number, each in enumerate(others, start=2)
        ),
        champion_version=champion.version,
        champion_digest=champion.digest,
        champion_epoch=champion.epoch,
        salt=hashlib.sha256(seeds.encode()).hexdigest()[:16],
        start=now,
        deadline=now + timedelta(days=stated.deadline_days) + before,
        n_max=stated.n_max,
        primary=metric_of(settings, stated.metric),
        guardrails=tuple(metric_of(settings, name) for name in stated.guardrails),
        slices=tuple(Slice(name, **each.model_dump()) for name, each in stated.slices.items()),
        is_aa=is_aa,
        stages=stages,
        allocation=stated.allocation,
        window_hours=stated.window_hours,
        before_days=stated.before_days,
        minimum_effect=stated.minimum_effect,
        min_users=stated.min_users,
        minimum_days=stated.minimum_days,
        looks=stated.looks,
        alpha=stated.alpha,
        spending=Spending(stated.spending),
        harm_alpha=stated.harm_alpha,
        interleave_alpha=stated.interleave.alpha,
        srm_alpha=stated.srm_alpha,
        bot_rules=BOT_RULES,
        bake_hours=0.0 if is_aa else stated.bake_hours,
        bake_margin=stated.bake_margin,
    )
    for stage in stages:  # said now, not when the trial would go on to it in the night
        share_of(trial_id, stage.mode, stage.share or None, compared=config.allocation)
    return config


def planned_stages(
    stated: TrialSettings, *, mode: TrialMode | None, share: float | None, is_aa: bool
) -> tuple[StagePlan, ...]:
    """[trial] stages with their lengths; from `mode` on, where one is named, whether the settings have it or not.

    `share`: of users, in the first stage, when that is a canary or interleaving; smaller steps of the canary are left
    out. An A/A trial is not interleaved: two equal rankings agree on every pick.
    """
    names = [TrialMode(name) for name in stated.stages]
    if mode is not None:
        names = list(dict.fromkeys([mode, *(name for name in names if STAGES.index(name) > STAGES.index(mode))]))
        names += [] if TrialMode.COMPARE in names else [TrialMode.COMPARE]
    plan = [
        stage for name in names for stage in _stages_of(stated, name) if not (is_aa and name is TrialMode.INTERLEAVE)
    ]
    if share is None:
        return tuple(plan)
    if plan[0].mode in (TrialMode.SHADOW, TrialMode.COMPARE):
        raise UsageError(
            f"allocation = {share}: the {plan[0].mode} has none to choose; name a canary or interleaving with --mode, "
            "or set [trial] allocation"
        )
    first = StagePlan(plan[0].mode, share=share, hours=plan[0].hours, least=plan[0].least)
    return first, *(stage for stage in plan[1:] if stage.mode is not first.mode or stage.share > share)


def metric_of(settings: Settings, name: str) -> Metric:
    """Raises UsageError for a name that is not declared."""
    stated = settings.trial.metrics.get(name)
    if stated is None:
        known = ", ".join(sorted(settings.trial.metrics))
        raise UsageError(f"[trial] metric {name!r} is not declared; known: {known}; add [trial.metrics.{name}]")
    kinds = {"value": Value(stated.value), "better": Better(stated.better), "weights": tuple(stated.weights.items())}
    return Metric(name, **{**stated.model_dump(), **kinds})


def _stages_of(stated: TrialSettings, mode: TrialMode) -> tuple[StagePlan, ...]:
    if mode is TrialMode.SHADOW:
        return (StagePlan(mode, hours=stated.shadow.hours, least=stated.shadow.requests),)
    if mode is TrialMode.CANARY:
        canary = stated.canary
        return tuple(StagePlan(mode, share=share, hours=canary.hours, least=canary.users) for share in canary.shares)
    if mode is TrialMode.INTERLEAVE:
        mixed = stated.interleave
        return (StagePlan(mode, share=mixed.share, hours=mixed.hours, least=mixed.users),)
    return (StagePlan(TrialMode.COMPARE),)
