"""What the mirror last left in MLflow, kept in the home: the one thing by which a change from outside can be told.

What MLflow shows and the ledger does not say is either older than the ledger, or somebody else's doing. The ledger
alone cannot tell the two apart, and MLflow keeps no history of aliases; what this mirror wrote, and meant to write when
it was killed, can.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ALIAS = "alias "
DESCRIPTION = "description"
DIGEST = "digest"
_HOUR = 3_600.0
MOST_NOTES = 6
"""An hour. Two homes that fight over one registered model would fill the ledger; the rest is counted."""


@dataclass(frozen=True, order=True)
class Item:
    """One thing that MLflow shows. `version`: MLflow's number; 0: the registered model itself.

    `name`: a tag's, `description`, `digest`, or `alias ` and the alias's name.
    """

    version: int
    name: str

    def __str__(self) -> str:
        if self.name.startswith(ALIAS):
            return self.name
        return f"version {self.version}: {self.name}" if self.version else f"model: {self.name}"


Shown = Mapping[Item, str]
"""Item → what it says; empty, or no entry, for one that is not there."""


@dataclass(frozen=True)
class Left:
    """`sums`: what was left, `meant`: what a pass that has not ended wanted to put there, by short hashes.

    `number` names what was left: what is reported against it is reported once. `noted`: when, of the last hour;
    `unnoted`: how many repairs were not reported since, because of too many.
    """

    number: str
    sums: Mapping[Item, str] = field(default_factory=dict)
    meant: Mapping[Item, str] = field(default_factory=dict)
    noted: tuple[float, ...] = ()
    unnoted: int = 0

    def moved(self, items: Iterable[Item], found: Shown) -> list[Item]:
        """Those of `items` that are neither as they were left, nor as a pass meant to leave them.

        Nothing is said of a version that was not shown before: whatever it came with is no change.
        """
        known = {item.version for item in self.sums}
        return [
            item
            for item in items
            if item.version in known
            and _sum(found.get(item, "")) not in {self.sums.get(item, _sum("")), self.meant.get(item)}
        ]

    def lost(self, found: Shown) -> list[Item]:
        """Digests of versions that were there."""
        return sorted(item for item in self.sums if item.name == DIGEST and item not in found)

    def begun(self, found: Shown, wanted: Shown) -> "Left":
        """Before anything is written: all that is there now is explained."""
        return replace(self, number=uuid.uuid4().hex, sums=_sums(found), meant=_sums(wanted))

    def ended(self, wanted: Shown) -> "Left":
        """Itself where nothing has changed."""
        sums = _sums(wanted)
        if sums == self.sums and not self.meant:
            return self
        return replace(self, number=uuid.uuid4().hex, sums=sums, meant={})

    def may_note(self, now: float) -> bool:
        return len(self._recent(now)) < MOST_NOTES

    def told(self, now: float) -> "Left":
        return replace(self, noted=(*self._recent(now), now), unnoted=0)

    def _recent(self, now: float) -> tuple[float, ...]:
        return tuple(time for time in self.noted if now - _HOUR < time <= now)


def read_left(file: Path) -> Left:
    """Without a readable file nothing is known, and so nothing is called a change from outside."""
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        return Left(
            number=str(stated["number"]),
            sums=_items(stated["sums"]),
            meant=_items(stated["meant"]),
            noted=tuple(float(time) for time in stated["noted"]),
            unnoted=int(stated["unnoted"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Left(number=uuid.uuid4().hex)


def write_left(file: Path, left: Left) -> None:
    stated = {**vars(left), "sums": _texts(left.sums), "meant": _texts(left.meant)}
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(stated, sort_keys=True), encoding="utf-8")
    temporary.replace(file)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _sums(shown: Shown) -> dict[Item, str]:
    return {item: _sum(text) for item, text in shown.items()}


def _texts(sums: Mapping[Item, str]) -> dict[str, str]:
    return {f"{item.version} {item.name}": value for item, value in sums.items()}


def _items(stated: Any) -> dict[Item, str]:
    parted = ((key.split(" ", 1), str(value)) for key, value in stated.items())
    return {Item(int(version), name): value for (version, name), value in parted}
