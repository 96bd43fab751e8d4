"""Does the scheduler retrain when it should, and only then? Replayed periods, judged by the product's own functions.

`python -m bench.schedule --data ../shared/data/diginetica-weeks`. Three kinds of stream from the sessions of a data
set: periods that are drawn alike, so that nothing drifts; the same with a drift planted at a known period; and the real
order. Small models of few items, so that schedules of twenty periods are affordable; the decisions are those of
`[retrain]`.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from bench.continual_data import WEEK_US, read
from bench.rows import at_least, at_most
from bench.schedule_worlds import Sessions, World, drawn, real
from model.continual.choosing import Action, Decision, Evidence, RetrainOptions, State, decide
from model.continual.drift import Shift, item_vectors, measure_drift
from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions
from model.continual.prequential import DAY_US, Figure, Prequential, judge_ahead
from model.evaluation import RankerRecommender
from model.fit import fit_full
from model.fitted import Fitted
from model.options import Device, NetworkOptions, TrainOptions
from model.sequences import Histories, merge, split_by_time

Row = dict[str, Any]

HELD = 0.1
"""Newest share of a period that no training of its week sees: it gives a full retrain its own test figure."""
SIZE = 1_500
"""Sessions in a drawn period."""
NETWORK = NetworkOptions(width=32, max_history=20, relative_times=False, temperature=0.07)
TRAINING = TrainOptions(epochs=10, learning_rate=3e-3, batch_tokens=512, device=Device.CPU, threads=1)
INCREMENT = IncrementOptions()
NO_AGE = RetrainOptions(max_age_days=10_000)
"""Full retrains on measured evidence alone."""


class Policy(StrEnum):
    EVIDENCE = "by evidence"
    WEEKLY = "full every period"
    INCREMENTS = "increments only"


@dataclass
class Replay:
    """One policy on one world, a period at a time: judged on it, decided, trained."""

    world: World
    policy: Policy
    options: RetrainOptions = NO_AGE
    seed: int = 0
    ndcg: list[float] = field(default_factory=list)
    """NDCG@10 of the model in charge on each period, before it is learnt from."""
    decisions: list[Decision] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Of trainings after the first and, by evidence, of what is measured for a decision."""

    @property
    def fulls(self) -> list[int]:
        return [number for number, each in enumerate(self.decisions) if each.action is Action.FULL]

    def run(self) -> "Replay":
        whole, state = self.world.base, State()
        now_us = self.world.start_us
        model = full = _full(whole, now_us, self.seed)
        for number, period in enumerate(self.world.periods):
            whole, _ = merge(whole, period)
            ahead = _ahead(model.fitted, whole, start_us=now_us)
            self.ndcg.append(ahead.overall.mean)
            now_us += WEEK_US
            began = time.process_time()
            evidence = self._evidence(whole, model, full, ahead, number=number, now_us=now_us)
            decision = self._decide(evidence, state)
            state = decision.state
            self.decisions.append(decision)
            if decision.action is Action.FULL:
                model = full = _full(whole, now_us, self.seed)
            elif decision.action is Action.INCREMENT:
                model = _increment(whole, model, self.seed)
            self.cpu_seconds += time.process_time() - began
        return self

    def _decide(self, evidence: Evidence, state: State) -> Decision:
        if self.policy is Policy.EVIDENCE:
            return decide(evidence, options=self.options, state=state)
        action = Action.FULL if self.policy is Policy.WEEKLY else Action.INCREMENT
        return Decision(action, self.policy.value, (), evidence)

    def _evidence(
        self, whole: Histories, model: "_Model", full: "_Model", ahead: Prequential, *, number: int, now_us: int
    ) -> Evidence:
        shifts: tuple[Shift, ...] = ()
        if self.policy is Policy.EVIDENCE:
            span_us = min(now_us - full.cutoff_us, int(self.options.window_days * DAY_US))
            reference = whole.before(full.cutoff_us)
            reference = reference.since(full.cutoff_us - int(self.options.reference_days * DAY_US))
            shifts = measure_drift(
                reference,
                whole.since(now_us - span_us),
                span_us=span_us,
                vectors=item_vectors(model.fitted),
                alpha=self.options.alpha,
                seed=self.seed,
            )
        return Evidence(
            events_version=number,
            parent=number,
            new_events=len(whole.since(model.cutoff_us)),
            events=len(whole),
            since_full=len(whole.since(full.cutoff_us)),
            full_age_days=(now_us - full.made_us) / DAY_US,
            baseline=Figure.better(full.tested, model.tested),
            prequential=ahead.known,
            shifts=shifts,
        )


@dataclass(frozen=True)
class _Model:
    fitted: Fitted
    cutoff_us: int
    made_us: int
    tested: Figure


