"""What may be shown: from the assigned model, else from the champion, else from popularity."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relations.errors import DependencyFailed
from serving.choosing.assignment import Assignment
from serving.choosing.cache import CandidateCache, history_key, told_key
from serving.choosing.filters import EVERYTHING, Wanted
from serving.choosing.snapshots import Loaded, Snapshot
from serving.networks.attributes import NOTHING_TOLD, Told
from serving.networks.batching import Batcher, Overloaded
from serving.networks.engine import Engine
from serving.networks.histories import History, nobody
from serving.networks.queries import Query
from serving.networks.sessions import FP32
from serving.web.metrics import Fallback, Metrics
from stores.candidate_sets import rows_as_bytes, set_hash
from stores.serving_settings import PolicySettings

POLICY = "epsilon-greedy"
POPULARITY = "popularity"
"""Stands as the digest where no model served; such a digest never names a bundle."""
_LOG = logging.getLogger(__name__)


class NothingToServe(DependencyFailed):
    """No champion and no popularity list: a home without events."""


@dataclass(frozen=True)
class Wish:
    """What candidates are wanted for: the user's past as far as it may be used, and what must not be shown."""

    history: History
    excluded: frozenset[str]
    """What the user hid and the request leaves out; what the history has is the policy's matter."""
    now_us: int
    attributes: Told
    wanted: Wanted = EVERYTHING
    """What the request filters for."""


@dataclass(frozen=True)
class Candidates:
    """What may be shown, best first, and who chose it."""

    items: Sequence[str]
    scores: Sequence[float]
    version: int
    digest: str
    served_by: str
    policy: str
    set_hash: str
    error: str | None = None
    """Why it is not the assigned model that chose."""


class Chooser:
    """Finds candidates. For one event loop."""

    def __init__(
        self, policy: PolicySettings, batcher: Batcher, *, cache: CandidateCache[Candidates], metrics: Metrics
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._batcher = batcher
        self._cache = cache
        self._digests: frozenset[str] = frozenset()

    async def candidates(self, snapshot: Snapshot, assignment: Assignment, wish: Wish) -> Candidates:
        """Raises NothingToServe, and Overloaded where the networks have too much to do."""
        self._empty_after_swap(snapshot)
        error = None
        for loaded in (snapshot.challengers.get(assignment.variant), snapshot.champion):
            if loaded is None:
                continue
            try:
                return await self._from_model(loaded, wish, error)
            except Overloaded:
                raise
            except Exception as failure:  # whatever the runtime raises: the user gets an answer, the log the reason
                error = f"{loaded.digest[:12]}: {failure}"
                self._metrics.fallback(Fallback.ENGINE)
                _LOG.exception("model %d failed on a request", loaded.version)
        if not snapshot.answers:
            raise NothingToServe("no champion and no popularity list yet; ingest events first: `ratchet ingest FILE`")
        return self._from_list(snapshot, wish, error)

    def _empty_after_swap(self, snapshot: Snapshot) -> None:
        digests = frozenset(loaded.digest for loaded in snapshot.loaded)
        if digests != self._digests:
            self._digests = digests
            self._cache.keep(digests)

    async def _from_model(self, loaded: Loaded, wish: Wish, error: str | None) -> Candidates:
        """What the network chose lately for the same question, else what it chooses now."""
        if self._cache.on:
            key = self._key(loaded, wish)
            found = self._cache.get(loaded.digest, key, now_us=wish.now_us)
            self._metrics.cache(hit=found is not None)
            if found is None:
                found = await self.ask(loaded, wish)
                self._cache.put(loaded.digest, key, found, now_us=wish.now_us)
        else:
            found = await self.ask(loaded, wish)
        return found if error is None else replace(found, error=error)

    def _key(self, loaded: Loaded, wish: Wish) -> Hashable:
        """All that candidates follow from, but the time. The shelf's number stands for items, catalogue, blocklist."""
        told = told_key(wish.attributes)
        return loaded.shelf.number, history_key(wish.history), told, wish.excluded, wish.wanted

    async def ask(self, loaded: Loaded, wish: Wish) -> Candidates:
        """What this model chooses now, past the cache."""
        engine, n = loaded.engine, self._policy.candidates
        excluded = sorted(map(engine.rows.__getitem__, engine.rows.keys() & self._excluded(wish)))
        allowed = loaded.shelf.allowed(wish.wanted)
        asked = engine.codes(wish.history, now_us=wish.now_us, attributes=wish.attributes)
        if not len(asked.items_L) and self._policy.newcomers == "model":
            asked = nobody(engine.attributes.row(user=wish.attributes, context=NOTHING_TOLD))
        if len(asked.items_L):
            query = Query(asked, excluded, allowed.mask)
            rows, scores, searched = await self._batcher.best(engine, query, n=n)
            policy = POLICY
        else:
            # The scores only say the order.
            window = allowed.by_popularity[: n + len(excluded)]
            rows = (window[~np.isin(window, excluded)] if excluded else window)[:n].tolist()
            scores, policy, searched = _rank_scores(len(rows)), f"{POLICY}/{POPULARITY}", False
        return Candidates(
            items=[engine.items[row] for row in rows],
            scores=scores,
            version=loaded.version,
            digest=loaded.digest,
            served_by=_served_by(engine, searched=searched),
            policy=policy,
            set_hash=set_hash(_chosen_from(loaded), rows_as_bytes(rows)),
        )

    def _excluded(self, wish: Wish) -> frozenset[str]:
        return wish.excluded.union(wish.history.items_L) if self._policy.exclude_seen else wish.excluded

    def _from_list(self, snapshot: Snapshot, wish: Wish, error: str | None) -> Candidates:
        n, excluded = self._policy.candidates, self._excluded(wish)
        window = snapshot.popular_shelf.allowed(wish.wanted).by_popularity[: n + len(excluded)].tolist()
        items = [item for row in window if (item := snapshot.popular[row]) not in excluded][:n]
        return Candidates(
            items=items,
            scores=_rank_scores(len(items)),
            version=0,
            digest=POPULARITY,
            served_by=POPULARITY,
            policy=f"{POLICY}/{POPULARITY}",
            set_hash=set_hash(POPULARITY, "\x1f".join(sorted(items)).encode()),
            error=error,
        )


def without_blocked(candidates: Candidates, blocked: frozenset[str]) -> Candidates:
    """The last word on every path, right before slots are filled: whoever chose a blocked item, nobody is shown it."""
    if blocked.isdisjoint(candidates.items):
        return candidates
    left = [place for place, item in enumerate(candidates.items) if item not in blocked]
    items = [candidates.items[place] for place in left]
    return replace(
        candidates,
        items=items,
        scores=[candidates.scores[place] for place in left],
        set_hash=set_hash(candidates.set_hash, "\x1f".join(sorted(items)).encode()),
    )


def _served_by(engine: Engine, *, searched: bool) -> str:
    form = "" if engine.variant == FP32 else f"/{engine.variant}"
    how = "+nearest" if searched else ""
    beside = f"+side:{engine.side.digest[:12]}" if engine.side else ""
    return f"onnxruntime/{engine.provider}{form}{how}{beside}"


def _chosen_from(loaded: Loaded) -> str:
    """Rows mean one thing under one network and side index."""
    side = loaded.engine.side
    return loaded.digest if side is None else f"{loaded.digest[:32]}{side.digest[:32]}"


def _rank_scores(n: int) -> list[float]:
    return [1.0 / rank for rank in range(1, n + 1)]
