"""Random histories of trials: looks, data of any quality, people and clocks, through the real gate and the real ledger.

Whoever becomes champion has a passing look on matured users and clean data, judged here once more by plain arithmetic;
and what is missing or late always holds.
"""

import itertools
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gate.decision import decide
from gate.estimator import ArmSums
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import Metric, Slice
from gate.states import OPEN_STATES, TrialState
from gate.trial import CHAMPION, Challenger, TrialConfig
from gate.verdict import Verdict
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord, Waiting

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PEOPLE = ("ann", "ann", "dan", "bob")
RATES = (0.05, 0.09, 0.10, 0.101, 0.11, 0.13, 0.13, 0.14, 0.14)
USERS = (0, 1, 50, 200, 400)
PROBLEMS = ((), ("2 files wait in the landing folder",), ("exposures were held back whole",))


def arm(users: int, rate: float) -> ArmSums:
    """10 impressions a user; Var(S) = 1 a user."""
    mean = 10 * rate
    spread = max(0, users - 1)
    return ArmSums(
        n=users, s=users * mean, i=10.0 * users, ss=users * mean**2 + spread, si=10 * users * mean, ii=100.0 * users
    )


def rate_of(sums: ArmSums) -> tuple[float, float]:
    """R and Var(R) of such an arm, in the plain way: N is the same for all, so R is a mean of S/10."""
    mean = sums.s / sums.n
    variance = (sums.ss - sums.n * mean**2) / (sums.n - 1)
    return mean / 10, variance / sums.n / 100


def sound(config: TrialConfig, evidence: dict[str, Any], *, trial_looks: int) -> None:
    """Asserts, from the recorded sums alone, that nothing spoke against this promotion."""
    sums = LookSums.from_json(evidence["sums"])
    name = evidence["challenger"]
    assert sums.problems == ()
    assert name not in sums.out
    assert not config.is_aa
    assert sums.watermark >= sums.since + timedelta(days=config.minimum_days)
    champion, challenger = (sums.metrics[config.primary.name].arm(each) for each in (CHAMPION, name))
    assert champion.n + challenger.n >= config.min_users
    (base, base_variance), (other, variance) = rate_of(champion), rate_of(challenger)
    z = (other - base) / math.sqrt(base_variance + variance)
    assert z >= 1.9599, "no look may ask for less than one look would"
    assert trial_looks == 1 or z >= evidence["boundary"] - 1e-9
    for metric in config.guardrails:
        a, b = (sums.metrics[metric.name].arm(each) for each in (CHAMPION, name))
        (base, base_variance), (other, variance) = rate_of(a), rate_of(b)
        keep = 1 - metric.margin
        assert (other - keep * base) / math.sqrt(variance + keep**2 * base_variance) >= 1.9599
    for part in config.slices:
        if part.protected:
            a, b = (sums.slices[part.name][each] for each in (CHAMPION, name))
            assert min(a.n, b.n) >= 2
            assert rate_of(b)[0] > (1 - part.margin) * rate_of(a)[0]
    for counts in ({CHAMPION: champion.n, name: challenger.n}, sums.exposed, sums.bots):
        first, second = counts.get(CHAMPION, 0), counts.get(name, 0)
        expected = config.pair(name)[1] * (first + second)
        spread = math.sqrt(max(1.0, (first + second) * config.pair(name)[0] * config.pair(name)[1]))
        assert abs(second - expected) <= 30 * spread  # whatever is this far off is no chance
    assert sums.crossed <= config.crossed_limit * sum(sums.exposed.values())


