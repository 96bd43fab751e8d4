"""Readers: every row is counted, none is dropped, and what cannot be read is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DataRejected
from stores.readers.batches import MAX_LINES_A_ROW, Batch, read_csv, read_jsonl, read_movielens
from stores.settings import SourceSettings
from stores.sources import bind, read_batch

HEAD = b"user_id,item_id,behaviour,event_time\n"


def deliver(folder: Path, name: str, data: bytes, kind: str = "events", format: str = "auto") -> Batch:
    (folder / "input").write_bytes(data)
    return read_batch(folder / "input", uri=f"/there/{name}", kind=kind, format=format)


def cells(batch: Batch) -> list[tuple[object, ...]]:
    return list(zip(*(list(batch.column(name)) for name in batch.names), strict=True))


def test_csv_with_quotes_blank_lines_bom_and_crlf() -> None:
    batch = read_csv(b'\xef\xbb\xbfa,b\r\n\r\n1,"x, ""y""\nz"\r\n2,\r\n', uri="f")
    assert batch.names == ("a", "b")
    assert cells(batch) == [("1", 'x, "y"\nz'), ("2", None)]
    assert batch.raw(0) == b'1,"x, ""y""\nz"'


def test_csv_rows_that_cannot_be_taken_apart() -> None:
    batch = read_csv(b"a,b\n1,2\n1,2,3\n1\n\xff,2\n3,4\n", uri="f")
    assert batch.rows == 5
    assert batch.unreadable == {
        1: "3 fields where the header has 2",
        2: "1 fields where the header has 2",
        3: "not UTF-8 at byte 0 of the row",
    }
    assert batch.raw(3) == b"\xff,2"
    assert cells(batch)[4] == ("3", "4")


@pytest.mark.parametrize("after", [3, MAX_LINES_A_ROW + 10])
def test_a_quote_left_open_costs_its_own_row_only(after: int) -> None:
    batch = read_csv(b'a,b\n1,"open\n' + b"2,3\n" * after, uri="f")
    assert batch.rows == 1 + after
    assert list(batch.unreadable) == [0]
    assert cells(batch)[-1] == ("2", "3")


def test_a_column_named_twice_is_ambiguous() -> None:
    with pytest.raises(DataRejected, match="names a twice"):
        read_csv(b"a,a\n1,2\n", uri="f")


def test_jsonl_rows() -> None:
    lines = [
        b'{"a": 1, "b": "\xf0\x9f\xa6\x89"}',
        b"[1]",
        b"3",
        b"null",
        b'{"a":',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"b": NaN}',
    ]
    batch = read_jsonl(b"\n".join(lines) + b"\n\n")
    assert batch.rows == len(lines)
    assert batch.names == ("a", "b")
    assert batch.column("b")[0] == "🦉"
    assert sorted(batch.unreadable) == [1, 2, 3, 4, 5, 6]
    assert "a list where an object is expected" in batch.unreadable[1]
    assert "not UTF-8 at byte 7" in batch.unreadable[5]


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text()), max_size=8))
def test_jsonl_gives_back_what_was_written(rows: list[dict[str, str]]) -> None:
    batch = read_jsonl(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    )
    readable = [row for number, row in enumerate(rows) if number not in batch.unreadable]
    kept = [number for number in range(batch.rows) if number not in batch.unreadable]
    assert batch.rows == len(rows)
    for name in "ab":
        assert [list(batch.column(name))[number] for number in kept] == [row.get(name) for row in readable]


@given(st.lists(st.binary(max_size=30), max_size=12))
def test_any_lines_are_counted_once(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    data = HEAD + b"\n".join(lines) + b"\n"
    batch = read_csv(data, uri="f")
    spanned = b"\n".join(batch.raw(row) for row in range(batch.rows))
    stripped = [line.removesuffix(b"\r") for line in lines if line.strip()]
    # Quoted fields may join lines, and keep blank ones inside them; no other byte goes missing.
    assert [line for line in spanned.split(b"\n") if line.strip()] == stripped


def test_movielens_by_name(tmp_path: Path) -> None:
    events = deliver(tmp_path, "u.data", b"196\t242\t3\t881250949\n1\t2\n")
    assert events.rows == 2
    assert list(events.unreadable) == [1]
    assert {name: events.column(name)[0] for name in events.names} == {
        "user_id": "196", "item_id": "242", "value": "3", "event_time": "881250949", "behaviour": "rating"
    }  # fmt: skip
    line = "7|Misérables, Les|01-Jan-1995||http://x|" + "|".join("1" if n in (6, 8) else "0" for n in range(19))
    items = deliver(tmp_path, "u.item", line.encode("latin-1"), kind="items")
    assert items.column("title")[0] == "Misérables, Les"
    assert items.column("categories")[0] == ["Crime", "Drama"]
    users = read_movielens(b"1|24|M|technician|85711\n", kind="users")
    assert users.column("occupation")[0] == "technician"


def test_parquet_by_content(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": ["a", None]}), tmp_path / "t")
    batch = deliver(tmp_path, "looks.csv", (tmp_path / "t").read_bytes())
    assert batch.format == "parquet"
    assert batch.rows == 2
    assert json.loads(batch.raw(1)) == {"user_id": 2, "item_id": None}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("e.csv", bytes(range(256)) * 64, "binary from offset 0"),
        ("e.csv", b"user_id,item_id\n" + b"\x00\x01\xff\xfe" * 500, "binary from offset 16"),
        ("e.csv", "user_id,item_id\n1,2\n".encode("utf-16"), "UTF-16"),
        ("e.csv.gz", b"\x1f\x8b\x08\x00abc", "unpack it first"),
        ("e.parquet", b"PAR1 and no more", "offset 8"),
        ("e.parquet", b"user_id\n1\n", "not readable as Parquet"),
    ],
)
def test_files_that_no_reader_can_read(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(DataRejected, match=said) as caught:
        deliver(tmp_path, name, data)
    assert f"/there/{name}" in str(caught.value)
    assert "offset" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n\n", HEAD, HEAD.strip()])
def test_no_rows_is_no_fault(tmp_path: Path, data: bytes) -> None:
    assert deliver(tmp_path, "e.csv", data).rows == 0


def test_missing_columns_name_the_near_ones_and_the_remedy() -> None:
    batch = read_csv(b"user_id,product,behaviour,event_time\n1,2,view,3\n", uri="f")
    (missing,) = bind(batch, kind="events", source="shop", settings=SourceSettings(), pseudonymous=False).missing
    assert missing.column == "item_id"
    assert "near names: product" in missing.message
    assert '[sources.shop] columns = { item_id = "product" }' in missing.message
    mapped = SourceSettings(columns={"item_id": "product"})
    assert bind(batch, kind="events", source="shop", settings=mapped, pseudonymous=False).missing == ()
