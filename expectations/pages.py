"""Data Docs: one page a delivery, rendered from its validation result, and an index over them.

Only this delivery's page is rendered, so that a page costs a tenth of a second however many there are. The newest
`KEPT` pages are kept. The pages' styles come from elsewhere: on a closed network they look bare and say the same.
"""

import copy
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from expectations.engine import great_expectations

KEPT = 200
# The page shows samples; these lists are as long as the batch.
_WHOLE = ("unexpected_list", "unexpected_index_list", "unexpected_index_query")


def write_page(folder: Path, *, name: str, result: Any) -> Path:
    """Write `folder`/`name`.html, and a new index. `result` is a Judgement's, or None: no row could be judged."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    if result is None:
        text = f"<!doctype html><title>{html.escape(name)}</title><p>No row of this delivery could be read.</p>"
    else:
        text = _rendered(result)
    _replace(page, text)
    kept = sorted(_pages(folder), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    for old in kept[KEPT:]:
        old.unlink(missing_ok=True)
    _replace(folder / "index.html", _index(kept[:KEPT]))
    return page


def _rendered(result: Any) -> str:
    great_expectations()
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    return str(_view().render(ValidationResultsPageRenderer().render(_harmless(result))))


def _harmless(result: Any) -> Any:
    """A copy with the samples escaped: Great Expectations writes what a source sent into the page as it is."""
    shown = copy.copy(result)
    shown.results = [copy.copy(outcome) for outcome in result.results]
    for outcome in shown.results:
        outcome.result = {name: _escaped(value) for name, value in outcome.result.items() if name not in _WHOLE}
    return shown


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _escaped(inner) for name, inner in value.items()}
    return value


@cache
def _view() -> Any:
    """One view for all pages: it keeps its compiled templates, most of a page's cost."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _pages(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.html") if path.name != "index.html"]


def _index(pages: Sequence[Path]) -> str:
    rows = "\n".join(f'<li><a href="{html.escape(page.name)}">{html.escape(page.stem)}</a></li>' for page in pages)
    return (
        '<!doctype html><meta charset="utf-8"><title>Ratchet: Data Docs</title>'
        f"<h1>Deliveries, newest first</h1>\n<ol>\n{rows}\n</ol>\n"
    )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
