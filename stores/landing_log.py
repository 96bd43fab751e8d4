"""Append-only JSON lines that serving hands to the landing folder.

Rows go to `<name>.jsonl.part`. They are with the operating system when `append` returns, so that killing the process
then loses none; a power cut may lose what `sync` has not yet forced to the disk. A rename to `<name>.jsonl` hands the
file over. What a killed process left is handed over by the next one, but for a line in whose middle the kill came: a
write that was still under way had told nobody that it was done. Standard library only.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

from relations.errors import DependencyFailed

_PART = ".jsonl.part"
_BLOCK = 1 << 16


class LandingLog:
    """One folder's open file. Not for use by several threads at once; several processes may share a folder."""

    def __init__(self, folder: Path, *, flush_seconds: float, flush_rows: int) -> None:
        """Hand over what killed processes left in `folder`. Raises DependencyFailed where the disk refuses."""
        self.folder = folder
        self.flush_seconds = flush_seconds
        self.flush_rows = flush_rows
        self._unsynced = False
        self._handed_over: list[int] = []  # open files that are not yet forced to the disk
        self.pending = 0
        """Rows written and not handed over yet."""
        self.written = self.refused = 0
        """Rows that `append` wrote, and that the disk refused, since the start."""
        self._opened = 0.0
        self._files = 0
        self._file: int | None = None
        self._path = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._recover()
        except OSError as error:
            raise self._failed(error) from error

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest pending row has waited."""
        return 0.0 if self._file is None else time.monotonic() - self._opened

    def append(self, lines: Sequence[bytes]) -> None:
        """Write `lines` (each ends in a newline), all or none. Raises DependencyFailed where the disk refuses."""
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            size = os.lseek(self._file, 0, os.SEEK_END)
            try:
                content = memoryview(b"".join(lines))
                while content:
                    content = content[os.write(self._file, content) :]
            except OSError:
                os.ftruncate(self._file, size)  # half a line would spoil the next row too
                raise
        except OSError as error:
            self.refused += len(lines)
            raise self._failed(error) from error
        self.written += len(lines)
        self._unsynced = True
        self.pending += len(lines)
        if self.pending >= self.flush_rows:
            self.hand_over()

    def sync(self) -> None:
        """Force what was written to the disk, in files that were handed over too. May run in a thread beside the one
        that writes, which a slow disk then does not hold up. Raises DependencyFailed where the disk refuses."""
        files, self._handed_over = self._handed_over, []
        if self._unsynced and (file := self._file) is not None:
            self._unsynced = False
            with contextlib.suppress(OSError):  # handed over this very moment: the next time
                files.append(os.dup(file))
        failed: OSError | None = None
        for file in files:
            try:
                os.fdatasync(file)
            except OSError as error:
                failed = error
            finally:
                os.close(file)
        if failed is not None:
            raise self._failed(failed) from failed

    def hand_over_if_due(self) -> None:
        """Hand over once the oldest row has waited for `flush_seconds`."""
        if self._file is not None and time.monotonic() - self._opened >= self.flush_seconds:
            self.hand_over()

    def hand_over(self) -> None:
        """Make the rows so far visible to ingest; nothing to do without rows."""
        if self._file is None:
            return
        try:
            self._path.rename(self._path.with_name(self._path.name.removesuffix(_PART) + ".jsonl"))
        except OSError as error:
            raise self._failed(error) from error
        if self._unsynced:
            self._handed_over.append(self._file)
        else:
            os.close(self._file)
        self._unsynced = False
        self._file, self.pending = None, 0

    def _open(self) -> None:
        self._files += 1
        # The name sorts by time; process and number keep it unique where clocks jump back.
        self._path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{self._files}{_PART}"
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)  # tells _recover of another process that this file has a living writer
        self._file, self._opened = file, time.monotonic()

    def _recover(self) -> None:
        for path in self.folder.glob(f"*{_PART}"):
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue  # its writer handed it over meanwhile
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _cut_half_line(file):
                    path.rename(path.with_name(path.name.removesuffix(_PART) + ".jsonl"))
                else:
                    path.unlink()
            except (BlockingIOError, FileNotFoundError):
                continue
            finally:
                os.close(file)

    def _failed(self, error: OSError) -> DependencyFailed:
        return DependencyFailed(f"{self.folder}: cannot write the log: {error.strerror}; free or mend the disk")


def _cut_half_line(file: int) -> int:
    """Leave whole lines alone in `file`; returns their bytes."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - _BLOCK)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    os.ftruncate(file, end)
    return end
