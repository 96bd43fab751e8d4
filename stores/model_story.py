"""What MLflow is to say of the registered model as a whole, from the ledger alone: who serves, and what served when."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote

from stores.ledger_records import Reign
from stores.markdown import plain
from stores.version_story import GATE, made_by

MOST_ROWS = 30
MOST_CHARACTERS = 4_900
"""MLflow's column takes 5,000; PostgreSQL refuses more."""
MOST_WORDS = 160
"""Characters of somebody's words, references counted as they are written."""
_HOW = {"bootstrap": "the first", "promote": "approved", "rollback": "rolled back", "break_glass": "break-glass"}
_GAP = "&ensp;"
"""MLflow gives a table's cells no room."""
_HEAD = "| epoch&ensp; | version&ensp; | since (UTC) | until (UTC) | how | by | reason | trial |\n" + 8 * "|---" + "|"
_OLDER = "\n\n{} older: `ratchet ledger show`"


def model_tags(history: Sequence[Reign], *, numbers: Mapping[int, int]) -> dict[str, str]:
    """The champion's version, its epoch, and since when. `numbers`: the ledger's number of a version → MLflow's."""
    if not history:
        return {}
    present = history[-1]
    return {
        f"{GATE}champion": str(numbers.get(present.version, present.version)),
        f"{GATE}epoch": str(present.epoch),
        f"{GATE}since": _time(present),
    }


def model_description(history: Sequence[Reign], *, model: str, numbers: Mapping[int, int]) -> str:
    """A sentence, and a table of what served when, newest first; the oldest are left out where there are too many."""
    if not history:
        return "No champion yet. The ledger decides who serves; MLflow shows it."
    present = history[-1]
    lead = (
        f"Version {numbers.get(present.version, present.version)} serves, since {_time(present)} UTC. The ledger "
        "decides who serves; an alias that is moved here changes nothing, and is put back."
    )
    untils = {before.epoch: _time(after) for before, after in pairwise(history)}
    rows: list[str] = []
    room = MOST_CHARACTERS - len(lead) - len(_HEAD) - len(_OLDER) - 20
    for reign in reversed(history):
        row = _row(reign, until=untils.get(reign.epoch, ""), model=model, numbers=numbers)
        room -= len(row) + 1
        if len(rows) == MOST_ROWS or room < 0:
            break
        rows.append(row)
    older = len(history) - len(rows)
    return "\n".join([lead, "", _HEAD, *rows]) + (_OLDER.format(older) if older else "")


def _row(reign: Reign, *, until: str, model: str, numbers: Mapping[int, int]) -> str:
    number = numbers.get(reign.version)
    link = f"(#/models/{quote(model, safe='')}/versions/{number})"
    cells = (
        str(reign.epoch),
        str(reign.version) if number is None else f"[{number}]{link}",
        f"{_time(reign)}{_GAP}",
        f"{until or 'serves'}{_GAP}",
        _HOW[reign.how] + _GAP,
        *(plain(words, most=MOST_WORDS) + _GAP for words in (made_by(reign), reign.reason)),
        plain(reign.trial or "", most=MOST_WORDS),
    )
    return f"| {' | '.join(cells)} |"


def _time(reign: Reign) -> str:
    return f"{reign.since:%Y-%m-%d %H:%M}"
