"""What comes beside an item and a behaviour: searches with their text, moments, people; and warnings."""

import json
from datetime import UTC, datetime
from pathlib import Path

from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings, SourceSettings
from tasks.ingesting import ingest_file

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FINE = {"user_id": "u", "item_id": "i", "behaviour": "view", "event_time": "2026-02-01T00:00:00Z"}


def jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "e.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_search_has_a_query_and_no_item(tmp_path: Path, home: Home, settings: Settings) -> None:
    search = {"user_id": "ü", "behaviour": "search", "query": "rote Schuhe 42", "event_time": "2026-02-01T00:00:01Z"}
    rows = [FINE, search, {**search, "query": None}, {**FINE, "item_id": None, "event_id": "x"}]
    receipt = ingest_file(jsonl(tmp_path, rows), home=home, settings=settings, now=NOW)
    assert (receipt.accepted, receipt.quarantined) == (2, 2)  # no query; no item and no search
    events = Lake(home.lake).read("events").sort_by("event_time").to_pylist()
    assert [(row["item_id"], row["query"]) for row in events] == [("i", None), (None, "rote Schuhe 42")]
    again = ingest_file(jsonl(tmp_path, [search, FINE]), home=home, settings=settings, now=NOW)
    assert (again.accepted, again.duplicate) == (0, 2)  # its derived id holds the query


def test_named_columns_describe_the_moment(tmp_path: Path, home: Home) -> None:
    settings = Settings(sources={"app": SourceSettings(context=("device", "hour", "locale"))})
    rows = [{**FINE, "device": "phone", "hour": 23, "locale": None}, {**FINE, "item_id": "j", "noise": 1}]
    ingest_file(jsonl(tmp_path, rows), home=home, settings=settings, source="app", now=NOW)
    events = Lake(home.lake).read("events").sort_by("item_id")
    assert [dict(said) for said in events.column("context").to_pylist()] == [{"device": "phone", "hour": "23"}, {}]


def test_people_are_as_they_were_from_a_time_on(tmp_path: Path, home: Home, settings: Settings) -> None:
    rows: list[dict[str, object]] = [
        {"user_id": "ann", "valid_from": "2026-01-01", "age": 30, "city": "Zürich"},
        {"user_id": "ann", "valid_from": "2026-02-01", "age": 31},
    ]
    receipt = ingest_file(jsonl(tmp_path, rows), home=home, settings=settings, kind="users", now=NOW)
    assert receipt.accepted == 2
    people = Lake(home.lake).read("users").sort_by("valid_from").column("attributes").to_pylist()
    assert [dict(said) for said in people] == [{"age": "30", "city": "Zürich"}, {"age": "31"}]


def test_a_constant_stands_for_a_column_that_the_source_lacks(tmp_path: Path, home: Home) -> None:
    settings = Settings(sources={"clicks": SourceSettings(constants={"behaviour": "click"})})
    rows = [{name: value for name, value in FINE.items() if name != "behaviour"}]
    ingest_file(jsonl(tmp_path, rows), home=home, settings=settings, source="clicks", now=NOW)
    assert Lake(home.lake).read("events").column("behaviour").to_pylist() == ["click"]


def test_a_warning_marks_the_batch_and_holds_no_row(tmp_path: Path, home: Home, settings: Settings) -> None:
    rows = [FINE, {**FINE, "behaviour": "dwell"}, {**FINE, "query": "stray"}]
    receipt = ingest_file(jsonl(tmp_path, rows), home=home, settings=settings, now=NOW)
    assert (receipt.accepted, receipt.quarantined) == (3, 0)
    assert [warning.partition(":")[0] for warning in receipt.warnings] == ["1 rows", "1 rows"]
    stored = Lake(home.lake).read("deliveries").column("warnings").to_pylist()
    assert stored == [list(receipt.warnings)]
