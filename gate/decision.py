"""What a look decides. Pure: the same config and looks give the same decision, down to the last bit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gate.comparison import Comparison, compare
from gate.looks import LookSums, check_looks
from gate.trial import TrialConfig
from gate.verdict import Verdict


@dataclass(frozen=True)
class Judgement:
    """What a look decides on a trial. `leading`: the comparison that the verdict is about, the best of those not yet
    rejected. `out`: challengers that are rejected, by this look or an earlier one: nobody meets them any more."""

    verdict: Verdict
    reasons: tuple[str, ...]
    leading: Comparison
    comparisons: tuple[Comparison, ...]
    out: tuple[str, ...]
    sums: LookSums

    def as_json(self) -> dict[str, Any]:
        """Plain JSON with the sums of each arm and day, from which the decision can be made again."""
        several = {each.challenger: each.as_json() for each in self.comparisons} if len(self.comparisons) > 1 else {}
        return {
            **self.leading.as_json(),
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "comparisons": several,
            "out": list(self.out),
            "sums": self.sums.as_json(),
        }


def decide(config: TrialConfig, looks: Sequence[LookSums]) -> Judgement:
    """Judge the newest of `looks`, all the looks of the comparison so far, oldest first.

    With several challengers each meets the champion by itself, at α/K: the first to pass is promoted (the better one
    where two pass at once), one that is proven to harm goes, and the trial ends when none is left.
    Raises UsageError for looks out of order or without a metric of the config.
    """
    names = [config.primary.name, *(metric.name for metric in config.guardrails)]
    check_looks(looks, metrics=names, slices=[part.name for part in config.slices])
    already = looks[-1].out
    judged = tuple(compare(config, looks, each.name) for each in config.challengers if each.name not in already)
    verdict = _overall([each.verdict for each in judged], any_out=bool(already))
    rejected = {each.challenger for each in judged if each.verdict is Verdict.REJECT}
    leading = _leading(judged or tuple(compare(config, looks, each.name) for each in config.challengers), verdict)
    return Judgement(
        verdict=verdict,
        reasons=_reasons(config, judged, leading, already),
        leading=leading,
        comparisons=judged,
        out=tuple(each.name for each in config.challengers if each.name in (*already, *rejected)),
        sums=looks[-1],
    )


def _overall(verdicts: Sequence[Verdict], *, any_out: bool) -> Verdict:
    """One verdict from those of the challengers that are still in."""
    for verdict in (Verdict.PROMOTE, Verdict.HOLD, Verdict.CONTINUE):
        if verdict in verdicts:
            return verdict
    harmless = Verdict.INCONCLUSIVE in verdicts
    return Verdict.INCONCLUSIVE if harmless or not (verdicts or any_out) else Verdict.REJECT


def _leading(judged: Sequence[Comparison], verdict: Verdict) -> Comparison:
    same = [each for each in judged if each.verdict is verdict] or list(judged)
    return max(same, key=lambda each: float("-inf") if each.estimate is None else each.estimate)


def _reasons(
    config: TrialConfig, judged: Sequence[Comparison], leading: Comparison, already: tuple[str, ...]
) -> tuple[str, ...]:
    if len(config.challengers) == 1:
        return leading.reasons
    known = {each.name: f"{each.name} (v{each.version})" for each in config.challengers}
    others = [f"{known[each.challenger]}: {each.verdict}: {each.reasons[0]}" for each in judged if each is not leading]
    gone = [f"{known[name]}: rejected by an earlier look" for name in already]
    first, *more = leading.reasons
    return (f"{known[leading.challenger]}: {first}", *more, *others, *gone)
