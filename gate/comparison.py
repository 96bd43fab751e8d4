"""One challenger against the champion at one look: the verdict with every number behind it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import ndtr

from gate.boundaries import Boundary
from gate.confidence import one_sided_width, tuned_rho, two_sided_width
from gate.estimator import ArmSums, Estimate, estimable, estimate
from gate.guardrails import Guardrail, SliceResult, judge_guardrail, judge_slice
from gate.looks import LookSums
from gate.mismatch import mismatch_p
from gate.outlook import outlook
from gate.schedule import Schedule, arms, ending, is_early, matured
from gate.trial import CHAMPION, TrialConfig, finite
from gate.verdict import Interval, Look, Numbers, Verdict, weigh


@dataclass(frozen=True)
class Comparison:
    """What a look says of one challenger. None: not known yet.

    `estimate` is Δ (outcomes per impression, CUPED-adjusted), `lift` is Δ over the champion's rate. `interval` and
    `lift_interval` (Fieller) are the repeated confidence intervals at this look's boundary, α each side. Where the look
    does not test, they equal the always-valid ones, `sequence` and `lift_sequence`, which hold at all times at once
    with probability 1 − 2α. `p_value` is the one-sided p of this look alone: compare it with 1 − Φ(boundary), never
    with α. `information` is matured users over n_max, at most 1; `spent` the α spent up to and with this look;
    `variance_reduction` CUPED's, at most 1. Pairs are (champion, challenger). `outlook`: what would change the verdict.
    """

    challenger: str
    verdict: Verdict
    reasons: tuple[str, ...]
    outlook: tuple[str, ...]
    trial_id: str
    config_hash: str
    look: int
    final: bool
    tested: bool
    matured: tuple[int, int]
    exposed: tuple[int, int]
    crossed: int
    bots: tuple[int, int]
    late: tuple[int, int]
    information: float
    spent: float
    boundary: float | None
    z: float | None
    p_value: float | None
    champion_rate: float | None
    challenger_rate: float | None
    estimate: float | None
    standard_error: float | None
    variance_reduction: float | None
    interval: Interval | None
    lift: float | None
    lift_interval: Interval | None
    sequence: Interval | None
    lift_sequence: Interval | None
    srm_p: float
    srm_p_matured: float
    bots_p: float
    guardrails: tuple[Guardrail, ...]
    slices: tuple[SliceResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without the sums: those are the look's, shared by all comparisons."""
        return {name: _plain(value) for name, value in vars(self).items()}


def compare(config: TrialConfig, looks: Sequence[LookSums], challenger: str) -> Comparison:
    """Once α is all spent, at n_max or the deadline, a later look can confirm a promotion but never make one."""
    end = ending(config, looks, challenger)
    found = _judge(config, looks, challenger, end=end)
    if end is not None and end < len(looks) - 1 and found.verdict is Verdict.PROMOTE:
        last = _judge(config, looks[: end + 1], challenger, end=end)
        if last.verdict is not Verdict.PROMOTE:
            reason = f"look {last.look} spent the last α and said {last.verdict}; no later look can promote"
            return replace(found, verdict=Verdict.INCONCLUSIVE, reasons=(reason, *found.reasons))
    return found


