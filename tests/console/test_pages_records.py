"""Champions, two versions side by side, data, people: each page says what its records hold, and no more."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.console_world import World
from relations.errors import UsageError
from serving.console.pages import champions as champions_page
from serving.console.pages.champions import champions_view
from serving.console.pages.compare import compare_view
from serving.console.pages.data import MOST_DECISIONS, data_view, docs_page, page_name
from serving.console.pages.people import people_view
from serving.console.place import Place
from serving.console.rendering import STYLES, Frame, ago, render
from stores import facts
from stores.bundle import write_bundle
from stores.facts import Arrival, Broken, Facts
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.people import Role
from stores.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = "<script>x</script>\u202e\"'"


class Cells(HTMLParser):
    """The rows of all tables, cell by cell, and the addresses of links and forms."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.actions: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        stated = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True
        elif tag == "a":
            self.links.append(stated.get("href") or "")
        elif tag == "form":
            self.actions.append(stated.get("action") or "")
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, name: str) -> list[str]:
        (found,) = [row for row in self.rows if row and row[0] == name]
        return found


def place_of(world: World) -> Place:
    return Place.of(world.home, world.settings)


def shown(place: Place, template: str, view: dict[str, Any], *, name: str = "ada") -> str:
    person = place.ledger.person(name)
    frame = Frame(person=person, csrf="t", path="/", simulation=place.home.simulation, now=place.now())
    return render(template, frame=frame, **view)


@pytest.fixture(scope="module")
def world(told: Callable[..., World]) -> World:
    """Nobody changes it."""
    found: World = told("waiting", simulation=False, ago=timedelta(0))
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    """A simulation's home with nothing in it."""
    settings = Settings.model_validate({"home": {"clock": "request"}})
    return Place.of(Home.create(tmp_path / "bare", simulation=True), settings, wall=lambda: NOW)


def test_the_history_is_the_ledgers_and_a_rollback_says_where_to(world: World) -> None:
    place = place_of(world)
    history, former = place.ledger.history(), place.ledger.former()
    assert former is not None
    page = shown(place, "champions.html", champions_view(place))
    cells = Cells(page)
    epochs = [row for row in cells.rows if row and row[0].isdigit()]
    assert [(int(row[0]), row[1], row[5], row[6]) for row in epochs] == [
        (reign.epoch, f"v{reign.version}", reign.actor, reign.reason) for reign in reversed(history)
    ]
    assert f'name="epoch" value="{history[-1].epoch}"' in page
    assert f"Roll back to v{former.version}</button>" in page
    assert f"/compare?a={history[-1].version}&amp;b={former.version}" in page
    without = shown(place, "champions.html", champions_view(place), name="carl")
    assert "/rollback" not in Cells(without).actions
    assert "Rolling back needs the role approver or admin" in without


def test_what_servers_say_is_held_against_the_ledger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(world)
    champion = place.ledger.champion()
    assert champion is not None

    def told(*stated: dict[str, Any]) -> str:
        monkeypatch.setattr(champions_page, "ask_servers", lambda home: stated)
        return shown(place, "champions.html", champions_view(place))

    same = {"champion": {"version": champion.version, "digest": champion.digest}}
    other = {"champion": {"version": 1, "digest": "0" * 64}}
    assert 'class="verdict plain"' in told()
    assert 'class="verdict good"' in told(same)
    assert 'class="verdict bad"' in (page := told(same, other))
    assert "serves v1, another bundle" in page
    assert "does not say what it serves" in told({"champion": "v1"})


def test_a_home_without_anything_has_every_page(bare: Place) -> None:
    """And each says what to do next."""
    assert "ratchet trial bootstrap VERSION" in shown(bare, "champions.html", champions_view(bare))
    assert "ratchet train --mode full" in shown(bare, "compare.html", compare_view(bare, a=None, b=None))
    assert "ratchet ingest FILE" in shown(bare, "data.html", data_view(bare))
    assert "a simulation needs nobody" in shown(bare, "people.html", people_view(bare))


def release(place: Place, scratch: Path, number: int, items: list[str], *, padding: int, **record: Any) -> None:
    """Register version `number`, whose bundle has `padding` bytes beside its vocabulary."""
    scratch.mkdir()
    (scratch / "vocabulary.json").write_text(json.dumps({"items": items}))
    (scratch / "model.onnx").write_bytes(bytes(padding))
    attestation = {
        "parity": {"max_abs_diff": 2e-6, "top10_agreement": 0.5},
        "variants": [{"name": "fp32", "kept": True, "provider": "CPU", "ms_batch_1": 0.25, "ms_batch_32": None}],
        "libraries": {"torch": "2.13"},
    }
    bundle = write_bundle(scratch, describe={"n": number}, releases=place.home.releases, attestation=attestation)
    stated: dict[str, Any] = {
        "version": number, "digest": bundle.digest, "mode": "full", "parent": None, "events_version": 7,
        "items_version": 2, "cutoff_us": number * 86_400_000_000, "offline_passed": True, "metrics": {}, "run_id": "r",
        "created": NOW, "checkpoint": "", "submitter": "carl",
    }  # fmt: skip
    place.ledger.record_version(VersionRecord(**{**stated, **record}))


