"""A release bundle as a running network: ONNX Runtime on bytes that were verified just before."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from relations.errors import DataRejected, DependencyFailed, GateRefused
from serving.attributes import NOTHING_TOLD, Attributes, Told
from serving.histories import Asked, Past
from stores.bundle import Bundle
from stores.deltas import Delta, Floats, patch
from stores.initializers import EXTERNAL
from stores.ledger_records import DeltaLimits

_INPUTS = ["items", "behaviours", "ages"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SECOND = 1_000_000
_PROBES, _PROBE_EVENTS, _BEST = 32, 8, 10
_LOG = logging.getLogger(__name__)


class ProviderMissing(DependencyFailed):
    """The device that was asked for is not the one that ONNX Runtime runs on."""


@dataclass(frozen=True)
class Engine:
    """A network that answers.

    Shapes: V items of the vocabulary, L events of a history. Column r of the scores ↔ item `items[r]` ↔ code r + 1.
    """

    items: tuple[str, ...]
    rows: dict[str, int]
    behaviours: dict[str, int]
    max_history: int
    attributes: Attributes
    withdrawn_V: npt.NDArray[np.bool_]
    """Items that must not be recommended."""
    provider: str
    _session: Any
    _bundle: Bundle
    _device: str
    _threads: int

    @staticmethod
    def load(bundle: Bundle, *, device: str = "cpu", threads: int = 1) -> "Engine":
        """Open a verified bundle and try it on histories of the shortest and the longest length.

        Raises DataRejected for a bundle that does not work, ProviderMissing where `device` is not what really runs.
        """
        vocabulary, features = (_stated(bundle, name) for name in ("vocabulary.json", "features.json"))
        try:
            items = tuple(vocabulary["items"])
            names = list(features["behaviours"])
            max_history = int(features["max_history"])
            inputs = features.get("inputs", _INPUTS[:2])  # none were stated while there were but two
            attributes = Attributes.read(features.get("attributes", []))
            withdrawn_V = np.zeros(len(items), dtype=bool)
            withdrawn_V[[int(row) - 1 for row in vocabulary.get("withdrawn", ())]] = True
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataRejected(f"{bundle.folder}: vocabulary or features are incomplete ({error!r})") from error
        if len(set(items)) != len(items) or not all(isinstance(item, str) for item in items) or max_history < 1:
            raise DataRejected(f"{bundle.folder}: item ids must be distinct strings and max_history at least 1")
        wanted = [*_INPUTS, "attributes"] if attributes.known else _INPUTS
        if inputs != wanted:
            raise DataRejected(
                f"{bundle.folder}: its network takes {inputs}, this version would give it {wanted}; "
                "train and release a model again, or serve it with the version that exported it"
            )
        session = _session(bundle, _graph(bundle), device=device, threads=threads)
        engine = Engine(
            items=items,
            rows={item: row for row, item in enumerate(items)},
            behaviours={name: code for code, name in enumerate(names) if code > 0},  # 0 is padding
            max_history=max_history,
            attributes=attributes,
            withdrawn_V=withdrawn_V,
            provider=session.get_providers()[0],
            _session=session,
            _bundle=bundle,
            _device=device,
            _threads=threads,
        )
        for length in (1, max_history):
            engine._try(length)
        _LOG.info("loaded %s: %d items, %s", bundle.digest[:12], len(items), engine.provider)
        return engine

    def with_delta(self, delta: Delta, *, limits: DeltaLimits | None = None) -> "Engine":
        """This network with a delta's weights in it, ready to answer; this one stays as it is.

        Raises DataRejected for a delta of another base or one that does not fit, GateRefused for one beyond `limits`:
        too many rows, too large a change, or scores on probe histories that are not finite or whose ten best are not
        the base's often enough.
        """
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
        session = _session(
            self._bundle, patched.graph, beside=patched.beside, device=self._device, threads=self._threads
        )
        engine = replace(self, _session=session)
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

    def codes(self, history: Sequence[Past], *, now_us: int, attributes: Told = NOTHING_TOLD) -> Asked:
        """The newest `max_history` events, oldest first, of those that the model knows, for a request at `now_us`.

        `attributes`: of the user. Where the model knows one of them, a user without a known event is asked about as the
        model learnt first events: with one padding position. Without either nothing is left to ask with.
        """
        known = [
            (row + 1, code, max(0, now_us - past.time_us) // _SECOND, past.context)
            for past in history
            if (row := self.rows.get(past.item_id)) is not None
            and (code := self.behaviours.get(past.behaviour)) is not None
        ][-self.max_history :]
        if not known and any(code > 1 for code in self.attributes.row(user=attributes, context=NOTHING_TOLD)):
            known = [(0, 0, 0, NOTHING_TOLD)]
        return Asked(
            [row for row, _, _, _ in known],
            [code for _, code, _, _ in known],
            [age for _, _, age, _ in known],
            [self.attributes.row(user=attributes, context=context) for _, _, _, context in known],
        )

    def scores(self, asked: Asked) -> npt.NDArray[np.float32]:
        """Scores [V] for the next item, of something to ask with; −∞ for withdrawn items.

        Raises ArithmeticError for scores that are not finite, or not one float32 an item: no order can be made of them.
        """
        feed = {name: np.array([codes_L], dtype=np.int64) for name, codes_L in zip(_INPUTS, asked[:-1], strict=True)}
        if self.attributes.known:
            feed["attributes"] = np.array([asked.attributes_LA], dtype=np.int64)
        scores_V: npt.NDArray[np.float32] = self._session.run(["scores"], feed)[0][0]
        if scores_V.shape != self.withdrawn_V.shape or scores_V.dtype != np.float32:
            stated = f"{scores_V.dtype}{list(scores_V.shape)}"
            raise ArithmeticError(f"scores are {stated}, wanted float32[{len(self.items)}]")
        if not np.isfinite(scores_V).all():
            raise ArithmeticError("the network's scores are not finite")
        scores_V[self.withdrawn_V] = -np.inf
        return scores_V

    def _best_on_probes(self) -> list[list[int]]:
        """The best rows after each of some histories of items drawn at random, always the same ones."""
        length = min(self.max_history, _PROBE_EVENTS)
        rng = np.random.default_rng(0)
        ages = list(range(60 * length, 0, -60))
        unknown = [[1] * len(self.attributes.known)] * length
        return [
            best_rows(self.scores(Asked(rows.tolist(), [1] * length, ages, unknown)), n=_BEST).tolist()
            for rows in rng.integers(1, len(self.items) + 1, size=(_PROBES, length))
        ]

    def _try(self, length: int) -> None:
        bundle = self._bundle
        unknown = [1] * len(self.attributes.known)
        try:
            self.scores(Asked([1] * length, [1] * length, list(range(length, 0, -1)), [unknown] * length))
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of broken graph
            raise DataRejected(f"{bundle.folder}: the network fails on a history of {length}: {error}") from error


def best_rows(
    scores_V: npt.NDArray[np.float32], *, n: int, excluded: Sequence[int] | set[int] = ()
) -> npt.NDArray[np.int64]:
    """The `n` rows of the highest scores above −∞, best first, ties by row; fewer where exclusions leave fewer."""
    allowed_V = scores_V > -np.inf
    allowed_V[list(excluded)] = False
    rows = np.flatnonzero(allowed_V)
    scores = scores_V[rows]
    if len(rows) > n:
        # All above the n-th score, then the first rows of those equal to it: argpartition would cut ties anyhow.
        nth = np.partition(scores, len(rows) - n)[len(rows) - n]
        above = np.flatnonzero(scores > nth)
        equal = np.flatnonzero(scores == nth)[: n - len(above)]
        kept = np.concatenate([above, equal])
        rows, scores = rows[kept], scores[kept]
    return rows[np.lexsort((rows, -scores))]


def _stated(bundle: Bundle, name: str) -> dict[str, Any]:
    try:
        stated = json.loads(bundle.read(name))
    except ValueError as error:
        raise DataRejected(f"{bundle.folder / name}: not JSON ({error}); export the model again") from error
    if not isinstance(stated, dict):
        raise DataRejected(f"{bundle.folder / name}: not a JSON object; export the model again")
    return stated


def _session(
    bundle: Bundle, graph: bytes | str, *, device: str, threads: int, beside: Mapping[str, Floats] | None = None
) -> Any:
    """`beside`: in place of what the file beside the graph has by these names."""
    wanted = _PROVIDERS[device]
    if wanted not in onnxruntime.get_available_providers():
        raise _missing(device, "has no " + wanted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.folder))
    if beside:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in beside.values()]
        options.add_external_initializers(list(beside), values)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[wanted])
    except Exception as error:  # ONNX Runtime's own classes have no common base
        raise DataRejected(f"{bundle.folder / 'model.onnx'}: ONNX Runtime refuses it: {error}") from error
    if session.get_providers()[0] != wanted:  # ONNX Runtime falls back silently
        raise _missing(device, f"runs on {session.get_providers()[0]}")
    return session


def _graph(bundle: Bundle) -> bytes | str:
    """The verified bytes; the path where a graph beyond protobuf's 2 GB has its weights in a file beside it."""
    alone = EXTERNAL not in bundle.manifest["files"]
    return bundle.read("model.onnx") if alone else str(bundle.folder / "model.onnx")


def _missing(device: str, what: str) -> ProviderMissing:
    return ProviderMissing(
        f'[serving] device = "{device}": ONNX Runtime {what}; install the GPU runtime with its CUDA libraries, '
        'or set device = "cpu"'
    )
