"""A home full of history, for the console: people, champions, trials that ended in every way, and one that waits.

Bundles are real and can serve, looks are the gate's own decisions, and every step went through the ledger as people
would take it. The tests of the console stand on it, and its pictures in docs/ show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from bench.console_parts import ITEMS, PARITY, deliver, write_release
from bench.console_sums import SHADOW_HOURS, Study, compare_look, stage_look
from gate.states import TrialMode
from gate.trial import TrialConfig
from stores import popularity
from stores.clock import set_clock
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import GATE, VersionRecord
from stores.people import Role, deployment_identity
from stores.pseudonyms import Keys
from stores.settings import Settings, load_settings
from tasks.trial_page.page import write_trial_page
from tasks.trial_plans import trial_config

Story = Literal["waiting", "protected", "canary", "baking", "empty"]
PASSWORD = "correct horse battery staple"
"""Of everybody."""
PEOPLE: Mapping[str, frozenset[Role]] = {
    "ben": frozenset({Role.APPROVER, Role.ADMIN}),  # the first admin
    "ada": frozenset({Role.APPROVER}),
    "carl": frozenset({Role.SUBMITTER}),
    "dana": frozenset(Role),
    "erin": frozenset({Role.APPROVER}),
}
DISABLED = "erin"
LEARNER = deployment_identity("learn/scheduled")
AWAY = "http://127.0.0.1:9"
"""Nothing listens there, and it refuses at once: no MLflow's seconds where MLflow is not the point."""
SETTINGS = """
[trial]
guardrails = ["purchases", "revenue", "latency", "failures"]
n_max = 12000
minimum_days = 5
deadline_days = 14
[trial.metrics.clicks]
outcome = "click"
[trial.metrics.purchases]
outcome = "purchase"
margin = 0.2
[trial.metrics.revenue]
outcome = "purchase"
value = "sum"
margin = 0.25
[trial.metrics.latency]
outcome = "latency"
better = "lower"
[trial.metrics.failures]
outcome = "failure"
better = "lower"
absolute = 0.002
[trial.slices."new users"]
by = "new"
equals = "true"
margin = 0.2
protected = {protected}
[trial.slices."known users"]
by = "new"
equals = "false"
margin = 0.2
[trial.slices.app]
by = "surface"
equals = "app"
margin = 0.15
[serving]
poll_seconds = 0.05
[tracking]
uri = "{tracking}"
[home]
clock = "{clock}"
"""


@dataclass(frozen=True)
class World:
    """`now`: the home's clock at the moment the story tells of; `trial`: the one that it is about, "" for none."""

    home: Home
    settings: Settings
    now: datetime
    trial: str

    @property
    def ledger(self) -> Ledger:
        """One of its own, as another process would have it."""
        return Ledger.of(self.home, self.settings)


def make_world(
    folder: Path,
    *,
    story: Story = "waiting",
    simulation: bool = False,
    now: datetime | None = None,
    tracking: str = AWAY,
) -> World:
    """A home at `folder / "home"`.

    `story`: what is open now. "waiting": a trial with a PROMOTE and three unprotected slices, after a history with
    every kind of end; "protected": one that needs two approvals; "canary": one at its first users; "baking": a
    promotion that is watched; "empty": no people, no versions. `now`: the wall's by default, as a home that is no
    simulation has it; set to the past, what waits has waited for longer.
    """
    now = now or datetime.now(UTC)
    home = Home.create(folder / "home", simulation=simulation)
    Keys.write_derived(home.keys, seed=7)
    stated = SETTINGS.format(
        protected="true" if story == "protected" else "false",
        tracking=tracking,
        clock="request" if simulation else "wall",
    )
    (home.root / "ratchet.toml").write_text(stated, encoding="utf-8")
    if simulation:
        set_clock(home, now)
    settings = load_settings(home.root / "ratchet.toml", environment={})
    teller = Teller(home, settings, folder / "scratch", now)
    if story == "empty":
        return World(home, settings, now, "")
    teller.people()
    if story == "waiting":
        teller.past()
        trial = teller.waiting()
    else:
        teller.begin()
        trial = {"protected": teller.waiting, "canary": teller.canary, "baking": teller.baking}[story]()
    states = {str(trial.state): trial.changed for trial in teller.ledger.trials()}
    deliver(home, now=now, trial_states=states)
    return World(home, settings, now, trial)


