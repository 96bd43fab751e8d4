"""`ratchet bench`: one command a benchmark; `holds` is computed from the measured figure and its bar."""

import importlib
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from cli.console import Context, Result, command
from relations.errors import UsageError

BENCHMARKS = {"gate": "bench.gate"}


@command("bench", short_help="Run a benchmark.")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="A data set, where the benchmark needs one.")
@click.option("--repetitions", type=click.IntRange(1), help="Fewer for a quick look; the default is the full count.")
def bench(context: Context, *, name: str, data: Path | None, repetitions: int | None) -> Result:
    """Run benchmark NAME and compare each figure with its bar."""
    if name not in BENCHMARKS:
        raise UsageError(f"{name} is not a benchmark; known: {', '.join(BENCHMARKS)}")
    arguments: dict[str, Any] = {}
    if repetitions is not None:
        arguments["repetitions"] = repetitions
    if data is not None:
        arguments["data"] = data
    rows = importlib.import_module(BENCHMARKS[name]).run(**arguments)
    lines = [
        f"{'✓' if row['holds'] else '✗'} {row['name']}: {row['measured']:.4g} {row['unit']} (bar {row['bar']})"
        for row in rows
    ]
    answer = {"rows": rows, "machine": _machine(), "command": " ".join(["ratchet", *sys.argv[1:]]), "commit": _commit()}
    return Result(answer, tuple(lines), 0 if all(r["holds"] for r in rows) else 4)


def _machine() -> dict[str, Any]:
    import os

    return {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
