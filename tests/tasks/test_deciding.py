"""Decisions carried out: the ledger moves whatever serving and MLflow do, and a kill leaves old or new."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gate.states import TrialState
from relations.errors import DataRejected, GateRefused
from stores.bundle import Bundle, open_bundle, write_bundle
from stores.failpoints import VARIABLE
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.mirror import reconcile
from stores.registry import Registry
from stores.serving_settings import ServingSettings
from stores.settings import Settings, TrackingSettings
from stores.signatures import make_key, sign
from tasks.deciding import (
    approve_trial,
    bootstrap_champion,
    decision_markdown,
    reject_trial,
    rollback_champion,
    wait_until_serving,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
# Nothing listens there, and it refuses at once: no MLflow's seconds where MLflow is not the point.
AWAY = Settings(tracking=TrackingSettings(uri="http://127.0.0.1:9"))


def bundle(home: Home, scratch: Path, number: int) -> Bundle:
    table = numpy_helper.from_array(np.full((4, 3), number, np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["rows"]),
        helper.make_node("ReduceSum", ["rows"], ["scores"]),
    ]
    items = helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", "length"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1, 3])
    graph = helper.make_graph(nodes, "sum", [items], [scores], [table])
    folder = scratch / f"files-{number}"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    return write_bundle(folder, describe={"architecture": "sum"}, releases=home.releases, attestation={})


def enter(home: Home, number: int, digest: str, run: str = "run") -> None:
    record = VersionRecord(number, digest, "full", number - 1 or None, 1, 1, 0, True, {}, run, T0, "checkpoint")
    Ledger.of(home, AWAY).record_version(record)


@pytest.fixture
def waiting(home: Home, tmp_path: Path, passing_trial: Callable[..., str]) -> Home:
    """Version 1 is champion, version 2 waits for approval; MLflow knows neither."""
    for number in (1, 2):
        enter(home, number, bundle(home, tmp_path, number).digest)
    ledger = Ledger.of(home, AWAY)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    passing_trial(ledger, "t1", challenger=2, actor="bob", now=T0)
    return home


@contextmanager
def server(home: Home, champion: dict[str, object] | None, *, name: str = "serving") -> Iterator[None]:
    """Answers /readyz as serving does, 503 without a champion."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"champion": champion}).encode()
            self.send_response(200 if champion else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (home.run / f"{name}.json").write_text(json.dumps({"pid": os.getpid(), "port": listening.server_port}))
    try:
        yield
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_a_decision_holds_although_mlflow_does_not_answer(waiting: Home) -> None:
    decided = approve_trial(waiting, AWAY, "t1", actor="ann", reason="clicks | rose", now=T0)
    assert (decided.champion.version, decided.champion.epoch) == (2, 2)
    assert decided.before is not None
    assert (decided.before.version, decided.before.epoch) == (1, 1)
    assert decided.serving is None
    assert "MLflow does not show it yet: MLflow at http://127.0.0.1:9" in decided.warning
    stated = decided.as_json()
    assert json.loads(json.dumps(stated)) == stated
    evidence = Ledger.of(waiting, AWAY).trial("t1").evidence[0].sha256
    assert stated["evidence"] == evidence
    page = decision_markdown(decided)
    for fact in (
        "| decided by | ann |",
        "clicks \\| rose",
        "v1 (epoch 1) → v2 (epoch 2)",
        evidence,
        "submitted by bob",
    ):
        assert fact in page
    again = approve_trial(waiting, AWAY, "t1", actor="ann", reason="again", now=T0)
    assert again.champion == decided.champion


def test_rollback_does_not_wait_for_a_tracking_server_that_says_nothing(waiting: Home) -> None:
    approve_trial(waiting, AWAY, "t1", actor="ann", reason="good", now=T0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = Settings(tracking=TrackingSettings(uri=uri))
        began = time.monotonic()
        decided = rollback_champion(waiting, settings, actor="ann", reason="complaints", now=T0)
        assert time.monotonic() - began < 10, "FAULTS.md: never longer"
    assert f"MLflow does not show it yet: MLflow at {uri}" in decided.warning
    assert (decided.champion.version, decided.champion.epoch) == (1, 3)
    assert "v2 (epoch 2) → v1 (epoch 3)" in decision_markdown(decided)
    with pytest.raises(GateRefused, match="no champion before"):
        rollback_champion(waiting, AWAY, actor="ann", reason="complaints", now=T0)


WITHOUT = """
import sys
sys.modules["mlflow"] = sys.modules["prefect"] = None
from datetime import UTC, datetime
from pathlib import Path
from stores.home import Home
from stores.settings import Settings
from tasks.deciding import rollback_champion
decided = rollback_champion(
    Home.open(Path(sys.argv[1])), Settings(), actor="ann", reason="bad", now=datetime(2026, 1, 1, tzinfo=UTC)
)
print(decided.champion.version, decided.warning)
"""


def test_rollback_works_where_mlflow_and_prefect_are_not_installed(waiting: Home) -> None:
    approve_trial(waiting, AWAY, "t1", actor="ann", reason="good", now=T0)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(waiting.root)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 decided, but MLflow does not show it yet: MLflow is not installed")


def test_the_first_champion_needs_a_bundle_that_can_serve(home: Home, tmp_path: Path) -> None:
    ready = bundle(home, tmp_path, 1)
    enter(home, 1, ready.digest)
    file = ready.folder / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataRejected, match=r"model\.onnx does not match"):
        bootstrap_champion(home, AWAY, 1, actor="ann", reason="the first", now=T0)
    assert Ledger.of(home, AWAY).champion() is None
    file.write_bytes(content)
    assert bootstrap_champion(home, AWAY, 1, actor="ann", reason="the first", now=T0).champion.digest == ready.digest


def test_a_damaged_bundle_is_neither_promoted_nor_rolled_back_to(waiting: Home) -> None:
    ledger = Ledger.of(waiting, AWAY)
    manifest = waiting.releases / ledger.version(2).digest / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(b"{}\n")
    with pytest.raises(DataRejected):
        approve_trial(waiting, AWAY, "t1", actor="ann", reason="good", now=T0)
    assert ledger.trial("t1").state is TrialState.AWAIT_APPROVAL
    manifest.write_bytes(content)
    approve_trial(waiting, AWAY, "t1", actor="ann", reason="good", now=T0)
    (waiting.releases / ledger.version(1).digest / "manifest.json").write_bytes(b"{}\n")
    with pytest.raises(DataRejected):
        rollback_champion(waiting, AWAY, actor="ann", reason="bad", now=T0)
    champion = ledger.champion()
    assert champion is not None
    assert champion.version == 2


def test_what_serving_would_refuse_for_its_signature_is_not_decided_for(waiting: Home, tmp_path: Path) -> None:
    ledger = Ledger.of(waiting, AWAY)
    trusting = AWAY.model_copy(update={"serving": ServingSettings(trusted_keys=(make_key(tmp_path / "key"),))})
    with pytest.raises(GateRefused, match="not signed"):
        approve_trial(waiting, trusting, "t1", actor="ann", reason="better", now=T0)
    sign(open_bundle(waiting.releases, ledger.version(2).digest), tmp_path / "key")
    assert approve_trial(waiting, trusting, "t1", actor="ann", reason="better", now=T0).champion.version == 2
    with pytest.raises(GateRefused, match="not signed"):
        rollback_champion(waiting, trusting, actor="ann", reason="worse", now=T0)
    champion = ledger.champion()
    assert champion is not None
    assert champion.version == 2
    sign(open_bundle(waiting.releases, ledger.version(1).digest), tmp_path / "key")
    assert rollback_champion(waiting, trusting, actor="ann", reason="worse", now=T0).champion.version == 1


def test_reject(waiting: Home) -> None:
    record = reject_trial(waiting, AWAY, "t1", actor="ann", reason="ugly pictures", now=T0)
    assert (record.state, record.decided_by, record.reason) == (TrialState.REJECTED, "ann", "ugly pictures")


def test_serving_is_asked_what_it_serves(waiting: Home) -> None:
    digest = Ledger.of(waiting, AWAY).version(2).digest
    assert wait_until_serving(waiting, digest, timeout_s=5) is None
    with server(waiting, {"version": 2, "digest": digest, "epoch": 2}):
        decided = approve_trial(waiting, AWAY, "t1", actor="ann", reason="good", now=T0, wait_seconds=5)
        assert decided.serving is True
        assert wait_until_serving(waiting, "0" * 64, timeout_s=0.1) is False
    with server(waiting, None):
        assert wait_until_serving(waiting, digest, timeout_s=0.1) is False
    champion: dict[str, object] = {"version": 2, "digest": digest, "epoch": 2}
    second = f"serving-{socket.gethostname()}-8891"
    with server(waiting, champion), server(waiting, {**champion, "digest": "0" * 64}, name=second):
        assert wait_until_serving(waiting, digest, timeout_s=0.1) is False, "both are to report it"
    with server(waiting, champion, name=second):  # the first one is gone
        assert wait_until_serving(waiting, digest, timeout_s=5) is True
    assert wait_until_serving(waiting, digest, timeout_s=5) is None, "what a killed server left behind is nobody"
    (waiting.run / "serving.json").write_text("{")
    assert wait_until_serving(waiting, digest, timeout_s=5) is None


FAIL_POINTS = ("decide.swapped", "decide.committed", "mirror.tags")
APPROVE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from stores.home import Home
from stores.settings import Settings
from tasks.deciding import approve_trial
now = datetime(2026, 1, 1, tzinfo=UTC)
approve_trial(Home.open(Path(sys.argv[1])), Settings(), sys.argv[2], actor="ann", reason="good", now=now)
"""


def test_a_killed_promotion_is_old_or_new_and_completed_by_the_next_one(
    home: Home, tmp_path: Path, settings: Settings, passing_trial: Callable[..., str]
) -> None:
    """One home, one more promotion for every place of a kill."""
    registry, ledger = Registry(home, settings), Ledger.of(home, settings)
    for number in range(1, len(FAIL_POINTS) + 2):
        ready = bundle(home, tmp_path, number)
        with registry.start_run("full") as run:
            assert registry.register(ready.folder, run_id=run.run_id) == number
        enter(home, number, ready.digest, run.run_id)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    for version, point in enumerate(FAIL_POINTS, start=2):
        trial = f"t{version}"
        passing_trial(ledger, trial, challenger=version, actor="bob", now=T0)
        reconcile(ledger, registry)
        command = [sys.executable, "-c", APPROVE, str(home.root), trial]
        killed = subprocess.run(command, cwd=ROOT, env={**os.environ, VARIABLE: point}, check=False)
        assert killed.returncode == -signal.SIGKILL
        champion = ledger.champion()
        assert champion is not None
        assert champion.version == (version - 1 if point == "decide.swapped" else version)
        assert ledger.verify() == []
        decided = approve_trial(home, settings, trial, actor="ann", reason="good", now=T0)
        assert (decided.champion.version, decided.champion.epoch, decided.warning) == (version, version, "")
        assert len(ledger.history()) == version
        assert registry.aliases() == {"champion": version}
        assert registry.versions()[version - 1].tags["gate.state"] == "PROMOTED"
        assert reconcile(ledger, registry) == []
        assert ledger.verify() == []
