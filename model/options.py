"""What a person may choose about the network and its training; the same names as in `ratchet.toml`."""

from dataclasses import dataclass
from enum import StrEnum

from relations.errors import UsageError


class Loss(StrEnum):
    FULL = "full"
    SAMPLED = "sampled"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class NetworkOptions:
    width: int = 64
    blocks: int = 2
    heads: int = 2
    max_history: int = 50
    """Events of a user that the network sees."""
    dropout: float = 0.2
    """On the embeddings and on what each half block adds."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"[model] width = {self.width} is not a multiple of heads = {self.heads}")


@dataclass(frozen=True)
class TrainOptions:
    epochs: int = 12
    batch_tokens: int = 3_200
    """Positions in one step, padding included."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    loss: Loss = Loss.FULL
    negatives: int = 512
    """Shared negatives a step, for the sampled softmax."""
    seed: int = 0
    device: Device = Device.AUTO
    threads: int = 0
    """CPU threads; 0 takes half the cores that this process may use, at least one."""
    checkpoint_every_steps: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss(self.loss))
        object.__setattr__(self, "device", Device(self.device))


@dataclass(frozen=True)
class IncrementOptions:
    epochs: int = 3
    learning_rate: float = 1e-3
    replay_share: float = 0.5
    """Share of the positions trained on that come from before the parent's data versions."""
    min_new_events: int = 1
