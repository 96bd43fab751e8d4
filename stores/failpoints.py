"""Places where a fault test kills the process, named so that a kill between two commits can be repeated.

`RATCHET_FAIL_AT=<name>` makes the process end itself with SIGKILL when it reaches that place: no handler, no
clean-up, as if the power were cut from the process. Without the variable a fail point costs one look-up.
"""

import os
import signal

VARIABLE = "RATCHET_FAIL_AT"

INGEST: tuple[str, ...] = (
    "ingest.spooled",  # the copy is made, the intent not yet
    "ingest.intent",
    "ingest.read",
    "ingest.judged",
    "ingest.created",  # a table exists, its first rows do not
    "ingest.accepted",  # the kind's own table is committed
    "ingest.late",
    "ingest.quarantine",
    "ingest.report",
    "ingest.receipt",
    "ingest.landing",  # the landing file is gone, the intent not yet
)

PRIVACY: tuple[str, ...] = (
    "privacy.ordered",  # what is to be done is written down, and nothing of it is done
    "privacy.key",  # a rotation's new key is in force, nothing is lifted yet
    "privacy.state",  # serving's user state is done
    "privacy.table",  # the first table that has users is done
    "privacy.files",
    "privacy.vacuumed",
    "privacy.receipt",  # the receipt is filed, the order still there
)

PROMOTION: tuple[str, ...] = (
    "decide.checked",  # the bundle is verified, the ledger not asked yet
    "decide.approved",  # an approval's row is written; those of a quorum that does not suffice are committed next
    "decide.moved",  # the champion's row is changed, its history and the audit are not yet
    "decide.swapped",  # all of it is, inside the ledger's transaction
    "decide.committed",
    "mirror.compared",  # what MLflow is to show is known
    "mirror.begun",  # and written down
    "mirror.tags",  # MLflow's tags are set, its aliases not yet
    "mirror.aliases",  # all is shown, and not yet written down as such
    "decide.mirrored",  # the command's work is done but for its answer and the beginning of the bake
)


def reach(name: str) -> None:
    """End the process here if the environment says so."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
