"""The ingest flow: as Prefect runs it, with its artifact."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from relations.errors import DependencyFailed
from stores.home import Home

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_files_then_landing(tmp_path: Path, home: Home) -> None:
    from prefect.artifacts import Artifact

    from flows.ingest import ingest

    rows = [f"u{n},i{n % 3},view,2026-02-01T00:00:{n:02d}Z" for n in range(30)]
    text = "\n".join(["user_id,item_id,behaviour,event_time", *rows, "u,i,hover,2026-02-01"])
    (tmp_path / "e.csv").write_text(text)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 16)
    (home.landing / "events" / "e.csv").write_text(text)
    answer = ingest(str(home.root), uris=[str(tmp_path / "binary.csv"), str(tmp_path / "e.csv")], now=NOW)
    assert [receipt["state"] for receipt in answer["receipts"]] == ["unreadable", "committed"]
    assert answer["totals"] == {"delivered": 31, "accepted": 30, "quarantined": 1, "duplicate": 0, "late": 0}
    assert home.popularity.exists()
    artifact = Artifact.get(key="ingest")
    assert artifact is not None
    assert "31 | 30 | 1 | 0 | 0 | committed" in str(artifact.data)
    answer = ingest(str(home.root), now=NOW)
    assert answer["totals"] == {"delivered": 62, "accepted": 30, "quarantined": 2, "duplicate": 30, "late": 0}
    assert ingest(str(home.root), now=NOW)["receipts"] == []


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_polled_sources_beside_one_that_is_down(tmp_path: Path, home: Home) -> None:
    from prefect.artifacts import Artifact

    from flows.ingest import ingest

    (tmp_path / "feed").mkdir()
    down = "[sources.down]\nuri = 'http://127.0.0.1:1/x.csv'\n"
    (home.root / "ratchet.toml").write_text(f"[sources.feed]\nuri = '{tmp_path}/feed/*.csv'\n{down}")
    with pytest.raises(DependencyFailed, match=r"\[sources\.down\] http://127\.0\.0\.1:1/x\.csv: cannot be reached"):
        ingest(str(home.root), now=NOW)  # nothing else was there to do
    (tmp_path / "feed" / "1.csv").write_text(f"user_id,item_id,behaviour,event_time\nu,i,view,{NOW.isoformat()}\n")
    answer = ingest(str(home.root), now=NOW)
    assert answer["totals"] == {"delivered": 1, "accepted": 1, "quarantined": 0, "duplicate": 0, "late": 0}
    assert [failure["source"] for failure in answer["failures"]] == ["down"]
    artifact = Artifact.get(key="ingest")
    assert artifact is not None
    assert "**down** failed: http://127.0.0.1:1/x.csv" in str(artifact.data)


def test_new_items_that_cannot_be_indexed_stop_no_ingest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import ingest as flows_ingest

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the encoder is gone")

    monkeypatch.setattr(flows_ingest, "index_new_items", fails)
    assert flows_ingest.index.fn(str(home.root), None, now=NOW) == {"problem": "the encoder is gone"}
    monkeypatch.undo()
    assert flows_ingest.index.fn(str(home.root), None, now=NOW) == {}
