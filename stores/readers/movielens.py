"""MovieLens as GroupLens hands it out: 100K (`u.data`, `u.item`, `u.user`), 1M (`*.dat`), 25M and later (`*.csv`),
and 1M in true order without times (`ratings_ordered.parquet`: user_id, item_id, rating, pos).

A rating is an event of behaviour `rating` with its stars as value. Times are epoch seconds as delivered; where a file
has positions alone, they are made up: the first day of 1M's ratings plus `pos` seconds, so that each user's order
is the true one and nothing else about the times is.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.delimited import Delimited
from stores.readers.generic import columnar_format, generic_chunks, require_text
from stores.readers.inputs import Input, content_name
from stores.readers.lines import BOM, Lines
from stores.readers.reshaping import constant, first_of, mapped, reshaped, seconds_after, texts
from stores.readers.rowwise import objects, row_chunks

FILES = "u.data, u.item, u.user, ratings, movies and users as .dat, ratings and movies as .csv, ratings_ordered.parquet"
NAMES = ("u.data", "u.item", "u.user", "ratings.dat", "movies.dat", "users.dat")
"""Names that no other file has: these are MovieLens also where no format is stated."""
BASE = datetime(2000, 4, 25, tzinfo=UTC)
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
NO_GENRES = "(no genres listed)"
_RATING = ("user_id", "item_id", "value", "event_time")
_PERSON = ("user_id", "age", "gender", "occupation", "zip_code")
_LAYOUTS = {
    "u.data": ("events", Delimited(_RATING, "\t", quoted=False)),
    "ratings.dat": ("events", Delimited(_RATING, "::", quoted=False)),
    "u.item": (
        "items",
        Delimited(
            ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES),
            "|",
            quoted=False,
            encoding="latin-1",
        ),
    ),
    "movies.dat": ("items", Delimited(("item_id", "title", "genres"), "::", quoted=False, encoding="latin-1")),
    "u.user": ("users", Delimited(_PERSON, "|", quoted=False)),
    "users.dat": (
        "users",
        Delimited(("user_id", "gender", "age", "occupation", "zip_code"), "::", quoted=False, encoding="latin-1"),
    ),
}
_SHAPES = {("\t", 4): "u.data", ("|", 24): "u.item", ("|", 5): "u.user"} | {
    ("::", 4): "ratings.dat",
    ("::", 3): "movies.dat",
    ("::", 5): "users.dat",
}


def kinds(uri: str, head: bytes) -> tuple[str, ...]:
    if columnar_format(head):
        return ("events",)
    layout = _layout(uri, head)
    if layout:
        return (_LAYOUTS[layout][0],)
    header = _first_line(head).lower()
    if header.startswith("movieid,title"):
        return ("items",)
    return ("events",) if header.startswith("userid,movieid,rating") else ()


def chunks(input: Input, *, kind: str) -> Iterator[Chunk]:
    layout = None if columnar_format(input.head) else _layout(input.uri, input.head)
    if layout is None:
        for chunk in generic_chunks(input, columnar_format(input.head) or "csv"):
            yield _tabled(chunk, kind)
        return
    require_text(input)
    with input.content() as source:
        for chunk in row_chunks(Lines(source, rows=input.chunk_rows), _LAYOUTS[layout][1], rows=input.chunk_rows):
            yield _headless(chunk, kind)


def _headless(chunk: Chunk, kind: str) -> Chunk:
    if kind == "events":
        return reshaped(chunk, {**{name: name for name in _RATING}, "behaviour": constant("rating", chunk.rows)})
    if kind == "users":
        return chunk
    columns = {name: name for name in ("item_id", "title", "release_date")}
    return reshaped(chunk, {**columns, "categories": lambda: _categories(chunk)})


def _tabled(chunk: Chunk, kind: str) -> Chunk:
    if kind == "items":
        return reshaped(chunk, {"item_id": "movieId", "title": "title", "categories": lambda: _categories(chunk)})
    columns = {
        "user_id": first_of(chunk, "user_id", "userId"),
        "item_id": first_of(chunk, "item_id", "movieId"),
        "value": "rating",
    }
    said: dict[str, Stated] = {}
    if "timestamp" not in chunk.names and "pos" in chunk.names:
        seconds = pc.cast(texts(chunk.column("pos")), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        said["event_time"] = seconds_after(int(BASE.timestamp()) * 1_000_000, seconds)
    return reshaped(
        chunk,
        {
            **columns,
            "event_time": (lambda: said["event_time"]) if said else "timestamp",
            "behaviour": constant("rating", chunk.rows),
        },
    )


def _categories(chunk: Chunk) -> list[object]:
    if "genres" in chunk.names:
        return mapped(chunk.column("genres"), lambda said: [] if said == NO_GENRES else said.split("|"))
    flags = [objects(chunk.column(genre)) for genre in GENRES]
    return [[name for name, flag in zip(GENRES, row, strict=True) if flag == "1"] for row in zip(*flags, strict=True)]


def _layout(uri: str, head: bytes) -> str | None:
    name = content_name(uri)
    if name in _LAYOUTS:
        return name
    line = _first_line(head)
    return next((layout for (mark, count), layout in _SHAPES.items() if len(line.split(mark)) == count), None)


def _first_line(head: bytes) -> str:
    return head.removeprefix(BOM).lstrip().partition(b"\n")[0].decode("latin-1").strip()
