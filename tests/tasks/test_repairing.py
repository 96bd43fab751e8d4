"""Repair: a replay takes in what now passes, once, and leaves the history of what it did."""

import json
import multiprocessing
import runpy
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relations.errors import UsageError
from stores.delivery import Receipt
from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.quarantine import listing
from stores.settings import LakeSettings, Settings, SourceSettings, ValidationSettings
from tasks.ingesting import ingest_file, ingest_landing
from tasks.repairing import Repair, drop_rows, replay_rows

SCRIPT = str(Path(__file__).with_name("repair_process.py"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def counts(receipt: Receipt | None) -> tuple[int, ...]:
    assert receipt is not None
    assert receipt.delivered == receipt.accepted + receipt.quarantined + receipt.duplicate + receipt.late
    return receipt.delivered, receipt.accepted, receipt.quarantined, receipt.duplicate, receipt.late


def fates(home: Home) -> list[tuple[int, str]]:
    return [(held.rows, held.state) for held in listing(Lake(home.lake), settled=True)]


def told(home: Home) -> tuple[Any, ...]:
    lake = Lake(home.lake)
    return fates(home), lake.totals(), lake.versions()


def shop(folder: Path, rows: int = 25, *, name: str = "shop.csv", action: str = "browse") -> Path:
    """25 rows of a shop whose item column has a name of its own; every tenth has an unreadable time."""
    path = folder / name
    times = ["soon" if number % 10 == 9 else f"17723664{number:02d}" for number in range(rows)]
    lines = [f"u{number % 3},i{number},{action},{moment}" for number, moment in enumerate(times)]
    path.write_text("user_id,product,behaviour,event_time\n" + "\n".join(lines) + "\n")
    return path


def replay(home: Home, settings: Settings, stated: str | None = None, **more: Any) -> list[Repair]:
    return replay_rows(stated, home=home, settings=settings, now=more.pop("now", LATER), **more)


def test_a_wrong_mapping_is_repaired_by_naming_the_column(tmp_path: Path, home: Home, settings: Settings) -> None:
    held = ingest_file(shop(tmp_path, action="view"), home=home, settings=settings, source="shop", now=NOW)
    assert counts(held) == (25, 0, 25, 0, 0)
    (again,) = replay(home, settings)  # nothing has changed: nothing passes, and nothing is held twice
    assert (again.replayed, again.left, counts(again.receipt)) == (0, 25, (25, 0, 0, 25, 0))
    (done,) = replay(home, settings, held.delivery_id[:8], columns={"product": "item_id"})
    assert (done.replayed, done.left) == (23, 2)
    assert counts(done.receipt) == (25, 23, 0, 2, 0)
    assert done.receipt is not None
    assert done.receipt.reasons == (("typed event_time", 2),)
    assert done.receipt.uri == f"quarantine/{held.delivery_id}"
    assert (done.receipt.kind, done.receipt.source) == ("events", "shop")
    assert fates(home) == [(23, "replayed"), (2, "open")]
    events = Lake(home.lake).read("events")
    assert set(events.column("delivery_id").to_pylist()) == {done.receipt.delivery_id}
    assert set(events.column("source").to_pylist()) == {"shop"}
    # The file itself, mapped at last, holds nothing that is not known.
    mapped = Settings(sources={"shop": SourceSettings(columns={"item_id": "product"})})
    late = ingest_file(shop(tmp_path, action="view"), home=home, settings=mapped, source="shop", now=LATER)
    assert (late.accepted, late.duplicate + late.quarantined) == (0, 25)


def test_users_keep_their_pseudonyms_through_a_replay(tmp_path: Path, home: Home, settings: Settings) -> None:
    direct = Home.create(tmp_path / "direct", simulation=True)
    for key in home.keys.iterdir():
        (direct.keys / key.name).write_bytes(key.read_bytes())
    mapped = Settings(sources={"shop": SourceSettings(columns={"item_id": "product"})})
    for place, chosen in ((home, settings), (direct, mapped)):
        ingest_file(shop(tmp_path, 9, action="view"), home=place, settings=chosen, source="shop", now=NOW)
    replay(home, mapped)
    digests = [Lake(place.lake).content_digest("events") for place in (home, direct)]
    assert digests[0] == digests[1]
    assert Lake(home.lake).read("events").num_rows == 9


@pytest.mark.parametrize("column", ["user", "uid"])
def test_a_batch_without_its_users_column_is_repaired(
    tmp_path: Path, home: Home, settings: Settings, column: str
) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(f"{column},item_id,behaviour,event_time\nzoe,i1,view,2026-02-01\nann,i2,hover,2026-02-01\n")
    ingest_file(path, home=home, settings=settings, now=NOW)
    (done,) = replay(home, settings, columns={column: "user_id"})
    assert (done.replayed, done.left) == (1, 1)
    (done,) = replay(home, settings, columns={column: "user_id"}, behaviours={"hover": "view"})
    assert (done.replayed, done.left) == (1, 0)
    kept = [file for file in home.lake.rglob("*") if file.is_file() and "quarantine" not in file.parts]
    assert not [file for file in kept if b"zoe" in file.read_bytes()]


def test_a_source_whose_users_stand_in_user(tmp_path: Path, home: Home) -> None:
    settings = Settings(sources={"odd": SourceSettings(columns={"user_id": "user"})})
    path = tmp_path / "odd.csv"
    path.write_text("user,item_id,behaviour,event_time\nzoe,i1,view,2026-02-01\nzoe,i2,hover,2026-02-01\n")
    ingest_file(path, home=home, settings=settings, source="odd", now=NOW)
    (done,) = replay(home, settings, behaviours={"hover": "click"})
    assert (done.replayed, done.left) == (1, 0)
    assert len(set(Lake(home.lake).read("events").column("user").to_pylist())) == 1  # not hashed a second time


def test_behaviours_are_mapped_and_a_second_replay_changes_nothing(
    tmp_path: Path, home: Home, settings: Settings
) -> None:
    mapped = Settings(sources={"shop": SourceSettings(columns={"item_id": "product"})})
    ingest_file(shop(tmp_path, 9), home=home, settings=mapped, source="shop", now=NOW)
    (foreseen,) = replay(home, mapped, behaviours={"browse": "view"}, dry_run=True)
    assert (foreseen.replayed, foreseen.left, fates(home)) == (9, 0, [(9, "open")])
    (done,) = replay(home, mapped, behaviours={"browse": "view"})
    assert (done.replayed, done.left, counts(done.receipt)) == (9, 0, (9, 9, 0, 0, 0))
    before = told(home)
    assert replay(home, mapped, behaviours={"browse": "view"}) == []
    assert told(home) == before
    assert Lake(home.lake).totals()["delivered"] == 18  # the file's nine, and the replay's


def test_what_cannot_be_read_stays_with_its_reason(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(b"user_id,item_id,behaviour,event_time\nu,i,hover,2026-02-01\nu,i\n")
    ingest_file(path, home=home, settings=settings, now=NOW)
    (done,) = replay(home, settings, behaviours={"hover": "view"})
    assert (done.replayed, done.left, done.illegible) == (1, 1, 1)
    (left,) = replay(home, settings)
    assert (left.replayed, left.left, left.illegible, left.receipt) == (0, 1, 1, None)
    delivery_id, dropped = drop_rows(left.delivery_id[:6], home=home, by="ann", reason="cut off")
    assert (delivery_id, dropped, fates(home)) == (left.delivery_id, 1, [(1, "replayed"), (1, "dropped")])
    assert replay(home, settings) == []


def test_a_replay_is_judged_as_its_delivery_was(home: Home, settings: Settings) -> None:
    """From the landing folder lateness counts: three of the rows are four days behind the newest by now."""
    rows = [
        {"user_id": "u", "item_id": f"i{n}", "behaviour": "hover", "event_time": (NOW - timedelta(days=4)).isoformat()}
        for n in range(3)
    ]
    rows.append({"user_id": "u", "item_id": "i", "behaviour": "view", "event_time": NOW.isoformat()})
    path = home.landing / "events" / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wide = Settings(validation=ValidationSettings(max_failing_share=0.9))
    ingest_landing(home=home, settings=wide, now=NOW)
    (done,) = replay(home, settings, behaviours={"hover": "view"})
    assert (done.replayed, counts(done.receipt)) == (3, (3, 0, 0, 0, 3))
    roomy = Settings(lake=LakeSettings(allowed_lateness_hours=24 * 30))
    assert replay(home, roomy) == []


def test_rows_that_the_tables_have_are_settled_as_well(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,behaviour,event_time\nu,i,look,2026-02-01\n")
    ingest_file(path, home=home, settings=settings, now=NOW)
    path.write_text("user_id,item_id,behaviour,event_time\nu,i,view,2026-02-01\n")
    ingest_file(path, home=home, settings=settings, now=NOW)
    (done,) = replay(home, settings, behaviours={"look": "view"})
    assert (done.replayed, counts(done.receipt)) == (1, (1, 0, 0, 1, 0))
    assert Lake(home.lake).read("events").num_rows == 1


def test_items_are_repaired_and_kinds_can_be_chosen(tmp_path: Path, home: Home, settings: Settings) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,name,colour\n1,Owl,brown\n2,Fox,red\n")
    ingest_file(path, home=home, settings=settings, kind="items", now=NOW)
    assert replay(home, settings, kind="events", columns={"name": "title"}) == []
    (done,) = replay(home, settings, kind="items", columns={"name": "title"})
    assert (done.replayed, done.left) == (2, 0)
    assert {row["attributes"][0] for row in Lake(home.lake).read("items").to_pylist()} == {
        ("colour", "brown"),
        ("colour", "red"),
    }


def test_a_person_lets_in_a_batch_by_naming_it(tmp_path: Path, home: Home, settings: Settings) -> None:
    lines = [f"u{n},i{n},{'view' if n < 30 else 'hover'},2026-02-01T00:{n:02d}:00Z" for n in range(45)]
    path = tmp_path / "e.csv"
    path.write_text("\n".join(["user_id,item_id,behaviour,event_time", *lines]))
    held = ingest_file(path, home=home, settings=settings, now=NOW)
    assert (held.state, held.quarantined) == ("quarantined_whole", 45)  # 15/45 > .3
    (done,) = replay(home, settings)  # of everything: the batch is held as before
    assert (done.replayed, counts(done.receipt)) == (0, (45, 0, 0, 45, 0))
    (done,) = replay(home, settings, held.delivery_id)
    assert (done.replayed, done.left, counts(done.receipt)) == (30, 15, (45, 30, 0, 15, 0))
    assert fates(home) == [(30, "replayed"), (15, "open")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"columns": {"product": "item"}},
            "no column of events, nor named in .sources.shop. columns; did you mean item_id",
        ),
        ({"behaviours": {"browse": "veiw"}}, "'veiw' is no behaviour of ours; did you mean view"),
        ({"stated": "nope"}, "'nope' names no delivery"),
    ],
)
def test_a_mistaken_replay_is_told_its_remedy(
    tmp_path: Path, home: Home, settings: Settings, more: dict[str, Any], says: str
) -> None:
    ingest_file(shop(tmp_path, 9), home=home, settings=settings, source="shop", now=NOW)
    with pytest.raises(UsageError, match=says):
        replay(home, settings, **more)
    assert fates(home) == [(9, "open")]


def test_a_column_may_be_named_as_the_settings_name_it(tmp_path: Path, home: Home) -> None:
    settings = Settings(sources={"shop": SourceSettings(columns={"item_id": "sku"}, behaviours={"browse": "view"})})
    ingest_file(shop(tmp_path, 9), home=home, settings=settings, source="shop", now=NOW)
    (done,) = replay(home, settings, columns={"product": "sku"})
    assert (done.replayed, done.left) == (9, 0)


def test_a_replay_killed_at_each_point_takes_each_row_in_once(tmp_path: Path, settings: Settings) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "pandas", "ibis", "tasks.repairing", "pyarrow.dataset"])

    def command(home: Home, *, fail_at: str = "") -> int | None:
        given = {"root": str(home.root), "fail_at": fail_at, "now": LATER.isoformat()}
        process = context.Process(target=runpy.run_path, args=(SCRIPT,), kwargs={"init_globals": given})
        process.start()
        process.join(timeout=120)
        return process.exitcode

    homes = []
    for name in ("calm", "cut"):
        home = Home.create(tmp_path / name, simulation=True)
        Keys.write_derived(home.keys, seed=7)
        ingest_file(shop(tmp_path, action="view"), home=home, settings=settings, source="shop", now=NOW)
        homes.append(home)
    calm, cut = homes
    assert command(calm) == 0
    points = ("spooled", "judged", "accepted", "quarantine", "receipt")
    for point in points:
        assert command(cut, fail_at=f"ingest.{point}") == -signal.SIGKILL, point
    assert command(cut) == 0
    assert told(cut) == told(calm)
    assert fates(cut) == [(23, "replayed"), (2, "open")]
    assert Lake(cut.lake).content_digest("events") == Lake(calm.lake).content_digest("events")
    assert not list(cut.staging.iterdir())
