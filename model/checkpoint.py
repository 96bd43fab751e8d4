"""A training's own checkpoint: one safetensors file, replaced atomically, read back only by the same training."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "checkpoint.safetensors"
NEVER = -math.inf
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a training stands. `epoch` and `index` name the next batch to take."""

    fingerprint: str
    epoch: int = 0
    index: int = 0
    steps: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = NEVER
    secret: int = 0
    """Of a private training; forgotten with its last step."""

    def after(self, *, index: int, tokens: int, targets: int, seconds: float) -> "Progress":
        """One step on, which took the batches up to `index`."""
        return replace(
            self,
            index=index,
            steps=self.steps + 1,
            tokens=self.tokens + tokens,
            targets=self.targets + targets,
            seconds=seconds,
        )

    def past(self, index: int) -> "Progress":
        """Beyond batches that held nothing to learn from: no step."""
        return replace(self, index=index)

    def next_epoch(self) -> "Progress":
        return replace(self, epoch=self.epoch + 1, index=0)


@dataclass
class Checkpoint:
    """All that a training needs to go on.

    `best`: weights of the best epoch so far, where epochs are judged, and `best_optimizer` its state then.
    """

    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor] = field(default_factory=dict)
    best_optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    """Nats, one a step."""

    def write(self, run: Path) -> None:
        """Under `run`; a kill at any moment leaves the former file or the new one."""
        run.mkdir(parents=True, exist_ok=True)
        parts = {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "best": self.best,
            "best_optimizer": self.best_optimizer,
        }
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        temporary = run / f".{FILE}.{os.getpid()}"
        stated = {"progress": json.dumps(asdict(self.progress)), "losses": json.dumps(self.losses)}
        save_file(tensors, temporary, metadata=stated)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(run / FILE)
        for leftover in run.glob(f".{FILE}.*"):  # of killed processes
            leftover.unlink(missing_ok=True)

    @staticmethod
    def read(run: Path, *, fingerprint: str) -> "Checkpoint | None":
        """None when there is none, or when it belongs to other data or options."""
        try:
            with safe_open(run / FILE, framework="pt") as stored:
                stated = stored.metadata()
                progress = Progress(**json.loads(stated["progress"]))
                if progress.fingerprint != fingerprint:
                    return None
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 -- not a mapping
                losses = [float(loss) for loss in json.loads(stated["losses"])]
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        parts: dict[str, Tensors] = {"weights": {}, "optimizer": {}, "best": {}, "best_optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        return Checkpoint(progress, losses=losses, **parts)