class Teller:
    """Tells a story from its beginning: each step at its own time, oldest first."""

    def __init__(self, home: Home, settings: Settings, scratch: Path, now: datetime) -> None:
        self.home, self.settings, self.scratch, self.now = home, settings, scratch, now
        self.ledger = Ledger.of(home, settings)

    def before(self, days: float, *, hours: float = 0.0) -> datetime:
        return self.now - timedelta(days=days, hours=hours)

    def people(self) -> None:
        first, *others = PEOPLE
        at = self.before(62)
        self.ledger.add_first_admin(first, password=PASSWORD, now=at, roles=PEOPLE[first])
        for name in others:
            self.ledger.add_person(name, roles=PEOPLE[name], password=PASSWORD, actor=first, now=at)
        self.ledger.disable_person(DISABLED, actor=first, reason="left the team", now=self.before(61))

    def begin(self) -> None:
        self.version(1, submitter="carl", at=self.before(61))
        self.ledger.bootstrap(1, actor="ada", reason="beats popularity offline; the first", now=self.before(60))
        popularity.publish(self.home.popularity, [(item, len(ITEMS) - rank) for rank, item in enumerate(ITEMS)])

    def past(self) -> None:
        """An A/A trial, then trials that were promoted, rejected, inconclusive, rolled back, expired and aborted."""
        self.begin()
        self.trial(None, at=self.before(58), study=Study(0.0, seed=1), days=6, n_max=6_000)
        self.trial(2, at=self.before(50), study=Study(0.11, seed=2), days=6)
        self.approve("trial-2", by="ada", reason="clicks up, nothing else moved", at=self.before(43))
        self.trial(3, at=self.before(40), study=Study(-0.2, seed=3), days=2)
        self.trial(4, at=self.before(35), study=Study(0.004, seed=5), days=6, n_max=6_000)
        self.trial(5, at=self.before(27), study=Study(0.12, seed=4), days=6)
        self.approve("trial-5", by="ben", reason="wins on all slices", at=self.before(20))
        self.ledger.rollback(actor="ada", reason="support reports empty lists in the app", now=self.before(19))
        self.trial(6, at=self.before(17), study=Study(0.1, seed=8), days=6)
        self.ledger.expire(self.before(7))

    def waiting(self) -> str:
        """A trial of the newest version that has passed, and waits since two hours ago."""
        number = len(self.ledger.versions()) + 1
        return self.trial(number, at=self.before(6, hours=24), study=Study(0.09, slices={"app": 0.05}, seed=9), days=6)

    def canary(self) -> str:
        return self.trial(2, at=self.before(0, hours=18), study=Study(0.09), days=0)

    def baking(self) -> str:
        trial = self.trial(2, at=self.before(7, hours=8), study=Study(0.12, seed=2), days=6)
        self.approve(trial, by="ada", reason="clicks up, guardrails hold", at=self.before(0, hours=5), bakes=True)
        return trial

    def trial(self, version: int | None, *, at: datetime, study: Study, days: int, n_max: int | None = None) -> str:
        """A trial of a new version (None: the champion against itself) through its stages, to `days` of comparison or
        its end."""
        ledger, trial_id = self.ledger, f"trial-{len(self.ledger.trials()) + 1}"
        if version is not None:
            self.version(version, submitter=LEARNER if version % 2 else "carl", at=at - timedelta(hours=3))
        champion = ledger.champion()
        assert champion is not None
        number = version or champion.version
        config = trial_config(
            self.settings,
            trial_id=trial_id,
            challengers=[ledger.version(number)],
            champion=champion,
            now=at,
            is_aa=version is None,
        )
        config = replace(config, n_max=n_max or config.n_max)
        ledger.open_trial(
            trial_id,
            config.as_json(),
            challengers=[number],
            salt=config.salt,
            allocation=config.allocation,
            actor="carl",
            now=at,
            is_aa=version is None,
            mode=config.stages[0].mode,
        )
        compares = self._stages(config, at, stays=days == 0)
        for day, judged in enumerate(study.judge(config, days, since=compares), start=1):
            looked = compares + timedelta(days=day, hours=1)
            self._look(config, compare_look(judged, config, day=day), at=looked)
            if not ledger.trial(trial_id).is_open:
                break
        write_trial_page(self.home.reports / f"{trial_id}.html", ledger.trial(trial_id), k=self.settings.privacy.k)
        return trial_id

    def approve(self, trial: str, *, by: str, reason: str, at: datetime, bakes: bool = False) -> None:
        self.ledger.approve(trial, actor=by, reason=reason, now=at)
        self.ledger.begin_bake(trial, now=at + timedelta(minutes=1))
        if not bakes:
            self.ledger.end_bake(trial, now=at + timedelta(hours=25))

    def _stages(self, config: TrialConfig, at: datetime, *, stays: bool) -> datetime:
        """Through shadow and canary; when the comparison began. `stays`: it remains in the last step before."""
        for place in range(len(config.stages) - 1):
            last = stays and config.stages[place + 1].mode is TrialMode.COMPARE
            looked = at + timedelta(hours=(3 if last else SHADOW_HOURS))
            evidence = stage_look(config, place, since=at, stays=last)
            self._look(config, evidence, at=looked)
            if last:
                return looked
            following = config.stages[place + 1]
            reason = evidence["reasons"][-1]
            self.ledger.set_stage(
                config.trial_id,
                following.mode,
                allocation=following.share or None,
                actor=GATE,
                reason=reason,
                now=looked,
            )
            at = looked
        return at

    def _look(self, config: TrialConfig, found: Mapping[str, Any], *, at: datetime) -> None:
        ledger = self.ledger
        trials = ledger.trials()
        aa = next((each for each in reversed(trials) if each.is_aa), None)
        record = next(each for each in trials if each.id == config.trial_id)
        promotions = sum(reign.how == "promote" for reign in ledger.history())
        standing = {
            "trial_id": config.trial_id,
            "config_hash": record.config_hash,
            "look": record.looks + 1,
            "data_versions": {"events": 30 + 2 * record.looks, "exposures": 90 + 5 * record.looks},
            "champion_digest": config.champion_digest,
            "challenger_digest": config.challenger_digest,
            "champion_epoch": config.champion_epoch,
            "parity": dict(PARITY),
            "alpha_ledger": {
                "trials": len(trials),
                "expected_false": round(0.025 * len(trials), 3),
                "a_year": 1.3,
                "promotions": promotions,
            },
            "aa": None
            if aa is None or config.is_aa
            else {"trial": aa.id, "state": str(aa.state), "verdict": aa.decision},
        }
        ledger.record_evidence(config.trial_id, {**standing, **found}, now=at)

    def version(self, number: int, *, submitter: str, at: datetime) -> None:
        ndcg = 0.101 + 0.004 * number
        parent = number - 1 if number % 2 == 0 else None
        digest = write_release(self.home, self.scratch / f"files-{number}", number)
        self.ledger.record_version(
            VersionRecord(
                version=number,
                digest=digest,
                mode="full" if parent is None else "incremental",
                parent=parent,
                events_version=20 + number,
                items_version=3,
                cutoff_us=round(at.timestamp() * 1e6),
                offline_passed=True,
                metrics={
                    "challenger": _offline(ndcg),
                    "popularity": _offline(0.061),
                    **({"champion": _offline(ndcg - 0.003)} if number > 1 else {}),
                },
                run_id=f"{number:032x}",
                created=at,
                checkpoint=f"{'full' if parent is None else 'incremental'}-{digest[:12]}",
                note="learns from what was shown" if number == 4 else "",
                submitter=submitter,
            )
        )


def _offline(ndcg: float) -> dict[str, float]:
    return {"ndcg@10": round(ndcg, 4), "hr@10": round(1.9 * ndcg, 4), "mrr": round(0.86 * ndcg, 4), "coverage": 0.71}
