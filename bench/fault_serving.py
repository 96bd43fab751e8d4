"""Serving among ruins: where it listens, and what it answers while all that it depends on is down."""

import contextlib
import http.client
import ipaddress
import json
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.fault_bundles import ITEMS, Releases, make_releases
from bench.rows import Row, at_least, at_most
from bench.serve_worlds import World, ready, served

SEED = 5
REPOSITORY = Path(__file__).parent.parent
POLL, LASTING = 0.05, 0.5
"""Seconds between the server's looks at its ledger, and how long each state of its dependencies lasts at least."""


def measure_ports(folder: Path, *, releases: Releases | None = None, up: bool = True) -> list[Row]:
    """`up`: `ratchet up` too, with Prefect and MLflow: a minute of a core."""
    made = make_releases(folder / "made") if releases is None else releases
    home = made.copied(folder / "ports").home
    with served(World(home.root, ITEMS, [made.plain])):
        found = listening(int(json.loads((home.run / "serving.json").read_text())["pid"]))
    rows = _of_ports("serving", found, at_least_so_many=1)
    beyond = ("0.0.0.0", "::")
    ends = [_ends(home.root, "--host", host) for host in beyond]
    rows.append(
        at_most(
            f"serving on {' and '.join(beyond)} without a key: not refused with exit 2",
            sum(end != 2 for end in ends),
            0,
            unit="times",
        )
    )
    return rows + (_of_ports("`ratchet up`", _up(home.root), at_least_so_many=3) if up else [])


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports where a process, or one that it started, takes connections or datagrams from anybody."""
    import psutil

    found = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {
                (one.laddr.ip, one.laddr.port)
                for one in process.net_connections("inet")
                if one.laddr and not one.raddr and (one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM)
            }
    return found


def _of_ports(name: str, found: set[tuple[str, int]], *, at_least_so_many: int) -> list[Row]:
    beyond = [f"{address}:{port}" for address, port in sorted(found) if not ipaddress.ip_address(address).is_loopback]
    return [
        at_least(f"{name}: sockets that listen", len(found), at_least_so_many, unit="sockets"),
        at_most(f"{name}: beyond loopback {' '.join(beyond)}".rstrip(), len(beyond), 0, unit="sockets"),
    ]


def _ends(home: Path, *arguments: str) -> int | None:
    """The exit status; None for one that goes on."""
    command = [sys.executable, "-m", "serving.run", "--home", str(home), "--port", "0", *arguments]
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=False).returncode
    except subprocess.TimeoutExpired:
        return None


def _up(home: Path) -> set[tuple[str, int]]:
    """Over some seconds, as the flows' process comes up last."""
    ratchet = Path(sys.executable).with_name("ratchet")
    found: set[tuple[str, int]] = set()
    process = subprocess.Popen([ratchet, "up", "--home", home], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not any("Ctrl-C" in line for line in process.stdout):
            raise RuntimeError(f"`ratchet up` ended with {process.wait()}")
        for _ in range(10):
            found |= listening(process.pid)
            time.sleep(1)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    return found


# Dependencies that are down


def measure_dependencies(folder: Path, *, requests: int = 300, releases: Releases | None = None) -> list[Row]:
    """Requests to a server whose dependencies go, one after another; each answer must be the champion's."""
    made = make_releases(folder / "made") if releases is None else releases
    absent = folder / "absent"
    absent.mkdir(parents=True)
    for name in ("mlflow", "prefect"):
        (absent / f"{name}.py").write_text(f'raise ImportError("{name} is not installed")\n')
    rows = []
    home = made.copied(folder / "ledger").home
    world = World(home.root, ITEMS, [made.plain])
    ledger = home.root / "ledger.db"
    with _tracking(stalls=False) as uri, served(world, **_environment(uri, PYTHONPATH=str(absent))) as port:
        client = Client(port, made.plain)
        rows.append(client.row("MLflow and Prefect not installed, their servers refuse", requests))
        with _locked(ledger):
            rows.append(client.row("the ledger is locked", requests))
        ledger.write_bytes(random.Random(SEED).randbytes(20_000))
        client.until_told("ledger")
        rows.append(client.row("the ledger is corrupt", requests))
        for file in home.root.glob("ledger.db*"):
            file.unlink()
        client.until_told("no such table")
        rows.append(client.row("the ledger is gone", requests))
        rows.append(at_most("without a ledger: not told by /readyz", client.untold, 0, unit="times"))
    with _tracking(stalls=True) as uri, served(world, **_environment(uri)) as port:
        rows.append(Client(port, None).row("started anew without ledger, MLflow stalls", requests))
    home = made.copied(folder / "stalled").home
    with _tracking(stalls=True) as uri, served(World(home.root, ITEMS, [made.plain]), **_environment(uri)) as port:
        rows.append(Client(port, made.plain).row("started anew while MLflow stalls", requests))
    return rows + _without_redis(made.copied(folder / "redis"), requests=requests)


def _without_redis(releases: Releases, *, requests: int) -> list[Row]:
    if shutil.which("redis-server") is None:
        name = "users' state in a Redis that is killed: skipped, no redis-server here"
        return [{"name": name, "measured": None, "unit": "", "bar": "", "holds": None}]
    rows = []
    world = World(releases.home.root, ITEMS, [releases.plain])
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path may have 107 characters
        environment = {"RATCHET_SERVING__USER_STATE": f"unix://{folder}/redis.sock"}
        redis = _redis(Path(folder))
        try:
            with served(world, **environment) as port:
                client = Client(port, releases.plain)
                rows.append(client.row("users' state in Redis", requests))
                redis.send_signal(signal.SIGSTOP)
                rows.append(client.row("Redis stalls", requests))
                redis.kill()
                redis.wait()
                rows.append(client.row("Redis is killed", requests))
            with served(world, **environment) as port:
                rows.append(Client(port, releases.plain).row("started anew without Redis", requests))
        finally:
            redis.kill()
            redis.wait()
    return rows


class Client:
    """Asks one server as its users would, and counts what is not an answer of the model `digest`."""

    def __init__(self, port: int, digest: str | None) -> None:
        """`digest`: None where any answer will do."""
        self._port = port
        self._digest = digest
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._asked = 0
        self.untold = 0
        """How often `until_told` waited in vain."""

    def row(self, state: str, requests: int) -> Row:
        """`requests` and more, for so long that the server has met the state several times."""
        asked, failed, until = 0, 0, time.monotonic() + LASTING
        while asked < requests or time.monotonic() < until:
            failed += not self._answered()
            asked += 1
        return at_most(f"{state}: failed, of {asked:,} answers", failed, 0, unit="answers")

    def until_told(self, problem: str, *, seconds: float = 60.0) -> None:
        """Wait until /readyz tells of it."""
        until = time.monotonic() + seconds
        while not any(problem in told for told in ready(self._port)["problems"]):
            if time.monotonic() > until:
                self.untold += 1
                return
            time.sleep(0.02)

    def _answered(self) -> bool:
        """A recommendation; after every fifth one its feedback too."""
        self._asked += 1
        user = f"u{self._asked % 50}"
        try:
            status, answer = self._post("/v1/recommend", {"user_id": user, "k": 5})
            if status != 200 or self._digest not in (None, answer["model"]["digest"]):
                return False
            if self._asked % 5:
                return True
            shown = answer["items"][0]
            event = {"token": shown["token"], "user_id": user, "item_id": shown["item_id"], "behaviour": "click"}
            status, told = self._post("/v1/feedback", {"events": [event]})
            return status == 200 and told["accepted"] == 1
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError):
            self._connection.close()
            return False

    def _post(self, path: str, body: Any) -> tuple[int, Any]:
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content)


