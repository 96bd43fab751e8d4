"""Breaking the glass: a version put in charge without a trial, each step inside one ledger transaction with its audit.

For the hour in which the only way forward is one that no trial can prove. It takes two approvers and two reasons, holds
for at most 72 hours, and then the former champion is brought back. While it holds no trial begins and no delta serves:
whatever beat an unproven champion would prove nothing. A step that cannot be taken raises GateRefused and leaves no
trace.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from gate.states import OPEN_STATES, WATCHED_STATES, TrialState
from relations.errors import GateRefused, UsageError
from stores.audit import append_audit
from stores.audit_break_glass import glass_facts
from stores.break_glass_records import BreakGlassRecord
from stores.break_glass_rows import end_glass, glass_in_force, read_glass, read_glasses
from stores.champion import BREAK_GLASS, move_champion, read_champion
from stores.ledger_records import GATE, Champion, stamp
from stores.ledger_tables import glass
from stores.lineage import read_version
from stores.people import Role, check_may, same_person
from stores.standing import end_with_champion
from stores.trial_rows import read_trials
from stores.trial_steps import close_trial

MOST_HOURS = 72.0
USUAL_HOURS = 4.0
"""Where nobody says how long."""
REQUEST_LASTS = timedelta(hours=1)
UNCONFIRMED = "nobody confirmed it in time"


def ask(
    tx: Connection,
    version: int,
    *,
    surface: str,
    hours: float,
    expected_epoch: int | None,
    actor: str,
    reason: str,
    now: datetime,
    enforce: bool,
) -> BreakGlassRecord:
    """A person's request, for another to confirm within the hour. The same again is the same answer."""
    what = f"break-glass of version {version}"
    if not 0 < hours <= MOST_HOURS:
        raise UsageError(f"{what}: --hours {hours:g}; more than 0 and at most {MOST_HOURS:g}")
    check_may(tx, actor, Role.APPROVER, what=what, enforce=enforce)
    champion = _check_open(tx, surface, version=version, actor=actor, what=what)
    check_epoch(champion, expected_epoch, what=what)
    for other in read_glasses(tx, surface):
        if other.waits(now):
            if (other.version, other.hours) == (version, hours) and same_person(other.asked_by, actor):
                return other
            raise GateRefused(
                f"{what}: request {other.number}, of version {other.version} by {other.asked_by}, waits for a second "
                f"person until {stamp(other.expires)}; confirm or end that one first"
            )
        if other.confirmed is None and other.ended is None:
            end_glass(tx, other, actor=GATE, reason=UNCONFIRMED, now=now)
    number = int(tx.execute(select(func.max(glass.c.number))).scalar() or 0) + 1
    row = {
        "number": number,
        "surface": surface,
        "version": version,
        "digest": read_version(tx, version).digest,
        "champion_epoch": champion.epoch,
        "hours": float(hours),
        "asked": stamp(now),
        "asked_by": actor,
        "reason": reason,
        "expires": stamp(now + REQUEST_LASTS),
        "confirmed_by": "",
        "confirmed_reason": "",
        "ended_by": "",
        "ended_reason": "",
    }
    tx.execute(insert(glass).values(**row))
    made = read_glass(tx, number)
    append_audit(tx, actor=actor, action="ask_break_glass", subject=made.name, payload=glass_facts(row), now=now)
    return made


def confirm(
    tx: Connection, number: int, *, actor: str, reason: str, now: datetime, enforce: bool
) -> Champion | tuple[BreakGlassRecord, str]:
    """Another person's yes: the version is champion from the commit on. Or why the request was over, which is recorded.

    A confirmation that was carried out already is the same answer again, while its version reigns.
    """
    asked = read_glass(tx, number)
    what = asked.name
    present = read_champion(tx, asked.surface)
    if asked.in_force and present is not None and present.epoch == asked.epoch:
        return present
    if asked.ended is not None or asked.confirmed is not None:
        raise GateRefused(f"{what}: is over ({asked.ended_reason}); ask anew")
    check_may(tx, actor, Role.APPROVER, what=f"confirm {what}", enforce=enforce)
    if now >= asked.expires:
        return end_glass(tx, asked, actor=GATE, reason=UNCONFIRMED, now=now), UNCONFIRMED
    if present is None or present.epoch != asked.champion_epoch:
        why = "the champion has changed since it was asked"
        return end_glass(tx, asked, actor=GATE, reason=why, now=now), why
    if same_person(actor, asked.asked_by):
        raise GateRefused(f"{what}: {asked.asked_by} asked for it, and another person confirms")
    _check_open(tx, asked.surface, version=asked.version, actor=actor, what=what)
    check_may(tx, asked.asked_by, Role.APPROVER, what=f"{what}, asked by {asked.asked_by}", enforce=enforce)
    until = now + timedelta(hours=asked.hours)
    told = f"break-glass until {stamp(until)}, asked by {asked.asked_by}: {asked.reason}; confirmed: {reason}"
    reached = move_champion(
        tx,
        surface=asked.surface,
        expected=asked.champion_epoch,
        version=asked.version,
        digest=asked.digest,
        how=BREAK_GLASS,
        subject=what,
        actor=actor,
        reason=told,
        now=now,
        facts={
            "break_glass": number,
            "asked_by": asked.asked_by,
            "confirmed_reason": reason,
            "until": stamp(until),
            "approvers": [asked.asked_by, actor],
        },
    )
    if reached is None:
        raise GateRefused(f"{what}: the champion changed meanwhile; look again")
    entered = {"confirmed": stamp(now), "confirmed_by": actor, "confirmed_reason": reason}
    tx.execute(update(glass).where(glass.c.number == number).values(**entered, epoch=reached.epoch, until=stamp(until)))
    end_with_champion(tx, asked.surface, reached, actor=actor, now=now)
    for trial in read_trials(tx, states=OPEN_STATES, surface=asked.surface):
        why = f"version {asked.version} was put in charge by {what}"
        close_trial(tx, trial, state=TrialState.STALE, actor=actor, reason=why, now=now)
    return reached


def check_epoch(champion: Champion | None, expected: int | None, *, what: str) -> None:
    """Raises GateRefused where a person decides on another champion than the one that they saw. None: on any."""
    if champion is not None and expected not in (None, champion.epoch):
        raise GateRefused(f"{what}: the champion is at epoch {champion.epoch}, not {expected}; look again")


def _check_open(tx: Connection, surface: str, *, version: int, actor: str, what: str) -> Champion:
    """Raises GateRefused for what no two people may put in charge; returns the champion that it would replace."""
    champion, wanted = read_champion(tx, surface), read_version(tx, version)
    if champion is None:
        raise GateRefused(f"{what}: there is no champion yet; `ratchet trial bootstrap {version}` makes the first")
    if champion.digest == wanted.digest:
        raise GateRefused(f"{what}: is the champion already")
    if same_person(actor, GATE):
        raise GateRefused(f"{what}: people break the glass, never the gate")
    if same_person(actor, wanted.submitter):
        raise GateRefused(f"{what}: {actor} had it trained and cannot approve it; ask someone else")
    present = glass_in_force(tx, surface)
    if present is not None:
        raise GateRefused(
            f"{what}: break-glass {present.number} is in force already; end it first: `ratchet break-glass end "
            f"{present.number}`"
        )
    for trial in read_trials(tx, states=WATCHED_STATES, surface=surface):
        raise GateRefused(
            f"{what}: trial {trial.id} has just promoted version {champion.version} and is {trial.state}; bring the "
            "former champion back with `ratchet rollback`, and ask again if that does not help"
        )
    return champion
