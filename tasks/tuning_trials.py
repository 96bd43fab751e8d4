"""The trials of a search, one after the other: what is tried next, how it is judged, when it is stopped.

The sampler is a Gaussian process with expected improvement (Optuna's GPSampler). It learns from finished trials only,
so a trial that was stopped early enters as what it would have come to had it gained from there what the finished ones
gained in the median, and one that failed as the worst so far. Stopping is asynchronous successive halving over epochs
(Li et al., MLSys 2020, algorithm 2). Each trial's draw depends on the seed, its number and the trials before it alone,
so that a search which was killed goes on as if it had not been.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from model.evaluation import Evaluation, RankerRecommender, Recommender, evaluate
from model.fit import fit_full
from model.fitted import save_fitted
from model.network.ranker import Ranker
from model.popularity import Popularity
from model.sequences import Histories, Holdout, split_by_time
from model.trainer import Step
from relations.errors import DataRejected, DependencyFailed, RatchetError
from stores.home import Home
from stores.settings import Settings
from stores.spool import Spool, SpooledRun, Status
from tasks.jobs import TrainingJob
from tasks.material import load_material
from tasks.options import objective_of, options_of
from tasks.progress import report
from tasks.search_space import Space, plain
from tasks.training import LOSS, pace
from tasks.tuning_metric import Metric

STARTUP = 6
"""Trials at random before the Gaussian process has enough to go by, the present settings among them."""
STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Search:
    """What one search is determined by, and how long this run of it may take."""

    metric: Metric
    space: Space
    trials: int
    minutes: float
    seed: int
    job: TrainingJob
    folder: str  # relative to the home

    def folder_of(self, home: Home, number: int) -> Path:
        """A trial's."""
        return home.root / self.folder / f"trial-{number:04d}"


@dataclass(frozen=True)
class Bench:
    """What trials learn from and are judged on. `test` is for the answer alone."""

    train: Histories
    validation: Holdout
    test: Holdout
    judge: Callable[[Recommender, Holdout], Evaluation]

    @staticmethod
    def of(home: Home, settings: Settings, search: Search) -> "Bench":
        material = load_material(home, settings, search.job)
        most, seed = settings.evaluation.max_users, settings.train.seed
        inner = split_by_time(material.train, holdout_share=settings.evaluation.holdout_share)

        def judge(recommender: Recommender, holdout: Holdout) -> Evaluation:
            return evaluate(
                recommender,
                holdout,
                k=search.metric.k,
                exclude_seen=settings.policy.exclude_seen,
                min_users=settings.privacy.k,
                draws=0,
            )

        bench = Bench(
            inner.train,
            inner.holdout.sample_users(most, seed=seed),
            material.holdout.sample_users(most, seed=seed),
            judge,
        )
        if not len(bench.train):
            raise DataRejected(f"events: {len(material.train)} are too few to learn from and to be judged on")
        popularity = judge(Popularity.of(bench.train), bench.validation)
        if not len(popularity):
            raise DataRejected("events: the validation slice holds no target to be judged on; ingest more events first")
        search.metric.value(popularity)  # a metric that there is not is told before anything is trained
        return bench


class _Stop(Exception):  # noqa: N818 -- ends a fit from inside, no error
    def __init__(self, why: str) -> None:
        self.why = why


