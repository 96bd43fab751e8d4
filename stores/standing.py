"""Standing approvals and their deltas, each step inside one ledger transaction together with its audit entry.

A person approves in advance what one recipe may change on one base: how often, how much, until when. One standing
approval lives at a time on a surface. It ends by expiry (on the clock of whoever asks), when it is withdrawn, and when
its base ceases to be the champion. A step that cannot be taken raises GateRefused and leaves no trace.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from gate.states import WATCHED_STATES
from relations.errors import GateRefused, UsageError
from stores.audit import append_audit, delta_facts_of, standing_facts
from stores.break_glass_rows import glass_in_force
from stores.champion import read_champion
from stores.ledger_records import Champion, stamp, unstamp
from stores.ledger_tables import deltas, standings, trials
from stores.lineage import read_version
from stores.people import same_person
from stores.standing_records import DeltaFacts, DeltaLimits, ServingDelta, StandingRecord


def read_standings(tx: Connection, surface: str) -> tuple[StandingRecord, ...]:
    """All, oldest first."""
    rows = tx.execute(select(standings).where(standings.c.surface == surface).order_by(standings.c.number)).all()
    return tuple(_record(tx, row._mapping) for row in rows)


def live_standing(tx: Connection, surface: str, *, now: datetime) -> StandingRecord | None:
    """The one that allows deltas now: not ended, not expired, and its base is still the champion of that epoch."""
    champion = read_champion(tx, surface)
    row = _unended(tx, surface)
    if row is None or champion is None or row["champion_epoch"] != champion.epoch:
        return None
    record = _record(tx, row)
    return record if record.is_live(now) else None


def serving_delta(tx: Connection, surface: str) -> ServingDelta | None:
    """The newest delta on the champion; whoever serves compares its expiry with the home's clock."""
    champion = read_champion(tx, surface)
    row = _unended(tx, surface)
    if row is None or champion is None or row["champion_epoch"] != champion.epoch:
        return None
    newest = tx.execute(
        select(deltas).where(deltas.c.standing == row["number"]).order_by(deltas.c.sequence.desc()).limit(1)
    ).one_or_none()
    if newest is None:
        return None
    return ServingDelta(
        digest=newest.digest,
        base_digest=newest.base_digest,
        sequence=newest.sequence,
        standing=row["number"],
        limits=_limits(row),
        expires=unstamp(row["expires"]),
    )


def grant(
    tx: Connection,
    *,
    surface: str,
    recipe: str,
    limits: DeltaLimits,
    expires: datetime,
    actor: str,
    reason: str,
    now: datetime,
) -> StandingRecord:
    champion = read_champion(tx, surface)
    if champion is None:
        raise GateRefused(f"standing approval on {surface!r}: there is no champion to change; bootstrap the first one")
    if expires <= now:
        raise UsageError(f"standing approval: it would have expired at {stamp(expires)}; give it some hours")
    if limits.deltas < 1 or limits.rows < 0 or limits.relative_change <= 0 or not 0 <= limits.overlap <= 1:
        raise UsageError(f"standing approval: {limits} allow nothing; at least one delta, overlap between 0 and 1")
    submitter = read_version(tx, champion.version).submitter
    if same_person(actor, submitter):
        raise GateRefused(
            f"version {champion.version}: {actor} submitted it and cannot approve its deltas; ask another"
        )
    watched = select(trials.c.id).where(trials.c.surface == surface, trials.c.state.in_(WATCHED_STATES))
    baking = tx.execute(watched).scalar()
    if baking is not None:
        raise GateRefused(
            f"standing approval on {surface!r}: {baking} promoted its champion and still watches it, as it is; wait "
            f"for `ratchet trial bake {baking}` to pass"
        )
    broken = glass_in_force(tx, surface)
    if broken is not None:
        raise GateRefused(
            f"standing approval on {surface!r}: break-glass {broken.number} has put its champion in charge, which no "
            f"trial has proven; end it first: `ratchet break-glass end {broken.number}`"
        )
    present = live_standing(tx, surface, now=now)
    if present is not None:
        if (present.recipe, present.limits, present.expires) == (recipe, limits, expires):
            return present
        raise GateRefused(
            f"standing approval {present.number}: lives on {surface!r} until {stamp(present.expires)}; withdraw it"
        )
    end_standing(tx, surface, actor=actor, reason="expired", now=now)
    number = (tx.execute(select(func.max(standings.c.number))).scalar() or 0) + 1
    row = {
        "number": number,
        "surface": surface,
        "version": champion.version,
        "base_digest": champion.digest,
        "champion_epoch": champion.epoch,
        "recipe": recipe,
        "most_deltas": limits.deltas,
        "most_rows": limits.rows,
        "most_relative_change": limits.relative_change,
        "least_overlap": limits.overlap,
        "granted": stamp(now),
        "expires": stamp(expires),
        "granted_by": actor,
        "reason": reason,
        "ended": None,
        "ended_by": "",
        "ended_reason": "",
    }
    tx.execute(insert(standings).values(**row))
    append_audit(tx, actor=actor, action="allow_deltas", subject=_subject(number), payload=standing_facts(row), now=now)
    return _record(tx, row)


