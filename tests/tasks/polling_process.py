"""One poll in a process of its own, which a fail point may kill. Run by `runpy` with its inputs as globals."""

import os
from datetime import datetime
from pathlib import Path

from stores.home import Home
from stores.settings import Settings
from tasks.polling import poll_sources

root: str
fail_at: str
settings: str
now: str

os.environ["RATCHET_FAIL_AT"] = globals()["fail_at"]
polled = poll_sources(
    home=Home.open(Path(globals()["root"])),
    settings=Settings.model_validate_json(globals()["settings"]),
    now=datetime.fromisoformat(globals()["now"]),
)
if polled.failures:
    raise SystemExit(str(polled.failures))
