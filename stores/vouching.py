"""Whether a champion was made by the ledger: one that somebody wrote into a table is not served.

This is against a hand in the database, not against one that forges every table and the hash chain with it. `ratchet
ledger verify` sees more than this, and a signature ([serving] trusted_keys) needs a key that no database holds.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from relations.errors import GateRefused
from stores.champion import BREAK_GLASS, read_reigns
from stores.ledger_records import Champion, Reign, canonical_json, sha256
from stores.ledger_tables import audits, glass, versions
from stores.people import same_person
from stores.trial_rows import read_trial


def check_vouched(tx: Connection, surface: str, champion: Champion) -> None:
    """Raises GateRefused for a champion's row that no decision in the ledger has made.

    The newest reign must be of this version, digest and epoch, and the audit must tell of it. What was approved must
    name the digest: a look that said PROMOTE and whose hash is its own, or a break-glass that two people gave. A
    rollback leads back to a reign of which all that holds.
    """
    what = f"champion of {surface!r}, version {champion.version} ({champion.digest[:12]}…) at epoch {champion.epoch}"
    reigns = read_reigns(tx, surface)
    newest = reigns[-1] if reigns else None
    said = (champion.version, champion.digest, champion.epoch)
    if newest is None or said != (newest.version, newest.digest, newest.epoch):
        told = "it knows none" if newest is None else f"that is version {newest.version} at epoch {newest.epoch}"
        raise _refused(what, f"the history says otherwise: {told}")
    why = _unvouched(tx, surface, newest, reigns)
    if why:
        raise _refused(what, why)


def _refused(what: str, why: str) -> GateRefused:
    return GateRefused(
        f"{what}: nobody approved it: {why}. Somebody has changed the ledger's tables: see `ratchet ledger verify`, "
        "and restore them from a backup"
    )


def _unvouched(tx: Connection, surface: str, reign: Reign, reigns: Sequence[Reign]) -> str:
    """What a reign lacks; empty where it lacks nothing."""
    digest = tx.execute(select(versions.c.digest).where(versions.c.version == reign.version)).scalar()
    if digest != reign.digest:
        return f"version {reign.version} has another digest"
    told = _audited(tx, surface, reign)
    if told is None:
        return f"the audit tells of no {reign.how} that made it"
    if reign.restores is not None:
        former = next((each for each in reigns if each.epoch == reign.restores < reign.epoch), None)
        if former is None or (former.version, former.digest) != (reign.version, reign.digest):
            return f"the rollback leads back to epoch {reign.restores}, which was another version's"
        return _unvouched(tx, surface, former, reigns)
    if reign.how == BREAK_GLASS:
        row = tx.execute(select(glass).where(glass.c.surface == surface, glass.c.epoch == reign.epoch)).one_or_none()
        if row is None or row.digest != digest or row.confirmed is None or same_person(row.asked_by, row.confirmed_by):
            return "no break-glass of two people made it"
        return ""
    if reign.how == "bootstrap":
        return ""
    return _unproven(tx, reign, approved=str(told.get("evidence")))


def _audited(tx: Connection, surface: str, reign: Reign) -> Mapping[str, Any] | None:
    """The payload of the audit entry that made the reign."""
    stated = {"version": reign.version, "digest": reign.digest, "epoch": reign.epoch}
    entries = tx.execute(select(audits.c.payload).where(audits.c.action == reign.how)).scalars()
    payloads = (json.loads(text) for text in entries)
    return next((each for each in payloads if (each.get("surface"), each.get("to")) == (surface, stated)), None)


def _unproven(tx: Connection, reign: Reign, *, approved: str) -> str:
    if reign.trial is None:
        return "no trial is named"
    trial = read_trial(tx, reign.trial)
    look = trial.evidence[-1] if trial.evidence else None
    if trial.promoted_epoch != reign.epoch or look is None or look.decision != "PROMOTE":
        return f"trial {trial.id} did not promote it"
    if look.sha256 != approved or look.sha256 != sha256(canonical_json(look.evidence, what=f"look {look.number}")):
        return f"what was approved of trial {trial.id} is another look"
    return "" if trial.proposed.digest == reign.digest else f"trial {trial.id} was of another version"
