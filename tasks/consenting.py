"""A user's wish not to be learnt from: a row of the users table, through the ordinary door."""

import json
import os
from datetime import datetime, timedelta
from typing import Any

import ibis
import pyarrow as pa

from relations.consent import NO, OPT_OUT, YES, opted_out
from relations.errors import DataRejected
from relations.traces import rows_of
from stores.home import Home
from stores.lake import Lake
from stores.privacy import WISH
from stores.pseudonyms import Keys
from stores.settings import Settings
from tasks.ingesting import ingest_file

SOURCE = "privacy"


def set_opt_out(home: Home, settings: Settings, user: str, *, out: bool, now: datetime) -> bool:
    """State that `user` (a raw id) is out, or in again; the other attributes stay. False where that is so already.

    Raises DataRejected where the id is none that the door accepts.
    """
    lake, pseudonym = Lake(home.lake), Keys.load(home.keys).user(user)
    asked = ibis.memtable(pa.table({"user": pa.array([pseudonym], pa.string())}))
    said = rows_of(lake.relation("users"), asked)
    if bool(opted_out(said).count().to_pyarrow().as_py()) is out:
        return False
    rows: list[dict[str, Any]] = said.order_by("valid_from").select("valid_from", "attributes").to_pyarrow().to_pylist()
    at, attributes = now, {}
    if rows:
        at, attributes = (
            max(now, rows[-1]["valid_from"] + timedelta(microseconds=1)),
            dict(rows[-1]["attributes"] or ()),
        )
    word = YES[0] if out else NO[0]
    stated = {"user_id": user, "valid_from": at.isoformat(), "attributes": attributes | {OPT_OUT: word}}
    file = home.staging / f"{WISH}{os.getpid()}.jsonl"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as written:
            written.write(json.dumps(stated) + "\n")
        receipt = ingest_file(file, home=home, settings=settings, kind="users", source=SOURCE, format="jsonl", now=now)
    finally:
        file.unlink(missing_ok=True)
    if not receipt.accepted:
        why = "; ".join(name for name, _ in receipt.reasons) or receipt.state
        raise DataRejected(f"the user's row was not accepted ({why}); check the id, see `ratchet quarantine explain`")
    return True
