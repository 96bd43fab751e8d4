"""Readers: every row is counted, none is dropped, and what cannot be read is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relations.errors import DataRejected
from stores.readers import columnar as columnar_reader
from stores.readers.chunks import Chunk
from stores.readers.delimited import MAX_LINES_A_ROW
from stores.readers.generic import is_binary
from stores.readers.opening import ends_in_text, open_delivery
from stores.readers.rowwise import joined, objects

HEAD = b"user_id,item_id,behaviour,event_time\n"


def deliver(folder: Path, data: bytes, *, name: str = "e.csv", rows: int = 1_000, format: str = "auto") -> list[Chunk]:
    (folder / "input").write_bytes(data)
    opened = open_delivery(
        folder / "input", uri=f"/there/{name}", kind="events", format=format, chunk_rows=rows, max_expansion=200.0
    )
    chunks = list(opened.chunks)
    assert [chunk.first for chunk in chunks] == [sum(one.rows for one in chunks[:at]) for at in range(len(chunks))]
    assert all(0 < chunk.rows <= rows for chunk in chunks)
    return chunks


def whole(folder: Path, data: bytes, *, name: str = "e.csv", format: str = "auto") -> Chunk:
    return joined(deliver(folder, data, name=name, format=format))


def cells(chunk: Chunk) -> list[tuple[object, ...]]:
    return list(zip(*(objects(chunk.column(name)) for name in chunk.names), strict=True))


def test_csv_with_quotes_blank_lines_bom_and_crlf(tmp_path: Path) -> None:
    chunk = whole(tmp_path, b'\xef\xbb\xbfa,b\r\n\r\n1,"x, ""y""\nz"\r\n2,\r\n')
    assert chunk.names == ("a", "b")
    assert cells(chunk) == [("1", 'x, "y"\nz'), ("2", None)]
    assert chunk.raw(0) == b'1,"x, ""y""\nz"'


def test_csv_rows_that_cannot_be_taken_apart(tmp_path: Path) -> None:
    chunk = whole(tmp_path, b"a,b\n1,2\n1,2,3\n1\n\xff,2\n3,4\n")
    assert chunk.rows == 5
    assert chunk.unreadable == {
        1: "3 fields where the header has 2",
        2: "1 fields where the header has 2",
        3: "not UTF-8 at byte 0 of the row",
    }
    assert chunk.raw(3) == b"\xff,2"
    assert cells(chunk)[4] == ("3", "4")


@pytest.mark.parametrize("after", [3, MAX_LINES_A_ROW + 10])
def test_a_quote_left_open_costs_its_own_row_only(tmp_path: Path, after: int) -> None:
    chunk = whole(tmp_path, b'a,b\n1,"open\n' + b"2,3\n" * after)
    assert chunk.rows == 1 + after
    assert list(chunk.unreadable) == [0]
    assert cells(chunk)[-1] == ("2", "3")


@pytest.mark.parametrize(("header", "said"), [(b"a,a,b\n", "names a twice"), (b"a,,b,\n", 'names "" twice')])
def test_a_column_named_twice_is_ambiguous(tmp_path: Path, header: bytes, said: str) -> None:
    with pytest.raises(DataRejected, match=said):
        deliver(tmp_path, header + b"1,2,3,4\n")
    names = [name.decode() for name in header.strip().split(b",")]
    table = pa.Table.from_arrays([pa.array([1])] * len(names), names)
    pq.write_table(table, tmp_path / "t")
    with pytest.raises(DataRejected, match=said):
        deliver(tmp_path, (tmp_path / "t").read_bytes())


def test_jsonl_rows(tmp_path: Path) -> None:
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
    chunk = whole(tmp_path, b"\n".join(lines) + b"\n\n", name="e.jsonl")
    assert chunk.rows == len(lines)
    assert chunk.names == ("a", "b")
    assert objects(chunk.column("b"))[0] == "🦉"
    assert sorted(chunk.unreadable) == [1, 2, 3, 4, 5, 6]
    assert "a list where an object is expected" in chunk.unreadable[1]
    assert "not UTF-8 at byte 7" in chunk.unreadable[5]


def test_names_of_json_rows_are_those_of_their_chunk(tmp_path: Path) -> None:
    chunks = deliver(tmp_path, b'{"a":"x"}\n{"a":"y","b":null}\n{"c":1.5}\n', name="e.jsonl", rows=2)
    assert [chunk.names for chunk in chunks] == [("a", "b"), ("c",)]
    assert objects(chunks[1].column("a")) == [None]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 4))
def test_any_lines_are_counted_once(tmp_path_factory: pytest.TempPathFactory, said: list[bytes], rows: int) -> None:
    lines = [line.replace(b"\n", b"") for line in said]
    data = HEAD + b"\n".join(lines) + b"\n"
    assume(not is_binary(data))
    chunks = deliver(tmp_path_factory.getbasetemp(), data, rows=rows, format="csv")
    spanned = b"\n".join(chunk.raw(row) for chunk in chunks for row in range(chunk.rows))
    # Quoted fields may join lines, and keep blank ones inside them; no other byte goes missing.
    kept = [line.removesuffix(b"\r") for line in spanned.split(b"\n") if line.strip()]
    assert kept == [line.removesuffix(b"\r") for line in lines if line.strip()]


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl"])
def test_one_bad_row_among_many_costs_itself(tmp_path: Path, name: str) -> None:
    line = b'{"a":"x","b":%d}' if name == "e.jsonl" else b"x,%d"
    lines = [line % number for number in range(5_000)]
    lines[4_321] = b"\xff" + lines[4_321]
    data = (b"" if name == "e.jsonl" else b"a,b\n") + b"\n".join(lines)
    chunk = whole(tmp_path, data, name=name)
    assert list(chunk.unreadable) == [4_321]
    assert [str(value) for value in objects(chunk.column("b")) if value is not None] == [
        str(number) for number in range(5_000) if number != 4_321
    ]
    assert [chunk.raw(row) for row in range(chunk.rows)] == lines


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "../../etc/passwd", "nul\0inside", "x" * 10_000_000])
@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.parquet"])
def test_hostile_cells_are_cells(tmp_path: Path, name: str, cell: str) -> None:
    data = {"e.csv": f"a,b\n1,{cell}\n".encode(), "e.jsonl": json.dumps({"a": "1", "b": cell}).encode()}
    if name == "e.parquet":
        pq.write_table(pa.table({"a": ["1"], "b": [cell]}), tmp_path / "t")
        data[name] = (tmp_path / "t").read_bytes()
    chunk = whole(tmp_path, data[name], name=name)
    assert cells(chunk) == [("1", cell)]
    assert not chunk.unreadable


def test_a_row_beyond_the_limit_is_one_unreadable_row(tmp_path: Path) -> None:
    row = b"x" * ((32 << 20) + 1)
    chunks = deliver(tmp_path, b"a,b\n1,2\n" + row + b"\n3,4\n", name="e.csv")
    assert [cells(chunk) for chunk in chunks] == [[("1", "2")], [(None, None)], [("3", "4")]]
    assert f"a row of {len(row)} bytes" in chunks[1].unreadable[0]
    assert chunks[1].raw(0) == row[:4_096]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("e.csv", b"a,b\n1,2"),
        ("e.tsv", b"a\tb\n1\t2\n"),
        ("e.jsonl", b'{"a":"1","b":"2"}'),
        ("e", b' {"a":"1","b":"2"}'),
    ],
)
def test_one_row(tmp_path: Path, name: str, data: bytes) -> None:
    assert cells(whole(tmp_path, data, name=name)) == [("1", "2")]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", HEAD, HEAD.strip()])
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "u.data"])
def test_no_rows_is_no_fault(tmp_path: Path, name: str, data: bytes) -> None:
    if name != "u.data" or not data.strip(b"\n\xef\xbb\xbf"):
        assert deliver(tmp_path, data, name=name) == []


def columnar(folder: Path, table: pa.Table, form: str) -> bytes:
    if form == "parquet":
        pq.write_table(table, folder / "t", row_group_size=3)
        return (folder / "t").read_bytes()
    sink = pa.BufferOutputStream()
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with make(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize=3)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_columns_come_in_batches(tmp_path: Path, form: str, rows: int) -> None:
    table = pa.table(
        {
            "user_id": list(range(7)),
            "item_id": pa.array(["a", None, "b", "a", "c", "é", "b"]).dictionary_encode(),
            "tags": [["x"]] * 7,
        }
    )
    chunks = deliver(tmp_path, columnar(tmp_path, table, form), name="looks.csv", rows=rows)
    said = joined(chunks)
    assert cells(said) == [tuple(row.values()) for row in table.to_pylist()]
    assert json.loads(said.raw(1)) == {"user_id": 1, "item_id": None, "tags": ["x"]}
    assert isinstance(chunks[0].column("item_id"), pa.ChunkedArray)
    assert pa.types.is_string(chunks[0].column("item_id").type)  # as other formats give it, not its dictionary


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_bad_utf8_in_a_column_costs_its_row(tmp_path: Path, form: str) -> None:
    texts = pa.array([b"ok", b"\xff\xfe", None], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers(), null_count=1)
    chunk = whole(tmp_path, columnar(tmp_path, pa.table({"a": broken, "b": [1, 2, 3]}), form))
    assert chunk.unreadable == {1: "column a is not UTF-8 at byte 0"}
    assert cells(chunk) == [("ok", 1), (None, 2), (None, 3)]
    assert json.loads(chunk.raw(2)) == {"a": None, "b": 3}


def test_parquet_that_promises_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar_reader, "FREE_BYTES", 0)
    pq.write_table(pa.table({"a": pa.repeat(1, 2_000_000)}), tmp_path / "t")  # some 2 kB; its rows at least 2 MB
    with pytest.raises(DataRejected, match=r"2000000 rows.*max_expansion"):
        deliver(tmp_path, (tmp_path / "t").read_bytes())


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
def test_broken_columns_never_crash(tmp_path: Path, form: str) -> None:
    table = pa.table({"user_id": [f"u{n}" for n in range(200)], "item_id": list(range(200))})
    data = columnar(tmp_path, table, form)
    for at in range(0, len(data), max(1, len(data) // 60)):
        for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]):
            try:
                found = deliver(tmp_path, broken, name="e.parquet" if form == "parquet" else "e.arrow")
            except DataRejected as error:
                assert "/there/e." in str(error)  # noqa: PT017 -- many positions are harmless
            else:
                assert sum(chunk.rows for chunk in found) <= 200


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("e.csv", bytes(range(256)) * 64, "binary from offset 0"),
        ("e.csv", b"user_id,item_id\n" + b"\x00\x01\xff\xfe" * 500, "binary from offset 16"),
        ("e.csv", "user_id,item_id\n1,2\n".encode("utf-16"), "UTF-16"),
        ("e.zip", b"PK\x03\x04abc", "offset 0: a zip archive: unpack it first"),
        ("e.csv", b"\x89PNG\r\n", "a PNG image"),
        ("e.db", b"SQLite format 3\0", "an SQLite database: export the table"),
        ("e.parquet", b"PAR1 and no more", "offset 8"),
        ("e.parquet", b"user_id\n1\n", "not readable as Parquet"),
        ("e.feather", b"ARROW1\0\0 and no more", "not readable as Arrow IPC"),
        ("e.csv", b"a,b\r1,2\r", "end lines with LF"),
        ("e.csv", b"\na\xff,b\n1,2\n", "the header is not UTF-8 at offset 2"),
    ],
)
@pytest.mark.parametrize("format", ["auto", "stated"])
def test_files_that_no_reader_can_read(tmp_path: Path, name: str, data: bytes, said: str, format: str) -> None:
    stated = {"e.parquet": "parquet", "e.feather": "arrow"}.get(name, "csv")
    with pytest.raises(DataRejected, match=said) as caught:
        deliver(tmp_path, data, name=name, format=stated if format == "stated" else format)
    assert f"/there/{name}" in str(caught.value)
    assert "offset" in str(caught.value)


@pytest.mark.parametrize(("data", "may"), [(b"", True), (b"a\n", True), (b"a", False), (b"\0\1" * 9 + b"\n", False)])
def test_which_files_another_may_follow(tmp_path: Path, data: bytes, may: bool) -> None:
    (tmp_path / "f").write_bytes(data)
    assert ends_in_text(tmp_path / "f") is may
