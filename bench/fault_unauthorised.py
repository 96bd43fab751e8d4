"""Champions that nobody approved: asked for by the wrong person, set in MLflow, written into the ledger's tables. And
the way back: how long a rollback takes while MLflow and Prefect are away."""

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.fault_bundles import ITEMS, make_releases
from bench.fault_promotions import ADMIN, LONGEST, SECOND, Stage, opened
from bench.fault_serving import Client
from bench.passing import open_passing
from bench.rows import Row, at_least, at_most
from bench.serve_worlds import World, ready, served
from stores.home import Home

SUBMITTER, STRANGER = "sue", "nobody"
SPELLINGS = ("sue", "SUE", " sue ", "ｓｕｅ", "Sue")
AWAY = "http://127.0.0.1:9"
"""Nothing listens there."""
PAUSE_SECONDS = 0.02
"""Between two requests of the light load."""
_ROOT = Path(__file__).parents[1]


def measure_unauthorised(
    folder: Path, *, home: Home | None = None, every: float | None = None, commands: int = 5
) -> list[Row]:
    """`home`: of a production, with champion 1 and a version 2 that can serve; made here if None. `every`: seconds
    between the mirror's looks, the setting's if None. `commands`: at most so many command lines, some seconds each."""
    from tasks.mirroring import MirrorLoop

    home = make_releases(folder / "home").home if home is None else home
    stage = Stage(*opened(home))
    stage.prepare()
    tried, refused = _ask(stage, commands=commands)
    seconds = stage.settings.console.mirror_seconds if every is None else every
    loop = MirrorLoop(home, stage.settings, seconds)
    with served(World(home.root, ITEMS, [])) as port:
        loop.start()
        try:
            return [
                at_least(f"unauthorised decisions: refused, of {tried} over ledger and command line", refused, tried,
                         unit="times"),
                *_move_alias(stage, port, seconds=seconds),
                *_write_champion(stage, port),
            ]  # fmt: skip
        finally:
            loop.stop()


def measure_rollback(folder: Path, *, home: Home | None = None) -> list[Row]:
    """From the command to the first answer after which all are the former champion's. `home`: as above."""
    home = make_releases(folder / "home").home if home is None else home
    stage = Stage(*opened(home))
    stage.prepare()
    ledger, now = stage.ledger, datetime.now(UTC)
    former = ledger.version(1)
    stage.promote(2)
    token = ledger.issue_token(ADMIN, label="bench", lifetime=None, actor=ADMIN, now=now)[1]
    ratchet = str(Path(sys.executable).with_name("ratchet"))
    command = [ratchet, "rollback", "--home", str(home.root), "--as", ADMIN, "--reason", "bench"]
    servers = {"RATCHET_TRACKING__URI": AWAY, "MLFLOW_TRACKING_URI": AWAY, "PREFECT_API_URL": f"{AWAY}/api"}
    with served(World(home.root, ITEMS, []), **servers) as port, _load(port) as answers:
        _until(lambda: ready(port)["champion"]["version"] == 2)
        began = time.monotonic()
        done = subprocess.run(command, cwd=_ROOT, env=os.environ | servers | {"RATCHET_TOKEN": token}, check=False)
        returned = time.monotonic() - began
        _until(lambda: ready(port)["champion"]["version"] == 1)
        time.sleep(1)
    others = [at for at, digest in answers if at > began and digest not in (None, former.digest)]
    failed = sum(digest is None for _, digest in answers)
    last = max(others, default=began) - began
    name = "rollback, MLflow and Prefect away"
    return [
        at_most(f"{name}: exit status of `ratchet rollback`", done.returncode, 0, unit=""),
        at_most(f"{name}: until all answers are the former champion's", round(last, 2), 10, unit="s"),
        at_most(f"{name}: until the command returns", round(returned, 2), 10, unit="s"),
        at_most(f"{name}: failed, of {len(answers):,} answers meanwhile", failed, 0, unit="answers"),
    ]


