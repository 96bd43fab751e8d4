"""The fast way and the exact way of reading agree; blocks of any size give the same rows as the whole file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stores.readers import delimited, lines
from stores.readers.chunks import Chunk
from stores.readers.delimited import Delimited
from stores.readers.expanding import Expanding
from stores.readers.jsonlines import JsonRows
from stores.readers.lines import Lines, Overlong
from stores.readers.rowwise import RowParser, objects, row_chunks

NAMES = ("a", "b")
LAW = settings(deadline=None)  # the first example imports Arrow's parsers


@dataclass
class Bytes:
    """A source that hands out at most `step` bytes at a time."""

    data: bytes
    step: int = 1 << 20
    at: int = field(default=0)

    def read(self, size: int = 1 << 20) -> bytes:
        piece = self.data[self.at : self.at + min(size, self.step)]
        self.at += len(piece)
        return piece


def source(data: bytes, step: int = 1 << 20) -> Expanding:
    return cast(Expanding, Bytes(data, step))


def rows_of(chunks: Sequence[Chunk]) -> list[tuple[dict[str, str], str | None, bytes]]:
    """Cells by `repr`, so that 1, 1.0 and True differ; absent and None are alike."""
    found = []
    for chunk in chunks:
        columns = {name: objects(chunk.column(name)) for name in chunk.names}
        for row in range(chunk.rows):
            cells = {name: repr(values[row]) for name, values in columns.items() if values[row] is not None}
            found.append((cells, chunk.unreadable.get(row), chunk.raw(row)))
    return found


def exactly(parser: RowParser, data: bytes) -> Chunk:
    chunk, used = parser.exact(data, start=0, stop=len(data), final=True)
    assert used == len(data)
    return chunk


def in_order(chunks: Sequence[Chunk], *, rows: int) -> Sequence[Chunk]:
    expected = 0
    for chunk in chunks:
        assert chunk.first == expected
        assert 0 < chunk.rows <= rows
        expected += chunk.rows
    return chunks


CELLS = st.text(alphabet='ab",\r \t\0é\u2028🦉', max_size=4)
QUOTED = CELLS.map(lambda said: '"' + said.replace('"', '""') + '"')
SPANNING = st.just('"x\ny"')
WILD = st.lists(CELLS | QUOTED | SPANNING, min_size=1, max_size=3).map(lambda cells: ",".join(cells).encode())
TIDY = st.text(alphabet="ab é\0", max_size=3) | st.text(alphabet='ab", \té', max_size=3).map(json.dumps).map(
    lambda said: said.replace("\\t", "\t").replace('\\"', '""')
)
PAIRS = st.tuples(TIDY, TIDY).map(lambda cells: ",".join(cells).encode())
ROWS = st.lists(PAIRS, max_size=6) | st.lists(
    PAIRS | WILD | st.binary(max_size=4).filter(lambda said: b"\n" not in said)
)
FILES = st.builds(
    lambda rows, end, last: end.join(rows) + last,
    ROWS,
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n"]),
)


@LAW
@given(FILES)
@example(b'"a""b",c\n')
@example(b'a"b"c,d\n')
@example(b'"a"b,c\n')
@example(b' "a",c\n')
@example(b'"",""\n,\n')
@example(b'"a\n","b"\n')
@example(b"a,b\n \n\na,b")
@example(b"a\rb,c\n")
@example(b"\xef\xbb\xbfa,b\n")
@example(b"a,b\r\nc,d\r\n")
def test_fast_csv_is_exact_csv(data: bytes) -> None:
    for names in (NAMES, ("a",), ("a", "b", "c")):
        parser = Delimited(names)
        fast = parser.fast(data)
        if fast is not None:
            assert rows_of([fast]) == rows_of([exactly(parser, data)])


@LAW
@given(st.lists(st.text(alphabet="ab\t \r\0é", max_size=6), max_size=6))
def test_fast_tabs_are_exact_tabs(said: list[str]) -> None:
    data = "\n".join(said).encode()
    for quoted in (True, False):
        parser = Delimited(NAMES, "\t", quoted=quoted)
        fast = parser.fast(data)
        if fast is not None:
            assert rows_of([fast]) == rows_of([exactly(parser, data)])


@LAW
@given(FILES, st.integers(1, 5), st.integers(1, 9))
def test_csv_in_blocks_is_csv_at_once(data: bytes, rows: int, step: int) -> None:
    parser = Delimited(NAMES)
    data = data.removeprefix(b"\xef\xbb\xbf")
    chunks = list(row_chunks(Lines(source(data, step), rows=rows), parser, rows=rows))
    assert rows_of(in_order(chunks, rows=rows)) == rows_of([exactly(parser, data)])


def test_plain_files_take_the_fast_way() -> None:
    assert Delimited(NAMES).fast(b'1,2\r\n"x, ""y""",\r\n\r\n') is not None
    assert JsonRows().fast(b'{"a": 1, "b": 2.5}\n{"a": null, "b": 3}\n') is not None


