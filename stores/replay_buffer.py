"""The replay buffer: which pieces of users' histories increments may learn from again, as a Delta table of references.

What is kept follows from the events that a model has seen and from the rule alone: `brought_up` gives the same whether
it goes on from an earlier buffer, whichever, or from none. So a lost, late or repeated write changes no training.

Beyond the pieces that fit, the table has the first that does not: it is the proof that none of those that are not in
the table comes before it.

Shapes: N events, U users, P pieces, C candidates.
"""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from model.continual.options import IncrementOptions, Replay
from model.continual.replay import Pieces, choose, cut
from model.sequences import Histories
from relations.schemas import REPLAY, TIME
from stores.lake import Lake
from stores.sequences.arrays import Sequences
from stores.upkeep import LakeKeeper

TABLE = "replay"


@dataclass(frozen=True)
class Seen:
    """What a model was trained on: the events that had arrived by `events_version`, earlier than `cutoff_us`."""

    events_version: int
    cutoff_us: int

    def among(self, sequences: Sequences) -> np.ndarray:
        """True for each event that was seen."""
        return np.asarray((sequences.arrived_N <= self.events_version) & (sequences.time_N < self.cutoff_us))

    def within(self, other: "Seen") -> bool:
        return self.events_version <= other.events_version and self.cutoff_us <= other.cutoff_us


