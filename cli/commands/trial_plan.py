"""`ratchet trial plan | screen | alpha`: what can be known before a trial, and what all trials cost together."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from cli.console import DAYS, Context, Result, command


@command("plan")
@click.option("--mde", "effect", type=float, help="Relative effect to find, such as 0.03; default: minimum_effect.")
@click.option("--days", type=DAYS, help="Instead: which effect so many days of comparison can find.")
@click.option("--power", type=float, default=0.8, show_default=True, help="How surely the effect is to be found.")
@click.option("--metric", help="The primary metric, a name in [trial.metrics]; default: [trial] metric.")
@click.option("--challengers", type=int, default=1, show_default=True, help="That meet the champion at once.")
@click.option("--rate", type=float, help="Assumed rate, while nobody who was shown something has matured.")
@click.option("--history", type=int, default=28, show_default=True, help="Days of the past to learn from.")
def plan(
    context: Context,
    *,
    effect: float | None,
    days: float | None,
    power: float,
    metric: str | None,
    challengers: int,
    rate: float | None,
    history: int,
) -> Result:
    """How many users and days a trial takes on this home's own traffic; changes nothing."""
    from stores.lake import Lake
    from tasks.planning import PlanQuestion, plan_trial

    question = PlanQuestion(effect, days, power, metric, challengers, rate, history)
    with closing(Lake.of(context.home, context.settings.lake)) as lake:
        found = plan_trial(lake, context.settings, question)
    return Result(found.as_json(), tuple(_plan_lines(found, asked_days=days)))


def _plan_lines(found: Any, *, asked_days: float | None) -> list[str]:
    primary, chosen, design = found.primary, found.chosen.plan, found.design
    seen = f"over {primary.users:,} users" if primary.users else "assumed"
    lines = [
        f"{primary.name}: {primary.rate:.5g} {seen}; CUPED takes {primary.reduction:.0%} of the variance away",
        f"test: one-sided α = {design.alpha:.4g}, {design.spending.value}, {design.looks} looks, "
        f"{design.power:.0%} power; looking costs {design.inflation - 1:.1%} more users at most",
        "",
        f"{'effect':>8}  {'users at most':>13}  {'days':>6}  {'mean users':>10}  {'days':>6}  {'one look':>10}  whose",
        *(
            f"{row.plan.effect:>+8.2%}  {row.plan.n_max:>13,}  {_days(row.days):>6}  {row.plan.mean_users:>10,}  "
            f"{_days(row.mean_days):>6}  {row.plan.fixed:>10,}  {row.plan.binding}"
            f"{'   ←' if row is found.chosen else ''}"
            for row in found.table
        ),
        "",
    ]
    if found.within is not None:
        users, effect = found.within
        lines.append(
            f"{asked_days:g} days bring {users:,.0f} matured users to the two arms: an effect of {effect:+.2%} is "
            f"found with {design.power:.0%} power"
        )
    days = "never on this traffic" if found.chosen.days is None else f"{found.chosen.days:.0f} days"
    lines.append(
        f"an effect of {chosen.effect:+.2%} needs {chosen.n_max:,} matured users at most, {chosen.mean_users:,} on "
        f"average if it is there: {days}"
    )
    lines += [f"  {each.metric}: {_users(each.users)}, {each.why}" for each in chosen.requirements]
    return [*lines, *(f"note: {note}" for note in found.notes), "", *found.lines]


def _days(days: float | None) -> str:
    return "never" if days is None else f"{days:.1f}"


def _users(users: int | None) -> str:
    return "no number of users" if users is None else f"{users:,} users"


@command("screen")
@click.option("--challenger", type=int, required=True, help="A version.")
@click.option("--metric", help="A metric per impression, a name in [trial.metrics]; default: [trial] metric.")
@click.option("--days", type=DAYS, default=28, show_default=True, help="How far back the champion's log is read.")
@click.option("--requests", type=click.IntRange(1), default=2_000, show_default=True, help="At most so many of them.")
def screen(context: Context, *, challenger: int, metric: str | None, days: float, requests: int) -> Result:
    """What a challenger would have earned on the champion's logged requests; decides and changes nothing."""
    from tasks.screening import screen_challenger

    found = screen_challenger(
        context.home, context.settings, challenger=challenger, metric=metric, days=days, most=requests
    )
    return Result(found.as_json(), tuple(_screen_lines(found)), 4 if found.refused else 0)


def _screen_lines(found: Any) -> list[str]:
    if not found.log.requests:
        return ["no answer:", *(f"  {reason}" for reason in found.reasons)]
    lines = [
        f"{found.metric} per impression, slot by slot given the slots above as they were shown, on "
        f"{len(found.log.requests):,} requests of {found.log.users:,} users from {found.since:%Y-%m-%d} to "
        f"{found.until:%Y-%m-%d}; of {found.read:,}, these have the candidates that were logged"
    ]
    if found.rebuilt is not None:
        lines.append(f"{found.rebuilt:.0%} of the champion's own slots come out with the propensity that was logged")
    for name, version, value in (
        ("champion", found.champion_version, found.champion),
        ("challenger", found.challenger_version, found.challenger),
    ):
        if value is None:
            continue
        overlap = value.overlap
        lines.append(
            f"{name} v{version}: {overlap.rows:,} slots weigh as {overlap.effective:,.0f} ({overlap.share:.0%}), mean "
            f"weight {overlap.mean_weight:.3f}, largest {overlap.largest_weight:,.0f}"
        )
        lines += [
            f"  {each.estimator.value:<6} {each.value:.5f} in [{each.lower:.5f}, {each.upper:.5f}]"
            for each in value.values
        ]
    if found.refused:
        return [*lines, "no answer:", *(f"  {reason}" for reason in found.reasons)]
    said = {
        "better": "the challenger looks better; only a trial can show it",
        "worse": "the challenger looks worse",
        "not told apart": "the two are not told apart by this log",
    }
    return [*lines, f"all six intervals hold at once with 95 %: {said[found.reading]}"]


@command("alpha")
def alpha(context: Context) -> Result:
    """What luck may have promoted: the α that this home's trials have spent together."""
    from stores.ledger import Ledger
    from tasks.spending import read_alpha_ledger

    settings = context.settings
    found = read_alpha_ledger(Ledger.of(context.home, settings), now=context.now, alpha=settings.trial.alpha)
    return Result(found.as_json(), tuple(_alpha_lines(found, alpha=settings.trial.alpha)))


def _alpha_lines(found: Any, *, alpha: float) -> list[str]:
    lines = [
        f"{each.trial}: {each.opened:%Y-%m-%d}, α spent {each.spent:.4f}{', promoted' if each.promoted else ''}"
        for each in found.spendings
    ]
    share = "none yet" if found.may_be_false is None else f"{found.may_be_false:.0%} of {found.promotions}"
    return [
        *(lines or ["no trials yet"]),
        "",
        "if no challenger were ever better than its champion:",
        f"  false promotions expected so far: {found.expected_false:.3f} over {len(found.spendings):,} trials",
        f"  a year at this pace: {found.a_year:.3f} over {found.trials_a_year:.0f} trials",
        f"  promotions that luck alone could explain: {share}",
        "",
        f"trials a year   expected false   at least one (each at α = {alpha:g})",
        *(f"{each.trials_a_year:>13}   {each.expected_false:>14.2f}   {each.any_false:>12.0%}" for each in found.paces),
    ]


PLANNING: Sequence[click.Command] = (plan, screen, alpha)
