"""What a person may choose about an increment; the same names as `[increment]` in `ratchet.toml`."""

from dataclasses import dataclass
from enum import StrEnum

from model.optimizers.options import Schedule
from relations.errors import UsageError


class Replay(StrEnum):
    """Which of the past is kept for replay, where the buffer does not hold all of it."""

    RESERVOIR = "reservoir"
    """Any piece of a history as likely as any other."""
    RECENT = "recent"
    """The likelier the newer."""
    EXEMPLARS = "exemplars"
    """A share for each item, by how often it is met."""


class Trained(StrEnum):
    """Which weights an increment may change."""

    ALL = "all"
    ITEMS = "items"
    """The item table and biases alone."""
    LORA = "lora"
    """The item table, biases, and low-rank additions to the blocks, merged at the end."""


@dataclass(frozen=True)
class IncrementOptions:
    epochs: int = 4
    learning_rate: float | None = None
    """At the schedule's peak; None: half of the full training's."""
    schedule: Schedule = Schedule.LINEAR
    """Each increment runs through it anew, without a warm-up."""
    negatives: int | None = None
    """Of the sampled losses, a step; None: half as many again as in the full training, whose steps are more."""
    dropout: float | None = None
    """While it goes on; None: the network's own."""
    line_search: bool = False
    """Try half and twice the learning rate on a few steps first, and take the best."""
    replay_share: float = 0.4
    """Share of the targets trained on that come from before the parent's data versions."""
    replay: Replay = Replay.RECENT
    replay_events: int = 200_000
    """Events that the replay buffer holds."""
    replay_half_life_days: float = 30.0
    """`recent`: a piece this much older is half as likely to be kept."""
    distillation: float = 0.0
    """Weight of staying near the champion's answers; 0: off."""
    distillation_temperature: float = 1.0
    ewc: float = 0.0
    """Weight of staying near the parent's weights, each by its Fisher information; 0: off."""
    trained: Trained = Trained.ALL
    lora_rank: int = 8
    min_new_events: int = 1

    def __post_init__(self) -> None:
        for name, kind in (("schedule", Schedule), ("replay", Replay), ("trained", Trained)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        if not 0 <= self.replay_share < 1:
            raise UsageError(f"[increment] replay_share = {self.replay_share} is not in [0, 1)")
