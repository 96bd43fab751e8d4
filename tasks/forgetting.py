"""Forgetting users: from every table and its history, from what is derived, and with a receipt that names nobody.

Models cannot be untrained. The receipt lists those that saw the users, and the date by which they must be replaced.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import pyarrow as pa

from relations.errors import UsageError
from relations.traces import rows_of, sightings
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.privacy import FORGET, WITH_USERS, Mentions, Order, carry_out, receipts, whereabouts
from stores.pseudonyms import Keys
from stores.settings import Settings
from tasks.quieting import quiet
from tasks.refreshing import refresh_serving

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def forget_users(
    home: Home, settings: Settings, users: Sequence[str], *, actor: str, reason: str, now: datetime
) -> dict[str, Any]:
    """Forget `users` (raw ids); returns the receipt. Killed, it is finished by the next command that takes the lock.

    Raises UsageError for a blank id, or where `actor` or `reason`, which are kept, name one of the users.
    """
    wanted = tuple(dict.fromkeys(users))
    if not wanted or any(not user.strip() for user in wanted):
        raise UsageError("a user to forget has an id that is not blank; check the ids")
    if Mentions(wanted).within(f"{actor} {reason}".encode("utf-8", "surrogatepass")):
        raise UsageError("--as and --reason are kept in the ledger: they must not name a user to forget")
    with quiet(home, settings, now=now):
        keys = Keys.load(home.keys)
        known = tuple(name for user in wanted for name in keys.history(user))
        receipt = {
            "id": secrets.token_hex(8),
            "kind": FORGET,
            "asked": now.isoformat(),
            "asked_by": actor,
            "reason": reason,
            "users": len(wanted),
            **_traces(home, settings, known, now=now),
        }
        done = carry_out(home, Order(FORGET, receipt, whereabouts(settings), raw=wanted, pseudonyms=known))
    refresh_serving(home, settings)
    record_receipts(home, settings)
    return done


def record_receipts(home: Home, settings: Settings) -> None:
    """Enter every receipt of a forgetting or a rotation in the ledger's audit, once, by its digest."""
    ledger = Ledger.of(home, settings)
    for receipt in receipts(home):
        said = json.dumps(receipt, sort_keys=True, ensure_ascii=False)
        ledger.note(
            actor=receipt["asked_by"],
            action=receipt["kind"],
            subject=f"{receipt['kind']} {receipt['id']}",
            payload={"reason": receipt["reason"], "receipt_sha256": hashlib.sha256(said.encode()).hexdigest()},
            now=datetime.fromisoformat(receipt["asked"]),
        )


def models_to_retire(home: Home, settings: Settings) -> list[dict[str, Any]]:
    """Models that hold a trace of a forgotten user, with the date to be replaced by: the earliest of its receipts.

    A model that went on from such a model holds the trace too, whenever it was trained.
    """
    ledger = Ledger.of(home, settings)
    records, champion = {record.version: record for record in ledger.versions()}, ledger.champion()
    by: dict[int, str] = {}
    for receipt in receipts(home):
        for version in descended(records.values(), {model["version"] for model in receipt.get("models", ())}):
            by[version] = min(by.get(version, receipt["retire_by"]), receipt["retire_by"])
    return [
        {
            "version": version,
            "digest": records[version].digest,
            "retire_by": by[version],
            "champion": champion is not None and champion.version == version,
        }
        for version in sorted(by)
    ]


def descended(records: Iterable[VersionRecord], versions: set[int]) -> set[int]:
    """`versions` and all whose weights started from one of them."""
    found = set(versions)
    for record in sorted(records, key=lambda record: record.version):
        if record.mode != "full" and record.parent in found:  # a full retrain is only compared with its parent
            found.add(record.version)
    return found


def _traces(home: Home, settings: Settings, known: Sequence[str], *, now: datetime) -> dict[str, Any]:
    """What there is of these pseudonyms: rows by table, and the models that learnt from them."""
    lake = Lake.of(home, settings.lake)
    users = ibis.memtable(pa.table({"user": pa.array(known, pa.string())}))
    rows = {table: int(rows_of(lake.relation(table), users).count().to_pyarrow().as_py()) for table in WITH_USERS}
    seen = sightings(lake.relation("events"), lake.relation("deliveries"), users).to_pyarrow().to_pylist()
    records = Ledger.of(home, settings).versions()
    saw = {record.version for record in records if _saw(seen, record.events_version, record.cutoff_us)}
    full_days = timedelta(days=settings.schedules.full_retrain_days)
    last = max((record.created for record in records if record.mode == "full"), default=now)
    return {
        "rows": rows,
        "models": [
            {"version": record.version, "digest": record.digest, "mode": record.mode}
            for record in records
            if record.version in descended(records, saw)
        ],
        "unfinished_trainings": _unfinished(home, records),
        # Where the schedule is behind, or restarted since, it comes at most one interval from now.
        "next_full_retrain": (last + full_days if last + full_days > now else now + full_days).isoformat(),
        "retire_by": (now + timedelta(days=settings.privacy.retire_days)).isoformat(),
    }


def _saw(seen: Iterable[Mapping[str, Any]], events_version: int, cutoff_us: int) -> bool:
    cutoff = EPOCH + timedelta(microseconds=cutoff_us)
    return any(each["arrived"] <= events_version and each["first"] < cutoff for each in seen)


def _unfinished(home: Home, records: Sequence[VersionRecord]) -> list[str]:
    """Trainings that were begun and registered no model: one that still runs may have read the rows already."""
    registered = {record.checkpoint.removesuffix("/fitted") for record in records}
    jobs = home.checkpoints.glob("*/job.json")
    return sorted(name for job in jobs if (name := str(job.parent.relative_to(home.root))) not in registered)
