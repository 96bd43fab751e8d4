"""A fitted ranker as the files of a release: ONNX graph, vocabulary, feature spec, and proof that they agree."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from model.fitted import Fitted
from model.graph import (
    ATTRIBUTES,
    BEST_ROWS,
    BEST_SCORES,
    EXCLUDED,
    INPUTS,
    MASK,
    SCORES,
    STATE,
    K,
    add_best,
    canonical,
    history_inputs,
    inputs_of,
)
from model.network.ranker import Ranker, materialised
from model.parity import Parity, Sequence, measure_parity
from model.sequences import BEHAVIOUR_NAMES, Histories

OPSET = 20
SINGLE_FILE_BYTES = 1_500_000_000
"""A larger graph keeps its weights beside it: protobuf ends at 2 GB."""


@dataclass(frozen=True)
class Exported:
    """`files`: path inside the release → file. `describe`: what the manifest says of the content."""

    files: dict[str, Path]
    describe: dict[str, Any]
    parity: Parity


def export_release(
    fitted: Fitted,
    folder: Path,
    *,
    histories: Histories | None = None,
    max_abs: float = 1e-4,
    top10: float = 0.99,
    single_file_bytes: int = SINGLE_FILE_BYTES,
) -> Exported:
    """Write `model.onnx`, `vocabulary.json` and `features.json` into `folder` and measure the parity with torch.

    The same weights and vocabulary give the same bytes. Parity is measured on stretches of `histories` (None:
    random ones) and stated, never raised: `parity.holds` says whether the difference is at most `max_abs` and the
    agreement of the ten best at least `top10`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = fitted.ranker.config
    graph = export_graph(fitted.ranker)
    names = ["model.onnx", "vocabulary.json", "features.json"]
    if graph.ByteSize() <= single_file_bytes:
        (folder / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    else:
        names.append("model.onnx.data")
        (folder / names[-1]).unlink(missing_ok=True)  # the writer would append
        onnx.save_model(
            graph, folder / "model.onnx", save_as_external_data=True, location=names[-1], size_threshold=1024
        )
    fitted.vocabulary.save(folder / "vocabulary.json")
    behaviours = list(BEHAVIOUR_NAMES[: config.behaviours + 1])
    features: dict[str, Any] = {"max_history": config.max_history, "behaviours": behaviours, "padding": 0}
    features["inputs"] = list(inputs_of(config.attributes))
    if fitted.features.attributes:
        features["attributes"] = fitted.features.stated()
    (folder / "features.json").write_text(json.dumps(features, separators=(",", ":")), encoding="utf-8")
    rows = len(fitted.vocabulary) + 1
    events: dict[str, list[Any]] = {name: ["batch", "length"] for name in INPUTS}
    if config.attributes:
        events[ATTRIBUTES] = ["batch", "length", len(config.attributes)]
    describe = {
        "architecture": {
            "type": config.model_type,
            **{name: getattr(config, name) for name in ("block", "width", "blocks", "heads", "max_history")},
        },
        "vocabulary_version": fitted.vocabulary.version,
        "items": len(fitted.vocabulary),
        "inputs": [
            *(_described(name, "int64", shape) for name, shape in events.items()),
            _described(MASK, "float32", [rows]),
            _described(EXCLUDED, "int64", ["batch", "excluded"]),
            _described(K, "int64", [1]),
        ],
        "outputs": [
            _described(BEST_ROWS, "int64", ["batch", "k"]),
            _described(BEST_SCORES, "float32", ["batch", "k"]),
            _described(SCORES, "float32", ["batch", rows]),
            _described(STATE, "float32", ["batch", config.width]),
        ],
        "max_history": config.max_history,
        "behaviours": behaviours,
        "modalities": ["id", *config.modalities],
        "attributes": list(config.attributes),
        "precision": "float32",
    }
    parity = measure_parity(
        fitted.ranker,
        folder / "model.onnx",
        sequences=parity_rows(fitted, histories),
        max_abs=max_abs,
        top10=top10,
    )
    return Exported({name: folder / name for name in names}, describe, parity)


def export_graph(ranker: Ranker) -> onnx.ModelProto:
    """The ranker's canonical ONNX graph, from events to the best items; batch and length are dynamic, 1 included.

    The example input is as small as can be (2 × 3): tracing time hardly depends on the weights, and sizes 0 and 1
    would be fixed into the graph.
    """
    example = torch.ones((2, 3), dtype=torch.int64)
    attributes = ranker.config.attributes
    names = history_inputs(attributes)
    with torch.no_grad(), _quiet():
        plain = materialised(ranker)
        arguments = [example.clone() for _ in INPUTS]
        if attributes:
            arguments.append(torch.ones((*example.shape, len(attributes)), dtype=torch.int64))
        dynamic = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) * len(names)
        program = torch.export.export(
            _Scored(plain),
            (torch.zeros(plain.config.items + 1), *arguments),
            dynamic_shapes=(None, dynamic),
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[MASK, *names],
            output_names=[SCORES, STATE],
            verbose=False,
        )
    assert exported is not None
    network = exported.model_proto
    inputs = {value.name: value for value in network.graph.input}
    del network.graph.input[:]
    network.graph.input.extend(inputs[name] for name in (*names, MASK))
    return canonical(add_best(network))


class _Scored(torch.nn.Module):
    """All scores and the state that they are taken from; column r is row r of the vocabulary."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self._ranker = ranker

    def forward(self, mask_V1: Tensor, *events: Tensor) -> tuple[Tensor, Tensor]:
        state_BD = self._ranker.newest_state(*events)
        table_VD, bias_V = self._ranker.scoring_table()
        return torch.nn.functional.linear(state_BD, table_VD, bias_V + mask_V1), state_BD


def _described(name: str, dtype: str, shape: list[Any]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's deprecation warnings and its remarks on a torchvision that nobody needs."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def parity_rows(fitted: Fitted, histories: Histories | None) -> list[Sequence]:
    """Users' events in vocabulary rows, unknown items left out."""
    if histories is None:
        return []
    row_N = fitted.vocabulary.rows(histories.items)[histories.item_N]
    code_NA = fitted.features.codes(histories)
    sequences = []
    for begin, end in zip(histories.offsets_U1[:-1], histories.offsets_U1[1:], strict=True):
        known = row_N[begin:end] > 0
        if known.any():
            arrays = (row_N, histories.behaviour_N, histories.time_N // 1_000_000, code_NA)
            sequences.append(Sequence(*(array_N[begin:end][known] for array_N in arrays)))
    return sequences
