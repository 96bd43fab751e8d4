"""Increments against the full retrain, period by period, on real streams.

`ratchet bench continual --data FOLDER [--base N]` learns the periods before `--base` (of DIGINETICA's weeks the first
ten), then goes on period by period: each arm learns what the period brought, and is asked for the events of the next
one, all items ranked. The full retrain learns everything from scratch each time; its seconds are the unit of cost. A
share of the users is kept out of every training, and asked about after each step: what of the base is forgotten.

Seed 0 runs all methods; the other seeds of `--repetitions` run the four that the claims are about. Each seed is a
process of its own on one thread, `--jobs` of them side by side. `--steps` is the number of increments.

The picture goes to `--picture FILE` (SVG). `python -m bench.continual '{"path": "…", "seed": 0, "arms": ["stale"]}'`
runs one seed alone and prints its figures, one line a step.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.continual_data import Stream, read
from bench.rows import Row, at_least, at_most

if TYPE_CHECKING:
    from model.continual.cohorts import Cohorts
    from model.evaluation import Evaluation
    from model.fitted import Fitted

DATA = Path("../shared/data/diginetica-weeks")
SEEDS = 3
STEPS = 5
PANEL_SHARE = 0.02
ASKED = 5_000
"""Users of a period that are asked at most."""
FLOORS = {"ndcg@10": 0.99, "recall@20": 0.97}
COST = 0.08
DRIFT = 0.97
"""No step's NDCG@10 may lie below this share of the full retrain's."""


@dataclass(frozen=True)
class Recipe:
    """Names as in `[model]`, `[train]` and `[increment]`."""

    network: dict[str, Any]
    training: dict[str, Any]
    increment: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    # sessions have no clock within them, and few items
    "diginetica-weeks": Recipe(
        {"max_history": 20, "dropout": 0.1, "relative_times": False, "temperature": 0.07},
        {"epochs": 10, "learning_rate": 4e-3, "loss": "sampled", "negatives": 4096, "batch_tokens": 2560},
        {"learning_rate": 1.5e-3, "replay_share": 0.3},
    ),
    "ml-100k": Recipe({"max_history": 50}, {"epochs": 16, "learning_rate": 2e-3, "batch_tokens": 1600}),
    "amazon2023": Recipe(
        {"max_history": 20, "dropout": 0.4}, {"epochs": 12, "learning_rate": 2e-3, "batch_tokens": 640}
    ),
}
METHODS: dict[str, dict[str, Any]] = {
    "fine-tune": {"replay_share": 0.0},
    "default": {},
    "replay, reservoir": {"replay": "reservoir"},
    "replay, exemplars": {"replay": "exemplars"},
    "replay 50 %": {"replay_share": 0.5},
    "distillation": {"distillation": 1.0},
    "elastic weights": {"ewc": 10.0},
    "item table only": {"trained": "items"},
    "low-rank": {"trained": "lora"},
    "line search": {"line_search": True},
}
CLAIMED = ("stale", "fine-tune", "default", "full")


def run(
    data: Path | None = None,
    base: int | None = None,
    repetitions: int = SEEDS,
    steps: int = STEPS,
    jobs: int = 1,
    picture: Path | None = None,
) -> list[Row]:
    """One row a figure. Raises UsageError without the data."""
    path = DATA if data is None else data
    stream = read(path, base=base)  # fails here rather than in each process
    asked = {"path": str(path), "base": base, "steps": steps}
    arms = [["stale", *METHODS, "full"], *[list(CLAIMED)] * (repetitions - 1)]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(_in_own_process, [asked | {"seed": n, "arms": each} for n, each in enumerate(arms)]))
    points = [Point(**each) for seed in found for each in seed]
    if picture is not None:
        from bench.continual_picture import draw

        draw(points, picture, name=stream.name)
    return rows_of(points, floors=path.name == DATA.name)


@dataclass(frozen=True)
class Point:
    """One arm after one step: what it ranks of the period after, what is left of the base, what the step cost."""

    seed: int
    arm: str
    step: int  # from 1
    period: int
    cpu_s: float
    targets: int
    """Trained; a target's cost is the same in all arms but those that ask for more of each."""
    recall20: float
    ndcg10: float
    rows: int
    kept: dict[str, float]
    """Cohort of users that nothing learns from → NDCG@10."""


