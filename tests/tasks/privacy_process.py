"""One forgetting or rotation in a process of its own, which a fail point kills. Run by `runpy`, inputs as globals."""

import os
from datetime import datetime
from pathlib import Path

from stores.home import Home
from stores.settings import Settings
from tasks.forgetting import forget_users
from tasks.rotating import rotate_keys

root: str
order: str
fail_at: str
now: str

os.environ["RATCHET_FAIL_AT"] = globals()["fail_at"]
home = Home.open(Path(globals()["root"]))
moment = datetime.fromisoformat(globals()["now"])
what, _, user = globals()["order"].partition(" ")
if what == "forget":
    forget_users(home, Settings(), [user], actor="ada", reason="asked", now=moment)
else:
    rotate_keys(home, Settings(), actor="ada", reason="yearly", now=moment)
