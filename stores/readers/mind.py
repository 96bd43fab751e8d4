"""MIND, the Microsoft News Dataset: `behaviors.tsv` (impression lists with clicks) and `news.tsv`.

A line of `behaviors.tsv` shows a list of news, each marked as clicked (-1) or not (-0). Each shown item is an exposure,
each clicked one an event with that exposure. Nobody logged why these items were shown, so propensities are 1 and
`unusable`; the order within a list is the file's. Impressions are numbered anew in each of the data set's files, so
their time is part of their name: `<number>-<yyyymmddHHMMSS>`. Times have no zone and are read as UTC.

The history of clicks that a line carries has no times and is not delivered.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.delimited import Delimited
from stores.readers.generic import require_text
from stores.readers.inputs import Input, content_name
from stores.readers.lines import Lines
from stores.readers.reshaping import constant, logged_elsewhere, reshaped, texts
from stores.readers.rowwise import cut, objects, row_chunks

FILES = "behaviors.tsv and news.tsv"
_NEWS = Delimited(
    ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"),
    "\t",
    quoted=False,
)
_BEHAVIOURS = Delimited(("impression", "user_id", "time", "history", "shown"), "\t", quoted=False)
_Column: TypeAlias = "Callable[[], Stated]"
_TIME = "%m/%d/%Y %I:%M:%S %p"
_LISTS = 4_096
"""Impression lists taken at once: each becomes some forty rows."""


def kinds(uri: str, head: bytes) -> tuple[str, ...]:
    name = content_name(uri)
    return {"behaviors.tsv": ("exposures", "events"), "news.tsv": ("items",)}.get(name) or _by_width(head)


def chunks(input: Input, *, kind: str) -> Iterator[Chunk]:
    require_text(input)
    with input.content() as source:
        if kind == "items":
            for chunk in row_chunks(Lines(source, rows=input.chunk_rows), _NEWS, rows=input.chunk_rows):
                yield _news(chunk)
            return
        first = 0
        for lists in row_chunks(Lines(source, rows=min(_LISTS, input.chunk_rows)), _BEHAVIOURS, rows=input.chunk_rows):
            shown = _Shown(lists)
            for chunk in cut(shown.clicks() if kind == "events" else shown.exposures(), rows=input.chunk_rows):
                yield replace(chunk, first=first)
                first += chunk.rows


def _by_width(head: bytes) -> tuple[str, ...]:
    tabs = head.lstrip().partition(b"\n")[0].count(b"\t")
    return {4: ("exposures", "events"), 7: ("items",)}.get(tabs, ())


def _news(chunk: Chunk) -> Chunk:
    def categories() -> Stated:
        pairs = zip(objects(chunk.column("category")), objects(chunk.column("subcategory")), strict=True)
        return [[name for name in pair if name] for pair in pairs]

    return reshaped(
        chunk, {"item_id": "item_id", "title": "title", "description": "abstract", "categories": categories}
    )


class _Shown:
    """The shown items of some impression lists: one entry each (…_S), of lists (…_L).

    A list that cannot be read, or shows nothing, has one entry, which says so.
    """

    def __init__(self, lists: Chunk) -> None:
        self.lists = lists
        column = {name: texts(lists.column(name)) for name in lists.names}
        tokens_L = pc.split_pattern(pc.coalesce(column["shown"], pa.scalar("")), " ")
        self.tokens_S = tokens_L.flatten()
        self.list_S = pc.list_parent_indices(tokens_L).to_numpy()
        self.position_S = np.arange(len(self.tokens_S)) - tokens_L.offsets.to_numpy()[self.list_S] + 1
        legible_S = pc.match_substring_regex(self.tokens_S, r"^.+-[01]$").to_numpy(zero_copy_only=False)
        self.clicked_S = legible_S & pc.ends_with(self.tokens_S, "-1").to_numpy(zero_copy_only=False)
        self.faulty_S = np.flatnonzero(~legible_S)
        moment_L = pc.strptime(column["time"], format=_TIME, unit="s", error_is_null=True)
        self.time_L = pc.coalesce(pc.strftime(moment_L, "%Y-%m-%dT%H:%M:%SZ"), column["time"])
        stamp_L = pc.coalesce(pc.strftime(moment_L, "-%Y%m%d%H%M%S"), pa.scalar(""))
        self.request_L = pc.binary_join_element_wise(column["impression"], stamp_L, "")
        self.user_L = column["user_id"]

    def exposures(self) -> Chunk:
        every_S = np.arange(len(self.tokens_S))
        rows = len(every_S)
        columns: dict[str, _Column] = {
            **self._columns(every_S),
            "position": lambda: _chunked(self.position_S),
            "propensity": constant(1.0, rows),
            "propensity_kind": constant("unusable", rows),
            "candidate_set_hash": self._set_hashes,
            **logged_elsewhere(policy="mind", surface="mind", rows=rows),
        }
        columns["shown_time"] = columns.pop("time")
        return reshaped(self._rows(every_S), columns)

    def clicks(self) -> Chunk:
        kept_S = np.union1d(np.flatnonzero(self.clicked_S), self.faulty_S)
        columns = self._columns(kept_S)
        exposure_id = columns["exposure_id"]
        columns |= {
            "event_id": lambda: pc.binary_join_element_wise(exposure_id(), "click", ":"),
            "behaviour": constant("click", len(kept_S)),
            "event_time": columns.pop("time"),
        }
        columns.pop("request_id")
        return reshaped(self._rows(kept_S), columns)

    def _columns(self, kept_S: np.ndarray) -> dict[str, _Column]:
        lists = pa.array(self.list_S[kept_S])

        def exposure_id() -> Stated:
            positions = pa.array(self.position_S[kept_S]).cast(pa.string())
            return _chunked(pc.binary_join_element_wise(self.request_L.take(lists), positions, ":"))

        return {
            "exposure_id": exposure_id,
            "request_id": lambda: _chunked(self.request_L.take(lists)),
            "user_id": lambda: _chunked(self.user_L.take(lists)),
            "item_id": lambda: _chunked(pc.utf8_slice_codeunits(self.tokens_S.take(pa.array(kept_S)), 0, -2)),
            "time": lambda: _chunked(self.time_L.take(lists)),
        }

    def _set_hashes(self) -> Stated:
        labels = pc.replace_substring_regex(texts(self.lists.column("shown")), r"-[01]( |$)", r"\1").to_pylist()
        sets = [" ".join(sorted((said or "").split(" "))).encode() for said in labels]
        hashes_L = pa.array([hashlib.sha256(said).hexdigest()[:16] for said in sets], pa.string())
        return _chunked(hashes_L.take(pa.array(self.list_S)))

    def _rows(self, kept_S: np.ndarray) -> Chunk:
        place = {int(shown): row for row, shown in enumerate(kept_S)}
        unreadable = {place[shown]: self._fault(shown) for shown in map(int, self.faulty_S)}

        def raw(row: int) -> bytes:
            """The line without its history, and of its list this entry alone."""
            shown = int(kept_S[row])
            line = self.lists.raw(int(self.list_S[shown]))
            if int(self.list_S[shown]) in self.lists.unreadable:
                return line
            return b"\t".join([*line.split(b"\t")[:3], b"", self.tokens_S[shown].as_py().encode()])

        return Chunk(0, len(kept_S), (), unreadable, lambda name: [None] * len(kept_S), raw)

    def _fault(self, shown: int) -> str:
        number, token = int(self.list_S[shown]), self.tokens_S[shown].as_py()
        if number in self.lists.unreadable:
            return self.lists.unreadable[number]
        if not token:
            return "an impression list with an empty entry"
        return f"{token[:80]!a} ends in neither -0 nor -1"


def _chunked(values: pa.Array | np.ndarray) -> pa.ChunkedArray:
    return pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
