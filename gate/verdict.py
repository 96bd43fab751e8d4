"""The rules that turn a look's numbers into a verdict, with the sentences that say why."""

from dataclasses import dataclass
from enum import StrEnum

from gate.boundaries import Boundary
from gate.confidence import holm
from gate.estimator import Estimate
from gate.guardrails import Guardrail, SliceResult
from gate.looks import LookSums
from gate.trial import CHAMPION, TrialConfig, finite


class Verdict(StrEnum):
    """Names and meanings as in the ledger."""

    PROMOTE = "PROMOTE"
    """The primary metric crosses the boundary, guardrails are within their margins, nothing vetoes."""
    REJECT = "REJECT"
    """Proven harm at any time, or a final interval below the minimum effect."""
    CONTINUE = "CONTINUE"
    """Look again."""
    HOLD = "HOLD"
    """Data are missing, late or wrong."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The deadline or n_max, and neither of the first two."""


@dataclass(frozen=True)
class Interval:
    """Closed, on the scale of what it belongs to."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Numbers:
    """The primary metric at one look; only made where both arms can be estimated.

    `boundary`: None where the look does not test. The widths of the always-valid sequences are in standard errors.
    """

    found: Estimate
    boundary: Boundary | None
    users: int
    sequence_width: float
    harm_width: float

    @property
    def z(self) -> float:
        return float(self.found.z)

    @property
    def width(self) -> float:
        return self.sequence_width if self.boundary is None else self.boundary.z

    @property
    def crosses(self) -> bool:
        return self.boundary is not None and self.z >= self.boundary.z

    @property
    def harmed(self) -> bool:
        return self.z < -self.harm_width

    def interval(self, width: float) -> Interval:
        delta, error = float(self.found.delta), float(self.found.standard_error)
        return Interval(delta - width * error, delta + width * error)

    def lift_interval(self, width: float) -> Interval | None:
        lower, upper = (finite(float(end)) for end in self.found.lift_interval(width))
        return None if lower is None or upper is None else Interval(lower, upper)


@dataclass(frozen=True)
class Look:
    """All that the rules look at in one comparison. Pairs are (champion, challenger).

    `srm_p`, `srm_p_matured` and `bots_p` are over the looks so far. `early`: before the least days of comparison.
    """

    config: TrialConfig
    sums: LookSums
    challenger: str
    matured: tuple[int, int]
    exposed: tuple[int, int]
    bots: tuple[int, int]
    before: tuple[int, int] | None  # matured users at the look before
    early: bool
    final: bool
    numbers: Numbers | None
    guardrails: tuple[Guardrail, ...]
    slices: tuple[SliceResult, ...]
    srm_p: float
    srm_p_matured: float
    bots_p: float

    @property
    def vetoes(self) -> tuple[str, ...]:
        """Why the arms cannot be compared at all."""
        config, found = self.config, []
        declared = config.pair(self.challenger)[1]
        for kind, p, counts in (
            ("exposed users", self.srm_p, self.exposed),
            ("matured users", self.srm_p_matured, self.matured),
            ("users left out as bots", self.bots_p, self.bots),
        ):
            if p < config.srm_alpha:
                share = counts[1] / max(1, sum(counts))
                found.append(
                    f"sample-ratio mismatch on {kind}: {counts[0]:,} champion and {counts[1]:,} {self.challenger} "
                    f"({share:.2%} now, {declared:.2%} declared), p = {p:.2g} < {config.srm_alpha:g}"
                )
        everybody = sum(self.sums.exposed.values())
        if self.sums.crossed > config.crossed_limit * everybody:
            found.append(
                f"{self.sums.crossed:,} of {everybody:,} users were seen in two arms, more than "
                f"{config.crossed_limit:.1%}"
            )
        return tuple(found)

    @property
    def unproven(self) -> tuple[str, ...]:
        """Guardrails and protected slices that are not shown to be within their margins."""
        rails = [f"guardrail {rail.name}: not proven {_margin(rail)}" for rail in self.guardrails if not rail.holds]
        parts = [
            f"protected slice {part.name}: too few users in an arm to tell"
            if part.rail is None
            else f"protected slice {part.name}: not proven {_margin(part.rail)}"
            for part in self.slices
            if part.unproven
        ]
        return (*rails, *parts)


def weigh(look: Look) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons, the deciding one first."""
    numbers, vetoes = look.numbers, look.vetoes
    if look.sums.problems:
        return Verdict.HOLD, (*look.sums.problems, *vetoes)
    users = sum(look.matured)
    if numbers is None or users < look.config.min_users:
        return _too_few(look, users)
    harm = _harm(look, numbers)
    if look.config.is_aa:
        return _rehearsed(look, numbers, harm)
    if harm:
        return Verdict.REJECT, (*harm, _effect(look, numbers), *vetoes)
    if look.final:
        return _final(look, numbers)
    if vetoes:
        return Verdict.HOLD, (*vetoes, _effect(look, numbers))
    if look.before is not None and users <= sum(look.before):
        return Verdict.HOLD, (f"no user matured since the last look: {sum(look.before):,} then, {users:,} now",)
    if look.early:
        return Verdict.CONTINUE, (_too_early(look), _effect(look, numbers))
    if not numbers.crosses:
        return Verdict.CONTINUE, (_against_boundary(look, numbers), _effect(look, numbers))
    if look.unproven:
        return Verdict.CONTINUE, (*look.unproven, _against_boundary(look, numbers), _effect(look, numbers))
    return Verdict.PROMOTE, _promotion(look, numbers)


