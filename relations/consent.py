"""Who does not want to be learnt from, as an Ibis expression."""

import ibis

OPT_OUT = "opt_out"
YES = ("true", "1", "yes")
NO = ("false", "0", "no")


def opted_out(users: ibis.Table) -> ibis.Table:
    """The users (one column, `user`) whose newest statement on `opt_out` says yes.

    A statement is a row of the users table whose attributes hold `opt_out` with a word of YES or NO, in any case; a
    row without one says nothing, and leaves the earlier statement standing. The newest is the one of the latest
    `valid_from`, however late it arrived; of two at one time the one that says yes counts.
    """
    latest = _latest(users)
    return latest.filter(latest.out.notnull() & (latest.back.isnull() | (latest.out >= latest.back))).select("user")


def returned(users: ibis.Table) -> ibis.Table:
    """The users (one column, `user`) who did not want to be learnt from once, and do now."""
    latest = _latest(users)
    return latest.filter(latest.out.notnull() & (latest.back > latest.out)).select("user")


def _latest(users: ibis.Table) -> ibis.Table:
    """When each user last said yes (`out`) and no (`back`); null for never."""
    said = users.mutate(word=users.attributes.get(OPT_OUT).lower())
    return said.group_by("user").agg(
        out=said.valid_from.max(where=said.word.isin(YES)),
        back=said.valid_from.max(where=said.word.isin(NO)),
    )
