"""What the items table says, as an encoder takes it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from model.modalities.material import NamedVectors
from relations.errors import DataRejected, UsageError
from relations.schemas import ITEMS

TEXTS = ("title", "description", "categories", "price")
ATTRIBUTES = "attributes"


def joined(items: pa.Table, columns: Sequence[str]) -> list[str]:
    """One text an item: its `columns`, where they say something, in that order, joined by ". ".

    `categories` are joined by ", "; `attributes.NAME` is that attribute, `attributes` all of them as "name: value" by
    name. Raises UsageError for a column that holds no text.
    """
    parts = [_column(items, column) for column in columns]
    return [". ".join(said for said in row if said) for row in zip(*parts, strict=True)]


def needed(columns: Sequence[str]) -> list[str]:
    """Columns of the items table that `joined` reads for `columns`. Raises UsageError for one that holds no text."""
    return sorted({_source(column) for column in columns})


def ready_vectors(items: pa.Table, column: str, *, dims: int, id_dropout: float) -> NamedVectors:
    """The entry `column` of the items' `vectors`. Raises DataRejected when no item has one, or their lengths differ."""
    ids: list[str] = []
    vectors: list[list[float]] = []
    for item, entries in zip(items["item_id"].to_pylist(), items["vectors"].to_pylist(), strict=True):
        vector = dict(entries or ()).get(column)
        if vector:
            ids.append(item)
            vectors.append(vector)
    lengths = sorted({len(vector) for vector in vectors})
    if len(lengths) != 1:
        found = f"vectors of {lengths} dimensions" if lengths else "no vector"
        raise DataRejected(
            f'items: {found} called "{column}"; deliver items whose `vectors` hold it, all of one length'
        )
    width = lengths[0]
    return NamedVectors(
        tuple(ids), np.array(vectors), source=f"vectors.{column}/{width}", dims=dims, id_dropout=id_dropout
    )


def _source(column: str) -> str:
    name = column.partition(".")[0]
    if column not in TEXTS and name != ATTRIBUTES:
        raise UsageError(
            f'[modalities] columns: "{column}" holds no text; known: {", ".join(TEXTS)}, '
            f"{ATTRIBUTES}, {ATTRIBUTES}.NAME"
        )
    assert name in ITEMS.names
    return name


def _column(items: pa.Table, column: str) -> list[str]:
    source = _source(column)
    values = items[source].to_pylist()
    if source == "categories":
        return [", ".join(value or ()) for value in values]
    if column == ATTRIBUTES:
        return [", ".join(f"{name}: {said}" for name, said in sorted(value or ())) for value in values]
    if source == ATTRIBUTES:
        wanted = column.removeprefix(f"{ATTRIBUTES}.")
        return [dict(value or ()).get(wanted) or "" for value in values]
    if source == "price":
        return ["" if value is None else f"{value:g}" for value in values]
    return [value or "" for value in values]
