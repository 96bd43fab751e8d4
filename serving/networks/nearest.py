"""The best items of a large catalogue through a release's index; the engine scores all where this has no answer.

An encoder graph gives the state, Faiss the candidates, and the true vectors the scores. The encoder, the whole graph
and the scores here read one copy of the weights: the bytes that were verified.

Shapes: B queries, V items of the vocabulary, D width, P the index' padded dimensions, F fetched; rows count from 1 as
in the graph.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected
from stores.bundle import Bundle
from stores.deltas import Floats

ENCODER, INDEX, LAYOUT = "encoder.onnx", "nearest.index", "nearest.json"
_FORMAT = 1
_MOST_EXCLUDED = 1_000
"""Who excludes more gets all items scored: recall was measured with histories left out, not with half a catalogue."""
_MOST_CHANGED = 10_000
_LOG = logging.getLogger(__name__)


class Found(NamedTuple):
    """Rows, from 1, and their scores; best first, ties by row."""

    rows: list[int]
    scores: list[float]


@dataclass(frozen=True, eq=False)
class Nearest:
    """A search that was measured against scoring all. Safe to ask from several threads."""

    best_at_most: int
    """Recall was measured among so many."""
    _spare: float
    _index: Any
    _library: Any
    _threads: int
    _table: str
    _bias: str
    _table_VD: Floats
    _bias_V: Floats
    _changed_R: npt.NDArray[np.int64]
    """Rows that a delta gave other vectors than the index has: always among the candidates."""

    @staticmethod
    def load(bundle: Bundle, weights: Mapping[str, Floats], *, threads: int) -> "Nearest | None":
        """The bundle's index over `weights`, by the names of initializers; None where it has none, or none can be read:
        without Faiss, or written by a version that this one does not understand. All items are scored then.

        Raises DataRejected for an index that does not belong to the weights.
        """
        if LAYOUT not in bundle.manifest["files"]:
            return None
        try:
            import faiss
        except ImportError as error:
            _LOG.warning("%s: has an index, and Faiss is missing (%s); all items are scored", bundle.folder, error)
            return None
        try:
            layout = json.loads(bundle.read(LAYOUT))
            if layout["format"] != _FORMAT or layout["library"] != "faiss":
                _LOG.warning("%s: this version cannot read its index; all items are scored", bundle.folder)
                return None
            table_VD, bias_V = weights[layout["table"]], weights[layout["bias"]]
            index: Any = faiss.deserialize_index(np.frombuffer(bundle.read(INDEX), np.uint8))
            index.nprobe = int(layout["effort"])
            width = table_VD.shape[1]
            if (index.d, index.ntotal) != (layout["dimensions"], layout["items"]) or index.d <= width:
                raise ValueError(f"{index.ntotal} vectors of {index.d} dimensions")
            if len(table_VD) != len(bias_V) or width != layout["width"]:
                raise ValueError(f"a table of {list(table_VD.shape)} and biases of {list(bias_V.shape)}")
            return Nearest(
                best_at_most=int(layout["best"]),
                _spare=float(layout["spare"]),
                _index=index,
                _library=faiss,
                _threads=threads,
                _table=layout["table"],
                _bias=layout["bias"],
                _table_VD=table_VD,
                _bias_V=bias_V,
                _changed_R=np.zeros(0, np.int64),
            )
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:  # the last is Faiss'
            raise DataRejected(
                f"{bundle.folder}: its index is not what it states ({error!r}); release again"
            ) from error

    def changed(self, weights: Mapping[str, Floats], rows_R: npt.NDArray[np.int64]) -> "Nearest | None":
        """The same search over new weights, of which `rows_R` of the table differ from those that the index has.

        Lists are looked up by what the items' vectors were; scores are of what they are. The changed ones are always
        candidates, so the search loses none of them, however far they moved. None for so many that scoring them with
        each request costs about what scoring all does.
        """
        if len(rows_R) > _MOST_CHANGED:
            return None
        return replace(self, _table_VD=weights[self._table], _bias_V=weights[self._bias], _changed_R=rows_R[rows_R > 0])

    def best(
        self, state_BD: Floats, *, excluded: Sequence[Sequence[int]], mask_V1: Floats, n: int
    ) -> list[Found | None]:
        """The `n` best rows for each state without `excluded` (rows from 0) and what the mask leaves out.

        None where too few are left or too many are wanted: score all then. Scores agree with the graph's to rounding.
        Raises ArithmeticError for states that are not numbers.
        """
        if not np.isfinite(state_BD).all():
            raise ArithmeticError("the network's states are not finite")
        found: list[Found | None] = [None] * len(state_BD)
        places = [place for place, excluded_E in enumerate(excluded) if len(excluded_E) <= _MOST_EXCLUDED]
        if n > self.best_at_most or not places:
            return found
        fetched = n + math.ceil(n * self._spare) + max(len(excluded[place]) for place in places)
        question_BP = np.zeros((len(places), self._index.d), np.float32)
        question_BP[:, : state_BD.shape[1]] = state_BD[places]
        question_BP[:, state_BD.shape[1]] = 1
        self._library.omp_set_num_threads(self._threads)  # of the calling thread
        for place, row_F in zip(places, self._index.search(question_BP, fetched)[1], strict=True):
            found[place] = self._chosen(row_F, state_BD[place], excluded[place], mask_V1, n)
        return found

    def _chosen(
        self, row_F: npt.NDArray[np.int64], state_D: Floats, excluded_E: Sequence[int], mask_V1: Floats, n: int
    ) -> Found | None:
        row_F = row_F[row_F > 0]  # −1 where the lists held fewer
        if len(self._changed_R):
            row_F = np.union1d(row_F, self._changed_R)
        score_F = self._table_VD[row_F] @ state_D + self._bias_V[row_F] + mask_V1[row_F]
        if len(excluded_E):
            score_F[np.isin(row_F, np.asarray(excluded_E) + 1)] = -np.inf
        left = int((score_F > -np.inf).sum())
        if left < n:
            return None
        order = np.lexsort((row_F, -score_F))[:n]
        return Found(row_F[order].tolist(), score_F[order].tolist())
