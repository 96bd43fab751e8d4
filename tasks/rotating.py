"""Changing the key of the pseudonyms: every stored one is lifted, and no event is accepted twice through it."""

from datetime import datetime
from typing import Any

from relations.errors import GateRefused, UsageError
from stores.home import Home
from stores.ledger import Ledger
from stores.privacy import ROTATE, Order, carry_out, whereabouts
from stores.pseudonyms import Keys
from stores.settings import Settings
from tasks.forgetting import record_receipts
from tasks.quieting import quiet


def rotate_keys(home: Home, settings: Settings, *, actor: str, reason: str, now: datetime) -> dict[str, Any]:
    """Draw a new key and lift all pseudonyms to it; returns the receipt.

    Raises GateRefused while a trial is open: arms are assigned by pseudonym, so users would change arms. Killed, it is
    finished by the next command that takes the ingest lock.
    """
    if not actor.strip() or not reason.strip():
        raise UsageError("a rotation is on the record: name a person with --as and give a --reason")
    ledger = Ledger.of(home, settings)
    _refuse_in_trial(ledger)
    with quiet(home, settings, now=now):
        _refuse_in_trial(ledger)
        version = Keys.load(home.keys).version + 1
        receipt = {
            "id": f"key-{version}",
            "kind": ROTATE,
            "asked": now.isoformat(),
            "asked_by": actor,
            "reason": reason,
            "key_version": version,
        }
        pause = 2 * settings.serving.poll_seconds
        done = carry_out(home, Order(ROTATE, receipt, whereabouts(settings), version=version, pause_seconds=pause))
    record_receipts(home, settings)
    return done


def _refuse_in_trial(ledger: Ledger) -> None:
    for trial in ledger.trials():
        if trial.is_open:
            raise GateRefused(
                f"{trial.id} is open, and its arms are assigned by pseudonym: end it first with "
                f"`ratchet trial stop {trial.id}`, or rotate after its verdict"
            )
