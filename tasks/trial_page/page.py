"""The evidence page of a trial: one file, no requests to anywhere, no scripts, the verdict first."""

import os
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

from stores.ledger_records import TrialRecord
from tasks.trial_page.challengers import challengers_part
from tasks.trial_page.checks import parity_part, served_part, split_part
from tasks.trial_page.days import days_part
from tasks.trial_page.effect import effect_part
from tasks.trial_page.forest import guardrails_part, slices_part
from tasks.trial_page.headline import headline, outlook_part, title
from tasks.trial_page.markup import document, node
from tasks.trial_page.origins import origins_part, promise_part
from tasks.trial_page.passed import errors_part, rehearsal_part, stages_part
from tasks.trial_page.reading import Told

SHARED_STYLE, STYLE = (Path(__file__).with_name(name) for name in ("parts.css", "page.css"))
"""The first is of whatever shows these parts, the second of the page that stands alone."""
PARTS: tuple[tuple[str, str, Callable[[Told], list[Element] | None]], ...] = (
    ("outlook", "What would change the decision", outlook_part),
    ("effect", "The effect over the looks", effect_part),
    ("challengers", "All challengers", challengers_part),
    ("guardrails", "Guardrails", guardrails_part),
    ("slices", "Slices", slices_part),
    ("days", "Arms by day", days_part),
    ("split", "Were users split as declared?", split_part),
    ("served", "How answers came", served_part),
    ("parity", "Is what serves what was trained?", parity_part),
    ("stages", "Stages", stages_part),
    ("rehearsal", "A/A rehearsal", rehearsal_part),
    ("errors", "What chance may promote", errors_part),
    ("promise", "What was promised before the start", promise_part),
    ("origins", "Where this comes from", origins_part),
)
"""Id, heading and maker of each part, in order. A part that knows nothing is left out."""


def write_trial_page(file: Path, record: TrialRecord, *, k: int) -> None:
    """Write the page of `record`, with every look so far, in one replace. Groups under `k` users show no figures.

    Raises UsageError where the record's configuration is not one.
    """
    page = document(trial_page(record, k=k))
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def trial_parts(told: Told) -> tuple[Element, list[Element]]:
    """(links to the parts that know something, a section each)."""
    made = [(ident, heading, parts) for ident, heading, part in PARTS if (parts := part(told))]
    links = [node("li", node("a", heading, href=f"#{ident}")) for ident, heading, _ in made]
    sections = [
        node(
            "section", node("h2", heading, id=f"{ident}-heading"), *parts, id=ident, aria_labelledby=f"{ident}-heading"
        )
        for ident, heading, parts in made
    ]
    return node("nav", node("ul", *links), aria_label="On this page"), sections


def trial_page(record: TrialRecord, *, k: int) -> Element:
    told = Told.of(record, k=k)
    links, sections = trial_parts(told)
    style = "".join(file.read_text(encoding="utf-8") for file in (SHARED_STYLE, STYLE))
    return node(
        "html",
        node(
            "head",
            node("meta", charset="utf-8"),
            node("meta", name="viewport", content="width=device-width, initial-scale=1"),
            node("title", title(told)),
            node("style", style),
        ),
        node(
            "body",
            node("main", *headline(told), links, *sections),
        ),
        lang="en",
    )
