"""ONNX Runtime's sessions on the verified bytes of a bundle, on the device that was asked for or not at all."""

from collections.abc import Mapping
from typing import Any

from relations.errors import DataRejected, DependencyFailed
from serving.networks.runtime import onnxruntime
from serving.networks.weights import Weights
from stores.bundle import Bundle
from stores.deltas import Floats
from stores.initializers import EXTERNAL

FP32 = "fp32"
"""The released network itself, and no other form of it."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ProviderMissing(DependencyFailed):
    """The device that was asked for is not the one that ONNX Runtime runs on."""


def open_session(
    bundle: Bundle,
    graph: bytes | str,
    *,
    device: str,
    threads: int,
    weights: Weights | None = None,
    beside: Mapping[str, Floats] | None = None,
    packed: bool = True,
) -> Any:
    """`weights`: in place of the file beside the graph; they must outlive the session. Without them `beside` is in
    place of what that file has by these names. `packed`: with a copy of the weights laid out for products, which are
    faster then; a large table needs its memory twice."""
    wanted = _PROVIDERS[device]
    if wanted not in onnxruntime.get_available_providers():
        raise _missing(device, "has no " + wanted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.folder))
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights and isinstance(graph, bytes):
        weights.share(options, graph)
    elif beside:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in beside.values()]
        options.add_external_initializers(list(beside), values)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[wanted])
    except Exception as error:  # ONNX Runtime's own classes have no common base
        raise DataRejected(f"{bundle.folder / 'model.onnx'}: ONNX Runtime refuses it: {error}") from error
    if session.get_providers()[0] != wanted:  # ONNX Runtime falls back silently
        raise _missing(device, f"runs on {session.get_providers()[0]}")
    return session


def graph_of(bundle: Bundle, weights: Weights | None) -> bytes | str:
    """The verified bytes; the path where a graph has its weights in a file beside it that nobody has read."""
    whole = weights is not None or EXTERNAL not in bundle.manifest["files"]
    return bundle.read("model.onnx") if whole else str(bundle.folder / "model.onnx")


def variant_of(bundle: Bundle, variant: str) -> bytes:
    """The verified bytes of another form of the network. Raises DataRejected where the release does not have it."""
    held = bundle.manifest.get("variants", {})
    if variant not in held:
        raise DataRejected(
            f'{bundle.folder}: [serving] variant = "{variant}", and this release has {", ".join([FP32, *held])}; '
            f'release a model with [release] variants = ["{variant}"], whose attestation says why one was not kept, or '
            f'set variant = "{FP32}"'
        )
    return bundle.read(str(held[variant]["file"]))


def _missing(device: str, what: str) -> ProviderMissing:
    return ProviderMissing(
        f'[serving] device = "{device}": ONNX Runtime {what}; install the GPU runtime with its CUDA libraries, '
        'or set device = "cpu"'
    )
