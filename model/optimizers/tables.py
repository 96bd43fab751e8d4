"""Whether the item table should have gradients of just the rows that a step looked up."""

from model.optimizers.options import OptimizerOptions, Sparse

WORTHWHILE_SHARE = 0.1
"""Below this share of touched rows a sparse step was the faster one on a CPU for every algorithm that takes it."""
WORTHWHILE_ROWS = 10_000
"""A dense step over a smaller table takes about a millisecond either way."""


def sparse_pays(options: OptimizerOptions, *, rows: int, touched: int) -> bool:
    """Whether a table of `rows` rows, of which a step touches about `touched`, should have sparse gradients.

    Without a loss that leaves most rows alone (a sampled softmax), `touched` is `rows`.
    """
    if options.sparse is Sparse.AUTO:
        return options.can_be_sparse and rows >= WORTHWHILE_ROWS and touched < WORTHWHILE_SHARE * rows
    return options.sparse is Sparse.SPARSE
