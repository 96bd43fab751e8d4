"""A release's graph under ONNX Runtime, for those who judge it: what it scores, and how long it takes.

Shapes: B rows, L positions, V items, A attributes.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.features import PLAIN, FeatureSpec
from model.graph import BEST_ROWS, BEST_SCORES, EXCLUDED, MASK, SCORES, K, history_inputs
from model.inputs import Inputs
from model.runtime import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TURNS = 41
"""Runs of each graph that a median is of, unless they take too long."""
LEAST_TURNS = 7


def open_session(graph: bytes, *, device: str = "cpu") -> Any:
    """A session of one thread. ONNX Runtime falls back silently: ask its `get_providers()[0]` what runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = PROVIDERS[device] if PROVIDERS[device] in onnxruntime.get_available_providers() else PROVIDERS["cpu"]
    return onnxruntime.InferenceSession(graph, options, providers=[wanted])


def feed_of(inputs: Inputs, *, items: int, k: int, excluded_BE: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The graph's inputs for `inputs`, with nothing masked but padding; `excluded_BE`: rows, 0 pads."""
    attributes = range(inputs.attribute_BLA.shape[2])
    mask_V1 = np.zeros(items + 1, dtype=np.float32)
    mask_V1[0] = -np.inf
    named = dict(zip(history_inputs([str(at) for at in attributes]), inputs.arrays(), strict=True))
    none = np.zeros((len(inputs.row_BL), 1), dtype=np.int64)
    return named | {MASK: mask_V1, EXCLUDED: none if excluded_BE is None else excluded_BE, K: np.array([k], np.int64)}


class GraphRecommender:
    """A graph as a recommender of `items`, those of its rows."""

    def __init__(self, session: Any, items: Sequence[str], *, max_history: int, features: FeatureSpec = PLAIN) -> None:
        self._session = session
        self.items = items
        self.max_history = max_history
        self.features = features

    def scores(self, inputs: Inputs) -> np.ndarray:
        found: np.ndarray = self._session.run([SCORES], feed_of(inputs, items=len(self.items), k=1))[0]
        return found[:, 1:]


def medians_in_turns(
    sessions: Sequence[Any], feed: Mapping[str, np.ndarray], *, seconds: float = 4.0
) -> tuple[float, ...]:
    """Milliseconds of choosing the best, the median of each session's runs: one run of each in turn, the order
    reversed every time, so that what else the machine does meets all of them alike.

    At most 41 runs of each, fewer once they have taken `seconds` together, at least 7.
    """
    took: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run([BEST_ROWS, BEST_SCORES], feed)
    began = time.perf_counter()
    for turn in range(TURNS):
        if turn >= LEAST_TURNS and time.perf_counter() - began > seconds:
            break
        for at in range(len(sessions)) if turn % 2 else reversed(range(len(sessions))):
            start = time.perf_counter()
            sessions[at].run([BEST_ROWS, BEST_SCORES], feed)
            took[at].append(1e3 * (time.perf_counter() - start))
    return tuple(float(np.median(each)) for each in took)
