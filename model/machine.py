"""Where training runs: device and CPU threads, as chosen and never silently another."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from model.options import Device, Precision
from relations.errors import DependencyFailed

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h's M_…


def choose_device(wanted: Device) -> torch.device:
    """Raises DependencyFailed for `cuda` without CUDA."""
    available = torch.cuda.is_available()
    if wanted is Device.CUDA and not available:
        raise DependencyFailed(
            f'device = "cuda", but torch {torch.__version__} sees no CUDA device; '
            'install a CUDA build and driver, or set device = "auto"'
        )
    return torch.device("cuda" if available and wanted is not Device.CPU else "cpu")


def choose_dtype(wanted: Precision, device: torch.device) -> torch.dtype:
    """Of the matrix products. `auto` is bfloat16 where the processor multiplies it natively."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    faster = wanted is Precision.BFLOAT16 or (wanted is Precision.AUTO and native)
    return torch.bfloat16 if faster else torch.float32


def keep_few_products() -> None:
    """Bound what is kept of compiled matrix products: each shape's is a megabyte or two, and by default 1,024 stay.

    Two caches hold them, oneDNN's and torch's own; both read the environment when the first product is made. What a
    person has set stays.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, where it is glibc; elsewhere nothing changes.

    By default it gives arrays of megabytes back to the system at once, and a step spends an eighth of its time on page
    faults for the same arrays again. Peak memory stays as it is.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for parameter, size in ((_MMAP_THRESHOLD, 1 << 25), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 1 << 26)):
            libc.mallopt(parameter, size)


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