def test_two_versions_are_subtracted(bare: Place, tmp_path: Path) -> None:
    first = {"challenger": {"ndcg@10": 0.1, "rows": 500}}
    second = {"challenger": {"ndcg@10": 0.125, "mrr": 0.5, "rows": 700}, "champion": {"ndcg@10": 0.12, "mrr": 0.6}}
    release(bare, tmp_path / "1", 1, ["a", "b", "c"], padding=1_000, metrics=first)
    release(bare, tmp_path / "2", 2, ["b", "c", "d", "e"], padding=1_495, metrics=second, parent=1, note=HOSTILE)
    page = shown(bare, "compare.html", compare_view(bare, a=1, b=2))
    cells = Cells(page)
    assert cells.row("weights from") == ["weights from", "none", "v1", ""]
    assert cells.row("events before")[3] == "+1.0 days"
    assert [row for row in cells.rows if row[0] == "ndcg@10"] == [
        ["ndcg@10", "0.1000", "0.1250", "+0.0250"],
        ["ndcg@10", "–", "+0.0050"],  # 0.125 - 0.12, on the same rows
    ]
    assert [row for row in cells.rows if row[0] == "mrr"] == [["mrr", "–", "0.5000", ""], ["mrr", "–", "-0.1000"]]
    assert cells.row("held-out rows") == ["held-out rows", "500", "700", ""]
    assert cells.row("items in vocabulary") == ["items in vocabulary", "3", "4", "2 added, 1 removed"]
    # 1,495 + 31 bytes of vocabulary over 1,000 + 26
    assert cells.row("size") == ["size", "1.0 kB", "1.5 kB", "+48.7%"]
    assert cells.row("fp32: provider, ms at batch 1 and 32")[1] == "CPU, 0.25 and –"
    assert cells.row("parity: ten best agree")[1:] == ["0.5", "0.5", ""]
    assert "\u202e" not in page
    assert "Never was champion." in page


