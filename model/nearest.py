"""An index of the items' vectors beside a release's graph: the best items of a large catalogue without scoring all.

A score is state · vector + bias, an inner product [state, 1] · [vector, bias], so the best items are the nearest by
inner product. The index is Faiss' inverted file: items in lists by k-means, the lists whose centroids score best are
looked through (`effort` of them), in 8 bits a dimension; the candidates are then scored with the true vectors, which
the graph's file of weights holds already.

Shapes: V items, D width, P = D + 1 rounded up to whole registers, Q questions, K best, F fetched, L positions.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx

from model.evaluation import RankerRecommender, Visible
from model.fitted import Fitted
from model.graph import BEST_ROWS, EXCLUDED, MASK, SCORES, STATE, K, history_inputs
from model.inputs import Inputs
from model.inverted_file import asked, build_index, padded
from model.runtime import onnxruntime
from model.sequences import Holdout
from model.split_graph import ENCODER, MODEL, encoder_of, initializer, save_both, scoring_of

INDEX, LAYOUT = "nearest.index", "nearest.json"
FORMAT = 1
BEST = 100
"""Recall is measured among this many best at least."""
SPARE = 0.5
"""Beyond what is wanted and excluded this share more is fetched, to make up for the 8 bits."""
ABOVE = 100_000
_QUESTIONS = 1024
"""Held-out histories that are worth asking about: half of them measure, to some .005 of recall."""
_LEAST_QUESTIONS = 100
_MOST_EFFORT = 1 / 8  # of the lists; beyond, scoring all items costs about as much
_SURE = 1.645  # one-sided 95 % of the normal distribution
_TOLERANCE = 1e-3  # of a score, between the graph's product and the sum over a row


@dataclass(frozen=True)
class NearestOptions:
    above: int = ABOVE
    """Catalogues with fewer items get no index: scoring all is cheap."""
    recall: float = 0.98
    """Smallest mean share of the exact best that the search must find, with 95 % confidence."""
    best: int = BEST
    """How many best items are asked for at most."""
    seed: int = 0


@dataclass(frozen=True)
class NearestReport:
    """What became of an index. `reason`: why there is none. For the attestation: it holds measurements."""

    built: bool
    reason: str = ""
    library: str = ""
    lists: int = 0
    effort: int = 0
    """Lists that a search looks through."""
    best: int = 0
    recall: float = 0.0
    """Mean share of the `best` exact best items, seen ones left out, that the search finds."""
    recall_low: float = 0.0
    """Its lower 95 % bound over questions."""
    questions: int = 0
    """Real held-out histories that recall was measured on."""
    bytes: int = 0
    """Of the index."""
    seconds: float = 0.0
    """CPU time of the whole step."""

    def stated(self) -> dict[str, Any]:
        return asdict(self) if self.built else {"built": False, "reason": self.reason}


def add_nearest(fitted: Fitted, folder: Path, *, holdout: Holdout, options: NearestOptions) -> NearestReport:
    """Put an index into the release of `fitted` in `folder`, where it pays and finds what it should.

    Half of the held-out histories that are asked about shape the lists, the others measure recall; effort is the
    smallest that reaches `options.recall`. Where there is no index the folder stays as it is, and the report says why.
    The same release and holdout give the same bytes, on one kind of machine.
    """
    began = time.process_time()
    vocabulary = fitted.vocabulary
    offered = len(vocabulary) - len(vocabulary.withdrawn)
    if offered < options.above:
        return NearestReport(False, f"{offered:,} items; an index pays from {options.above:,} on ([release] ann_above)")
    questions = questions_of(fitted, holdout, seed=options.seed)
    count = len(questions.row_BL)
    if count < 2 * _LEAST_QUESTIONS:
        return NearestReport(
            False, f"{count} held-out histories; recall needs {2 * _LEAST_QUESTIONS} to be measured; ingest more events"
        )
    model = onnx.load(folder / MODEL)
    scoring = scoring_of(model)
    if scoring is None:
        return NearestReport(False, "the graph's scores are not an inner product with a float32 table; all are scored")
    table_VD, bias_V = initializer(model, scoring.table), initializer(model, scoring.bias)
    item_V = np.setdiff1d(np.arange(1, len(vocabulary) + 1), vocabulary.withdrawn)
    state_QD = _states(encoder_of(model), questions)
    shape, judge = np.arange(0, count, 2), np.arange(1, count, 2)
    catalogue = _Catalogue(table_VD, bias_V, item_V)
    index = build_index(catalogue.vectors(), item_V, state_QD[shape], seed=options.seed)
    exact = catalogue.best(state_QD[judge], questions.row_BL[judge], n=options.best)

    def found(effort: int) -> np.ndarray:
        index.nprobe = effort
        return catalogue.recall(index, state_QD[judge], questions.row_BL[judge], exact, n=options.best)

    most = max(1, math.ceil(index.nlist * _MOST_EFFORT))
    effort = least(lambda effort: bool(_low(found(effort)) >= options.recall), most=most)
    if effort is None:
        return NearestReport(
            False,
            f"recall@{options.best} is {found(most).mean():.4f} on {most} of {index.nlist} lists, and [release] "
            f"ann_recall = {options.recall} is wanted with 95 % confidence; all items are scored",
        )
    recall_Q = found(effort)
    save_both(model, folder)
    _check(folder, questions, catalogue)
    faiss.write_index(index, str(folder / INDEX))
    layout = {
        "format": FORMAT,
        "library": "faiss",
        "version": faiss.__version__,
        "lists": index.nlist,
        "effort": effort,
        "best": options.best,
        "spare": SPARE,
        "width": table_VD.shape[1],
        "dimensions": index.d,
        "items": int(index.ntotal),
        "table": scoring.table,
        "bias": scoring.bias,
    }
    (folder / LAYOUT).write_text(json.dumps(layout, separators=(",", ":")), encoding="ascii")
    return NearestReport(
        built=True,
        library=f"faiss {faiss.__version__}",
        lists=index.nlist,
        effort=effort,
        best=options.best,
        recall=float(recall_Q.mean()),
        recall_low=_low(recall_Q),
        questions=len(judge),
        bytes=(folder / INDEX).stat().st_size,
        seconds=time.process_time() - began,
    )


def questions_of(fitted: Fitted, holdout: Holdout, *, seed: int) -> Inputs:
    """Histories as they stood at held-out events, of at most 1,024 of those."""
    drawn = np.random.default_rng(seed).permutation(len(holdout))[:_QUESTIONS]
    return Visible(RankerRecommender.of(fitted), holdout).padded(np.sort(drawn))


def least(holds: Callable[[int], bool], *, most: int) -> int | None:
    """The smallest whole number from 1 to `most` that holds, of a condition that goes on holding; None: none does."""
    high = 1
    while not holds(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _low(recall_Q: np.ndarray) -> float:
    return float(recall_Q.mean() - _SURE * recall_Q.std() / math.sqrt(len(recall_Q)))


@dataclass(frozen=True)
class _Catalogue:
    """Rows of the vocabulary, row 0 padding's, and which of them may be recommended."""

    table_VD: np.ndarray
    bias_V: np.ndarray
    item_V: np.ndarray

    def vectors(self) -> np.ndarray:
        """[vector, bias, 0, …] of the items on offer."""
        width = self.table_VD.shape[1] + 1
        vector_VP = np.zeros((len(self.item_V), padded(width)), np.float32)
        vector_VP[:, : width - 1] = self.table_VD[self.item_V]
        vector_VP[:, width - 1] = self.bias_V[self.item_V]
        return vector_VP

    def best(self, state_QD: np.ndarray, seen_QL: np.ndarray, *, n: int) -> list[np.ndarray]:
        """Rows of the exact best, seen ones left out."""
        withdrawn = np.setdiff1d(np.arange(len(self.table_VD)), self.item_V)
        found = []
        for at in range(0, len(state_QD), 32):
            score_BV = state_QD[at : at + 32] @ self.table_VD.T + self.bias_V
            score_BV[:, withdrawn] = -np.inf
            np.put_along_axis(score_BV, seen_QL[at : at + 32], -np.inf, axis=1)
            first = min(n, score_BV.shape[1])
            best_BK = np.argpartition(-score_BV, first - 1, axis=1)[:, :first]
            found += [best_K[np.isfinite(score_V[best_K])] for best_K, score_V in zip(best_BK, score_BV, strict=True)]
        return found

    def recall(
        self, index: Any, state_QD: np.ndarray, seen_QL: np.ndarray, exact: list[np.ndarray], *, n: int
    ) -> np.ndarray:
        """[Q] share of the exact best that a search finds, as serving searches: fetched, without seen ones, scored."""
        recall_Q = np.ones(len(state_QD))
        question_QP = np.zeros((len(state_QD), index.d), np.float32)
        question_QP[:, : state_QD.shape[1] + 1] = asked(state_QD)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        seen = [np.unique(seen_L[seen_L > 0]) for seen_L in seen_QL]
        for place, (best, known) in enumerate(zip(exact, seen, strict=True)):
            fetched = n + math.ceil(n * SPARE) + len(known)
            row_F = index.search(question_QP[place : place + 1], fetched)[1][0]
            row_F = np.setdiff1d(row_F[row_F > 0], known)
            score_F = self.table_VD[row_F] @ state_QD[place] + self.bias_V[row_F]
            chosen = row_F[np.argsort(-score_F, kind="stable")[:n]]
            if len(best):
                recall_Q[place] = len(np.intersect1d(chosen, best)) / len(best)
        faiss.omp_set_num_threads(threads)
        return recall_Q