class History:
    """One home's trials. Each step is drawn: openings, looks, approvals, and seldom what people do against a trial."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / f'{seed}.db'}")
        self.rng = np.random.default_rng(seed)
        self.now = T0
        self.numbers = itertools.count(1)
        self.configs: dict[str, TrialConfig] = {}
        self.looks: dict[str, list[LookSums]] = {}
        self.promoted: set[str] = set()
        self.seen: Counter[str] = Counter()
        self.ledger.bootstrap(self.version(None), actor="ann", reason="the first", now=self.now)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            step = self.draw(
                [self.open_trial, self.look, self.approve, self.bake, self.act], p=[0.15, 0.35, 0.35, 0.12, 0.03]
            )
            step()
            for reign in self.ledger.history():
                assert reign.how in ("bootstrap", "promote", "rollback")
                assert reign.how != "promote" or reign.trial in self.promoted
        assert self.ledger.verify() == []

    def draw(self, choices: Any, *, p: Any = None) -> Any:
        return choices[self.rng.choice(len(choices), p=p)]

    def version(self, parent: int | None) -> int:
        number = next(self.numbers)
        self.ledger.record_version(
            VersionRecord(
                version=number,
                digest=f"{number:064x}",
                mode="full",
                parent=parent,
                events_version=number,
                items_version=0,
                cutoff_us=1_767_225_600_000_000,
                offline_passed=True,
                metrics={},
                run_id=f"run-{number}",
                created=self.now,
                checkpoint="",
            )
        )
        return number

    @property
    def open(self) -> str | None:
        return next((trial for trial in self.configs if self.ledger.trial(trial).state in OPEN_STATES), None)

    def open_trial(self) -> None:
        challengers, protected = self.draw([0, 1, 1, 2, 3]), self.draw([None, None, False, True])
        champion = self.ledger.champion()
        assert champion is not None
        is_aa = challengers == 0
        versions = [champion.version] if is_aa else [self.version(champion.version) for _ in range(challengers)]
        trial = f"trial-{len(self.configs) + 1}"
        others = [Challenger(f"challenger-{at}", v, f"{v:064x}") for at, v in enumerate(versions[1:], start=2)]
        config = TrialConfig(
            trial_id=trial,
            challenger_version=versions[0],
            challenger_digest=f"{versions[0]:064x}",
            champion_version=champion.version,
            champion_digest=champion.digest,
            champion_epoch=champion.epoch,
            salt=trial,
            start=self.now,
            deadline=self.now + timedelta(days=6),
            n_max=self.draw([400, 1_500]),
            min_users=100,
            minimum_days=self.draw([0.0, 0.0, 2.0]),
            primary=Metric("clicks", "click"),
            guardrails=(Metric("carts", "cart"),) if self.draw([True, False]) else (),
            slices=() if protected is None else (Slice("new", by="new", equals="true", protected=protected),),
            others=tuple(others),
            is_aa=is_aa,
            bake_hours=self.draw([0.0, 24.0]),
        )
        try:
            self.ledger.open_trial(
                trial,
                config.as_json(),
                challengers=versions,
                salt=trial,
                allocation=0.5,
                actor="bob",
                now=self.now,
                is_aa=is_aa,
            )
        except GateRefused:
            return
        self.configs[trial], self.looks[trial] = config, []

    def look(self) -> None:
        """A day more of users in each arm: as many as were meant to be; or, seldom, anything may be wrong."""
        trial = self.open
        if trial is None:
            return
        config, before = self.configs[trial], self.looks[trial]
        self.now += timedelta(hours=self.draw([0, 12, 30]))
        clean, arms = self.rng.random() < 0.75, config.arms
        rates, users = [self.draw(RATES) for _ in arms], [self.draw(USERS) for _ in arms]
        carts, new = self.draw(RATES), self.draw(RATES)
        bots, crossed, problems = self.draw([0, 5_000]), self.draw([0, 500]), self.draw(PROBLEMS)
        if clean:
            bots, crossed, problems, rates[0] = 0, 0, (), 0.1
        count = {
            name: round(share * 800) if clean else users[at]
            for at, (name, share) in enumerate(zip(arms, config.shares, strict=True))
        }

        def grown(metric: str, by: dict[str, float]) -> MetricSums:
            days = before[-1].metrics[metric].days if before else ()
            fresh = {name: arm(count[name], by[name]) for name in arms if count[name]}
            return MetricSums((*days, DaySums(date(2026, 1, 1) + timedelta(days=len(days)), fresh)))

        by = dict(zip(arms, rates, strict=False))
        metrics = {"clicks": grown("clicks", by)}
        if config.guardrails:
            metrics["carts"] = grown("carts", {name: carts if at else 0.1 for at, name in enumerate(arms)})
        total = {name: int(metrics["clicks"].arm(name).n) for name in arms}
        sums = LookSums(
            watermark=self.now,
            since=config.start,
            exposed={name: n + 20 for name, n in total.items()},
            metrics=metrics,
            slices={
                part.name: {name: arm(n // 2, new if at else 0.1) for at, (name, n) in enumerate(total.items())}
                for part in config.slices
            },
            crossed=crossed,
            bots={CHAMPION: bots},
            out=self.ledger.trial(trial).evidence[-1].evidence["out"] if before else (),
            problems=problems,
        )
        sums = LookSums.from_json(sums.as_json())
        judgement = decide(config, [*before, sums])
        self.seen[judgement.verdict] += 1
        assert judgement.verdict is Verdict.HOLD or not problems
        if total[judgement.leading.challenger] == 0 or total[CHAMPION] == 0:
            assert judgement.verdict is not Verdict.PROMOTE
        if config.is_aa:
            assert judgement.verdict is not Verdict.PROMOTE
        evidence = {**judgement.as_json(), "decision": judgement.verdict.value, "stage": "compare"}
        try:
            self.ledger.record_evidence(trial, evidence, now=self.now)
        except GateRefused:
            assert self.ledger.trial(trial).killed or self.ledger.trial(trial).state not in OPEN_STATES
            return
        self.looks[trial].append(sums)

    def approve(self) -> None:
        self.now += timedelta(hours=self.draw([0, 1, 1, 20, 60]))
        actor = self.draw(PEOPLE)
        for trial in reversed(self.configs):
            was = self.ledger.trial(trial)
            before = self.ledger.champion()
            try:
                reached = self.ledger.approve(trial, actor=actor, reason="it is better", now=self.now)
            except (GateRefused, UsageError):
                assert self.ledger.champion() == before
                continue
            if isinstance(reached, Waiting):
                assert (self.ledger.champion(), len(reached.approved_by), reached.quorum) == (before, 1, 2)
                continue
            if trial in self.promoted:
                continue
            self.promoted.add(trial)
            protected = any(part.protected for part in self.configs[trial].slices)
            assert len(set(self.ledger.history()[-1].approvers)) >= (2 if protected else 1)
            assert actor != "bob", "who submitted it"
            assert was.state is TrialState.AWAIT_APPROVAL
            assert was.killed is None
            newest = was.evidence[-1]
            assert newest.decision == "PROMOTE"
            assert self.now - newest.recorded <= timedelta(hours=24)
            config = self.configs[trial]
            sound(config, dict(newest.evidence), trial_looks=len(was.evidence))
            named = {each.name: each for each in config.challengers}[newest.evidence["challenger"]]
            assert (reached.version, reached.digest) == (named.version, named.digest)
            assert before is not None
            assert (before.epoch, reached.epoch) == (config.champion_epoch, config.champion_epoch + 1)

    def bake(self) -> None:
        for trial in self.configs:
            if self.ledger.trial(trial).state is TrialState.PROMOTING:
                self.ledger.begin_bake(trial, now=self.now)
            elif self.ledger.trial(trial).state is TrialState.BAKING:
                self.now += timedelta(hours=24)
                self.ledger.end_bake(trial, now=self.now)

    def act(self) -> None:
        what, trial = self.draw(["reject", "stop", "kill", "rollback", "expire"]), self.open
        said: dict[str, Any] = {"actor": "ann", "reason": "because", "now": self.now}
        try:
            if what == "rollback":
                self.ledger.rollback(**said)
            elif what == "expire":
                self.ledger.expire(self.now)
            elif trial is not None:
                steps = {"reject": self.ledger.reject, "stop": self.ledger.stop_trial, "kill": self.ledger.kill_trial}
                steps[what](trial, **said)
        except GateRefused:
            pass


def test_no_path_leads_to_promotion_but_a_passing_look_and_another_person(tmp_path: Path) -> None:
    histories = [History(tmp_path, seed) for seed in range(24)]
    for history in histories:
        history.run(40)
    promoted = sum(len(history.promoted) for history in histories)
    seen = sum((history.seen for history in histories), Counter())
    # The law says nothing where nothing happens.
    assert promoted >= 8, (promoted, seen)
    assert min(seen[verdict] for verdict in Verdict) >= 8, seen
