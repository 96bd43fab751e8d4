"""Kills in the middle of decisions: between intent, row, alias and server, at named places and at random moments.

A server runs on the home all the while, and a loop keeps MLflow equal to the ledger. After each kill the champion is
the old or the new one, the server serves it, MLflow shows it, and the ledger's record is whole. SIGKILL does not prove
safety against power loss.
"""

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.fault_bundles import ITEMS, make_releases
from bench.fault_homes import Workers
from bench.passing import open_passing
from bench.rows import Row, at_least, at_most, figure
from bench.serve_worlds import World, ready, served
from stores.failpoints import PROMOTION, VARIABLE
from stores.home import Home

if TYPE_CHECKING:
    from stores.ledger_records import Champion
    from stores.settings import Settings

SEED = 23
LONGEST = 120.0
"""Seconds after which what was waited for is taken to come never."""
ADMIN, SECOND = "ada", "bea"
KINDS = ("approve", "second approval", "rollback", "break-glass", "first approval")
TYPICAL_SECONDS = 2.0
"""Of a decision, before one was carried out undisturbed."""


@dataclass
class Counted:
    """`wrong`: champions that were neither the old nor the new one. `gaps`: problems that `ledger verify` told."""

    kills: int = 0
    old: int = 0
    new: int = 0
    wrong: int = 0
    gaps: int = 0
    strangers: int = 0
    """Answers of the server that named another champion than the ledger, once it had had its time."""
    shown: list[float] = field(default_factory=list)
    """Seconds from a kill until MLflow showed the ledger's champion."""
    served: list[float] = field(default_factory=list)


def decide(root: str, kind: str, subject: str, fail_at: str = "") -> None:
    """A worker's whole work: the decision, as the command line carries it out."""
    from tasks.deciding import approve_trial, confirm_break_glass, rollback_champion

    os.environ[VARIABLE] = fail_at
    logging.disable(logging.CRITICAL)
    home, settings = opened(Home.open(Path(root)))
    told: dict[str, Any] = {"actor": ADMIN, "reason": "bench", "now": datetime.now(UTC), "wait_seconds": 1.0}
    if kind == "rollback":
        rollback_champion(home, settings, **told)
    elif kind == "break-glass":
        confirm_break_glass(home, settings, int(subject), **told)
    else:
        approve_trial(home, settings, subject, **told)


def measure_promotions(
    folder: Path, *, kills: int, workers: Workers, home: Home | None = None, every: float | None = None
) -> list[Row]:
    """`home`: with champion 1 and a version 2 that can serve; made here if None. `every`: seconds between the mirror's
    looks, the setting's if None."""
    from tasks.mirroring import MirrorLoop

    home = make_releases(folder / "home").home if home is None else home
    stage = Stage(*opened(home))
    stage.prepare()
    settings = stage.settings
    seconds = settings.console.mirror_seconds if every is None else every
    loop = MirrorLoop(home, settings, seconds)
    with served(World(home.root, ITEMS, [])) as port:
        loop.start()
        try:
            counted = _kill(stage, port, kills=kills, workers=workers)
        finally:
            loop.stop()
    name = "kill -9 mid-promotion"
    return [
        at_least(f"{name}: kills", counted.kills, kills, unit="kills"),
        figure(f"{name}: ended with the old champion", counted.old, "times"),
        figure(f"{name}: ended with the new one", counted.new, "times"),
        at_most(f"{name}: neither, or both", counted.wrong, 0, unit="times"),
        at_most(f"{name}: gaps in the audit, as ledger verify tells", counted.gaps, 0, unit="gaps"),
        at_most(f"{name}: the server serves another than the ledger's", counted.strangers, 0, unit="times"),
        at_most(f"{name}: slowest to be served after it", round(max(counted.served), 2), 10, unit="s"),
        at_most(f"{name}: slowest to be shown in MLflow, looked at every {seconds:g} s",
                round(max(counted.shown), 2), 30, unit="s"),
        at_most(f"{name}: changes that MLflow was told to be somebody else's", stage.accused, 0, unit="times"),
    ]  # fmt: skip


def _kill(stage: "Stage", port: int, *, kills: int, workers: Workers) -> Counted:
    draw, counted = random.Random(SEED), Counted()
    root, points = str(stage.home.root), {kind: 2 * place for place, kind in enumerate(KINDS)}
    calm: dict[str, float] = {}
    for attempt in range(6 * kills):
        if counted.kills == kills:
            break
        kind = KINDS[attempt % len(KINDS)]
        before, subject, new = stage.set(kind)
        if attempt // len(KINDS) % 2 == 0:
            point = PROMOTION[points[kind] % len(PROMOTION)]
            points[kind] += 1
            ended = workers.run(decide, root, kind, subject, point)
        else:
            longest = calm.get(kind, TYPICAL_SECONDS)
            ended = workers.run(decide, root, kind, subject, kill_after=draw.uniform(0, longest))
        if ended.exit != -signal.SIGKILL:
            calm[kind] = min(ended.seconds, calm.get(kind, LONGEST))
        else:
            counted.kills += 1
            _look(stage, port, counted, before=before, new=new)
    return counted


