"""The kill switch, pulled: serving's file first, then the ledger, which may be down.

What the ledger missed is told to it by the next command or flow that looks at a trial (`tasks.killing`).
"""

from dataclasses import dataclass
from datetime import datetime

from relations.errors import DataRejected, DependencyFailed, GateRefused, RatchetError, UsageError
from stores import kill_switch
from stores.approval import check_named
from stores.home import Home
from stores.kill_switch import Kill
from stores.ledger import Ledger
from stores.settings import Settings


@dataclass(frozen=True)
class Killed:
    """`recorded`: the ledger has it too; where not, `warning` says why."""

    trial: str
    recorded: bool
    warning: str


def kill_trial(home: Home, settings: Settings, trial: str, *, actor: str, reason: str, now: datetime) -> Killed:
    """Take the challenger of `trial` off all users for good: within [serving] poll_seconds, with or without the ledger.

    Raises UsageError for a name that no trial has, GateRefused for a trial that is over, and DependencyFailed where
    neither the file nor the ledger could be written.
    """
    check_named(actor, reason, what=f"trial {trial}")
    unwritten = ""
    try:
        kill_switch.add(home.kill_switch, Kill(trial, actor, reason, now))
    except (DataRejected, DependencyFailed) as error:  # the ledger alone stops it too, where serving reaches it
        unwritten = str(error)
    try:
        ledger = Ledger.of(home, settings)
        known = any(record.id == trial for record in ledger.trials())
        if known:
            ledger.kill_trial(trial, actor=actor, reason=reason, now=now)
    except GateRefused:
        raise
    except RatchetError as error:  # whatever keeps the ledger away, a wrong URL included, must not undo the kill
        if unwritten:
            raise DependencyFailed(f"{trial} is NOT killed: {unwritten}; {error}") from error
        return Killed(trial, False, f"serving is told; the ledger will be by the next command that reaches it: {error}")
    if not known:
        if not unwritten:
            kill_switch.withdraw(home.kill_switch, trial)
        raise UsageError(f"trial {trial!r}: no such trial; list them with `ratchet trial status`")
    return Killed(trial, True, unwritten)
