"""What a person may choose about the network and its training; the same names as in `ratchet.toml`."""

from dataclasses import dataclass
from enum import StrEnum

from model.optimizers.options import OptimizerOptions
from relations.errors import UsageError


class Loss(StrEnum):
    FULL = "full"
    SAMPLED = "sampled"
    GBCE = "gbce"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    AUTO = "auto"
    """bfloat16 where the processor multiplies it natively."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class NetworkOptions:
    width: int = 64
    blocks: int = 2
    heads: int = 2
    max_history: int = 50
    """Events of a user that the network sees."""
    dropout: float = 0.2
    """On the embeddings and on what each half block adds."""
    block: str = "softmax"
    """softmax: attention and a feed-forward layer; hstu: pointwise attention with a gate."""
    feed: int = 4
    """The feed-forward layer's width, in widths."""
    absolute_positions: bool = True
    relative_positions: bool = True
    relative_times: bool = True
    """Attention knows how old an event is at the request."""
    temperature: float = 0.0
    """Above 0: logits are cosines over this; 0: inner products."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"[model] width = {self.width} is not a multiple of heads = {self.heads}")


@dataclass(frozen=True)
class TrainOptions(OptimizerOptions):
    epochs: int = 12
    batch_tokens: int = 3_200
    """Positions in one batch, padding included."""
    loss: Loss = Loss.FULL
    negatives: int = 512
    """Shared negatives a step, for the sampled losses."""
    label_smoothing: float = 0.0
    """Of the full softmax."""
    patience: int = 0
    """Epochs without a better NDCG@10 on the newest tenth of the training's events before it stops; 0: never."""
    small_events: int = 10_000
    """With fewer events a full training tries on held-out users how long to train and how far to trust the network
    against popularity (`model.small_data`); 0: never."""
    seed: int = 0
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    threads: int = 0
    """CPU threads; 0 takes half the cores that this process may use, at least one."""
    checkpoint_every_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("loss", Loss), ("device", Device), ("precision", Precision)):
            object.__setattr__(self, name, kind(getattr(self, name)))