def _full(whole: Histories, now_us: int, seed: int) -> _Model:
    cutoff_us = _cutoff(whole, now_us)
    fitted = fit_full(whole.before(cutoff_us), network=NETWORK, training=replace(TRAINING, seed=seed))
    return _Model(fitted, cutoff_us, now_us, _ahead(fitted, whole, start_us=cutoff_us).known)


def _increment(whole: Histories, parent: _Model, seed: int) -> _Model:
    new = whole.since(parent.cutoff_us)
    cutoff_us = split_by_time(new, holdout_share=HELD).cutoff_us
    fitted = fit_increment(
        parent.fitted,
        new=new.before(cutoff_us),
        past=whole.before(parent.cutoff_us),
        training=replace(TRAINING, seed=seed),
        increment=INCREMENT,
    )
    return _Model(fitted, cutoff_us, parent.made_us, _ahead(fitted, whole, start_us=cutoff_us).known)


def _cutoff(whole: Histories, now_us: int) -> int:
    return split_by_time(whole.since(now_us - WEEK_US), holdout_share=HELD).cutoff_us


def _ahead(fitted: Fitted, whole: Histories, *, start_us: int) -> Prequential:
    """On the events from `start_us` on, of at most 1,000 users."""
    return judge_ahead(
        RankerRecommender.of(fitted),
        whole,
        new_N=np.ones(len(whole), dtype=bool),
        cutoff_us=start_us,
        exclude_seen=False,
        max_users=1_000,
    )


def run(data: Path | None = None, repetitions: int = 3) -> list[Row]:
    """All rows. `repetitions`: planted drifts of each kind. Without `data`, synthetic sessions, and no real order."""
    stream = None if data is None else read(data)
    sessions = Sessions.synthetic() if stream is None else Sessions.of(stream.histories)
    rows = _stationary(sessions) + _planted(sessions, repetitions)
    return rows if stream is None else rows + _real(real(stream, sessions_share=0.25))


def _stationary(sessions: Sessions, *, periods: int = 20, size: int = SIZE) -> list[Row]:
    world = drawn(sessions, periods=periods, size=size, seed=1)
    found = Replay(world, Policy.EVIDENCE).run()
    measured = f"{periods} periods in which nothing changes"
    return [at_most(f"{measured}: full retrains", len(found.fulls), 1, unit="")]


def _planted(sessions: Sessions, repetitions: int, *, size: int = SIZE) -> list[Row]:
    rows = []
    for kind in ("popularity", "catalogue", "relations"):
        caught, early = [], 0
        for seed in range(repetitions):
            world = drawn(sessions, periods=4, size=size, seed=10 + seed, drift=kind, at=1)
            fulls = Replay(world, Policy.EVIDENCE, seed=seed).run().fulls
            early += sum(number < 1 for number in fulls)
            caught.append(any(number in (1, 2) for number in fulls))
        share = 100 * sum(caught) / repetitions
        rows.append(at_least(f"drift of {kind}: full retrain within 2 periods, {repetitions} worlds", share, 100))
        rows.append(at_most(f"drift of {kind}: full retrains before it", early, 0, unit=""))
    return rows


def _real(world: World) -> list[Row]:
    """With the default settings: `max_age_days` counts here."""
    found = {policy: Replay(world, policy, options=RetrainOptions()).run() for policy in Policy}
    rows: list[Row] = []
    for policy, replay in found.items():
        rows += [
            _shown(f"{policy.value}: mean NDCG@10 over {len(world.periods)} periods", float(np.mean(replay.ndcg))),
            _shown(f"{policy.value}: CPU-seconds", round(replay.cpu_seconds, 1), "s"),
            _shown(f"{policy.value}: full retrains", len(replay.fulls)),
        ]
    ours, weekly = found[Policy.EVIDENCE], found[Policy.WEEKLY]
    quality = float(np.mean(ours.ndcg)) / float(np.mean(weekly.ndcg))
    rows.append(
        at_least("by evidence: mean NDCG@10, of a full retrain every period", round(quality, 3), 0.99, unit="×")
    )
    rows.append(
        at_most(
            "by evidence: CPU-seconds, of a full retrain every period",
            round(ours.cpu_seconds / weekly.cpu_seconds, 3),
            0.99,
            unit="×",
        )
    )
    return rows


def _shown(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": "", "holds": None}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.schedule", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of a stream; synthetic sessions without")
    parser.add_argument("--repetitions", type=int, default=3, help="planted drifts of each kind (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.repetitions < 1:
        parser.error(f"--repetitions {chosen.repetitions}: at least 1")
    rows = run(chosen.data, chosen.repetitions)
    if chosen.json:
        print(json.dumps({"rows": rows}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = {True: "holds", False: "FAILS", None: ""}[row["holds"]]
            print(f"{row['name']:<68} {row['measured']:>9.4g} {row['unit']:<3} {row['bar']:>7}  {verdict}")
    return 1 if any(row["holds"] is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
