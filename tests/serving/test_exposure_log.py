"""Exposures are written behind the answers: nothing waits, nothing is lost but by kill -9, and how much that is."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relations.errors import DependencyFailed
from serving.choosing.exposure_log import ExposureLog
from stores.landing_log import LandingLog

REPOSITORY = Path(__file__).parents[2]


class Disk(LandingLog):
    """A landing log on a disk that may stall or refuse."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, flush_seconds=60, flush_rows=1_000_000)
        self.works, self.refuses = threading.Event(), False
        self.works.set()
        self.synced = 0

    def append(self, lines: list[bytes]) -> None:  # type: ignore[override]
        assert self.works.wait(30)
        if self.refuses:
            raise DependencyFailed("No space left on device")
        super().append(lines)

    def sync(self) -> None:
        self.synced += 1
        super().sync()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "log")


@pytest.fixture
def log(disk: Disk) -> Iterator[ExposureLog]:
    made = ExposureLog(disk, most_rows=10, fsync_seconds=0.0001)
    yield made
    disk.works.set()
    made.close()


def written(folder: Path) -> list[bytes]:
    return [line for file in sorted(folder.iterdir()) for line in file.read_bytes().splitlines()]


def test_rows_are_written_in_order_and_forced_to_the_disk(log: ExposureLog, disk: Disk) -> None:
    for n in range(3):
        log.append([b"%d\n" % (2 * n), b"%d\n" % (2 * n + 1)])
        assert log.drain()
    assert written(disk.folder) == [b"%d" % n for n in range(6)]
    assert (log.waiting, log.pending) == (0, 6)
    log.close()
    assert [file.suffix for file in disk.folder.iterdir()] == [".jsonl"]
    assert log.pending == 0
    assert disk.synced > 0


def test_a_stalled_disk_holds_nobody_up_until_too_much_waits(log: ExposureLog, disk: Disk) -> None:
    disk.works.clear()
    for n in range(10):
        log.append([b"%d\n" % n])  # returns, though nothing can be written
    assert log.waiting == 10
    with pytest.raises(DependencyFailed, match="10 exposures wait"):
        log.append([b"10\n"])
    disk.works.set()
    assert log.drain()
    log.append([b"11\n"])
    assert log.drain()
    assert written(disk.folder) == [b"%d" % n for n in (*range(10), 11)]  # the refused one was not shown


def test_a_full_disk_loses_nothing_once_there_is_space(log: ExposureLog, disk: Disk) -> None:
    disk.refuses = True
    log.append([b"0\n"])
    assert not log.drain(0.2)
    log.append([b"1\n"] * 8)
    with pytest.raises(DependencyFailed, match="No space left"):
        log.append([b"2\n"] * 2)
    disk.refuses = False
    assert log.drain(10)
    assert written(disk.folder) == [b"0", *[b"1"] * 8]


def test_closing_writes_what_waits(log: ExposureLog, disk: Disk) -> None:
    disk.works.clear()
    log.append([b"0\n"])
    log.append([b"1\n"])
    disk.works.set()
    log.close()
    assert written(disk.folder) == [b"0", b"1"]


def test_closing_hands_over_even_when_asked_in_the_middle_of_a_turn(log: ExposureLog, disk: Disk) -> None:
    reached, asked = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert asked.wait(30)

    disk.hand_over_if_due = hold  # type: ignore[method-assign]
    log.append([b"0\n"])
    assert reached.wait(30)  # the turn has written, and has found nobody closing
    closer = threading.Thread(target=log.close)
    closer.start()
    while not log._closing.is_set():
        pass
    asked.set()
    closer.join(30)
    assert [file.suffix for file in disk.folder.iterdir()] == [".jsonl"]
    assert (written(disk.folder), log.pending) == ([b"0"], 0)


def test_kill_loses_only_what_was_not_yet_passed_on(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from stores.landing_log import LandingLog\n"
        "from serving.choosing.exposure_log import ExposureLog\n"
        "landing = LandingLog(Path(sys.argv[1]), flush_seconds=60, flush_rows=10**6)\n"
        "log = ExposureLog(landing, most_rows=10**6, fsync_seconds=1)\n"
        "for n in range(20_000): log.append([b'%d\\n' % n])\n"
        "waiting = log.waiting\n"
        "os.write(1, b'%d' % waiting)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False, capture_output=True
    )
    assert killed.returncode < 0
    LandingLog(tmp_path, flush_seconds=60, flush_rows=10**6)  # the next process hands over what this one left
    survived = written(tmp_path)
    assert survived == [b"%d" % n for n in range(len(survived))]  # in order, none in the middle, no half line
    assert 20_000 - int(killed.stdout) <= len(survived) <= 20_000
