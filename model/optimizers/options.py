"""What a person may choose about the optimiser; the same names as in `[train]` of `ratchet.toml`."""

from dataclasses import dataclass
from enum import StrEnum

from relations.errors import UsageError


class Algorithm(StrEnum):
    """For every parameter, tables included unless `embedding_optimizer` says otherwise."""

    ADAMW = "adamw"
    SGD = "sgd"
    ADAGRAD = "adagrad"


class TableAlgorithm(StrEnum):
    """For the embedding tables."""

    SAME = "same"
    """What `optimizer` names."""
    ADAMW = "adamw"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    SPARSE_ADAM = "sparse_adam"
    """Adam that leaves the rows without a gradient, and their moments, as they are. No weight decay."""
    ROWWISE_ADAGRAD = "rowwise_adagrad"
    """One accumulator a row: 1/width of Adagrad's state."""
    FTRL = "ftrl"
    """Its rate falls by its own rule; the schedule does not reach it."""
    ROWWISE_FTRL = "rowwise_ftrl"


class Schedule(StrEnum):
    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"
    """For increments, with warm_up = 0: the optimiser is warm, and the next increment goes on where this one ends."""
    INVERSE_SQRT = "inverse_sqrt"


class Sparse(StrEnum):
    AUTO = "auto"
    """Sparse where the algorithm can and a step touches few of a table's rows."""
    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True)
class OptimizerOptions:
    optimizer: Algorithm = Algorithm.ADAMW
    embedding_optimizer: TableAlgorithm = TableAlgorithm.SAME
    learning_rate: float = 2e-3
    """At the schedule's peak."""
    embedding_learning_rate: float = 0.0
    """Of the tables; 0: `learning_rate`. For FTRL its α."""
    momentum: float = 0.9
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW and sparse Adam."""
    weight_decay: float = 0.0
    """Of matrices, never of biases and norms. Decoupled for AdamW, added to the gradient for SGD and Adagrad; tables
    are decayed by AdamW alone, because any other decay would move rows that no gradient touched."""
    ftrl_beta: float = 1.0
    ftrl_l1: float = 0.0
    ftrl_l2: float = 0.0
    schedule: Schedule = Schedule.COSINE
    warm_up: float = 0.05
    """Share of the training over which the learning rate rises."""
    floor: float = 0.05
    """Share of the peak below which the learning rate never falls."""
    accumulate: int = 1
    """Micro-batches whose gradients make one step."""
    clip_norm: float = 0.0
    """Largest L2 norm of all gradients together; 0: no clipping."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is evaluated and kept in place of the last weights; 0: none."""
    sparse: Sparse = Sparse.AUTO
    dp_clip: float = 0.0
    """Differential privacy: largest L2 norm of one user's share in a step; 0: no privacy."""
    dp_noise: float = 0.0
    """Standard deviation of the noise on a step's summed gradient, as a multiple of `dp_clip`."""
    dp_delta: float = 1e-6
    """The δ that ε is stated for; must be below 1 / users."""
    dp_users: int = 256
    """Users that a step draws on average."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("optimizer", Algorithm),
            ("embedding_optimizer", TableAlgorithm),
            ("schedule", Schedule),
            ("sparse", Sparse),
        ):
            _set_choice(self, name, kind)
        object.__setattr__(self, "betas", tuple(self.betas))
        _demand(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be above 0")
        for name in ("embedding_learning_rate", "weight_decay", "ftrl_beta", "ftrl_l1", "ftrl_l2", "clip_norm"):
            _demand(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        for name in ("momentum", "warm_up", "ema"):
            _demand(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be in [0, 1)")
        good_betas = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _demand(good_betas, "betas", self.betas, "must be two numbers in [0, 1)")
        _demand(0 <= self.floor <= 1, "floor", self.floor, "must be in [0, 1]")
        _demand(self.accumulate >= 1, "accumulate", self.accumulate, "must be 1 or more")
        if self.schedule is Schedule.INVERSE_SQRT:
            _demand(self.warm_up > 0, "warm_up", self.warm_up, "must be above 0 for schedule = inverse_sqrt")
        if self.sparse is Sparse.SPARSE:
            remedy = "needs embedding_optimizer = sparse_adam, adagrad, rowwise_adagrad, ftrl, rowwise_ftrl, or sgd"
            _demand(self.can_be_sparse, "sparse", self.sparse, f"{remedy} with momentum = 0, and no dp_clip")
        _demand(self.dp_clip >= 0, "dp_clip", self.dp_clip, "must be 0 or more")
        _demand(self.dp_noise >= 0, "dp_noise", self.dp_noise, "must be 0 or more")
        _demand(not self.dp_noise or self.dp_clip > 0, "dp_noise", self.dp_noise, "needs dp_clip above 0")
        _demand(0 < self.dp_delta < 1, "dp_delta", self.dp_delta, "must be in (0, 1)")
        _demand(self.dp_users >= 1, "dp_users", self.dp_users, "must be 1 or more")
        if self.dp_clip:
            remedy = "must be 1 with dp_clip: a private step adds up its users by itself"
            _demand(self.accumulate == 1, "accumulate", self.accumulate, remedy)

    @property
    def table_algorithm(self) -> TableAlgorithm:
        """What trains the tables, never SAME."""
        if self.embedding_optimizer is TableAlgorithm.SAME:
            return TableAlgorithm(self.optimizer.value)
        return self.embedding_optimizer

    @property
    def table_learning_rate(self) -> float:
        return self.embedding_learning_rate or self.learning_rate

    @property
    def can_be_sparse(self) -> bool:
        """Whether the tables' algorithm takes sparse gradients. Private noise falls on every row, so it never does."""
        if self.dp_clip:
            return False
        if self.table_algorithm is TableAlgorithm.SGD:
            return self.momentum == 0
        return self.table_algorithm is not TableAlgorithm.ADAMW


def _demand(holds: bool, key: str, value: object, remedy: str) -> None:
    if not holds:
        raise UsageError(f"[train] {key} = {value} {remedy}")


def _set_choice(options: OptimizerOptions, name: str, kind: type[StrEnum]) -> None:
    value = getattr(options, name)
    try:
        object.__setattr__(options, name, kind(value))
    except ValueError:
        raise UsageError(f"[train] {name} = {value!r} must be one of: {', '.join(kind)}") from None