def test_a_damaged_bundle_is_told_and_the_rest_is_shown(bare: Place, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        release(bare, tmp_path / str(number), number, ["a"], padding=number)
    (bare.home.releases / bare.ledger.version(2).digest / "model.onnx").write_bytes(b"else")
    shutil.rmtree(bare.home.releases / bare.ledger.version(3).digest)
    cells = Cells(shown(bare, "compare.html", compare_view(bare, a=1, b=2)))
    whole, damaged = cells.row("bundle")[1:3]
    assert whole == "✓ whole: every byte as released"
    assert damaged.startswith("✗ ")
    assert "model.onnx does not match its SHA-256" in damaged
    assert "no such bundle" in Cells(shown(bare, "compare.html", compare_view(bare, a=3, b=1))).row("bundle")[1]
    with pytest.raises(UsageError, match="4"):
        compare_view(bare, a=4, b=1)


def test_without_a_choice_the_champion_meets_the_newest_and_trials_are_told(world: World) -> None:
    place = place_of(world)
    view = compare_view(place, a=None, b=None)
    trial, champion = place.ledger.trial(world.trial), place.ledger.champion()
    assert champion is not None
    assert (view["a"].record.version, view["b"].record.version) == (
        champion.version,
        place.ledger.versions()[-1].version,
    )
    lift = trial.evidence[-1].evidence["lift"]
    assert [(met.trial.id, met.lift) for met in view["b"].met] == [(world.trial, f"{lift:+.2%}")]
    assert [reign.epoch for reign in view["a"].reigns] == [
        reign.epoch for reign in place.ledger.history() if reign.version == champion.version
    ]
    page = shown(place, "compare.html", view)
    assert f'<option value="{champion.version}" selected>v{champion.version}, champion' in page


def test_the_data_page_adds_up_and_reads_no_table(bare: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lake is gone, so nothing can be read of it."""
    home = bare.home
    shutil.rmtree(home.lake)
    rows = {"delivered": 1_000, "accepted": 900, "quarantined": 50, "duplicate": 40, "late": 10}
    pages = [f"reports/data-docs/d-{number}.html" for number in range(2)]
    arrivals = (
        Arrival("app", "events", "d-1", NOW - timedelta(hours=3), "committed", rows, pages[1]),
        Arrival(HOSTILE, "items", "d-0", NOW - timedelta(days=3), "quarantined_whole", rows, ""),
    )
    broken = (
        Broken("expect_column_values_to_be_in_set", "behaviour", 37, "d-1", pages[1]),
        Broken("x", "", 13, "", ""),
    )
    facts.publish(home.facts, Facts(NOW, 4, NOW - timedelta(hours=2), rows, arrivals=arrivals, broken=broken))
    for name in ("a.jsonl", "b.jsonl", ".hidden", "c.part"):
        (home.landing / "events" / name).write_text("x")
    decisions = [{"time": NOW.isoformat(), "action": "skip", "because": f"reason {n}"} for n in range(15)]
    lines = [json.dumps(each) for each in decisions]
    home.decisions.write_text("\n".join([*lines[:14], "torn {", lines[14], '{"time": 3}']) + "\n")
    monkeypatch.setattr(Place, "now", lambda self: NOW)
    page = shown(bare, "data.html", data_view(bare))
    cells = Cells(page)
    assert "do not add up" not in page
    assert "5.0% of the rows were held back" in page
    assert "(2 h ago)" in page
    assert cells.row("app")[1:4] == ["events", "2026-03-01 09:00 UTC (3 h ago)", "✓ taken in"]
    assert cells.row("app")[4:9] == ["1,000", "900", "50", "40", "10"]
    assert cells.row("expect_column_values_to_be_in_set")[1:3] == ["behaviour", "37"]
    assert cells.row("x")[1:] == ["the whole row", "13", "–"]
    assert cells.links.count("/data/docs/d-1") == 2
    assert cells.row("events")[1] == "2"
    assert cells.row("users")[1:] == ["0", "–"]
    found = [row[2] for row in cells.rows if len(row) == 3 and row[1] == "skip"]
    assert found == [f"reason {number}" for number in range(14, 14 - MOST_DECISIONS, -1)]
    assert "\u202e" not in page

    facts.publish(home.facts, Facts(NOW, 4, None, {**rows, "accepted": 899}))
    assert "do not add up" in shown(bare, "data.html", data_view(bare))
    home.facts.write_text("half")
    assert "cannot be read" in shown(bare, "data.html", data_view(bare))


def test_only_pages_of_deliveries_are_given_out(bare: Place) -> None:
    folder = bare.home.reports / "data-docs"
    folder.mkdir()
    (folder / "d-1.html").write_text("<p>one")
    (bare.home.reports / "secret.html").write_text("not a delivery's")
    assert docs_page(bare, "d-1") == b"<p>one"
    assert page_name("reports/data-docs/d-1.html") == "d-1"
    assert page_name("reports/secret.html") == page_name("") == ""
    for name in ("../secret", "d-2", "", "d-1.html", "%2e%2e/secret", "-x", "d\n1"):
        with pytest.raises(UsageError):
            docs_page(bare, name)


def test_people_are_shown_without_what_proves_them(world_of: Callable[..., World]) -> None:
    place = place_of(world_of("protected"))
    now = place.wall()
    ledger: Ledger = place.ledger
    shown_once = []
    for label, days in (("laptop", 30), (HOSTILE, 60), ("old", 1)):
        lifetime = timedelta(days=days)
        made = now - timedelta(days=2) if label == "old" else now
        token, secret = ledger.issue_token(
            "carl", label=label.replace("\u202e", ""), lifetime=lifetime, actor="ben", now=made
        )
        shown_once.append((token, secret))
    page = shown(place, "people.html", people_view(place), name="ben")
    cells = Cells(page)
    carl = next(row for row in cells.rows if row[:1] == ["carl"])
    assert carl[1:5] == ["submitter", "✓ yes", "a password", "2"]
    assert carl[5].endswith("(in 60 days)")
    assert next(row for row in cells.rows if row[:1] == ["erin"])[2].startswith("✗ disabled")
    assert cells.row(shown_once[2][0].id)[5] == "■ expired"
    assert cells.row(shown_once[0][0].id)[5] == "✓ in force"
    with ledger._database.read() as tx:  # what is kept of them
        kept = [str(row.secret_sha256) for row in tx.exec_driver_sql("SELECT secret_sha256 FROM person_token")]
        kept += [str(row.password) for row in tx.exec_driver_sql("SELECT password FROM person") if row.password]
    assert len(kept) >= 7
    for secret in [*kept, *(secret for _, secret in shown_once), "argon2"]:
        assert secret not in page
    assert {role.value for role in Role} == {"submitter", "approver", "admin"}


def test_how_long_ago_is_said_in_both_directions() -> None:
    assert str(ago(NOW - timedelta(hours=3), NOW)).endswith('<span class="ago">(3 h ago)</span>')
    assert "(in 2 days)" in str(ago(NOW + timedelta(days=2), NOW))
    assert f'datetime="{NOW.isoformat()}"' in str(ago(NOW, None))
    assert ago(None, NOW) == "–"


def test_colours_are_stated_once() -> None:
    """That they stand out is tested of the evidence page's sheet; the console's own takes them from there."""
    shared, own = (file.read_text(encoding="utf-8") for file in STYLES)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", own)
    assert set(re.findall(r"var\(--(\w+)\)", own)) - {"tone"} <= set(re.findall(r"--(\w+):#", shared))
    assert "url(" not in shared + own
    assert "@import" not in shared + own
