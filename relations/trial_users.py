"""Who is in a comparison, and in which arm, as Ibis expressions.

A user's arm is the variant of the first exposure, whatever served later (intention to treat; fallbacks included).
Shadow and bot exposures, those of the trial's canary and variants that are no arm do not count, nor does what was shown
before the comparison began. All tables of one call must live on one backend; `ibis.memtable` tables live on any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import ibis

from relations.sequences import moment

ARMS: tuple[str, ...] = ("champion", "challenger")
CANARY = "canary"
"""Why a user has an arm who was in the trial's canary. Such users, treated or control, are not in the comparison."""


@dataclass(frozen=True)
class Comparison:
    """Which exposures are compared: those of `arms` (variants) since `since` (None: ever) in a trial.

    `canary`: those of the trial's canary and its control group, and no others. `trial_id` None: those of no trial,
    under the champion of `epoch`: a comparison with another time.
    """

    trial_id: str | None
    arms: tuple[str, ...] = ARMS
    since: datetime | None = None
    canary: bool = False
    epoch: int | None = None

    def has(self, exposures: ibis.Table) -> ibis.Value:
        """Whether each exposure is one of these; never null."""
        if self.trial_id is None:
            named = exposures.trial.isnull() & (exposures.champion_epoch == self.epoch)
        else:
            in_canary = exposures.assignment_reason == CANARY
            named = (exposures.trial == self.trial_id) & (in_canary if self.canary else ~in_canary)
        if self.since is not None:
            named &= exposures.shown_time >= moment(self.since, name="since")
        return named.fill_null(False) & exposures.variant.isin(self.arms)


@dataclass(frozen=True)
class TrialWindow:
    """Whose exposures and outcomes a trial is judged on. Times are UTC.

    `start`: when the comparison began; what was shown before belongs to the pre-period, `before` long. `window`: W.
    `watermark`: event time up to which data are complete. The rest is as in `Comparison`.
    """

    trial_id: str | None
    start: datetime
    watermark: datetime
    window: timedelta
    before: timedelta
    arms: tuple[str, ...] = ARMS
    canary: bool = False
    epoch: int | None = None

    @property
    def comparison(self) -> Comparison:
        return Comparison(self.trial_id, self.arms, self.start, self.canary, self.epoch)


def counted(exposures: ibis.Table) -> ibis.Table:
    """What people were shown: no shadow, no bot."""
    return exposures.filter(~exposures.is_shadow, ~exposures.is_bot)


def first_exposures(exposures: ibis.Table, comparison: Comparison, *, also: Sequence[str] = ()) -> ibis.Table:
    """One row a user of the comparison: `user`, `arm`, `first_shown`, `crossed` (shown two arms; the first is kept).

    `also`: columns of that first exposure. Ties in time go to the smaller exposure id.
    """
    shown = counted(exposures)
    return _firsts(shown.filter(comparison.has(shown)), also=also)


def exposed_counts(exposures: ibis.Table, comparison: Comparison) -> ibis.Table:
    """One row an arm that has users: `arm`, `users`, `crossed`; matured or not, for the sample-ratio test."""
    first = first_exposures(exposures, comparison)
    return first.group_by("arm").agg(users=first.count(), crossed=first.crossed.cast("int64").sum()).order_by("arm")


def bot_counts(exposures: ibis.Table, comparison: Comparison) -> ibis.Table:
    """One row an arm that has any: `arm`, `users` with at least one exposure of the comparison that is a bot's.

    Their arm is that of the first such exposure. Rules that are blind to the arm find as many bots as it has users.
    """
    first = _firsts(exposures.filter(exposures.is_bot, ~exposures.is_shadow, comparison.has(exposures)), also=())
    return first.group_by("arm").agg(users=first.count()).order_by("arm")


def _firsts(shown: ibis.Table, *, also: Sequence[str]) -> ibis.Table:
    begun = shown.group_by("user").agg(
        first_shown=shown.shown_time.min(), crossed=shown.variant.min() != shown.variant.max()
    )
    # Numbered are only the exposures of each user's first moment, a slate at most: far fewer than all.
    slate = shown.select("user", "exposure_id", "shown_time", *also, arm=shown.variant)
    slate = slate.join(begun, [slate.user == begun.user, slate.shown_time == begun.first_shown])
    place = ibis.row_number().over(ibis.window(group_by=slate.user, order_by=slate.exposure_id))
    return slate.mutate(place=place).filter(ibis._.place == 0).select("user", *also, "arm", "first_shown", "crossed")
