"""The console as a process: where it listens, what it refuses to start as, how it goes."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main as ratchet
from relations.errors import DependencyFailed, UsageError
from serving.console.run import main, run
from stores.settings import Settings

REPOSITORY = Path(__file__).parents[2]


def announced(small: Any, process: subprocess.Popen[str]) -> dict[str, Any]:
    file, deadline = small.home.run / "console.json", time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the console announced nothing"
        time.sleep(0.02)
    stated: dict[str, Any] = json.loads(file.read_text())
    return stated


@pytest.mark.servers
def test_it_listens_tells_where_and_goes_without_a_trace(small: Any) -> None:
    command = [sys.executable, "-m", "cli.main", "console", "--home", str(small.home.root), "--port", "0"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stated = announced(small, process)
        assert (stated["pid"], stated["host"]) == (process.pid, "127.0.0.1")
        connection = http.client.HTTPConnection(stated["host"], stated["port"], timeout=60)
        for path, status in (("/healthz", 200), ("/sign-in", 200), ("/", 401)):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
            assert answer.headers["Server"] is None
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        with pytest.raises(UsageError, match="has a console already"):
            run(small.home, small.settings, port=0)
        connection.close()
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
        assert "Traceback" not in told
    finally:
        process.kill()
        process.wait()
    assert not (small.home.run / "console.json").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_it_does_not_listen_beyond_this_machine_in_plain_http(small: Any, host: str) -> None:
    with pytest.raises(UsageError, match="only behind a proxy that speaks https"):
        run(small.home, small.settings, host=host, port=0)


def test_it_does_not_listen_beyond_this_machine_where_nobody_signs_in(home: Any) -> None:
    with pytest.raises(UsageError, match="no simulation answers"):
        run(home, Settings(), host="0.0.0.0", port=0)


def test_a_port_that_is_taken_is_named_with_the_remedy(small: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DependencyFailed, match="--port"):
            run(small.home, small.settings, port=other.getsockname()[1])


def test_the_module_answers_with_the_commands_exit_codes(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path / "nowhere")]) == 2
    assert "no Ratchet home here" in capsys.readouterr().err
    assert main(["--home", str(small.home.root), "--host", "0.0.0.0", "--port", "0"]) == 2


def test_the_command_is_listed_and_refuses_in_words(small: Any) -> None:
    assert "Read the evidence and decide, in a browser." in CliRunner().invoke(ratchet, ["--help"]).output
    answer = CliRunner().invoke(ratchet, ["console", "--home", str(small.home.root), "--host", "example.com"])
    assert answer.exit_code == 2
    assert "is no address" in answer.output
