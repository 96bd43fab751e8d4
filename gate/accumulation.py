"""How many different users come in so many days. People return, so each day brings fewer new ones than the one before.

Within the days that were observed, the curve is what was counted. Beyond them it is extrapolated as ecologists do with
species: of T days, Q1 users came on one day and Q2 on two, so that about

    Q0 = (T − 1)/T · Q1²/(2·Q2)      (Chao, Biometrics 1987; Q1(Q1 − 1)/2 in place of the quotient where Q2 = 0)

exist and have not come yet, and S(T + t) = S(T) + Q0·[1 − (1 − Q1/(T·Q0 + Q1))^t]
(Colwell et al., Journal of Plant Ecology 2012, eq. 18). Good up to two or three times T. New customers who appear later
are not foreseen, so beyond that it errs on the side of fewer users.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from relations.errors import UsageError

FAR = 3.0
"""Extrapolating beyond so many times the observed days is a guess."""


@dataclass(frozen=True)
class Accumulation:
    """`cumulative`: different users by the end of each observed day. `once`, `twice`: who came on one, on two days."""

    cumulative: tuple[int, ...]
    once: int
    twice: int

    @staticmethod
    def from_counts(first_and_days: Sequence[tuple[int, int, int]], *, days: int) -> "Accumulation":
        """From (day of the first visit from 0 on, days with a visit, users) of an observation `days` long.

        Raises UsageError for fewer than two days or no users: a curve needs two points.
        """
        new = [0] * days
        seen = {1: 0, 2: 0}
        for first, visited, users in first_and_days:
            new[first] += users
            if visited in seen:
                seen[visited] += users
        if days < 2 or not sum(new):
            raise UsageError(
                f"traffic: {sum(new):,} users in {days} whole days; planning needs two days, better two weeks"
            )
        total, cumulative = 0, []
        for each in new:
            total += each
            cumulative.append(total)
        return Accumulation(tuple(cumulative), seen[1], seen[2])

    @property
    def days_seen(self) -> int:
        return len(self.cumulative)

    @cached_property
    def unseen(self) -> float:
        """Q0: who exists and has not come yet."""
        days, once, twice = self.days_seen, self.once, self.twice
        pairs = once**2 / (2 * twice) if twice else once * (once - 1) / 2
        return (days - 1) / days * pairs

    @cached_property
    def _missed(self) -> float:
        """Probability that somebody unseen stays away for one more day."""
        return 1 - self.once / (self.days_seen * self.unseen + self.once) if self.unseen > 0 else 1.0

    def users(self, days: float) -> float:
        """Different users within the first `days`, from 0 on; between days in proportion."""
        if days <= self.days_seen:
            whole = math.floor(days)
            curve = (0, *self.cumulative)
            beyond = curve[min(whole + 1, self.days_seen)] - curve[whole]
            return curve[whole] + (days - whole) * beyond
        missed = math.pow(self._missed, days - self.days_seen)
        return self.cumulative[-1] + self.unseen * (1 - missed)

    def days(self, users: float) -> float | None:
        """Days until so many came: the inverse of `users`. None where so many never come."""
        if users <= self.cumulative[-1]:
            curve = (0, *self.cumulative)
            place = bisect.bisect_left(curve, users)
            if place == 0:
                return 0.0
            return place - 1 + (users - curve[place - 1]) / (curve[place] - curve[place - 1])
        share = (users - self.cumulative[-1]) / self.unseen if self.unseen > 0 else 1.0
        if share >= 1 or not 0 < self._missed < 1:
            return None
        return self.days_seen + math.log1p(-share) / math.log(self._missed)
