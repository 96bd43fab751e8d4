"""What the ledger hands to serving: who answers whom, of one moment. Plain Python, and nothing heavy behind it."""

from dataclasses import dataclass

from gate.states import TrialMode
from stores.ledger_records import CHALLENGER, ChallengerRecord, Champion
from stores.standing_records import ServingDelta


@dataclass(frozen=True)
class ServingTrial:
    """An open trial, as far as serving must know it. `allocation`: share of users who may see a challenger now."""

    id: str
    challenger_version: int
    challenger_digest: str
    champion_epoch: int
    salt: str
    allocation: float
    mode: TrialMode = TrialMode.COMPARE
    compared: float = 0.0
    """The frozen share of the comparison, before it begins too; 0: `allocation` is it."""
    canary: float = 0.0
    """The canary's share at its largest; who was in it stays out of the comparison. 0: there was none."""
    others: tuple[ChallengerRecord, ...] = ()
    """Challengers after the first, in the order of the configuration, which decides who meets which."""
    out: tuple[str, ...] = ()
    """Names of challengers that a look has rejected: nobody meets them any more."""

    @property
    def challengers(self) -> tuple[ChallengerRecord, ...]:
        """All, in order."""
        return ChallengerRecord(CHALLENGER, self.challenger_version, self.challenger_digest), *self.others

    @property
    def killed(self) -> bool:
        return self.mode is TrialMode.KILLED


@dataclass(frozen=True)
class ServingBake:
    """A promotion that is still watched: trial PROMOTING or BAKING. A rollback would bring this version back."""

    trial: str
    state: str
    version: int
    digest: str


@dataclass(frozen=True)
class ServingState:
    """`bake` and `trial` are never both there: no trial opens while a promotion is watched."""

    champion: Champion | None
    trial: ServingTrial | None
    delta: ServingDelta | None = None
    bake: ServingBake | None = None
