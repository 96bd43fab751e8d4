"""Element trees inside templates. Text in a tree is text, so this is the one thing that a template need not escape."""

from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup


def markup(*elements: Element) -> Markup:
    """HTML of elements made by `tasks.trial_page.markup`."""
    return Markup("").join(
        Markup(tostring(each, encoding="unicode", method="html", short_empty_elements=False)) for each in elements
    )
