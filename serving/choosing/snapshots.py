"""Who serves now: one immutable snapshot, replaced whole, taken once by each request.

The watcher asks the ledger, verifies and loads what it names, and only then puts a new snapshot in place. Where a
bundle does not load, or the ledger does not answer, what serves goes on serving and the problem is reported. Of several
challengers each loads by itself: one that does not leaves its own users with the champion, and one that was rejected is
let go. As long as a promotion is watched the former champion stays loaded, with all that an answer needs: a rollback is
a swap in memory.

A delta that a standing approval allows serves in its base's place, until the approval ends or expires on the home's
clock. One that does not load leaves the base serving; one that breaks a guardrail ends the standing approval too.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from relations.errors import RatchetError
from serving.choosing.assignment import in_play
from serving.choosing.offers import OfferWatch
from serving.choosing.shelves import Offer, Shelf
from serving.networks.engine import Engine
from serving.networks.engine_room import EngineRoom
from serving.networks.sessions import FP32
from serving.networks.side import SideWatch
from stores import popularity
from stores.serving_records import ServingState
from stores.stamps import Stamp, stamp_of
from stores.standing_records import ServingDelta

_LOG = logging.getLogger(__name__)


class LedgerView(Protocol):
    """What serving needs of the ledger."""

    def serving_state(self) -> ServingState: ...

    def breach_delta(self, digest: str, *, reason: str, now: datetime) -> bool: ...


@dataclass(frozen=True)
class Loaded:
    """A model version in memory."""

    version: int
    digest: str
    """What answers: the version's own bundle, or a delta on it."""
    base_digest: str
    """The version's own bundle."""
    epoch: int
    """The champion epoch it was loaded for; 0 for any other."""
    engine: Engine
    shelf: Shelf
    """Of the engine's items: which may be shown, and their order by popularity."""


class _Listed(NamedTuple):
    """What shelves are made of, beside their own items."""

    popular: tuple[str, ...]
    offer: Offer


