"""`ratchet ledger`: who promoted what, on which evidence; proven, and taken elsewhere."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from cli.console import Context, Result, command
from stores.ledger import Ledger
from stores.ledger_records import AuditEntry, TrialRecord, stamp


@click.group("ledger")
def ledger() -> None:
    """Show, verify or export the record of who promoted what."""


@command("show")
@click.argument("trial", required=False)
def show(context: Context, *, trial: str | None) -> Result:
    """Every entry of the audit chain, oldest first; of one TRIAL, with what its looks said and who approved."""
    held = Ledger.of(context.home, context.settings)
    record = None if trial is None else held.trial(trial)
    subject = None if trial is None else f"trial {trial}"
    entries = [each for each in held.audit() if subject in (None, each.subject)]
    data: dict[str, Any] = {"audit": [_entry(each) for each in entries]}
    lines = [_line(each) for each in entries]
    if record is None:
        return Result(data, tuple(lines) or ("the ledger is empty",))
    looks = {look.sha256: look for look in record.evidence}
    told: list[str] = [_head(record)]
    for each, line in zip(entries, lines, strict=True):
        told.append(line)
        if each.action == "record_evidence" and (look := looks.get(each.payload["evidence"])) is not None:
            told += [f"       {reason}" for reason in _printable(look.evidence.get("reasons") or ())[:3]]
        elif each.payload.get("reason"):
            told.append(f"       {_clean(str(each.payload['reason']))}")
    return Result({**data, "trial": _trial(record)}, tuple(told))


@command("verify")
@click.option("--file", type=click.Path(path_type=Path), help="An export, verified by itself; no home is needed.")
def verify(context: Context, *, file: Path | None) -> Result:
    """Recompute the chain, hold every table and everybody's role against it, and judge every look again; exit 4 where
    something differs."""
    from tasks.rejudging import compared_looks, replay

    if file is None:
        held = Ledger.of(context.home, context.settings)
        problems, audit = held.verify(), held.audit()
        entries, head = len(audit), audit[-1].hash if audit else ""
        roles = held.roles_enforced
        records: Iterable[TrialRecord] = (held.trial(each.id) for each in held.trials())
    else:
        from stores.ledger_export import check_export

        checked = check_export(file)
        problems, entries, head = list(checked.problems), checked.entries, checked.head
        roles = checked.roles_checked
        records = checked.trials
    replayed = 0
    for record in records:
        replayed += len(compared_looks(record))
        problems += [str(each) for each in replay(record)]
    of_roles = "everybody's role checked" if roles else "roles not checked: a simulation's, or an older export"
    checked_told = f"{entries:,} entries checked, {replayed:,} looks judged again, {of_roles}"
    data = {"problems": problems, "whole": not problems, "entries": entries, "looks": replayed, "head": head}
    data |= {"roles_checked": roles}
    lines = (*map(_clean, problems), checked_told, f"head {head}" if head else "the ledger is empty")
    return Result(data, lines if problems else ("the ledger is whole", *lines), 4 if problems else 0)


@command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def export(context: Context, *, file: Path, force: bool) -> Result:
    """Write all of the ledger to FILE, as JSON lines without secrets; `verify --file` checks it anywhere."""
    done = Ledger.of(context.home, context.settings).export(file, now=context.now, force=force)
    rows = sum(done.rows.values())
    return Result(
        {"file": str(file), "head": done.head, "entries": done.entries, "rows": dict(done.rows)},
        (f"{file}: {done.entries:,} entries, {rows:,} rows", f"head {done.head}; note it where nobody can change it"),
    )


def _entry(entry: AuditEntry) -> dict[str, Any]:
    named = ("number", "time", "actor", "action", "subject", "hash")
    return {**{name: getattr(entry, name) for name in named}, "payload": dict(entry.payload)}


def _line(entry: AuditEntry) -> str:
    subject = _clean(entry.subject)
    if entry.action == "record_evidence":
        subject = f"{subject}, look {entry.payload.get('look', '?')}: {entry.payload['decision']}"
    return f"{entry.number:4} {entry.time[:19]} {_clean(entry.actor):16} {entry.action:14} {subject}  {entry.hash[:12]}"


def _head(record: TrialRecord) -> str:
    against = " and ".join(f"v{each.version}" for each in record.challengers)
    approved = ", ".join(_clean(each.name) for each in record.approvals)
    approvals = f"; approved by {approved} ({len(record.approvals)} of {record.quorum})" if approved else ""
    return f"{record.id}: {record.state}, {against} against v{record.champion}, {record.looks} looks{approvals}"


def _trial(record: TrialRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": str(record.state),
        "submitter": record.submitter,
        "config_hash": record.config_hash,
        "quorum": record.quorum,
        "approvals": [{**vars(each), "given": stamp(each.given)} for each in record.approvals],
        "looks": [
            {
                "number": look.number,
                "sha256": look.sha256,
                "decision": look.decision,
                "recorded": stamp(look.recorded),
                "evidence": dict(look.evidence),
            }
            for look in record.evidence
        ],
    }


def _printable(texts: Sequence[Any]) -> list[str]:
    return [_clean(str(each)) for each in texts]


def _clean(text: str) -> str:
    """What somebody wrote, on one line and without what moves the cursor or turns the direction."""
    return "".join(each if each.isprintable() else " " for each in text)


for _command in (show, verify, export):
    ledger.add_command(_command)
