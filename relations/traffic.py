"""Who comes, and how often, as Ibis expressions: what a trial's length is planned from."""

from datetime import datetime

import ibis

from relations.sequences import moment
from relations.trial_users import ARMS, CANARY, counted

EVERYBODY = "everybody"
"""Stands as the trial of those who are in none: a name that no trial of the ledger has."""
_DAY_SECONDS = 86_400


def shown_to(exposures: ibis.Table) -> ibis.Table:
    """`user` and `at` of what people were shown: no shadow, no bot."""
    rows = counted(exposures)
    return rows.select("user", at=rows.shown_time)


def visits(seen: ibis.Table, *, until: datetime, days: int) -> ibis.Table:
    """How many users came first on which day, on how many days: `first`, `visited`, `users`.

    `seen`: rows with `user` and `at`. Days are the `days` spans of 24 hours that end at `until`, which belongs to the
    last of them; `first` counts them from 0. `visited`: days on which these users came.
    """
    end = moment(until, name="until")
    ago = (end.epoch_seconds() - seen["at"].epoch_seconds()) // _DAY_SECONDS
    within = seen.mutate(day=(days - 1 - ago).cast("int64")).filter(lambda t: (t.day >= 0) & (t["at"] <= end))
    users = within.group_by("user").agg(first=within.day.min(), visited=within.day.nunique())
    return users.group_by(["first", "visited"]).agg(users=users.count()).order_by(["first", "visited"])


def as_one_arm(exposures: ibis.Table) -> ibis.Table:
    """All exposures as if they were the champion's in the trial EVERYBODY, whichever trial showed them or none.

    For `relations.sums.user_outcomes`: the rate and the variance that users have now, before any trial.
    """
    reason = exposures.assignment_reason
    return exposures.mutate(
        trial=ibis.literal(EVERYBODY),
        variant=ibis.literal(ARMS[0]),
        assignment_reason=(reason == CANARY).ifelse("trial", reason),
    )
