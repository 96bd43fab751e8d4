"""Opting out and in again: a row of the users table each, that changes nothing else about the user."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relations.consent import opted_out
from relations.errors import DataRejected
from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.settings import Settings
from tasks.consenting import set_opt_out
from tasks.ingesting import ingest_file

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = Settings()


def out(home: Home) -> list[str]:
    users: list[str] = opted_out(Lake(home.lake).relation("users")).to_pyarrow().column("user").to_pylist()
    return users


def newest(home: Home) -> dict[str, Any]:
    return dict(Lake(home.lake).read("users").sort_by("valid_from").to_pylist()[-1]["attributes"])


def test_out_and_in_again_with_the_other_attributes_as_they_were(tmp_path: Path, home: Home) -> None:
    pseudonym = Keys.load(home.keys).user("zoë")
    (tmp_path / "users.csv").write_text("user_id,valid_from,country\nzoë,2026-02-01,DE\nadam,2026-02-01,FR\n")
    ingest_file(tmp_path / "users.csv", home=home, settings=SETTINGS, kind="users", now=NOW)
    assert set_opt_out(home, SETTINGS, "zoë", out=True, now=NOW)
    assert (out(home), newest(home)) == ([pseudonym], {"country": "DE", "opt_out": "true"})
    assert not set_opt_out(home, SETTINGS, "zoë", out=True, now=NOW + timedelta(days=1))  # so already
    assert set_opt_out(home, SETTINGS, "zoë", out=False, now=NOW)  # at the same moment of a simulation's clock
    assert (out(home), newest(home)) == ([], {"country": "DE", "opt_out": "false"})
    assert Lake(home.lake).read("users").num_rows == 4
    assert [path for path in home.root.rglob("*") if path.is_file() and "zoë".encode() in path.read_bytes()] == []


def test_a_user_whom_nobody_knows_yet(home: Home) -> None:
    assert not set_opt_out(home, SETTINGS, "new", out=False, now=NOW)
    assert set_opt_out(home, SETTINGS, "new", out=True, now=NOW)
    assert out(home) == [Keys.load(home.keys).user("new")]


def test_an_id_that_the_door_refuses(home: Home) -> None:
    with pytest.raises(DataRejected, match="not accepted"):
        set_opt_out(home, SETTINGS, " ", out=True, now=NOW)
    assert list(home.staging.iterdir()) == []
