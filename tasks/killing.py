"""Kills that the ledger missed, told to it. Plain functions without Prefect."""

from datetime import datetime

from stores import kill_switch
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import stamp


def settle_kills(home: Home, ledger: Ledger, *, now: datetime) -> tuple[str, ...]:
    """Tell the ledger the kills that it missed; returns their trials.

    Raises DataRejected for a damaged kill switch: until it is mended nobody can tell what was killed.
    """
    missed = []
    standing = {record.id: record for record in ledger.trials() if record.is_open and not record.killed}
    for kill in kill_switch.read(home.kill_switch):
        if kill.trial in standing:
            why = f"{kill.reason} (at {stamp(kill.time)}, while the ledger was out of reach)"
            ledger.kill_trial(kill.trial, actor=kill.actor, reason=why, now=now, missed=True)
            missed.append(kill.trial)
    return tuple(missed)
