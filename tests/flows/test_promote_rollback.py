"""The flows of decisions: they do what the plain functions do, and leave a page of who decided what, and why."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.console_world import make_world
from gate.states import TrialMode
from stores.bundle import write_bundle
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Version 1 is champion, version 2 is newer; MLflow is away."""
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
    return ledger


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_promote_and_roll_back_by_one_time_codes(tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    from flows.promote import promote
    from flows.rollback import rollback

    world = make_world(tmp_path, story="protected")  # it takes two to approve
    ledger, where = world.ledger, str(world.home.root)
    evidence = ledger.trial("trial-1").evidence[-1].sha256

    def code(name: str, step: str, subject: str = "", seen: str = "") -> str:
        return ledger.issue_code(name, step=step, subject=subject, evidence=seen, now=datetime.now(UTC))

    first = promote(where, trial="trial-1", reason="clicks rose", code=code("ada", "approve", "trial-1", evidence))
    assert (first["state"], first["approved_by"], first["quorum"]) == ("AWAIT_APPROVAL", ["ada"], 2)
    assert "1 of 2: ada" in str(asyncio.run(Artifact.aget("promote")))
    promoted = promote(where, trial="trial-1", reason="I agree", code=code("ben", "approve", "trial-1", evidence))
    assert promoted["champion"]["version"] == 2
    back = rollback(where, reason="complaints", code=code("ada", "rollback"))
    assert (back["actor"], back["champion"]["version"], back["champion"]["epoch"]) == ("ada", 1, 3)
    assert ledger.verify() == []

    pages = {key: asyncio.run(Artifact.aget(key)) for key in ("promote", "rollback")}
    assert "v1 (epoch 1) → v2 (epoch 2)" in str(pages["promote"])
    assert evidence in str(pages["promote"])
    assert "v2 (epoch 2) → v1 (epoch 3)" in str(pages["rollback"])


def test_the_watch_has_nothing_to_do_without_a_promotion(home: Home, ledger: Ledger) -> None:
    from flows.bake import bake

    assert bake.fn(str(home.root), now=T0) == {"trial": None, "state": None, "reasons": ["no promotion is watched"]}
    assert ledger.champion() is not None


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_the_watch_finds_the_promotion_and_says_what_it_waits_for(home: Home, ledger: Ledger) -> None:
    from prefect.artifacts import Artifact

    from flows.bake import bake
    from tasks.trial_plans import trial_config

    champion = ledger.champion()
    assert champion is not None
    config = trial_config(
        Settings(), trial_id="t1", challengers=[ledger.version(2)], champion=champion, now=T0, mode=TrialMode.COMPARE
    )
    ledger.open_trial("t1", config.as_json(), challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    ledger.approve("t1", actor="ann", reason="clicks rose", now=T0)
    told = bake(str(home.root), now=T0)
    assert (told["trial"], told["state"], told["bake"]) == ("t1", "PROMOTING", None)
    assert "no running server could be asked" in told["reasons"][0]
    assert "t1: PROMOTING" in str(asyncio.run(Artifact.aget("t1-bake")))
