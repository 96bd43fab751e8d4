"""An ONNX graph reduced to what it computes, so that equal models have equal bytes wherever they were exported."""

from collections.abc import Collection

import onnx

INPUTS = ("items", "behaviours", "ages")
ATTRIBUTES = "attributes"
"""[batch, length, A], where the network knows any."""
OUTPUT = "scores"


def inputs_of(attributes: Collection[str]) -> tuple[str, ...]:
    """The graph's inputs, in the order of the network's arguments."""
    return (*INPUTS, ATTRIBUTES) if attributes else INPUTS


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
        dimensions = value.type.tensor_type.shape.dim
        dimensions[0].dim_param = "batch"
        if value.name != OUTPUT:
            dimensions[1].dim_param = "length"
    return plain
