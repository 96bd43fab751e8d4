"""People are told what the ledger recorded: that a trial waits, who promoted what, what was taken back.

Plain functions without Prefect. Nothing waits for a message and nothing fails with it: the ledger has decided already.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from relations.errors import RatchetError
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import AuditEntry, TrialRecord, stamp
from stores.notice_log import ATTEMPTS, Notice, NoticeLog
from stores.settings import Settings
from tasks.linking import page_link
from tasks.notices import Message, Setting, Tone, compose, kind_of
from tasks.sending import named, readable, send

_LOG = logging.getLogger(__name__)
REMEMBERED = timedelta(days=7)
"""For so long a message that reached not everybody is shown."""


@dataclass(frozen=True)
class Told:
    """How many messages everybody got, and how many failed, which are tried again later."""

    sent: int = 0
    failed: int = 0


def notify_new(home: Home, settings: Settings) -> Told:
    """Tell what the ledger recorded since the last call, and what failed before. Never raises, and never blocks for
    longer than [notify] timeout_s beside the ledger's own answers.

    Each entry is sent by one of all processes that call this. One whose sender is killed is sent again: it may reach
    somebody twice, and is not lost.
    """
    if not settings.notify.urls:
        return Told()
    try:
        return _notify(home, settings)
    except RatchetError as error:
        _LOG.warning("nobody was told anything: %s", error)
    except Exception:
        _LOG.exception("nobody was told anything")
    return Told()


def undelivered(home: Home, settings: Settings) -> tuple[str, ...]:
    """What did not reach everybody within the last days, a line each. Raises DependencyFailed without the ledger."""
    since = datetime.now(UTC) - REMEMBERED
    return tuple(_line(each) for each in NoticeLog.of(home, settings).failed() if each.changed >= since)


def unreadable(settings: Settings) -> tuple[str, ...]:
    """The names of the URLs that apprise cannot read. Nothing is sent."""
    return tuple(name for name, url in _urls(settings).items() if not readable(url))


def try_notify(home: Home, settings: Settings) -> dict[str, str]:
    """Send everybody a message that says that it is a test; by URL why it failed, or empty."""
    urls = _urls(settings)
    told = Message(
        Tone.INFO, "Ratchet: a test", f"- home: {home.root.name}\n- see: {page_link(home, settings) or 'nothing yet'}"
    )
    (failed,) = send([(told, tuple(urls))], urls=urls, timeout_s=settings.notify.timeout_s)
    return {name: failed.get(name, "") for name in urls}


def _notify(home: Home, settings: Settings) -> Told:
    log, ledger, wanted = NoticeLog.of(home, settings), Ledger.of(home, settings), settings.notify.kinds
    awaiting = {record.id: stamp(record.awaiting_since) for record in ledger.trials() if record.awaiting_since}

    def told_as(entry: AuditEntry) -> str | None:
        kind = kind_of(entry, awaiting=awaiting)
        return kind if kind in wanted else None

    claimed = log.claim(kind_of=told_as, now=datetime.now(UTC))
    if not claimed:
        return Told()
    urls = _urls(settings)
    messages = [
        (_message(home, settings, ledger, notice, entry), tuple(set(notice.failed) & set(urls)) or tuple(urls))
        for notice, entry in claimed
    ]
    results = send(messages, urls=urls, timeout_s=settings.notify.timeout_s)
    for (notice, _), failed in zip(claimed, results, strict=True):
        if failed:
            _LOG.warning("audit entry %d (%s): %s", notice.number, notice.kind, _why(failed))
        log.settle(notice, failed=failed, now=datetime.now(UTC))
    missed = sum(bool(failed) for failed in results)
    return Told(len(results) - missed, missed)


def _message(home: Home, settings: Settings, ledger: Ledger, notice: Notice, entry: AuditEntry) -> Message:
    trial = _trial_of(ledger, entry)
    link = page_link(home, settings, trial="" if trial is None else trial.id)
    where = Setting(home.root.name, home.simulation, settings.ledger.approval_hours, link)
    return compose(entry, notice.kind, trial=trial, where=where)


def _trial_of(ledger: Ledger, entry: AuditEntry) -> TrialRecord | None:
    name = entry.payload.get("trial")
    return ledger.trial(name) if isinstance(name, str) else None


def _urls(settings: Settings) -> dict[str, str]:
    return named([url.get_secret_value() for url in settings.notify.urls])


def _line(notice: Notice) -> str:
    then = "given up" if notice.given_up else "tried again later"
    return (
        f"audit entry {notice.number} ({notice.kind}): {_why(notice.failed)}; {notice.attempts} of {ATTEMPTS}, {then}"
    )


def _why(failed: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" if name else why for name, why in failed.items())