def rows_of(points: list[Point], *, floors: bool) -> list[Row]:
    """Means over steps of the share of the full retrain of the same seed and step; bars where `floors`."""
    full = {(each.seed, each.step): each for each in points if each.arm == "full"}
    rows: list[Row] = []
    for arm in dict.fromkeys(each.arm for each in points):
        of_arm = [each for each in points if each.arm == arm]
        for name, value in (("recall@20", "recall20"), ("ndcg@10", "ndcg10")):
            each = _by_seed(of_arm, lambda point: getattr(point, value))  # noqa: B023 -- used at once
            rows.append(_told(f"{arm}: {name}{_spread(each)}", statistics.mean(each)))
        shares = {
            name: _shares(of_arm, full, value) for name, value in (("recall@20", "recall20"), ("ndcg@10", "ndcg10"))
        }
        cost = _shares(of_arm, full, "cpu_s")
        if arm == "full":
            rows.append(_told("full: CPU-seconds a step", statistics.mean(_by_seed(of_arm, lambda p: p.cpu_s)), "s"))
            continue
        claimed = floors and arm == "default"
        for name, each in shares.items():
            said = f"{arm}: {name} over the full retrain's{_spread(each)}"
            rows.append(
                at_least(said, round(statistics.mean(each), 4), FLOORS[name], unit="")
                if claimed
                else _told(said, statistics.mean(each))
            )
        said = f"{arm}: cost over the full retrain's"
        rows.append(
            at_most(said, round(statistics.mean(cost), 4), COST, unit="")
            if claimed
            else _told(said, statistics.mean(cost))
        )
        trained = statistics.mean(_shares(of_arm, full, "targets"))
        rows.append(_told(f"{arm}: targets trained over the full retrain's", trained))
        steps = sorted({each.step for each in of_arm})
        worst = min(
            statistics.mean(p.ndcg10 / full[p.seed, p.step].ndcg10 for p in of_arm if p.step == step) for step in steps
        )
        said = f"{arm}: ndcg@10 over the full retrain's, worst of {len(steps)} steps"
        rows.append(at_least(said, round(worst, 4), DRIFT, unit="") if claimed else _told(said, worst))
        stale = {(p.seed, p.step): p for p in points if p.arm == "stale"}
        for cohort in sorted({name for p in of_arm for name in p.kept}):
            last = [p for p in of_arm if p.step == steps[-1] and stale[p.seed, p.step].kept.get(cohort)]
            if not last:
                continue  # the base knew nothing of it
            change = statistics.mean(p.kept[cohort] / stale[p.seed, p.step].kept[cohort] - 1 for p in last)
            rows.append(
                _told(f"{arm}: what the base knew of {cohort}, after {len(steps)} steps, ndcg@10 changed by", change)
            )
    return rows


def _shares(points: list[Point], full: dict[tuple[int, int], Point], value: str) -> list[float]:
    """One a seed: the mean over its steps."""
    return _by_seed(points, lambda point: getattr(point, value) / getattr(full[point.seed, point.step], value))


def _by_seed(points: list[Point], value: Any) -> list[float]:
    seeds = sorted({point.seed for point in points})
    return [statistics.mean(value(point) for point in points if point.seed == seed) for seed in seeds]


def _spread(each: list[float]) -> str:
    """Of the mean of seeds: Student's 95 % interval."""
    if len(each) < 2:
        return ", one seed"
    from scipy.stats import t

    half = t.ppf(0.975, len(each) - 1) * statistics.stdev(each) / len(each) ** 0.5
    return f", {len(each)} seeds, ± {half:.4f}"


def _told(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}


