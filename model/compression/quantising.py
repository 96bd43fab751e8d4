"""The released graph in fewer bits. Made from the canonical float32 graph, and canonical themselves: same graph (and
same calibration), same bytes.

int8: weights of the matrix products and of the tables, one scale an output channel (for the catalogue: an item), as
integers; activations are measured in each request (dynamic) or beforehand on real histories (static). Attention's
softmax, norms and sums stay float32 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018; ONNX Runtime's implementation).

float16: for accelerators. Inputs and outputs keep their types; choosing the best stays float32. A CPU computes it
through float32, which shows how it ranks and not how fast it is.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from model.graph import canonical

_QUANTISED = ["MatMul", "Gather"]
_CATALOGUE, _PRODUCTS = "catalogue", "products"


def dynamic_int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """int8 weights; each request's activations get a scale of their own."""
    from onnxruntime.quantization import quantize_dynamic

    return _through_file(
        _with_products(graph),
        lambda model, file: quantize_dynamic(model, file, op_types_to_quantize=_QUANTISED, per_channel=True),
    )


def static_int8(graph: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    """int8 weights; activations in the ranges that they had for `feeds`, inputs of the graph by name."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._feeds, None)

    return _through_file(
        _with_products(graph),
        lambda model, file: quantize_static(
            model,
            file,
            Reader(),
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # with int8 weights: what processors have instructions for
        ),
    )


def half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """float16 weights and products."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        converted: onnx.ModelProto = convert_float_to_float16(_copied(graph), keep_io_types=True)
    return _canonical(converted)


def _with_products(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which scoring is a plain product with the catalogue and a sum, and not one Gemm of both.

    The Gemm shares its table with the look-up of histories' items, which ONNX Runtime's quantiser would transpose for
    both; and its addend, which holds the mask's −∞, would be quantised.
    """
    model = _copied(graph)
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    for at, node in enumerate(model.graph.node):
        if node.op_type == "Gemm" and node.input[1] in tables:
            state, table, addend = node.input
            turned = np.ascontiguousarray(numpy_helper.to_array(tables[table]).T)
            model.graph.initializer.append(numpy_helper.from_array(turned, _CATALOGUE))
            product = helper.make_node("MatMul", [state, _CATALOGUE], [_PRODUCTS], name=_PRODUCTS)
            summed = helper.make_node("Add", [_PRODUCTS, addend], list(node.output), name="sum")
            model.graph.node.remove(node)
            model.graph.node.insert(at, summed)
            model.graph.node.insert(at, product)
            break
    return model


def _through_file(model: onnx.ModelProto, quantise: Callable[[onnx.ModelProto, Path], Any]) -> onnx.ModelProto:
    """ONNX Runtime's quantisers write files, and change the model that they are given."""
    with tempfile.TemporaryDirectory(prefix="ratchet-quantise-") as name, _quiet():
        file = Path(name) / "quantised.onnx"
        quantise(model, file)
        return _canonical(onnx.load(file))


def _canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converters append nodes where they fall; a graph states them in the order of their use."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel.graph_topological_sort(model.graph, is_deterministic=True)
    return canonical(model)


def _copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice, on the root logger itself, to simplify the graph first: serving does so."""

    def nothing(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(nothing)
    try:
        yield
    finally:
        root.removeFilter(nothing)
