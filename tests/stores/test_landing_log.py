import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relations.errors import DependencyFailed
from stores.landing_log import LandingLog

REPOSITORY = Path(__file__).parents[2]


def log(folder: Path, **options: float) -> LandingLog:
    stated = {"flush_seconds": 60.0, "flush_rows": 1_000, **options}
    return LandingLog(folder, flush_seconds=stated["flush_seconds"], flush_rows=int(stated["flush_rows"]))


def complete(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]


def test_rows_are_invisible_until_handed_over(tmp_path: Path) -> None:
    landing = log(tmp_path)
    landing.append([b"1\n", b"2\n"])
    landing.append([b"3\n"])
    assert (complete(tmp_path), landing.pending) == ([], 3)
    assert [path.read_bytes() for path in tmp_path.glob("*.part")] == [b"1\n2\n3\n"]
    landing.hand_over()
    landing.hand_over()
    assert (complete(tmp_path), landing.pending) == ([b"1\n2\n3\n"], 0)
    landing.append([b"4\n"])
    landing.hand_over()
    assert complete(tmp_path) == [b"1\n2\n3\n", b"4\n"]
    assert list(tmp_path.glob("*.part")) == []


def test_rows_and_seconds_bound_how_long_they_wait(tmp_path: Path) -> None:
    landing = log(tmp_path, flush_rows=2)
    for n in range(5):
        landing.append([b"%d\n" % n])
    assert complete(tmp_path) == [b"0\n1\n", b"2\n3\n"]
    landing.hand_over_if_due()
    assert landing.pending == 1
    quick = log(tmp_path / "quick", flush_seconds=0.01)
    quick.append([b"1\n"])
    time.sleep(0.02)
    quick.hand_over_if_due()
    assert complete(tmp_path / "quick") == [b"1\n"]


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from stores.landing_log import LandingLog\n"
        "log = LandingLog(Path(sys.argv[1]), flush_seconds=60, flush_rows=40)\n"
        "for n in range(100): log.append([b'%d\\n' % n])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    (tmp_path / "0-empty.jsonl.part").touch()
    log(tmp_path)
    assert b"".join(complete(tmp_path)) == b"".join(b"%d\n" % n for n in range(100))
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("half", [b"3", b"x" * 70_000, b"x" * 131_072])
def test_a_line_in_whose_middle_a_kill_came_is_cut_off(tmp_path: Path, half: bytes) -> None:
    (tmp_path / "1.jsonl.part").write_bytes(b"1\n2\n" + half)
    (tmp_path / "2.jsonl.part").write_bytes(half)
    (tmp_path / "3.jsonl.part").write_bytes(half + b"\n")
    log(tmp_path)
    assert complete(tmp_path) == [b"1\n2\n", half + b"\n"]
    assert list(tmp_path.glob("*.part")) == []


def test_a_living_process_keeps_its_file(tmp_path: Path) -> None:
    living = log(tmp_path)
    living.append([b"1\n"])
    log(tmp_path)
    assert complete(tmp_path) == []
    living.hand_over()
    assert complete(tmp_path) == [b"1\n"]


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = log(tmp_path)
    landing.append([b"before\n"])
    write = os.write

    def half(file: int, content: memoryview) -> int:
        if len(content) < 8:
            raise OSError(28, "No space left on device")
        return write(file, content[:8])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(DependencyFailed, match="No space left"):
            landing.append([b"lost line\n"])
    landing.append([b"after\n"])
    assert landing.pending == 2
    landing.hand_over()
    assert complete(tmp_path) == [b"before\nafter\n"]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DependencyFailed, match="file"):
        log(tmp_path / "file")


def test_what_is_forced_to_the_disk_is_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []

    def fdatasync(file: int) -> None:
        forced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    landing = log(tmp_path)
    landing.sync()
    assert forced == []
    landing.append([b"1\n"])
    (first,) = (path.stat().st_ino for path in tmp_path.iterdir())
    landing.sync()
    landing.sync()
    assert forced == [first]  # nothing new was written meanwhile
    landing.append([b"2\n"])
    landing.hand_over()  # does not wait for the disk
    assert forced == [first]
    landing.append([b"3\n"])
    landing.sync()
    (second,) = (path.stat().st_ino for path in tmp_path.glob("*.part"))
    assert forced == [first, first, second]
    landing.hand_over()
    landing.sync()
    assert forced == [first, first, second]


def test_a_disk_that_cannot_force_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    landing = log(tmp_path)
    landing.append([b"1\n"])
    with pytest.raises(DependencyFailed, match="Input/output error"):
        landing.sync()
    landing.hand_over()
    assert complete(tmp_path) == [b"1\n"]
