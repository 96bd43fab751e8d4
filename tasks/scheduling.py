"""From evidence to a decision, and the log of decisions."""

import json
import os
from datetime import datetime
from typing import Any

from filelock import FileLock
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.continual.choosing import Action, Decision, State, decide
from stores.home import Home
from stores.settings import Settings
from tasks.evidence import gather_evidence
from tasks.jobs import Mode, TrainingJob, plan_training, write_json
from tasks.options import retrain_of

DECISION = "decision.json"
"""In the folder of a training that was decided on evidence."""
TAIL_BYTES = 1 << 20
"""Far more than one decision takes."""
MODES = {Action.INCREMENT: Mode.INCREMENTAL, Action.FULL: Mode.FULL}


def last_decision(home: Home) -> dict[str, Any] | None:
    """The newest line of the log that is whole; None before the first."""
    if not home.decisions.exists():
        return None
    with home.decisions.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = log.read().rpartition(b"\n")[0].split(b"\n")  # what a kill has torn has no end
    return json.loads(lines[-1]) if lines[-1] else None


def choose_training(home: Home, settings: Settings, *, now: datetime) -> Decision:
    """What the evidence says is to be done now; nothing is written but measurements that a training would make."""
    evidence, last = gather_evidence.fn(home, settings, now=now), last_decision(home)
    return decide(evidence, options=retrain_of(settings), state=State(**last["state"]) if last else State())


@task(name="decide", cache_policy=NO_CACHE)
def decide_training(home: Home, settings: Settings, *, now: datetime) -> Decision:
    """Choose, and log the choice: a line in the home, and a file in the folder of the training that it causes."""
    decision = choose_training(home, settings, now=now)
    stated = {"time": now.isoformat(), **decision.as_json()}
    mode = MODES.get(decision.action)
    job = None if mode is None else plan_training(home, settings, mode=mode)
    if isinstance(job, TrainingJob):
        stated["training"] = job.folder
        if not (job.path(home) / DECISION).exists():  # the same training asked for again has its reason
            write_json(job.path(home) / DECISION, stated)
    line = json.dumps(stated, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with FileLock(home.run / "decisions.lock"), home.decisions.open("a+b") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 1))
        log.write(line if log.read() in (b"", b"\n") else b"\n" + line)
    return decision
