"""The door: every delivered row is counted in one place, once, however often and in whatever order it comes."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.delivery import Receipt, ingest_lock
from stores.home import Home
from stores.lake import Lake
from stores.quarantine import explain, listing
from stores.settings import Settings, SourceSettings, ValidationSettings
from tasks.ingesting import deliver_file, ingest_file, ingest_landing
from tasks.refreshing import refresh_serving

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HEAD = "user_id,item_id,behaviour,event_time,value"
DATA = ("events", "items", "users", "exposures", "quarantine", "late")


def good(number: int) -> str:
    moment = datetime(2026, 2, 1, tzinfo=UTC) + timedelta(minutes=number)
    return f"u{number % 7},i{number % 11},view,{moment.isoformat()},"


def csv(folder: Path, rows: list[str], name: str = "events.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8", newline="")
    return path


def counts(receipt: Receipt) -> tuple[int, ...]:
    assert receipt.delivered == receipt.accepted + receipt.quarantined + receipt.duplicate + receipt.late
    return receipt.delivered, receipt.accepted, receipt.quarantined, receipt.duplicate, receipt.late


def digests(home: Home) -> dict[str, str]:
    lake = Lake(home.lake)
    return {table: lake.content_digest(table) for table in DATA}


MIXED = [
    *(good(number) for number in range(40)),
    good(3),
    "u,i,hover,2026-02-01,",
    "u,i,rating,2026-02-01,nan",
    "u,i",
    "u,i",
]
"""45 rows: 40 events, one of them twice, and four broken rows of which two are equal."""


def test_a_file_three_times_and_shuffled_changes_only_the_receipts(
    tmp_path: Path, home: Home, settings: Settings
) -> None:
    first = ingest_file(csv(tmp_path, MIXED), home=home, settings=settings, now=NOW)
    assert counts(first) == (45, 40, 4, 1, 0)
    assert first.reasons == (("readable", 2), ("expect_column_values_to_be_in_set behaviour", 1), ("typed value", 1))
    before = digests(home)
    for later in range(2):
        again = ingest_file(csv(tmp_path, MIXED), home=home, settings=settings, now=NOW + timedelta(days=later))
        assert counts(again) == (45, 0, 0, 45, 0)
    shuffled = list(MIXED)
    random.Random(3).shuffle(shuffled)
    assert counts(ingest_file(csv(tmp_path, shuffled), home=home, settings=settings, now=NOW)) == (45, 0, 0, 45, 0)
    assert digests(home) == before
    lake = Lake(home.lake)
    assert lake.totals() == {"delivered": 180, "accepted": 40, "quarantined": 4, "duplicate": 136, "late": 0}
    assert lake.read("deliveries").column("delivery_id").to_pylist()[0].endswith("-0")


def test_a_shuffled_first_delivery_leaves_the_same_tables(tmp_path: Path, home: Home, settings: Settings) -> None:
    ingest_file(csv(tmp_path, MIXED), home=home, settings=settings, now=NOW)
    other = Home.create(tmp_path / "other", simulation=True)
    for key in home.keys.iterdir():
        (other.keys / key.name).write_bytes(key.read_bytes())
    ingest_file(csv(tmp_path, MIXED[::-1]), home=other, settings=settings, now=NOW)
    assert digests(other) == digests(home)


def test_users_are_pseudonyms_everywhere(tmp_path: Path, home: Home, settings: Settings) -> None:
    rows = [f"canary-4711,i,view,2026-02-01T00:00:{n:02d}Z," for n in range(5)] + ["canary-4711,i,hover,2026-02-01,"]
    receipt = ingest_file(csv(tmp_path, rows), home=home, settings=settings, now=NOW)
    assert counts(receipt) == (6, 5, 1, 0, 0)
    kept = [path for path in home.root.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"canary-4711" in path.read_bytes()]
    assert set(Lake(home.lake).read("events").column("user").to_pylist()) == {receipt_user(home)}


def receipt_user(home: Home) -> str:
    from stores.pseudonyms import Keys

    return Keys.load(home.keys).user("canary-4711")


def test_any_unicode_is_an_id(tmp_path: Path, home: Home, settings: Settings) -> None:
    ids = ["🦉", "=cmd|' /C calc'!A0", "e\u0301", "é", "a\u2028b", "../../etc/passwd", "a\x00b"]
    rows = [
        json.dumps({"user_id": name, "item_id": name, "behaviour": "view", "event_time": 1772366400}) for name in ids
    ]
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    assert counts(ingest_file(path, home=home, settings=settings, now=NOW)) == (7, 7, 0, 0, 0)
    assert sorted(Lake(home.lake).read("events").column("item_id").to_pylist()) == sorted(ids)
    assert not (tmp_path.parent / "etc").exists()


def test_malformed_rows_are_held_back_and_nothing_else(tmp_path: Path, home: Home, settings: Settings) -> None:
    fine: dict[str, Any] = {"user_id": "u", "item_id": "i", "behaviour": "view", "event_time": "2026-02-01T00:00:00Z"}
    bad = [
        {**fine, "event_time": "soon"},
        {**fine, "item_id": "x" * 10_000_000},
        {**fine, "value": float("inf")},
        {**fine, "user_id": " "},
        {**fine, "item_id": 1.5},
        {**fine, "event_time": "2300-01-01"},
        {key: value for key, value in fine.items() if key != "behaviour"},
    ]
    lines = [json.dumps({**fine, "event_id": f"e{number}", "extra": [1]}).encode() for number in range(30)]
    lines += [*(json.dumps(row).encode() for row in bad), b"[1, 2]", b'{"user_id": "\xff"}', b"{"]
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert counts(ingest_file(path, home=home, settings=settings, now=NOW)) == (40, 30, 10, 0, 0)
    held = Lake(home.lake).read("quarantine").sort_by("row")
    assert held.column("row").to_pylist() == list(range(30, 40))
    raws = held.column("raw").to_pylist()
    assert raws[7:] == lines[37:]  # what is not legible is kept as it came
    known = [{name: value for name, value in row.items() if name != "user_id" or value == " "} for row in bad]
    assert [json.loads(raw) for raw in raws[:7]] == known  # the rest without the id of a user who has a pseudonym
    assert held.column("user").is_valid().to_pylist() == [True, True, True, False, True, True, True, *[False] * 3]


def test_a_missing_column_holds_the_batch_until_it_is_mapped(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(
        "user_id,product,behaviour,event_time\n" + "".join(f"u{n},i,view,17723664{n:02d}\n" for n in range(25))
    )
    receipt = ingest_file(path, home=home, settings=settings, source="shop", now=NOW)
    assert counts(receipt) == (25, 0, 25, 0, 0)
    assert receipt.state == "quarantined_whole"
    assert '[sources.shop] columns = { item_id = "product" }' in receipt.message
    (why,) = explain(Lake(home.lake), receipt.delivery_id)
    assert (why.expectation, why.column, why.rows) == ("columns", "item_id", 25)
    mapped = Settings(sources={"shop": SourceSettings(columns={"item_id": "product"})})
    assert counts(ingest_file(path, home=home, settings=mapped, source="shop", now=NOW)) == (25, 25, 0, 0, 0)


def test_a_batch_that_fails_too_much_is_held_back_whole(tmp_path: Path, home: Home, settings: Settings) -> None:
    rows = [*(good(number) for number in range(30)), *(f"u,i,hover{number},2026-02-01," for number in range(15))]
    path = csv(tmp_path, rows)
    receipt = ingest_file(path, home=home, settings=settings, now=NOW)
    assert (counts(receipt), receipt.state) == ((45, 0, 45, 0, 0), "quarantined_whole")
    assert dict(receipt.reasons) == {"batch": 30, "expect_column_values_to_be_in_set behaviour": 15}
    assert "15 of 45 rows failed, a share of 0.333" in receipt.message
    assert counts(ingest_file(path, home=home, settings=settings, now=NOW)) == (45, 0, 0, 45, 0)
    # With a wider limit it is judged anew: the good rows enter, the bad ones are held already.
    wider = Settings(validation=ValidationSettings(max_failing_share=0.5))
    assert counts(ingest_file(path, home=home, settings=wider, now=NOW)) == (45, 30, 0, 15, 0)


@pytest.mark.parametrize(
    ("rows", "expected", "state"),
    [
        ([], (0, 0, 0, 0, 0), "empty"),
        ([good(1)], (1, 1, 0, 0, 0), "committed"),
        (["u,i,hover,2026-02-01,"], (1, 0, 1, 0, 0), "quarantined_whole"),
        ([good(1), "u,i,hover,2026-02-01,"], (2, 1, 1, 0, 0), "committed"),  # half fails, of too few rows to tell
    ],
)
def test_small_batches(
    tmp_path: Path, home: Home, settings: Settings, rows: list[str], expected: tuple[int, ...], state: str
) -> None:
    receipt = ingest_file(csv(tmp_path, rows), home=home, settings=settings, now=NOW)
    assert (counts(receipt), receipt.state) == (expected, state)


def test_empty_and_unreadable_files_have_receipts(tmp_path: Path, home: Home, settings: Settings) -> None:
    (tmp_path / "empty.csv").touch()
    assert ingest_file(tmp_path / "empty.csv", home=home, settings=settings, now=NOW).state == "empty"
    binary = tmp_path / "binary.csv"
    binary.write_bytes(random.Random(1).randbytes(5_000))
    with pytest.raises(DataRejected, match=r"binary\.csv: binary from offset 0"):
        ingest_file(binary, home=home, settings=settings, now=NOW)
    assert binary.exists()
    assert deliver_file(binary, home=home, settings=settings, now=NOW).message.startswith(str(binary))
    states = Lake(home.lake).read("deliveries", columns=["state", "delivered"]).to_pylist()
    assert [row["delivered"] for row in states] == [0, 0, 0]
    assert [row["state"] for row in states].count("unreadable") == 2
    with pytest.raises(UsageError, match="no such file"):
        ingest_file(tmp_path / "absent.csv", home=home, settings=settings, now=NOW)
    with pytest.raises(UsageError, match="is a folder"):
        ingest_file(tmp_path, home=home, settings=settings, now=NOW)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = csv(tmp_path, MIXED)
    dry = ingest_file(path, home=home, settings=settings, now=NOW, dry_run=True)
    assert counts(dry) == (45, 40, 4, 1, 0)
    assert not list(home.lake.iterdir())
    assert not list(home.staging.iterdir())


def test_one_id_with_two_contents_is_a_conflict(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,price,colour\n1,Owl,3.5,brown\n2,Fox,,red\n")
    assert counts(ingest_file(path, home=home, settings=settings, kind="items", now=NOW)) == (2, 2, 0, 0, 0)
    path.write_text("item_id,title,price,colour\n1,Owl,4.5,brown\n2,Fox,,red\n3,Elk,,grey\n")
    receipt = ingest_file(path, home=home, settings=settings, kind="items", now=NOW)
    assert counts(receipt) == (3, 1, 1, 1, 0)
    assert receipt.reasons == (("conflict item_id", 1),)
    path.write_text("item_id,title,price,colour,valid_from\n1,Owl,4.5,brown,2026-02-01\n")
    assert counts(ingest_file(path, home=home, settings=settings, kind="items", now=NOW)) == (1, 1, 0, 0, 0)
    owls = Lake(home.lake).read("items").to_pylist()
    assert {row["price"] for row in owls if row["item_id"] == "1"} == {3.5, 4.5}
    assert {row["attributes"][0] for row in owls if row["item_id"] == "1"} == {("colour", "brown")}


def feedback(**more: Any) -> dict[str, Any]:
    return {"event_id": "e0", "user": "p1_" + "0" * 32, "item_id": "i", "behaviour": "click", **more}


def put(home: Home, folder: str, rows: list[dict[str, Any]], name: str = "f.jsonl") -> Path:
    path = home.landing / folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_landing_judges_lateness_and_skew(home: Home, settings: Settings) -> None:
    times = {
        "at": NOW,
        "old": NOW - timedelta(hours=73),
        "fine": NOW - timedelta(hours=71),
        "ahead": NOW + timedelta(hours=1),
    }
    rows = [feedback(event_id=name, event_time=moment.isoformat()) for name, moment in times.items()]
    put(home, "feedback", rows[:1])
    assert [counts(receipt) for receipt in ingest_landing(home=home, settings=settings, now=NOW)] == [(1, 1, 0, 0, 0)]
    found = []
    for later in (rows[1:], rows[:0:-1]):  # the second time in other bytes: late and held rows are known as well
        put(home, "feedback", later)
        found += [counts(receipt) for receipt in ingest_landing(home=home, settings=settings, now=NOW)]
    assert found == [(3, 1, 1, 0, 1), (3, 0, 0, 3, 0)]
    lake = Lake(home.lake)
    assert lake.totals() == {"delivered": 7, "accepted": 2, "quarantined": 1, "duplicate": 3, "late": 1}
    assert lake.read("late").column("lateness_seconds").to_pylist() == [73 * 3600.0]
    assert lake.read("late").column("event_id").to_pylist() == ["old"]


def test_landing_takes_complete_files_and_lets_them_go(tmp_path: Path, home: Home, settings: Settings) -> None:
    put(home, "feedback", [feedback(event_time="2026-02-28")], name="open.jsonl.part")
    put(home, "feedback", [feedback(event_time="2026-02-28")], name=".hidden.jsonl")
    (home.landing / "events" / "link.csv").symlink_to(csv(tmp_path, [good(1)]))
    csv(home.landing / "events", [good(1)], name="whole.csv")
    (home.landing / "items" / "broken.parquet").write_bytes(b"PAR1 and no more")
    receipts = ingest_landing(home=home, settings=settings, now=datetime(2026, 2, 2, tzinfo=UTC))
    assert [(receipt.uri, receipt.state) for receipt in receipts] == [
        ("landing/items/broken.parquet", "unreadable"),
        ("landing/events/whole.csv", "committed"),
    ]
    left = {path.name for path in home.landing.rglob("*") if not path.is_dir()}
    assert left == {"open.jsonl.part", ".hidden.jsonl", "link.csv"}
    assert [path.name.endswith("-broken.parquet") for path in home.rejected.iterdir()] == [True]


def test_what_serving_wrote_in_many_files_is_one_delivery(home: Home, settings: Settings) -> None:
    for number in range(3):
        put(home, "feedback", [feedback(event_id=f"e{number}", event_time="2026-02-28")], name=f"{number}.jsonl")
    (home.landing / "feedback" / "4.jsonl").write_bytes(bytes(range(256)) * 8)  # spoils nobody else's delivery
    put(home, "feedback", [feedback(event_id="e0", event_time="2026-02-28")], name="5.jsonl")
    receipts = ingest_landing(home=home, settings=settings, now=NOW)
    assert [(receipt.uri, receipt.state, counts(receipt)) for receipt in receipts] == [
        ("landing/feedback/0.jsonl..2.jsonl", "committed", (3, 3, 0, 0, 0)),
        ("landing/feedback/4.jsonl", "unreadable", (0, 0, 0, 0, 0)),
        ("landing/feedback/5.jsonl", "committed", (1, 0, 0, 1, 0)),
    ]
    assert not list((home.landing / "feedback").iterdir())


def test_serving_must_bring_pseudonyms(home: Home, settings: Settings) -> None:
    rows = [feedback(event_time="2026-02-28"), feedback(event_id="e1", user="alice", event_time="2026-02-28")]
    put(home, "feedback", rows)
    (receipt,) = ingest_landing(home=home, settings=settings, now=NOW)
    assert counts(receipt) == (2, 1, 1, 0, 0)
    assert Lake(home.lake).read("events").column("user").to_pylist() == ["p1_" + "0" * 32]


def test_one_ingest_at_a_time(home: Home) -> None:
    with (
        FileLock(home.run / "ingest.lock"),
        pytest.raises(DependencyFailed, match="another ingest"),
        ingest_lock(home, seconds=0.05),
    ):
        pass


def test_the_quarantine_explains_itself(tmp_path: Path, home: Home, settings: Settings) -> None:
    receipt = ingest_file(csv(tmp_path, MIXED), home=home, settings=settings, now=NOW)
    (held,) = listing(Lake(home.lake))
    assert (held.delivery_id, held.rows, held.reasons) == (receipt.delivery_id, 4, receipt.reasons)
    first = explain(Lake(home.lake))[0]
    assert (first.expectation, first.rows, first.examples) == ("readable", 2, (b"u,i", b"u,i"))


def test_serving_learns_what_was_accepted_once(tmp_path: Path, home: Home, settings: Settings) -> None:
    from stores.popularity import read
    from stores.sqlite_state import SqliteState

    rows = [f"u,i{number},view,2026-02-01T00:00:{number:02d}Z," for number in (1, 2, 2, 3)] + ["v,i3,view,2026-02-01,"]
    ingest_file(csv(tmp_path, rows), home=home, settings=settings, now=NOW)
    assert refresh_serving(home, settings) == 4
    assert refresh_serving(home, settings) == 0
    assert read(home.popularity)[0] == "i3"
    receipt = ingest_file(csv(tmp_path, ["u,i9,view,2026-02-02,"]), home=home, settings=settings, now=NOW)
    assert refresh_serving(home, settings, [receipt.delivery_id]) == 1
    user = next(iter({row["user"] for row in Lake(home.lake).read("events").to_pylist() if row["item_id"] == "i9"}))
    state = SqliteState(home.user_state)
    assert [event.item_id for event in state.newest(user, 2)] == ["i3", "i9"]
    state.close()
    home.user_state.unlink()  # a cache: without it everything is absorbed again
    assert refresh_serving(home, settings) == 5


@pytest.mark.realdata
def test_movielens_three_times_and_shuffled(tmp_path: Path, home: Home, settings: Settings, realdata: Path) -> None:
    lines = (realdata / "ml-100k" / "u.data").read_bytes().splitlines()[:20_000]
    path = tmp_path / "u.data"
    found, tables = [], []
    for order in range(4):
        if order == 3:
            random.Random(5).shuffle(lines)
        path.write_bytes(b"\n".join(lines))
        found.append(counts(ingest_file(path, home=home, settings=settings, now=NOW)))
        tables.append(digests(home))
    assert found == [(20_000, 20_000, 0, 0, 0), *[(20_000, 0, 0, 20_000, 0)] * 3]
    assert tables[1:] == tables[:1] * 3
