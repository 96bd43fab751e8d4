"""Compressed deliveries: opened as they are read, refused when broken or when they open to too much."""

import bz2
import gzip
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relations.errors import DataRejected
from stores.readers.expanding import FREE_BYTES
from stores.readers.opening import open_delivery
from stores.readers.rowwise import objects

ROWS = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * number) for number in range(4_000))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstd
}  # fmt: skip


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Most memory that this process held since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def column(path: Path, *, name: str = "e.csv", limit: float = 200.0, rows: int = 1_000) -> list[object]:
    opened = open_delivery(path, uri=f"/there/{name}", kind="events", max_expansion=limit, chunk_rows=rows)
    return [value for chunk in opened.chunks for value in objects(chunk.column("b"))]


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e"])
def test_compressed_by_content_whatever_the_name(tmp_path: Path, compress: Callable[[bytes], bytes], name: str) -> None:
    (tmp_path / "input").write_bytes(compress(ROWS))
    assert column(tmp_path / "input", name=name) == [str(number * number) for number in range(4_000)]


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_members_one_after_the_other(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    half = len(ROWS) // 2 + 1  # within a row
    (tmp_path / "input").write_bytes(compress(ROWS[:half]) + compress(b"") + compress(ROWS[half:]))
    assert len(column(tmp_path / "input")) == 4_000


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_inside_a_compressor_leave_nothing_behind(
    tmp_path: Path, compress: Callable[[bytes], bytes], form: str
) -> None:
    table = pa.table({"b": ["x", "y"]})
    if form == "parquet":
        pq.write_table(table, tmp_path / "t")
    else:
        with pa.OSFile(str(tmp_path / "t"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "input").write_bytes(compress((tmp_path / "t").read_bytes()))
    assert column(tmp_path / "input") == ["x", "y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "t"]


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_truncated_files_are_named_with_an_offset(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes], kept: float
) -> None:
    whole = compress(ROWS)
    data = whole[: int(len(whole) * kept)]
    (tmp_path / "input").write_bytes(data)
    with pytest.raises(
        DataRejected, match=f"/there/e.csv: {name} data truncated or corrupt near offset {len(data)} of"
    ):
        column(tmp_path / "input")


@pytest.mark.parametrize("name", ["gzip", "bz2", "xz"])  # zstd has no checksum unless asked for
def test_corrupt_files_are_named_with_an_offset(tmp_path: Path, name: str) -> None:
    whole = bytearray(COMPRESSORS[name](ROWS))
    whole[len(whole) // 2] ^= 0x55
    (tmp_path / "input").write_bytes(whole)
    with pytest.raises(DataRejected, match="truncated or corrupt near offset"):
        column(tmp_path / "input")


def test_compressed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(gzip.compress(gzip.compress(ROWS)))
    with pytest.raises(DataRejected, match=r"compressed twice \(gzip inside\)"):
        column(tmp_path / "input")


@pytest.mark.parametrize("line", [b"1,2\n", b'{"b":1}\n', b"x"], ids=["rows", "json", "one line"])
def test_a_bomb_is_refused_before_it_opens(tmp_path: Path, line: bytes) -> None:
    member = gzip.compress(b"a,b\n" + line * (10_000_000 // len(line)), 9)
    with (tmp_path / "input").open("wb") as file:  # 1,000 members of 10 MB: some 10 MB that open to 10 GB
        for _ in range(1_000):
            file.write(member)
    reset_peak()
    before, start = peak_mib(), time.process_time()
    with pytest.raises(DataRejected, match=r"/there/e.csv.gz: \d+ bytes came out .*\[lake\] max_expansion"):
        column(tmp_path / "input", name="e.csv.gz", rows=262_144)
    assert time.process_time() - start < 2
    assert peak_mib() - before < 64


def test_columns_that_open_to_too_much_are_refused(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(gzip.compress(b"PAR1" + bytes(FREE_BYTES + (1 << 20)), 1))
    with pytest.raises(DataRejected, match="max_expansion"):
        column(tmp_path / "input")


def test_a_tiny_file_may_open_wide(tmp_path: Path) -> None:
    data = b"a,b\n" + b"1,2\n" * 500_000
    packed = gzip.compress(data)
    assert len(data) > 200 * len(packed)  # beyond the limit, and below 64 MiB
    (tmp_path / "input").write_bytes(packed)
    assert len(column(tmp_path / "input", rows=262_144)) == 500_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """8 times the rows in at most 16 MiB more: a chunk and its block of bytes, whatever the file's size."""
    peaks = []
    for times in (16, 16, 128):  # the first one pays for what Arrow keeps
        path = tmp_path / f"{times}.csv"
        with path.open("wb") as file:
            file.write(b"a,b\n")
            for _ in range(times):
                file.write(b"".join(b"row-%012d,%012d\n" % (number, number) for number in range(8_192)))
        reset_peak()
        opened = open_delivery(path, uri="e.csv", kind="events", chunk_rows=65_536)
        assert sum(chunk.rows for chunk in opened.chunks) == times * 8_192
        peaks.append(peak_mib())
    assert peaks[2] - peaks[1] < 16
