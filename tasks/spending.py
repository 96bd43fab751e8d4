"""The α that the ledger's trials have spent."""

from datetime import datetime

from gate.alpha_ledger import AlphaLedger, TrialSpending, alpha_ledger
from stores.ledger import Ledger
from stores.ledger_records import TrialRecord


def read_alpha_ledger(ledger: Ledger, *, now: datetime, alpha: float) -> AlphaLedger:
    """Over all trials but A/A ones, which can promote nobody. `alpha`: of one trial, for the outlook."""
    trials = [
        TrialSpending(record.id, record.opened, spent_by(record), record.promoted_epoch is not None)
        for record in ledger.trials()
        if not record.is_aa
    ]
    return alpha_ledger(trials, now=now, alpha=alpha)


def spent_by(record: TrialRecord) -> float:
    """By the newest look, over all comparisons; 0 before the first and at stages that test nothing.

    A challenger that an earlier look rejected counts with all of its α/K, the most that it can have spent.
    """
    if not record.evidence:
        return 0.0
    evidence = record.evidence[-1].evidence
    several = evidence.get("comparisons") or {evidence.get("challenger"): evidence}
    gone = set(record.out) - set(several)
    each = float(record.config["alpha"]) / len(record.challengers)
    return sum(float(part.get("spent") or 0.0) for part in several.values()) + len(gone) * each
