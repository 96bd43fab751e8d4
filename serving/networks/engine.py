"""A release bundle as a running network: ONNX Runtime on bytes that were verified just before."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected, GateRefused
from serving.networks.attributes import NOTHING_TOLD, Attributes, Told
from serving.networks.histories import Asked, History, nobody
from serving.networks.nearest import ENCODER, Nearest
from serving.networks.queries import EVENTS, Best, Mask, Query, mask_of, side_by_side
from serving.networks.sessions import FP32, graph_of, open_session, variant_of
from serving.networks.weights import Weights
from stores.bundle import Bundle
from stores.deltas import Delta, Floats, patch
from stores.initializers import EXTERNAL
from stores.side_index import SideIndex
from stores.standing_records import DeltaLimits

_REQUEST = ["mask", "excluded", "k"]
_SECOND = 1_000_000
_PROBES, _PROBE_EVENTS, _BEST = 32, 8, 10
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Engine:
    """A network that answers. Safe to ask from several threads.

    Shapes: V items of the vocabulary, L events of a history. Column r of the scores ↔ item `items[r]` ↔ code r + 1.
    With a side index its R items stand behind those of the vocabulary, in `items` as in the mask; what is said of V in
    exclusions, masks and answers then goes for V + R. The network does not know them from histories.
    """

    items: tuple[str, ...]
    rows: dict[str, int]
    behaviours: dict[str, int]
    max_history: int
    attributes: Attributes
    withdrawn_V: npt.NDArray[np.bool_]
    """Items that must not be recommended."""
    mask_V1: Mask
    """Without the withdrawn items."""
    provider: str
    _session: Any
    _bundle: Bundle
    _device: str
    _threads: int
    _weights: Weights | None = None
    _encoder: Any = None
    variant: str = FP32
    """Which form of the release's network this is."""
    nearest: Nearest | None = None
    """The search of a large catalogue; None: all items are scored."""
    side: SideIndex | None = None

    @property
    def vocabulary(self) -> int:
        """V, without the side index."""
        return len(self.items) - (len(self.side.items) if self.side else 0)

    @staticmethod
    def load(bundle: Bundle, *, device: str = "cpu", threads: int = 1, variant: str = FP32) -> "Engine":
        """Open a verified bundle and try it on histories of the shortest and the longest length.

        Any `variant` but fp32 scores all items, whatever index the bundle has, and takes no deltas. Raises DataRejected
        for a bundle that does not work or lacks the variant, ProviderMissing where `device` is not what really runs.
        """
        vocabulary, features = (_stated(bundle, name) for name in ("vocabulary.json", "features.json"))
        try:
            items = tuple(vocabulary["items"])
            names = list(features["behaviours"])
            max_history = int(features["max_history"])
            inputs = features.get("inputs")
            attributes = Attributes.read(features.get("attributes", []))
            withdrawn_V = np.zeros(len(items), dtype=bool)
            withdrawn_V[[int(row) - 1 for row in vocabulary.get("withdrawn", ())]] = True
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataRejected(f"{bundle.folder}: vocabulary or features are incomplete ({error!r})") from error
        if len(set(items)) != len(items) or not all(isinstance(item, str) for item in items) or max_history < 1:
            raise DataRejected(f"{bundle.folder}: item ids must be distinct strings and max_history at least 1")
        wanted = [*EVENTS, *(["attributes"] if attributes.known else []), *_REQUEST]
        if inputs != wanted:
            raise DataRejected(
                f"{bundle.folder}: its network takes {inputs}, this version would give it {wanted}; "
                "train and release a model again, or serve it with the version that exported it"
            )
        # On a GPU sessions keep weights of their own, and scoring all is what it does best.
        shared = variant == FP32 and device == "cpu" and EXTERNAL in bundle.manifest["files"]
        weights = Weights.read(bundle) if shared else None
        nearest = Nearest.load(bundle, weights.arrays, threads=threads) if weights else None
        opened = partial(open_session, bundle, device=device, threads=threads, weights=weights)
        graph = graph_of(bundle, weights) if variant == FP32 else variant_of(bundle, variant)
        session = opened(graph, packed=nearest is None)
        engine = Engine(
            items=items,
            rows={item: row for row, item in enumerate(items)},
            behaviours={name: code for code, name in enumerate(names) if code > 0},  # 0 is padding
            max_history=max_history,
            attributes=attributes,
            withdrawn_V=withdrawn_V,
            mask_V1=mask_of(withdrawn_V),
            provider=session.get_providers()[0],
            _session=session,
            _bundle=bundle,
            _device=device,
            _threads=threads,
            _weights=weights,
            _encoder=opened(bundle.read(ENCODER)) if nearest else None,
            variant=variant,
            nearest=nearest,
        )
        for length in (1, max_history):
            engine._try(length)
        how = "a search among the nearest" if nearest else "scores of all"
        _LOG.info("loaded %s: %d items, %s, %s, %s", bundle.digest[:12], len(items), variant, engine.provider, how)
        return engine

    def with_delta(self, delta: Delta, *, limits: DeltaLimits | None = None) -> "Engine":
        """This network with a delta's weights in it, ready to answer; this one stays as it is.

        Raises DataRejected for a delta of another base or one that does not fit, GateRefused for one beyond `limits`:
        too many rows, too large a change, or scores on probe histories that are not finite or whose ten best are not
        the base's often enough.
        """
        if self.variant != FP32:
            raise DataRejected(
                f'delta {delta.digest[:12]}: changes float32 weights, and [serving] variant = "{self.variant}" serves; '
                'set variant = "fp32" to have deltas'
            )
        if delta.base_digest != self._bundle.digest:
            raise DataRejected(
                f"delta {delta.digest[:12]}: is on base {delta.base_digest[:12]}…, not {self._bundle.digest[:12]}…"
            )
        patched = patch(self._bundle, delta.change)
        rows = len(delta.change.rows_R)
        if limits and rows > limits.rows:
            raise GateRefused(f"rows: {rows} > {limits.rows}")
        if limits and patched.relative_change > limits.relative_change:
            raise GateRefused(f"relative_change: {patched.relative_change:.4g} > {limits.relative_change:.4g}")
        weights = self._weights.replaced(patched.beside) if self._weights else None
        opened = partial(
            open_session,
            self._bundle,
            device=self._device,
            threads=self._threads,
            weights=weights,
            beside=patched.beside,
        )
        nearest = self.nearest.changed(weights.arrays, delta.change.rows_R) if self.nearest and weights else None
        engine = replace(
            self,
            _session=opened(patched.graph, packed=nearest is None),
            _weights=weights,
            _encoder=opened(self._bundle.read(ENCODER)) if nearest else None,
            nearest=nearest,
        )
        try:
            for length in (1, self.max_history):
                engine._try(length)
        except DataRejected as error:
            raise GateRefused(f"probes: {error}") from error
        before, after = self._best_on_probes(), engine._best_on_probes()
        kept = [len(set(one) & set(other)) / len(one) for one, other in zip(before, after, strict=True)]
        if limits and (overlap := sum(kept) / len(kept)) < limits.overlap:
            raise GateRefused(f"overlap: {overlap:.3f} of the base's {len(before[0])} best, below {limits.overlap:.3f}")
        return engine

    def with_side(self, side: SideIndex) -> "Engine":
        """This network with the items of a side index beside its own; this one stays as it is.

        Raises DataRejected for one that does not fit: vectors of another width, items that the network has, or a form
        of the release whose states mean something else.
        """
        if self.side is not None:
            raise ValueError("a side index is laid beside a network's own items")
        known = self.vocabulary
        if self.variant != FP32 and self._bundle.manifest["variants"][self.variant].get("state") != "release":
            raise DataRejected(f"is of the release's item space, which its form {self.variant} does not share")
        (state_BD,) = self._run(["state"], [Query(Asked([1], [1], [0], [[1] * len(self.attributes.known)]))], n=1)
        if state_BD.shape[1] != side.vector_RD.shape[1]:
            raise DataRejected(f"has vectors of {side.vector_RD.shape[1]} for states of {state_BD.shape[1]}")
        if here := next((item for item in side.ids if item in self.rows), None):
            raise DataRejected(f"has {here!r}, which the release has itself")
        return replace(
            self,
            items=self.items + side.ids,
            rows=self.rows | {item: row for row, item in enumerate(side.ids, start=known)},
            withdrawn_V=np.concatenate([self.withdrawn_V, np.zeros(len(side.ids), dtype=bool)]),
            mask_V1=np.concatenate([self.mask_V1, np.zeros(len(side.ids), dtype=np.float32)]),
            side=side,
        )

    def codes(self, history: History, *, now_us: int, attributes: Told = NOTHING_TOLD) -> Asked:
        """The newest `max_history` events, oldest first, of those that the model knows, for a request at `now_us`.

        `attributes`: of the user. Where the model knows one of them, a user without a known event is asked about as the
        model learnt first events: with one padding position. Without either nothing is left to ask with.
        """
        # Each answer goes over hundreds of events here: C runs the loops.
        length = len(history.items_L)
        row_L = np.fromiter(map(self.rows.get, history.items_L, repeat(self.vocabulary)), np.int64, length)
        code_L = np.fromiter(map(self.behaviours.get, history.behaviours_L, repeat(0)), np.int64, length)
        known_K = np.flatnonzero((row_L < self.vocabulary) & (code_L > 0))[-self.max_history :]
        if not self.attributes.known:
            told_KA: list[list[int]] = [[]] * len(known_K)
        elif len(known_K):
            contexts_L = history.contexts_L or [NOTHING_TOLD] * length
            told_KA = [self.attributes.row(user=attributes, context=contexts_L[place]) for place in known_K.tolist()]
        else:
            alone_A = self.attributes.row(user=attributes, context=NOTHING_TOLD)
            if any(code > 1 for code in alone_A):
                return nobody(alone_A)
            told_KA = []
        age_K = np.maximum(now_us - np.array(history.times_L, np.int64)[known_K], 0) // _SECOND
        return Asked(row_L[known_K] + 1, code_L[known_K], age_K, told_KA)

    def best(self, queries: Sequence[Query], *, n: int) -> list[Best]:
        """The `n` best rows for each query, fewer where exclusions and mask leave fewer. All queries share a mask.

        Raises ArithmeticError for scores that are not numbers: no order can be made of them.
        """
        answer = self._scored if self.nearest is None else self._searched
        state_BD, found = answer(queries, n=n)
        return found if self.side is None else self._with_new(self.side, found, queries, state_BD, n=n)

    def _scored(self, queries: Sequence[Query], *, n: int) -> tuple[Floats, list[Best]]:
        """States, and the best of all items of the vocabulary."""
        state_BD, row_BK, score_BK = self._run(["state", "best_rows", "best_scores"], queries, n=n)
        found = []
        for rows, scores in zip((row_BK - 1).tolist(), score_BK.tolist(), strict=True):
            left = scores.index(-math.inf) if scores and scores[-1] == -math.inf else len(scores)
            found.append(Best(rows[:left], scores[:left]))
        return state_BD, found

    def _searched(self, queries: Sequence[Query], *, n: int) -> tuple[Floats, list[Best]]:
        """States, and the best of the nearest; of all, for those queries of which too few are left there."""
        assert self.nearest is not None
        feed = self.feed(queries)
        (state_BD,) = self._encoder.run(["state"], {name: feed[name] for name in feed.keys() - {"excluded"}})
        mask_V1 = queries[0].mask_V1 if queries[0].mask_V1 is not None else self.mask_V1
        near = self.nearest.best(
            state_BD, excluded=[query.excluded for query in queries], mask_V1=mask_V1, n=min(n, self.vocabulary)
        )
        missed = [query for query, found in zip(queries, near, strict=True) if found is None]
        scored = iter(self._scored(missed, n=n)[1] if missed else ())
        return state_BD, [
            next(scored) if found is None else Best([row - 1 for row in found.rows], found.scores, searched=True)
            for found in near
        ]

    def _with_new(
        self, side: SideIndex, found: Sequence[Best], queries: Sequence[Query], state_BD: Floats, *, n: int
    ) -> list[Best]:
        """The `n` best of both, by the same order; −∞ is never an answer."""
        known = self.vocabulary
        mask_V1 = queries[0].mask_V1 if queries[0].mask_V1 is not None else self.mask_V1
        score_BR = state_BD @ side.vector_RD.T + (side.bias_R + mask_V1[known + 1 :])
        merged = []
        for best, query, score_R in zip(found, queries, score_BR, strict=True):
            score_R[[row - known for row in query.excluded if row >= known]] = -np.inf
            least = best.scores[-1] if len(best.scores) == n else -math.inf
            better_R = np.flatnonzero(score_R > least)  # an equal one comes behind those of the vocabulary
            if not len(better_R):
                merged.append(best)
                continue
            better_R = better_R[np.argsort(-score_R[better_R], kind="stable")][:n]
            fresh = zip((better_R + known).tolist(), score_R[better_R].tolist(), strict=True)
            ranked = sorted([*zip(best.rows, best.scores, strict=True), *fresh], key=lambda pair: (-pair[1], pair[0]))
            rows, scores = [row for row, _ in ranked[:n]], [score for _, score in ranked[:n]]
            merged.append(best._replace(rows=rows, scores=scores))
        return merged

    def scores(self, asked: Asked) -> npt.NDArray[np.float32]:
        """Scores [V] for the next item; −∞ for withdrawn items."""
        (score_BV,) = self._run(["scores"], [Query(asked)], n=1)
        return np.asarray(score_BV[0, 1:])

    def _run(self, outputs: list[str], queries: Sequence[Query], *, n: int) -> list[Any]:
        mask_V1 = queries[0].mask_V1 if queries[0].mask_V1 is not None else self.mask_V1
        feed = self.feed(queries)
        feed["mask"] = mask_V1[: self.vocabulary + 1]
        feed["k"] = np.array([min(n, self.vocabulary)], dtype=np.int64)
        found: list[Any] = self._session.run(outputs, feed)
        if not (found[-1] < np.inf).all():  # false for NaN too
            raise ArithmeticError("the network's scores are not finite")
        return found

    def feed(self, queries: Sequence[Query]) -> dict[str, npt.NDArray[Any]]:
        """The inputs of a batch, but for mask and k."""
        return side_by_side(queries, attributes=len(self.attributes.known), vocabulary=self.vocabulary)

    def _best_on_probes(self) -> list[list[int]]:
        """The best rows after each of some histories of items drawn at random, always the same ones."""
        length = min(self.max_history, _PROBE_EVENTS)
        rng = np.random.default_rng(0)
        ages = list(range(60 * length, 0, -60))
        unknown = [[1] * len(self.attributes.known)] * length
        probes = rng.integers(1, len(self.items) + 1, size=(_PROBES, length)).tolist()
        asked = [Query(Asked(rows, [1] * length, ages, unknown)) for rows in probes]
        return [best.rows for best in self.best(asked, n=_BEST)]

    def _try(self, length: int) -> None:
        """One history of this length, one item left out: every score must be a number, and the best be the best."""
        bundle = self._bundle
        unknown = [1] * len(self.attributes.known)
        query = Query(Asked([1] * length, [1] * length, list(range(length, 0, -1)), [unknown] * length), excluded=[0])
        outputs = {"best_rows": np.int64, "best_scores": np.float32, "scores": np.float32}
        try:
            found = dict(zip(outputs, self._run(list(outputs), [query], n=len(self.items)), strict=True))
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of broken graph
            raise DataRejected(f"{bundle.folder}: the network fails on a history of {length}: {error}") from error
        for name, dtype in outputs.items():
            wide = len(self.items) + (name == "scores")
            if found[name].shape != (1, wide) or found[name].dtype != dtype:
                raise DataRejected(
                    f"{bundle.folder}: {name} is {found[name].dtype}{list(found[name].shape)}, wanted {dtype.__name__}"
                    f"[1, {wide}]"
                )
        scores_V = found["scores"][0, 1:].copy()
        offered_V = ~self.withdrawn_V
        offered_V[0] = False
        best = found["best_rows"][0, : offered_V.sum()] - 1
        order = np.lexsort((np.arange(len(scores_V)), -scores_V))
        if not np.isfinite(scores_V[offered_V]).all() or best.tolist() != order[offered_V[order]].tolist():
            raise DataRejected(f"{bundle.folder}: the network's best are not the highest of finite scores")
        if self.nearest is not None:
            (near,) = self._searched([query], n=min(_BEST, self.nearest.best_at_most))[1]
            if not np.allclose(near.scores, scores_V[near.rows], rtol=1e-3, atol=1e-3):
                raise DataRejected(f"{bundle.folder}: its encoder and its network disagree; release the model again")


def _stated(bundle: Bundle, name: str) -> dict[str, Any]:
    try:
        stated = json.loads(bundle.read(name))
    except ValueError as error:
        raise DataRejected(f"{bundle.folder / name}: not JSON ({error}); export the model again") from error
    if not isinstance(stated, dict):
        raise DataRejected(f"{bundle.folder / name}: not a JSON object; export the model again")
    return stated
