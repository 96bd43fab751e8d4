"""One ingest in a process of its own, which a fail point may kill. Run by `runpy` with its inputs as globals."""

import os
from datetime import datetime
from pathlib import Path

from stores.home import Home
from stores.settings import Settings
from tasks.ingesting import ingest_file, ingest_landing

root: str
fail_at: str
file: str
now: str

os.environ["RATCHET_FAIL_AT"] = globals()["fail_at"]
home = Home.open(Path(globals()["root"]))
moment = datetime.fromisoformat(globals()["now"])
if globals()["file"]:
    ingest_file(globals()["file"], home=home, settings=Settings(), now=moment)
else:
    ingest_landing(home=home, settings=Settings(), now=moment)
