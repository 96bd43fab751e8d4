"""The marketplace's home: organic days ingested, a champion that serves, a better model to make challengers of.

All of it by the pipeline: files through the landing folder and the ingest flow, trainings and rehearsals as flows, the
first champion by a person, the recommend API in a process of its own on loopback.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from bench.serve_worlds import World, served
from simulation.client import RecommendClient
from simulation.marketplace import Marketplace
from simulation.panel import Panel
from simulation.parameters import Parameters

if TYPE_CHECKING:
    from model.fitted import Fitted
    from stores.home import Home
    from stores.ledger import Ledger
    from stores.settings import Settings

APPROVER, SUBMITTER = "ada", "pipeline"
FATES = ("delivered", "accepted", "quarantined", "duplicate", "late")

MARKET = Parameters(
    users=4_000,
    new_users_per_day=0,
    visit_gaps_days=(1, 2),  # everybody has a history after a few organic days
    session_items_mean=3.0,
    bots=0,
    items=400,
    topics=6,
    subtopics_per_topic=4,
    new_items_per_day=0.0,
    # It stands still, so that a challenger's true lift is the same in its first hour and in its last.
    novelty=0.0,
    trend_step=0.0,
    interest_change=0.0,
    # What is shown is clicked half of the time, on long pages: clicks per impression of one visit then say a lot, and
    # a trial needs some thousand users, not ten times as many.
    slots=20,
    click_base=-1.5,
    examination_decay=0.15,
)

SETTINGS = """\
[home]
clock = "request"

[model]
width = 32
blocks = 1
max_history = 12

[train]
epochs = {epochs}
threads = 1
small_events = 0

[evaluation]
max_users = 500

[trial]
stages = ["compare"]
window_hours = 1
n_max = {n_max}
min_users = {min_users}
looks = {looks}
minimum_days = 0
deadline_days = 1
bake_hours = 0
minimum_effect = {effect}
guardrails = ["favourites"]

[trial.metrics.clicks]
outcome = "click"

[trial.metrics.favourites]
outcome = "favourite"
margin = 0.2

[serving]
flush_seconds = 0.3
poll_seconds = 0.1
# Batches of 64 from a simulation that shares the machine: decisions are measured here, not latency (`bench serve`).
queue_ms = 60000
timeout_ms = 60000
"""


QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Nothing is sent out, nothing is printed beside the rows, and no thread spins beside the server."""


@dataclass(frozen=True)
class Plan:
    """Sizes of every trial. `n_max` matured users in both arms, in `looks` waves of equal size."""

    n_max: int = 1_600
    looks: int = 4
    latecomers: int = 6
    """People who come last: their requests tell that an hour has passed. They never mature, and so do not count. So few
    that the check of a delivery's size leaves them alone: it would hold back a wave that is a tenth of the others."""
    effect: float = 0.05
    """The declared effect: what the trial must find with the stated power."""
    organic_days: int = 6
    weak_epochs: int = 10
    """Of the champion's training; the better model has `epochs`."""
    epochs: int = 20

    @property
    def people(self) -> int:
        return self.n_max + self.latecomers

    def settings(self, *, epochs: int) -> str:
        return SETTINGS.format(
            epochs=epochs,
            n_max=self.n_max,
            min_users=self.n_max // (2 * self.looks),
            looks=self.looks,
            effect=self.effect,
        )


