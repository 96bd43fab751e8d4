"""What a training is determined by: mode, parent and data versions, chosen by lineage. One training, one folder.

The folder is named by what determines it, so the same training asked for twice is one, and a killed one goes on where
it stopped.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from relations.errors import UsageError
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.allowed import consented
from tasks.sabotage import Sabotage


class Mode(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"


@dataclass(frozen=True)
class TrainingJob:
    """What one training is determined by. `events_version`: the newest delivery's, of which and of those before it
    learns. `parent`: the version whose weights it starts from (incremental), or that it was tested against (full).
    `folder` is relative to the home."""

    mode: Mode
    events_version: int
    items_version: int
    parent: int | None
    champion: int | None
    sabotage: str | None
    folder: str

    def path(self, home: Home) -> Path:
        return home.root / self.folder

    def save(self, home: Home) -> None:
        folder = self.path(home)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", asdict(self))


@dataclass(frozen=True)
class NothingToLearn:
    """A training that would change nothing, and why."""

    reason: str


def plan_training(
    home: Home, settings: Settings, *, mode: Mode, sabotage: Sabotage | None = None
) -> TrainingJob | NothingToLearn:
    """Choose data versions and parent. Raises UsageError without events, or for an increment without a champion."""
    ledger, found = Ledger.of(home, settings), consented(home, settings)
    events, items = found.sequences.absorbed, Lake(home.lake).version("items")
    if events < 0:
        raise UsageError(f"{home.root}: there are no events yet; `ratchet ingest FILE` brings some in")
    champion, candidate = ledger.champion(), ledger.candidate()
    if mode is Mode.INCREMENTAL and champion is None:
        raise UsageError(f"{home.root}: an increment needs a champion; run `ratchet train --mode full` first")
    parent = champion.version if champion else None
    if mode is Mode.INCREMENTAL and candidate is not None:
        parent = candidate.version
    if mode is Mode.INCREMENTAL and sabotage is None and parent is not None:
        record = ledger.version(parent)
        # what the parent was tested on is not news by itself
        arrived = int((found.allowed_N & (found.sequences.arrived_N > record.events_version)).sum())
        if arrived < settings.increment.min_new_events:
            return NothingToLearn(f"no new events since v{parent} (events version {record.events_version})")
    facts = {
        "mode": mode.value,
        "events": events,
        "items": items,
        "users": Lake(home.lake).version("users") if settings.features.user else None,
        "parent": parent,
        "champion": champion.version if champion else None,
        "sabotage": asdict(sabotage) if sabotage else None,
        # A deletion or an opt-out leaves the events version as it is, and must not find the old training done.
        "rows": int(found.allowed_N.sum()),
        "left_out": found.left_out,
        "settings": {
            name: getattr(settings, name).model_dump(mode="json")
            for name in ("model", "features", "objective", "train", "increment", "evaluation", "forgetting")
        },
        "modalities": {name: stated.model_dump(mode="json") for name, stated in settings.modalities.items()},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    job = TrainingJob(
        mode=mode,
        events_version=events,
        items_version=items,
        parent=parent,
        champion=champion.version if champion else None,
        sabotage=json.dumps(asdict(sabotage), sort_keys=True) if sabotage else None,
        folder=f"checkpoints/{mode.value}-{key}",
    )
    job.save(home)
    return job


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    temporary.replace(file)
