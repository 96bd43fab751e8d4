"""The append-only map between item ids and rows of the network's item table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relations.errors import DataRejected


@dataclass(frozen=True)
class Vocabulary:
    """Row r stands for `items[r - 1]`; row 0 is padding. A known item never changes its row.

    `version` counts the growths. `withdrawn`: rows, ascending, of items that must not be recommended; they stay, since
    histories hold them and a row has one meaning for ever. Raises ValueError for a repeated id: two rows for one item
    would split its history.
    """

    items: tuple[str, ...]
    version: int = 1
    withdrawn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.items)) != len(self.items):
            raise ValueError("an item id occurs twice in the vocabulary; rows must be unique")

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items, start=1)}

    def rows(self, items: Iterable[str]) -> np.ndarray:
        """int64 row of each id; 0 for an id that is not known."""
        row = self._row
        return np.fromiter((row.get(item, 0) for item in items), dtype=np.int64)

    def grown(self, items: Iterable[str]) -> "Vocabulary":
        """With unknown ids appended in sorted order, whatever the order of `items`; itself when none is unknown."""
        fresh = sorted(set(items).difference(self._row))
        return replace(self, items=(*self.items, *fresh), version=self.version + 1) if fresh else self

    def withdrawing(self, items: Iterable[str]) -> "Vocabulary":
        """With exactly those of `items` that are known as withdrawn, whatever was before."""
        rows = self.rows(items)
        return replace(self, withdrawn=tuple(np.unique(rows[rows > 0]).tolist()))

    def to_json(self) -> str:
        stated: dict[str, Any] = {"version": self.version, "items": self.items}
        if self.withdrawn:
            stated["withdrawn"] = self.withdrawn
        return json.dumps(stated, ensure_ascii=False, separators=(",", ":"))

    def save(self, file: Path) -> None:
        file.write_bytes(self.to_json().encode())

    @staticmethod
    def load(file: Path) -> "Vocabulary":
        """Raises DataRejected when the file is missing or holds something else."""
        try:
            stated = json.loads(file.read_bytes())
            withdrawn = tuple(int(row) for row in stated.pop("withdrawn", ()))
            return Vocabulary(tuple(stated["items"]), int(stated["version"]), withdrawn)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataRejected(f"{file}: not a vocabulary ({error}); restore the checkpoint or train again") from error