def end_standing(tx: Connection, surface: str, *, actor: str, reason: str, now: datetime) -> int | None:
    """End the surface's standing approval, expired or not; from the commit on its deltas do not serve.

    Returns its number; None where there is none.
    """
    row = _unended(tx, surface)
    if row is None:
        return None
    number = int(row["number"])
    told = {"ended": stamp(now), "ended_by": actor, "ended_reason": reason}
    tx.execute(update(standings).where(standings.c.number == number).values(**told))
    payload = {"standing": number, "reason": reason}
    append_audit(tx, actor=actor, action="end_deltas", subject=_subject(number), payload=payload, now=now)
    return number


def end_with_champion(tx: Connection, surface: str, reached: Champion, *, actor: str, now: datetime) -> None:
    """End it because `reached` has taken its base's place."""
    why = f"the champion is version {reached.version} at epoch {reached.epoch} now"
    end_standing(tx, surface, actor=actor, reason=why, now=now)


def add_delta(tx: Connection, facts: DeltaFacts, *, surface: str, actor: str, now: datetime) -> StandingRecord:
    """Enter a delta under the live standing approval. Recording the newest one again changes nothing."""
    name = f"delta {facts.sequence} ({facts.digest[:12]}…)"
    standing = live_standing(tx, surface, now=now)
    if standing is None:
        raise GateRefused(f"{name}: no standing approval is live on {surface!r}; ask a person for one")
    if facts in standing.deltas:
        return standing
    last = standing.deltas[-1].sequence if standing.deltas else 0
    limits = standing.limits
    broken = [
        told
        for breach, told in (
            (
                facts.base_digest != standing.base_digest,
                f"base {facts.base_digest[:12]}…, not {standing.base_digest[:12]}…",
            ),
            (facts.recipe != standing.recipe, f"recipe {facts.recipe[:12]}…, not {standing.recipe[:12]}…"),
            (facts.sequence <= last, f"sequence {facts.sequence}, and {last} is there already"),
            (len(standing.deltas) >= limits.deltas, f"deltas: {limits.deltas} are there, the most allowed"),
            (facts.rows > limits.rows, f"rows: {facts.rows} > {limits.rows}"),
            (
                not facts.relative_change <= limits.relative_change,
                f"relative_change: {facts.relative_change:.4g} > {limits.relative_change:.4g}",
            ),
        )
        if breach
    ]
    if broken:
        raise GateRefused(f"{name}: outside standing approval {standing.number}: {'; '.join(broken)}")
    row = {**vars(facts), "bytes": str(facts.bytes), "standing": standing.number, "recorded": stamp(now)}
    tx.execute(insert(deltas).values(**row))
    append_audit(
        tx, actor=actor, action="record_delta", subject=f"delta {facts.digest}", payload=delta_facts_of(row), now=now
    )
    return _record(tx, _unended(tx, surface) or {})


def _unended(tx: Connection, surface: str) -> Mapping[Any, Any] | None:
    row = tx.execute(select(standings).where(standings.c.surface == surface, standings.c.ended.is_(None))).one_or_none()
    return None if row is None else row._mapping


def _record(tx: Connection, row: Mapping[Any, Any]) -> StandingRecord:
    found = tx.execute(select(deltas).where(deltas.c.standing == row["number"]).order_by(deltas.c.sequence)).all()
    same = ("number", "surface", "version", "base_digest", "champion_epoch", "recipe")
    return StandingRecord(
        **{name: row[name] for name in (*same, "granted_by", "reason", "ended_by", "ended_reason")},
        limits=_limits(row),
        granted=unstamp(row["granted"]),
        expires=unstamp(row["expires"]),
        ended=None if row["ended"] is None else unstamp(row["ended"]),
        deltas=tuple(
            DeltaFacts(
                digest=each.digest,
                base_digest=each.base_digest,
                sequence=each.sequence,
                recipe=each.recipe,
                rows=each.rows,
                bytes=int(each.bytes),
                relative_change=each.relative_change,
            )
            for each in found
        ),
    )


def _limits(row: Mapping[Any, Any]) -> DeltaLimits:
    return DeltaLimits(row["most_deltas"], row["most_rows"], row["most_relative_change"], row["least_overlap"])


def _subject(number: int) -> str:
    return f"standing approval {number}"
