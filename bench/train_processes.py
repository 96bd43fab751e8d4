"""Ours and the peer's, each training in a process of its own, pinned to one core where it has one thread."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.rows import Row
from bench.train_peer_home import SCRIPT
from bench.train_work import Cost, Work

PEER_WARM = 3.0
NAMES = {"full": "full softmax", "sampled": "512 negatives"}
THEIR_LOSS = {"full": "softmax", "sampled": "sampled_softmax"}


def told(name: str, measured: float | None, unit: str = "", **more: Any) -> Row:
    """A figure without a bar; without a figure, `name` says why."""
    return {"name": name, "measured": measured, "unit": unit, "bar": "", "holds": None, **more}


def ours(work: Work) -> Cost:
    """A training of ours in a process of its own. Raises RuntimeError with its last words."""
    said = _child([sys.executable, "-m", "bench.train_work", json.dumps(asdict(work))], threads=work.threads)
    cost = Cost(**json.loads(said))
    _progress(f"ours, {NAMES[work.loss]}, {work.precision}: {cost.rate:,.0f} targets/CPU-s ({cost.steps} steps)")
    return cost


def theirs(work: Work, *, python: Path) -> float:
    """The peer's targets a CPU-second on the same work, in batches of as many positions."""
    said = _child([str(python), str(SCRIPT), json.dumps(peer_work(work))], threads=work.threads)
    cost = json.loads(said)
    rate = float(cost["targets"] / cost["cpu_s"])
    _progress(f"RecTools, {NAMES[work.loss]}: {rate:,.0f} targets/CPU-s ({cost['steps']} steps)")
    return rate


def peer_work(work: Work) -> dict[str, Any]:
    return {
        "data": work.data,
        "loss": THEIR_LOSS[work.loss],
        "negatives": work.negatives,
        "width": work.width,
        "blocks": work.blocks,
        "heads": work.heads,
        "length": work.length,
        "dropout": work.dropout,
        "users": max(1, work.batch_tokens // work.length),  # all its windows are padded to the full length
        "threads": work.threads,
        "warm": PEER_WARM,
        "seconds": work.seconds,
    }


def _child(arguments: Sequence[str], *, threads: int) -> str:
    """The last line that a process says; on one core where it has one thread."""
    pin: list[str] = []
    if threads == 1 and shutil.which("taskset"):
        pin = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*pin, *arguments],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[1]} {arguments[2]} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout.strip().splitlines()[-1]


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