@dataclass(frozen=True)
class Snapshot:
    """`champion` may be another than `state.champion`: the one before it, while the new one does not load."""

    state: ServingState
    champion: Loaded | None
    popular: tuple[str, ...]
    popular_shelf: Shelf
    offer: Offer
    problems: tuple[str, ...]
    challengers: Mapping[str, Loaded] = field(default_factory=dict)
    """By name: those of the open trial that users may meet and that load."""
    former: Loaded | None = None
    """What a rollback would bring back, while a promotion is watched."""

    @property
    def roles(self) -> tuple[tuple[str, Loaded], ...]:
        """All that is ready to answer: `champion`, the challengers' names, `former`."""
        named = (("champion", self.champion), *self.challengers.items(), ("former", self.former))
        return tuple((role, loaded) for role, loaded in named if loaded is not None)

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        return tuple(loaded for _, loaded in self.roles)

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
    """Keeps `current` true. Any thread may read it, and may ask for a `refresh`; two at once take turns."""

    def __init__(
        self,
        ledger: LedgerView,
        *,
        releases: Path,
        popularity_list: Path,
        offers: OfferWatch,
        filters_mb: float,
        sides: SideWatch,
        device: str,
        threads: int,
        variant: str = FP32,
        trusted: tuple[str, ...] = (),
        retry_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        """`now`: the home's clock. `filters_mb`: memory for requests' filters, a model. `trusted`: public keys in hex;
        where there are any, one of them must have signed whatever is loaded."""
        self._ledger = ledger
        self.engines = EngineRoom(
            releases,
            device=device,
            threads=threads,
            variant=variant,
            trusted=trusted,
            retry_seconds=retry_seconds,
        )
        self._popularity_list = popularity_list
        self._offers = offers
        self._filters_mb = filters_mb
        self._sides = sides
        self._variant = variant
        self._now = now
        self._popularity_stamp: Stamp | None = None
        self._ledger_answered = time.monotonic()
        self._turn = threading.Lock()
        self.swaps = 0
        """How often another bundle than before began to answer, as champion or challenger."""
        self.current = Snapshot(
            state=ServingState(None, None),
            champion=None,
            popular=(),
            popular_shelf=Shelf({}, Offer()),
            offer=Offer(),
            problems=("the ledger was not read yet",),
        )

    @property
    def ledger_silent_seconds(self) -> float:
        """Since the ledger answered last; since the start, before it did."""
        return time.monotonic() - self._ledger_answered

    @property
    def blocked(self) -> frozenset[str]:
        """The blocklist as last read: newer than the snapshot's while that is being made."""
        return self._offers.blocked

    def refresh(self) -> None:
        """Look at the ledger and the home's files once, and put a new snapshot in place.

        Raises nothing but ProviderMissing, for a device that was asked for and is absent, and what `OfferWatch.look`
        raises at its first look.
        """
        with self._turn:
            self._refresh()

    def _refresh(self) -> None:
        former = self.current
        problems: list[str] = []
        state = former.state
        try:
            state = self._ledger.serving_state()
            self._ledger_answered = time.monotonic()
        except Exception as error:  # whatever the database's driver raises: serving goes on with what it knows
            problems.append(f"ledger: {error}")
        listed = _Listed(self._popular(former.popular, problems), self._offers.look(problems))
        self._sides.look(state, problems)
        warm = self._warm(state, listed, problems)
        champion = self._champion(state, former.champion or warm, listed, problems)
        snapshot = Snapshot(
            state=state,
            champion=champion,
            challengers=self._challengers(state, champion, listed, problems),
            former=warm,
            popular=listed.popular,
            popular_shelf=self._popular_shelf(listed),
            offer=listed.offer,
            problems=(),
        )
        problems += [
            f"version {loaded.version}: [serving] variant = {self._variant!r}, which its release does not have; "
            f"{loaded.engine.variant} serves. Its attestation says why"
            for loaded in snapshot.loaded
            if loaded.engine.variant != self._variant
        ]
        snapshot = replace(snapshot, problems=tuple(problems))
        if problems and snapshot.problems != former.problems:
            _LOG.warning("%s", "; ".join(problems))
        self.current = snapshot
        before, after = _answering(former), _answering(snapshot)
        self.swaps += sum(before.get(arm) != digest for arm, digest in after.items())
        # When all this is over, the champion is what a rollback goes back to: it comes first.
        bases = [loaded.base_digest for loaded in snapshot.loaded]
        self.engines.keep(bases, answering={loaded.digest for loaded in snapshot.loaded})

    def _champion(
        self, state: ServingState, former: Loaded | None, listed: _Listed, problems: list[str]
    ) -> Loaded | None:
        if state.champion is None:
            return None
        version, digest, epoch = state.champion.version, state.champion.digest, state.champion.epoch
        engine = self.engines.of(digest, what=f"champion {version}", problems=problems)
        if engine is None:
            return former
        delta = state.delta
        if delta is not None and delta.base_digest == digest and self._now() < delta.expires:
            changed = self._changed(delta, engine, problems)
            if changed is not None:
                return self._loaded(version, delta.digest, digest, epoch, changed, listed)
        return self._loaded(version, digest, digest, epoch, engine, listed)

    def _challengers(
        self, state: ServingState, champion: Loaded | None, listed: _Listed, problems: list[str]
    ) -> dict[str, Loaded]:
        found = {}
        for each in in_play(state.trial) if state.trial else ():
            if champion is not None and champion.digest == each.digest:  # A/A: one engine, one shelf, two arms
                found[each.name] = replace(champion, epoch=0)
                continue
            engine = self.engines.of(each.digest, what=f"{each.name}, version {each.version}", problems=problems)
            if engine is not None:
                found[each.name] = self._loaded(each.version, each.digest, each.digest, 0, engine, listed)
        return found

    def _warm(self, state: ServingState, listed: _Listed, problems: list[str]) -> Loaded | None:
        bake = state.bake
        if bake is None:
            return None
        engine = self.engines.of(bake.digest, what=f"former champion {bake.version}", problems=problems)
        if engine is None:
            return None
        return self._loaded(bake.version, bake.digest, bake.digest, 0, engine, listed)

    def _loaded(
        self, version: int, digest: str, base_digest: str, epoch: int, engine: Engine, listed: _Listed
    ) -> Loaded:
        """With new items beside its own."""
        engine = self._sides.beside(engine, digest=digest, base_digest=base_digest)
        return Loaded(version, digest, base_digest, epoch, engine, self._shelf(engine, listed))

    def _shelf(self, engine: Engine, listed: _Listed) -> Shelf:
        """The former one, where it still holds: for a large vocabulary a new one takes a second."""
        former = self.current
        loaded = [one for one in former.loaded if one.engine.items is engine.items]
        if loaded and listed.popular is former.popular and listed.offer is former.offer:
            return loaded[0].shelf
        return Shelf(
            engine.rows,
            listed.offer,
            order_N=_by_popularity(engine, listed.popular),
            withdrawn_N=engine.withdrawn_V,
            former=loaded[0].shelf if loaded else None,
            megabytes=self._filters_mb,
        )

    def _popular_shelf(self, listed: _Listed) -> Shelf:
        former = self.current
        if listed.popular is not former.popular:
            rows = {item: row for row, item in enumerate(listed.popular)}
            return Shelf(rows, listed.offer, megabytes=self._filters_mb)
        shelf = former.popular_shelf
        if listed.offer is former.offer:
            return shelf
        return Shelf(shelf.rows, listed.offer, former=shelf, megabytes=self._filters_mb)

    def _changed(self, delta: ServingDelta, base: Engine, problems: list[str]) -> Engine | None:
        """The base with the delta in it. One that breaks a guardrail ends its standing approval."""
        engine, refused = self.engines.changed(base, delta, problems=problems)
        if refused:
            _LOG.error("delta %d (%s) is refused, back to the base: %s", delta.sequence, delta.digest[:12], refused)
            try:
                self._ledger.breach_delta(delta.digest, reason=refused, now=self._now())
            except Exception as error:  # whatever the database's driver raises: the base serves all the same
                problems.append(f"ledger: {error}")
        return engine

    def _popular(self, former: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
        try:
            stamp = stamp_of(self._popularity_list)
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


def _answering(snapshot: Snapshot) -> dict[str, str]:
    """Arm → the digest that answers it."""
    return {role: loaded.digest for role, loaded in snapshot.roles if loaded is not snapshot.former}


def _by_popularity(engine: Engine, popular: tuple[str, ...]) -> npt.NDArray[np.int32]:
    """All rows: popular items in their order, then those without a count, in vocabulary order."""
    counted = np.array([engine.rows[item] for item in popular if item in engine.rows], dtype=np.int32)
    uncounted_V = np.ones(len(engine.items), dtype=bool)
    uncounted_V[counted] = False
    return np.concatenate([counted, np.flatnonzero(uncounted_V).astype(np.int32)])
