"""How long a trial would take here: the lake's own traffic, rates and variances, put to `gate.planning`."""

import math
from dataclasses import dataclass
from typing import Any

from gate.accumulation import FAR, Accumulation
from gate.boundaries import Spending
from gate.metrics import Better, Metric, Value
from gate.planning import Design, Observed, Plan, detectable_effect, plan
from relations.errors import UsageError
from relations.traffic import shown_to
from stores.lake import Lake
from stores.settings import Settings
from stores.trial_settings import TrialSettings
from tasks.observing_traffic import observe_arrivals, observe_metrics, somebody_matured
from tasks.trial_plans import metric_of

EFFECTS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
"""Relative effects that the table shows beside the asked one."""
RESERVE = 1.2
"""The proposed deadline over the expected days: traffic falls now and then."""


@dataclass(frozen=True)
class PlanQuestion:
    """`effect`: relative; None: [trial] minimum_effect, or with `days` what they can detect. `rate`: assumed, for a
    lake in which nobody who was shown something has matured. `history_days`: how far back traffic and rates go."""

    effect: float | None = None
    days: float | None = None
    power: float = 0.8
    metric: str | None = None
    challengers: int = 1
    rate: float | None = None
    history_days: int = 28


@dataclass(frozen=True)
class PlanRow:
    """One effect. `days`: of comparison until n_max, `mean_days` until the mean; None: traffic never brings so many."""

    plan: Plan
    days: float | None
    mean_days: float | None

    def as_json(self) -> dict[str, Any]:
        return {**self.plan.as_json(), "days": self.days, "mean_days": self.mean_days}


@dataclass(frozen=True)
class TrialPlan:
    """The answer: `chosen` among the rows of `table`.

    `compared`: the share of all users that one comparison gets. `traffic`: what tells of users, exposures or events.
    `lines`: for ratchet.toml. `notes`: what was assumed.
    """

    primary: Observed
    chosen: PlanRow
    table: tuple[PlanRow, ...]
    design: Design
    compared: float
    traffic: str
    accumulation: Accumulation
    within: tuple[float, float] | None
    """With `days` asked for: (users matured by then, the relative effect that they detect)."""
    lines: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        found = self.accumulation
        return {
            "metric": self.primary.name,
            "observed": {**vars(self.primary), "reduction": self.primary.reduction},
            "design": {
                **{name: getattr(self.design, name) for name in ("alpha", "looks", "power", "challenger_share")},
                "spending": self.design.spending.value,
                "inflation": self.design.inflation,
            },
            "plan": self.chosen.as_json(),
            "table": [row.as_json() for row in self.table],
            "within": None
            if self.within is None
            else {"users": self.within[0], "effect": None if math.isinf(self.within[1]) else self.within[1]},
            "traffic": {
                "source": self.traffic,
                "days_seen": found.days_seen,
                "cumulative": list(found.cumulative),
                "unseen": found.unseen,
                "compared": self.compared,
            },
            "lines": list(self.lines),
            "notes": list(self.notes),
        }


def plan_trial(lake: Lake, settings: Settings, question: PlanQuestion) -> TrialPlan:
    """Answer from the lake. Writes nothing.

    Raises UsageError for an unknown metric, fewer than two days of traffic, a metric without outcomes, no matured
    users and no stated rate, or numbers that no test can have.
    """
    stated = settings.trial
    primary = metric_of(settings, question.metric or stated.metric)
    if primary.better is Better.LOWER:
        raise UsageError(
            f"metric {primary.name}: less of it is better; the primary metric must be one of which more is"
        )
    if not question.challengers >= 1:
        raise UsageError(f"plan: challengers = {question.challengers} must be 1 or more")
    rails = [metric_of(settings, name) for name in stated.guardrails if name != primary.name]
    design = _design(stated, question)
    compared, notes = _share_compared(settings, challengers=question.challengers)
    until = lake.watermark("exposures")
    young = until is not None and not somebody_matured(lake, stated, until=until)
    if until is None or (young and question.rate is not None):
        observed, accumulation, said = _from_events(lake, primary, question, young=young)
        rails = []
        traffic = "events"
    else:
        if question.rate is not None:
            raise UsageError("plan: the lake has matured users, who tell the rate; leave --rate out")
        if young:
            raise UsageError(
                f"plan: nobody who was shown something has matured, which takes [trial] window_hours = "
                f"{stated.window_hours:g}; wait for it, or assume a rate with --rate"
            )
        metrics, said = observe_metrics(
            lake,
            stated,
            (primary, *rails),
            until=until,
            history_days=question.history_days,
            k=settings.privacy.k,
        )
        observed = metrics[primary.name]
        accumulation = observe_arrivals(
            shown_to(lake.relation("exposures")), until=until, history_days=question.history_days
        )
        traffic = "exposures"
    notes = (*said, *notes)
    guarded = [(rail, metrics[rail.name]) for rail in rails]

    def row(effect: float) -> PlanRow:
        found = plan(observed, guarded, design=design, effect=effect)
        ends = (found.n_max, found.mean_users)
        days, mean_days = (_days(users, accumulation, compared=compared, stated=stated) for users in ends)
        return PlanRow(found, days, mean_days)

    within = None
    effect = question.effect
    if question.days is not None:
        users = compared * accumulation.users(max(0.0, question.days - stated.window_hours / 24))
        detected = detectable_effect(observed, design=design, users=users)
        within = (users, detected)
        if effect is None and math.isfinite(detected):
            effect = detected
    effect = stated.minimum_effect if effect is None else effect
    table = {each: row(each) for each in sorted({*EFFECTS, effect})}
    chosen = table[effect]
    return TrialPlan(
        primary=observed,
        chosen=chosen,
        table=tuple(table.values()),
        design=design,
        compared=compared,
        traffic=traffic,
        accumulation=accumulation,
        within=within,
        lines=_lines(chosen, stated=stated, metric=primary.name),
        notes=(*notes, *_about(chosen, accumulation, stated=stated, asked_days=question.days)),
    )