def _final(look: Look, numbers: Numbers) -> tuple[Verdict, tuple[str, ...]]:
    config, effect, against = look.config, _effect(look, numbers), _against_boundary(look, numbers)
    if look.vetoes:
        return Verdict.INCONCLUSIVE, (_ended(look), *look.vetoes, effect)
    early = (_too_early(look),) if look.early else ()
    if numbers.crosses and not look.unproven and not early:
        return Verdict.PROMOTE, _promotion(look, numbers)
    interval = numbers.lift_interval(numbers.width)
    if numbers.boundary is not None and interval is not None and interval.upper < config.minimum_effect:
        reason = (
            f"the final interval ends at {interval.upper:+.2%}, below the minimum effect {config.minimum_effect:+.2%}"
        )
        return Verdict.REJECT, (_ended(look), reason, *look.unproven, effect)
    return Verdict.INCONCLUSIVE, (_ended(look), *early, against, *look.unproven, effect)


def _rehearsed(look: Look, numbers: Numbers, harm: tuple[str, ...]) -> tuple[Verdict, tuple[str, ...]]:
    """An A/A trial: both arms are the same bundle, so whatever differs is a fault of assignment, logs or statistics."""
    effect, trust = _effect(look, numbers), "do not trust this pipeline's trials before it is explained"
    if harm or (numbers.boundary is not None and abs(numbers.z) >= numbers.boundary.z):
        limit = numbers.boundary.z if numbers.boundary else numbers.harm_width
        found = harm or (f"z = {numbers.z:.2f} reaches the boundary {limit:.2f}, either way",)
        return Verdict.REJECT, (f"A/A: the same bundle differs from itself; {trust}", *found, effect, *look.vetoes)
    if look.vetoes:
        verdict = Verdict.REJECT if look.final else Verdict.HOLD
        return verdict, (f"A/A: the arms are not alike; {trust}", *look.vetoes, effect)
    if look.final:
        return Verdict.INCONCLUSIVE, ("A/A: no difference found between equal arms, as it must be", effect)
    return Verdict.CONTINUE, ("A/A: no difference between equal arms so far", effect)


