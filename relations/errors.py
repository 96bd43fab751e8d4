"""Every error that Ratchet raises on purpose, with the exit code of the command that meets it.

RatchetError
├── UsageError          2  wrong arguments
│   └── SettingsError   2  a broken `ratchet.toml` or `RATCHET_…` variable
├── DataRejected        3  unreadable input, or a batch quarantined whole
├── GateRefused         4  parity, self-approval, stale evidence, a verdict that is not PROMOTE
└── DependencyFailed    6  disk, database, tracking server, or a GPU that was asked for and is absent
    └── TrainingUnderWay  6  another training has the home's turn

Anything else that escapes is our bug (exit 1). A message says what, where, and what to do next.
Plain Python, so that every room, `serving` included, may import it.
"""


class RatchetError(Exception):
    exit_code = 1


class UsageError(RatchetError):
    exit_code = 2


class SettingsError(UsageError):
    pass


class DataRejected(RatchetError):  # noqa: N818 -- the field's word for it
    exit_code = 3


class GateRefused(RatchetError):  # noqa: N818 -- the gate refuses; nothing is broken
    exit_code = 4


class DependencyFailed(RatchetError):  # noqa: N818 -- names the other side's failure
    exit_code = 6


class TrainingUnderWay(DependencyFailed):
    pass
