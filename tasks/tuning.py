"""The search for better settings: trials on the home's own events, the present settings first.

A trial trains on what a training would, less its newest part, and is judged on that part, the validation slice. What a
full training is tested on no trial sees: there the best settings are compared with the present ones, so that the
answer is not flattered by the choosing. A search is its folder: killed and started again it goes on, the killed trial
at its last checkpoint.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.evaluation import RankerRecommender, compare
from model.fitted import load_fitted
from relations.errors import DependencyFailed, UsageError
from stores.home import Home
from stores.settings import Settings
from stores.spool import Spool, SpooledRun
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.search_space import fragment, plain, space_of
from tasks.spooling import send_left, sending, within
from tasks.tuning_metric import Metric
from tasks.tuning_trials import Bench, Search, Searching, best_of, standing, state_of


def plan_search(
    home: Home, settings: Settings, *, metric: str = "", trials: int = 0, minutes: float = 0.0, seed: int | None = None
) -> Search:
    """What is not given is as `[tune]` says. Raises UsageError without events."""
    tune = settings.tune
    seed = tune.seed if seed is None else seed
    wanted = Metric.of(metric or tune.metric or f"ndcg@{settings.evaluation.k}", k=settings.evaluation.k)
    space = space_of(settings)
    job = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    stopping = (tune.first_epochs, tune.reduction)
    ranges = {name: repr(distribution) for name, distribution in space.distributions.items()}
    facts = [job.folder, str(wanted), ranges, seed, stopping, settings.policy.exclude_seen]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Search(wanted, space, trials or tune.trials, minutes or tune.minutes, seed, job, f"tuning/{key}")


@task(name="search", cache_policy=NO_CACHE)
def run_search(home: Home, settings: Settings, search: Search) -> dict[str, Any]:
    """Search until the trials or the minutes are used up; returns the answer as plain values. Nothing is promoted.

    Raises DataRejected when there is nothing to learn from or to be judged on, UsageError for a metric that there is
    not, when the time does not suffice for the present settings, or while another process is at the same search.
    """
    deadline = time.monotonic() + 60 * search.minutes
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = home.root / search.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "search.lock", timeout=0), _study(folder, search, settings) as study:
            bench = Bench.of(home, settings, search)
            facts = {
                "metric": str(search.metric),
                "seed": search.seed,
                **{name: str(each) for name, each in search.space.distributions.items()},
            }
            with (
                Spool(folder, SpooledRun(search.folder, f"tune {search.metric}", {"mode": "tune"}, facts)) as spool,
                sending(home, settings, folder),
            ):
                Searching(home, settings, search, study, bench, spool, deadline).run()
                answer = _answer(home, settings, search, study, bench)
                spool.end("FINISHED", tags={"best": answer["toml"]})
    except Timeout as error:
        raise UsageError(f"{folder}: another process is at this search; wait for it") from error
    with suppress(DependencyFailed):  # the spool keeps it for the next run
        within(lambda: send_left(home, settings), seconds=settings.tracking.wait_seconds)
    return answer


@contextmanager
def _study(folder: Path, search: Search, settings: Settings) -> Iterator[optuna.Study]:
    storage = RDBStorage(f"sqlite:///{folder / 'study.db'}", engine_kwargs={"connect_args": {"timeout": 60}})
    try:
        yield optuna.create_study(
            study_name="search",
            storage=storage,
            load_if_exists=True,
            direction="minimize" if search.metric.lower_is_better else "maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=settings.tune.first_epochs, reduction_factor=settings.tune.reduction
            ),
        )
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _answer(home: Home, settings: Settings, search: Search, study: optuna.Study, bench: Bench) -> dict[str, Any]:
    trials = standing(study)
    if not trials or not state_of(trials[0]):
        epochs = max(trials[0].intermediate_values, default=0) if trials else 0
        raise UsageError(
            f"[tune] minutes = {search.minutes:g}: the present settings came to epoch {epochs} of "
            f"{settings.train.epochs} in that time; run it again, and it goes on from there"
        )
    best = best_of(study, search.metric)
    params = {name: plain(value) for name, value in best.params.items()}
    first = trials[0].number
    test = None if best.number == first else _compare(home, search, bench, present=first, best=best.number)
    return {
        "metric": str(search.metric),
        "lower_is_better": search.metric.lower_is_better,
        "folder": search.folder,
        "seed": search.seed,
        "trials": [
            {
                "number": trial.number,
                "state": state_of(trial) or "unfinished",
                "value": trial.value if state_of(trial) == "complete" else None,
                "epochs": max(trial.intermediate_values, default=0),
                "params": {name: plain(value) for name, value in trial.params.items()},
                **({"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}),
            }
            for trial in trials
        ],
        "present": {"value": trials[0].value, "params": dict(search.space.present)},
        "best": {"trial": best.number, "value": best.value, "params": params},
        "test": test,
        "toml": fragment(params),
    }


def _compare(home: Home, search: Search, bench: Bench, *, present: int, best: int) -> dict[str, Any]:
    """Best less present on rows that no trial has seen; both trained on the same events."""
    found = [
        bench.judge(RankerRecommender.of(load_fitted(search.folder_of(home, number) / "fitted")), bench.test)
        for number in (present, best)
    ]
    ours, theirs = found[1], found[0]
    interval = asdict(compare(ours, theirs)) if len(ours) else None
    values: dict[str, Any] = {}
    with suppress(UsageError):  # the newest rows may not hold that part
        values = {"present": search.metric.value(theirs), "best": search.metric.value(ours)}
    return {**values, "rows": len(ours), f"ndcg@{search.metric.k}": interval}


def verdict(answer: Mapping[str, Any]) -> str:
    """One line for a person."""
    metric, present, best, test = (answer[name] for name in ("metric", "present", "best", "test"))
    if test is None:
        return f"nothing better than the present settings was found: {metric} {present['value']:.4f} in validation"
    found = (
        f"trial {best['trial']}: {metric} {best['value']:.4f} against {present['value']:.4f} of the present settings"
    )
    name = next(name for name in test if name.startswith("ndcg@"))
    interval = test[name]
    if interval is None:
        return f"{found} in validation; the test slice holds no rows"
    low, high = interval["low"], interval["high"]
    judged = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return (
        f"{found} in validation; on rows that no trial saw {name} {interval['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] over {interval['users']:,} users: {judged}"
    )
