"""A release's graph and its first half, events → state, as two files over one set of weights.

ONNX Runtime runs a whole graph whatever is asked of it, so a search that needs the state alone needs a graph that ends
there. `model.onnx` and `encoder.onnx` then keep all float32 weights in `model.onnx.data`: none is stored twice, and who
serves both may open them over the same memory.

Shapes: V items, D width; row 0 of table and bias is padding's.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.graph import ATTRIBUTES, INPUTS, MASK, SCORES, STATE
from model.runtime import onnxruntime

MODEL, ENCODER, WEIGHTS = "model.onnx", "encoder.onnx", "model.onnx.data"
_ALIGNED = 64  # bytes: a cache line, and the widest vector register


@dataclass(frozen=True)
class Scoring:
    """The initializers that scores are taken with: scores = state · tableᵀ + bias + mask."""

    table: str
    bias: str


def scoring_of(model: onnx.ModelProto) -> Scoring | None:
    """None where the graph's scores come about otherwise, those of quantised weights, say.

    A table that is computed from other weights (a cosine's) is computed here, once, and put into `model`.
    """
    maker = {output: node for node in model.graph.node for output in node.output}
    scatter = maker.get(SCORES)
    product = maker.get(scatter.input[0]) if scatter is not None and scatter.op_type == "ScatterElements" else scatter
    if product is None or product.op_type != "Gemm" or len(product.input) != 3 or product.input[0] != STATE:
        return None
    plain = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    stated = plain | {each.name: helper.get_attribute_value(each) for each in product.attribute}
    if stated != plain | {"transB": 1}:
        return None
    total = maker.get(product.input[2])
    if total is None or total.op_type != "Add" or MASK not in total.input:
        return None
    bias = total.input[1] if total.input[0] == MASK else total.input[0]
    table = product.input[1]
    if table in maker and not _fold(model, table):
        return None
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return Scoring(table, bias) if kinds.get(table) == kinds.get(bias) == TensorProto.FLOAT else None


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return np.asarray(numpy_helper.to_array(tensor))


def encoder_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of the graph that the state follows from, names and weights as they are.

    It takes all that tells of the user, also what this network does not look at.
    """
    return _leading_to(model, STATE, inputs={*INPUTS, ATTRIBUTES})


def save_both(model: onnx.ModelProto, folder: Path) -> None:
    """Write `model.onnx`, `encoder.onnx` and their weights into `folder`. The same model gives the same bytes.

    Scalars and integers stay in the graphs: they are part of what is computed, not learnt.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    at = 0
    with (folder / WEIGHTS).open("wb") as file:
        for tensor in whole.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or not len(tensor.dims):
                continue
            content = np.ascontiguousarray(numpy_helper.to_array(tensor), "<f4").tobytes()
            file.write(bytes(-at % _ALIGNED))
            at += -at % _ALIGNED
            file.write(content)
            for field in ("raw_data", "float_data", "external_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", at), ("length", len(content))):
                tensor.external_data.add(key=key, value=str(value))
            at += len(content)
    for name, graph in ((MODEL, whole), (ENCODER, encoder_of(whole))):
        (folder / name).write_bytes(graph.SerializeToString(deterministic=True))


def _leading_to(model: onnx.ModelProto, output: str, *, inputs: Collection[str] = ()) -> onnx.ModelProto:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    wanted, nodes = {output}, []
    for node in reversed(graph.node):  # in topological order, so one pass finds all
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
    kept = {
        "node": list(reversed(nodes)),
        "initializer": [each for each in graph.initializer if each.name in wanted],
        "input": [each for each in graph.input if each.name in wanted or each.name in inputs],
        "output": [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    }
    kept["output"] = [each for each in graph.output if each.name == output] or kept["output"]
    for field, values in kept.items():
        copies = [type(each).FromString(each.SerializeToString()) for each in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    return part


def _fold(model: onnx.ModelProto, name: str) -> bool:
    """Put the value of `name` in the place of the nodes that compute it, where no input takes part in it."""
    part = _leading_to(model, name)
    if len(part.graph.input):
        return False
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    value = session.run([name], {})[0]
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(value, name))
    nodes = [node for node in graph.node if name not in node.output]
    while True:  # what only led there has no reader left
        read = {each for node in nodes for each in node.input} | {each.name for each in graph.output}
        left = [node for node in nodes if read & set(node.output)]
        if len(left) == len(nodes):
            break
        nodes = left
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
    weights = [each for each in graph.initializer if each.name in read]
    graph.ClearField("initializer")
    graph.initializer.extend(onnx.TensorProto.FromString(each.SerializeToString()) for each in weights)
    return True
