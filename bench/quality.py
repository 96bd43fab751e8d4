"""How well the ranker ranks: leave-one-out with a full ranking, beside the published figures.

`ratchet bench quality --data FOLDER|FILE` trains on all but each user's last event and asks for that one, among all
items that the user has not met; the protocol of HSTU's publication. The recipe is fixed (`RECIPES`): nothing is chosen
by looking at the test items, and the weights at the end of the training are what counts. `--repetitions` is the number
of seeds, each of which trains in a process of its own on one thread, `--jobs` of them side by side.

`python -m bench.quality '{"log": "ml-1m", "back": 2, "network": {"blocks": 2}}'` runs one seed of another recipe, here
tested on the last event but one (`back`), by which recipes are chosen.

The curve over CPU-seconds is that of the run's own weights (their moving average) after each third epoch; the time for
testing is not counted.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.quality_data import leave_one_out, read
from bench.rows import Row, at_least, at_most
from relations.errors import UsageError

DATA = Path("../shared/data/ml-1m")
SEEDS = 3
PUBLISHED = {
    "SASRec, BCE, 1 negative (gSASRec-pytorch)": (0.1341, 0.2500),
    "BERT4Rec (bert4rec_repro)": (0.1516, 0.2821),
    "SASRec, sampled softmax (generative-recommenders)": (0.1603, 0.2853),
    "HSTU (generative-recommenders)": (0.1720, 0.3097),
    "gSASRec, gBCE, 256 negatives (gSASRec-pytorch)": (0.1726, 0.3003),
    "eSASRec (transformer_benchmark)": (0.1772, 0.3133),
    "SASRec, full cross-entropy (Turning Dross)": (0.1821, 0.3152),
    "SASRec, 3,000 negatives (Turning Dross)": (0.1857, 0.3159),
    "HSTU-large (generative-recommenders)": (0.1893, 0.3294),
    "HSTU, full softmax, length-normalised (NetEase)": (0.1944, 0.3419),
}
"""NDCG@10 and HR@10 on MovieLens-1M, leave-one-out, full ranking, seen items left out; who states it."""
FLOOR = (0.182, 0.315)
EARLY = 300.0
EARLY_FLOOR = 0.155
PEAK_MB = 1_500.0


@dataclass(frozen=True)
class Recipe:
    """Names as in `[model]` and `[train]`."""

    network: dict[str, Any]
    training: dict[str, Any]
    objective: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "base": Recipe(
        network={
            "width": 128,
            "blocks": 4,
            "heads": 2,
            "max_history": 200,
            "dropout": 0.25,
            "block": "hstu",
            "relative_times": False,  # the data has no times
        },
        training={"epochs": 16, "learning_rate": 2e-3, "floor": 0.02, "warm_up": 0.02, "ema": 0.999},
    ),
    # for some 300 CPU-seconds
    "quick": Recipe(
        network={
            "width": 128,
            "blocks": 2,
            "heads": 2,
            "max_history": 200,
            "dropout": 0.2,
            "block": "hstu",
            "relative_times": False,
        },
        training={"epochs": 8, "learning_rate": 2e-3, "floor": 0.02, "warm_up": 0.02, "ema": 0.998},
    ),
}


def run(
    data: Path | None = None, repetitions: int = SEEDS, preset: str = "base", jobs: int = 1, device: str = "cpu"
) -> list[Row]:
    """One row a figure. Raises UsageError without the data."""
    if preset not in RECIPES:
        raise UsageError(f"quality has no preset {preset!r}; known: {', '.join(RECIPES)}")
    path = DATA if data is None else data
    log = read(path)
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as name:
        file = log.write(Path(name) / "log.npz")
        with ThreadPoolExecutor(jobs) as pool:
            asked = {"log": str(file), "preset": preset, "device": device}
            found = list(pool.map(_in_own_process, [asked | {"seed": seed} for seed in range(repetitions)]))
    rows = [*_measured(found, published=path.is_dir())]
    if path.is_dir():
        for model, (ndcg, hr) in PUBLISHED.items():
            rows += [_told(f"published: {model}: NDCG@10", ndcg), _told(f"published: {model}: HR@10", hr)]
    return rows


def _measured(found: list[dict[str, Any]], *, published: bool) -> list[Row]:
    rows: list[Row] = []
    for name, floor in zip(("ndcg@10", "hr@10"), FLOOR, strict=True):
        each = [seed["final"][name] for seed in found]
        mean = statistics.mean(each)
        said = f"{name}, mean of {len(each)} seeds ({', '.join(f'{value:.4f}' for value in each)})"
        rows.append(at_least(said, round(mean, 4), floor, unit="") if published else _told(said, mean))
        low, high = found[0]["intervals"][name]
        rows.append(_told(f"{name}, seed 0: 95 % interval over users from {low:.4f} to", high))
    for cpu_s in sorted({point["cpu_s"] for point in found[0]["curve"]}):
        point = next(point for point in found[0]["curve"] if point["cpu_s"] == cpu_s)
        said = f"after {cpu_s:.0f} CPU-s, seed 0, epoch {point['epoch']}: hr@10 {point['hr@10']:.4f}, ndcg@10"
        rows.append(_told(said, point["ndcg@10"]))
    seconds = statistics.mean(seed["cpu_s"] for seed in found)
    rows.append(_told("CPU-seconds of a training, mean", round(seconds), unit="s"))
    rows.append(_told("targets a CPU-second, mean", round(statistics.mean(s["targets"] / s["cpu_s"] for s in found))))
    peak = max(seed["peak_mb"] for seed in found)
    rows.append(at_most("peak memory", round(peak), PEAK_MB, unit="MB"))
    rows.append(_told("users tested", found[0]["rows"]))
    return rows


def _told(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}


def _in_own_process(asked: dict[str, Any]) -> dict[str, Any]:
    """Threads and what memory a training takes are a process's own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.quality", json.dumps(asked)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"seed {asked['seed']}: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def train_and_test(
    file: Path, recipe: Recipe, *, seed: int, back: int = 1, device: str = "cpu", every: int = 3
) -> dict[str, Any]:
    """One seed: its curve, its final figures, what it cost."""
    import resource
    import time

    from bench.train_data import read_log
    from model.evaluation import RankerRecommender, evaluate
    from model.fit import fit_full
    from model.network.ranker import Ranker
    from model.objectives.options import ObjectiveOptions
    from model.options import Device, NetworkOptions, TrainOptions

    data = leave_one_out(read_log(file) if file.suffix == ".npz" else read(file), back=back)
    training = TrainOptions(**recipe.training, seed=seed, threads=1, device=Device(device))
    vocabulary = tuple(str(item) for item in data.train.items)
    curve: list[dict[str, Any]] = []
    testing = 0.0
    began = time.process_time()

    def test(epoch: int, ranker: Ranker) -> None:
        nonlocal testing
        if epoch % every and epoch != training.epochs:
            return
        paused = time.process_time()
        found = evaluate(RankerRecommender(ranker, vocabulary), data.holdout, draws=0, batch=64)
        point = {"epoch": epoch, "cpu_s": round(paused - began - testing, 1)}
        curve.append(point | {name: found.overall[name] for name in ("ndcg@10", "hr@10")})
        print(json.dumps(curve[-1]), file=sys.stderr, flush=True)
        testing += time.process_time() - paused

    fitted = fit_full(
        data.train,
        network=NetworkOptions(**recipe.network),
        training=training,
        objective=ObjectiveOptions(**recipe.objective),
        on_epoch=test,
    )
    spent = time.process_time() - began - testing
    final = evaluate(RankerRecommender.of(fitted), data.holdout, batch=64)
    return {
        "curve": curve,
        "final": {name: final.overall[name] for name in ("ndcg@10", "hr@10")},
        "intervals": {name: final.intervals[name] for name in ("ndcg@10", "hr@10")},
        "rows": len(final),
        "cpu_s": spent,
        "targets": fitted.targets,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    recipe = RECIPES[asked.get("preset", "base")]
    for part in ("network", "training", "objective"):
        recipe = replace(recipe, **{part: getattr(recipe, part) | asked.get(part, {})})
    print(json.dumps(asdict(recipe)), file=sys.stderr, flush=True)
    answer = train_and_test(
        Path(asked["log"]),
        recipe,
        seed=asked.get("seed", 0),
        back=asked.get("back", 1),
        device=asked.get("device", "cpu"),
    )
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
