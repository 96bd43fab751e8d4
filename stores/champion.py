"""Moving the champion, inside a ledger transaction: the compare-and-swap and the history that a rollback walks."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from stores.audit import append_audit
from stores.failpoints import reach
from stores.ledger_records import Champion, Reign, stamp, unstamp
from stores.ledger_tables import approvals, champions, glass, reigns, trials
from stores.ledger_tables import evidence as looks

PROMOTING_STEPS = ("bootstrap", "promote")
BREAK_GLASS = "break_glass"
"""How a champion came to be that two people put in charge without a trial, for some hours."""


def read_champion(tx: Connection, surface: str) -> Champion | None:
    row = tx.execute(select(champions).where(champions.c.surface == surface)).one_or_none()
    return None if row is None else Champion(row.version, row.digest, row.epoch, unstamp(row.since))


def read_reigns(tx: Connection, surface: str) -> tuple[Reign, ...]:
    """Oldest first, without their approvers: servers ask every second, and need none."""
    rows = tx.execute(select(reigns).where(reigns.c.surface == surface).order_by(reigns.c.epoch))
    return tuple(
        Reign(
            epoch=row.epoch,
            version=row.version,
            digest=row.digest,
            since=unstamp(row.since),
            how=row.how,
            actor=row.actor,
            reason=row.reason,
            trial=row.trial,
            restores=row.restores,
        )
        for row in rows
    )


def read_history(tx: Connection, surface: str) -> tuple[Reign, ...]:
    """Oldest first, each with everybody who approved it."""
    several = _approvers(tx, surface)
    return tuple(
        replace(reign, approvers=several.get(reign.epoch, (reign.actor,))) for reign in read_reigns(tx, surface)
    )


def present_reign(history: tuple[Reign, ...]) -> Reign:
    """The reign whose champion serves: the newest, or the one that the newest restored."""
    newest = history[-1]
    return next(reign for reign in history if reign.epoch == (newest.restores or newest.epoch))


def former_reign(history: tuple[Reign, ...]) -> Reign | None:
    """The reign before the present one; None at the beginning.

    A restored champion stands where it stood, so its predecessor is the one it had then: rolling back twice goes
    further back and never forth to the model that was just taken away.
    """
    if not history:
        return None
    by_epoch = {reign.epoch: reign for reign in history}
    place = present_reign(history)
    while (before := by_epoch.get(place.epoch - 1)) is not None:
        place = by_epoch[before.restores or before.epoch]
        if place.digest != history[-1].digest:
            return place
    return None


def move_champion(
    tx: Connection,
    *,
    surface: str,
    expected: int | None,
    version: int,
    digest: str,
    how: str,
    subject: str,
    actor: str,
    reason: str,
    now: datetime,
    trial: str | None = None,
    restores: int | None = None,
    facts: dict[str, Any] | None = None,
) -> Champion | None:
    """Compare and swap, with history and audit; None when the epoch is no longer `expected` (None: no champion yet).

    `facts` joins the audit entry's payload.
    """
    before = read_champion(tx, surface)
    epoch = (expected or 0) + 1
    stated = {"version": version, "digest": digest, "epoch": epoch, "since": stamp(now)}
    if expected is None:
        if before is not None:
            return None
        tx.execute(insert(champions).values(surface=surface, **stated))
    else:
        swap = update(champions).where(champions.c.surface == surface, champions.c.epoch == expected)
        if tx.execute(swap.values(**stated)).rowcount != 1:
            return None
    reach("decide.moved")
    tx.execute(
        insert(reigns).values(
            surface=surface, how=how, actor=actor, reason=reason, trial=trial, restores=restores, **stated
        )
    )
    payload = {
        "surface": surface,
        "from": None if before is None else _facts(before),
        "to": {"version": version, "digest": digest, "epoch": epoch},
        "reason": reason,
        **({} if restores is None else {"restores": restores}),
        **(facts or {}),
    }
    append_audit(tx, actor=actor, action=how, subject=subject, payload=payload, now=now)
    reach("decide.swapped")
    return Champion(version, digest, epoch, now)


def _approvers(tx: Connection, surface: str) -> dict[int, tuple[str, ...]]:
    """Epochs that several people may have made → all of them, the last to approve at the end."""
    newest = select(looks.c.trial, func.max(looks.c.number).label("number")).group_by(looks.c.trial).subquery()
    promoted = (
        select(trials.c.promoted_epoch, approvals.c.name)
        .join(newest, newest.c.trial == trials.c.id)
        .join(looks, (looks.c.trial == newest.c.trial) & (looks.c.number == newest.c.number))
        .join(approvals, (approvals.c.trial == trials.c.id) & (approvals.c.evidence == looks.c.sha256))
        .where(trials.c.surface == surface, trials.c.promoted_epoch.is_not(None))
        .order_by(approvals.c.given, approvals.c.person)
    )
    found: dict[int, tuple[str, ...]] = {}
    for epoch, name in tx.execute(promoted):
        found[epoch] = (*found.get(epoch, ()), name)
    broken = select(glass.c.epoch, glass.c.asked_by, glass.c.confirmed_by).where(
        glass.c.surface == surface, glass.c.epoch.is_not(None)
    )
    return found | {row.epoch: (row.asked_by, row.confirmed_by) for row in tx.execute(broken)}


def _facts(champion: Champion) -> dict[str, Any]:
    return {"version": champion.version, "digest": champion.digest, "epoch": champion.epoch}
