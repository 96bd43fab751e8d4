"""`ratchet notify test`, and what `ratchet doctor` says of messages."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from stores.home import Home

SECRET = "tok3n-s3cret"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Home.create(tmp_path / "home").root


@pytest.fixture
def hook() -> Iterator[str]:
    """The URL of a web hook that takes everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/{SECRET}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--home", str(root)])


def test_a_test_message_says_whom_it_reached(root: Path, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = run(root, "notify", "test")
    assert (nobody.exit_code, "[notify] urls is empty" in nobody.output) == (2, True)
    monkeypatch.setenv("RATCHET_NOTIFY__URLS", hook)
    monkeypatch.setenv("RATCHET_NOTIFY__TIMEOUT_S", "30")
    reached = run(root, "notify", "test")
    assert (reached.exit_code, reached.output) == (0, "✓ json://127.0.0.1 (#1)\n")
    monkeypatch.setenv("RATCHET_NOTIFY__URLS", f"{hook} slack://{SECRET}")
    missed = run(root, "notify", "test")
    assert missed.exit_code == 6
    assert "✗ slack (#2): apprise cannot read this URL" in missed.output
    assert SECRET not in missed.output


def test_the_doctor_knows_urls_that_cannot_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "✓ notify: nobody is told of trials that wait" in run(root, "doctor").output
    monkeypatch.setenv("RATCHET_NOTIFY__URLS", f"nonsense://{SECRET}")
    told = run(root, "doctor").output
    assert "✗ notify: nonsense (#1): apprise cannot read this URL" in told
    assert SECRET not in told
