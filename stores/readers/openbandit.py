"""The Open Bandit Dataset: `POLICY/CAMPAIGN/CAMPAIGN.csv`, one round a row: what was shown where, the probability of
showing it, and whether it was clicked.

A round is an exposure (its propensity is exact) and, where clicked, an event. The data set names no users: `user_id`
is the four hashed features that rounds have, so it stands for a segment of people. Items are numbered anew in each
campaign, hence their ids carry its name. The campaigns' `item_context.csv` is not read: its features are hashed
differently under each policy.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.generic import generic_chunks
from stores.readers.inputs import Input, content_name
from stores.readers.lines import BOM
from stores.readers.reshaping import constant, logged_elsewhere, reshaped, selected, texts
from stores.readers.rowwise import objects

FILES = "POLICY/CAMPAIGN/CAMPAIGN.csv with propensity_score and click"
_POLICIES = ("random", "bts")
_FEATURES = "user_feature_"


def kinds(uri: str, head: bytes) -> tuple[str, ...]:
    header = head.removeprefix(BOM).lstrip().partition(b"\n")[0].split(b",")
    return ("exposures", "events") if {b"propensity_score", b"click", b"item_id"} <= set(header) else ()


def chunks(input: Input, *, kind: str) -> Iterator[Chunk]:
    campaign = content_name(input.uri).partition(".")[0]
    policy = next((part for part in PurePosixPath(input.uri).parts if part in _POLICIES), "unknown")
    first = 0
    for chunk in generic_chunks(input, "csv"):
        rounds = _Rounds(chunk, policy=policy, campaign=campaign)
        found = rounds.clicks() if kind == "events" else rounds.exposures()
        if found.rows:
            yield replace(found, first=first)
            first += found.rows


class _Rounds:
    def __init__(self, chunk: Chunk, *, policy: str, campaign: str) -> None:
        self.chunk, self.policy, self.campaign = chunk, policy, campaign
        numbered = "" in chunk.names  # the files' first column has no name and counts the rounds
        self.numbers = texts(chunk.column("")) if numbered else pa.array(chunk.first + i for i in range(chunk.rows))

    def exposures(self) -> Chunk:
        rows = self.chunk.rows
        return reshaped(
            self.chunk,
            {
                "exposure_id": self._exposure_id,
                "request_id": self._request_id,
                "user_id": self._users,
                "item_id": self._items,
                "position": "position",
                "propensity": "propensity_score",
                "propensity_kind": constant("exact", rows),
                "candidate_set_hash": constant("", rows),
                "shown_time": "timestamp",
                "context": self._context,
                **logged_elsewhere(policy=self.policy, surface=f"openbandit-{self.campaign}", rows=rows),
            },
        )

    def clicks(self) -> Chunk:
        """The clicked rounds, and those that no one can read."""
        clicked = texts(self.chunk.column("click"))
        kept = sorted({*pc.indices_nonzero(pc.equal(clicked, "1")).to_pylist(), *self.chunk.unreadable})
        events = reshaped(
            self.chunk,
            {
                "event_id": lambda: _joined([self._exposure_id(), "click"], ":"),
                "exposure_id": self._exposure_id,
                "user_id": self._users,
                "item_id": self._items,
                "behaviour": constant("click", self.chunk.rows),
                "event_time": "timestamp",
            },
        )
        return selected(events, kept)

    def _request_id(self) -> Stated:
        return _joined([f"{self.policy}-{self.campaign}", self.numbers], "-")

    def _exposure_id(self) -> Stated:
        return _joined([self._request_id(), self.chunk.column("position")], ":")

    def _items(self) -> Stated:
        return _joined([self.campaign, self.chunk.column("item_id")], "-")

    def _features(self) -> tuple[list[str], list[tuple[object, ...]]]:
        names = [name for name in self.chunk.names if name.startswith(_FEATURES)]
        return names, list(zip(*(objects(self.chunk.column(name)) for name in names), strict=True))

    def _users(self) -> Stated:
        _, rows = self._features()
        known = {row: hashlib.sha256("|".join(map(str, row)).encode()).hexdigest()[:16] for row in set(rows)}
        return [known[row] for row in rows]

    def _context(self) -> Stated:
        names, rows = self._features()
        known = {row: json.dumps(dict(zip(names, row, strict=True))) for row in set(rows)}
        return [known[row] for row in rows]


def _joined(parts: Sequence[Any], mark: str) -> pa.ChunkedArray:
    """Columns and fixed texts put together, row by row; None where a part is."""
    columns = [part if isinstance(part, str) else _array(part) for part in parts]
    return pa.chunked_array([pc.binary_join_element_wise(*columns, mark)])


def _array(values: Any) -> pa.Array:
    return values.cast(pa.string()) if isinstance(values, pa.Array) else texts(values)