def _feed(questions: Inputs, rows: slice) -> dict[str, np.ndarray]:
    names = history_inputs(["attributes"] if questions.attribute_BLA.shape[2] else [])
    return {name: array[rows] for name, array in zip(names, questions.arrays(), strict=True)}


def _states(encoder: onnx.ModelProto | Path, questions: Inputs) -> np.ndarray:
    """[Q, D] of an encoder, on the CPU."""
    source = encoder.SerializeToString() if isinstance(encoder, onnx.ModelProto) else str(encoder)
    session = _session(source)
    batches = range(0, len(questions.row_BL), 64)
    return np.concatenate([session.run([STATE], _feed(questions, slice(at, at + 64)))[0] for at in batches])


def _session(source: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _check(folder: Path, questions: Inputs, catalogue: _Catalogue) -> None:
    """That the two graphs as written agree, and the scores of table and bias with theirs."""
    few = slice(0, 4)
    state_QD = _states(folder / ENCODER, Inputs(*(array[few] for array in questions.all())))
    feed = _feed(questions, few) | {
        MASK: np.zeros(len(catalogue.table_VD), np.float32),
        EXCLUDED: np.zeros((len(state_QD), 1), np.int64),
        K: np.ones(1, np.int64),
    }
    _, score_QV = _session(str(folder / MODEL)).run([BEST_ROWS, SCORES], feed)
    ours_QV = state_QD @ catalogue.table_VD.T + catalogue.bias_V
    difference = np.abs(score_QV[:, 1:] - ours_QV[:, 1:]).max()
    assert difference <= _TOLERANCE * max(1.0, np.abs(ours_QV[:, 1:]).max()), difference
