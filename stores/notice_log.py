"""Which audit entries people were told of, in the ledger's database: so that of several senders each tells once.

A row is an entry that somebody is to be told of. The rows' largest number is how far the audit was read; where no such
entry stands there, a row in state `read` does. Times are the wall clock's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from stores.home import Home
from stores.ledger_database import Database
from stores.ledger_records import AuditEntry, stamp, unstamp
from stores.ledger_tables import audits, notices
from stores.settings import Settings

ATTEMPTS = 5
AGAIN_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1))
"""Between the end of one attempt and the next."""
CLAIM = timedelta(minutes=1)
"""A sender that has not said how it went by then was killed; another one takes its entries over."""
MOST = 20
"""Entries that one call takes. Of more unread ones the newest are told; the ledger has the others."""
KILLED = "the sender was killed"


@dataclass(frozen=True)
class Notice:
    """One entry and what became of telling it. `failed`: by URL, named without its secrets, why it did not get there.

    `state`: claimed, sent, or failed; a failed one is tried again until it had ATTEMPTS.
    """

    number: int
    kind: str
    state: str
    attempts: int
    failed: Mapping[str, str]
    changed: datetime

    @property
    def given_up(self) -> bool:
        return self.state == "failed" and self.attempts >= ATTEMPTS


class NoticeLog:
    """Of one ledger. A database that fails raises DependencyFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def of(home: Home, settings: Settings) -> "NoticeLog":
        return NoticeLog(Database(settings.ledger.url or home.ledger_url))

    def claim(
        self, *, kind_of: Callable[[AuditEntry], str | None], now: datetime
    ) -> tuple[tuple[Notice, AuditEntry], ...]:
        """Take what is to be told now, oldest first: it is this caller's, who says by `settle` how it went.

        `kind_of`: what an entry is told as; None: not at all. The first call ever takes nothing: what was before it is
        old news.
        """
        with self._database.read() as tx:
            if not _news(tx, now=now):
                return ()
        with self._database.write() as tx:
            _bury_killed(tx, now=now)
            due = {row.number: row for row in tx.execute(select(notices).where(_due(now)).order_by(notices.c.number))}
            fresh = _unread(tx, kind_of=kind_of, now=now)
            for number, row in due.items():
                again = {"state": "claimed", "attempts": row.attempts + 1, "changed": stamp(now)}
                tx.execute(update(notices).where(notices.c.number == number).values(**again))
            claimed = tx.execute(
                select(notices).where(notices.c.number.in_([*due, *fresh])).order_by(notices.c.number)
            ).all()
            entries = {entry.number: entry for entry in _entries(tx, audits.c.number.in_([*due, *fresh]))}
        return tuple((_notice(row), entries[row.number]) for row in claimed if row.number in entries)

    def settle(self, notice: Notice, *, failed: Mapping[str, str], now: datetime) -> None:
        """How telling a claimed entry went; nothing where another sender has taken it over meanwhile."""
        mine = and_(notices.c.number == notice.number, notices.c.changed == stamp(notice.changed))
        told = {"state": "failed" if failed else "sent", "error": json.dumps(dict(failed)) if failed else ""}
        with self._database.write() as tx:
            tx.execute(update(notices).where(mine, notices.c.state == "claimed").values(**told, changed=stamp(now)))

    def failed(self) -> tuple[Notice, ...]:
        """What did not get to everybody, oldest first, whether it is tried again or not."""
        with self._database.read() as tx:
            rows = tx.execute(select(notices).where(notices.c.state == "failed").order_by(notices.c.number))
            return tuple(_notice(row) for row in rows)


def _news(tx: Connection, *, now: datetime) -> bool:
    read, newest = _numbers(tx)
    dead = and_(notices.c.state == "claimed", notices.c.changed < stamp(now - CLAIM))
    return (
        newest > read or tx.execute(select(notices.c.number).where(or_(_due(now), dead)).limit(1)).first() is not None
    )


def _numbers(tx: Connection) -> tuple[int, int]:
    """How far the audit was read, -1 before the first time; and how far it goes."""
    read = tx.execute(select(func.max(notices.c.number))).scalar()
    return -1 if read is None else int(read), int(tx.execute(select(func.max(audits.c.number))).scalar() or 0)


def _due(now: datetime) -> ColumnElement[bool]:
    """Failed long enough ago, or claimed by a sender that was killed."""
    waited = [
        and_(notices.c.state == "failed", notices.c.attempts == tried, notices.c.changed <= stamp(now - after))
        for tried, after in enumerate(AGAIN_AFTER, start=1)
    ]
    left = and_(notices.c.state == "claimed", notices.c.changed < stamp(now - CLAIM), notices.c.attempts < ATTEMPTS)
    return or_(*waited, left)


def _bury_killed(tx: Connection, *, now: datetime) -> None:
    """Whose last attempt ended without a word."""
    last = and_(notices.c.state == "claimed", notices.c.changed < stamp(now - CLAIM), notices.c.attempts >= ATTEMPTS)
    told = {"state": "failed", "error": json.dumps({"": KILLED}), "changed": stamp(now)}
    tx.execute(update(notices).where(last).values(**told))


def _unread(tx: Connection, *, kind_of: Callable[[AuditEntry], str | None], now: datetime) -> list[int]:
    """Enter what came since the last reading; returns the numbers that this caller is to tell."""
    read, newest = _numbers(tx)
    if newest <= read:
        return []
    found = [] if read < 0 else [(e.number, kind) for e in _entries(tx, audits.c.number > read) if (kind := kind_of(e))]
    tx.execute(delete(notices).where(notices.c.state == "read"))
    for number, kind in found[-MOST:]:
        row = {"number": number, "kind": kind, "state": "claimed", "attempts": 1, "error": "", "changed": stamp(now)}
        tx.execute(insert(notices).values(**row))
    if not found or found[-1][0] < newest:
        row = {"number": newest, "kind": "", "state": "read", "attempts": 0, "error": "", "changed": stamp(now)}
        tx.execute(insert(notices).values(**row))
    return [number for number, _ in found[-MOST:]]


def _entries(tx: Connection, which: ColumnElement[bool]) -> list[AuditEntry]:
    rows = tx.execute(select(audits).where(which).order_by(audits.c.number))
    return [AuditEntry(**{**row._mapping, "payload": json.loads(row.payload)}) for row in rows]


def _notice(row: Any) -> Notice:
    failed = json.loads(row.error) if row.error else {}
    return Notice(row.number, row.kind, row.state, row.attempts, failed, unstamp(row.changed))
