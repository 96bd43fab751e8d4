"""Whose picks of an interleaved list users chose, as Ibis expressions.

A list is drafted from the champion's ranking and a challenger's, and each exposure's digest names the team that picked
it. Picks that the coin could not have changed, and those that fill a list when one ranking has nothing left, give no
credit: only the policy `team-draft` itself does ("neutral credit", see `serving.choosing.interleaving`).
"""

from collections.abc import Sequence

import ibis

from relations.schemas import ITEM_BEHAVIOURS
from relations.sequences import moment
from relations.sums import WEIGHTED, OutcomeRule, span
from relations.trial_users import TrialWindow, counted

INTERLEAVED = "interleaved"
TEAM_DRAFT = "team-draft"


def user_credits(
    exposures: ibis.Table,
    events: ibis.Table,
    *,
    window: TrialWindow,
    rule: OutcomeRule,
    champion: str,
    challengers: Sequence[str],
) -> ibis.Table:
    """One row a matured user of the interleaving: `user`, `challenger` (its digest), `for_champion`, `for_challenger`:
    the outcomes of `rule` that name a pick of theirs, within the rule's window after the user's first interleaved list.

    `champion`, `challengers`: digests. `window.start`: when the interleaving began. Of several challengers each user
    meets one, and its picks tell which. There, who saw picks of one team alone is left out, as a coin decides whose.

    Raises ValueError for a rule whose outcomes name no item: told by the exposures, or a return.
    """
    if rule.outcome not in (*ITEM_BEHAVIOURS, WEIGHTED):
        raise ValueError(f"outcome = {rule.outcome!r} names no pick; credit needs one of {', '.join(ITEM_BEHAVIOURS)}")
    worths = dict(rule.weights) if rule.outcome == WEIGHTED else {rule.outcome: 1.0}
    shown = counted(exposures)
    shown = shown.filter(
        shown.trial == window.trial_id,
        shown.variant == INTERLEAVED,
        shown.shown_time >= moment(window.start, name="start"),
    )
    users = _matured(shown, window=window, champion=champion, challengers=challengers)
    picks = shown.filter(shown.policy == TEAM_DRAFT, shown.digest.isin([champion, *challengers]))
    picks = picks.select("exposure_id", "user", of_champion=picks.digest == champion).join(users, "user")
    wanted = events.filter(events.behaviour.isin(tuple(worths)), events.exposure_id.notnull())
    named = picks.join(wanted.select("exposure_id", "behaviour", "event_time", "value"), "exposure_id")
    named = named.filter(named.event_time <= named.first_shown + span(rule.window or window.window))
    worth = ibis.cases(*((named.behaviour == behaviour, worth) for behaviour, worth in worths.items()))
    named = named.mutate(outcome=named.value.fill_null(0.0) if rule.summed else worth.cast("float64"))
    each = named.group_by(["exposure_id", "behaviour", "user", "of_champion"]).agg(
        outcomes=named.outcome.sum() if rule.summed else named.outcome.max()  # without values at most one each
    )
    credits = each.group_by("user").agg(
        for_champion=each.outcomes.sum(where=each.of_champion),
        for_challenger=each.outcomes.sum(where=~each.of_champion),
    )
    credited = users.left_join(credits, "user")
    return credited.select(
        "user",
        "challenger",
        for_champion=credited.for_champion.fill_null(0.0),
        for_challenger=credited.for_challenger.fill_null(0.0),
    )


def credit_counts(credits: ibis.Table) -> ibis.Table:
    """Over `user_credits`, one row a challenger: `challenger` (its digest), the users it `won`, `lost` and `tied`."""
    more = credits.for_challenger - credits.for_champion
    counts = {"won": (more > 0).sum(), "lost": (more < 0).sum(), "tied": (more == 0).sum()}
    return credits.group_by("challenger").agg(**counts).order_by("challenger")


def _matured(shown: ibis.Table, *, window: TrialWindow, champion: str, challengers: Sequence[str]) -> ibis.Table:
    """`user`, `first_shown`, `challenger` of those whose first list is W before the watermark."""
    rivals = shown.digest.isin(tuple(challengers))
    users = shown.group_by("user").agg(
        first_shown=shown.shown_time.min(),
        champions=(shown.digest == champion).sum(),
        challenger=shown.digest.min(where=rivals),
        other=shown.digest.max(where=rivals),
    )
    users = users.filter(users.first_shown <= moment(window.watermark - window.window, name="watermark"))
    if len(challengers) == 1:
        return users.select("user", "first_shown", challenger=ibis.literal(challengers[0]))
    met_one = (users.champions > 0) & (users.challenger == users.other)
    return users.filter(met_one).select("user", "first_shown", "challenger")
