"""Which looks of a comparison test, how much each of them knew, and the boundary that each had to reach.

Which looks test depends on the number of matured users, on time and on the data's soundness, never on who is ahead.

Shapes: _K one entry per look that tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from gate.boundaries import Boundary, boundaries
from gate.estimator import ArmSums, estimable, estimate
from gate.looks import LookSums
from gate.trial import CHAMPION, TrialConfig

MIN_STEP = 0.005
"""A look tests only when this share of n_max has matured since the last that did: at most 200 cheap tests a trial."""


@dataclass(frozen=True)
class Schedule:
    """The looks that test, by their `places` among all looks; one that could not promote anyway spends no α.

    `times_K`: matured users over n_max. `information_K`: what correlates one look's z with a later one's, in the units
    of `information`. Both strictly increasing. `boundaries_K`: in z.
    """

    places: tuple[int, ...]
    times_K: tuple[float, ...]
    information_K: tuple[float, ...]
    boundaries_K: tuple[Boundary, ...]

    @staticmethod
    def of(config: TrialConfig, looks: Sequence[LookSums], challenger: str, *, end: int | None) -> "Schedule":
        """`end`: the place of the look that spends all remaining α, which is the last one considered."""
        places: list[int] = []
        times: list[float] = []
        known: list[float] = []
        for place, look in enumerate(looks if end is None else looks[: end + 1]):
            champion, other = arms(config, look, challenger)
            if look.problems or not estimable(champion, other) or (place != end and is_early(config, look)):
                continue
            users = int(champion.n + other.n)
            before = times[-1] if times else 0.0
            time, knows = users / config.n_max, information(champion, other)
            if users < config.min_users or knows == 0 or (place != end and time - before < MIN_STEP):
                continue
            places.append(place)
            # The last look tests even when nobody matured since, and an estimate never knows less than before.
            times.append(max(time, before * (1 + 1e-9)))
            known.append(max(knows, known[-1] * (1 + 1e-9) if known else 0.0))
        found = boundaries(
            times,
            information=known,
            spending=config.spending,
            alpha=config.alpha_each,
            final=bool(places) and places[-1] == end,
        )
        return Schedule(tuple(places), tuple(times), tuple(known), found)

    def boundary(self, place: int) -> Boundary | None:
        """None where the look does not test."""
        return dict(zip(self.places, self.boundaries_K, strict=True)).get(place)

    @property
    def spent(self) -> float:
        """Cumulative α, of all looks that test."""
        return max((each.spent for each in self.boundaries_K), default=0.0)


def ending(config: TrialConfig, looks: Sequence[LookSums], challenger: str) -> int | None:
    """The place of the look at which all remaining α is spent: the first at n_max or the deadline; None before.

    Data with known problems end nothing: that look is held.
    """
    return next((place for place, look in enumerate(looks) if _ends(config, look, challenger)), None)


def _ends(config: TrialConfig, look: LookSums, challenger: str) -> bool:
    late = look.watermark >= config.deadline
    enough = sum(matured(config, look, challenger)) >= config.n_max and not is_early(config, look)
    return not look.problems and (late or enough)


def is_early(config: TrialConfig, look: LookSums) -> bool:
    return look.watermark < look.since + timedelta(days=config.minimum_days)


def arms(config: TrialConfig, look: LookSums, challenger: str) -> tuple[ArmSums, ArmSums]:
    """The primary metric's sums: champion's, challenger's."""
    sums = look.metrics[config.primary.name]
    return sums.arm(CHAMPION), sums.arm(challenger)


def matured(config: TrialConfig, look: LookSums, challenger: str) -> tuple[int, int]:
    champion, other = arms(config, look, challenger)
    return int(champion.n), int(other.n)


@lru_cache(maxsize=1024)
def information(champion: ArmSums, challenger: ArmSums) -> float:
    """What correlates one look's z with a later one's: the variance of Σ(S − R·N), here (SE·ΣN)².

    In proportion to the users where they are alike; more where later users are more active, and counting users would
    then take early looks for better informed than they are, and promote too often.
    """
    error = float(estimate(champion.array(), challenger.array()).standard_error)
    return (error * (champion.i + challenger.i)) ** 2
