"""A training's own checkpoint: one safetensors file, replaced atomically, read back only by the same training."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `epoch` and `index` name the next step to take."""

    fingerprint: str
    epoch: int
    index: int
    steps: int
    tokens: int
    seconds: float
    losses: tuple[tuple[int, float], ...]


def write_checkpoint(
    run: Path, *, progress: Progress, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor]
) -> None:
    """Weights and optimiser tensors under `run`; a kill at any moment leaves the former file or the new one."""
    run.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights/{name}": tensor.cpu().contiguous() for name, tensor in weights.items()}
    tensors |= {f"optimizer/{name}": tensor.cpu().contiguous() for name, tensor in optimizer.items()}
    temporary = run / f".{FILE}.{os.getpid()}"
    save_file(tensors, temporary, metadata={"progress": json.dumps(progress.__dict__)})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(run / FILE)
    for leftover in run.glob(f".{FILE}.*"):  # of killed processes
        leftover.unlink(missing_ok=True)


def read_checkpoint(
    run: Path, *, fingerprint: str
) -> tuple[Progress, dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """Progress, weights and optimiser; None when there is none, or when it belongs to other data or options."""
    try:
        with safe_open(run / FILE, framework="pt") as stored:
            stated = json.loads(stored.metadata()["progress"])
            if stated["fingerprint"] != fingerprint:
                return None
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 -- not a mapping
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None
    losses = tuple((int(step), float(loss)) for step, loss in stated.pop("losses"))
    weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    optimizer = {name.removeprefix("optimizer/"): t for name, t in tensors.items() if name.startswith("optimizer/")}
    return Progress(**stated, losses=losses), weights, optimizer
