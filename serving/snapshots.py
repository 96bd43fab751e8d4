"""Who serves now: one immutable snapshot, replaced whole, taken once by each request.

The watcher asks the ledger, verifies and loads what it names, and only then puts a new snapshot in place. Where a
bundle does not load, or the ledger does not answer, what serves goes on serving and the problem is reported.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from relations.errors import RatchetError
from serving.engine import Engine, ProviderMissing
from stores import popularity
from stores.bundle import open_bundle
from stores.ledger_records import ServingState

# Engines that nobody serves any more, kept warm so that a rollback needs no load.
_WARM = 2
_LOG = logging.getLogger(__name__)


class LedgerView(Protocol):
    """What serving needs of the ledger."""

    def serving_state(self) -> ServingState: ...


@dataclass(frozen=True)
class Loaded:
    """A model version in memory. `cold_rows`: its rows by popularity, for users without a known history."""

    version: int
    digest: str
    epoch: int
    """The champion epoch it was loaded for; 0 for a challenger."""
    engine: Engine
    cold_rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """`champion` may be another than `state.champion`: the one before it, while the new one does not load."""

    state: ServingState
    champion: Loaded | None
    challenger: Loaded | None
    popular: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def answers(self) -> bool:
        return self.champion is not None or bool(self.popular)


class Watcher:
    """Keeps `current` true. `refresh` belongs to one thread at a time; `current` may be read by any."""

    def __init__(
        self,
        ledger: LedgerView,
        *,
        releases: Path,
        popularity_list: Path,
        device: str,
        threads: int,
        retry_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._releases = releases
        self._popularity_list = popularity_list
        self._device = device
        self._threads = threads
        self._retry_seconds = retry_seconds
        self._engines: dict[str, Engine] = {}  # in order of last use
        self._broken: dict[str, tuple[str, float]] = {}  # digest → (message, when to try again)
        self._popularity_stamp: tuple[int, int, int] | None = None
        self.current = Snapshot(ServingState(None, None), None, None, (), ("the ledger was not read yet",))

    @property
    def digests(self) -> list[str]:
        """Digests in memory, warm ones included."""
        return sorted(self._engines)

    @property
    def attributes(self) -> set[str]:
        """What networks in memory know of users, by name. Warm ones count: who goes on telling what the newer model
        was trained on must not be refused after a rollback."""
        return {name for engine in list(self._engines.values()) for name in engine.attributes.of_user}

    def refresh(self) -> None:
        """Look at the ledger and the popularity list once, and put a new snapshot in place where anything changed.

        Raises nothing but ProviderMissing: a device that was asked for and is absent.
        """
        former = self.current
        problems: list[str] = []
        state = former.state
        try:
            state = self._ledger.serving_state()
        except Exception as error:  # whatever the database's driver raises: serving goes on with what it knows
            problems.append(f"ledger: {error}")
        popular = self._popular(former.popular, problems)
        champion = self._champion(state, former.champion, popular, problems)
        challenger = self._challenger(state, popular, problems)
        snapshot = Snapshot(state, champion, challenger, popular, tuple(problems))
        if problems and snapshot.problems != former.problems:
            _LOG.warning("%s", "; ".join(problems))
        self.current = snapshot
        self._forget({loaded.digest for loaded in (champion, challenger) if loaded})

    def _champion(
        self, state: ServingState, former: Loaded | None, popular: tuple[str, ...], problems: list[str]
    ) -> Loaded | None:
        if state.champion is None:
            return None
        version, digest, epoch = state.champion.version, state.champion.digest, state.champion.epoch
        engine = self._engine(digest, f"champion {version}", problems)
        if engine is not None:
            return self._loaded(version, digest, epoch, engine, popular)
        return former

    def _challenger(self, state: ServingState, popular: tuple[str, ...], problems: list[str]) -> Loaded | None:
        trial = state.trial
        if trial is None:
            return None
        engine = self._engine(trial.challenger_digest, f"challenger {trial.challenger_version}", problems)
        if engine is None:
            return None
        return self._loaded(trial.challenger_version, trial.challenger_digest, 0, engine, popular)

    def _loaded(self, version: int, digest: str, epoch: int, engine: Engine, popular: tuple[str, ...]) -> Loaded:
        """As in the snapshot in place, where nothing changed: ordering a large vocabulary twice a second is a waste."""
        former = self.current
        for loaded in (former.champion, former.challenger):
            if loaded and popular is former.popular and loaded.engine is engine:
                return replace(loaded, version=version, epoch=epoch)
        return Loaded(version, digest, epoch, engine, _cold_rows(engine, popular))

    def _engine(self, digest: str, what: str, problems: list[str]) -> Engine | None:
        message, again = self._broken.get(digest, ("", 0.0))
        engine = self._engines.pop(digest, None)
        if engine is None and time.monotonic() >= again:
            try:
                engine = Engine.load(open_bundle(self._releases, digest), device=self._device, threads=self._threads)
                self._broken.pop(digest, None)
            except ProviderMissing:
                raise
            except RatchetError as error:
                message = str(error)
                self._broken[digest] = (message, time.monotonic() + self._retry_seconds)
        if engine is None:
            problems.append(f"{what}: {message}")
        else:
            self._engines[digest] = engine
        return engine

    def _popular(self, former: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
        try:
            stat = self._popularity_list.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp == self._popularity_stamp:
                return former
            popular = tuple(popularity.read(self._popularity_list))
        except FileNotFoundError:
            return former
        except (RatchetError, OSError) as error:
            problems.append(f"popularity: {error}")
            return former
        self._popularity_stamp = stamp
        return popular

    def _forget(self, serving: set[str]) -> None:
        idle = [digest for digest in self._engines if digest not in serving]
        for digest in idle[: max(len(idle) - _WARM, 0)]:
            del self._engines[digest]


def _cold_rows(engine: Engine, popular: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """All rows: the popular items in their order, then those without a count, in vocabulary order."""
    counted = [engine.rows[item] for item in popular if item in engine.rows]
    rest = np.setdiff1d(np.arange(len(engine.items)), np.array(counted, dtype=np.int64))
    return np.concatenate([np.array(counted, dtype=np.int64), rest.astype(np.int64)])
