"""Data Docs: one page a delivery, rendered by Great Expectations from its validation results, and an index over them.

Only this delivery's page is rendered, so that a page costs a tenth of a second however many there are. The newest
`KEPT` pages are kept. A page asks nothing of any network: Great Expectations' own loads its styles and scripts from
elsewhere, so its sections alone are taken, element by element from a list of harmless ones, under a style of ours.
"""

import copy
import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from expectations.engine import great_expectations
from expectations.suites import CRITICAL

KEPT = 200
SHOWN = 200
"""Characters of a sample. A source may send ten million."""
# The page shows samples; these lists are as long as the batch.
_WHOLE = ("unexpected_list", "unexpected_index_list", "unexpected_index_query")
_SAMPLES = ("partial_unexpected_list", "partial_unexpected_counts")
# What is no pseudonym may be somebody's address.
_PRIVATE = ("user",)

_STYLE = """
:root { --ink: #1d2329; --soft: #5b6670; --line: #dde2e6; --wash: #f4f6f8;
  --bad: #b3261e; --good: #1a7f4b; --mid: #9a6700 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h5 { font-size: 1rem; margin: 0; font-weight: 650 }
h6 { font-size: .85rem; margin: .6rem 0 .2rem; color: var(--soft); font-weight: 600 }
p { margin: .3rem 0 }
a { color: #0b57a4 }
.soft { color: var(--soft) }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0 }
.facts div { background: var(--wash); border: 1px solid var(--line); border-radius: 6px; padding: .45rem .8rem }
.facts dt { color: var(--soft); font-size: .8rem }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 .8rem }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word }
th { color: var(--soft); font-size: .8rem; font-weight: 600 }
td table { width: auto; min-width: 18rem; background: var(--wash); border: 1px solid var(--line) }
td table td { overflow-wrap: anywhere }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.ge-section { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: .8rem 0 }
.ge-section table.table > tbody > tr > td:first-child { width: 4rem }
.ge-section table.table-sm > tbody > tr > td:first-child { width: 14rem }
.ge-section table.table > tbody > tr > td:nth-child(3) { width: 16rem }
.badge { background: var(--wash); border: 1px solid var(--line); border-radius: 4px; padding: 0 .3rem;
  font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
.pass, .text-success { color: var(--good) }
.fail, .text-danger { color: var(--bad) }
.warn { color: var(--mid) }
.cooltip .top { display: none }
details summary { cursor: pointer; color: var(--soft) }
"""
# fmt: off
_KEPT_ELEMENTS = frozenset((
    "div", "span", "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "b", "code", "pre", "ul", "ol",
    "li", "table", "thead", "tbody", "tr", "th", "td",
))
# fmt: on
_DROPPED_WHOLE = ("script", "style", "nav", "footer", "svg")
_VOID = ("br", "hr", "img", "input", "link", "meta")
_SIGNS = {"fa-check": ("pass", "✓", "holds"), "fa-times": ("fail", "✗", "fails"), "fa-excl": ("warn", "!", "raised")}