@dataclass(frozen=True)
class Rule:
    """All that the choice depends on beside the events. `length`: the most events of a piece; `key_version`: of the
    pseudonyms, from which priorities follow."""

    options: IncrementOptions
    length: int
    seed: int
    key_version: int

    @property
    def stated(self) -> str:
        of = self.options
        fading = f", half-life {of.replay_half_life_days:g} days" if of.replay is Replay.RECENT else ""
        return (
            f"{of.replay}{fading}, {of.replay_events} events in pieces of {self.length}, seed {self.seed}, "
            f"key {self.key_version}"
        )

    def pieces(self, count_U: np.ndarray) -> int:
        """How many pieces histories of `count_U` events have."""
        return int((-(-count_U[count_U > 1] // self.length)).sum())


@dataclass(frozen=True)
class Rows:
    """Piece p: `events_P` events of a user, from the `place_P`-th (from 0) of those that were seen; by (user, place).

    Times are UTC µs.
    """

    user_P: np.ndarray  # UTF-8 bytes
    place_P: np.ndarray
    events_P: np.ndarray
    begins_P: np.ndarray
    ends_P: np.ndarray
    item_P: np.ndarray  # object
    priority_P: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.place_P)

    def keep(self, choice: np.ndarray) -> "Rows":
        return Rows(*(getattr(self, each.name)[choice] for each in fields(self)))

    def __add__(self, other: "Rows") -> "Rows":
        both = Rows(*(np.concatenate([getattr(self, each.name), getattr(other, each.name)]) for each in fields(self)))
        return both.keep(np.lexsort([both.place_P, both.user_P]))


@dataclass(frozen=True)
class Buffer:
    """`found`: how many pieces there were to choose from."""

    rows: Rows
    rule: str
    seen: Seen
    found: int


def read_buffer(lake: Lake) -> Buffer | None:
    """What the table holds; None for nothing."""
    table = lake.read(TABLE).sort_by([("user", "ascending"), ("place", "ascending")])
    if not table.num_rows:
        return None
    (said,) = table.slice(0, 1).to_pylist()  # of one commit: all rows say the same
    times = {name: np.asarray(table[name].cast(pa.int64())) for name in ("begins", "ends", "cutoff")}
    items = np.empty(table.num_rows, dtype=object)
    items[:] = table["item_id"].to_pylist()
    rows = Rows(
        user_P=np.array([user.encode() for user in table["user"].to_pylist()], dtype="S"),
        place_P=np.asarray(table["place"]),
        events_P=np.asarray(table["events"]),
        begins_P=times["begins"],
        ends_P=times["ends"],
        item_P=items,
        priority_P=np.asarray(table["priority"]),
    )
    seen = Seen(int(said["events_version"]), int(times["cutoff"][0]))
    return Buffer(rows, said["kept_for"], seen, int(said["found"]))


def write_buffer(keeper: LakeKeeper, buffer: Buffer) -> None:
    """Make `buffer` all that the table holds. The caller holds the ingest lock. Raises DependencyFailed: the disk."""
    rows, count = buffer.rows, len(buffer.rows)
    columns = {
        "user": pa.array([user.decode() for user in rows.user_P.tolist()], pa.string()),
        "place": pa.array(rows.place_P),
        "events": pa.array(rows.events_P),
        "begins": _times(rows.begins_P),
        "ends": _times(rows.ends_P),
        "item_id": pa.array(rows.item_P.tolist(), pa.string()),
        "priority": pa.array(rows.priority_P),
        "kept_for": pa.array([buffer.rule] * count, pa.string()),
        "events_version": pa.array(np.full(count, buffer.seen.events_version)),
        "cutoff": _times(np.full(count, buffer.seen.cutoff_us)),
        "found": pa.array(np.full(count, buffer.found)),
    }
    keeper.replace(TABLE, pa.table(columns, schema=REPLAY))


def brought_up(
    buffer: Buffer | None,
    sequences: Sequences,
    *,
    allowed_N: np.ndarray,
    returned_U: np.ndarray,
    to: Seen,
    rule: Rule,
) -> Buffer:
    """What is kept of the events that a model has seen and that may be learnt from.

    `buffer` only saves work: with it, only users with newly seen events are looked at one by one, and those where
    `returned_U`, who may have been left out before. Where it is of another rule, has seen what the model has not, or
    lost too much to deletions, everything is chosen anew.
    """
    seen_N = allowed_N & to.among(sequences)
    found = rule.pieces(sequences.count_U(seen_N))
    rows = None
    if buffer is not None and buffer.rule == rule.stated and buffer.seen.within(to):
        rows = _advanced(buffer, sequences, seen_N, returned_U, rule=rule, to=to, found=found)
    if rows is None:
        rows = _chosen(sequences, seen_N, rule)
    return Buffer(rows, rule.stated, to, found)


def replayable(buffer: Buffer, sequences: Sequences, *, allowed_N: np.ndarray, rule: Rule) -> np.ndarray:
    """True for each event that is in a piece which there is room for."""
    order_P, held = _until(buffer.rows.priority_P, buffer.rows.events_P, rule.options.replay_events)
    rows = buffer.rows.keep(order_P[:held])
    at_S = np.flatnonzero(allowed_N & buffer.seen.among(sequences))
    first_P = np.searchsorted(at_S, sequences.offsets_U1)[np.searchsorted(sequences.user_U, rows.user_P)] + rows.place_P
    inside = np.arange(rows.events_P.sum()) - np.repeat(np.cumsum(rows.events_P) - rows.events_P, rows.events_P)
    replayable_N = np.zeros(len(sequences), dtype=bool)
    replayable_N[at_S[np.repeat(first_P, rows.events_P) + inside]] = True
    return replayable_N


def _chosen(sequences: Sequences, seen_N: np.ndarray, rule: Rule) -> Rows:
    """The best of all pieces, and, but for EXEMPLARS, the first that finds no room."""
    histories, pieces = _cut(sequences, seen_N, rule)
    if rule.options.replay is Replay.EXEMPLARS:
        return _rows(histories, choose(pieces, histories, options=rule.options))
    order_P, held = _until(pieces.priority_P, pieces.events_P, rule.options.replay_events)
    return _rows(histories, pieces.keep(np.sort(order_P[: held + 1])))


def _advanced(
    buffer: Buffer,
    sequences: Sequences,
    seen_N: np.ndarray,
    returned_U: np.ndarray,
    *,
    rule: Rule,
    to: Seen,
    found: int,
) -> Rows | None:
    """The same as `_chosen`, from an earlier choice and the pieces of those who have changed since; None where these do
    not tell it.

    Whatever is neither in the buffer nor of those users comes after everything in the buffer: down to the buffer's last
    row the candidates are all there are.
    """
    old, count_U = buffer.rows, sequences.count_U(seen_N)
    if rule.options.replay is Replay.EXEMPLARS:  # its shares follow from all pieces
        return old if buffer.seen == to and buffer.found == found and not returned_U.any() else None
    changed_U = returned_U | (sequences.count_U(seen_N & ~buffer.seen.among(sequences)) > 0)
    user_P = np.searchsorted(sequences.user_U, old.user_P)
    there_P = user_P < len(sequences.user_U)
    user_P = np.where(there_P, user_P, 0)
    there_P &= (sequences.user_U[user_P] == old.user_P) & (count_U[user_P] > 0) & ~changed_U[user_P]
    kept = old.keep(there_P)
    if not _stand(kept, sequences, seen_N, count_U, user_P[there_P]):
        return None  # the sequences are not those that they were chosen from
    candidates = kept + _rows(*_cut(sequences, seen_N & sequences.of_users(changed_U), rule))
    order_C, held = _until(candidates.priority_P, candidates.events_P, rule.options.replay_events)
    told = len(candidates) == found or (
        held < len(candidates) and candidates.priority_P[order_C[held]] >= old.priority_P.min()
    )
    return candidates.keep(np.sort(order_C[: held + 1])) if told else None


def _stand(rows: Rows, sequences: Sequences, seen_N: np.ndarray, count_U: np.ndarray, user_P: np.ndarray) -> bool:
    """Whether each piece begins and ends at its times."""
    if (rows.place_P + rows.events_P > count_U[user_P]).any():
        return False
    time_S = sequences.time_N[seen_N]
    first_P = (np.cumsum(count_U) - count_U)[user_P] + rows.place_P
    last_P = first_P + rows.events_P - 1
    return np.array_equal(time_S[first_P], rows.begins_P) and np.array_equal(time_S[last_P], rows.ends_P)


def _until(priority_P: np.ndarray, events_P: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """The order of falling priority, and how many pieces in that order hold at most `most` events."""
    order_P = np.argsort(-priority_P, kind="stable")
    return order_P, int(np.searchsorted(np.cumsum(events_P[order_P]), most, side="right"))


def _cut(sequences: Sequences, which_N: np.ndarray, rule: Rule) -> tuple[Histories, Pieces]:
    histories = sequences.histories(which_N)
    return histories, cut(histories, length=rule.length, options=rule.options, seed=rule.seed)


def _rows(histories: Histories, pieces: Pieces) -> Rows:
    user_P = np.searchsorted(histories.offsets_U1, pieces.begin_P, side="right") - 1
    return Rows(
        user_P=np.array([str(user).encode() for user in histories.users[user_P]], dtype="S"),
        place_P=pieces.begin_P - histories.offsets_U1[user_P],
        events_P=pieces.events_P,
        begins_P=histories.time_N[pieces.begin_P],
        ends_P=histories.time_N[pieces.end_P - 1],
        item_P=histories.items[histories.item_N[pieces.end_P - 1]],
        priority_P=pieces.priority_P,
    )


def _times(us_P: np.ndarray) -> pa.Array:
    return pa.array(us_P).cast(TIME)