def _ask(stage: Stage, *, commands: int) -> tuple[int, int]:
    """Decisions by people who may not; returns how many were tried, and how many refused and without effect."""
    from relations.errors import GateRefused, UsageError
    from stores.people import Role

    ledger, now = stage.ledger, datetime.now(UTC)
    ledger.add_person(SUBMITTER, roles=frozenset({Role.SUBMITTER, Role.APPROVER}), password=None, actor=ADMIN, now=now)
    ledger.add_person("tim", roles=frozenset({Role.SUBMITTER}), password=None, actor=ADMIN, now=now)
    open_passing(ledger, "unauthorised", challenger=2, actor=SUBMITTER, now=now)
    told: dict[str, Any] = {"reason": "bench", "now": now}
    by: list[tuple[str, Callable[[str], object]]] = [
        (name, lambda actor: ledger.approve("unauthorised", actor=actor, **told))
        for name in (*SPELLINGS, "tim", STRANGER, "gate", "deployment trial/bench")
    ]
    by += [(name, lambda actor: ledger.rollback(actor=actor, **told)) for name in ("tim", STRANGER)]
    by += [(name, lambda actor: ledger.reject("unauthorised", actor=actor, **told)) for name in ("tim", STRANGER)]
    by += [(name, lambda actor: ledger.ask_break_glass(2, hours=1, actor=actor, **told)) for name in ("tim", STRANGER)]
    before, refused = (ledger.champion(), ledger.trial("unauthorised")), 0
    for actor, act in by:
        try:
            act(actor)
        except (GateRefused, UsageError):
            refused += 1
    shown = {name: ledger.issue_token(name, label="bench", lifetime=None, actor=name, now=now)[1]
             for name in (SUBMITTER, "tim")}  # fmt: skip
    lines = [*shown.items(), (SECOND, shown["tim"]), (SECOND, ""), (SECOND, "rt_x_y")][:commands]
    refused += sum(_approve(stage.home, actor, token) != 0 for actor, token in lines)
    untouched = (ledger.champion(), ledger.trial("unauthorised")) == before
    ledger.stop_trial("unauthorised", actor=ADMIN, **told)  # half of the users would meet its challenger
    return len(by) + len(lines), refused if untouched else 0


def _approve(home: Home, actor: str, token: str) -> int:
    """Exit status of the command."""
    ratchet = str(Path(sys.executable).with_name("ratchet"))
    command = [ratchet, "approve", "unauthorised", "--home", str(home.root), "--as", actor, "--reason", "bench"]
    environment = os.environ | {"RATCHET_TOKEN": token, "RATCHET_TRACKING__URI": AWAY}
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, check=False).returncode


def _move_alias(stage: Stage, port: int, *, seconds: float) -> list[Row]:
    champion, accused = stage.ledger.champion(), stage.accused
    assert champion is not None
    _until(lambda: stage.shown(champion))
    time.sleep(0.2)  # what the mirror left is written down a moment after it is shown
    stage.registry.set_alias("champion", 2)
    began, other = time.monotonic(), 0
    while stage.registry.aliases().get("champion") != champion.version and time.monotonic() - began < LONGEST:
        other += ready(port)["champion"]["version"] != champion.version
        time.sleep(0.05)
    took = time.monotonic() - began
    name = "alias moved by hand in MLflow"
    return [
        at_most(f"{name}: looks at which serving followed it", other, 0, unit="looks"),
        at_most(f"{name}: until it is put back, looked at every {seconds:g} s", round(took, 2), 30, unit="s"),
        at_least(f"{name}: reported in the ledger", stage.accused - accused, 1, unit="times"),
    ]


def _write_champion(stage: Stage, port: int) -> list[Row]:
    """A row of the table changed by SQL to a version that nobody approved, and a server that begins then."""
    champion, other = stage.ledger.champion(), stage.ledger.version(2)
    assert champion is not None
    client = Client(port, champion.digest)
    _write(stage.home, other.version, other.digest)
    try:
        client.until_told("nobody approved it")
        served_on = client.row("champion's row written by hand, the server goes on", 100)
        told = at_most("champion's row written by hand: not told by /readyz", client.untold, 0, unit="times")
        problems = at_least("champion's row written by hand: found by ledger verify", len(stage.ledger.verify()), 1,
                            unit="problems")  # fmt: skip
    finally:
        _write(stage.home, champion.version, champion.digest)
    return [served_on, told, problems]


def _write(home: Home, version: int, digest: str) -> None:
    with closing(sqlite3.connect(home.root / "ledger.db", timeout=60)) as database, database:
        database.execute("UPDATE champion SET version = ?, digest = ?", (version, digest))


@contextmanager
def _load(port: int) -> Iterator[list[tuple[float, str | None]]]:
    """Requests one after another; gives when each was answered and by which model, None for a failure."""
    answers: list[tuple[float, str | None]] = []
    over = threading.Event()

    def ask() -> None:
        for user in itertools.count():
            digest = _asked(port, f"u{user % 50}")
            answers.append((time.monotonic(), digest))
            if over.wait(PAUSE_SECONDS):
                return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def _asked(port: int, user: str) -> str | None:
    """The digest of the model that answered."""
    body = json.dumps({"user_id": user, "k": 5}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["model"]["digest"])
    except (OSError, ValueError, KeyError):
        return None


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LONGEST
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError("what was waited for did not come")
        time.sleep(0.05)
