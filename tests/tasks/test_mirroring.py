"""The loop that keeps MLflow equal to the ledger: it repairs, reports what came from outside, and never gives up."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from gate.states import TrialState
from relations.errors import DependencyFailed
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.registry import Registry
from stores.settings import Settings, TrackingSettings
from tasks import mirroring
from tasks.mirroring import MirrorLoop

T0 = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = Settings(tracking=TrackingSettings(uri="http://127.0.0.1:9"))  # nothing listens there


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def waiting(home: Home) -> Ledger:
    """Version 1 is champion, version 2 has waited for approval for weeks."""
    ledger = Ledger.of(home, AWAY)
    for number in (1, 2):
        ledger.record_version(
            VersionRecord(number, f"{number:064x}", "full", None, 1, 1, 0, True, {}, "", T0, "checkpoint")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    return ledger


@pytest.fixture
def loop_of(home: Home) -> Iterator[Callable[[Settings], MirrorLoop]]:
    begun: list[MirrorLoop] = []

    def begin(settings: Settings) -> MirrorLoop:
        begun.append(MirrorLoop(home, settings, 0.05))
        begun[-1].start()
        return begun[-1]

    yield begin
    for loop in begun:
        loop.stop()


def test_what_is_moved_by_hand_is_put_back_and_in_the_ledger(
    home: Home, settings: Settings, waiting: Ledger, loop_of: Callable[[Settings], MirrorLoop]
) -> None:
    registry = Registry(home, settings)
    client: Any = registry._client
    client.create_registered_model(registry.model)
    for number in (1, 2):
        client.create_model_version(registry.model, source="file:///x", tags={"digest": f"{number:064x}"})
    loop_of(settings)
    until(lambda: dict(registry.aliases()) == {"champion": 1})
    assert waiting.trial("t1").state is TrialState.EXPIRED, "the same loop ends what has waited too long"
    until(lambda: any(home.run.glob("mirror-*.json")))
    registry.set_alias("champion", 2)
    until(lambda: dict(registry.aliases()) == {"champion": 1})
    (note,) = (entry for entry in waiting.audit() if entry.action == "mirror_repaired")
    assert note.payload["repaired"] == ["alias champion: version 2 → version 1"]
    assert waiting.verify() == []


def test_without_mlflow_trials_expire_all_the_same_and_it_is_said_once(
    home: Home,
    waiting: Ledger,
    loop_of: Callable[[Settings], MirrorLoop],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[float] = []
    answers = threading.Event()

    def reconcile(*_: Any) -> list[str]:
        asked.append(time.monotonic())
        if answers.is_set():
            return []
        raise DependencyFailed("MLflow is away")

    monkeypatch.setattr(mirroring, "reconcile", reconcile)
    monkeypatch.setattr(mirroring, "LONGEST_SECONDS", 0.2)
    with caplog.at_level(logging.INFO):
        loop_of(AWAY)
        until(lambda: len(asked) >= 6)
        assert waiting.trial("t1").state is TrialState.EXPIRED
        assert [record.getMessage() for record in caplog.records] == ["ratchet.mirror.failed mirror: MLflow is away"]
        answers.set()
        until(lambda: "ratchet.mirror.recovered mirror" in caplog.text)
    steps = [after - before for before, after in pairwise(asked[:5])]
    assert all(step >= least for step, least in zip(steps, (0.1, 0.2, 0.2, 0.2), strict=True)), "ever more seldom"


def test_without_a_ledger_the_loop_lives_and_stops(
    home: Home, loop_of: Callable[[Settings], MirrorLoop], caplog: pytest.LogCaptureFixture
) -> None:
    (home.root / "ledger.db").write_bytes(b"no database" * 100)
    loop = loop_of(AWAY)
    until(lambda: "ratchet.mirror.failed expiry: ledger sqlite:" in caplog.text)
    loop.stop()
    assert not any(thread.name == "mirror" for thread in threading.enumerate())


def test_a_look_that_hangs_does_not_hold_up_the_end(
    home: Home, waiting: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, over = threading.Event(), threading.Event()

    def reconcile(*_: Any) -> list[str]:
        hangs.set()
        over.wait(120)
        return []

    monkeypatch.setattr(mirroring, "reconcile", reconcile)
    monkeypatch.setattr(mirroring, "LEAVE_SECONDS", 0.01)
    loop = MirrorLoop(home, AWAY, 0.05)
    loop.start()
    assert hangs.wait(120)
    loop.stop()  # returns although the thread is still there
    over.set()
    until(lambda: not any(thread.name == "mirror" for thread in threading.enumerate()))
