"""Deduplication: who is new, who says the same again, who contradicts."""

import ibis
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.standing import standings

ROWS = pa.schema([("row", pa.int64()), ("key", pa.string()), ("content", pa.string())])
KNOWN = pa.schema([("key", pa.string()), ("content", pa.string())])


def stand(rows: list[tuple[str, str]], known: list[tuple[str, str]] = []) -> list[str]:  # noqa: B006
    batch = [{"row": row, "key": key, "content": content} for row, (key, content) in enumerate(rows)]
    held = [{"key": key, "content": content} for key, content in known]
    expression = standings(
        ibis.memtable(pa.Table.from_pylist(batch, schema=ROWS)), ibis.memtable(pa.Table.from_pylist(held, schema=KNOWN))
    )
    found: list[str] = expression.to_pyarrow().column("standing").to_pylist()
    return found


def test_by_hand() -> None:
    assert stand([("k", "a"), ("k", "a"), ("m", "a")]) == ["new", "duplicate", "new"]
    assert stand([("k", "b"), ("k", "a")]) == ["conflict", "new"]  # the smaller content is kept, not the first
    assert stand([("k", "a"), ("k", "b"), ("m", "a")], [("k", "b")]) == ["conflict", "duplicate", "new"]
    assert stand([]) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("kmn"), st.sampled_from("ab")), max_size=8), st.randoms())
def test_shuffling_changes_no_count(rows: list[tuple[str, str]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before = sorted(zip(rows, stand(rows), strict=True))
    assert sorted(zip(shuffled, stand(shuffled), strict=True)) == before
    assert sum(standing == "new" for _, standing in before) == len({key for key, _ in rows})
