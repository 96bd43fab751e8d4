"""`ratchet quarantine` as a person meets it: what is held, why, again, and away; one JSON object; exit codes."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from stores.home import Home
from stores.settings import Settings
from tasks.ingesting import ingest_file

NOW = datetime(2026, 3, 1, tzinfo=UTC)
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def ratchet(home: Home, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`ratchet quarantine …` in this process: (exit code, what it said)."""
    monkeypatch.setattr("cli.console.signal.signal", lambda *_: None)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["quarantine", *arguments, "--home", str(home.root)], prog_name="ratchet")
        out, error = capfd.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out or error

    return run


@pytest.fixture
def held(tmp_path: Path, home: Home, settings: Settings) -> str:
    """The id of a delivery with four rows in quarantine: two of another word, one with a bell in it, one cut off."""
    path = tmp_path / "e.csv"
    rows = ["u,i1,look,2026-02-01", "v,i2,look,2026-02-01", "w,i3,view,so\x07on", "u,i"]
    path.write_text("\n".join(["user_id,item_id,behaviour,event_time", *rows]) + "\n")
    return ingest_file(path, home=home, settings=settings, now=NOW).delivery_id


def said(answer: tuple[int, str]) -> dict[str, Any]:
    assert answer[0] == 0, answer
    found: dict[str, Any] = json.loads(answer[1])
    return found


def test_nothing_in_quarantine_is_said_and_is_no_fault(ratchet: Command) -> None:
    assert ratchet("list") == (0, "nothing is in quarantine\n")
    assert ratchet("explain") == (0, "nothing is in quarantine\n")
    assert ratchet("replay") == (0, "nothing to replay\n")
    assert said(ratchet("replay", "--json")) == {"replays": [], "replayed": 0, "dry_run": False}
    code, text = ratchet("show", "abc")
    assert (code, "'abc' names no delivery with quarantined rows" in text) == (2, True)


def test_what_is_held_is_listed_explained_and_shown(held: str, ratchet: Command) -> None:
    (found,) = said(ratchet("list", "--json"))["deliveries"]
    assert (found["delivery_id"], found["rows"], found["state"]) == (held, 4, "open")
    _, text = ratchet("explain", held[:10])
    assert "2 × expect_column_values_to_be_in_set on behaviour: behaviour is one of view, click" in text
    _, text = ratchet("show", held, "--row", "2")
    assert "\\x07on" in text  # a row does not ring the bell
    assert "\x07" not in text
    shown = said(ratchet("show", held, "--limit", "1", "--json"))
    assert (shown["total"], len(shown["rows"]), json.loads(shown["rows"][0]["raw"])["behaviour"]) == (4, 1, "look")
    assert ratchet("show", held, "--limit", "1")[1].endswith("3 more; see --limit and --row\n")


def test_a_person_replays_and_drops(held: str, ratchet: Command) -> None:
    foreseen = said(ratchet("replay", "--behaviour", "look=view", "--dry-run", "--json"))
    assert (foreseen["replayed"], foreseen["dry_run"]) == (2, True)
    code, text = ratchet("replay", held[:12], "--behaviour", "look=view")
    assert (code, f"{held}: 2 rows replayed, 2 left open" in text, "1 rows cannot be replayed" in text) == (
        0,
        True,
        True,
    )
    code, text = ratchet("replay", held)  # the one with a bell fails again
    assert (code, f"{held}: 0 rows replayed, 2 left open" in text) == (3, True)
    assert ratchet("drop", held, "--reason", " ")[0] == 2
    assert ratchet("drop", held, "--reason", "cut off", "--as", "ann", "--row", "3")[1] == f"{held}: 1 rows dropped\n"
    assert said(ratchet("drop", held, "--reason", "noise", "--json"))["dropped"] == 1
    assert ratchet("drop", held, "--reason", "noise") == (0, "no open row to drop\n")
    assert ratchet("list")[1] == "nothing is in quarantine\n"
    fates = [
        (each["rows"], each["state"], each["settled_by"])
        for each in said(ratchet("list", "--all", "--json"))["deliveries"]
    ]
    assert [fate for fate in fates if fate[1] == "dropped"] == [
        (1, "dropped", "operator: noise"),
        (1, "dropped", "ann: cut off"),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "--map", "product"), "'product': write OLD=NEW"),
        (("replay", "--map", "product=thing"), "'thing' is no column of events"),
        (("replay", "--behaviour", "look=veiw"), "did you mean view?"),
        (("drop", "x"), "--reason"),
        (("show",), "DELIVERY"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(held: str, ratchet: Command, arguments: tuple[str, ...], says: str) -> None:
    code, text = ratchet(*arguments)
    assert (code, says in text) == (2, True), text
