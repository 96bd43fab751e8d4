"""Who serves now: one immutable snapshot, replaced whole, taken once by each request.

The watcher asks the ledger, verifies and loads what it names, and only then puts a new snapshot in place. Where a
bundle does not load, or the ledger does not answer, what serves goes on serving and the problem is reported.

A delta that a standing approval allows serves in its base's place, until the approval ends or expires on the home's
clock. One that does not load leaves the base serving; one that breaks a guardrail ends the standing approval too.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected, GateRefused, RatchetError
from serving.engine import Engine, ProviderMissing
from stores import popularity
from stores.bundle import open_bundle
from stores.deltas import KIND, read_delta
from stores.ledger_records import DeltaLimits, ServingDelta, ServingState

# Engines that nobody serves any more, kept warm so that a rollback needs no load.
_WARM = 2
_LOG = logging.getLogger(__name__)


class LedgerView(Protocol):
    """What serving needs of the ledger."""

    def serving_state(self) -> ServingState: ...

    def breach_delta(self, digest: str, *, reason: str, now: datetime) -> bool: ...


@dataclass(frozen=True)
class Loaded:
    """A model version in memory. `cold_rows`: its rows by popularity, for whom popularity answers."""

    version: int
    digest: str
    """What answers: the version's own bundle, or a delta on it."""
    base_digest: str
    """The version's own bundle."""
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
    def champion_digest(self) -> str | None:
        """What users of the champion's arm are to be answered by; a delta stands for the champion it is on."""
        if self.state.champion is None:
            return None
        named, loaded = self.state.champion.digest, self.champion
        return loaded.digest if loaded and loaded.base_digest == named else named

    @property
    def delta(self) -> ServingDelta | None:
        """The delta that serves in the champion's place."""
        delta, loaded = self.state.delta, self.champion
        return delta if delta and loaded and loaded.digest == delta.digest else None

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
        now: Callable[[], datetime],
    ) -> None:
        """`now`: the home's clock."""
        self._ledger = ledger
        self._releases = releases
        self._popularity_list = popularity_list
        self._device = device
        self._threads = threads
        self._retry_seconds = retry_seconds
        self._now = now
        self._engines: dict[str, Engine] = {}  # in order of last use
        self._deltas: set[str] = set()  # those in memory that are deltas under a standing approval
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
        self._forget(
            {digest for loaded in (champion, challenger) if loaded for digest in (loaded.digest, loaded.base_digest)}
        )

    def _champion(
        self, state: ServingState, former: Loaded | None, popular: tuple[str, ...], problems: list[str]
    ) -> Loaded | None:
        if state.champion is None:
            return None
        version, digest, epoch = state.champion.version, state.champion.digest, state.champion.epoch
        engine = self._engine(digest, f"champion {version}", problems)
        if engine is None:
            return former
        delta = state.delta
        if delta is not None and delta.base_digest == digest and self._now() < delta.expires:
            changed = self._changed(delta, engine, problems)
            if changed is not None:
                return self._loaded(version, delta.digest, digest, epoch, changed, popular)
        return self._loaded(version, digest, digest, epoch, engine, popular)

    def _challenger(self, state: ServingState, popular: tuple[str, ...], problems: list[str]) -> Loaded | None:
        trial = state.trial
        if trial is None:
            return None
        engine = self._engine(trial.challenger_digest, f"challenger {trial.challenger_version}", problems)
        if engine is None:
            return None
        digest = trial.challenger_digest
        return self._loaded(trial.challenger_version, digest, digest, 0, engine, popular)

    def _loaded(
        self, version: int, digest: str, base_digest: str, epoch: int, engine: Engine, popular: tuple[str, ...]
    ) -> Loaded:
        """With the former order of rows, where it still holds: ordering a large vocabulary at every look is a waste."""
        former = self.current
        for loaded in (former.champion, former.challenger):
            if loaded and popular is former.popular and loaded.engine.items is engine.items:
                return Loaded(version, digest, base_digest, epoch, engine, loaded.cold_rows)
        return Loaded(version, digest, base_digest, epoch, engine, _cold_rows(engine, popular))

    def _changed(self, delta: ServingDelta, base: Engine, problems: list[str]) -> Engine | None:
        """The base with the delta in it. One that breaks a guardrail ends its standing approval."""
        refused: list[str] = []

        def load() -> Engine:
            try:
                return self._on_base(delta.digest, base, delta.limits)
            except GateRefused as error:
                refused.append(str(error))
                raise

        engine = self._kept(delta.digest, f"delta {delta.sequence}", load, problems)
        if engine is not None:
            self._deltas.add(delta.digest)
        if refused:
            _LOG.error("delta %d (%s) is refused, back to the base: %s", delta.sequence, delta.digest[:12], refused[0])
            try:
                self._ledger.breach_delta(delta.digest, reason=refused[0], now=self._now())
            except Exception as error:  # whatever the database's driver raises: the base serves all the same
                problems.append(f"ledger: {error}")
        return engine

    def _on_base(self, digest: str, base: Engine, limits: DeltaLimits | None) -> Engine:
        started = time.perf_counter()
        engine = base.with_delta(read_delta(open_bundle(self._releases, digest)), limits=limits)
        _LOG.info("applied delta %s in %.0f ms", digest[:12], (time.perf_counter() - started) * 1e3)
        return engine

    def _engine(self, digest: str, what: str, problems: list[str]) -> Engine | None:
        """Of a full bundle, or of a delta that is a version of its own: with its base, which stays in memory."""

        def load() -> Engine:
            bundle = open_bundle(self._releases, digest)
            if bundle.manifest.get("kind") != KIND:
                return Engine.load(bundle, device=self._device, threads=self._threads)
            base = open_bundle(self._releases, str(bundle.manifest["parent_digest"]))
            if base.manifest.get("kind") == KIND:
                raise DataRejected(f"{bundle.folder}: its base is a delta itself; publish it on a full bundle")
            return Engine.load(base, device=self._device, threads=self._threads).with_delta(read_delta(bundle))

        return self._kept(digest, what, load, problems)

    def _kept(self, digest: str, what: str, load: Callable[[], Engine], problems: list[str]) -> Engine | None:
        """From memory, else loaded; None with a problem while that fails, and after that for `retry_seconds`."""
        message, again = self._broken.get(digest, ("", 0.0))
        engine = self._engines.pop(digest, None)
        if engine is None and time.monotonic() >= again:
            try:
                engine = load()
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
        for digest in self._deltas - serving:  # each is replaced by the next, and nothing goes back to one
            self._engines.pop(digest, None)
        self._deltas &= serving
        idle = [digest for digest in self._engines if digest not in serving]
        for digest in idle[: max(len(idle) - _WARM, 0)]:
            del self._engines[digest]


def _cold_rows(engine: Engine, popular: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """All rows but withdrawn ones: popular items in their order, then those without a count, in vocabulary order."""
    counted = np.array([engine.rows[item] for item in popular if item in engine.rows], dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(engine.items)), counted).astype(np.int64)
    rows: npt.NDArray[np.int64] = np.concatenate([counted, rest])
    return np.asarray(rows[~engine.withdrawn_V[rows]])
