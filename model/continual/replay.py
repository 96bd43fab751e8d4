# ruff: noqa: N802 -- shape suffixes are part of the names
"""What of the past is worth keeping for replay: pieces of histories, each with a priority of its own.

A piece's priority follows from the piece alone, so that the best pieces of a stream are the same however the stream is
cut: best(best(A) ∪ B) = best(A ∪ B), and doing it twice changes nothing. Only EXEMPLARS, which shares the room out by
how often items are met, asks for all pieces at once to be exact.

Shapes: N events, U users, P pieces.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from model.continual.options import IncrementOptions, Replay
from model.sequences import Histories

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Pieces:
    """Piece p is the events [begin_P, end_P) of `histories`, of one user, in order."""

    begin_P: np.ndarray
    end_P: np.ndarray
    priority_P: np.ndarray  # float64, the higher the sooner kept

    def __len__(self) -> int:
        return len(self.begin_P)

    @property
    def events_P(self) -> np.ndarray:
        return np.asarray(self.end_P - self.begin_P)

    def keep(self, choice: np.ndarray) -> "Pieces":
        return Pieces(self.begin_P[choice], self.end_P[choice], self.priority_P[choice])

    def mask(self, events: int) -> np.ndarray:
        """True for each of `events` events that is in a piece."""
        edge_N1 = np.zeros(events + 1, dtype=np.int64)
        np.add.at(edge_N1, self.begin_P, 1)
        np.add.at(edge_N1, self.end_P, -1)
        return np.cumsum(edge_N1[:-1]) > 0


def cut(histories: Histories, *, length: int, options: IncrementOptions, seed: int) -> Pieces:
    """Every user's history in pieces of `length` events from its beginning on, the last one shorter.

    A history that goes on keeps its former pieces; the last one grows, under the same priority. A user with a single
    event has no piece: there is nothing to tell the event from.

    RESERVOIR: priorities are uniform, so that the best k are a reservoir sample (Vitter, ACM TOMS 1985). RECENT: the
    best k are a sample without replacement with weights 2^(t / half-life), t the time of the first event
    (Efraimidis & Spirakis, IPL 2006, in the Gumbel form; weights by forward decay, Cormode et al., ICDE 2009, so that
    they never change).
    """
    begin_U, count_U = histories.offsets_U1[:-1], np.diff(histories.offsets_U1)
    pieces_U = np.where(count_U > 1, -(-count_U // length), 0)
    user_P = np.repeat(np.arange(len(count_U)), pieces_U)
    place_P = np.arange(len(user_P)) - np.repeat(np.cumsum(pieces_U) - pieces_U, pieces_U)
    begin_P = begin_U[user_P] + place_P * length
    end_P = np.minimum(begin_P + length, histories.offsets_U1[1:][user_P])
    time_P = histories.time_N[begin_P]
    uniform_P = _uniform(_hash(histories.users, seed)[user_P], time_P)
    if options.replay is not Replay.RECENT:
        return Pieces(begin_P, end_P, uniform_P)
    weight_P = np.log(2) * (time_P / DAY_US) / options.replay_half_life_days
    return Pieces(begin_P, end_P, weight_P - np.log(-np.log(uniform_P)))


def choose(pieces: Pieces, histories: Histories, *, options: IncrementOptions) -> Pieces:
    """The pieces that are kept: the best, while they hold at most `replay_events` events, in the order of `pieces`.

    EXEMPLARS: room is shared out in proportion to how many pieces end with an item, with one for each item first
    (Mi, Lin & Faltings, RecSys 2020, section 3.2, whose choice within an item is by herding; here it is by priority).
    """
    if options.replay is Replay.EXEMPLARS:
        turn_P = _turns(histories.item_N[pieces.end_P - 1], pieces.priority_P)
        order_P = np.lexsort([-pieces.priority_P, turn_P])
    else:
        order_P = np.argsort(-pieces.priority_P, kind="stable")
    held = int(np.searchsorted(np.cumsum(pieces.events_P[order_P]), options.replay_events, side="right"))
    return pieces.keep(np.sort(order_P[:held]))


def _turns(item_P: np.ndarray, priority_P: np.ndarray) -> np.ndarray:
    """When a piece's turn comes: each item's best at 0, then each item's rest evenly over (0, 1]."""
    order_P = np.lexsort([-priority_P, item_P])
    _, first_I, count_I = np.unique(item_P[order_P], return_index=True, return_counts=True)
    rank_P = np.arange(len(item_P)) - np.repeat(first_I, count_I)
    turn_P = np.empty(len(item_P))
    turn_P[order_P] = rank_P / np.repeat(count_I, count_I)
    return turn_P


def _hash(users: np.ndarray, seed: int) -> np.ndarray:
    """uint64 of each user's id, another for each seed."""
    key = f"replay {seed}".encode()
    digests = (hashlib.blake2b(str(user).encode(), digest_size=8, key=key).digest() for user in users)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _uniform(hash_P: np.ndarray, time_P: np.ndarray) -> np.ndarray:
    """In (0, 1), of both together: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z_P = hash_P ^ (time_P.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        z_P = (z_P ^ (z_P >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z_P = (z_P ^ (z_P >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z_P = z_P ^ (z_P >> np.uint64(31))
    return np.asarray(((z_P >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53))