def _in_own_process(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Threads, and the CPU-seconds that are counted, are a process's own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.continual", json.dumps(asked)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"seed {asked['seed']}: {done.stderr.strip()[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def go_through(stream: Stream, recipe: Recipe, *, arms: list[str], seed: int, steps: int) -> Iterator[Point]:
    """Each arm's figures, period by period."""
    from model.continual.cohorts import freeze, in_panel
    from model.continual.increment import fit_increment
    from model.continual.options import IncrementOptions
    from model.fit import fit_full
    from model.options import NetworkOptions, TrainOptions

    panel_U = in_panel(stream.histories.users.tolist(), share=PANEL_SHARE, least=1)
    panel_N = panel_U[stream.histories.user_N()]
    panel = stream.histories.keep(panel_N).before(stream.starts[stream.base])
    stream = replace(stream, histories=stream.histories.keep(~panel_N))
    training = TrainOptions(**recipe.training, seed=seed, threads=1)
    network = NetworkOptions(**recipe.network)
    learnt = stream.before(stream.base)
    base = fit_full(learnt, network=network, training=training)
    counts = np.bincount(learnt.item_N, minlength=len(learnt.items))
    trained = {str(item): int(count) for item, count in zip(learnt.items, counts, strict=True)}
    cohorts = freeze(panel, trained=trained, old_before_us=stream.starts[stream.base])
    of_arm = dict.fromkeys(arms, base)
    for step in range(1, steps + 1):
        period = stream.base + step - 1
        past, new = stream.before(period), stream.only(period)
        for arm in arms:  # side by side, so that other work on the machine slows all alike
            fitted = of_arm[arm]
            began = time.process_time()
            if arm == "full":
                fitted = fit_full(stream.before(period + 1), network=network, training=training)
            elif arm != "stale":
                increment = IncrementOptions(**recipe.increment | METHODS[arm])
                fitted = fit_increment(fitted, new=new, past=past, training=training, increment=increment)
            spent = time.process_time() - began
            of_arm[arm] = fitted
            found = _ask(fitted, stream, period + 1)
            yield Point(
                seed=seed,
                arm=arm,
                step=step,
                period=period,
                cpu_s=spent,
                targets=fitted.targets if arm != "stale" else 0,
                recall20=found.overall["recall@20"],
                ndcg10=_ndcg10(found.rank_R),
                rows=len(found),
                kept=_kept(fitted, cohorts, sessions=stream.sessions),
            )


def _ask(fitted: "Fitted", stream: Stream, period: int) -> "Evaluation":
    from model.evaluation import RankerRecommender, evaluate

    holdout = stream.holdout(period, most_users=ASKED)
    return evaluate(RankerRecommender.of(fitted), holdout, k=20, exclude_seen=not stream.sessions, draws=0, batch=512)


def _kept(fitted: "Fitted", cohorts: "Cohorts | None", *, sessions: bool) -> dict[str, float]:
    from model.evaluation import RankerRecommender, evaluate

    if cohorts is None:
        return {}
    found = evaluate(RankerRecommender.of(fitted), cohorts.holdout, k=10, exclude_seen=not sessions, draws=0, batch=512)
    asked = ("all", "tail_items")
    members = cohorts.of_rows(found.event_R)
    return {name: float(found.ndcg_R[members[name]].mean()) for name in asked if members[name].any()}


def _ndcg10(rank_R: np.ndarray) -> float:
    return float(np.where((rank_R > 0) & (rank_R <= 10), 1 / np.log2(np.maximum(rank_R, 1) + 1), 0).mean())


def main() -> None:
    asked = json.loads(sys.argv[1])
    path = Path(asked["path"])
    recipe = RECIPES.get(path.name, RECIPES["diginetica-weeks"])
    for part in ("network", "training", "increment"):
        recipe = replace(recipe, **{part: getattr(recipe, part) | asked.get(part, {})})
    stream = read(path, base=asked.get("base"))
    steps = min(asked.get("steps", STEPS), len(stream.starts) - stream.base - 1)
    arms = asked.get("arms") or ["stale", *METHODS, "full"]
    for point in go_through(stream, recipe, arms=arms, seed=asked.get("seed", 0), steps=steps):
        print(json.dumps(asdict(point)), flush=True)


if __name__ == "__main__":
    main()
