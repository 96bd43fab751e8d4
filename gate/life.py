"""The trial's way to its comparison: what a stage has shown, and where the trial goes from there.

- **shadow** goes on when its hours are over and enough requests were scored; a challenger is taken out when too many
  failures are proven, or its p99 is too slow at the end; held when data are missing or another bundle answered
- **canary** goes on when its hours are over and enough users were shown it; a challenger is taken out as in the shadow,
  or when harm is proven; held as in the shadow, and when the users do not split as declared
- **interleave** goes on when its hours are over and the challenger is preferred, or the planned users are used up; a
  challenger is taken out when it is proven to lose; held when data are missing
- **compare** is judged by `gate.decision` alone

No stage here promotes: all that it can do is let the trial go on to the next planned one, and the last is the
comparison. Challengers are taken out one by one, and the trial is rejected with the last of them. Missing data always
holds: it never lets a trial go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gate.confidence import holm, one_sided_p, tuned_rho
from gate.estimator import ArmSums, estimate
from gate.guardrails import judge_guardrail
from gate.interleaving import InterleavingVerdict, Preference
from gate.looks import LookSums
from gate.metrics import RETURN, Metric
from gate.mismatch import mismatch_p
from gate.served import Served, ServedLimits, slowness_unknown, too_many_failures, too_slow
from gate.states import STAGES, TrialMode
from gate.trial import CHAMPION, Challenger, StagePlan, TrialConfig
from gate.verdict import Verdict
from relations.errors import UsageError

MIN_CANARY_USERS = 50
"""Matured users of an arm before harm is looked for: below it an asymptotic sequence promises nothing."""
EARLY = frozenset({Verdict.CONTINUE, Verdict.HOLD, Verdict.REJECT, Verdict.INCONCLUSIVE})
"""All that a stage before the comparison can say."""


@dataclass(frozen=True)
class StageFacts:
    """What a stage before the comparison has shown so far.

    `since`: when it began; `watermark`: event time up to which data are complete. `served`: by arm, the answers since
    then, the champion's of the same time among them. `sums`: the canary's own users and their control group, over all
    of the trial's canary, within `canary_window`. `credit`: by challenger, the signs of interleaved users. `out`:
    challengers that an earlier look has rejected. `problems`: why these data cannot be trusted; any means HOLD.
    """

    since: datetime
    watermark: datetime
    served: Mapping[str, Served] = field(default_factory=dict)
    sums: LookSums | None = None
    credit: Mapping[str, InterleavingVerdict] = field(default_factory=dict)
    out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def of(self, arm: str) -> Served:
        return self.served.get(arm, Served())


@dataclass(frozen=True)
class Step:
    """What a look at a stage says. `into`: the stage that the trial goes on to; None: it stays, or is over.

    `out`: every challenger rejected so far.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    into: StagePlan | None = None
    out: tuple[str, ...] = ()


def present_stage(config: TrialConfig, *, mode: TrialMode, share: float) -> int:
    """The place in the plan of the stage that a trial is at; of a share in between, of the step below it.

    A person may have moved it past what was planned: then it is the nearest planned stage before, or the first one.
    """
    order = STAGES
    passed = [
        place
        for place, plan in enumerate(config.stages)
        if order.index(plan.mode) < order.index(mode)
        or (plan.mode is mode and (mode is not TrialMode.CANARY or plan.share <= share * (1 + 1e-9)))
    ]
    return passed[-1] if passed else 0


def judge_stage(config: TrialConfig, facts: StageFacts, *, place: int, limits: ServedLimits) -> Step:
    """Judge the stage at `place` of the plan. Never PROMOTE.

    Raises UsageError for the comparison, which `gate.decision.decide` judges, and for a place beyond the plan.
    """
    if not 0 <= place < len(config.stages) or config.stages[place].mode is TrialMode.COMPARE:
        raise UsageError(f"{config.trial_id}: stage {place} of its plan is none before the comparison")
    plan = config.stages[place]
    standing = tuple(each for each in config.challengers if each.name not in facts.out)
    missing = facts.problems or _untrusted(config, plan, facts, standing)
    if missing:
        return Step(Verdict.HOLD, missing, out=facts.out)
    fallen = {each.name: why for each in standing if (why := _against(config, plan, facts, each, limits=limits))}
    out = (*facts.out, *fallen)
    named = tuple(f"{_name(config, arm)}{reason}" for arm, reasons in fallen.items() for reason in reasons)
    left = tuple(each for each in standing if each.name not in fallen)
    if not left:
        return Step(Verdict.REJECT, named or (f"no challenger is left at the {plan.mode} stage",), out=out)
    waits = _waits(config, plan, facts, left)
    if not waits:
        following = config.stages[place + 1]
        return Step(Verdict.CONTINUE, (*named, f"on to {told(following)}: {_done(plan, facts)}"), following, out)
    if facts.watermark >= config.deadline:
        came = f"the deadline {config.deadline:%Y-%m-%d %H:%M} UTC came at the {plan.mode} stage"
        return Step(Verdict.INCONCLUSIVE, (came, *named, *waits), out=out)
    return Step(Verdict.CONTINUE, (*named, *(f"{plan.mode}: {wait}" for wait in waits)), out=out)


