"""Data Docs: one page a delivery, rendered from its validation result, and an index over them.

Only this delivery's page is rendered, so that a page costs a tenth of a second however many there are. The newest
`KEPT` pages are kept. The pages' styles come from elsewhere: on a closed network they look bare and say the same.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEPT = 200


def write_page(folder: Path, *, name: str, result: Any) -> Path:
    """Write `folder`/`name`.html, and a new index. `result` is a Judgement's, or None: no row could be judged."""
    from expectations.engine import great_expectations

    great_expectations()
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    if result is None:
        text = f"<!doctype html><title>{html.escape(name)}</title><p>No row of this delivery could be read.</p>"
    else:
        text = str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result)))
    _replace(page, text)
    kept = sorted(_pages(folder), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    for old in kept[KEPT:]:
        old.unlink(missing_ok=True)
    _replace(folder / "index.html", _index(kept[:KEPT]))
    return page


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
