"""The servers of a home as child processes: started, waited for, and stopped with all that they started."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from relations.errors import DependencyFailed
from stores.home import Home
from stores.running import LOOPBACK, running_server

STOP_SECONDS = 15.0
PREFECT_SECONDS = 120
"""How long a command waits for a Prefect of its own. Prefect's 20 s are too few on a busy machine."""


@dataclass
class Server:
    """One child in its own process group. `health` answers 200 when it is ready."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    address: str | None
    health: str | None

    def wait(self, *, seconds: float, give_up: Callable[[], bool] = lambda: False) -> None:
        """Until healthy, or until `give_up()`. Raises DependencyFailed with the end of its log."""
        deadline = time.monotonic() + seconds
        while self.health is not None and not give_up():
            self.check()
            with suppress(OSError), urllib.request.urlopen(self.health, timeout=2) as answer:
                if answer.status == 200:
                    return
            if time.monotonic() > deadline:
                raise DependencyFailed(f"{self.name} was not ready after {seconds:.0f} s; {self._tail()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raises DependencyFailed, with the end of the log, when the process has ended by itself."""
        if self.process.poll() is not None:
            raise DependencyFailed(f"{self.name} stopped with exit {self.process.returncode}; {self._tail()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)  # what is left of the group
        self.process.wait()
        self.log.with_suffix(".json").unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _tail(self) -> str:
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-8:]
            return f"the end of {self.log}:\n  " + "\n  ".join(lines)
        return f"its log is {self.log}"


def free_port(wanted: int = 0) -> int:
    """`wanted` when it is free on loopback, else any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def environment(home: Home) -> dict[str, str]:
    """What Prefect and MLflow read, so that all they keep lies in the home and nothing is sent out."""
    return {
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home.prefect / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        # A failed flow's traceback belongs to its page in the UI; the command says in one line what to do.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL"),
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        # In memory, who runs would be forgotten with the server, and its place never be free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",  # nothing is ever fetched from a hub
        "DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin beside a busy server stall each other
    }


def use_prefect(home: Home) -> None:
    """Point this process at the home's Prefect: the running server if there is one, else an ephemeral one.

    Must run before `prefect` is imported. Raises DependencyFailed where an ephemeral one does not start.
    """
    os.environ.update(environment(home))
    running = running_server(home, "prefect")
    if running is not None:
        os.environ["PREFECT_API_URL"] = f"{running}/api"
    else:
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"
        from prefect.server.api.server import SubprocessASGIServer

        try:
            SubprocessASGIServer().start(timeout=PREFECT_SECONDS)  # the one that the flow's client will ask for
        except (RuntimeError, httpx.HTTPError) as error:
            raise DependencyFailed(
                f"Prefect did not start within {PREFECT_SECONDS:g} s: {error} Make sure that {home.root} can be "
                "written, and on a busy machine let one run: `ratchet up`"
            ) from error


def start_prefect(home: Home, *, port: int = 0) -> Server:
    chosen = free_port(port)
    url = f"http://{LOOPBACK}:{chosen}"
    extra = {"PREFECT_UI_API_URL": f"{url}/api", "PREFECT_SERVER_API_HOST": LOOPBACK}
    arguments = ["-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(chosen)]
    return _start(home, "prefect", arguments, port=chosen, health=f"{url}/api/health", extra=extra)


def start_mlflow(home: Home, *, uri: str, port: int = 0) -> Server:
    chosen = free_port(port)
    arguments = ["-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(chosen), "--workers", "1"]
    arguments += ["--backend-store-uri", uri, "--default-artifact-root", home.tracking_artifacts.as_uri()]
    return _start(home, "mlflow", arguments, port=chosen, health=f"http://{LOOPBACK}:{chosen}/health")


def start_serving(home: Home, *, config: str | None, port: int = 0) -> Server:
    chosen = free_port(port)
    arguments = ["-m", "serving.run", "--home", str(home.root), "--port", str(chosen)]
    arguments += ["--config", config] if config else []
    return _start(home, "serving", arguments, port=chosen, health=f"http://{LOOPBACK}:{chosen}/healthz")


def start_console(home: Home, *, config: str | None, port: int = 0) -> Server:
    chosen = free_port(port)
    arguments = ["-m", "serving.console.run", "--home", str(home.root), "--port", str(chosen)]
    arguments += ["--config", config] if config else []
    return _start(home, "console", arguments, port=chosen, health=f"http://{LOOPBACK}:{chosen}/healthz")


def start_schedules(home: Home, *, config: str | None, api_url: str) -> Server:
    arguments = ["-m", "flows.deployments", "--home", str(home.root)]
    arguments += ["--config", config] if config else []
    return _start(home, "schedules", arguments, port=None, health=None, extra={"PREFECT_API_URL": api_url})


def _start(
    home: Home,
    name: str,
    arguments: list[str],
    *,
    port: int | None,
    health: str | None,
    extra: dict[str, str] | None = None,
) -> Server:
    inherited = {key: text for key, text in os.environ.items() if key != "PREFECT_API_URL"}
    log = home.run / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**inherited, **environment(home), **(extra or {})},
            cwd=home.root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    if port is not None and name not in ("serving", "console"):  # these write their own, once they listen
        (home.run / f"{name}.json").write_text(json.dumps({"pid": process.pid, "port": port}))
    return Server(name, process, log, None if port is None else f"http://{LOOPBACK}:{port}", health)