def canary_window(config: TrialConfig, plan: StagePlan) -> float:
    """Hours after a user's first exposure within which outcomes count in a canary: half of a step, at most W.

    A canary of six hours that waited for W = 24 would see nobody mature and stop nothing. Both arms are measured alike,
    so a shorter window is as fair; only a metric of returning users means nothing before its own is over.
    """
    if config.primary.outcome == RETURN or not plan.hours:
        return config.window_hours
    return min(config.window_hours, plan.hours / 2)


def within(config: TrialConfig, *, hours: float) -> TrialConfig:
    """The configuration with outcomes counted within so many hours at most, guardrails of returning users left out."""

    def cut(metric: Metric) -> Metric:
        return replace(metric, window_hours=None if metric.window_hours is None else min(metric.window_hours, hours))

    if hours >= config.window_hours:
        return config
    rails = tuple(cut(each) for each in config.guardrails if each.outcome != RETURN)
    return replace(config, primary=cut(config.primary), guardrails=rails, window_hours=hours)


def told(plan: StagePlan) -> str:
    """A stage in words."""
    return str(plan.mode) if not plan.share else f"{plan.mode} with {plan.share:.4g} of users"


def _untrusted(
    config: TrialConfig, plan: StagePlan, facts: StageFacts, standing: tuple[Challenger, ...]
) -> tuple[str, ...]:
    """Why nothing can be said: data that are missing or cannot be right."""
    if plan.mode is TrialMode.INTERLEAVE:
        return tuple(
            f"no interleaved users of {each.name} are known" for each in standing if each.name not in facts.credit
        )
    found = []
    if not facts.of(CHAMPION).requests:
        found.append(f"no answers of the champion beside the {plan.mode} stage were logged")
    for each in standing:
        served = facts.of(each.name)
        strange = sorted(set(served.digests) - {each.digest})
        if not served.requests:
            found.append(f"no answers of {each.name} at the {plan.mode} stage were logged")
        if strange:
            other = ", ".join(f"{digest[:12]}…" for digest in strange)
            found.append(f"{each.name} is {each.digest[:12]}…, and answers of {other} are logged as its own")
    if plan.mode is TrialMode.CANARY:
        found += _canary_problems(config, facts.sums, standing)
    return tuple(found)


def _canary_problems(config: TrialConfig, sums: LookSums | None, standing: tuple[Challenger, ...]) -> list[str]:
    if sums is None:
        return ["no sums of the canary's users"]
    found = list(sums.problems)
    for each in standing:
        exposed = sums.exposed.get(CHAMPION, 0), sums.exposed.get(each.name, 0)
        p = mismatch_p([exposed], expected=config.pair(each.name))
        if sum(exposed) and p < config.srm_alpha:
            found.append(
                f"sample-ratio mismatch in the canary: {exposed[0]:,} champion and {exposed[1]:,} {each.name} users, "
                f"p = {p:.2g} < {config.srm_alpha:g}"
            )
    return found


def _against(
    config: TrialConfig, plan: StagePlan, facts: StageFacts, challenger: Challenger, *, limits: ServedLimits
) -> tuple[str, ...]:
    """Why the challenger goes no further; empty while nothing is proven against it."""
    if plan.mode is TrialMode.INTERLEAVE:
        credit = facts.credit[challenger.name]
        return (credit.reason,) if credit.preference is Preference.PRUNE else ()
    served, champion = facts.of(challenger.name), facts.of(CHAMPION)
    found = [too_many_failures(served, champion, limits=limits)]
    if _enough(plan, facts, challenger):  # a percentile is of the whole stage; in between it is anybody's
        found.append(too_slow(served, champion, limits=limits))
    if plan.mode is TrialMode.CANARY and facts.sums is not None:
        found += _harm(config, facts.sums, challenger)
    return tuple(reason for reason in found if reason)


