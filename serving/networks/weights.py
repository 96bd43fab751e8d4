"""The weights beside a release's graphs, in memory once for all of its sessions.

ONNX Runtime would map or copy the file for each session. It is given the verified bytes instead, so that what serves is
what was verified, whatever becomes of the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected
from serving.networks.runtime import onnxruntime
from stores.bundle import Bundle
from stores.deltas import Floats
from stores.initializers import EXTERNAL, find_initializers

_ALIGNED = 64  # bytes; the processor reads across two cache lines otherwise


@dataclass(frozen=True, eq=False)
class Weights:
    """By the names of initializers. Sessions point into these, so it must live as long as they do."""

    arrays: Mapping[str, Floats]
    _values: Mapping[str, Any]

    @staticmethod
    def read(bundle: Bundle) -> "Weights":
        """What lies beside the bundle's `model.onnx`. Raises DataRejected for bytes that are not what was verified."""
        places = find_initializers(bundle.read("model.onnx"))
        content = _aligned(bundle.read(EXTERNAL))
        try:
            return Weights.of({name: place.read(content) for name, place in places.items() if place.beside})
        except DataRejected as error:
            raise DataRejected(f"{bundle.folder}: {error}") from error

    @staticmethod
    def of(arrays: Mapping[str, Floats]) -> "Weights":
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        return Weights(arrays, values)

    def replaced(self, changed: Mapping[str, Floats]) -> "Weights":
        """With others in the places of some; these stay as they are."""
        return Weights.of({**self.arrays, **changed})

    def share(self, options: Any, graph: bytes) -> None:
        """Have a session of `graph` read these in the place of its file."""
        for name, place in find_initializers(graph).items():
            if place.beside:
                options.add_initializer(name, self._values[name])


def _aligned(content: bytes) -> npt.NDArray[np.uint8]:
    room = np.empty(len(content) + _ALIGNED, np.uint8)
    begin = -room.ctypes.data % _ALIGNED
    whole = room[begin : begin + len(content)]
    whole[:] = np.frombuffer(content, np.uint8)
    return whole
