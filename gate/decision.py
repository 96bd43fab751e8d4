"""What a look decides. Pure: the same config and looks give the same decision, down to the last bit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import ndtr

from gate.boundaries import Boundary, boundaries
from gate.confidence import one_sided_width, tuned_rho, two_sided_width
from gate.estimator import ArmSums, Estimate, estimate
from gate.guardrails import Guardrail, judge_guardrail
from gate.looks import LookSums, check_looks
from gate.mismatch import mismatch_p
from gate.trial import TrialConfig, finite
from gate.verdict import Interval, Look, Numbers, Verdict, weigh

MIN_STEP = 0.005
"""A look tests only when this share of n_max has matured since the last that did: at most 200 cheap tests a trial."""


@dataclass(frozen=True)
class Decision:
    """One look's verdict with every number behind it. None: not known yet.

    `estimate` is Δ (outcomes per impression, CUPED-adjusted), `lift` is Δ over the champion's rate. `interval` and
    `lift_interval` (Fieller) are the repeated confidence intervals at this look's boundary, α each side. Where the look
    does not test, they equal the always-valid ones, `sequence` and `lift_sequence`, which hold at all times at once
    with probability 1 − 2α. `p_value` is the one-sided p of this look alone: compare it with 1 − Φ(boundary), never
    with α. `information` is matured users over n_max, at most 1; `spent` the α spent up to and with this look;
    `variance_reduction` CUPED's, at most 1.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    trial_id: str
    config_hash: str
    look: int
    final: bool
    tested: bool
    matured: tuple[int, int]
    exposed: tuple[int, int]
    crossed: int
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
    guardrails: tuple[Guardrail, ...]
    sums: LookSums

    def as_json(self) -> dict[str, Any]:
        """Plain JSON with the sums of each arm and day, from which the decision can be made again."""
        plain = {
            key: [value.lower, value.upper] if isinstance(value, Interval) else value
            for key, value in vars(self).items()
        }
        return {
            **plain,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "matured": list(self.matured),
            "exposed": list(self.exposed),
            "guardrails": [guardrail.as_json() for guardrail in self.guardrails],
            "sums": self.sums.as_json(),
        }


def decide(config: TrialConfig, looks: Sequence[LookSums]) -> Decision:
    """Judge the newest of `looks`, all the looks of the trial so far, oldest first.

    Once α is all spent, at n_max or the deadline, a later look can confirm a promotion but never make one.
    Raises UsageError for looks out of order or without a metric of the config.
    """
    check_looks(looks, names=[config.primary.name, *(metric.name for metric in config.guardrails)])
    end = next((number for number, look in enumerate(looks) if _ends_trial(config, look)), None)
    decision = _judge(config, looks, end=end)
    if end is not None and end < len(looks) - 1 and decision.verdict is Verdict.PROMOTE:
        last = _judge(config, looks[: end + 1], end=end)
        if last.verdict is not Verdict.PROMOTE:
            reason = f"look {last.look} spent the last α and said {last.verdict}; no later look can promote"
            return replace(decision, verdict=Verdict.INCONCLUSIVE, reasons=(reason, *decision.reasons))
    return decision


def _judge(config: TrialConfig, looks: Sequence[LookSums], *, end: int | None) -> Decision:
    sums = looks[-1]
    arms = _matured(config, sums)
    tested = _boundaries(config, looks, end=end)
    boundary = tested.get(len(looks) - 1 if end is None else end)
    primary = sums.metrics[config.primary.name]
    numbers = _numbers(config, primary.champion, primary.challenger, boundary=boundary)
    look = Look(
        config=config,
        sums=sums,
        matured=arms,
        before=_matured(config, looks[-2]) if len(looks) > 1 else None,
        final=end is not None,
        numbers=numbers,
        guardrails=_guardrails(config, sums, boundary=boundary) if numbers else (),
        srm_p=mismatch_p([each.exposed for each in looks], expected=config.expected_split),
        srm_p_matured=mismatch_p([_matured(config, each) for each in looks], expected=config.expected_split),
    )
    verdict, reasons = weigh(look)
    found = numbers.found if numbers else None
    return Decision(
        verdict=verdict,
        reasons=reasons,
        trial_id=config.trial_id,
        config_hash=config.digest(),
        look=len(looks),
        final=look.final,
        tested=boundary is not None,
        matured=arms,
        exposed=sums.exposed,
        crossed=sums.crossed,
        information=min(1.0, sum(arms) / config.n_max),
        spent=max((each.spent for each in tested.values()), default=0.0),
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
        guardrails=look.guardrails,
        sums=sums,
    )


