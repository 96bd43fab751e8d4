"""Data Docs: readable without a network, harmless whatever a source sent, and never a raw user id."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from expectations.pages import KEPT, write_page
from expectations.verdicts import validate
from relations.schemas import SCHEMAS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
USER = "p1_" + "0" * 32
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)> $behaviour {{ 7 * 7 }}"


def result(kind: str, rows: list[dict[str, Any]], **more: Any) -> Any:
    given: dict[str, Any] = {"unreadable": {}, "untyped": {}, "latest": NOW, **more}
    schema = pa.schema([field.with_nullable(True) for field in SCHEMAS[kind]])
    return validate(pa.Table.from_pylist(rows, schema=schema), kind=kind, **given)


def event(**more: Any) -> dict[str, Any]:
    return {"user": USER, "item_id": "i", "behaviour": "view", "event_time": datetime(2026, 1, 1, tzinfo=UTC), **more}


def test_a_page_asks_no_network(tmp_path: Path) -> None:
    text = write_page(tmp_path, name="d-0", results=[result("events", [event(), event(behaviour="hover")])]).read_text()
    for request in ("http:", "https:", "<script", "<link", "<img", "src=", "@import", "url("):
        assert request not in text
    assert "<style>" in text
    assert text.count("<div") == text.count("</div>")
    assert text.count("<table") == text.count("</table>")


def test_what_a_source_sent_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    shown = result("events", [event(behaviour=SCRIPT), {}], untyped={1: [("event_time", f"{SCRIPT} is not a time")]})
    text = write_page(tmp_path, name="d-0", results=[shown], facts={"source": SCRIPT}, counts={SCRIPT: 1}).read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 4  # the fact, the count, the behaviour, the untyped value
    assert "{{ 7 * 7 }}" in text
    assert shown.results[2].result["unexpected_list"]  # the result itself keeps its lists


def test_samples_of_two_columns_are_harmless_too(tmp_path: Path) -> None:
    shown = result("exposures", [{"exposure_id": SCRIPT, "request_id": "r", "position": 1}])
    text = write_page(tmp_path, name="d-0", results=[shown]).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "{{ 7 * 7 }}, r:1<" in text


def test_no_raw_id_is_shown_and_no_sample_is_endless(tmp_path: Path) -> None:
    rows = [event(user="alice@example.org"), event(item_id="x" * 1_000_000), event(item_id="\u200b")]
    text = write_page(tmp_path, name="d-0", results=[result("events", rows)]).read_text()
    assert "alice" not in text
    assert len(text) < 100_000
    assert "x" * 200 + "…" in text
    assert r"\u200b" in text  # what nobody sees is spelt out


def test_the_head_says_which_delivery_and_the_first_table_what_failed(tmp_path: Path) -> None:
    shown = result("events", [event(), event(behaviour="hover"), event(query="owls")])
    facts = {"source": "shop", "delivered": 12_345, "state": "committed"}
    text = write_page(tmp_path, name="d-0", results=[shown], facts=facts).read_text()
    head = text[: text.index("events: every expectation")]
    assert "Delivery d-0" in head
    assert "<dt>delivered</dt><dd>12,345</dd>" in head
    assert "24 of 26 expectations hold" in head
    assert "map others with [sources.NAME] behaviours" in head
    assert '<td class="warn">warning</td><td>query</td>' in head
    assert "hover" not in head
    assert "hover" in text


def test_two_results_share_a_page(tmp_path: Path) -> None:
    results = [result("events", [event()]), result("users", [{"user": USER, "valid_from": NOW}])]
    text = write_page(tmp_path, name="d-0", results=results).read_text()
    assert "events: every expectation" in text
    assert "users: every expectation" in text
    assert text.count('id="result-1-section-1"') == text.count('id="result-2-section-1"') == 1


def test_rows_judged_by_masks_alone_are_counted(tmp_path: Path) -> None:
    text = write_page(tmp_path, name="d-0", results=[], counts={"readable": 3, "typed value": 4_000}).read_text()
    assert text.index("typed value") < text.index("readable")  # most first
    assert "4,000" in text


@pytest.mark.parametrize("name", ["d-0", "d & <1>"])
def test_old_pages_go_and_the_index_lists_the_rest(tmp_path: Path, name: str) -> None:
    for number in range(KEPT + 3):
        (tmp_path / f"old-{number}.html").touch()
    write_page(tmp_path, name=name, results=[])
    assert len(list(tmp_path.glob("*.html"))) == KEPT + 1  # and the index
    index = (tmp_path / "index.html").read_text()
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in index
    assert "<1>" not in index
