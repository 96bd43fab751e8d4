"""Templates into pages. Whatever anybody named or wrote is escaped; a name that a template misspells is an error."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from serving.console.access import actions_of
from serving.console.pages.words import word_of
from stores.people import Person
from tasks.trial_page import wording
from tasks.trial_page.markup import clean
from tasks.trial_page.page import SHARED_STYLE

HERE = Path(__file__).parent
STYLES = (SHARED_STYLE, HERE / "static" / "console.css")
"""What evidence pages have too, and what is the console's own."""


@dataclass(frozen=True)
class Problem:
    """Why something was refused: what happened, why, and what to do about it."""

    what: str
    why: str
    remedy: str = ""


@dataclass(frozen=True)
class Frame:
    """What every page has besides its content; templates know it as `frame`.

    `now`: the home's clock. `message`: what the last step did, told once. `typed`: what a refused form held, by field.
    `csrf`: what each form on the page carries.
    """

    person: Person | None
    csrf: str
    path: str
    simulation: bool
    now: datetime | None = None
    message: str = ""
    problem: Problem | None = None
    typed: Mapping[str, str] = field(default_factory=dict)

    def may(self, action: str) -> bool:
        """Whether this person's roles let them do `access.Route.action`."""
        return self.person is not None and action in actions_of(self.person.roles)


def render(template: str, *, frame: Frame, **content: Any) -> str:
    return environment().get_template(template).render(frame=frame, **content)


@functools.cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=readable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "when": when,
        "lasting": lasting,
        "percent": wording.percent,
        "share": wording.share,
        "count": wording.count,
        "figure": wording.number,
        "interval": wording.interval,
        "brief": brief,
        "ago": ago,
        "state": state,
    }
    made.globals |= {"style_address": f"/static/console.css?v={style_version()}"}
    return made


@functools.cache
def style() -> bytes:
    """The style sheet."""
    return b"".join(file.read_bytes() for file in STYLES)


@functools.cache
def style_version() -> str:
    """Changes with the style sheet, so that a browser may keep it for good."""
    return hashlib.sha256(style()).hexdigest()[:16]


def readable(value: object) -> object:
    """What a template prints: text without control characters, and with marks of direction as what they are, so that
    nobody's name turns the words around it."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def when(time: datetime | None) -> Markup:
    """A moment for people and for machines, to the minute, in UTC."""
    if time is None:
        return escape(wording.UNKNOWN)
    return Markup('<time datetime="{}">{}</time>').format(time.isoformat(), f"{time:%Y-%m-%d %H:%M} UTC")


def ago(time: datetime | None, now: datetime | None) -> Markup:
    """`when`, and how long before or after `now` that is."""
    if time is None or now is None:
        return when(time)
    said = f"{lasting(now - time)} ago" if time <= now else f"in {lasting(time - now)}"
    return Markup('{} <span class="ago">({})</span>').format(when(time), said)


def state(stated: str) -> Markup:
    """A state as a word with a sign, see `pages.words`."""
    word = word_of(stated)
    return Markup('<span class="state {}">{} {}</span>').format(word.tone, word.sign, clean(word.said))


def lasting(span: timedelta) -> str:
    """`3 days`, `5 h 20 min`, `40 s`: the one or two largest units."""
    seconds = max(round(span.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} days"


def brief(text: str, most: int = 80) -> str:
    """The beginning of a long text, with … where something is missing."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
