"""The rules that turn a look's numbers into a verdict, with the sentences that say why."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gate.boundaries import Boundary
from gate.confidence import holm
from gate.estimator import Estimate
from gate.guardrails import Guardrail
from gate.looks import LookSums
from gate.trial import TrialConfig, finite


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
    """All that the rules look at. `srm_p` and `srm_p_matured` are over the looks so far."""

    config: TrialConfig
    sums: LookSums
    matured: tuple[int, int]
    before: tuple[int, int] | None  # matured users at the look before
    final: bool
    numbers: Numbers | None
    guardrails: tuple[Guardrail, ...]
    srm_p: float
    srm_p_matured: float

    @property
    def vetoes(self) -> tuple[str, ...]:
        """Why the arms cannot be compared at all."""
        config, found = self.config, []
        for kind, p, counts in (
            ("exposed", self.srm_p, self.sums.exposed),
            ("matured", self.srm_p_matured, self.matured),
        ):
            if p < config.srm_alpha:
                share = counts[1] / max(1, sum(counts))
                found.append(
                    f"sample-ratio mismatch on {kind} users: {counts[0]:,} champion and {counts[1]:,} challenger "
                    f"({share:.2%} now, {config.allocation:.2%} declared), p = {p:.2g} < {config.srm_alpha:g}"
                )
        limit = config.crossed_limit * sum(self.sums.exposed)
        if self.sums.crossed > limit:
            found.append(
                f"{self.sums.crossed:,} of {sum(self.sums.exposed):,} users were seen in both arms, "
                f"more than {config.crossed_limit:.1%}"
            )
        return tuple(found)


def weigh(look: Look) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons, the deciding one first."""
    config, numbers, vetoes = look.config, look.numbers, look.vetoes
    if look.sums.problems:
        return Verdict.HOLD, (*look.sums.problems, *vetoes)
    users = sum(look.matured)
    if numbers is None or users < config.min_users:
        return _too_few(look, users)
    harm = _harm(look, numbers)
    if harm:
        return Verdict.REJECT, (*harm, _effect(look, numbers), *vetoes)
    if look.final:
        return _final(look, numbers)
    if vetoes:
        return Verdict.HOLD, (*vetoes, _effect(look, numbers))
    if look.before is not None and users <= sum(look.before):
        return Verdict.HOLD, (f"no user matured since the last look: {sum(look.before):,} then, {users:,} now",)
    if not numbers.crosses:
        return Verdict.CONTINUE, (_against_boundary(look, numbers), _effect(look, numbers))
    unproven = _unproven(look.guardrails)
    if unproven:
        return Verdict.CONTINUE, (*unproven, _against_boundary(look, numbers), _effect(look, numbers))
    return Verdict.PROMOTE, _promotion(look, numbers)


def _final(look: Look, numbers: Numbers) -> tuple[Verdict, tuple[str, ...]]:
    config, effect, against = look.config, _effect(look, numbers), _against_boundary(look, numbers)
    if look.vetoes:
        return Verdict.INCONCLUSIVE, (_ended(look), *look.vetoes, effect)
    unproven = _unproven(look.guardrails)
    if numbers.crosses and not unproven:
        return Verdict.PROMOTE, _promotion(look, numbers)
    interval = numbers.lift_interval(numbers.width)
    if numbers.boundary is not None and interval is not None and interval.upper < config.minimum_effect:
        reason = (
            f"the final interval ends at {interval.upper:+.2%}, below the minimum effect {config.minimum_effect:+.2%}"
        )
        return Verdict.REJECT, (_ended(look), reason, *unproven, effect)
    return Verdict.INCONCLUSIVE, (_ended(look), against, *unproven, effect)


def _too_few(look: Look, users: int) -> tuple[Verdict, tuple[str, ...]]:
    config, vetoes = look.config, look.vetoes
    names = ("champion", "challenger")
    few = f"{users:,} of {config.min_users:,} users matured that a first look needs"
    if look.final:
        return Verdict.INCONCLUSIVE, (_ended(look), few, *vetoes)
    unseen = [name for name, count in zip(names, look.sums.exposed, strict=True) if not count]
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
            f"impression (one-sided α = {config.harm_alpha:g})"
        )
    worse = holm({rail.name: rail.harm_p for rail in look.guardrails}, alpha=config.harm_alpha)
    found += [
        f"guardrail {rail.name}: proven worse than its margin of {rail.margin:.1%}, {rail.challenger_rate:.5f} against "
        f"{rail.champion_rate:.5f} (always-valid p = {rail.harm_p:.2g})"
        for rail in look.guardrails
        if rail.name in worse
    ]
    return tuple(found)


def _unproven(guardrails: Sequence[Guardrail]) -> tuple[str, ...]:
    return tuple(
        f"guardrail {rail.name}: not proven within its margin of {rail.margin:.1%}, {rail.challenger_rate:.5f} against "
        f"{rail.champion_rate:.5f}, z = {rail.z:.2f}"
        for rail in guardrails
        if not rail.holds
    )


def _promotion(look: Look, numbers: Numbers) -> tuple[str, ...]:
    rails = tuple(
        f"guardrail {rail.name}: within its margin of {rail.margin:.1%}, {rail.challenger_rate:.5f} against "
        f"{rail.champion_rate:.5f}, z = {rail.z:.2f}"
        for rail in look.guardrails
    )
    split = (
        f"users split as declared: {look.matured[0]:,} and {look.matured[1]:,} matured, p = {look.srm_p_matured:.2g}"
    )
    return (_against_boundary(look, numbers), _effect(look, numbers), *rails, split)


def _effect(look: Look, numbers: Numbers) -> str:
    found = numbers.found
    rates = (
        f"{look.config.primary.name}: {float(found.challenger_rate):.5f} against {float(found.champion_rate):.5f} per "
        f"impression over {numbers.users:,} users"
    )
    interval = numbers.lift_interval(numbers.width)
    if interval is None:
        return f"{rates}; too little of the champion's rate is known for a relative lift"
    return f"{rates}, lift {float(found.lift):+.2%} in [{interval.lower:+.2%}, {interval.upper:+.2%}]"


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
