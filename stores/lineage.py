"""Model versions inside a ledger transaction: entered once a digest, and the lineage that names the candidate."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from relations.errors import UsageError
from stores.audit import append_audit, version_facts
from stores.champion import read_champion
from stores.ledger_records import VersionRecord, canonical_json, stamp, unstamp
from stores.ledger_tables import versions


def read_versions(tx: Connection) -> tuple[VersionRecord, ...]:
    return tuple(_version(row._mapping) for row in tx.execute(select(versions).order_by(versions.c.version)))


def read_version(tx: Connection, number: int) -> VersionRecord:
    row = tx.execute(select(versions).where(versions.c.version == number)).one_or_none()
    if row is None:
        raise UsageError(f"version {number}: not in the ledger; list versions with `ratchet status`")
    return _version(row._mapping)


def _version(row: Mapping[Any, Any]) -> VersionRecord:
    return VersionRecord(
        **dict(row)
        | {
            "metrics": json.loads(row["metrics"]),
            "created": unstamp(row["created"]),
            "cutoff_us": int(row["cutoff_us"]),
        }
    )


def enter_version(tx: Connection, record: VersionRecord) -> int:
    """Returns its number; the same digest again keeps the first entry."""
    known = tx.execute(select(versions.c.version).where(versions.c.digest == record.digest)).scalar()
    if known is not None:
        return int(known)
    taken = tx.execute(select(versions.c.digest).where(versions.c.version == record.version)).scalar()
    if taken is not None:
        raise UsageError(
            f"version {record.version}: is recorded with digest {taken[:12]}…, not {record.digest[:12]}…; "
            "the ledger and the registry are of different homes"
        )
    row = {
        **vars(record),
        "metrics": canonical_json(record.metrics, what=f"version {record.version}: metrics"),
        "created": stamp(record.created),
        "cutoff_us": str(record.cutoff_us),
    }
    tx.execute(insert(versions).values(**row))
    append_audit(
        tx,
        actor=record.submitter or "training",
        action="record_version",
        subject=f"version {record.version}",
        payload=version_facts(row),
        now=record.created,
    )
    return record.version


def read_candidate(tx: Connection, surface: str) -> VersionRecord | None:
    """The newest version that passed the offline check and descends from the champion."""
    champion = read_champion(tx, surface)
    known = {record.version: record for record in read_versions(tx)}
    if champion is None:
        return None
    newer = (number for number in sorted(known, reverse=True) if number > champion.version)
    return next((known[n] for n in newer if known[n].offline_passed and champion.version in _ancestors(known, n)), None)


def _ancestors(known: Mapping[int, VersionRecord], number: int) -> set[int]:
    found: set[int] = set()
    parent = known[number].parent
    while parent is not None and parent in known and parent not in found:
        found.add(parent)
        parent = known[parent].parent
    return found
