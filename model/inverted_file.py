"""Items in lists, for a search by inner product that looks through few of them: Faiss' inverted file.

The lists are drawn in the metric of the questions. Assigning x to a centroid c costs (q · (x − c))² of a question's
score, in the mean (x − c)ᵀ E[qqᵀ] (x − c) over the states q of real histories; k-means in the coordinates E[qqᵀ]^½ x
minimises just that. Plain k-means takes a bias for one coordinate among the others, and needs about twice the lists for
the same recall; assigned by inner product, most items come into one list. Source: the idea that quantisation should
lose little of the scores, not of the vectors, of Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector
Quantization, ICML 2020; inverted files and their number of lists: Douze et al., The Faiss library, 2024.

Shapes: V items, D width of vector and state, P = D + 1 rounded up to whole registers, Q questions, C lists.
"""

import math
from typing import Any

import faiss
import numpy as np

_ROUND = 16  # dimensions that one AVX-512 register holds: Faiss compares others one by one
_ROUNDS, _POINTS_PER_LIST = 10, 40
_CHUNK = 65_536


def padded(width: int) -> int:
    return -(-width // _ROUND) * _ROUND


def asked(state_QD: np.ndarray) -> np.ndarray:
    """[Q, D + 1] questions, of which the inner product with [vector, bias] is the score."""
    return np.hstack([state_QD, np.ones((len(state_QD), 1), np.float32)])


def build_index(vector_VP: np.ndarray, item_V: np.ndarray, state_QD: np.ndarray, *, seed: int) -> Any:
    """A Faiss index of the rows `item_V` with these vectors, its lists shaped by the questions' states.

    One thread: sums of floats must not depend on how many cores a machine has, since the bytes go into a digest.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return _build(vector_VP, item_V, state_QD, seed=seed)
    finally:
        faiss.omp_set_num_threads(threads)


def _build(vector_VP: np.ndarray, item_V: np.ndarray, state_QD: np.ndarray, *, seed: int) -> Any:
    width = state_QD.shape[1] + 1
    question_QD = asked(state_QD)
    value, axis = np.linalg.eigh(question_QD.T.astype(np.float64) @ question_QD / len(question_QD))
    root = (axis * np.sqrt(np.maximum(value, value.max() * 1e-6))) @ axis.T
    turned_VD = vector_VP[:, :width] @ root.astype(np.float32)
    lists = min(lists_for(len(item_V)), len(item_V))
    means = faiss.Kmeans(
        width,
        lists,
        niter=_ROUNDS,
        seed=seed,
        max_points_per_centroid=_POINTS_PER_LIST,
        min_points_per_centroid=1,
    )
    means.train(turned_VD)
    nearest_V = means.index.search(turned_VD, 1)[1][:, 0]
    _, list_V = np.unique(nearest_V, return_inverse=True)  # without empty lists
    count_C = np.bincount(list_V)
    centre_CP = np.zeros((len(count_C), vector_VP.shape[1]), np.float32)
    for dimension in range(width):
        centre_CP[:, dimension] = np.bincount(list_V, weights=vector_VP[:, dimension]) / count_C
    centres = faiss.IndexFlatIP(vector_VP.shape[1])
    centres.add(centre_CP)
    index = faiss.IndexIVFScalarQuantizer(
        centres,
        vector_VP.shape[1],
        len(count_C),
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # not the residual from the centre: inner products need none
    )
    index.train(vector_VP)
    for at in range(0, len(item_V), _CHUNK):
        # by our lists, not those whose centre scores best with the vector, which long vectors would draw together
        rows, ids, places = (
            np.ascontiguousarray(each[at : at + _CHUNK], kind)
            for each, kind in ((vector_VP, np.float32), (item_V, np.int64), (list_V, np.int64))
        )
        index.add_core(len(rows), *(faiss.swig_ptr(each) for each in (rows, ids, places)))
    return index


def lists_for(items: int) -> int:
    """A power of two near 5 √V, of Faiss' recommended 4 √V to 16 √V: long enough to be few, short enough to be read."""
    return 1 << max(0, round(math.log2(5 * math.sqrt(items))))
