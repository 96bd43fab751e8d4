"""What every room's tests may ask for: an empty home, settings, a Prefect API, the real data sets."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from bench.clusters import Cluster, started, why_not
from stores.home import Home
from stores.ledger import Ledger
from stores.pseudonyms import Keys
from stores.settings import Settings

if TYPE_CHECKING:
    from argon2 import PasswordHasher

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A busy machine is no failure of a law. The same examples each time, so that a change fails for what it changed;
# RATCHET_TEST_RANDOM=1 looks further.
hypothesis.settings.register_profile(
    "ratchet", deadline=None, derandomize=os.environ.get("RATCHET_TEST_RANDOM") is None
)
hypothesis.settings.load_profile("ratchet")


def pytest_configure(config: pytest.Config) -> None:
    # Hypothesis watches the global generator while it draws, and Prefect's threads use it whenever they like.
    config.addinivalue_line(
        "filterwarnings", "ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"
    )
    # Prefect's client leaves its sockets to the garbage collector, in whichever test that happens to run.
    for leak in ("unclosed.*<socket", "unclosed transport"):
        config.addinivalue_line("filterwarnings", f"ignore:{leak}:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Rooms whose files take longest first: the processes then end together, and not one of them minutes later.
    quickest_last = ["cli", "model", "gate", "relations", "expectations", "simulation"]
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        room = item.path.relative_to(tests).parts[0]
        return quickest_last.index(room) if room in quickest_last else -1

    items.sort(key=place)


def pytest_sessionfinish() -> None:
    # Ibis's default connection would still be open when the interpreter is torn down, which DuckDB reports as leaks.
    ibis = sys.modules.get("ibis")
    if ibis is not None and ibis.options.default_backend is not None:
        ibis.options.default_backend.disconnect()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home, with keys from a seed so that pseudonyms and derived ids repeat."""
    made = Home.create(tmp_path / "home", simulation=True)
    Keys.write_derived(made.keys, seed=7)
    return made


@pytest.fixture
def settings() -> Settings:
    return Settings()


def _cheap_hasher(time_cost: int = 1) -> "PasswordHasher":
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=time_cost, memory_cost=8, parallelism=1)


@pytest.fixture(scope="session")
def cheap_hasher() -> "Callable[..., PasswordHasher]":
    return _cheap_hasher


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passwords whose hashes cost 8 KiB and no time; nobody should guess them in a test anyway."""
    from stores import passwords

    hasher = _cheap_hasher()
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    passwords._nobodys.cache_clear()
    yield
    passwords._nobodys.cache_clear()


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`hire(home, "ann", "approver")` makes a person with a token; the shell holds it from then on. Returns it.

    The first one hired is hired by the name of `root`, an admin who is made for it and has neither token nor password.
    """
    from datetime import UTC

    from stores.ledger import Ledger
    from stores.people import Role

    def hired(home: Home, name: str, *roles: str) -> str:
        ledger, now = Ledger.of(home, Settings()), datetime.now(UTC)
        if not ledger.people():
            ledger.add_first_admin("root", password=None, roles=frozenset({Role.ADMIN}), now=now)
        ledger.add_person(name, roles=frozenset(map(Role, roles)), password=None, actor="root", now=now)
        shown = ledger.issue_token(name, label="test", lifetime=None, actor=name, now=now)[1]
        monkeypatch.setenv("RATCHET_TOKEN", shown)
        return shown

    return hired


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """An ephemeral Prefect API for flows under test. Starting it takes some 15 seconds, once a session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=280):
        yield
        # The server's parting words would go to a captured stream that is closed by then, and hide what failed.
        logging.getLogger("prefect").handlers.clear()


@pytest.fixture(scope="session")
def passing_trial() -> Callable[..., str]:
    """`passing_trial(ledger, "t1", challenger=2, actor="bob", now=…)` opens a trial that the real gate has passed."""
    from bench.passing import open_passing

    return open_passing


@pytest.fixture(scope="session")
def look_again() -> Callable[..., str]:
    """`look_again(ledger, "t1", now=…, rate=0.14)`: one more day of users, judged by the real gate and recorded."""
    from bench.passing import look_again

    return look_again


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of the real data sets; skips where there is none."""
    stated = os.environ.get("RATCHET_TEST_DATA")
    folder = Path(stated) if stated else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; name their folder in RATCHET_TEST_DATA")
    return folder


@dataclass
class RedisServer:
    """A real redis-server on a socket of its own, without persistence: killed, it comes back empty."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    def start(self) -> None:
        socket = self.folder / "redis.sock"
        socket.unlink(missing_ok=True)
        stated = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(["redis-server", *stated, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stall(self) -> None:
        """It takes connections and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own (10 ms); skips where the program is missing."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here; apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path may have 107 characters
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL of the session's own (a second); skips where it is not installed, but in CI it must be."""
    if why := why_not():
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with started() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _ledger_template(postgres: Cluster) -> str:
    """A database that has a ledger's tables, to be copied; 40 ms instead of 150."""
    url = postgres.create("ledger")
    Ledger(url).champion()
    return "ledger"


@pytest.fixture
def postgres_url(postgres: Cluster, _ledger_template: str) -> Iterator[str]:
    """A new database with an empty ledger, for `[ledger] url`."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres.create(name, template=_ledger_template)
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger, once on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