def _too_few(look: Look, users: int) -> tuple[Verdict, tuple[str, ...]]:
    config, vetoes = look.config, look.vetoes
    names = (CHAMPION, look.challenger)
    few = f"{users:,} of {config.min_users:,} users matured that a first look needs"
    if look.final:
        return Verdict.INCONCLUSIVE, (_ended(look), few, *vetoes)
    unseen = [name for name, count in zip(names, look.exposed, strict=True) if not count]
    if unseen:
        return Verdict.HOLD, (f"no exposures of {' and '.join(unseen)}", *vetoes)
    empty = [name for name, count in zip(names, look.matured, strict=True) if not count]
    if empty:
        return Verdict.HOLD, (f"no matured user of {' and '.join(empty)} yet", *vetoes)
    return (Verdict.HOLD, (*vetoes, few)) if vetoes else (Verdict.CONTINUE, (few,))


def _harm(look: Look, numbers: Numbers) -> tuple[str, ...]:
    config = look.config
    found = []
    if numbers.harmed:
        upper = numbers.interval(numbers.harm_width).upper
        found.append(
            f"{config.primary.name}: proven harm, the always-valid upper bound of the difference is {upper:+.5f} per "
            f"{config.primary.per} (one-sided α = {config.harm_alpha_each:g})"
        )
    rails = {f"guardrail {rail.name}": rail for rail in look.guardrails}
    rails |= {f"slice {part.name}": part.rail for part in look.slices if part.rail is not None}
    worse = holm({name: rail.harm_p for name, rail in rails.items()}, alpha=config.harm_alpha_each)
    found += [
        f"{name}: proven worse than its margin of {rail.margin:.1%}, {rail.challenger_rate:.5f} against "
        f"{rail.champion_rate:.5f} (always-valid p = {rail.harm_p:.2g})"
        for name, rail in rails.items()
        if name in worse
    ]
    return tuple(found)


def _margin(rail: Guardrail) -> str:
    return (
        f"within its margin of {rail.margin:.1%}, {rail.challenger_rate:.5f} against {rail.champion_rate:.5f}, "
        f"z = {rail.z:.2f}"
    )


def _promotion(look: Look, numbers: Numbers) -> tuple[str, ...]:
    rails = tuple(f"guardrail {rail.name}: {_margin(rail)}" for rail in look.guardrails)
    parts = tuple(
        f"protected slice {part.name}: {_margin(part.rail)}" for part in look.slices if part.protected and part.rail
    )
    split = (
        f"users split as declared: {look.matured[0]:,} and {look.matured[1]:,} matured, p = {look.srm_p_matured:.2g}"
    )
    return (_against_boundary(look, numbers), _effect(look, numbers), *rails, *parts, split)


def _effect(look: Look, numbers: Numbers) -> str:
    found = numbers.found
    rates = (
        f"{look.config.primary.name}: {float(found.challenger_rate):.5f} against {float(found.champion_rate):.5f} per "
        f"{look.config.primary.per} over {numbers.users:,} users"
    )
    interval = numbers.lift_interval(numbers.width)
    if interval is None:
        return f"{rates}; too little of the champion's rate is known for a relative lift"
    return f"{rates}, lift {float(found.lift):+.2%} in [{interval.lower:+.2%}, {interval.upper:+.2%}]"


def _too_early(look: Look) -> str:
    days = (look.sums.watermark - look.sums.since).total_seconds() / 86_400
    return f"{days:.1f} of at least {look.config.minimum_days:g} days are compared; nothing is promoted before"


def _against_boundary(look: Look, numbers: Numbers) -> str:
    share = min(1.0, numbers.users / look.config.n_max)
    if numbers.boundary is None:
        return f"z = {numbers.z:.2f}; too few new users since the last test, so no α is spent at {share:.0%} of n_max"
    sign = "reaches" if numbers.crosses else "is below"
    return f"z = {numbers.z:.2f} {sign} the boundary {numbers.boundary.z:.2f} at {share:.0%} of n_max"


def _ended(look: Look) -> str:
    users, config = sum(look.matured), look.config
    if users >= config.n_max:
        return f"n_max is reached: {users:,} of {config.n_max:,} users matured"
    return f"the deadline {config.deadline:%Y-%m-%d %H:%M} UTC is reached with {users:,} of {config.n_max:,} users"
