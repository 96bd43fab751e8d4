"""The ledger as one file of JSON lines, which proves itself on a machine that has nothing but the file.

Line 1 is a header; each other line is one row of one table, with the SHA-256 of the line before it and its own content,
so that a changed, missing or moved line has a number. What the rows say is then verified as in the ledger itself: the
audit's chain, and every table against it. Whoever rewrites all of that changes the head, the hash of the newest audit
entry: compare it with one that was noted elsewhere. No secret is in the file: passwords and tokens are left as the
fingerprints that the audit has of them.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, create_engine, insert, select
from sqlalchemy.exc import SQLAlchemyError

from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.audit import GENESIS, find_problems
from stores.audit_people import FINGERPRINT, fingerprint
from stores.ledger_records import TrialRecord, canonical_json, sha256, stamp
from stores.ledger_tables import (
    approvals,
    audits,
    challengers,
    champions,
    deltas,
    evidence,
    glass,
    metadata,
    outs,
    people,
    reigns,
    stages,
    standings,
    tokens,
    trials,
    versions,
)
from stores.trial_rows import read_trial

FORMAT = 1
_TABLES: tuple[Table, ...] = (
    *(audits, champions, reigns, versions, trials, challengers, outs, stages, evidence, approvals),
    *(glass, standings, deltas, people, tokens),
)
_SECRET = {people.name: "password", tokens.name: "secret_sha256"}


@dataclass(frozen=True)
class Exported:
    """`head`: hash of the newest audit entry. `rows`: by table."""

    file: Path
    head: str
    entries: int
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Checked:
    """What a file says of itself. `trials`: with all their looks, for the gate's decisions to be made again.

    `roles_checked`: it says that roles were enforced where it was written, so whoever decided was held against them.
    """

    head: str
    entries: int
    exported: str
    trials: tuple[TrialRecord, ...]
    problems: tuple[str, ...]
    roles_checked: bool


def write_export(tx: Connection, file: Path, *, roles_enforced: bool, now: datetime, force: bool = False) -> Exported:
    """All of one moment, whole or not at all. Raises UsageError for a file that is there, but with `force`."""
    if file.is_dir() or (file.exists() and not force):
        raise UsageError(f"{file}: is there already; name another file, or overwrite it with --force")
    newest = tx.execute(select(audits.c.number, audits.c.hash).order_by(audits.c.number.desc()).limit(1)).first()
    head, entries = (GENESIS, 0) if newest is None else (newest.hash, newest.number)
    header = {"head": head, "entries": entries, "exported": stamp(now), "roles_enforced": roles_enforced}
    counts: dict[str, int] = {}
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name[:100]}.", suffix=".part", dir=file.parent)
    except OSError as error:
        raise DependencyFailed(f"{file}: cannot be written here ({error.strerror}); name another folder") from error
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            before = ""
            for content in _contents(tx, header, counts=counts):
                before = sha256(f"{before}{canonical_json(content, what='ledger export')}")
                out.write(canonical_json({**content, "sha256": before}, what="ledger export") + "\n")
            out.flush()
            os.fsync(out.fileno())
        if force:
            part.replace(file)
        else:
            os.link(part, file)  # never over a file that came meanwhile
    except FileExistsError as error:
        raise UsageError(f"{file}: is there already; name another file, or overwrite it with --force") from error
    except OSError as error:
        raise DependencyFailed(f"{file}: {error.strerror}; nothing was written") from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(file, head, entries, counts)


def check_export(file: Path) -> Checked:
    """Verify a file by itself. Raises UsageError where there is none, DataRejected for what is no export."""
    problems: list[str] = []
    header: dict[str, Any] = {}
    with _scratch() as tx:
        before, read = "", 0
        for number, line in _lines(file):
            content = _parsed(file, number, line)
            stated = content.pop("sha256", None)
            found = sha256(f"{before}{canonical_json(content, what=f'{file}, line {number}')}")
            if stated != found:
                problems.append(f"line {number} ({_named(content)}) was changed, or a line before it is missing")
            before = str(stated)  # so that one changed line is one problem
            if number == 1:
                header = _header(file, content)
                continue
            read += 1
            try:
                _insert(tx, _table(content), content["row"])
            except (SQLAlchemyError, KeyError, TypeError, ValueError, AttributeError) as error:
                cause = getattr(error, "orig", None) or error
                problems.append(f"line {number} ({_named(content)}) is no row of the ledger: {cause}")
        if not header:
            raise DataRejected(f"{file}: is empty; export the ledger again")
        if read != header.get("rows"):
            problems.append(f"{read} rows are in the file, its header says {header.get('rows')}")
        newest = tx.execute(select(audits.c.number, audits.c.hash).order_by(audits.c.number.desc()).limit(1)).first()
        head = GENESIS if newest is None else newest.hash
        if head != header.get("head"):
            problems.append(f"the newest audit entry has the hash {head[:12]}…, the header says {header.get('head')}")
        roles_checked = header.get("roles_enforced") is True
        found_trials: tuple[TrialRecord, ...] = ()
        try:
            problems += find_problems(tx, roles_enforced=roles_checked)
            ids = tx.execute(select(trials.c.id).order_by(trials.c.opened, trials.c.id)).scalars()
            found_trials = tuple(read_trial(tx, each, all_looks=True) for each in ids)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"what the rows say cannot be read ({type(error).__name__}: {error})")
        return Checked(
            head=head,
            entries=0 if newest is None else newest.number,
            exported=str(header.get("exported")),
            trials=found_trials,
            problems=tuple(problems),
            roles_checked=roles_checked,
        )


def _contents(tx: Connection, header: Mapping[str, Any], *, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    rows = {table: [_plain(table, row._mapping) for row in _ordered(tx, table)] for table in _TABLES}
    counts |= {table.name: len(found) for table, found in rows.items()}
    yield {"ratchet_ledger": FORMAT, **header, "rows": sum(counts.values())}
    for table, found in rows.items():
        for row in found:
            yield {"table": table.name, "row": row}


def _ordered(tx: Connection, table: Table) -> Any:
    return tx.execute(select(table).order_by(*table.primary_key))


def _plain(table: Table, row: Mapping[Any, Any]) -> dict[str, Any]:
    found = {str(name): value for name, value in row.items()}
    secret = _SECRET.get(table.name)
    if secret is not None and found[secret]:
        found[secret] = f"{FINGERPRINT}{fingerprint(found[secret])}"
    return found


@contextmanager
def _scratch() -> Iterator[Connection]:
    """A ledger in memory, for one connection."""
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as tx, tx.begin():
            metadata.create_all(tx)
            yield tx
    finally:
        engine.dispose()


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            yield from enumerate(lines, start=1)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataRejected(f"{file}: is no text ({error.reason}); give a file of `ratchet ledger export`") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def _parsed(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataRejected(f"{file}, line {number}: is no JSON; the line was cut or changed") from error
    if not isinstance(content, dict):
        raise DataRejected(f"{file}, line {number}: is no JSON object; the line was changed")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _header(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    if content.get("ratchet_ledger") != FORMAT:
        raise DataRejected(
            f"{file}: is no export of a ledger in format {FORMAT}; give a file of `ratchet ledger export`"
        )
    return dict(content)


def _table(content: Mapping[str, Any]) -> Table:
    return {table.name: table for table in _TABLES}[content["table"]]


def _insert(tx: Connection, table: Table, row: Mapping[str, Any]) -> None:
    odd = set(row) ^ set(table.columns.keys())
    if odd:
        raise ValueError(f"{', '.join(sorted(map(str, odd)))} missing or unknown")
    tx.execute(insert(table).values(**row))


def _named(content: Mapping[str, Any]) -> str:
    """What a line is about, for a message."""
    row = content.get("row")
    if not isinstance(row, Mapping):
        return "header" if "ratchet_ledger" in content else "no row"
    keys = next((table.primary_key for table in _TABLES if table.name == content.get("table")), ())
    return " ".join([str(content.get("table")), *(str(row.get(column.name))[:20] for column in keys)])
