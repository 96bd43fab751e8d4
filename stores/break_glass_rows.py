"""Broken glass as the ledger's table holds it, read and ended inside a transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from relations.errors import UsageError
from stores.audit import append_audit
from stores.break_glass_records import BreakGlassRecord
from stores.ledger_records import stamp, unstamp
from stores.ledger_tables import glass


def read_glass(tx: Connection, number: int) -> BreakGlassRecord:
    """Raises UsageError for an unknown one."""
    row = tx.execute(select(glass).where(glass.c.number == number)).one_or_none()
    if row is None:
        raise UsageError(f"break-glass {number}: no such request; list them with `ratchet break-glass list`")
    return _record(row._mapping)


def read_glasses(tx: Connection, surface: str | None = None) -> tuple[BreakGlassRecord, ...]:
    """All, or a surface's, oldest first."""
    wanted = select(glass) if surface is None else select(glass).where(glass.c.surface == surface)
    rows = tx.execute(wanted.order_by(glass.c.number))
    return tuple(_record(row._mapping) for row in rows)


def glass_in_force(tx: Connection, surface: str) -> BreakGlassRecord | None:
    """The one whose version reigns."""
    return next((each for each in reversed(read_glasses(tx, surface)) if each.in_force), None)


def end_glass(tx: Connection, record: BreakGlassRecord, *, actor: str, reason: str, now: datetime) -> BreakGlassRecord:
    """A request that is over without having been confirmed, or a reign that is."""
    told = {"ended": stamp(now), "ended_by": actor, "ended_reason": reason}
    tx.execute(update(glass).where(glass.c.number == record.number).values(**told))
    payload = {
        "break_glass": record.number,
        "surface": record.surface,
        "version": record.version,
        "reigned": record.in_force,
        "reason": reason,
    }
    append_audit(tx, actor=actor, action="end_break_glass", subject=record.name, payload=payload, now=now)
    return read_glass(tx, record.number)


def _record(row: Mapping[Any, Any]) -> BreakGlassRecord:
    times = ("asked", "expires", "confirmed", "until", "ended")
    return BreakGlassRecord(**dict(row) | {n: None if row[n] is None else unstamp(row[n]) for n in times})


def end_reign(tx: Connection, surface: str, *, actor: str, reason: str, now: datetime) -> None:
    """Note that the broken glass's version reigns no more, if one does: for whoever moves the champion."""
    present = glass_in_force(tx, surface)
    if present is not None:
        end_glass(tx, present, actor=actor, reason=reason, now=now)
