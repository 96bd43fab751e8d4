"""RecTools' SASRec, trained for some CPU-seconds: what `bench.train` runs in the peer's own environment.

`python bench/train_peer.py JSON` prints one JSON object. It imports nothing of this project. Theirs is called as its
documentation shows, with default settings but for those of the comparison; a Lightning callback reads the clock.

What differs by design of the two: RecTools takes one window a user (the last events), left-padded to `length`, in
batches of whole users; its feed-forward is as wide as the state, a quarter of ours; its sampled softmax draws its
negatives for each position, ours for each batch.
"""

import argparse
import json
import logging
import resource
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class Clock(Callback):  # type: ignore[misc]
    """Counts targets and CPU-seconds of the process between two batches, and ends the training.

    The first `warm` CPU-seconds, and at least one batch, do not count: allocators, kernels and the first epoch's
    start are set-up.
    """

    def __init__(self, *, warm: float, seconds: float) -> None:
        self.warm, self.seconds = warm, seconds
        self.began = time.process_time()
        self.cpu = self.wall = 0.0
        self.targets = self.steps = self.tokens = -1
        self.loss = float("nan")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        now, wall = time.process_time(), time.perf_counter()
        if self.targets < 0:
            if now - self.began >= self.warm:
                self.cpu0, self.wall0 = now, wall
                self.targets = self.steps = self.tokens = 0
            return
        self.targets += int((batch["y"] != 0).sum())
        self.tokens += batch["y"].numel()
        self.steps += 1
        self.cpu, self.wall = now - self.cpu0, wall - self.wall0
        self.loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        trainer.should_stop = self.cpu >= self.seconds


def measure(work: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(work["threads"])
    with np.load(work["data"]) as file:
        user_N, item_N = file["user_N"], file["item_N"]
    clock = Clock(warm=work["warm"], seconds=work["seconds"])

    def trainer() -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=10_000,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )

    events = pd.DataFrame(
        {
            Columns.User: user_N,
            Columns.Item: item_N,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.arange(len(user_N)), unit="s"),  # the order is all that is used
        }
    )
    model = SASRecModel(
        n_blocks=work["blocks"],
        n_heads=work["heads"],
        n_factors=work["width"],
        dropout_rate=work["dropout"],
        session_max_len=work["length"],
        batch_size=work["users"],
        loss=work["loss"],
        n_negatives=work["negatives"],
        lr=1e-3,
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(events))
    clock = next(each for each in model.fit_trainer.callbacks if isinstance(each, Clock))  # RecTools copies its trainer
    return {
        "targets": clock.targets,
        "tokens": clock.tokens,
        "steps": clock.steps,
        "cpu_s": clock.cpu,
        "wall_s": clock.wall,
        "loss": clock.loss,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", help="what to train, as one JSON object")
    work = json.loads(parser.parse_args().work)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(json.dumps(measure(work)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