@dataclass
class Searching:
    home: Home
    settings: Settings
    search: Search
    study: optuna.Study
    bench: Bench
    spool: Spool
    deadline: float

    def run(self) -> None:
        while self.in_time:
            done = [trial for trial in standing(self.study) if state_of(trial)]
            report("trials", len(done), self.search.trials)
            for trial in done:
                if state_of(trial) == "complete" and trial.value is not None:
                    self.spool.add(f"trial/{self.search.metric}", step=trial.number, value=trial.value)
            if len(done) >= self.search.trials:
                return
            self.attempt(self.next_trial(len(done)))

    @property
    def in_time(self) -> bool:
        return time.monotonic() < self.deadline

    def next_trial(self, done: int) -> Trial:
        """The one that a kill or the end of the time has left, or a new one."""
        for left in standing(self.study):
            if left.state is TrialState.RUNNING:
                if left.params.keys() == self.search.space.distributions.keys():
                    return Trial(self.study, left._trial_id)
                # killed while its values were being drawn: the same seed draws them again
                self.study.tell(left.number, state=TrialState.FAIL)
        seed = int(np.random.SeedSequence([self.search.seed, done]).generate_state(1)[0])
        # A new one each time: what it draws must not depend on where an earlier process ended.
        self.study.sampler = GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
        if not standing(self.study):
            self.study.enqueue_trial(dict(self.search.space.present))
        return self.study.ask(fixed_distributions=dict(self.search.space.distributions))

    def attempt(self, trial: Trial) -> None:
        params = {name: plain(value) for name, value in trial.params.items()}
        folder = self.search.folder_of(self.home, trial.number)
        run = SpooledRun(
            str(folder.relative_to(self.home.root)),
            f"trial {trial.number}",
            {"mode": "trial"},
            params,
            parent=self.search.folder,
        )
        with Spool(folder, run) as spool:
            try:
                value, state = self.fit(trial, params, folder, spool), "complete"
            except _Stop as stop:
                if stop.why == "time":
                    return  # its state stays as it is, and the next run goes on with it
                value, state = self.expected(trial), "pruned"
            except DependencyFailed:
                raise
            except RatchetError as error:
                if trial.number == standing(self.study)[0].number:
                    raise  # the present settings themselves
                value, state = self.worst, "failed"
                trial.set_user_attr("error", str(error))
            trial.set_user_attr("state", state)
            self.study.tell(trial, value)
            spool.end(STATUS[state], tags={"state": state})
        self.tidy()

    def fit(self, trial: Trial, params: Mapping[str, Any], folder: Path, spool: Spool) -> float:
        """The metric after the last epoch. Raises _Stop where the trial is not worth going on with, or time is up."""
        settings = self.search.space.settings(self.settings, params)
        network, training, _ = options_of(settings)
        training = replace(training, patience=0)  # the search stops trials itself
        told: Mapping[int, float] = dict(self.study.trials[trial.number].intermediate_values)
        values, losses = dict(told), []

        def on_step(step: Step) -> None:
            if not self.in_time:
                raise _Stop("time")
            losses.append(step.loss)
            report(f"trial {trial.number}", step.step, step.total, pace(step))

        def on_epoch(epoch: int, ranker: Ranker) -> None:
            recommender = RankerRecommender(ranker, [str(item) for item in self.bench.train.items])
            values[epoch] = self.search.metric.value(self.bench.judge(recommender, self.bench.validation))
            spool.add(str(self.search.metric), step=epoch, value=values[epoch])
            if losses:
                spool.add(LOSS, step=epoch, value=float(np.mean(losses)))
                losses.clear()
            spool.flush()
            if epoch not in told:
                trial.report(values[epoch], epoch)
            if trial.should_prune() and trial.number > standing(self.study)[0].number and epoch < training.epochs:
                raise _Stop("pruned")

        fitted = fit_full(
            self.bench.train,
            network=network,
            training=training,
            objective=objective_of(settings),
            run=folder / "run",
            on_step=on_step,
            on_epoch=on_epoch,
        )
        save_fitted(fitted, folder / "fitted")
        trial.set_user_attr("seconds", round(fitted.seconds, 2))
        return values[training.epochs]

    def expected(self, trial: Trial) -> float:
        values = self.study.trials[trial.number].intermediate_values
        epoch = max(values)
        finished = [each for each in self.study.trials if state_of(each) == "complete" and each.value is not None]
        gains = [
            each.value / each.intermediate_values[epoch]
            for each in finished
            if each.value is not None and each.intermediate_values.get(epoch)
        ]
        return float(values[epoch] * (np.median(gains) if gains else 1.0))

    @property
    def worst(self) -> float:
        values = [trial.value for trial in self.study.trials if trial.value is not None]
        return max(values) if self.search.metric.lower_is_better else min(values)

    def tidy(self) -> None:
        """Only the first and the best model are needed."""
        kept = (standing(self.study)[0].number, best_of(self.study, self.search.metric).number)
        for trial in self.study.trials:
            folder = self.search.folder_of(self.home, trial.number)
            if state_of(trial):
                shutil.rmtree(folder / "run", ignore_errors=True)
                if trial.number not in kept:
                    shutil.rmtree(folder / "fitted", ignore_errors=True)


def standing(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but those that were killed before they had values; the first has the present settings."""
    return [trial for trial in study.trials if trial.state is not TrialState.FAIL]


def state_of(trial: FrozenTrial) -> str:
    """complete, pruned or failed; empty before its end. Optuna calls all three complete, so that it learns of them."""
    return str(trial.user_attrs.get("state", ""))


def best_of(study: optuna.Study, metric: Metric) -> FrozenTrial:
    """The earliest of equals."""
    sign = -1.0 if metric.lower_is_better else 1.0
    done = [trial for trial in study.trials if state_of(trial) == "complete" and trial.value is not None]
    return max(done, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))
