"""Elements of the page. Text goes in as text, so nothing that a person or a log named can become markup."""

import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What HTML may not hold, escaped or not."""
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Marks that make text run the other way: a name with one could turn the figures behind it around."""


def node(tag: str, *children: Child, **attributes: object) -> Element:
    """An element. `class_` is written class, and `_` in other attributes' names `-`; None leaves one out."""
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), clean(str(value)))
    return fill(made, children)


def fill(parent: Element, children: Iterable[Child]) -> Element:
    """Append texts and elements in their order; None is nothing."""
    last: Element | None = next(reversed(parent), None)
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            parent.append(child)
            last = child
        elif last is None:
            parent.text = (parent.text or "") + clean(child)
        else:
            last.tail = (last.tail or "") + clean(child)
    return parent


def clean(text: str) -> str:
    """Without what no page may hold; marks of direction are shown as what they are."""
    return _DIRECTION.sub(lambda found: f"U+{ord(found[0]):04X}", _CONTROL.sub("\ufffd", text))


def document(root: Element) -> str:
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html', short_empty_elements=False)}\n"


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str | Element]], *, texts: Sequence[int] = ()
) -> Element:
    """A table that scrolls by itself where it is too wide, with the keyboard too. The first cell names its row.

    `texts`: places of columns with words, which stand left; figures stand right.
    """

    def kind(place: int) -> str | None:
        return "words" if place in texts else None

    body = node("tbody")
    for row in rows:
        first, *others = row
        cells = [node("td", cell, class_=kind(place)) for place, cell in enumerate(others, start=1)]
        body.append(node("tr", node("th", first, scope="row"), *cells))
    named = [node("th", name, scope="col", class_=kind(place)) for place, name in enumerate(head)]
    whole = node("table", node("caption", caption), node("thead", node("tr", *named)), body)
    return node("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption)


def folded(summary: str, *children: Child) -> Element:
    """What is there for who asks; open on paper."""
    return node("details", node("summary", summary), *children)


def soft(*children: Child) -> Element:
    return node("p", *children, class_="soft")
