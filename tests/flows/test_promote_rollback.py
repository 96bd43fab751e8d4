"""The two flows that people start: they do what the plain functions do, and leave a page of who decided what."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stores.bundle import write_bundle
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_promote_and_roll_back(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.artifacts import Artifact

    from flows.promote import promote
    from flows.rollback import rollback

    monkeypatch.setenv("RATCHET_TRACKING__URI", "http://127.0.0.1:9")
    ledger = Ledger.of(home, Settings())
    for number in (1, 2):
        files = tmp_path / f"files-{number}"
        files.mkdir()
        (files / "model.onnx").write_bytes(bytes([number]))
        ready = write_bundle(files, describe={}, releases=home.releases, attestation={})
        ledger.record_version(
            VersionRecord(number, ready.digest, "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial("t1", {}, challenger=2, salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)

    promoted = promote(str(home.root), trial="t1", actor="ann", reason="clicks rose", now=T0)
    assert promoted["champion"]["version"] == 2
    back = rollback(str(home.root), actor="ann", reason="complaints", now=T0)
    assert (back["champion"]["version"], back["champion"]["epoch"]) == (1, 3)
    assert ledger.verify() == []

    pages = {key: asyncio.run(Artifact.aget(key)) for key in ("promote", "rollback")}
    assert "v1 (epoch 1) → v2 (epoch 2)" in str(pages["promote"])
    assert ledger.trial("t1").evidence[0].sha256 in str(pages["promote"])
    assert "v2 (epoch 2) → v1 (epoch 3)" in str(pages["rollback"])
