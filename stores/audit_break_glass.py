"""The broken glass's part of the record, replayed: that two people broke it, in time, and that it did not hold for
longer than they said.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, select

from stores.audit_differences import differing
from stores.ledger_records import AuditEntry, stamp, unstamp
from stores.ledger_tables import glass
from stores.people import same_person

_ASKED = ("number", "surface", "version", "digest", "champion_epoch", "hours", "asked", "asked_by", "reason", "expires")
_AFTER = ("confirmed", "confirmed_by", "confirmed_reason", "epoch", "until", "ended", "ended_by", "ended_reason")
_NOT_YET = {"confirmed": None, "confirmed_by": "", "confirmed_reason": "", "epoch": None, "until": None}
_OPEN = {"ended": None, "ended_by": "", "ended_reason": ""}


def glass_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a request: all of it."""
    return {name: row[name] for name in _ASKED}


def glass_problems(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    """Where the record breaks the rules of the broken glass, or the table differs from it."""
    said: dict[str, dict[str, Any]] = {}
    submitters: dict[str, str] = {}
    problems = []
    for entry in entries:
        if entry.action == "record_version":
            submitters[entry.payload["digest"]] = entry.payload.get("submitter", "")
        elif entry.action == "ask_break_glass":
            said[entry.subject] = {**entry.payload, **_NOT_YET, **_OPEN}
        elif entry.action in ("break_glass", "end_break_glass"):
            asked = said.get(entry.subject)
            if asked is None:
                problems.append(f"audit entry {entry.number}: {entry.action} of {entry.subject}, never asked for")
            elif entry.action == "break_glass":
                broken = _rules(entry, asked, submitter=submitters.get(asked["digest"], ""))
                problems += [f"audit entry {entry.number}: {entry.subject} confirmed {rule}" for rule in broken]
                asked |= {
                    "confirmed": entry.time,
                    "confirmed_by": entry.actor,
                    "confirmed_reason": entry.payload["confirmed_reason"],
                    "epoch": entry.payload["to"]["epoch"],
                    "until": entry.payload["until"],
                }
            else:
                asked |= {"ended": entry.time, "ended_by": entry.actor, "ended_reason": entry.payload["reason"]}
    held = {
        f"break-glass {row.number}": {name: row._mapping[name] for name in (*_ASKED, *_AFTER)}
        for row in tx.execute(select(glass))
    }
    return [*problems, *differing(held, said)]


def _rules(entry: AuditEntry, asked: Mapping[str, Any], *, submitter: str) -> list[str]:
    payload = entry.payload
    latest = unstamp(entry.time) + timedelta(hours=asked["hours"])
    rules = {
        "a second time": asked["confirmed"] is not None,
        "after it was over": asked["ended"] is not None,
        "by who asked for it": same_person(entry.actor, asked["asked_by"]),
        "by who had it trained": any(same_person(each, submitter) for each in (entry.actor, asked["asked_by"])),
        "after its hour": entry.time >= asked["expires"],
        "for another version": (payload["to"]["digest"], payload["to"]["version"])
        != (asked["digest"], asked["version"]),
        "against another epoch's champion": payload["to"]["epoch"] != asked["champion_epoch"] + 1,
        "for longer than was asked": payload["until"] != stamp(latest),
    }
    return [rule for rule, broken in rules.items() if broken]