def _judge(config: TrialConfig, looks: Sequence[LookSums], challenger: str, *, end: int | None) -> Comparison:
    sums = looks[-1]
    schedule = Schedule.of(config, looks, challenger, end=end)
    boundary = schedule.boundary(len(looks) - 1 if end is None else end)
    split, pair = config.pair(challenger), (CHAMPION, challenger)

    def mismatch(counts: Sequence[tuple[int, int]]) -> float:
        return mismatch_p(counts, expected=split)

    numbers = _numbers(config, *arms(config, sums, challenger), boundary=boundary)
    look = Look(
        config=config,
        sums=sums,
        challenger=challenger,
        matured=matured(config, sums, challenger),
        exposed=_counts(sums.exposed, pair),
        bots=_counts(sums.bots, pair),
        before=matured(config, looks[-2], challenger) if len(looks) > 1 else None,
        early=is_early(config, sums),
        final=end is not None,
        numbers=numbers,
        guardrails=_guardrails(config, sums, challenger, boundary=boundary) if numbers else (),
        slices=_slices(config, sums, challenger, boundary=boundary) if numbers else (),
        srm_p=mismatch([_counts(each.exposed, pair) for each in looks]),
        srm_p_matured=mismatch([matured(config, each, challenger) for each in looks]),
        bots_p=mismatch([_counts(each.bots, pair) for each in looks]),
    )
    verdict, reasons = weigh(look)
    found = numbers.found if numbers else None
    return Comparison(
        challenger=challenger,
        verdict=verdict,
        reasons=reasons,
        outlook=outlook(look, verdict),
        trial_id=config.trial_id,
        config_hash=config.digest(),
        look=len(looks),
        final=look.final,
        tested=boundary is not None,
        matured=look.matured,
        exposed=look.exposed,
        crossed=sums.crossed,
        bots=look.bots,
        late=_counts(sums.late, pair),
        information=min(1.0, sum(look.matured) / config.n_max),
        spent=schedule.spent,
        boundary=boundary.z if boundary else None,
        z=numbers.z if numbers else None,
        p_value=float(ndtr(-numbers.z)) if numbers else None,
        champion_rate=float(found.champion_rate) if found else None,
        challenger_rate=float(found.challenger_rate) if found else None,
        estimate=float(found.delta) if found else None,
        standard_error=float(found.standard_error) if found else None,
        variance_reduction=_reduction(found) if found else None,
        interval=numbers.interval(numbers.width) if numbers else None,
        lift=finite(float(found.lift)) if found else None,
        lift_interval=numbers.lift_interval(numbers.width) if numbers else None,
        sequence=numbers.interval(numbers.sequence_width) if numbers else None,
        lift_sequence=numbers.lift_interval(numbers.sequence_width) if numbers else None,
        srm_p=look.srm_p,
        srm_p_matured=look.srm_p_matured,
        bots_p=look.bots_p,
        guardrails=look.guardrails,
        slices=look.slices,
    )


def _counts(by_arm: Mapping[str, int], pair: tuple[str, str]) -> tuple[int, int]:
    return int(by_arm.get(pair[0], 0)), int(by_arm.get(pair[1], 0))


def _numbers(
    config: TrialConfig, champion: ArmSums, challenger: ArmSums, *, boundary: Boundary | None
) -> Numbers | None:
    if not estimable(champion, challenger):
        return None
    users, alpha, harm = int(champion.n + challenger.n), config.alpha_each, config.harm_alpha_each
    rho = tuned_rho(alpha=2 * alpha, users=config.n_max)
    harm_rho = tuned_rho(alpha=2 * harm, users=config.n_max)
    return Numbers(
        found=estimate(champion.array(), challenger.array()),
        boundary=boundary,
        users=users,
        sequence_width=two_sided_width(float(users), rho=rho, alpha=2 * alpha),
        harm_width=one_sided_width(float(users), rho=harm_rho, alpha=harm),
    )


def _guardrails(
    config: TrialConfig, look: LookSums, challenger: str, *, boundary: Boundary | None
) -> tuple[Guardrail, ...]:
    return tuple(
        judge_guardrail(
            metric,
            champion=look.metrics[metric.name].arm(CHAMPION),
            challenger=look.metrics[metric.name].arm(challenger),
            boundary=boundary.z if boundary else None,
            harm_alpha=config.harm_alpha_each,
            n_max=config.n_max,
        )
        for metric in config.guardrails
    )


def _slices(
    config: TrialConfig, look: LookSums, challenger: str, *, boundary: Boundary | None
) -> tuple[SliceResult, ...]:
    nobody = ArmSums()
    return tuple(
        judge_slice(
            part,
            metric=config.primary,
            champion=look.slices[part.name].get(CHAMPION, nobody),
            challenger=look.slices[part.name].get(challenger, nobody),
            boundary=boundary.z if boundary else None,
            harm_alpha=config.harm_alpha_each,
            n_max=config.n_max,
        )
        for part in config.slices
    )


def _reduction(found: Estimate) -> float | None:
    raw = float(found.raw_standard_error)
    return 1 - (float(found.standard_error) / raw) ** 2 if raw > 0 else None


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return [value.lower, value.upper]
    if isinstance(value, Guardrail | SliceResult):
        return value.as_json()
    if isinstance(value, Verdict):
        return value.value
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
