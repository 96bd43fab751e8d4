"""Groups of a trial's users, told by what was so at their first exposure, and their sums, as Ibis expressions."""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis

from relations.asof import with_state
from relations.contexts import says
from relations.sums import user_sums

NEW, SURFACE = "new", "surface"
CONTEXT, ATTRIBUTE = "context.", "attribute."


@dataclass(frozen=True)
class SliceRule:
    """Which users are of the slice `name`: those of whom `by` says `equals`.

    `by`: new (no impression in the pre-period; true or false), surface, context.KEY (the JSON object of the first
    exposure, see `relations.contexts.says`), or attribute.KEY (the user's newest attributes from before or at the first
    exposure). Nobody is of a slice of what nothing is said.
    """

    name: str
    by: str
    equals: str


def columns_of(rules: Sequence[SliceRule]) -> tuple[str, ...]:
    """Columns of the first exposure that `slice_sums` needs for `rules`, for `user_outcomes`."""
    needed = {rule.by.partition(".")[0] for rule in rules}
    return tuple(name for name in ("surface", "context") if name in needed)


def slice_sums(users: ibis.Table, states: ibis.Table, *, rules: Sequence[SliceRule]) -> ibis.Table:
    """One row a slice and arm that has users: `slice`, `arm`, the columns of SUM_COLUMNS; a user may be of several.

    `users`: rows of `of_rule` with the columns that `columns_of` names. `states`: the users table.
    """
    if any(rule.by.startswith(ATTRIBUTE) for rule in rules):
        users = with_state(users, states, key="user", columns=("attributes",), prefix="", time="first_shown")
    nowhere = ibis.null("string")
    names = ibis.array([_is_of(users, rule).ifelse(rule.name, nowhere) for rule in rules])
    rows = users.select("arm", "S", "N", "S0", "N0", slice=names.unnest())
    rows = rows.filter(rows["slice"].notnull())
    return rows.group_by(["slice", "arm"]).agg(**user_sums(rows)).order_by(["slice", "arm"])


def _is_of(users: ibis.Table, rule: SliceRule) -> ibis.Value:
    if rule.by == NEW:
        return users.is_new == (rule.equals == "true")
    if rule.by == SURFACE:
        return users.surface == rule.equals
    if rule.by.startswith(CONTEXT):
        return says(users.context, key=rule.by.removeprefix(CONTEXT), value=rule.equals)
    told = users.attributes.get(rule.by.removeprefix(ATTRIBUTE))
    return (told == rule.equals).fill_null(False)
