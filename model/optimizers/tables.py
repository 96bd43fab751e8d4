"""Embedding tables behind one interface, small or large.

Whoever reads rows asks `lookup`; whoever needs every row (a full softmax, an export, a digest) asks `weight`. Code that
keeps to `lookup` runs unchanged on a table that is sharded or memory-mapped.

Shapes: V rows, D width, R new rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.optimizers.options import OptimizerOptions, Sparse

WORTHWHILE_SHARE = 0.1
"""Below this share of touched rows a sparse step was the faster one on a CPU for every algorithm that takes it."""
WORTHWHILE_ROWS = 10_000
"""A dense step over a smaller table takes about a millisecond either way."""


class Table(nn.Embedding):
    """V rows of width D. With `sparse`, `lookup` gives the weight a gradient that holds only the rows looked up.

    One dense use of `weight` in the same step (a full softmax over all rows) makes the gradient dense again.
    """

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows [..., D] of int64 `rows` [...]."""
        return functional.embedding(rows, self.weight, sparse=self.sparse and self.training)

    def forward(self, input: Tensor) -> Tensor:
        return self.lookup(input)

    def grown(self, start_RD: Tensor) -> "Table":
        """A table with the rows of this one and then `start_RD`; this one stays as it is."""
        weight_VD = torch.cat([self.weight.detach(), start_RD.to(self.weight)])
        grown: Table = Table.from_pretrained(weight_VD, freeze=False, sparse=self.sparse)  # type: ignore[no-untyped-call]
        return grown


def sparse_pays(options: OptimizerOptions, *, rows: int, touched: int) -> bool:
    """Whether a table of `rows` rows, of which a step touches about `touched`, should have sparse gradients.

    Without a loss that leaves most rows alone (a sampled softmax), `touched` is `rows`.
    """
    if options.sparse is Sparse.AUTO:
        return options.can_be_sparse and rows >= WORTHWHILE_ROWS and touched < WORTHWHILE_SHARE * rows
    return options.sparse is Sparse.SPARSE
