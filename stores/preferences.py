"""What users control, on disk: a small file a user who ever set anything.

The record, unlike users' events: no cache can be rebuilt into it. Files, because they are as good on a volume that
several machines share, where SQLite's log is not. Standard library only.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from relations.errors import DependencyFailed

_SUFFIX = ".json"


@dataclass(frozen=True)
class Preferences:
    """The default: what holds for those who never asked for anything."""

    personalised: bool = True
    """False: neither the user's history nor attributes decide what is shown."""
    hidden_items: frozenset[str] = frozenset()
    hidden_categories: frozenset[str] = frozenset()
    set_us: int = 0
    """When they were set, UTC microseconds; of two, the later ones stand."""

    def stated(self) -> str:
        """As JSON."""
        said = {
            "personalised": self.personalised,
            "hidden_items": sorted(self.hidden_items),
            "hidden_categories": sorted(self.hidden_categories),
            "set_us": self.set_us,
        }
        return json.dumps(said, ensure_ascii=False)

    @staticmethod
    def of(stated: str | bytes) -> "Preferences":
        """Raises ValueError, KeyError or TypeError for what `stated` never gave."""
        said = json.loads(stated)
        return Preferences(
            bool(said["personalised"]),
            frozenset(said["hidden_items"]),
            frozenset(said["hidden_categories"]),
            int(said["set_us"]),
        )

    def set_after(self, former: "Preferences") -> "Preferences":
        """Set now, or just after those that they replace: a clock may be behind the one that set those."""
        return replace(self, set_us=max(time.time_ns() // 1_000, former.set_us + 1))


NO_PREFERENCES = Preferences()


def later(*preferences: Preferences) -> Preferences:
    return max(preferences, key=lambda each: each.set_us)


class PreferenceFiles:
    """`<prefix of the id>/<its last two characters>/<id>.json` below `folder`, which is made on first use.

    Several processes may use one folder: a file is replaced whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, user: str, *, formerly: str | None = None) -> Preferences:
        """A few µs for the many without any. `formerly` is another id of the same user: the later ones stand."""
        # The former id first: a rename writes the new file before it drops the old one.
        found = [self._read(name) for name in (formerly, user) if name is not None]
        return later(*found)

    def keep(self, user: str, preferences: Preferences) -> Preferences:
        """Write them unless later ones are there; those that stand. On the disk when this returns."""
        former = self._read(user)
        if former.set_us >= preferences.set_us:
            return former
        path = self._path(user)
        temporary = path.with_name(f".{os.getpid()}-{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(preferences.stated())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed("written", error) from error
        return preferences

    def forget(self, users: Sequence[str]) -> None:
        try:
            for user in users:
                path = self._path(user)
                for left in path.parent.glob(f".*-{path.name}.part"):  # of a process that was killed over it
                    left.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed("deleted", error) from error

    def rename(self, prefix: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        """As `UserState.rename`. A look lists one folder while there is nothing to do."""
        renamed = 0
        try:
            groups = [each for each in self.folder.iterdir() if each.name != _group(prefix)]
        except FileNotFoundError:
            return 0
        for group in groups:
            former = [unquote(path.name.removesuffix(_SUFFIX)) for path in group.glob(f"*/*{_SUFFIX}")]
            for new, old in zip(newest(former), former, strict=True):
                if new != old:
                    self.keep(new, self._read(old))
                    self.forget([old])
                    renamed += 1
            for folder in (*group.iterdir(), group):
                with suppress(OSError):  # not empty: what a newer key named, or is being written
                    folder.rmdir()
        return renamed

    def _read(self, user: str) -> Preferences:
        try:
            with open(self._name(user), "rb") as file:  # noqa: PTH123 -- a Path costs more than the look
                return Preferences.of(file.read())
        except FileNotFoundError:
            return NO_PREFERENCES
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._failed("read", error) from error

    def _path(self, user: str) -> Path:
        return Path(self._name(user))

    def _name(self, user: str) -> str:
        name = quote(user, safe="")
        return f"{self.folder}/{_group(user)}/{name[-2:]}/{name}{_SUFFIX}"

    def _failed(self, verb: str, error: Exception) -> DependencyFailed:
        return DependencyFailed(f"{self.folder}: a user's preferences cannot be {verb}: {error}; mend the disk")


def _group(user: str) -> str:
    """Its prefix without the "_", as `p2`; `other` for an id that is no pseudonym."""
    return quote(user[: user.find("_") + 1].rstrip("_"), safe="") or "other"
