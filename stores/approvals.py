"""People's approvals of one look, inside a ledger transaction: who has given theirs, and whose count.

An approval names the SHA-256 of the evidence that the person saw. It holds for that look and no other, counts once
however often it is given, and is judged anew at the promotion: who has been disabled since, or may not approve any
more, does not count, and neither does who submitted the trial or trained the challenger.
"""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from stores.audit import append_audit
from stores.ledger_records import ApprovalRecord, TrialRecord, stamp, unstamp
from stores.ledger_tables import approvals
from stores.lineage import read_version
from stores.people import Role, key_of, read_person, same_person


def read_approvals(tx: Connection, trial_id: str, *, evidence: str) -> tuple[ApprovalRecord, ...]:
    """Of one look, in the order in which they were given."""
    mine = select(approvals).where(approvals.c.trial == trial_id, approvals.c.evidence == evidence)
    rows = tx.execute(mine.order_by(approvals.c.given, approvals.c.person))
    return tuple(ApprovalRecord(row.name, row.evidence, row.reason, unstamp(row.given)) for row in rows)


def enter_approval(tx: Connection, trial: TrialRecord, *, actor: str, reason: str, now: datetime) -> bool:
    """Record the approval of the newest look; False where this person has given it already."""
    evidence, person = trial.evidence[-1].sha256, key_of(actor)
    row = {"trial": trial.id, "evidence": evidence, "person": person}
    known = select(approvals.c.name).where(*(approvals.c[name] == value for name, value in row.items()))
    if tx.execute(known).first() is not None:
        return False
    tx.execute(insert(approvals).values(**row, name=actor, reason=reason, given=stamp(now)))
    return True


def counting(tx: Connection, trial: TrialRecord, *, enforce: bool) -> tuple[ApprovalRecord, ...]:
    """Approvals of the newest look that count now, at most one of each person."""
    given = read_approvals(tx, trial.id, evidence=trial.evidence[-1].sha256)
    submitters = submitters_of(tx, trial)
    return tuple(
        each
        for each in given
        if not any(same_person(each.name, name) for name in submitters) and (not enforce or _may_approve(tx, each.name))
    )


def submitters_of(tx: Connection, trial: TrialRecord) -> tuple[str, ...]:
    """Who opened the trial, and who had the proposed challenger trained: neither can approve it."""
    return trial.submitter, read_version(tx, trial.proposed.version).submitter


def note_approval(tx: Connection, trial: TrialRecord, *, actor: str, reason: str, now: datetime) -> None:
    """Put on the audit an approval that does not suffice yet; one that does is in the promotion's own entry."""
    payload = {"trial": trial.id, "evidence": trial.evidence[-1].sha256, "quorum": trial.quorum, "reason": reason}
    append_audit(tx, actor=actor, action="approve", subject=f"trial {trial.id}", payload=payload, now=now)


def keep_only(tx: Connection, trial: TrialRecord, counted: tuple[ApprovalRecord, ...]) -> None:
    """Of the look that was promoted by, only the approvals that counted stay."""
    mine = (approvals.c.trial == trial.id) & (approvals.c.evidence == trial.evidence[-1].sha256)
    tx.execute(delete(approvals).where(mine, approvals.c.person.not_in([key_of(each.name) for each in counted])))


def _may_approve(tx: Connection, name: str) -> bool:
    person = read_person(tx, name)
    return person is not None and person.has(Role.APPROVER)
