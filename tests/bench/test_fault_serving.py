"""The faults of serving and of releases at small counts: every promise holds, and a broken one would show."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving.networks.engine_room
from bench.fault_bundles import Releases, make_releases, measure_corrupt
from bench.fault_doors import Door
from bench.fault_loaders import knock, measure_canaries, unsafe_loads
from bench.fault_serving import Client, listening, measure_dependencies, measure_ports
from bench.rows import Row
from stores.bundle import Bundle


def failing(rows: list[Row]) -> list[Row]:
    assert rows
    return [row for row in rows if row["holds"] is False]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """A real export: ten seconds of a core, once for all that damage copies of it."""
    return make_releases(tmp_path_factory.mktemp("releases") / "home")


def test_no_corrupt_bundle_loads_and_the_old_model_serves(tmp_path: Path, releases: Releases) -> None:
    assert failing(measure_corrupt(tmp_path, positions=60, requests=20, releases=releases)) == []


def test_a_door_that_looks_at_nothing_would_show(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(folder: Path, digest: str) -> Bundle:
        manifest = json.loads((folder / digest / "manifest.json").read_text())
        return Bundle(folder / digest, digest, manifest, {})

    monkeypatch.setattr(serving.networks.engine_room, "open_bundle", careless)
    monkeypatch.setattr(Bundle, "read", lambda bundle, name: (bundle.folder / name).read_bytes())
    loaded, escaped, *_ = measure_corrupt(tmp_path, positions=20, requests=0, releases=releases)
    assert loaded["measured"] > 0  # ONNX Runtime takes flipped weights
    assert escaped["measured"] > 0


def test_no_loader_executes_what_it_reads(tmp_path: Path, releases: Releases) -> None:
    copied = releases.copied(tmp_path / "copied")  # deltas and side indexes are added to it
    assert failing(measure_canaries(tmp_path, releases=copied, heavy=False)) == []


def test_a_door_that_is_shut_to_all_proves_nothing(tmp_path: Path) -> None:
    def shut(folder: Path) -> object:
        raise ValueError("whatever it is")

    assert knock(Door("shut", lambda folder: (folder / "x").write_text("whole"), shut), tmp_path)[1:] == ([], False)
    assert knock(Door("nothing there", lambda folder: None, lambda folder: None), tmp_path) == (0, [], False)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("import joblib", "joblib"),
        ("from shelve import open", "shelve"),
        ("torch.load(file)", "torch.load"),
        ("torch.load(file, weights_only=False)", "torch.load"),
        ("torch.load(file, weights_only=True)", ""),
        ("np.load(file, allow_pickle=True)", "np.load(allow_pickle=…)"),
        ("np.load(file)", ""),
        ("frame = pd.read_pickle(file)", "pd.read_pickle"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.load(text, Loader=yaml.SafeLoader)", ""),
        ("AutoModel.from_pretrained(name)", "AutoModel.from_pretrained"),
        ("AutoModel.from_pretrained(name, use_safetensors=True)", ""),
        ("mlflow.pyfunc.load_model(uri)", "mlflow.pyfunc.load_model"),
        ("eval(text)", "eval"),
        ("model.eval()", ""),
    ],
)
def test_what_could_execute_a_file_is_found(tmp_path: Path, line: str, told: str) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "module.py").write_text(f"def work(file):\n    {line}\n")
    assert unsafe_loads(room) == ([f"room/module.py:2 {told}"] if told else [])


@pytest.mark.servers
def test_serving_listens_on_loopback_alone(tmp_path: Path, releases: Releases) -> None:
    assert failing(measure_ports(tmp_path, releases=releases, up=False)) == []


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process whose child listens on every address."""
    inner = "import socket, time; s = socket.create_server(('', 0)); print(flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_port_beyond_loopback_would_show(stranger: int) -> None:
    assert [address for address, _ in listening(stranger)] == ["0.0.0.0"]


@pytest.mark.servers
def test_no_answer_fails_while_dependencies_do(tmp_path: Path, releases: Releases) -> None:
    assert failing(measure_dependencies(tmp_path, requests=20, releases=releases)) == []


def test_an_answer_that_fails_would_show() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        row: dict[str, Any] = Client(nobody.getsockname()[1], None).row("nobody answers", 3)
    assert row["measured"] >= 3
    assert row["holds"] is False