def _environment(uri: str, **more: str) -> dict[str, str]:
    servers = {"RATCHET_TRACKING__URI": uri, "MLFLOW_TRACKING_URI": uri, "PREFECT_API_URL": f"{uri}/api"}
    return {"RATCHET_SERVING__POLL_SECONDS": str(POLL), **servers, **more}


@contextlib.contextmanager
def _tracking(*, stalls: bool) -> Iterator[str]:
    """The address of a server that refuses connections, or takes them and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if stalls:
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def _locked(ledger: Path) -> Iterator[None]:
    """Against readers too, which an ordinary lock would let in: the ledger is in WAL mode."""
    with contextlib.closing(sqlite3.connect(ledger, timeout=60, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with contextlib.closing(sqlite3.connect(ledger, timeout=0)) as reader:
            try:
                reader.execute("SELECT * FROM meta").fetchall()
                raise RuntimeError(f"{ledger}: a lock that lets readers in shows nothing")
            except sqlite3.OperationalError:
                yield
        holder.execute("ROLLBACK")


def _redis(folder: Path) -> "subprocess.Popen[bytes]":
    path = folder / "redis.sock"
    stated = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen(["redis-server", *stated], stdout=subprocess.DEVNULL)
    for _ in range(1_000):
        if path.exists():
            return process
        time.sleep(0.02)
    raise RuntimeError("redis-server does not come up")
