"""An ONNX graph reduced to what it computes, so that equal models have equal bytes wherever they were exported.

A release's graph goes from events to the best items. Shapes: V items of the vocabulary, A attributes, D width.

    items, behaviours, ages   int64 [batch, length]     newest last, left-padded with 0
    attributes                int64 [batch, length, A]  where the network knows any
    excluded                  int64 [batch, excluded]   rows that this answer may not hold; 0 pads
    mask                      float32 [V + 1]           added to all scores: 0, or −∞ for what nobody is shown
    k                         int64 [1]                 how many, at most V + 1

    best_rows, best_scores    int64, float32 [batch, k] best first, ties by row; a score of −∞: nothing was left
    scores                    float32 [batch, V + 1]    by row; row 0 is padding
    state                     float32 [batch, D]        scores = state · table + bias + mask
"""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS = ("items", "behaviours", "ages")
ATTRIBUTES = "attributes"
EXCLUDED, MASK, K = "excluded", "mask", "k"
SCORES, STATE = "scores", "state"
BEST_ROWS, BEST_SCORES = "best_rows", "best_scores"

_AXES = {
    **dict.fromkeys((*INPUTS, ATTRIBUTES), ("batch", "length")),
    EXCLUDED: ("batch", "excluded"),
    **dict.fromkeys((BEST_ROWS, BEST_SCORES), ("batch", "k")),
    **dict.fromkeys((SCORES, STATE), ("batch",)),
}


def history_inputs(attributes: Collection[str]) -> tuple[str, ...]:
    """What tells of the user, in the order of the network's arguments."""
    return (*INPUTS, ATTRIBUTES) if attributes else INPUTS


def inputs_of(attributes: Collection[str]) -> tuple[str, ...]:
    """All of the graph's inputs, in order."""
    return (*history_inputs(attributes), MASK, EXCLUDED, K)


def add_best(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a network that ends in `scores`, with the exclusions and the choice of the best behind it."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["all_scores" if name == SCORES else name for name in node.output]
        node.input[:] = ["all_scores" if name == SCORES else name for name in node.input]
    nothing = numpy_helper.from_array(np.array(-np.inf, np.float32), "nothing")
    graph.initializer.append(nothing)
    graph.node.extend(
        [
            helper.make_node("Shape", [EXCLUDED], ["excluded_shape"]),
            helper.make_node("Expand", ["nothing", "excluded_shape"], ["excluded_scores"]),
            helper.make_node("ScatterElements", ["all_scores", EXCLUDED, "excluded_scores"], [SCORES], axis=1),
            helper.make_node("TopK", [SCORES, K], [BEST_SCORES, BEST_ROWS], axis=1),
        ]
    )
    graph.input.append(helper.make_tensor_value_info(EXCLUDED, TensorProto.INT64, _AXES[EXCLUDED]))
    graph.input.append(helper.make_tensor_value_info(K, TensorProto.INT64, [1]))
    graph.output.insert(0, helper.make_tensor_value_info(BEST_SCORES, TensorProto.FLOAT, _AXES[BEST_SCORES]))
    graph.output.insert(0, helper.make_tensor_value_info(BEST_ROWS, TensorProto.INT64, _AXES[BEST_ROWS]))
    return model


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the exporter's traces: stack traces, doc strings, intermediate shapes, producer, chosen names.

    The exporter writes source paths into node metadata and numbers symbols as it meets them; both would give another
    checkout path or an earlier export in the process another digest. Raises ValueError for functions and subgraphs,
    whose names this does not follow.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    if len(plain.functions) or any(a.HasField("g") or len(a.graphs) for node in graph.node for a in node.attribute):
        raise ValueError("the graph holds functions or subgraphs; the ranker is expected to export without any")
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        plain.ClearField(field)
    graph.name = "ranker"
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    names = {"": ""} | {value.name: value.name for value in [*graph.input, *graph.output]}
    for tensor in graph.initializer:
        names[tensor.name] = tensor.name = f"w{len(names)}"
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for index, node in enumerate(graph.node):
        for name in node.output:
            names.setdefault(name, f"v{len(names)}")
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = f"{node.op_type}_{index}"
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        node.attribute.sort(key=lambda attribute: attribute.name)
    for value in [*graph.input, *graph.output]:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
        for dimension, axis in zip(value.type.tensor_type.shape.dim, _AXES.get(value.name, ()), strict=False):
            dimension.dim_param = axis
    return plain
