"""Ten thousand forged and replayed pieces of feedback, sent to the real app: none counts, and a replay counts once."""

from pathlib import Path

import pytest

from bench.fault_forgery import measure_forgery
from serving.choosing.tokens import Tokens


def test_forged_feedback_is_refused_and_replays_count_once(tmp_path: Path) -> None:
    rows = measure_forgery(tmp_path, each=2_500)
    assert [row for row in rows if not row["holds"]] == []
    assert len(rows) == 6


def test_a_token_that_is_believed_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def believed(self: Tokens, token: str, **_: object) -> str:
        return token.split(".")[0]

    monkeypatch.setattr(Tokens, "exposure_id", believed)
    accepted, otherwise, *_ = measure_forgery(tmp_path, each=50)
    assert accepted["measured"] > 0
    assert otherwise["measured"] == 150  # nothing is refused, so nothing for its reason
