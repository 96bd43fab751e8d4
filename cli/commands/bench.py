"""`ratchet bench`: one command a benchmark; `holds` is computed from the measured figure and its bar."""

import importlib
import inspect
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from cli.console import Context, Result, command
from relations.errors import UsageError

BENCHMARKS = {
    "gate": "bench.gate",
    "ingest": "bench.ingest",
    "faults": "bench.faults",
    "forgetting": "bench.forgetting",
    "poison": "bench.poison",
    "quality": "bench.quality",
    "attributes": "bench.attributes",
    "cold": "bench.cold",
    "continual": "bench.continual",
    "continual-cost": "bench.continual_curves",
    "text": "bench.text",
    "schedule": "bench.schedule",
    "serve": "bench.serve",
    "train": "bench.train",
    "online": "bench.online",
    "nearest": "bench.nearest",
    "marketplace": "bench.marketplace",
    "variants": "bench.variants",
}


@command("bench", short_help="Run a benchmark.")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="A data set, where the benchmark needs one.")
@click.option("--repetitions", type=click.IntRange(1), help="Fewer for a quick look; the default is the full count.")
@click.option("--rows", type=click.IntRange(2_000), help="Events of `ingest`, or items of `serve`, for a quick look.")
@click.option("--preset", help="Recipe of `quality`: base, or quick; block of `variants`: softmax, or hstu.")
@click.option("--jobs", type=click.IntRange(1), help="Trainings of `quality` or `continual` side by side; default 1.")
@click.option(
    "--seconds", type=click.FloatRange(0.5), help="Of a training of `train` (CPU; 10), a timing of `serve` (6)."
)
@click.option("--base", type=click.IntRange(1), help="Periods that the first model of `continual` learns from.")
@click.option("--steps", type=click.IntRange(1), help="Increments of `continual`; the default is 5.")
@click.option("--part", "parts", multiple=True, help="One part of `faults`, by name; may be repeated.")
@click.option("--trials", type=click.IntRange(2), help="Trials of `marketplace`, half of them null; default 40.")
@click.option("--seed", type=click.IntRange(0), help="Of `marketplace`; default 0.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where `marketplace` keeps its trials: "
    "a line each, and the home beside them. A run that was cut off goes on from there.",
)
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="SVG file for `continual` to draw.")
def bench(
    context: Context,
    *,
    name: str,
    data: Path | None,
    repetitions: int | None,
    rows: int | None,
    preset: str | None,
    jobs: int | None,
    seconds: float | None,
    base: int | None,
    steps: int | None,
    parts: tuple[str, ...],
    picture: Path | None,
    trials: int | None,
    seed: int | None,
    out: Path | None,
) -> Result:
    """Run benchmark NAME and compare each figure with its bar."""
    if name not in BENCHMARKS:
        raise UsageError(f"{name} is not a benchmark; known: {', '.join(BENCHMARKS)}")
    run = importlib.import_module(BENCHMARKS[name]).run
    stated = {
        "repetitions": repetitions,
        "data": data,
        "rows": rows,
        "preset": preset,
        "jobs": jobs,
        "seconds": seconds,
        "base": base,
        "steps": steps,
        "parts": parts or None,
        "picture": picture,
        "trials": trials,
        "seed": seed,
        "out": out,
    }
    arguments: dict[str, Any] = {option: value for option, value in stated.items() if value is not None}
    unknown = [option for option in arguments if option not in inspect.signature(run).parameters]
    if unknown:
        raise UsageError(f"{name} has no --{unknown[0]}; leave it out")
    measured = run(**arguments)
    lines = [_line(row) for row in measured]
    answer = {
        "rows": measured,
        "machine": _machine(),
        "command": " ".join(["ratchet", *sys.argv[1:]]),
        "commit": _commit(),
    }
    return Result(answer, tuple(lines), 4 if any(row["holds"] is False for row in measured) else 0)


def _line(row: dict[str, Any]) -> str:
    if row["measured"] is None:  # not measured here; the name says why
        return f"– {row['name']}"
    if row["holds"] is None:  # a figure without a bar
        return f"· {row['name']}: {_shown(row['measured'])} {row['unit']}"
    mark = "✓" if row["holds"] else "✗"
    return f"{mark} {row['name']}: {_shown(row['measured'])} {row['unit']} (bar {row['bar']})"


def _shown(measured: float) -> str:
    return f"{measured:,.0f}" if abs(measured) >= 10_000 else f"{measured:.4g}"


def _machine() -> dict[str, Any]:
    import os

    return {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
