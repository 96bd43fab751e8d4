"""The effect that a trial's finished comparison found, corrected for when it stopped, from the looks on record."""

from dataclasses import replace

from gate.looks import LookSums
from gate.stopping import Corrected, corrected
from gate.trial import TrialConfig
from relations.errors import RatchetError
from stores.ledger_records import TrialRecord
from tasks.rejudging import compared_looks


def corrected_effect(record: TrialRecord, challenger: str) -> Corrected | None:
    """See `gate.stopping.corrected`; `look` is the trial's number of it.

    None also of a record that does not hold all its looks, or cannot be read; `tasks.rejudging` says what is wrong with
    the latter.
    """
    if len(record.evidence) != record.looks:
        return None
    looks = compared_looks(record)
    try:
        sums = [LookSums.from_json(each.evidence["sums"]) for each in looks]
        found = corrected(TrialConfig.from_json(record.config), sums, challenger)
    except (RatchetError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if found is None else replace(found, look=looks[found.look - 1].number)
