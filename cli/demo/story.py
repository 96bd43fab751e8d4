"""The demo's story: a marketplace drifts, a challenger learns, the gate decides, a person approves."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.demo.account import Account
from cli.demo.market import Market
from cli.demo.narrator import Narrator
from cli.demo.settings import MARKETPLACE
from cli.demo.stage import Stage, fresh_home, raised, watching_swap
from gate.states import TrialState
from simulation.client import RecommendClient
from stores.ledger import Ledger

APPROVER = "demo-approver"
SUBMITTER = "demo-pipeline"
FIRST_DAYS, DRIFT_DAYS, MOST_TRIAL_DAYS = 7, 7, 8
BAD_LIFT = -0.055
"""True lift that the slightly worse challenger is tuned to: the middle of −3 … −8 %."""


def play(root: Path, *, seed: int, wait_for_approval: bool, quiet: bool) -> Account:
    """Run the whole loop in a fresh simulation home at `root`."""
    narrator = Narrator(quiet=quiet)
    home = fresh_home(root, seed=seed, settings=MARKETPLACE)
    with raised(home, narrator) as stage:
        teller = _Story(stage, Market(home, seed, stage.settings.policy), narrator, Account(seed), wait_for_approval)
        account = teller.tell()
    account.seconds = narrator.seconds
    return account


@dataclass
class _Story:
    stage: Stage
    market: Market
    narrator: Narrator
    account: Account
    wait_for_approval: bool

    def tell(self) -> Account:
        from flows.full_retrain import full_retrain
        from flows.incremental import incremental

        self.client = RecommendClient(self.stage.address)
        self.where: dict[str, Any] = {"home": str(self.stage.home.root)}
        self.ledger = Ledger.of(self.stage.home, self.stage.settings)

        self._organic_days(FIRST_DAYS)
        first = self._train(full_retrain)
        self._bootstrap(first)
        self._organic_days(DRIFT_DAYS)
        second = self._train(incremental)
        if not second["passed"]:
            self.narrator.warn("that is no candidate; a full retrain follows")
            second = self._train(full_retrain)
        self._trial(second, kind="good")
        if self.account.trials[-1]["decision"] == "PROMOTE":
            self._approve(self.account.trials[-1]["id"], second)
            self._bake(self.account.trials[-1]["id"])
        self._trial(self._slightly_bad(), kind="slightly_bad")
        self._trial(self._bad("shuffled_items"), kind="bad")
        self._roll_back()
        self._end()
        return self.account

    def _organic_days(self, days: int) -> None:
        from flows.ingest import ingest

        begin = self.market.day
        with self.narrator.working(f"days {begin} … {begin + days - 1}"):
            for _ in range(days):
                self.market.organic_day()
            receipts = ingest(**self.where, now=self.market.now())["receipts"]
        total = {
            name: sum(int(each[name]) for each in receipts)
            for name in ("delivered", "accepted", "quarantined", "duplicate", "late")
        }
        self.narrator.done(
            f"days {begin} … {begin + days - 1}: {total['delivered']:,} rows delivered → "
            f"{total['accepted']:,} accepted · {total['quarantined']} quarantined · "
            f"{total['duplicate']} duplicate · {total['late']} late"
        )

    def _train(self, flow: Any, **stated: Any) -> dict[str, Any]:
        began = time.monotonic()
        with self.narrator.working(flow.name):
            released: dict[str, Any] = flow(**self.where, **stated, submitter=SUBMITTER, now=self.market.now())
        parity = released["parity"]
        self.account.add_parity(released)
        self.narrator.done(
            f"v{released['version']} ({released['mode']}) in {time.monotonic() - began:.0f} s, "
            f"fit {released['fit_seconds']:.0f} s · {_first_reasons(released['verdict'])} · "
            f"ONNX parity {parity['top10_agreement']:.3f}, {parity['max_abs_diff']:.0e}"
        )
        return released

    def _bootstrap(self, released: dict[str, Any]) -> None:
        from tasks.deciding import bootstrap_champion

        bootstrap_champion(
            self.stage.home,
            self.stage.settings,
            released["version"],
            actor=APPROVER,
            reason="the first model of this home",
            now=self.market.now(),
        )
        self.stage.wait_for_champion(released["digest"])
        self.narrator.done(f"v{released['version']} is the first champion (bootstrap approval by {APPROVER})")

    def _trial(self, released: dict[str, Any], *, kind: str) -> None:
        """Days of traffic and looks, until the gate has an answer."""
        from flows.trial import trial as look
        from tasks.trials import start_trial

        config = start_trial.fn(
            self.stage.home,
            self.stage.settings,
            challengers=(released["version"],),
            actor=SUBMITTER,
            now=self.market.now(),
            allow_offline_worse=kind != "good" or not released["passed"],  # the simulation knows the truth anyway
        )
        trial_id = config["trial_id"]
        self.stage.wait_for_trial(trial_id)
        self.market.traffic.forget_contexts()
        self.narrator.step(
            f"{trial_id}: v{config['challenger_version']} ({kind.replace('_', ' ')}) "
            f"against v{config['champion_version']}"
        )
        evidence: dict[str, Any] = {}
        for day in range(MOST_TRIAL_DAYS):
            with self.narrator.working(f"{trial_id}, day {day + 1}", total=1500) as done:
                played = self.market.trial_day(self.client, on_request=done)
                self.stage.wait_for_handover()
                evidence = look(**self.where, trial=trial_id, now=self.market.now())
            self.account.requests += played.requests
            self.account.failed += played.failed
            self.narrator.detail(f"look {evidence['look']}: {played.requests:,} requests · {_result(evidence)}")
            if evidence["verdict"] not in ("CONTINUE", "HOLD"):
                break
        contexts = self.market.traffic.contexts(watermark=datetime.fromisoformat(evidence["sums"]["watermark"]))
        truth = self.market.true_lift(
            self._fitted(config["champion_version"]), self._fitted(released["version"]), contexts
        )
        self.account.add_trial(evidence, kind=kind, true_lift=truth.lift)
        self.narrator.done(f"{trial_id}: {evidence['verdict']} · {evidence['reasons'][0]}")
        self.narrator.detail(f"true lift (the simulation knows): {truth.lift:+.1%}   evidence: {evidence['report']}")

    def _approve(self, trial_id: str, released: dict[str, Any]) -> None:
        from flows.promote import promote

        now = self.market.now()
        with watching_swap(self.stage, now=now.isoformat()) as watch:
            if self.wait_for_approval:
                self._wait_for_person(trial_id)
            else:
                self.narrator.warn(f"waits for a person; the demo approves as {APPROVER}")
                promote(**self.where, trial=trial_id, actor=APPROVER, reason="clicks rose, no check objects", now=now)
            if self.ledger.trial(trial_id).state in (TrialState.PROMOTING, TrialState.BAKING):
                self.stage.wait_for_champion(released["digest"])
        self.account.requests += watch.requests
        self.account.failed += watch.failed
        state = self.ledger.trial(trial_id).state
        self.narrator.done(
            f"{trial_id} is {state} · {watch.failed} failed of {watch.requests:,} requests during the swap"
        )

    def _bake(self, trial_id: str) -> None:
        """A day of traffic for everybody on the new champion, and what the watch says of it."""
        from flows.bake import bake

        state = self.ledger.trial(trial_id).state
        if state is TrialState.PROMOTING:  # the approval did not see serving serve it yet
            state = TrialState(bake(**self.where, trial=trial_id, now=self.market.now())["state"])
        if state is not TrialState.BAKING:
            return  # a person said no
        with self.narrator.working(f"{trial_id} bakes, one day", total=1500) as done:
            played = self.market.trial_day(self.client, on_request=done)
            self.stage.wait_for_handover()
            watched = bake(**self.where, trial=trial_id, now=self.market.now())
        self.account.requests += played.requests
        self.account.failed += played.failed
        self.narrator.done(f"{trial_id} is {watched['state']} · {watched['reasons'][0]}")

    def _wait_for_person(self, trial_id: str) -> None:
        home = self.stage.home.root
        self.narrator.warn(f"{trial_id} waits for you: ratchet approve {trial_id} --home {home} --as YOU --reason WHY")
        self.narrator.detail(f"or: ratchet reject {trial_id} --home {home} --as YOU --reason WHY")
        while self.ledger.trial(trial_id).is_open:
            time.sleep(0.5)

    def _slightly_bad(self) -> dict[str, Any]:
        """The champion with its item vectors blurred until the simulation says that it is a little worse."""
        from model.noise import blur_items

        champion = self.ledger.champion()
        assert champion is not None
        fitted = self._fitted(champion.version)
        contexts = self.market.traffic.contexts()[:500]
        low, high = 0.0, 4.0
        with self.narrator.working("making a challenger slightly worse", total=7) as done:
            for turn in range(7):
                middle = (low + high) / 2
                blurred = blur_items(fitted, scale=middle, seed=self.market.seed)
                worse = self.market.true_lift(fitted, blurred, contexts).lift < BAD_LIFT
                low, high = (low, middle) if worse else (middle, high)
                done(turn + 1)
        return self._bad("blurred_items", scale=(low + high) / 2)

    def _bad(self, kind: str, scale: float = 0.0) -> dict[str, Any]:
        from flows.rehearsal import rehearsal

        return self._train(rehearsal, kind=kind, scale=scale, seed=self.market.seed)

    def _roll_back(self) -> None:
        from flows.rollback import rollback

        before = self.ledger.champion()
        history = self.ledger.history()
        if before is None or len(history) < 2:
            self.narrator.warn("no rollback: there was never another champion")
            return
        began = time.monotonic()
        rollback(**self.where, actor=APPROVER, reason="to show the way back", now=self.market.now())
        after = self.ledger.champion()
        assert after is not None
        self.stage.wait_for_champion(after.digest)
        self.account.rolled_back = after.version != before.version
        seconds = time.monotonic() - began
        self.narrator.done(f"rolled back from v{before.version} to v{after.version} in {seconds:.1f} s")

    def _end(self) -> None:
        self.client.close()
        self.account.close(self.stage.home, self.ledger)

    def _fitted(self, version: int) -> Any:
        from tasks.training import load_version

        return load_version(self.stage.home, self.stage.settings, version)


def _result(evidence: dict[str, Any]) -> str:
    interval = evidence["lift_interval"]
    if evidence["lift"] is None or not interval or None in interval:
        return f"{sum(evidence['matured']):,} matured users → {evidence['verdict']}"
    low, high = interval
    return (
        f"{sum(evidence['matured']):,} matured users · clicks per impression {evidence['lift']:+.1%} "
        f"[{low:+.1%}, {high:+.1%}] → {evidence['verdict']}"
    )


def _first_reasons(verdict: str) -> str:
    """The figures and the first breach; the whole verdict stands in the training's artifact and in MLflow."""
    figures, *breaches = verdict.split("; ")
    if not breaches:
        return figures
    more = f" (and {len(breaches) - 1} more)" if len(breaches) > 1 else ""
    return f"{figures}; {breaches[0]}{more}"