def _harm(config: TrialConfig, sums: LookSums, challenger: Challenger) -> list[str]:
    """The comparison's harm rule on the canary's own users, with an α_harm of its own: Holm over metrics, any time.

    ρ is tuned at the users that a first look of the comparison needs, because canaries are small; any ρ that was fixed
    before is valid.
    """
    rails = [metric for metric in config.guardrails if metric.name in sums.metrics]
    metrics = {metric.name: sums.metrics[metric.name] for metric in (config.primary, *rails)}
    pairs = {name: (found.arm(CHAMPION), found.arm(challenger.name)) for name, found in metrics.items()}
    champion, own = pairs[config.primary.name]
    if min(champion.n, own.n) < MIN_CANARY_USERS or not (champion.i and own.i):
        return []
    alpha = config.harm_alpha_each
    p_values = {config.primary.name: harm_p(champion, own, alpha=alpha, users=config.min_users)}
    for metric in rails:
        if not all(arm.n >= MIN_CANARY_USERS and arm.i for arm in pairs[metric.name]):
            continue
        judged = judge_guardrail(
            metric,
            champion=pairs[metric.name][0],
            challenger=pairs[metric.name][1],
            boundary=None,
            harm_alpha=alpha,
            n_max=config.min_users,
        )
        p_values[metric.name] = judged.harm_p
    return [
        f"{name}: proven harm in the canary, {_rate(pairs[name][1])} against {_rate(pairs[name][0])} over "
        f"{int(champion.n):,} and {int(own.n):,} users (always-valid p = {p_values[name]:.2g})"
        for name in holm(p_values, alpha=alpha)
    ]


def harm_p(champion: ArmSums, challenger: ArmSums, *, alpha: float, users: float) -> float:
    """Always-valid p that the challenger's rate is not below the champion's. `users`: where it is tightest."""
    found = estimate(champion.array(), challenger.array())
    rho = tuned_rho(alpha=2 * alpha, users=users)
    return one_sided_p(float(found.z), users=champion.n + challenger.n, rho=rho)


def _waits(
    config: TrialConfig, plan: StagePlan, facts: StageFacts, standing: tuple[Challenger, ...]
) -> tuple[str, ...]:
    """What the stage still waits for; empty when it is complete."""
    waits = []
    until = facts.since + timedelta(hours=plan.hours)
    if facts.watermark < until:
        waits.append(f"lasts until {until:%Y-%m-%d %H:%M} UTC ({plan.hours:g} hours)")
    for each in standing:
        if not _enough(plan, facts, each):
            waits.append(f"{_name(config, each.name)}{_short(plan, facts, each)}")
        elif plan.mode is TrialMode.SHADOW:
            # Not in a canary, which is few users by design: there a percentile is judged where it can be.
            waits.append(slowness_unknown(facts.of(each.name), facts.of(CHAMPION)))
    return tuple(wait for wait in waits if wait)


def _enough(plan: StagePlan, facts: StageFacts, challenger: Challenger) -> bool:
    if plan.mode is TrialMode.INTERLEAVE:
        credit = facts.credit[challenger.name]
        return credit.preference is Preference.PREFERRED or credit.wins + credit.losses >= plan.least
    return _seen(plan, facts, challenger) >= plan.least


def _seen(plan: StagePlan, facts: StageFacts, challenger: Challenger) -> int:
    if plan.mode is TrialMode.SHADOW:
        return facts.of(challenger.name).requests
    return facts.sums.exposed.get(challenger.name, 0) if facts.sums else 0


def _short(plan: StagePlan, facts: StageFacts, challenger: Challenger) -> str:
    if plan.mode is TrialMode.INTERLEAVE:
        credit = facts.credit[challenger.name]
        return f"{credit.wins + credit.losses:,} of {plan.least:,} users with a preference; {credit.reason}"
    what = "requests scored" if plan.mode is TrialMode.SHADOW else "users were shown it"
    return f"{_seen(plan, facts, challenger):,} of {plan.least:,} {what}"


def _done(plan: StagePlan, facts: StageFacts) -> str:
    return f"{told(plan)} showed nothing against it since {facts.since:%Y-%m-%d %H:%M} UTC"


def _name(config: TrialConfig, arm: str) -> str:
    """Whom a reason is about, where there are several."""
    return f"{arm}: " if len(config.challengers) > 1 else ""


def _rate(sums: ArmSums) -> str:
    return f"{sums.s / sums.i:.5f}" if sums.i else "–"
