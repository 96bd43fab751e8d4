"""`pip install ratchet-rec[serve]` and nothing else: by the container file's own steps, into a fresh environment."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
TOO_MUCH = (
    "torch mlflow prefect pyarrow scipy pandas great-expectations deltalake duckdb ibis-framework onnx transformers"
)
MEGABYTES = 300
pytestmark = [pytest.mark.slow, pytest.mark.servers]


def build_steps(folder: Path) -> list[str]:
    """What the image's build runs, with its folders below `folder` and `[serve]` as the only extra."""
    stated = (REPOSITORY / "serving" / "deploy" / "Containerfile").read_text().replace("\\\n", " ")
    steps = re.findall(r"^RUN (.+)$", stated, re.MULTILINE)
    assert len(steps) == 3
    python = shlex.quote(sys.executable)
    found = []
    for step in steps:
        for place in ("/build", "/wheels", "/opt/ratchet"):
            step = re.sub(rf"(?<![\w/]){place}\b", str(folder) + place, step)
        step = re.sub(r"\[serve,[\w,]+\]", "[serve]", step)
        found.append(re.sub(r"^(python|pip)\b", lambda word: python + (" -m pip" if word[1] == "pip" else ""), step))
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has `ratchet-rec[serve]`; skips where the registry does not answer."""
    folder = tmp_path_factory.mktemp("image")
    asked = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "asked"), "hatchling"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=120)
    if answer.returncode:
        pytest.skip(f"the package registry does not answer: {answer.stderr.strip()[-200:]}")
    # As .dockerignore lets it in: what it leaves out must not be needed.
    (folder / "build").mkdir()
    for line in (REPOSITORY / ".dockerignore").read_text().split():
        source = REPOSITORY / line.removeprefix("!")
        if not line.startswith("!"):
            continue
        if source.is_dir():
            shutil.copytree(source, folder / "build" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "build")
    for step in build_steps(folder):
        done = subprocess.run(["sh", "-ec", step], cwd=folder, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{step}\n{done.stderr[-2000:]}"
    return folder / "opt" / "ratchet" / "bin" / "python"


def distributions(python: Path) -> dict[str, int]:
    """Name → bytes of its files."""
    code = """
import json, os
from importlib.metadata import distributions
def size(one):
    paths = [one.locate_file(file) for file in one.files or ()]
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
print(json.dumps({one.name.lower(): size(one) for one in distributions()}))
"""
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=python.parent)
    found: dict[str, int] = json.loads(told.stdout)
    return found


def test_it_is_small(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = distributions(installed)
    assert not found.keys() & set(TOO_MUCH.split())
    assert "onnxruntime-gpu" not in found
    site = next((installed.parents[1] / "lib").glob("python3.*")) / "site-packages"
    megabytes = sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) / 1e6
    largest = sorted(found.items(), key=lambda pair: -pair[1])[:10]
    with capsys.disabled():
        told = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
        print(f"\n[serve]: {megabytes:.0f} MB; {told}")  # noqa: T201
    assert megabytes <= MEGABYTES


def test_it_brings_an_older_ledger_up_to_date(installed: Path, tmp_path: Path) -> None:
    dump = REPOSITORY / "tests" / "stores" / "ledger_schema_4.sql"
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as older:
        older.executescript(dump.read_text(encoding="utf-8"))
    code = "from stores.ledger import Ledger; print(Ledger('sqlite:///ledger.db').champion().version)"
    told = subprocess.run([installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (told.stdout, told.returncode) == ("2\n", 0), told.stderr


def test_it_answers(installed: Path, shop: Any, tmp_path: Path) -> None:
    digest = shop.crown()
    shop.publish(*shop.items)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: text for name, text in os.environ.items() if name in ("PATH", "LANG")} | {
        "HOME": str(elsewhere)
    }
    command = [installed, "-m", "serving.run", "--home", str(shop.home.root), "--port", "0"]
    process = subprocess.Popen(command, cwd=elsewhere, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        announcement, deadline = shop.home.run / "serving.json", time.monotonic() + 60
        while not announcement.exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stated = json.loads(announcement.read_text())
        connection = http.client.HTTPConnection(stated["host"], stated["port"], timeout=10)
        body = json.dumps({"user_id": "u", "k": 4})
        connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        assert (answer.status, said["model"]["digest"], len(said["items"])) == (200, digest, 4), said
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True), path
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
    assert [file.suffix for file in (shop.home.landing / "exposures").iterdir()] == [".jsonl"]
    assert list(elsewhere.iterdir()) == []  # ONNX Runtime's telemetry would have left its device id here
