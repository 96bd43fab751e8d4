"""The figure of the offline evaluation that a search is after."""

from collections.abc import Mapping
from dataclasses import dataclass

from model.evaluation import Evaluation
from relations.errors import UsageError

LOWER_IS_BETTER = ("ece", "gini", "miscalibration", "rmse")


@dataclass(frozen=True)
class Metric:
    """`ndcg@10`, or in a slice or of a behaviour `ndcg@10:new_items`."""

    name: str
    part: str
    k: int

    @staticmethod
    def of(stated: str, *, k: int) -> "Metric":
        name, _, part = stated.partition(":")
        _, at, number = name.partition("@")
        if at and not (number.isdigit() and int(number) > 0):
            raise UsageError(f"metric {stated}: what follows @ is a number of items, as in ndcg@{k}")
        return Metric(name, part, int(number) if at else k)

    @property
    def lower_is_better(self) -> bool:
        return self.name in LOWER_IS_BETTER

    def __str__(self) -> str:
        return f"{self.name}:{self.part}" if self.part else self.name

    def value(self, evaluation: Evaluation) -> float:
        """Raises UsageError, with what there is, where the evaluation has no such metric."""
        parts: dict[str, Mapping[str, float]] = {**evaluation.by_behaviour, **evaluation.by_slice}
        if self.part and self.part not in parts:
            known = ", ".join(sorted(parts)) or "none with enough users"
            raise UsageError(f"metric {self}: the validation slice has no part {self.part}; it has: {known}")
        values = parts[self.part] if self.part else evaluation.overall
        if self.name not in values or self.name == "rows":
            known = ", ".join(sorted(set(values) - {"rows"}))
            raise UsageError(f"metric {self}: the offline evaluation has no {self.name}; it has: {known}")
        return float(values[self.name])
