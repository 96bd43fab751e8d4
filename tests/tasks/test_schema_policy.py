"""Schema drift at the door: in each format a changed feed is held, told of or taken in as its policy says."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relations.errors import SettingsError
from relations.evolution import Policy
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings, SourceSettings, ValidationSettings
from tasks.ingesting import ingest_file

NOW = datetime(2026, 3, 1, tzinfo=UTC)
H, W, _ = "held", "warned", "unremarked"
COLUMNS = {"item_id": "product", "behaviour": "action", "event_time": "ts", "value": "stars"}
Row = dict[str, Any]


def rows() -> list[Row]:
    return [
        {
            "user_id": f"u{number % 5}",
            "product": f"i{number}",
            "action": "view",
            "ts": (NOW - timedelta(minutes=number)).isoformat(),
            "stars": 0.5 + number % 5,
            "note": "fine",
        }
        for number in range(25)
    ]


def change(**columns: Callable[[Row], Any]) -> list[Row]:
    return [{**row, **{name: make(row) for name, make in columns.items()}} for row in rows()]


def without(name: str) -> list[Row]:
    return [{column: value for column, value in row.items() if column != name} for row in rows()]


def epoch(row: Row) -> int:
    return int(datetime.fromisoformat(row["ts"]).timestamp())


# the mutation, the column that messages name, what each policy makes of it: strict, additive, coerce
MUTATIONS: dict[str, tuple[list[Row], str, tuple[str, str, str]]] = {
    "as before": (rows(), "", (_, _, _)),
    "used column gone": (without("stars"), "stars", (H, H, W)),
    "unused column gone": (without("note"), "note", (H, W, W)),
    "new column": (change(page=lambda row: "home"), "page", (H, W, W)),
    "times as epochs": (change(ts=epoch), "ts", (H, H, W)),
    "items as numbers": (change(product=lambda row: int(row["product"][1:])), "product", (H, H, W)),
    "notes as numbers": (change(note=lambda row: 7), "note", (H, W, W)),
    "required column gone": (without("product"), "item_id", (H, H, H)),
}
# In a source of texts these are no change: an id may be of digits, and so may a note.
OF_TEXTS = ("items as numbers", "notes as numbers")


def write(path: Path, content: list[Row]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(content[0]))
            out.writeheader()
            out.writerows(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    return path


@pytest.mark.parametrize("policy", get_args(Policy))
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_changed_feed_is_met_as_its_policy_says(tmp_path: Path, home: Home, suffix: str, policy: Policy) -> None:
    source = SourceSettings(columns=COLUMNS, schema_policy=policy)
    settings = Settings(sources={"shop": source}, validation=ValidationSettings(evidence_rows=1))
    first = ingest_file(
        write(tmp_path / f"first.{suffix}", rows()), home=home, settings=settings, source="shop", now=NOW
    )
    assert (first.accepted, first.warnings) == (25, ())
    for number, (what, (content, column, expected)) in enumerate(MUTATIONS.items()):
        path = write(tmp_path / f"{number}.{suffix}", content)
        receipt = ingest_file(path, home=home, settings=settings, source="shop", now=NOW, dry_run=True)
        verdict = H if receipt.state == "quarantined_whole" else W if receipt.warnings else _
        wanted = _ if suffix == "csv" and what in OF_TEXTS else expected[get_args(Policy).index(policy)]
        said = receipt.message if verdict == H else " ".join(receipt.warnings)
        assert (verdict, f"column {column} " in said or not column or wanted == _) == (wanted, True), (what, receipt)
        assert receipt.delivered == 25
        assert (receipt.quarantined + receipt.duplicate if verdict == H else receipt.accepted + receipt.duplicate) == 25


def test_a_batch_that_is_held_is_no_precedent_and_one_that_is_let_in_is(tmp_path: Path, home: Home) -> None:
    def deliver(content: list[Row], policy: Policy, day: int) -> Any:
        settings = Settings(sources={"shop": SourceSettings(columns=COLUMNS, schema_policy=policy)})
        moved = [{**row, "user_id": f"{row['user_id']}-{day}"} for row in content]
        path = write(tmp_path / f"{day}.csv", moved)
        return ingest_file(path, home=home, settings=settings, source="shop", now=NOW + timedelta(days=day))

    assert deliver(rows(), "additive", 0).accepted == 25
    changed = change(ts=epoch)
    held = deliver(changed, "additive", 1)
    assert held.state == "quarantined_whole"
    assert "column ts (event_time) was time and is whole now" in held.message
    assert '[sources.shop] schema_policy = "coerce"' in held.message
    assert deliver(changed, "additive", 2).state == "quarantined_whole"
    let_in = deliver(changed, "coerce", 3)
    assert (let_in.accepted, len(let_in.warnings)) == (25, 1)
    assert "what converts without loss is converted" in let_in.warnings[0]
    calm = deliver(changed, "strict", 4)
    assert (calm.accepted, calm.warnings) == (25, ())
    times = Lake(home.lake).read("events").column("event_time").to_pylist()
    assert {moment.year for moment in times} == {2026}


def test_a_mapping_that_cannot_be_is_refused_before_anything_is_begun(tmp_path: Path, home: Home) -> None:
    path = write(tmp_path / "e.csv", rows())
    wrong = Settings(sources={"shop": SourceSettings(columns=COLUMNS, constants={"exposure_id": "e", "vlaue": "1"})})
    with pytest.raises(SettingsError, match="'vlaue' is no column of Ratchet's; did you mean value"):
        ingest_file(path, home=home, settings=wrong, source="shop", now=NOW)
    assert not list(home.staging.iterdir())  # or each later command would fail at finishing it
    right = Settings(sources={"shop": SourceSettings(columns={**COLUMNS, "query": "nte"})})
    receipt = ingest_file(path, home=home, settings=right, source="shop", now=NOW)
    assert (receipt.accepted, receipt.warnings) == (
        25,
        ("source shop: column nte (query) is not in this delivery; did you mean note?",),
    )


def test_a_rehearsal_says_what_rows_would_break(tmp_path: Path, home: Home) -> None:
    path = write(tmp_path / "e.csv", change(action=lambda row: "look"))
    settings = Settings(sources={"shop": SourceSettings(columns=COLUMNS)})
    receipt = ingest_file(path, home=home, settings=settings, source="shop", now=NOW, dry_run=True)
    ((label, count),) = receipt.reasons
    assert (label, count) == ("expect_column_values_to_be_in_set behaviour", 25)
    assert receipt.examples[label].endswith("map others with [sources.NAME] behaviours; saw 'look'")
