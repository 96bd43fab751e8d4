"""Where training runs: device and CPU threads, as chosen and never silently another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.options import Device
from relations.errors import DependencyFailed


def choose_device(wanted: Device) -> torch.device:
    """Raises DependencyFailed for `cuda` without CUDA."""
    available = torch.cuda.is_available()
    if wanted is Device.CUDA and not available:
        raise DependencyFailed(
            f'device = "cuda", but torch {torch.__version__} sees no CUDA device; '
            'install a CUDA build and driver, or set device = "auto"'
        )
    return torch.device("cuda" if available and wanted is not Device.CPU else "cpu")


@contextmanager
def seeded_threads(threads: int) -> Iterator[None]:
    """`threads` CPU threads (0: half the cores) and a private random state; both are put back.

    Half, because threads wait for each other by spinning: one that must share its core with a server stalls them
    all, and a fit then takes many times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // 2))
    try:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(before)
