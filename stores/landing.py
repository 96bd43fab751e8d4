"""The landing folders: which files are complete, and which of them make one delivery."""

from pathlib import Path

from stores.readers.opening import ends_in_text

# Catalogue and people first: what refers to them comes after.
FOLDERS = ("items", "users", "events", "feedback", "exposures")
FROM_SERVING = ("feedback", "exposures")
GROUP_BYTES = 64 << 20
"""Of serving's files, one delivery holds at most this much: memory is some ten times that."""


def complete_files(folder: Path) -> list[Path]:
    """In the order of their names. `.part` and dot files are still being written; links are not followed."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path
        for path in found
        if not path.name.startswith(".") and path.suffix != ".part" and not path.is_symlink() and path.is_file()
    ]


def deliveries(folder: Path) -> list[list[Path]]:
    """The complete files by delivery: each its own, but serving's JSON lines together up to `GROUP_BYTES`.

    A file that is no text, or whose last line has no end, is left alone with its fault.
    """
    groups: list[list[Path]] = []
    room = 0
    for path in complete_files(folder):
        try:
            size = path.stat().st_size
            joins = folder.name in FROM_SERVING and ends_in_text(path)
        except OSError:  # taken away meanwhile, or not ours to read: a fault of its own
            size, joins = 0, False
        if joins and size <= room:
            groups[-1].append(path)
            room -= size
        else:
            groups.append([path])
            room = GROUP_BYTES - size if joins else 0
    return groups
