"""DIGINETICA clicks in weeks, as the ADER paper cut them (RecSys 2020): `period_N.txt`, a line `session item` a click.

A session is a user, a line a click. The files keep the order of the clicks and no times, so times are made up: week N
begins N weeks after the first day of the data (2016-01-01 UTC), and its row n comes n × 0.1 s later. The order within
a week and between weeks is the true one; nothing else about the times is.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from relations.errors import DataRejected
from stores.readers.chunks import Chunk
from stores.readers.delimited import Delimited
from stores.readers.generic import require_text
from stores.readers.inputs import Input, content_name
from stores.readers.lines import Lines
from stores.readers.reshaping import constant, reshaped, seconds_after
from stores.readers.rowwise import row_chunks

FILES = "period_N.txt"
BASE = datetime(2016, 1, 1, tzinfo=UTC)
WEEK_SECONDS = 7 * 86_400
STEP_SECONDS = 0.1
_MAX_WEEKS = 10_000
_ROWS = Delimited(("user_id", "item_id"), " ", quoted=False)


def kinds(uri: str, head: bytes) -> tuple[str, ...]:
    return ("events",) if _week(uri) is not None else ()


def chunks(input: Input, *, kind: str) -> Iterator[Chunk]:
    require_text(input)
    start = int(BASE.timestamp()) + (_week(input.uri) or 0) * WEEK_SECONDS
    with input.content() as source:
        for chunk in row_chunks(Lines(source, rows=input.chunk_rows), _ROWS, rows=input.chunk_rows):
            if (chunk.first + chunk.rows) * STEP_SECONDS > WEEK_SECONDS:
                raise DataRejected(
                    f"{input.uri}: row {chunk.first + chunk.rows} would fall into the next week; "
                    "cut the file into weeks"
                )
            yield _clicks(chunk, start)


def _clicks(chunk: Chunk, start: int) -> Chunk:
    seconds = (chunk.first + np.arange(chunk.rows)) * STEP_SECONDS
    return reshaped(
        chunk,
        {
            "user_id": "user_id",
            "item_id": "item_id",
            "behaviour": constant("click", chunk.rows),
            "event_time": lambda: seconds_after(start * 1_000_000, seconds),
        },
    )


def _week(uri: str) -> int | None:
    found = re.fullmatch(r"period_(\d{1,5})\.txt", content_name(uri))
    week = int(found.group(1)) if found else _MAX_WEEKS
    return week if week < _MAX_WEEKS else None
