"""Amazon Reviews 2023: reviews (user_id, parent_asin, rating, timestamp in ms) and product descriptions (`meta_*`), as
the official JSON lines or CSV, or a subset of them in Parquet (`interactions`, `items`).

A review is an event of behaviour `rating`; what was written is not delivered. Ratings of a product as a whole (their
mean, their number) count ratings to come, so they are no attributes.
"""

from collections.abc import Iterator

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.generic import columnar_format, generic_chunks, generic_format
from stores.readers.inputs import Input, content_name
from stores.readers.lines import BOM
from stores.readers.reshaping import constant, first_of, reshaped
from stores.readers.rowwise import objects

FILES = "reviews, and items named items… or meta…, as JSON lines, CSV or Parquet"
_ATTRIBUTES = {"store": "brand", "brand": "brand", "main_category": "main_category"}


def kinds(uri: str, head: bytes) -> tuple[str, ...]:
    """By the name; else a first line with a product and no user describes items."""
    name = content_name(uri).lower()
    if name.startswith(("items", "meta")):
        return ("items",)
    line = head.removeprefix(BOM).lstrip().partition(b"\n")[0]
    described = not columnar_format(head) and b"parent_asin" in line and b"user_id" not in line
    return ("items",) if described else ("events",)


def chunks(input: Input, *, kind: str) -> Iterator[Chunk]:
    for chunk in generic_chunks(input, generic_format(input)):
        yield _item(chunk) if kind == "items" else _rating(chunk)


def _rating(chunk: Chunk) -> Chunk:
    return reshaped(
        chunk,
        {
            "user_id": "user_id",
            "item_id": first_of(chunk, "parent_asin", "item_id", "asin"),
            "value": "rating",
            "event_time": first_of(chunk, "timestamp", "sort_timestamp"),
            "behaviour": constant("rating", chunk.rows),
        },
    )


def _item(chunk: Chunk) -> Chunk:
    return reshaped(
        chunk,
        {
            "item_id": first_of(chunk, "parent_asin", "item_id", "asin"),
            "title": "title",
            "price": "price",
            "categories": lambda: _categories(chunk),
            "attributes": lambda: _attributes(chunk),
            **({"description": lambda: _description(chunk)} if "description" in chunk.names else {}),
        },
    )


def _categories(chunk: Chunk) -> Stated:
    """The product's path through the shop, else the one category that it is in."""
    single = objects(chunk.column(first_of(chunk, "category", "main_category")))
    paths = objects(chunk.column("categories")) if "categories" in chunk.names else [None] * chunk.rows
    return [path or ([one] if isinstance(one, str) and one else []) for path, one in zip(paths, single, strict=True)]


def _attributes(chunk: Chunk) -> Stated:
    columns = {ours: objects(chunk.column(name)) for name, ours in _ATTRIBUTES.items() if name in chunk.names}
    rows = zip(*columns.values(), strict=True) if columns else iter([()] * chunk.rows)
    return [{name: value for name, value in zip(columns, row, strict=True) if value not in (None, "")} for row in rows]


def _description(chunk: Chunk) -> Stated:
    """A list of paragraphs in the official files."""
    return [
        " ".join(str(part) for part in said) or None if isinstance(said, list) else said
        for said in objects(chunk.column("description"))
    ]
