"""A PostgreSQL of one's own, for tests and measurements: on a socket in a temporary folder, without a port."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120.0
SERVER = "postgres"
"""The user who runs the server where this process is root, which PostgreSQL refuses to run as."""


@dataclass(frozen=True)
class Cluster:
    """A running server. Its folder, and so its databases, go when `started` ends."""

    folder: Path

    def url(self, database: str) -> str:
        """As `[ledger] url` has it."""
        return f"postgresql+psycopg://ratchet@/{database}?host={self.folder}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """A new database, a copy of `template` that nobody may be connected to; returns its URL."""
        self.command(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self.command(f'DROP DATABASE "{database}" WITH (FORCE)')

    def command(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user="ratchet", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


def programs() -> Path | None:
    """The folder of the newest `initdb` and `postgres` here; None where there are none."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    if found:
        return max(found, key=lambda folder: float(folder.parent.name))
    other = shutil.which("initdb")
    return Path(other).resolve().parent if other else None


def why_not() -> str:
    """Why no cluster can be started here; empty where one can."""
    if programs() is None:
        return "no PostgreSQL here; apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv to become another user"
    return ""


@contextmanager
def started() -> Iterator[Cluster]:
    """A new cluster until the end of the block. It is fast and forgets at a power cut: nothing in it is worth keeping.

    Texts sort as an American dictionary has them (ICU), not by their bytes: what relies on bytes is found out.
    """
    where = programs()
    if where is None or why_not():
        raise RuntimeError(why_not())
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:  # a socket's path is short
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, SERVER, SERVER)
        stated = ["-U", "ratchet", "-A", "trust", "--no-sync", "--no-instructions", "--encoding=UTF8"]
        collation = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        made = _as_server([str(where / "initdb"), "-D", f"{folder}/data", *stated, *collation])
        done = subprocess.run(made, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr.strip()[-500:]}")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "32MB",
        }
        served = [str(where / "postgres"), "-D", f"{folder}/data"]
        served += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        log = folder / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(_as_server(served), cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        try:
            _await(process, where, folder, log)
            yield Cluster(folder)
        finally:
            process.send_signal(signal.SIGINT)  # end the sessions, and stop
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _as_server(command: list[str]) -> list[str]:
    """Not as root, and not longer than this process lives."""
    if shutil.which("setpriv") is None:
        return command
    other = [f"--reuid={SERVER}", f"--regid={SERVER}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *other, "--pdeathsig", "QUIT", "--", *command]


def _await(process: "subprocess.Popen[bytes]", where: Path, folder: Path, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while subprocess.run([where / "pg_isready", "-q", "-h", str(folder)], check=False).returncode:
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.05)
