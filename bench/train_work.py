"""One training of ours for some CPU-seconds, in a process of its own: `python -m bench.train_work JSON` prints JSON.

The clock stands between two steps of `fit_full`, which is called as anybody would; the steps are counted where their
batches are made. Memory is the most that this process had resident, libraries and the data's preparation included.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from bench.train_data import read_histories


@dataclass(frozen=True)
class Work:
    """What to train; names as in `model.options`. `seconds` are CPU-seconds of the process, after `warm` of them."""

    data: str
    loss: str = "full"
    precision: str = "bfloat16"
    negatives: int = 512
    width: int = 128
    blocks: int = 2
    heads: int = 2
    block: str = "softmax"
    feed: int = 4
    relative_positions: bool = True
    length: int = 200
    dropout: float = 0.2
    batch_tokens: int = 3_200
    threads: int = 1
    device: str = "cpu"
    warm: float = 3.0
    seconds: float = 15.0


@dataclass(frozen=True)
class Cost:
    """What it took. `pairs`: a query and a key that it may see, over all windows: what attention works on."""

    targets: int
    tokens: int
    pairs: int
    steps: int
    items: int
    cpu_s: float
    wall_s: float
    loss: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Targets a CPU-second."""
        return self.targets / self.cpu_s


class _Enough(Exception):  # noqa: N818 -- ends a training, and nothing went wrong
    pass


class Meter:
    """Counts the work of the steps, and ends the training when `seconds` have been measured."""

    def __init__(self, *, warm: float, seconds: float) -> None:
        self._warm, self._seconds = warm, seconds
        self._began = time.process_time()
        self._cpu = self._wall = 0.0
        self._counting = False
        self.targets = self.tokens = self.pairs = self.steps = 0
        self.cpu_s = self.wall_s = 0.0
        self.loss = float("nan")

    def saw(self, *, targets: int, length_B: np.ndarray) -> None:
        """A batch with windows of these lengths is about to be trained."""
        if self._counting:
            self.targets += targets
            self.tokens += int(length_B.sum())
            self.pairs += int((length_B * (length_B + 1) // 2).sum())

    def stepped(self, loss: float) -> None:
        """A step is done; raises `_Enough` when it was the last one. The first step is always warm-up."""
        now, wall = time.process_time(), time.perf_counter()
        if not self._counting:
            if now - self._began >= self._warm:
                self._counting, self._cpu, self._wall = True, now, wall
            return
        self.steps += 1
        self.cpu_s, self.wall_s, self.loss = now - self._cpu, wall - self._wall, loss
        if self.cpu_s >= self._seconds:
            raise _Enough


def measure(work: Work) -> Cost:
    """Train until the time is up. The only place that knows how `model` is called."""
    from model import windows
    from model.fit import fit_full
    from model.options import Device, Loss, NetworkOptions, Precision, TrainOptions

    histories = read_histories(Path(work.data))
    network = NetworkOptions(
        width=work.width,
        blocks=work.blocks,
        heads=work.heads,
        block=work.block,
        feed=work.feed,
        relative_positions=work.relative_positions,
        max_history=work.length,
        dropout=work.dropout,
        relative_times=False,  # neither the data nor the peer has times
    )
    training = TrainOptions(
        epochs=10_000,
        batch_tokens=work.batch_tokens,
        learning_rate=1e-3,
        loss=Loss(work.loss),
        negatives=work.negatives,
        device=Device(work.device),
        precision=Precision(work.precision),
        threads=work.threads,
    )
    meter = Meter(warm=work.warm, seconds=work.seconds)
    gather = windows.gather

    def counted(corpus: windows.Corpus, cut: windows.Windows, first_F: np.ndarray) -> windows.Batch:
        batch = gather(corpus, cut, first_F)
        meter.saw(targets=batch.targets, length_B=np.diff(batch.offsets_B1.numpy()))
        return batch

    with mock.patch.object(windows, "gather", counted), contextlib.suppress(_Enough):
        fit_full(histories, network=network, training=training, on_step=lambda step: meter.stepped(step.loss))
    return Cost(
        targets=meter.targets,
        tokens=meter.tokens,
        pairs=meter.pairs,
        steps=meter.steps,
        items=len(histories.items),
        cpu_s=meter.cpu_s,
        wall_s=meter.wall_s,
        loss=meter.loss,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_work", description=__doc__)
    parser.add_argument("work", help="a Work, as one JSON object")
    work = Work(**json.loads(parser.parse_args(arguments).work))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    print(json.dumps(asdict(measure(work))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