def _matured(config: TrialConfig, look: LookSums) -> tuple[int, int]:
    sums = look.metrics[config.primary.name]
    return int(sums.champion.n), int(sums.challenger.n)


def _ends_trial(config: TrialConfig, look: LookSums) -> bool:
    """Whether all remaining α is spent here. Data with known problems end nothing: that look is held."""
    late = look.watermark >= config.deadline
    return not look.problems and (late or sum(_matured(config, look)) >= config.n_max)


def _boundaries(config: TrialConfig, looks: Sequence[LookSums], *, end: int | None) -> dict[int, Boundary]:
    """The boundary of each look that tests, by its place. A look that could not promote anyway spends no α.

    Which looks test depends on the number of matured users, on time and on the data's soundness, never on who is ahead.
    """
    places: list[int] = []
    times: list[float] = []
    known: list[float] = []
    for place, look in enumerate(looks if end is None else looks[: end + 1]):
        sums = look.metrics[config.primary.name]
        if look.problems or not _estimable(sums.champion, sums.challenger):
            continue
        users = sum(_matured(config, look))
        before = times[-1] if times else 0.0
        time, information = users / config.n_max, _information(sums.champion, sums.challenger)
        if users < config.min_users or information == 0 or (place != end and time - before < MIN_STEP):
            continue
        places.append(place)
        # The last look tests even when nobody matured since, and an estimate never knows less than before.
        times.append(max(time, before * (1 + 1e-9)))
        known.append(max(information, known[-1] * (1 + 1e-9) if known else 0.0))
    found = boundaries(
        times,
        information=known,
        spending=config.spending,
        alpha=config.alpha,
        final=bool(places) and places[-1] == end,
    )
    return dict(zip(places, found, strict=True))


def _information(champion: ArmSums, challenger: ArmSums) -> float:
    """What correlates one look's z with a later one's: the variance of Σ(S − R·N), here (SE·ΣN)².

    In proportion to the users where they are alike; more where later users are more active, and counting users would
    then take early looks for better informed than they are, and promote too often.
    """
    error = float(estimate(champion.array(), challenger.array()).standard_error)
    return (error * (champion.i + challenger.i)) ** 2


def _estimable(champion: ArmSums, challenger: ArmSums) -> bool:
    return all(arm.n >= 2 and arm.i > 0 for arm in (champion, challenger))


def _numbers(
    config: TrialConfig, champion: ArmSums, challenger: ArmSums, *, boundary: Boundary | None
) -> Numbers | None:
    if not _estimable(champion, challenger):
        return None
    users = int(champion.n + challenger.n)
    rho = tuned_rho(alpha=2 * config.alpha, users=config.n_max)
    harm_rho = tuned_rho(alpha=2 * config.harm_alpha, users=config.n_max)
    return Numbers(
        found=estimate(champion.array(), challenger.array()),
        boundary=boundary,
        users=users,
        sequence_width=two_sided_width(float(users), rho=rho, alpha=2 * config.alpha),
        harm_width=one_sided_width(float(users), rho=harm_rho, alpha=config.harm_alpha),
    )


def _guardrails(config: TrialConfig, look: LookSums, *, boundary: Boundary | None) -> tuple[Guardrail, ...]:
    return tuple(
        judge_guardrail(
            metric,
            champion=look.metrics[metric.name].champion,
            challenger=look.metrics[metric.name].challenger,
            boundary=boundary.z if boundary else None,
            harm_alpha=config.harm_alpha,
            n_max=config.n_max,
        )
        for metric in config.guardrails
    )


def _reduction(found: Estimate) -> float | None:
    raw = float(found.raw_standard_error)
    return 1 - (float(found.standard_error) / raw) ** 2 if raw > 0 else None
