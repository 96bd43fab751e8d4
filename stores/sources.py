"""Sources: which reader a delivery takes, and which of its columns is which of Ratchet's."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from relations.errors import DataRejected
from relations.schemas import SCHEMAS
from stores.readers.batches import Batch, read_csv, read_jsonl, read_movielens, read_parquet
from stores.settings import SourceSettings

# Written at the door, never read from a source.
STAMPED = ("received_time", "source", "delivery_id")
# Not null in the table, and derived or given a default where a source says nothing.
DERIVED = {"events": ("event_id",), "items": ("valid_from", "categories", "available"), "users": ("valid_from",)}
_BY_NAME = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_MAGIC = {
    b"\x1f\x8b": "gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it first",
    b"BZh": "bzip2: unpack it first",
    b"\x89PNG": "a PNG image",
    b"\xff\xfe": "UTF-16: write it as UTF-8",
    b"\xfe\xff": "UTF-16: write it as UTF-8",
    b"SQLite format 3": "an SQLite database: export the table",
}
_HEAD = 65_536
# What others call our columns; a hint for the message, never applied unasked.
_SYNONYMS = {
    "user_id": ("user", "uid", "userid", "visitor_id", "visitorid", "customer_id", "member_id", "account"),
    "item_id": ("item", "iid", "itemid", "product", "product_id", "sku", "movie_id", "article_id", "asin"),
    "behaviour": ("behavior", "event", "event_type", "type", "action", "interaction", "verb"),
    "event_time": ("timestamp", "time", "ts", "date", "datetime", "unix_time", "created_at", "occurred_at"),
    "title": ("name", "item_name", "product_name", "movie_title"),
    "value": ("rating", "score", "stars", "amount"),
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A required column that the source does not have."""

    column: str
    message: str


@dataclass(frozen=True)
class Binding:
    """Ratchet's column → the source's name for it, for those that the source has."""

    columns: dict[str, str]
    missing: tuple[Missing, ...]
    extra: tuple[str, ...]


def read_batch(path: Path, *, uri: str, kind: str, format: str = "auto") -> Batch:
    """Read the file at `path`, delivered as `uri`, whole into memory.

    Raises DataRejected, naming the offset and the remedy, when no row can be told from another.
    """
    data = path.read_bytes()
    chosen = _format(data, name=Path(uri).name, stated=format, uri=uri)
    if not data.strip():
        return Batch(chosen, 0, (), {}, lambda name: [], lambda row: b"")
    if chosen == "parquet":
        return read_parquet(data, uri=uri)
    _require_text(data, uri=uri)
    if chosen == "jsonl":
        return read_jsonl(data)
    if chosen == "movielens":
        return read_movielens(data, kind=kind)
    return read_csv(data, uri=uri, delimiter="\t" if Path(uri).suffix == ".tsv" else None)


def bind(batch: Batch, *, kind: str, source: str, settings: SourceSettings, pseudonymous: bool) -> Binding:
    """Find each column of `kind` in the batch, by its own name or by `[sources.NAME] columns`."""
    columns: dict[str, str] = {}
    missing: list[Missing] = []
    names = {"user_id" if field.name == "user" and not pseudonymous else field.name: field for field in fields(kind)}
    free = tuple(name for name in batch.names if name not in names)  # a column in its own place is no near name
    for outside, field in names.items():
        stated = settings.columns.get(outside) or settings.columns.get(field.name) or outside
        if stated in batch.names:
            columns[field.name] = stated
        elif not field.nullable and field.name not in DERIVED.get(kind, ()):
            missing.append(_missing(outside, stated, free, source))
    extra = tuple(name for name in batch.names if name not in columns.values())
    return Binding(columns, tuple(missing), extra)


def ends_in_text(path: Path) -> bool:
    """Whether the file begins as text and ends its last line, so that another may follow it in one delivery."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n" and not _is_binary(head)


def fields(kind: str) -> list[pa.Field]:
    """The columns of a kind that a source states."""
    return [field for field in SCHEMAS[kind] if field.name not in STAMPED]


def _missing(column: str, stated: str, names: tuple[str, ...], source: str) -> Missing:
    known = [name for name in names if name.lower() in (*_SYNONYMS.get(column, ()), column)]
    near = list(dict.fromkeys([*known, *difflib.get_close_matches(column, names, n=3, cutoff=0.5)]))
    has = f"near names: {', '.join(near)}" if near else f"it has: {', '.join(names[:20]) or 'no columns'}"
    wanted = column if stated == column else f"{column} (set to {stated!r})"
    line = f'[sources.{source}] columns = {{ {column} = "{near[0] if near else "NAME"}" }}'
    return Missing(column, f"column {wanted} is missing; {has}; write in ratchet.toml: {line}")


def _format(data: bytes, *, name: str, stated: str, uri: str) -> str:
    if data.startswith(b"PAR1"):
        return "parquet"
    if stated != "auto":
        return stated
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise DataRejected(f"{uri}: offset 0: {what}; CSV, JSON lines and Parquet are read")
    if name in ("u.data", "u.item", "u.user"):
        return "movielens"
    by_name = _BY_NAME.get(Path(name).suffix.lower())
    if by_name:
        return by_name
    return "jsonl" if data.lstrip()[:1] in (b"{", b"[") else "csv"


def _require_text(data: bytes, *, uri: str) -> None:
    """Bad UTF-8 in a row is that row's fault; a head full of it, or a NUL, is no text at all."""
    head = data[:_HEAD]
    if _is_binary(head):
        text = head.decode(errors="replace")
        offset = len(text.partition("\ufffd")[0].partition("\0")[0].encode())
        raise DataRejected(
            f"{uri}: binary from offset {offset} (byte 0x{data[offset]:02x}), not text; "
            "deliver CSV, JSON lines or Parquet as UTF-8, or name the --format"
        )


def _is_binary(head: bytes) -> bool:
    text = head.decode(errors="replace")
    return head.count(0) > 0.01 * len(head) or text.count("\ufffd") > 0.3 * len(text)