def write_page(
    folder: Path,
    *,
    name: str,
    results: Sequence[Any],
    facts: Mapping[str, object] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Path:
    """Write `folder`/`name`.html, and a new index.

    `results`: Great Expectations' validation results, of the rows and of the batch; none where no row could be judged.
    `facts`: what the head of the page states of the delivery, in order. `counts`: expectation and column → rows that
    broke it, for deliveries whose rows were judged by masks alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    parts = [_head(name, facts or {}), _broken(results), _counted(counts or {})]
    if not results:
        parts.append("<p>Great Expectations looked at no row: none could be read, or there were too many.</p>")
    for number, result in enumerate(results, start=1):
        parts.append(f"<h2>{html.escape(str(result.suite_name))}: every expectation</h2>")
        parts.append(_sections(result, prefix=f"result-{number}-"))
    _replace(page, _document(name, "\n".join(part for part in parts if part)))
    kept = sorted(_pages(folder), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    for old in kept[KEPT:]:
        old.unlink(missing_ok=True)
    _replace(folder / "index.html", _index(kept[:KEPT]))
    return page


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}: Data Docs</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _head(name: str, facts: Mapping[str, object]) -> str:
    cells = "".join(
        f"<div><dt>{_shown(label)}</dt><dd>{_shown(f'{value:,}' if isinstance(value, int) else value)}</dd></div>"
        for label, value in facts.items()
    )
    return (
        f'<p class="soft"><a href="index.html">All deliveries</a></p><h1>Delivery {html.escape(name)}</h1>'
        f'<dl class="facts">{cells}</dl>'
    )


def _broken(results: Sequence[Any]) -> str:
    """What did not hold, with the suite's own reasons: the first thing that a reader looks for."""
    rows = []
    for outcome in (outcome for result in results for outcome in result.results if not outcome.success):
        config = outcome.expectation_config
        found = outcome.result.get("unexpected_count", outcome.result.get("observed_value", ""))
        column = config.kwargs.get("column") or config.kwargs.get("column_A", "")
        severity = str(getattr(config.severity, "value", config.severity))
        rows.append(
            f'<tr><td class="{"fail" if severity == CRITICAL else "warn"}">{_shown(severity)}</td>'
            f"<td>{_shown(column)}</td><td>{_shown(config.notes or config.type)}</td>"
            f'<td class="number">{_shown(f"{found:,}" if isinstance(found, int) else found)}</td></tr>'
        )
    evaluated = sum(len(result.results) for result in results)
    if not evaluated:
        return ""
    said = f"<h2>{evaluated - len(rows)} of {evaluated} expectations hold</h2>"
    if not rows:
        return said
    head = '<tr><th>Severity</th><th>Column</th><th>What does not hold</th><th class="number">Rows or value</th></tr>'
    return f"{said}<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _counted(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    rows = "".join(
        f'<tr><td>{_shown(name)}</td><td class="number">{rows:,}</td></tr>'
        for name, rows in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    head = '<tr><th>Expectation and column</th><th class="number">Rows</th></tr>'
    return f"<h2>Rows that broke an expectation</h2><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _sections(result: Any, *, prefix: str) -> str:
    great_expectations()
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    reader = _Sections(prefix)
    reader.feed(str(_view().render(ValidationResultsPageRenderer().render(_harmless(result)))))
    reader.close()
    return "".join(reader.kept)


def _harmless(result: Any) -> Any:
    """A copy with the samples escaped: Great Expectations writes what a source sent into the page as it is."""
    shown = copy.copy(result)
    shown.results = [copy.copy(outcome) for outcome in result.results]
    for outcome in shown.results:
        hidden = (*_WHOLE, *_SAMPLES) if outcome.expectation_config.kwargs.get("column") in _PRIVATE else _WHOLE
        outcome.result = {name: _escaped(value) for name, value in outcome.result.items() if name not in hidden}
        outcome.expectation_config = _printable(outcome.expectation_config)
    return shown


def _printable(config: Any) -> Any:
    """A regular expression may name characters that nobody can see."""
    if "regex" not in config.kwargs:
        return config
    shown = copy.deepcopy(config)
    shown.kwargs["regex"] = html.escape(ascii(config.kwargs["regex"])[1:-1].replace("\\\\", "\\"))
    return shown


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, tuple):  # one sample, of two columns
        return ", ".join(_shown(inner) for inner in value)
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _escaped(inner) for name, inner in value.items()}
    return value


def _shown(value: object) -> str:
    text = str(value)
    text = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    # Blanks and what does not print would look like nothing.
    return html.escape(text if text.isprintable() and (text.strip() or not text) else ascii(text))


class _Sections(HTMLParser):
    """Keeps the sections of Great Expectations' page: known elements, with their class and id, and their text."""

    def __init__(self, prefix: str) -> None:
        super().__init__(convert_charrefs=False)
        self.kept: list[str] = []
        self._prefix = prefix
        self._open: list[tuple[str, bool]] = []  # (element, kept) from the section down
        self._dropping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        classes = given.get("class", "")
        if not self._open and not classes.startswith("ge-section"):
            return
        if tag == "i":
            self._sign(classes)
        # What a link folds out needs a script, and says only how Great Expectations was called.
        drops = tag in _DROPPED_WHOLE or "collapse" in (given.get("data-toggle"), *classes.split())
        if tag not in _VOID:
            self._open.append((tag, drops))
        self._dropping += drops and tag not in _VOID
        if not self._dropping and tag in _KEPT_ELEMENTS:
            named = f' id="{self._prefix}{html.escape(given["id"])}"' if "id" in given else ""
            hidden = " hidden" if "hidden" in given else ""
            self.kept.append(f'<{tag}{named} class="{html.escape(classes)}"{hidden}>')

    def handle_endtag(self, tag: str) -> None:
        if tag not in (open_tag for open_tag, _ in self._open):
            return
        while self._open:
            closed, dropped = self._open.pop()
            if not self._dropping and closed in _KEPT_ELEMENTS:
                self.kept.append(f"</{closed}>")
            self._dropping -= dropped
            if closed == tag:
                return

    def handle_data(self, data: str) -> None:
        self._text(html.escape(data, quote=False))

    def handle_entityref(self, name: str) -> None:
        self._text(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._text(f"&#{name};")

    def _text(self, text: str) -> None:
        if self._open and not self._dropping:
            self.kept.append(text if text.strip() else " ")

    def _sign(self, classes: str) -> None:
        for icon, (name, text, said) in _SIGNS.items():
            if icon in classes and not self._dropping:
                self.kept.append(f'<b class="{name}" title="{said}">{text}</b>')


@cache
def _view() -> Any:
    """One view for all pages: it keeps its compiled templates, most of a page's cost."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _pages(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.html") if path.name != "index.html"]


def _index(pages: Sequence[Path]) -> str:
    rows = "".join(
        f'<tr><td><a href="{html.escape(page.name)}">{html.escape(page.stem)}</a></td>'
        f"<td>{datetime.fromtimestamp(page.stat().st_mtime, UTC):%Y-%m-%d %H:%M:%S} UTC</td></tr>"
        for page in pages
    )
    head = "<tr><th>Delivery</th><th>Page written</th></tr>"
    body = f"<h1>Deliveries, newest first</h1><table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return _document("Deliveries", body)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