@dataclass
class Shop:
    """A home with its server, its market and its panel of people."""

    home: "Home"
    plan: Plan
    seed: int
    port: int
    day: int = 0
    """The day that it is."""

    @cached_property
    def market(self) -> Marketplace:
        return Marketplace(MARKET, seed=self.seed)

    @cached_property
    def panel(self) -> Panel:
        return Panel(self.market, day=self.plan.organic_days, people=self.plan.people, seed=self.seed)

    @cached_property
    def client(self) -> RecommendClient:
        return RecommendClient(f"http://127.0.0.1:{self.port}", timeout_seconds=60.0)

    @cached_property
    def settings(self) -> "Settings":
        from stores.settings import load_settings

        return load_settings(self.home.root / "ratchet.toml", environment={})

    @cached_property
    def ledger(self) -> "Ledger":
        from stores.ledger import Ledger

        return Ledger.of(self.home, self.settings)

    @property
    def where(self) -> dict[str, Any]:
        """What every flow is told."""
        return {"home": str(self.home.root)}

    def at(self, time_us: int) -> datetime:
        start: datetime = MARKET.start
        return start + timedelta(microseconds=time_us)

    def now(self) -> datetime:
        start: datetime = MARKET.start
        return start + timedelta(days=self.day)

    def state(self) -> dict[str, Any]:
        """What serving says of itself, ready or not."""
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10.0, trust_env=False).json()
        return found

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 120.0) -> None:
        """Until serving's own account of itself holds. Raises RuntimeError after `seconds`."""
        until = time.monotonic() + seconds
        while not holds(state := self.state()):
            if time.monotonic() > until:
                raise RuntimeError(f"serving: {what} did not happen within {seconds:.0f} s: {state}")
            time.sleep(0.05)

    def wait_for_champion(self, digest: str) -> None:
        self.wait(f"champion {digest[:12]}", lambda state: (state["champion"] or {}).get("digest") == digest)

    def wait_for_trial(self, trial_id: str | None) -> None:
        self.wait(f"trial {trial_id}", lambda state: (state["trial"] or {}).get("id") == trial_id)

    def ingest(self, now: datetime) -> None:
        """What serving logged and what lies in the landing folder, through the door."""
        from flows.ingest import ingest
        from stores.clock import set_clock

        self.wait("handover of the logs", lambda state: state["pending_rows"] == 0)
        set_clock(self.home, now)
        ingest(**self.where, now=now)

    def totals(self) -> dict[str, int]:
        """Rows by their fate, of all deliveries since the home was made."""
        from stores.lake import Lake

        return Lake.of(self.home, self.settings.lake).totals()

    def fitted(self, version: int) -> "Fitted":
        from tasks.training import load_version

        return load_version(self.home, self.settings, version)

    def candidates(self, fitted: "Fitted") -> list[list[str]]:
        """What serving draws each person's page from, best first."""
        from model.evaluation import RankerRecommender
        from model.recommending import Past, Question, best_items

        questions = []
        for context in self.panel.contexts:
            history = [Past(step.item_id, step.behaviour, _us(step.time)) for step in context.history]
            questions.append(Question(history, _us(context.time), frozenset(past.item_id for past in history)))
        return best_items(RankerRecommender.of(fitted), questions, n=self.settings.policy.candidates)

    def rate(self, candidates: Sequence[Sequence[str]]) -> float:
        """Clicks per impression, exactly."""
        return self.panel.rate(candidates, exploration=self.settings.policy.exploration)


@contextmanager
def opened_shop(root: Path, *, plan: Plan, seed: int) -> Iterator[Shop]:
    """The shop at `root`, made where there is none; its server runs for as long as the block does."""
    for name, stated in QUIET.items():
        os.environ.setdefault(name, stated)  # before Prefect is imported
    from prefect.testing.utilities import prefect_test_harness

    from stores.home import Home
    from stores.pseudonyms import Keys

    home = Home.create(root, simulation=True)
    if not (home.root / "ratchet.toml").exists():
        Keys.write_derived(home.keys, seed=seed)
        (home.root / "weak.toml").write_text(plan.settings(epochs=plan.weak_epochs), encoding="utf-8")
        (home.root / "ratchet.toml").write_text(plan.settings(epochs=plan.epochs), encoding="utf-8")
    with prefect_test_harness(server_startup_timeout=300), served(World(home.root, MARKET.items, [])) as port:
        shop = Shop(home, plan, seed, port)
        try:
            yield shop
        finally:
            shop.client.close()


def deliver_organic(shop: Shop) -> None:
    """What people do by themselves for some days, as files."""
    for day in range(shop.plan.organic_days):
        for kind, rows in (("items", shop.market.items(day)), ("events", shop.market.organic_day(day))):
            if rows:
                _write_lines(shop.home.landing / kind / f"shop-{kind}-day-{day:03}.jsonl", rows)
    shop.day = shop.plan.organic_days
    shop.ingest(shop.now())


def _write_lines(target: Path, rows: list[dict[str, Any]]) -> None:
    temporary = target.with_suffix(".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(target)


def _us(time: datetime) -> int:
    return round(time.timestamp() * 1e6)