TEXTS = st.text(max_size=5) | st.sampled_from(["2020-01-01", "2020-01-01T00:00:00Z", "1", '"a":1', "\\", "\u2028"])
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 2**63, -0.0, 1e300])
VALUES = {
    "text": TEXTS | st.none(),
    "whole": st.integers(-(2**63), 2**63 - 1) | st.none(),
    "fraction": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    "mixed": NUMBERS | st.none(),
    "flag": st.booleans() | st.none(),
    "any": NUMBERS | TEXTS | st.booleans() | st.none() | st.lists(TEXTS, max_size=2) | st.dictionaries(TEXTS, TEXTS),
    "é\\": st.floats() | st.integers() | st.none(),
}
OBJECTS = st.lists(st.sets(st.sampled_from(sorted(VALUES))), max_size=4).flatmap(
    lambda shapes: st.tuples(
        *(st.fixed_dictionaries({name: VALUES[name] for name in sorted(shape)}) for shape in shapes)
    )
)
ODD = st.sampled_from(
    [
        *(b"{}", b"[1]", b"3", b'{"a":', b'{"a":1}{"a":2}', b'{"a":1},', b" {}", b"", b'{"a":01}', b'{"a":"\xff"}'),
        *(b'{"mixed":1,"mixed":2.5}', b'{"mi\\u0078ed":1}', b'{"mixed":Infinity}', b'{"a":"\t"}', b'{"text":\r"x"}\r'),
        *(b'{"a":"\\ud800"}', b'{"fraction":-NaN}', b'{"any":{"a":', b'{"b":1}}{"a":2}'),
    ]
)


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    said = [json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass") for row in draw(OBJECTS)]
    for odd in draw(st.lists(ODD, max_size=1)):
        said.insert(draw(st.integers(0, len(said))), odd)
    return b"".join(line + b"\n" for line in said)


@LAW
@given(st.lists(json_files(), min_size=1, max_size=3))
def test_fast_json_is_exact_json(blocks: list[bytes]) -> None:
    parser = JsonRows()  # remembers columns from block to block
    for data in blocks:
        fast = parser.fast(data)
        if fast is not None:
            exact = exactly(parser, data)
            assert fast.names == exact.names
            assert rows_of([fast]) == rows_of([exact])


@LAW
@given(json_files(), st.integers(1, 4), st.integers(1, 9))
def test_json_in_blocks_is_json_at_once(data: bytes, rows: int, step: int) -> None:
    chunks = list(row_chunks(Lines(source(data, step), rows=rows), JsonRows(), rows=rows))
    assert rows_of(in_order(chunks, rows=rows)) == rows_of([exactly(JsonRows(), data)])


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"a": "2020-01-01"}\n{"a": "2020-01-02"}\n', ["2020-01-01", "2020-01-02"]),  # no time: a text
        (b'{"a": 1}\n{"a": 2.5}\n', [1, 2.5]),  # the whole number stays one
        (b'{"a": 9223372036854775808}\n', [2**63]),
        (b'{"a": 1, "a": 2}\n', [2]),
    ],
)
def test_json_values_stay_what_they_are(data: bytes, values: list[object]) -> None:
    (chunk,) = row_chunks(Lines(source(data), rows=10), JsonRows(), rows=10)
    assert [repr(value) for value in objects(chunk.column("a"))] == [repr(value) for value in values]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for module in (lines, delimited):
        monkeypatch.setattr(module, "BLOCK_BYTES", 16)
    monkeypatch.setattr(lines, "READ_BYTES", 4)
    monkeypatch.setattr(lines, "KEPT_BYTES", 5)
    return 16


@LAW
@given(st.lists(st.binary(max_size=40).map(lambda said: said.replace(b"\n", b"x")), max_size=8), st.integers(1, 4))
@pytest.mark.usefixtures("small_blocks")
def test_lines_longer_than_a_block_are_named_and_not_held(said: list[bytes], rows: int) -> None:
    data = b"\n".join([b"start", *said])
    reader = Lines(source(data, 3), rows=rows)
    found: list[tuple[bytes, int]] = []
    while (block := reader.take()) is not None:
        if isinstance(block, Overlong):
            found.append((block.head, block.size))
        else:
            assert len(block) <= 16
            ended = block.removesuffix(b"\n").split(b"\n")
            assert len(ended) <= rows
            found += [(line[:5], len(line)) for line in ended]
    expected = [(line[:5], len(line)) for line in data.removesuffix(b"\n").split(b"\n")]
    assert found == expected


@pytest.mark.usefixtures("small_blocks")
def test_an_open_quote_is_not_held_beyond_a_block() -> None:
    data = b'1,"' + b"x\n2,3\n" * 9
    (chunk, *more) = row_chunks(Lines(source(data), rows=100), Delimited(NAMES), rows=100)
    assert chunk.unreadable[0].startswith("not CSV")
    assert sum(each.rows for each in (chunk, *more)) == data.count(b"\n")
