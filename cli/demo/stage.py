"""A simulation home with its servers: made, run, and cleared away."""

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import processes
from cli.demo.narrator import Narrator
from relations.errors import DependencyFailed, UsageError
from simulation.client import RecommendClient, RequestFailed
from stores.home import Home
from stores.pseudonyms import Keys
from stores.running import running_server
from stores.settings import Settings, load_settings

SERVERS = ("prefect", "mlflow", "serving")


@dataclass(frozen=True)
class Stage:
    home: Home
    settings: Settings
    address: str
    """Of serving."""

    def state(self) -> dict[str, Any]:
        """What serving says of itself (`/readyz`), ready or not."""
        request = urllib.request.Request(f"{self.address}/readyz")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        return found

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 60.0) -> None:
        """Until serving's state `holds`. Raises DependencyFailed after `seconds`."""
        deadline = time.monotonic() + seconds
        while not holds(state := self.state()):
            if time.monotonic() > deadline:
                log = self.home.run / "serving.log"
                raise DependencyFailed(f"serving: {what} did not happen within {seconds:.0f} s: {state}; see {log}")
            time.sleep(0.05)

    def wait_for_champion(self, digest: str) -> None:
        self.wait(f"champion {digest[:12]}", lambda state: (state["champion"] or {}).get("digest") == digest)

    def wait_for_trial(self, trial_id: str) -> None:
        self.wait(f"{trial_id} served", lambda state: (state["trial"] or {}).get("id") == trial_id)

    def wait_for_handover(self) -> None:
        """Until every exposure and feedback row lies in the landing folder."""
        self.wait("handover of the logs", lambda state: state["pending_rows"] == 0)


def fresh_home(root: Path, *, seed: int, settings: str) -> Home:
    """An empty simulation home with `settings` as its file; an earlier simulation at this place is removed.

    Raises UsageError where there is something else, or where servers of the earlier one still run.
    """
    if (root / "home.json").exists():
        former = Home.open(root)
        running = [name for name in SERVERS if running_server(former, name)]
        if not former.simulation:
            raise UsageError(f"{root}: a home that is no simulation; the demo will not touch it: choose another --home")
        if running:
            raise UsageError(f"{root}: {', '.join(running)} of an earlier run still runs; stop `ratchet up` first")
        shutil.rmtree(root)
    elif root.exists() and any(root.iterdir()):
        raise UsageError(f"{root}: not empty and not a home; choose another --home")
    home = Home.create(root, simulation=True)
    Keys.write_derived(home.keys, seed=seed)
    (home.root / "ratchet.toml").write_text(settings, encoding="utf-8")
    return home


@contextmanager
def raised(home: Home, narrator: Narrator) -> Iterator[Stage]:
    """Prefect's server and serving, for as long as the block runs."""
    file = home.root / "ratchet.toml"
    settings = load_settings(file)
    prefect = processes.start_prefect(home)
    serving = processes.start_serving(home, config=str(file))
    try:
        with narrator.working("starting Prefect and serving"):
            processes.use_prefect(home)
            _import_everything()
            serving.wait(seconds=120)
            prefect.wait(seconds=240)
        narrator.done("Prefect's server and serving run on loopback")
        yield Stage(home, settings, str(serving.address))
    finally:
        serving.stop()
        _hand_in_logs()
        prefect.stop()


def _hand_in_logs() -> None:
    """The flows' last log lines, while Prefect's server still takes them."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()


def _import_everything() -> None:
    """The heavy imports, while the servers start."""
    import flows.deployments  # noqa: F401


@dataclass
class SwapWatch:
    """Requests without a pause while the champion changes: how many there were and how many failed."""

    requests: int = 0
    failed: int = 0
    digests: tuple[str, ...] = ()


@contextmanager
def watching_swap(stage: Stage, *, now: str) -> Iterator[SwapWatch]:
    """Keep asking for visitors that nobody knows, so that no simulated person's history is touched."""
    watch, stop = SwapWatch(), threading.Event()

    def ask() -> None:
        client = RecommendClient(stage.address)
        seen: dict[str, None] = {}
        while not stop.is_set():
            watch.requests += 1
            try:
                seen[client.recommend(f"visitor-{watch.requests}", k=10, now=now).digest] = None
            except RequestFailed:
                watch.failed += 1
            time.sleep(0.005)
        watch.digests = tuple(seen)
        client.close()

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    try:
        yield watch
    finally:
        stop.set()
        asker.join()
