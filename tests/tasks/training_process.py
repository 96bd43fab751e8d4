"""One training from plan to ledger, as a process of its own: `python training_process.py HOME`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from stores.home import Home
from stores.settings import load_settings
from tasks.evaluating import evaluate_model
from tasks.jobs import Mode, NothingToLearn, plan_training
from tasks.releasing import export_model, register_model
from tasks.training import fit_model

home = Home.open(Path(sys.argv[1]))
settings = load_settings(home.root / "ratchet.toml", environment={})
job = plan_training(home, settings, mode=Mode.FULL)
assert not isinstance(job, NothingToLearn)
fit_model.fn(home, settings, job)
evaluate_model.fn(home, settings, job)
export_model.fn(home, settings, job)
register_model.fn(home, settings, job, submitter="test", now=datetime(2026, 2, 1, tzinfo=UTC))
