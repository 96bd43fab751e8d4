"""Several processes that train one network: each takes its share of a step's windows, and gradients are added up.

Started by `torchrun`, which sets RANK, WORLD_SIZE and LOCAL_RANK. torch.distributed is used as it is: Hugging Face
Accelerate and DistributedDataParallel average over processes what `forward` returns, while a step here is a sum over
targets, of which processes have unequal numbers, and calls the network in several ways.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """The one that writes, tells and judges."""
        return self.rank == 0

    def of_first(self, value: T) -> T:
        """What the first process holds, in all of them."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held)
        return held[0]

    def of_all(self, value: T) -> list[T]:
        """What each process holds, by rank."""
        if self.count == 1:
            return [value]
        held = [value] * self.count
        distributed.all_gather_object(held, value)
        return held

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Each tensor becomes its sum over the processes, in place and with the same bits in all of them."""
        if self.count > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """A parameter that no process has a gradient of goes on without one."""
        if self.count == 1:
            return
        held = list(parameters)
        found = torch.tensor([weight.grad is not None for weight in held], dtype=torch.uint8, device=held[0].device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        for weight, anywhere in zip(held, found.tolist(), strict=True):
            if anywhere:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                distributed.all_reduce(weight.grad)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that `torchrun` started, or that the caller has joined already; this one alone otherwise.

    NCCL where there is CUDA, each process with the device of its LOCAL_RANK; gloo elsewhere.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
