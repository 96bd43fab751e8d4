"""Engines in memory, by digest: verified, loaded and tried before anybody asks them, and kept a while after.

What does not load is a problem, tried again after a while; what serves meanwhile is the caller's matter.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from relations.errors import DataRejected, GateRefused, RatchetError
from serving.networks.engine import Engine
from serving.networks.sessions import FP32, ProviderMissing
from stores.bundle import Bundle, open_bundle
from stores.deltas import KIND, read_delta
from stores.signatures import verify
from stores.standing_records import ServingDelta

_WARM = 2
"""Engines that nobody serves any more, kept so that a rollback needs no load."""
_LOG = logging.getLogger(__name__)


class EngineRoom:
    """For one thread at a time; the properties may be read by any."""

    def __init__(
        self,
        releases: Path,
        *,
        device: str,
        threads: int,
        variant: str,
        trusted: tuple[str, ...],
        retry_seconds: float,
    ) -> None:
        """`trusted`: public keys in hex; where there are any, one of them must have signed whatever is loaded."""
        self._releases = releases
        self._device = device
        self._threads = threads
        self._variant = variant
        self._trusted = trusted
        self._retry_seconds = retry_seconds
        self._engines: dict[str, Engine] = {}  # in order of last use
        self._deltas: set[str] = set()  # those in memory that are deltas under a standing approval
        self._broken: dict[str, tuple[str, float]] = {}  # digest → (message, when to try again)

    @property
    def digests(self) -> list[str]:
        """Digests in memory, warm ones included."""
        return sorted(self._engines)

    @property
    def providers(self) -> dict[str, str]:
        """Digest in memory → what really runs it."""
        return {digest: engine.provider for digest, engine in list(self._engines.items())}

    @property
    def attributes(self) -> set[str]:
        """What networks in memory know of users, by name. Warm ones count: who goes on telling what the newer model
        was trained on must not be refused after a rollback."""
        return {name for engine in list(self._engines.values()) for name in engine.attributes.of_user}

    def of(self, digest: str, *, what: str, problems: list[str]) -> Engine | None:
        """Of a full bundle, or of a delta that is a version of its own: with its base, which stays in memory.

        `what` names it in `problems`. Raises ProviderMissing for a device that was asked for and is absent.
        """

        def load() -> Engine:
            bundle = self._bundle(digest)
            if bundle.manifest.get("kind") != KIND:
                return self._open(bundle)
            base = self._bundle(str(bundle.manifest["parent_digest"]))
            if base.manifest.get("kind") == KIND:
                raise DataRejected(f"{bundle.folder}: its base is a delta itself; publish it on a full bundle")
            return self._open(base).with_delta(read_delta(bundle))

        return self._kept(digest, what, load, problems)

    def changed(self, base: Engine, delta: ServingDelta, *, problems: list[str]) -> tuple[Engine | None, str]:
        """The base with the delta in it; and which of the approval's limits the delta breaks, empty where none."""
        refused: list[str] = []

        def load() -> Engine:
            started = time.perf_counter()
            # outside: a signature that this server does not trust says nothing about the approval, which is everybody's
            bundle = self._bundle(delta.digest)
            try:
                engine = base.with_delta(read_delta(bundle), limits=delta.limits)
            except GateRefused as error:
                refused.append(str(error))
                raise
            _LOG.info("applied delta %s in %.0f ms", delta.digest[:12], (time.perf_counter() - started) * 1e3)
            return engine

        engine = self._kept(delta.digest, f"delta {delta.sequence}", load, problems)
        if engine is not None:
            self._deltas.add(delta.digest)
        return engine, "".join(refused)

    def keep(self, bases: Sequence[str], *, answering: set[str]) -> None:
        """Let go of what neither is among `bases` nor answers, but for the few that served last.

        `bases`: full bundles that serve, those first that are to be kept longest once they serve no more. `answering`:
        these, and deltas on them.
        """
        for digest in reversed(bases):
            self._engines[digest] = self._engines.pop(digest)
        for digest in self._deltas - answering:  # each is replaced by the next, and nothing goes back to one
            self._engines.pop(digest, None)
        self._deltas &= answering
        idle = [digest for digest in self._engines if digest not in answering.union(bases)]
        for digest in idle[: max(len(idle) - _WARM, 0)]:
            del self._engines[digest]

    def _bundle(self, digest: str) -> Bundle:
        """Verified, by its signature too where that is asked for."""
        bundle = open_bundle(self._releases, digest)
        if self._trusted:
            verify(bundle, trusted=self._trusted)
        return bundle

    def _open(self, bundle: Bundle) -> Engine:
        """In the form that was asked for; a release without it serves as it was trained."""
        variant = self._variant if self._variant in bundle.manifest.get("variants", {}) else FP32
        return Engine.load(bundle, device=self._device, threads=self._threads, variant=variant)

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
