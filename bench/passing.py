"""Trials that the real gate judges, at once: what is approved must stand its second judgement.

Benchmarks and tests open them; the sums are made up, the decisions on them are not.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stores.ledger import Ledger

USERS = 5_000
"""An arm's and a day's, with 10 impressions each. The champion's rate is .1."""
BETTER = 0.14
"""A challenger's rate far beyond any boundary."""


def open_passing(
    ledger: "Ledger",
    trial: str,
    *,
    challenger: int,
    actor: str,
    now: datetime,
    protected: bool = False,
    bake_hours: float = 0.0,
    looks: bool = True,
) -> str:
    """Open a trial and record a look, which says PROMOTE; returns the look's SHA-256, empty without `looks`.

    `protected`: a slice of it is, so that two people must approve.
    """
    from gate.metrics import Metric, Slice
    from gate.trial import TrialConfig

    champion, version = ledger.champion(), ledger.version(challenger)
    if champion is None:
        raise RuntimeError(f"{trial}: there is no champion to beat")
    config = TrialConfig(
        trial_id=trial,
        challenger_version=version.version,
        challenger_digest=version.digest,
        champion_version=champion.version,
        champion_digest=champion.digest,
        champion_epoch=champion.epoch,
        salt=trial,
        start=now,
        deadline=now + timedelta(days=28),
        n_max=8 * USERS,
        min_users=100,
        primary=Metric("clicks", "click"),
        guardrails=(Metric("carts", "cart"),),
        slices=(Slice("newcomers", by="new", equals="true", protected=True),) if protected else (),
        bake_hours=bake_hours,
    )
    share = config.allocation
    ledger.open_trial(
        trial, config.as_json(), challengers=[challenger], salt=trial, allocation=share, actor=actor, now=now
    )
    return look_again(ledger, trial, now=now) if looks else ""


def look_again(ledger: "Ledger", trial: str, *, now: datetime, rate: float = BETTER, carts: float = 0.1) -> str:
    """One more day of users, judged by the real gate and recorded; returns the look's SHA-256.

    `rate`, `carts`: the challenger's, of the primary metric and of the guardrail; the champion's are .1.
    """
    from gate.decision import decide
    from gate.estimator import ArmSums
    from gate.looks import DaySums, LookSums, MetricSums
    from gate.trial import TrialConfig

    record = ledger.trial(trial)
    config = TrialConfig.from_json(record.config)
    before = [LookSums.from_json(each.evidence["sums"]) for each in record.evidence]

    def arm(mean: float) -> ArmSums:
        s = 10 * mean  # a user's; Var(S) is 1
        return ArmSums(
            n=USERS, s=USERS * s, i=10 * USERS, ss=USERS * s**2 + USERS - 1, si=10 * USERS * s, ii=100 * USERS
        )

    def grown(name: str, challenger: float) -> MetricSums:
        days = before[-1].metrics[name].days if before else ()
        arms = {"champion": arm(0.1), "challenger": arm(challenger)}
        return MetricSums((*days, DaySums(config.start.date() + timedelta(days=len(days)), arms)))

    sums = LookSums(
        watermark=max([now, *(each.watermark for each in before[-1:])]),
        since=config.start,
        exposed={name: USERS * (len(before) + 1) for name in config.arms},
        metrics={"clicks": grown("clicks", rate), "carts": grown("carts", carts)},
        slices={each.name: {"champion": arm(0.1), "challenger": arm(rate)} for each in config.slices},
    )
    judged = decide(config, [*before, LookSums.from_json(sums.as_json())])
    evidence = {**judged.as_json(), "decision": judged.verdict.value, "stage": "compare"}
    return ledger.record_evidence(trial, evidence, now=now)
