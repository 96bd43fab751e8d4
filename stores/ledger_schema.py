"""The ledger's schema: made at once in a new database, changed step by step in an older one.

The steps are alembic's revisions in `migrations/`, numbered as the schemas are. A new database gets its tables from
`ledger_tables` and is marked with the newest revision; alembic is loaded only where there is something to change. Both
ways lead to the same schema, which a test compares. `meta.schema` says which one it is, as it did before there were
revisions: by it an older Ratchet knows that it must not write here.
"""

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Lock

from sqlalchemy import (
    URL,
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    delete,
    insert,
    inspect,
    select,
    update,
)

from relations.errors import DependencyFailed, UsageError
from stores.ledger_tables import meta, metadata

SCHEMA = "5"
"""The newest revision. 1 had no standing approvals and deltas, 2 no stages of trials, 3 no further challengers, 4 no
people, approvals, break-glass and notices."""
MIGRATIONS = Path(__file__).parent / "migrations"
_OLDER = ("1", "2", "3", "4")
_LOG = logging.getLogger(__name__)
_alembic = Lock()  # its `op` and `context` belong to the process
_revision = Table(  # as alembic makes it
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def found_schema(tx: Connection, *, lock: bool = False) -> str | None:
    """What the database has; None where there is no ledger yet, empty where a table `meta` says nothing of a schema.

    `lock`: with the lock that every writer takes, an older Ratchet's too.
    """
    if not inspect(tx).has_table(meta.name):
        return None
    told = select(meta.c.value).where(meta.c.key == "schema")
    return tx.execute(told.with_for_update() if lock else told).scalar_one_or_none() or ""


def bring_up_to_date(tx: Connection, url: URL) -> None:
    """Make the tables, or change those of an older Ratchet. `tx` holds the writer's lock; the caller commits.

    An SQLite file that is changed is copied beside it first, to `<name>.before-<revision>`. Raises UsageError for a
    schema that is not known here, and DependencyFailed where a step fails: then nothing may be committed.
    """
    found = found_schema(tx, lock=True)
    if found is None:
        metadata.create_all(tx)
        tx.execute(insert(meta).values(key="schema", value=SCHEMA))
        _mark(tx, SCHEMA)
    elif found in _OLDER:
        _upgrade(tx, url, found)
    elif found != SCHEMA:
        raise UsageError(
            f"ledger {url.render_as_string()}: schema {found or 'unknown'}, this version of Ratchet reads {SCHEMA}; "
            "use the version that wrote it, or a newer one"
        )


def _upgrade(tx: Connection, url: URL, found: str) -> None:
    from alembic import command
    from alembic.config import Config

    name = url.render_as_string()
    try:
        kept = _copied(Path(url.database)) if url.get_backend_name() == "sqlite" and url.database else None
        if not inspect(tx).has_table(_revision.name):
            _mark(tx, found)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with _alembic:
            config.attributes["connection"] = tx
            command.upgrade(config, SCHEMA)
        tx.execute(update(meta).where(meta.c.key == "schema").values(value=SCHEMA))
    except Exception as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise DependencyFailed(
            f"ledger {name}: could not be changed from schema {found} to {SCHEMA}: {cause}; it is as it was, and the "
            "version of Ratchet that wrote it can go on with it"
        ) from error
    _LOG.warning(
        "ledger %s: changed from schema %s to %s; %s", name, found, SCHEMA, f"as it was: {kept}" if kept else "no copy"
    )


def _mark(tx: Connection, revision: str) -> None:
    _revision.create(tx, checkfirst=True)
    tx.execute(delete(_revision))
    tx.execute(insert(_revision).values(version_num=revision))


def _copied(path: Path) -> Path:
    """A whole copy beside the file, or none. What other connections have committed is in it."""
    kept = path.with_name(f"{path.name}.before-{SCHEMA}")
    part = path.with_name(f"{kept.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, whole without another beside it
    shutil.copymode(path, part)
    part.replace(kept)
    return kept