def _look(stage: "Stage", port: int, counted: Counted, *, before: "Champion", new: int) -> None:
    """What is true after a kill."""
    began = time.monotonic()
    champion = stage.ledger.champion()
    old = champion == before
    moved = champion is not None and (champion.version, champion.epoch) == (new, before.epoch + 1)
    counted.old += old
    counted.new += moved
    counted.wrong += not (old or moved)
    counted.gaps += len(stage.ledger.verify())
    if champion is None:
        return
    served = _until(lambda: _named(port) == (champion.version, champion.epoch), began)
    counted.strangers += served is None
    counted.served.append(LONGEST if served is None else served)
    shown = _until(lambda: stage.shown(champion), began)
    counted.shown.append(LONGEST if shown is None else shown)


def _named(port: int) -> tuple[int, int] | None:
    champion = ready(port)["champion"]
    return None if champion is None else (champion["version"], champion["epoch"])


def _until(holds: Callable[[], bool], began: float) -> float | None:
    """Seconds from `began` until it held; None: never."""
    while time.monotonic() - began < LONGEST:
        if holds():
            return time.monotonic() - began
        time.sleep(0.05)
    return None


class Stage:
    """The home on which decisions are killed, brought back to where the next one can be made."""

    def __init__(self, home: Home, settings: "Settings") -> None:
        from stores.ledger import Ledger
        from stores.registry import Registry

        self.home = home
        self.settings = settings
        self.ledger = Ledger.of(home, settings)
        self.registry = Registry(home, settings)
        self._trials = 0

    def prepare(self) -> None:
        """Another approver, and MLflow told of the versions, without the files that nobody asks it for here."""
        from stores.people import Role

        ledger, now = self.ledger, datetime.now(UTC)
        if ledger.person(ADMIN) is None:
            ledger.add_first_admin(ADMIN, password=None, now=now)
        ledger.add_person(SECOND, roles=frozenset({Role.APPROVER}), password=None, actor=ADMIN, now=now)
        client: Any = self.registry._client
        client.create_registered_model(self.registry.model)
        for record in ledger.versions():
            client.create_model_version(self.registry.model, source="file:///elsewhere", tags={"digest": record.digest})

    def set(self, kind: str) -> tuple["Champion", str, int]:
        """The champion, what the decision is about, and the version that would be champion after it."""
        from stores.people import deployment_identity

        ledger, now = self.ledger, datetime.now(UTC)
        told: dict[str, Any] = {"reason": "bench", "now": now}
        for trial in ledger.trials():
            if trial.is_open:
                ledger.stop_trial(trial.id, actor=ADMIN, **told)  # no verdict: its bundle may be tried again
        for glass in ledger.break_glasses():
            if glass.ended is None:
                ledger.end_break_glass(glass.number, actor=ADMIN, **told)
        champion = self._champion()
        other = next(record.version for record in ledger.versions() if record.version != champion.version)
        if kind == "break-glass":
            asked = ledger.ask_break_glass(other, hours=1, actor=SECOND, **told)
            return champion, str(asked.number), other
        former = ledger.former()
        if kind == "rollback" and former is not None:
            return champion, "", former.version
        self._trials += 1
        name, protected = f"kill-{self._trials}", "approval" in kind
        by = deployment_identity("trial/bench")
        open_passing(ledger, name, challenger=other, actor=by, now=now, protected=protected)
        if kind == "rollback":
            ledger.approve(name, actor=ADMIN, **told)
            return self._champion(), "", champion.version
        if kind == "second approval":
            ledger.approve(name, actor=SECOND, **told)
        return champion, name, other

    def promote(self, version: int) -> None:
        """By a trial of its own."""
        from stores.people import deployment_identity

        now = datetime.now(UTC)
        by = deployment_identity("trial/bench")
        open_passing(self.ledger, f"promote-{version}", challenger=version, actor=by, now=now)
        self.ledger.approve(f"promote-{version}", actor=ADMIN, reason="bench", now=now)

    def shown(self, champion: "Champion") -> bool:
        page = self.registry.page()
        return (
            page is not None
            and page.aliases.get("champion") == champion.version
            and page.tags.get("gate.epoch") == str(champion.epoch)
        )

    @property
    def accused(self) -> int:
        return sum(entry.action == "mirror_repaired" for entry in self.ledger.audit())

    def _champion(self) -> "Champion":
        champion = self.ledger.champion()
        if champion is None:
            raise RuntimeError(f"{self.home.root}: has no champion")
        return champion


def opened(home: Home) -> tuple[Home, "Settings"]:
    from stores.settings import load_settings

    file = home.root / "ratchet.toml"
    return home, load_settings(file if file.exists() else None, environment={})
