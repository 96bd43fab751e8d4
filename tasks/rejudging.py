"""The gate's decisions, made again from what is on record: the frozen configuration and the sums of each look.

Nothing else enters: neither the lake, nor the clock, nor who asks. What comes out must be what was recorded, to the
last bit; where it is not, the record, the gate or the libraries below it have changed since.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gate.decision import decide
from gate.looks import LookSums
from gate.states import TrialMode
from gate.trial import TrialConfig, canonical
from relations.errors import GateRefused, RatchetError
from stores.ledger_records import EvidenceRecord, TrialRecord

_MOST = 60


@dataclass(frozen=True)
class Difference:
    """Where a look, made again, is another. `key`: of the evidence; `config` or `sums`: it cannot be made again."""

    trial: str
    look: int
    key: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"trial {self.trial}, look {self.look}: {self.key} is {self.recorded}, replayed it is {self.replayed}"


def compared_looks(record: TrialRecord) -> tuple[EvidenceRecord, ...]:
    """The looks that `replay` makes again: at the comparison. Earlier stages judge by the clock and by servers."""
    return tuple(each for each in record.evidence if each.evidence.get("stage", TrialMode.COMPARE) == TrialMode.COMPARE)


def replay(record: TrialRecord) -> tuple[Difference, ...]:
    """Every look of the comparison, decided again; empty where each is the same. `record`: with all its looks."""
    looks = compared_looks(record)
    if not looks:
        return ()
    try:
        config = TrialConfig.from_json(record.config)
        found = config.digest()
    except (RatchetError, TypeError, ValueError) as error:
        return (_difference(record, looks[0], "config", record.config_hash, str(error)),)
    if found != record.config_hash:
        return (_difference(record, looks[0], "config", record.config_hash, found),)
    sums: list[LookSums] = []
    differences: list[Difference] = []
    for look in looks:
        try:
            sums.append(LookSums.from_json(look.evidence["sums"]))
            made = {**decide(config, sums).as_json()}
        except (RatchetError, KeyError, TypeError, ValueError, AttributeError) as error:
            told = f"nothing ({type(error).__name__}: {error})"
            return (*differences, _difference(record, look, "sums", "not to be read", told))
        made["decision"] = made["verdict"]
        differences += _compare(record, look, made)
    return tuple(differences)


def check_again(record: TrialRecord) -> str:
    """The SHA-256 of the newest look, which was made again and says PROMOTE, from data as sound as they were then.

    Made again, a look whose users are not split as declared is HOLD, and one with a guardrail or a protected slice
    unproven is CONTINUE: PROMOTE says that both hold. Raises GateRefused where a look comes out otherwise.
    """
    if not record.evidence:
        raise GateRefused(f"trial {record.id}: has no look yet; nothing to approve")
    latest = record.evidence[-1]
    differences = replay(record)
    if differences:
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise GateRefused(
            f"{differences[0]}{more}; what was decided does not follow from what is on record, so it is not approved: "
            "`ratchet ledger verify` names all of it, and a new trial decides anew"
        )
    if latest.decision != "PROMOTE" or latest not in compared_looks(record):
        raise GateRefused(f"trial {record.id}: look {latest.number} says {latest.decision}; only PROMOTE is approved")
    return latest.sha256


def _compare(record: TrialRecord, look: EvidenceRecord, made: Mapping[str, Any]) -> list[Difference]:
    recorded = {key: look.evidence.get(key) for key in made}
    if canonical(recorded) == canonical(made):
        return []
    texts = {key: (_text(recorded[key]), _text(made[key])) for key in made}
    return [_difference(record, look, key, *pair) for key, pair in texts.items() if pair[0] != pair[1]]


def _text(value: Any) -> str:
    return canonical({"": value}).removeprefix('{"":').removesuffix("}")


def _difference(record: TrialRecord, look: EvidenceRecord, key: str, recorded: str, replayed: str) -> Difference:
    return Difference(record.id, look.number, key, _short(recorded), _short(replayed))


def _short(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
