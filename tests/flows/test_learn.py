"""The learn flow: decides, does it, and hands over what another deployment is to do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stores.home import Home

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TINY = "[model]\nwidth = 8\nblocks = 1\nheads = 1\n[train]\nepochs = 2\nthreads = 1\nsmall_events = 0\n"


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_decides_and_trains(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.artifacts import Artifact

    import flows.learn as module
    from flows.ingest import ingest
    from model.continual.choosing import Action

    (home.root / "ratchet.toml").write_text(TINY)
    rows = [
        f"u{user:02d},i{(user + step) % 30:02d},view,{(NOW - timedelta(days=20 - step, minutes=user)).isoformat()}"
        for user in range(30)
        for step in range(12)
    ]
    (tmp_path / "e.csv").write_text("\n".join(["user_id,item_id,behaviour,event_time", *rows]) + "\n")
    ingest(str(home.root), uris=[str(tmp_path / "e.csv")], now=NOW)
    first = module.learn(str(home.root), now=NOW)
    assert first["version"] == 1
    assert first["mode"] == "full"
    assert first["decision"] == {"action": "full", "because": "there is no model yet"}
    second = module.learn(str(home.root), now=NOW + timedelta(hours=1))
    assert second["version"] is None
    assert second["reason"] == "no new events since the last full retrain"
    artifact = Artifact.get(key="learning-decision")
    assert artifact is not None
    assert "# skip" in str(artifact.data)

    told: list[dict[str, Any]] = []
    usual = module.decide_training

    def drifted(*arguments: Any, now: datetime) -> Any:
        return replace(usual(*arguments, now=now), action=Action.FULL, because="drift of popularity", drifted=True)

    monkeypatch.setattr(module, "decide_training", drifted)
    monkeypatch.setattr(module, "emit_event", lambda **stated: told.append(stated))
    third = module.learn(str(home.root), now=NOW + timedelta(hours=2), hand_over=True)
    assert third["version"] is None
    assert [each["event"] for each in told] == ["ratchet.drift"]
    assert told[0]["resource"]["prefect.resource.id"] == f"ratchet.home.{home.root.name}"
