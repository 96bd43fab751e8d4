"""What the registered model's page says of who served when."""

import re
from datetime import UTC, datetime, timedelta

from stores.ledger_records import Reign
from stores.model_story import MOST_CHARACTERS, MOST_ROWS, model_description, model_tags

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY = (
    Reign(1, 1, "d1", T0, "bootstrap", "ann", "the first"),
    Reign(2, 4, "d4", T0 + timedelta(days=1), "promote", "eve", "clicks rose", "t1", approvers=("dora", "eve")),
    Reign(3, 5, "d5", T0 + timedelta(days=2), "break_glass", "eve", "fire", approvers=("dora", "eve")),
    Reign(4, 4, "d4", T0 + timedelta(days=3), "rollback", "gate", "over", restores=2),
)


def rows(text: str) -> list[list[str]]:
    """Cells of the table's rows, without the gaps."""
    found = [line.replace("&ensp;", "") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_what_served_when_newest_first() -> None:
    text = model_description(HISTORY, model="my model", numbers={1: 1, 4: 7, 5: 8})
    head, line, *found = rows(text)
    assert head == ["epoch", "version", "since (UTC)", "until (UTC)", "how", "by", "reason", "trial"]
    assert set("".join(line)) == {"-"}
    at = [f"2026-01-0{day} 00:00" for day in (1, 2, 3, 4)]
    four = "[7](#/models/my%20model/versions/7)"  # the ledger's 4
    assert found == [
        ["4", four, at[3], "serves", "rolled back", "gate", "over", ""],
        ["3", "[8](#/models/my%20model/versions/8)", at[2], at[3], "break-glass", "dora, eve", "fire", ""],
        ["2", four, at[1], at[2], "approved", "dora, eve", "clicks rose", "t1"],
        ["1", "[1](#/models/my%20model/versions/1)", at[0], at[1], "the first", "ann", "the first", ""],
    ]
    assert text.startswith("Version 7 serves, since 2026-01-04 00:00 UTC.")
    assert "older" not in text
    assert model_tags(HISTORY, numbers={4: 7}) == {
        "gate.champion": "7",
        "gate.epoch": "4",
        "gate.since": "2026-01-04 00:00",
    }


def test_before_the_first_champion() -> None:
    assert model_description((), model="m", numbers={}).startswith("No champion yet.")
    assert model_tags((), numbers={}) == {}


def test_a_version_that_mlflow_has_not_is_named_without_a_link() -> None:
    assert rows(model_description(HISTORY, model="m", numbers={}))[2][1] == "4"


def test_nobodys_words_break_the_table() -> None:
    for words in ("a | b\n| c | d |", "</td></table><iframe src=//x>", "[x](javascript:x) ![y](z)", "`" * 50, "\\|"):
        reign = Reign(1, 1, "d", T0, "promote", words, words, words, approvers=(words, words))
        found = rows(model_description((reign,), model="m", numbers={1: 1}))
        assert [len(cells) for cells in found] == [8, 8, 8]
        told = "".join(found[2][5:])
        assert not re.search(r"[<>`*_\[\]!\\@]", told)


def test_many_reigns_and_long_words_fit_and_the_rest_is_counted() -> None:
    for words, all_ in (("ok", True), ("ä" * 10_000, False), ("|" * 10_000, False)):
        history = [Reign(n, n, "d", T0, "promote", "ann", words, f"t{n}") for n in range(1, 101)]
        text = model_description(history, model="ratchet", numbers={n: n for n in range(1, 101)})
        found = len(rows(text)) - 2
        assert len(text) <= MOST_CHARACTERS
        assert found == MOST_ROWS if all_ else 10 < found < MOST_ROWS
        assert text.endswith(f"\n\n{100 - found} older: `ratchet ledger show`")
