"""What serving knows of items: categories, price, and whether they are offered now, in one file of plain arrays.

The flows publish it after each ingest; a running server notices the new file. Items are in the order of their ids'
UTF-8 bytes. Light: NumPy and the standard library, and nothing in the file can run.

Shapes: C items of the catalogue, E categories of all items one after another, K distinct categories.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected, DependencyFailed

FORMAT = 1
NEVER = np.iinfo(np.int64).max
_LOOKED_UP_AT_ONCE = 4_096  # a few milliseconds without giving other threads a turn

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Catalogue:
    """`ids`: all item ids, one after another; item c ends before character `ends_C[c]`."""

    ids: str
    ends_C: Ints
    available_C: npt.NDArray[np.bool_]
    price_C: npt.NDArray[np.float64]
    """In the catalogue's currency; NaN where none is stated."""
    category_ends_C: Ints
    category_E: npt.NDArray[np.int32]
    """Codes into `names`; item c's end before `category_ends_C[c]`."""
    names: tuple[str, ...]
    version: int = 0
    """Of the items table."""
    until_us: int = NEVER
    """When the next state of an item begins that is in the table already; UTC microseconds."""

    @staticmethod
    def of(rows: Mapping[str, tuple[bool, float | None, Sequence[str]]]) -> "Catalogue":
        """From item id → (available, price, categories); for few items."""
        ordered = sorted(rows, key=lambda item: item.encode())
        names = sorted({name for _, _, categories in rows.values() for name in categories})
        codes = {name: code for code, name in enumerate(names)}
        return Catalogue(
            ids="".join(ordered),
            ends_C=np.cumsum([len(item) for item in ordered], dtype=np.int64),
            available_C=np.array([rows[item][0] for item in ordered], dtype=bool),
            price_C=np.array([np.nan if (p := rows[item][1]) is None else p for item in ordered], dtype=np.float64),
            category_ends_C=np.cumsum([len(rows[item][2]) for item in ordered], dtype=np.int64),
            category_E=np.array([codes[name] for item in ordered for name in rows[item][2]], dtype=np.int32),
            names=tuple(names),
        )

    def __len__(self) -> int:
        return len(self.ends_C)

    @cached_property
    def codes(self) -> dict[str, int]:
        """Category → its place in `names`."""
        return {name: code for code, name in enumerate(self.names)}

    def same_items(self, other: "Catalogue") -> bool:
        """Whether both are of the same items, whatever they say of them."""
        return self.ids == other.ids and np.array_equal(self.ends_C, other.ends_C)

    def places(self, rows: Mapping[str, int]) -> Places:
        """[C] where `rows` has each item, −1 for one that it lacks. Some 0.3 s for a million items, in small bites."""
        found_C = np.empty(len(self), dtype=np.int32)
        for start in range(0, len(self), _LOOKED_UP_AT_ONCE):
            ends = self.ends_C[max(start - 1, 0) : start + _LOOKED_UP_AT_ONCE].tolist()
            bounds = pairwise(ends if start else [0, *ends])
            items = [self.ids[begin:end] for begin, end in bounds]
            found_C[start : start + len(items)] = np.fromiter(map(rows.get, items, repeat(-1)), np.int32, len(items))
        return found_C


def publish(path: Path, catalogue: Catalogue) -> None:
    """Replace the file at `path` atomically. Equal catalogues are equal bytes.

    Raises DependencyFailed where the disk refuses; the former file then stays.
    """
    arrays = {
        "stated": np.array([FORMAT, catalogue.version, catalogue.until_us], dtype=np.int64),
        "ids": np.frombuffer(catalogue.ids.encode(), dtype=np.uint8),
        "ends": catalogue.ends_C,
        "available": catalogue.available_C,
        "price": catalogue.price_C,
        "category_ends": catalogue.category_ends_C,
        "categories": catalogue.category_E,
        "names": np.frombuffer(json.dumps(catalogue.names).encode(), dtype=np.uint8),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the names for its own options
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DependencyFailed(f"{path}: cannot publish the catalogue: {error.strerror}; free the disk") from error


def read(path: Path) -> Catalogue:
    """Raises FileNotFoundError where none was published, DataRejected for anything else than a whole catalogue."""
    try:
        with (
            path.open("rb") as file,
            np.load(file) as stored,
        ):  # the archive's checksums are compared; arrays of objects are refused
            arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
        version, until_us = _stated(arrays["stated"])
        names = json.loads(arrays["names"].tobytes())
        catalogue = Catalogue(
            ids=arrays["ids"].tobytes().decode(),
            ends_C=arrays["ends"],
            available_C=arrays["available"],
            price_C=arrays["price"],
            category_ends_C=arrays["category_ends"],
            category_E=arrays["categories"],
            names=tuple(names),
            version=version,
            until_us=until_us,
        )
        _check(catalogue)
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zipfile raise almost anything
        raise DataRejected(
            f"{path}: not a catalogue ({error}); delete it, the next ingest publishes it anew"
        ) from error
    return catalogue


def holds(path: Path, *, version: int, now_us: int) -> bool:
    """Whether the file tells what the items table of this version says at this moment."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            published, until_us = _stated(stored["stated"])
    except Exception:  # none, or a damaged one: it is published anew
        return False
    return published == version and now_us < until_us


def _stated(stated: Ints) -> tuple[int, int]:
    form, version, until_us = stated.tolist()
    if form != FORMAT:
        raise ValueError(f"format {form}, not {FORMAT}")
    return version, until_us


def _check(catalogue: Catalogue) -> None:
    n, kinds = len(catalogue), {"ends_C": "i8", "available_C": "?", "price_C": "f8", "category_ends_C": "i8"}
    for name, kind in kinds.items():
        array = getattr(catalogue, name)
        if array.shape != (n,) or array.dtype != np.dtype(kind):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
    for ends, total in ((catalogue.ends_C, len(catalogue.ids)), (catalogue.category_ends_C, catalogue.category_E.size)):
        if (ends[-1] if n else 0) != total or (np.diff(ends, prepend=0) < 0).any():
            raise ValueError("its offsets do not fit")
    codes = catalogue.category_E
    if codes.dtype != np.int32 or (codes.size and not 0 <= codes.min() <= codes.max() < len(catalogue.names)):
        raise ValueError("its categories do not fit")
    if not all(isinstance(name, str) for name in catalogue.names):
        raise ValueError("its categories have names that are no text")
