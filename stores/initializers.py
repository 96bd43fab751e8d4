"""Where the weights of an ONNX graph lie in its file, found without the `onnx` package: serving installs small.

Reads the few fields of protobuf's wire format that say so: ModelProto.graph = 7, GraphProto.initializer = 5, and of
TensorProto dims = 1, data_type = 2, name = 8, raw_data = 9, external_data = 13. Source: onnx/onnx.proto of ONNX 1.23.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected

EXTERNAL = "model.onnx.data"
"""The one file beside the graph that a bundle may keep weights in."""

_FLOAT = 1  # TensorProto.DataType
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _NAME, _RAW, _BESIDE = 1, 2, 8, 9, 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Initializer:
    """A float32 weight: `offset` bytes into the graph's file, or into the file beside it."""

    name: str
    shape: tuple[int, ...]
    offset: int
    beside: bool

    @property
    def size(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    def read(self, content: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Its values in `content`, the bytes of the file that holds it; a view, not to be written to."""
        if self.offset + self.size > len(content):
            raise DataRejected(f"initializer {self.name}: ends beyond its file; export the model again")
        count = self.size // 4
        return np.frombuffer(content, dtype="<f4", count=count, offset=self.offset).reshape(self.shape)


def find_initializers(graph: bytes) -> dict[str, Initializer]:
    """The float32 weights of a serialised ModelProto by name. Raises DataRejected for bytes that are no such graph."""
    try:
        graphs = [span for field, span in _fields(graph, 0, len(graph)) if field == _GRAPH]
        tensors = [span for begin, end in graphs for field, span in _fields(graph, begin, end) if field == _INITIALIZER]
        found = [weight for begin, end in tensors if (weight := _weight(graph, begin, end)) is not None]
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise DataRejected(f"not an ONNX graph ({error}); export the model again") from error
    return {weight.name: weight for weight in found}


def _weight(graph: bytes, begin: int, end: int) -> Initializer | None:
    """None for other types, and for values that are not kept as raw bytes: those are constants, not weights."""
    shape: list[int] = []
    name, kind, raw, beside = "", 0, None, {}
    for field, value in _fields(graph, begin, end):
        if field == _DIMS and isinstance(value, int):
            shape.append(value)
        elif field == _DIMS:  # packed
            shape.extend(_varints(graph, *value))
        elif field == _TYPE:
            kind = value
        elif field == _NAME:
            name = graph[slice(*value)].decode()
        elif field == _RAW:
            raw = value
        elif field == _BESIDE:
            entry = {key: graph[slice(*text)].decode() for key, text in _fields(graph, *value)}
            beside[entry[1]] = entry[2]
    if kind != _FLOAT:
        return None
    if beside:
        if beside["location"] != EXTERNAL:
            raise ValueError(f"initializer {name} lies in {beside['location']!r}, not in {EXTERNAL}")
        return Initializer(name, tuple(shape), int(beside.get("offset", "0")), beside=True)
    if raw is None:
        return None
    weight = Initializer(name, tuple(shape), raw[0], beside=False)
    if weight.size != raw[1] - raw[0]:
        raise ValueError(f"initializer {name} has {raw[1] - raw[0]} bytes, and its shape {weight.size}")
    return weight


def _fields(content: bytes, begin: int, end: int) -> Iterator[tuple[int, Any]]:
    """Field numbers with their values: an int, or (begin, end) of what has a length."""
    at = begin
    while at < end:
        tag, at = _varint(content, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield field, value
        elif kind == _BYTES:
            length, at = _varint(content, at)
            if at + length > end:
                raise ValueError(f"field {field} ends beyond its message")
            yield field, (at, at + length)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varints(content: bytes, begin: int, end: int) -> Iterator[int]:
    at = begin
    while at < end:
        value, at = _varint(content, at)
        yield value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
