"""Two processes that train together against one alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import FILE
from model.processes import Processes, joined

ROOT = Path(__file__).parents[2]

TRAIN = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from torch import distributed
from model import trainer
from model.fit import fit_full
from model.options import Device, NetworkOptions, Precision, TrainOptions
from model.sequences import Histories

folder = Path(sys.argv[1])
rng = np.random.default_rng(1)
h = Histories(np.array([f"u{n:02d}" for n in range(30)], dtype=object), np.array([f"i{n:02d}" for n in range(30)],
              dtype=object), rng.integers(0, 30, size=600), np.ones(600, dtype=np.int64),
              np.tile(np.arange(20), 30) * 10**6, np.arange(0, 601, 20))
network = NetworkOptions(width=16, max_history=8, dropout=0.0)
plain = TrainOptions(epochs=2, learning_rate=1e-3, batch_tokens=50,
                     threads=1, device=Device.CPU, precision=Precision.FLOAT32)
CASES = {
    "full": replace(plain, accumulate=2, clip_norm=1.0, ema=0.9),
    "sampled": replace(plain, loss="sampled", negatives=8, patience=1),
    "private": replace(plain, dp_clip=0.1, dp_noise=0.5, dp_users=10, dp_delta=1e-3),
}
trainer.new_secret = lambda: 7  # so that one process and two draw the same users

def train(name, run=None):
    told = []
    found = fit_full(h, network=network, training=CASES[name], run=run, on_step=lambda step: told.append(step.loss))
    return found, told

def attempt(rank):
    answers = {}
    for name in CASES:
        found, told = train(name, folder / f"run{rank}-{name}")
        weights = {k: v.double().sum().item() for k, v in found.ranker.state_dict().items()}
        answers[name] = [found.losses, found.targets, weights, found.digest, len(told)]
    (folder / f"answer{rank}.json").write_text(json.dumps(answers))

children = []
for rank in (0, 1):  # forked before any thread starts
    children.append(os.fork())
    if not children[-1]:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        attempt(rank)
        distributed.destroy_process_group()
        os._exit(0)
for child in children:
    assert os.waitpid(child, 0)[1] == 0, "see above"
attempt(-1)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Any], Path]:
    """Of one process alone (−1), and of ranks 0 and 1 of two."""
    folder = tmp_path_factory.mktemp("together")
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    found = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return {rank: json.loads((folder / f"answer{rank}.json").read_text()) for rank in (-1, 0, 1)}, folder


@pytest.mark.parametrize("case", ["full", "sampled", "private"])
def test_two_processes_give_the_trace_of_one(answers: tuple[dict[int, Any], Path], case: str) -> None:
    alone, first, second = (answers[0][rank][case] for rank in (-1, 0, 1))
    assert [step for step, _ in first[0]] == [step for step, _ in alone[0]]
    assert [loss for _, loss in first[0]] == pytest.approx([loss for _, loss in alone[0]], abs=1e-5)
    assert first[1] == alone[1]
    assert first[2] == pytest.approx(alone[2], abs=1e-3)
    assert first[:4] == second[:4]  # both end with the same bits


@pytest.mark.parametrize("case", ["full", "sampled", "private"])
def test_the_first_alone_writes_and_tells(answers: tuple[dict[int, Any], Path], case: str) -> None:
    found, folder = answers
    assert (found[0][case][4], found[1][case][4]) == (len(found[0][case][0]), 0)
    assert (folder / f"run0-{case}" / FILE).exists()
    assert not (folder / f"run1-{case}").exists()


def test_alone_nothing_is_asked_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes:
        assert processes == Processes(rank=0, count=1)
        assert processes.first
        assert processes.of_all("x") == ["x"]
        assert processes.of_first("x") == "x"
        weight = torch.nn.Parameter(torch.ones(2))
        processes.add_up_gradients([weight])
        assert weight.grad is None
