"""The shape of a behaviour log: how unequal its items are, how long its sessions, how often people come back to one.

    python -m simulation.profile --format movielens u.data
    python -m simulation.profile --format diginetica FOLDER       # period_*.txt.gz, lines "session item"
    python -m simulation.profile --format simulation --seed 0 --days 14

Legend: `_E` events in the order of the log, `_I` items, `_U` users.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relations.errors import DataRejected, RatchetError
from simulation.marketplace import Marketplace
from simulation.replay import SESSION_GAP_SECONDS


@dataclass(frozen=True)
class Profile:
    events: int
    users: int
    items: int
    events_per_user: float
    popularity_gini: float
    """0: all items that occur do so equally often; near 1: a few have everything."""
    top_tenth_share: float
    """Share of the events on the most frequent tenth of the items."""
    sessions: int
    session_mean: float
    """Events in a session."""
    session_p50: float
    session_p90: float
    repeat_rate: float
    """Share of the events on an item that the same user (where unknown: session) had before."""


def profile(
    user_E: NDArray[np.int64],
    item_E: NDArray[np.int64],
    time_E: NDArray[np.float64],
    *,
    gap: float = SESSION_GAP_SECONDS,
) -> Profile:
    """Profile of a log, `time_E` in seconds; equal times keep their order. A pause longer than `gap` ends a session.

    Raises DataRejected for an empty log.
    """
    if not len(user_E):
        raise DataRejected("the log holds no events, so it has no shape; check the path and --format")
    order_E = np.lexsort((time_E, user_E))
    user_E, item_E, time_E = user_E[order_E], item_E[order_E], time_E[order_E]
    starts_E = np.ones(len(user_E), dtype=bool)
    starts_E[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] - time_E[:-1] > gap)
    length_S = np.diff(np.append(np.flatnonzero(starts_E), len(user_E)))
    count_I = np.unique(item_E, return_counts=True)[1]
    users = len(np.unique(user_E))
    pairs = len(np.unique(np.stack([user_E, item_E]), axis=1).T)
    best = np.sort(count_I)[::-1][: max(1, round(len(count_I) / 10))]
    return Profile(
        events=len(user_E),
        users=users,
        items=len(count_I),
        events_per_user=len(user_E) / users,
        popularity_gini=gini(count_I),
        top_tenth_share=float(best.sum() / count_I.sum()),
        sessions=len(length_S),
        session_mean=float(length_S.mean()),
        session_p50=float(np.percentile(length_S, 50)),
        session_p90=float(np.percentile(length_S, 90)),
        repeat_rate=1 - pairs / len(user_E),
    )


def gini(count_I: NDArray[np.int64]) -> float:
    """Gini coefficient of counts: half their mean absolute difference, over the mean."""
    ascending_I = np.sort(count_I).astype(np.float64)
    rank_I = np.arange(1, len(ascending_I) + 1)
    return float(((2 * rank_I - len(ascending_I) - 1) * ascending_I).sum() / (len(ascending_I) * ascending_I.sum()))


def profile_movielens(path: Path) -> Profile:
    """`u.data`: user, item, rating, Unix time; tabs."""
    columns = _table(path.read_text(encoding="utf-8"), path, 4)
    return profile(columns[:, 0], columns[:, 1], columns[:, 3].astype(np.float64))


def profile_diginetica(folder: Path) -> Profile:
    """Weekly periods of (session, item). A session is its own user: the log names no people and no times."""
    files = sorted(folder.glob("period_*.txt.gz"), key=lambda file: int(file.name.split("_")[1].split(".")[0]))
    if not files:
        raise DataRejected(f"{folder}: no period_*.txt.gz there; give the folder of weekly files")
    columns = np.concatenate([_table(gzip.decompress(file.read_bytes()).decode(), file, 2) for file in files])
    return profile(columns[:, 0], columns[:, 1], np.zeros(len(columns)))


def profile_simulation(marketplace: Marketplace, *, days: int) -> Profile:
    """Item views of people, the opening of an item page; clicks and what follows them are about the same item."""
    parts = [marketplace.events(day) for day in range(days)]
    kept = [part.select((part.behaviour_E == 0) & (part.user_E >= marketplace.people.bots)) for part in parts]
    return profile(
        np.concatenate([part.user_E for part in kept]),
        np.concatenate([part.item_E for part in kept]),
        np.concatenate([part.time_us_E for part in kept]) / 1e6,
    )


def _table(text: str, file: Path, width: int) -> NDArray[np.int64]:
    try:
        columns = np.array(text.split(), dtype=np.int64).reshape(-1, width)
    except ValueError as error:
        raise DataRejected(f"{file}: expected {width} whole numbers a line: {error}; check --format") from error
    return columns


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation.profile", description="The shape of a behaviour log.")
    parser.add_argument("path", nargs="?", type=Path, help="u.data, or the folder of DIGINETICA's weekly periods")
    parser.add_argument("--format", choices=["movielens", "diginetica", "simulation"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--days", type=int, default=14)
    stated = parser.parse_args(arguments)
    if stated.format != "simulation" and stated.path is None:
        parser.error(f"--format {stated.format} needs a path")
    try:
        if stated.format == "simulation":
            found = profile_simulation(Marketplace(seed=stated.seed), days=stated.days)
        elif stated.format == "movielens":
            found = profile_movielens(stated.path)
        else:
            found = profile_diginetica(stated.path)
    except (RatchetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, RatchetError) else 6
    sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
