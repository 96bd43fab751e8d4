"""Upkeep of the lake: small files merged, files and log entries of old versions dropped, receipts on the record."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from relations.schemas import SCHEMAS
from stores.delivery import ingest_lock
from stores.home import Home
from stores.settings import Settings
from stores.upkeep import LakeKeeper
from tasks.forgetting import models_to_retire, record_receipts

SMALL_FILES = 8
"""A table of more files is compacted: each read opens them all."""


@dataclass(frozen=True)
class TableUpkeep:
    """What was done to a table. `bytes`: what its folder holds, the log included, before and after."""

    table: str
    files: tuple[int, int]
    bytes: tuple[int, int]
    dropped: int
    log_entries: int


def maintain_lake(home: Home, settings: Settings) -> list[TableUpkeep]:
    """Compact, vacuum what is older than [lake] keep_days, checkpoint and trim the log; for every table there is.

    Deliveries wait meanwhile. Older versions of the tables go with their files: nothing of Ratchet reads them.
    """
    keeper = LakeKeeper(home.lake)
    done = []
    for table in SCHEMAS:
        with ingest_lock(home):  # one table at a time, so that a delivery waits for one
            if keeper.version(table) >= 0:
                done.append(_maintain(keeper, table, keep=timedelta(days=settings.lake.keep_days)))
    record_receipts(home, settings)
    return done


def report_markdown(home: Home, settings: Settings, done: list[TableUpkeep]) -> str:
    """For the Prefect UI: the tables, and below them the models that must be retired."""
    lines = ["| table | files | MB | files dropped | log entries dropped |", "|---|---:|---:|---:|---:|"]
    for each in done:
        megabytes = " → ".join(f"{size / 1e6:,.1f}" for size in each.bytes)
        files = " → ".join(map(str, each.files))
        lines.append(f"| {each.table} | {files} | {megabytes} | {each.dropped} | {each.log_entries} |")
    retire = models_to_retire(home, settings)
    if retire:
        lines += ["", "Models that learnt from forgotten users:", ""]
        lines += [
            f"- v{model['version']}{' (serves)' if model['champion'] else ''}: replace by {model['retire_by'][:10]}"
            for model in retire
        ]
    return "\n".join(lines)


def as_json(done: list[TableUpkeep]) -> list[dict[str, Any]]:
    return [asdict(each) for each in done]


def _maintain(keeper: LakeKeeper, table: str, *, keep: timedelta) -> TableUpkeep:
    before = keeper.size(table)
    keeper.compact(table, above=SMALL_FILES)
    dropped = keeper.vacuum(table, keep=keep)
    entries = keeper.trim(table, keep=keep)
    after = keeper.size(table)
    return TableUpkeep(table, (before[0], after[0]), (before[1], after[1]), dropped, entries)
