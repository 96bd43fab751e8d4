"""One replay in a process of its own, which a fail point may kill. Run by `runpy` with its inputs as globals."""

import os
from datetime import datetime
from pathlib import Path

from stores.home import Home
from stores.settings import Settings
from tasks.repairing import replay_rows

os.environ["RATCHET_FAIL_AT"] = globals()["fail_at"]
replay_rows(
    None,
    home=Home.open(Path(globals()["root"])),
    settings=Settings(),
    now=datetime.fromisoformat(globals()["now"]),
    columns={"product": "item_id"},
)
