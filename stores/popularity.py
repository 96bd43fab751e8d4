"""The popularity list: what answers while there is no champion, and newcomers where [policy] says so.

A JSON file `{"format": 1, "items": [[item_id, count], …]}`, most popular first. Standard library
only: serving reads it.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from relations.errors import DataRejected, DependencyFailed

FORMAT = 1


def publish(path: Path, counts: Iterable[tuple[str, float]]) -> None:
    """Replace the list at `path` atomically. Order: count descending, then item id, so that equal counts are stable.

    Raises DependencyFailed where the disk refuses; the former list then stays.
    """
    ordered = sorted(((item_id, count) for item_id, count in counts), key=lambda pair: (-pair[1], pair[0]))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "items": ordered}, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DependencyFailed(
            f"{path}: cannot publish the popularity list: {error.strerror}; free the disk"
        ) from error


def read(path: Path) -> list[str]:
    """Item ids, most popular first; empty where nothing was published yet.

    Raises DataRejected for a file that is not a popularity list.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DependencyFailed(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise DataRejected(f"{path}: not JSON ({error}); delete it, the next ingest writes it anew") from error
    pairs = stated.get("items") if isinstance(stated, dict) and stated.get("format") == FORMAT else None
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise DataRejected(
            f"{path}: not a popularity list of format {FORMAT}; delete it, the next ingest writes it anew"
        )
    return [pair[0] for pair in pairs]


def _is_pair(pair: object) -> bool:
    match pair:
        case [str(), int() | float() as count]:
            return math.isfinite(count)
        case _:
            return False
