"""The yardstick: how fast this machine multiplies matrices, and how many multiplications a training asks for.

Shapes: N positions, D width, V items.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.train_work import Cost, Work

if TYPE_CHECKING:
    import torch

_SECONDS = 0.5
SHAPES = {"3200×128×512": (3_200, 128, 512), "3200×128×3416": (3_200, 128, 3_416), "2048×2048×2048": (2_048,) * 3}
"""Name → rows, inner, columns: the feed-forward layer, the logits, and a large square."""


@dataclass(frozen=True)
class Gemm:
    """GFLOP/s of one thread, by name of a shape.

    `plain`: float32 by `torch.mm` as it comes. `onednn`: float32 by oneDNN, which torch leaves to MKL unless asked;
    on a processor with AMX this is bfloat16 inside. `half`: bfloat16.
    """

    plain: dict[str, float]
    onednn: dict[str, float]
    half: dict[str, float]

    @property
    def float32(self) -> float:
        """The best of the plain products: the yardstick of both precisions."""
        return max(self.plain.values())


def measure_gemm(seconds: float = _SECONDS) -> Gemm:
    """In this process, on one thread; CPU-seconds of the process. Restores torch's settings."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _float32_products("ieee"):
            plain = {name: _rate(shape, torch.float32, seconds) for name, shape in SHAPES.items()}
        with _float32_products("bf16"):
            onednn = {name: _rate(shape, torch.float32, seconds) for name, shape in SHAPES.items()}
        half = {name: _rate(shape, torch.bfloat16, seconds) for name, shape in SHAPES.items()}
    finally:
        torch.set_num_threads(threads)
    return Gemm(plain, onednn, half)


@contextlib.contextmanager
def _float32_products(by: str) -> Iterator[None]:
    import torch

    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = by
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _rate(shape: tuple[int, ...], dtype: "torch.dtype", seconds: float) -> float:
    import torch

    rows, inner, columns = shape
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype).T
    out = torch.empty(rows, columns, dtype=dtype)  # written again and again: no page faults in the figure
    each = repeat(lambda: torch.mm(left, right, out=out), seconds=seconds)
    return 2 * rows * inner * columns / each / 1e9


def repeat(work: Callable[[], object], *, seconds: float) -> float:
    """CPU-seconds of one call, over as many as `seconds` hold, after two that do not count."""
    work()
    work()
    calls, began = 0, time.process_time()
    while True:
        work()
        calls += 1
        took = time.process_time() - began
        if took >= seconds:
            return took / calls


def model_flops(work: Work, cost: Cost) -> float:
    """Multiplications and additions that the matrix products of this training need, forward and backward.

    3·(N·2·D²·dense·blocks + pairs·4·D·blocks + targets·2·D·candidates), counting two operations a multiply-add: the
    dense products of a position are four D × D projections and the feed-forward layer (softmax block: 4 + 2·feed), or
    five projections (HSTU block); then one product of a query with a key and one of a weight with a value at each
    visible pair (the causal half alone), and the logits, whose candidates are all items, or the negatives and the
    target. Backward takes two products for each one forward. Norms, softmax, dropout, optimiser and whatever is
    computed twice do not count: model FLOPs as in Chowdhery et al. 2022 (PaLM, appendix B).
    """
    candidates = cost.items if work.loss == "full" else work.negatives + 1
    dense = 5 if work.block == "hstu" else 4 + 2 * work.feed
    layers = cost.tokens * 2 * work.width**2 * dense * work.blocks
    attention = cost.pairs * 4 * work.width * work.blocks
    logits = cost.targets * 2 * work.width * candidates
    return 3.0 * (layers + attention + logits)


def measure_gpu_gemm(size: int = 8_192, calls: int = 50) -> float:
    """FLOP/s of a large bfloat16 product on the current CUDA device, by the wall clock."""
    import torch

    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        left @ left
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        left @ left
    torch.cuda.synchronize()
    return 2 * size**3 * calls / (time.perf_counter() - began)