def _design(stated: TrialSettings, question: PlanQuestion) -> Design:
    count, treated = question.challengers, stated.allocation
    each = treated / count
    return Design(
        alpha=stated.alpha / count,
        spending=Spending(stated.spending),
        looks=stated.looks,
        power=question.power,
        challenger_share=each / (1 - treated + each),
    )


def _share_compared(settings: Settings, *, challengers: int) -> tuple[float, tuple[str, ...]]:
    """The share of all users in one comparison, and what was taken off."""
    stated, held = settings.trial, settings.policy.holdback
    notes = []
    share = 1 - stated.allocation + stated.allocation / challengers
    if "canary" in stated.stages and stated.canary.shares:
        out = min(1.0, max(stated.canary.shares) / stated.allocation)  # the treated, and as large a part of the others
        share *= 1 - out
        notes.append(f"{out:.1%} of users meet the canary, treated or not, and stay out of the comparison")
    if held:
        share *= 1 - held
        notes.append(f"{held:.1%} of users are held back from every trial")
    if share <= 0:
        raise UsageError("plan: the canary takes all users; lower [trial.canary] shares or raise [trial] allocation")
    return share, tuple(notes)


def _from_events(
    lake: Lake, primary: Metric, question: PlanQuestion, *, young: bool
) -> tuple[Observed, Accumulation, tuple[str, ...]]:
    """`young`: there are exposures, and nobody has matured."""
    if question.rate is None:
        raise UsageError(
            "plan: the lake has no exposures yet, so no rate is known; serve, and ingest what serving logged "
            "(`ratchet ingest`), or assume one with --rate"
        )
    if primary.value is Value.SUM:
        raise UsageError(f"metric {primary.name}: sums have no assumed variance; --rate is for yes-or-no outcomes")
    until = lake.watermark("events")
    if until is None:
        raise UsageError("plan: the lake has no events, so no traffic is known; ingest some first (`ratchet ingest`)")
    events = lake.relation("events")
    seen = events.select("user", at=events.event_time)
    arrivals = observe_arrivals(seen, until=until, history_days=question.history_days)
    notes = (
        f"{'nobody has matured' if young else 'no exposures'} yet: a rate of {question.rate:g} with one impression a "
        "user is assumed, and every user with an event is taken to ask for recommendations",
    )
    return Observed.assumed(primary.name, rate=question.rate), arrivals, notes


def _days(users: int, accumulation: Accumulation, *, compared: float, stated: TrialSettings) -> float | None:
    """Days of comparison until so many users have matured: they come, then W passes; no fewer than minimum_days."""
    coming = accumulation.days(users / compared)
    return None if coming is None else max(coming + stated.window_hours / 24, stated.minimum_days)


def _lines(chosen: PlanRow, *, stated: TrialSettings, metric: str) -> tuple[str, ...]:
    days = chosen.days
    n_max = max(stated.min_users, math.ceil(chosen.plan.n_max / 100) * 100)
    deadline = None if days is None else max(math.ceil(days * RESERVE), math.ceil(stated.minimum_days))
    return (
        "[trial]",
        f'metric = "{metric}"',
        f"minimum_effect = {chosen.plan.effect:.4g}",
        f"n_max = {n_max}",
        "# deadline_days: this traffic never brings so many users"
        if deadline is None
        else f"deadline_days = {deadline}",
    )


def _about(
    chosen: PlanRow, accumulation: Accumulation, *, stated: TrialSettings, asked_days: float | None
) -> tuple[str, ...]:
    notes, days = [], chosen.days
    seen = accumulation.days_seen
    if days is None:
        notes.append(
            f"about {accumulation.cumulative[-1] + accumulation.unseen:,.0f} different users exist by the last {seen} "
            "days' visits, too few for this plan: look for a larger effect, let more users into the comparison, or "
            "choose a metric with less noise"
        )
    elif days - stated.window_hours / 24 > seen:
        far = ", far beyond what that can tell" if days > FAR * seen else ""
        notes.append(f"{days:.0f} days are extrapolated from {seen} days of visits (Chao's estimator){far}")
    if seen < 14:
        notes.append(f"traffic was seen for {seen} days; with two weeks or more, weekends are in it")
    if days is not None and days == stated.minimum_days:
        notes.append(f"[trial] minimum_days = {stated.minimum_days:g} decides how long it takes, not the users")
    if asked_days is not None and asked_days < stated.minimum_days:
        notes.append(f"[trial] minimum_days = {stated.minimum_days:g}: nothing is promoted within {asked_days:g} days")
    unprovable = [each for each in chosen.plan.requirements if each.users is None]
    notes += [f"guardrail {each.metric}: {each.why}" for each in unprovable]
    return tuple(notes)
