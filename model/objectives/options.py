"""What a person may choose about the loss beyond the plain next item; the same names as in `ratchet.toml`."""

from dataclasses import dataclass, field, fields
from enum import StrEnum

from model.objectives.rating import RatingLoss
from model.sequences import BEHAVIOUR_NAMES
from relations.errors import UsageError

SHARES = (
    "gbce_calibration",
    "behaviour_untold",
    "self_supervised",
    "masked_share",
    "crop_share",
    "view_mask_share",
    "reorder_share",
    "robust_share",
)
"""Between 0 and 1."""


class TaskWeighting(StrEnum):
    FIXED = "fixed"
    UNCERTAINTY = "uncertainty"
    """Learned; the stated weights are where they start."""


class Robust(StrEnum):
    NONE = "none"
    SOFTEN = "soften"
    """Targets weigh p^robust_power: generalised cross-entropy."""
    TRUNCATE = "truncate"
    """The robust_share of a step's targets with the largest loss weigh nothing."""


@dataclass(frozen=True)
class ObjectiveOptions:
    """The defaults are the plain next item, and cost nothing."""

    gbce_calibration: float = 0.75
    """t of gBCE: 0 is plain binary cross-entropy, 1 gives calibrated probabilities."""
    behaviour_weights: dict[str, float] = field(default_factory=dict)
    """λ of each target's behaviour; those not named weigh 1."""
    behaviour_queries: bool = False
    """Ask the state for the target's behaviour, by a learned vector for each."""
    behaviour_untold: float = 0.5
    """Share of the targets that are told without naming their behaviour, so that the plain state stays an answer."""
    behaviour_tasks: bool = False
    """Each behaviour's next item is a task of its own, so that rare behaviours weigh as much as frequent ones."""
    rating_weight: float = 0.0
    """λ of predicting the target's value (a rating, a time), in squared standard deviations; 0: off."""
    rating_loss: RatingLoss = RatingLoss.MSE
    rating_behaviour: str = "rating"
    """Whose events' values are predicted; those of another behaviour have another unit."""
    task_weighting: TaskWeighting = TaskWeighting.FIXED
    self_supervised: float = 0.0
    """α of α·L_self-supervised + (1 − α)·L_supervised; 0: off."""
    masked_weight: float = 1.0
    """λ of masked items within L_self-supervised."""
    masked_share: float = 0.2
    """Share of the positions that are hidden."""
    masked_causal: bool = False
    """Hidden items are told from what stands before them alone, not from both sides."""
    masked_text_weight: float = 0.0
    """λ of predicting the hidden item's text vector, within L_self-supervised."""
    masked_text_temperature: float = 0.1
    """Of its InfoNCE; 0: one minus the cosine instead."""
    contrastive_weight: float = 0.1
    """λ of two views of a history being alike, within L_self-supervised."""
    contrastive_temperature: float = 0.5
    crop_share: float = 0.6
    """Of a history's positions: what a cropped view keeps."""
    view_mask_share: float = 0.3
    """What a masked view hides."""
    reorder_share: float = 0.6
    """What a reordered view shuffles."""
    adversarial_epsilon: float = 0.0
    """Length by which a window's item vectors are moved against the loss; 0: off. Doubles the price of a step."""
    adversarial_weight: float = 1.0
    """λ of the loss under that move."""
    robust: Robust = Robust.NONE
    robust_power: float = 0.1
    robust_share: float = 0.05
    bot_threshold: float = 0.0
    """Users whose rate or repetition lies more than this many robust deviations above the median weigh less; 0: off."""

    def __post_init__(self) -> None:
        """Raises UsageError for what no objective can be made of, with the key and the remedy."""
        for name, kind in (("rating_loss", RatingLoss), ("task_weighting", TaskWeighting), ("robust", Robust)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        for named in fields(self):
            value = getattr(self, named.name)
            if isinstance(value, float) and not value >= 0:
                raise UsageError(f"[objective] {named.name} = {value} is below 0")
        for name in SHARES:
            if getattr(self, name) > 1:
                raise UsageError(f"[objective] {name} = {getattr(self, name)} is above 1")
        for name in (*self.behaviour_weights, self.rating_behaviour):
            if name not in BEHAVIOUR_NAMES[1:]:
                known = ", ".join(BEHAVIOUR_NAMES[1:])
                raise UsageError(f"[objective] {name!r} is not a behaviour; known: {known}")
        for name, weight in self.behaviour_weights.items():
            if not weight >= 0:
                raise UsageError(f"[objective.behaviour_weights] {name} = {weight} is below 0")
        if self.self_supervised and not (self.masked_weight or self.masked_text_weight or self.contrastive_weight):
            raise UsageError(
                f"[objective] self_supervised = {self.self_supervised}, but masked_weight, masked_text_weight and "
                "contrastive_weight are all 0; give one of them a weight"
            )
        if self.contrastive_weight and not self.contrastive_temperature:
            raise UsageError("[objective] contrastive_temperature = 0; give it a value such as 0.5")
