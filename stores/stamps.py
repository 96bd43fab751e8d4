"""Has a file changed? Every file that a running server follows is replaced whole, and looked at by its stamp."""

from pathlib import Path

Stamp = tuple[int, int, int]
"""Inode, time of the last change, size: another one after each replacement."""


def stamp_of(file: Path) -> Stamp:
    """Some microseconds. Raises OSError, FileNotFoundError among them."""
    stat = file.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
