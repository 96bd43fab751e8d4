"""Which run of Prefect made which look: beside the evidence, which is hashed, and of use while Prefect keeps its runs.

A line a look in `trials/<trial>/runs.jsonl`, in the home. The evidence says all that a decision follows from; this only
leads to its log.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from stores.home import Home

FILE = "runs.jsonl"


@dataclass(frozen=True)
class LookRun:
    """`flow_run`: Prefect's id."""

    look: int
    flow_run: str


def note_look_run(home: Home, trial: str, run: LookRun) -> None:
    """Does nothing where the disk refuses: the look is on record all the same."""
    folder = home.trials / trial
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("ab") as log:
            log.write(json.dumps(asdict(run)).encode() + b"\n")


def look_runs(home: Home, trial: str) -> tuple[LookRun, ...]:
    """Oldest first; lines that a kill has torn are passed over."""
    try:
        lines = (home.trials / trial / FILE).read_bytes().splitlines()
    except OSError:  # none was noted, or the look was made on another machine
        return ()
    return tuple(run for line in lines if (run := _run(line)) is not None)


def _run(line: bytes) -> LookRun | None:
    try:
        stated = json.loads(line)
        return LookRun(int(stated["look"]), str(stated["flow_run"]))
    except (ValueError, KeyError, TypeError):
        return None
