"""One small picture: SVG with a frame, drawn in the units of the data. Shapes and dashes tell what colours tell."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from xml.etree.ElementTree import Element

from tasks.trial_page.markup import node

T = TypeVar("T")

WIDE, NARROW = 720, 350
MOST_MARKS = 150
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")
"""One for each arm, in their order."""


@dataclass(frozen=True)
class Scale:
    """From data, `low` to `high`, to pixels, `begin` to `end`. What lies outside is drawn at the edge."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.begin + (self.end - self.begin) * (inside - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, most: int, *, least: float = 0.0) -> list[float]:
        """At most `most` + 1 round values within the scale, `least` apart."""
        rough = max((self.high - self.low) / most, least)
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


@dataclass
class Chart:
    """`name`: unique on the page, the root of the ids. `title` and `told` are for who hears the page."""

    name: str
    title: str
    told: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    x_label: str = ""
    x_least: float = 0.0
    """Two marks on the axis are so far apart: 1 where it counts."""
    width: int = WIDE
    height: int = 240
    left: int = 52
    kind: str = "wide"
    parts: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.h = Scale(*_apart(self.x), self.left, self.width - 12)
        self.v = Scale(*_apart(self.y), self.height - 34, 10)
        for value in self.v.ticks(5):
            y = self.v.at(value)
            self._add("line", x1=self.left, x2=self.width - 12, y1=y, y2=y, class_="grid")
            self._add("text", self.y_text(value), x=self.left - 6, y=y + 4, class_="end")
        ticks = self.h.ticks(6 if self.width > 500 else 4, least=self.x_least)
        for place, value in enumerate(ticks):
            at = self.h.at(value)
            edge = place == len(ticks) - 1 and at > self.width - 40
            self._add(
                "text",
                self.x_text(value),
                x=min(at + 14, self.width - 1.0) if edge else at,
                y=self.height - 18,
                class_="end" if edge else "middle",
            )
        self._add("text", self.x_label, x=self.width - 12, y=self.height - 3, class_="end")

    def rule(self, value: float, *, class_: str, label: str = "") -> None:
        """A horizontal line across; nothing where it lies outside."""
        if not self.v.holds(value):
            return
        y = self.v.at(value)
        self._add("line", x1=self.left, x2=self.width - 12, y1=y, y2=y, class_=class_)
        if label:
            self._add("text", label, x=self.width - 14, y=y - 4, class_="end")

    def line(self, points: Sequence[tuple[float, float]], *, class_: str) -> None:
        if len(points) > 1:
            self._add("polyline", points=self._path(points), class_=class_)

    def band(self, points: Sequence[tuple[float, float, float]]) -> None:
        """Points (x, low, high)."""
        if len(points) > 1:
            around = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
            self._add("polygon", points=self._path(around), class_="band")
            self.line([(x, low) for x, low, _ in points], class_="edge")
            self.line([(x, high) for x, _, high in points], class_="edge")

    def whisker(self, x: float, low: float, high: float, *, arm: int) -> None:
        at = self.h.at(x)
        self._add("line", x1=at, x2=at, y1=self.v.at(low), y2=self.v.at(high), class_=f"whisker a{arm}")

    def mark(self, x: float, y: float, *, arm: int, told: str, hollow: bool = False) -> None:
        shape = draw_mark(self.h.at(x), self.v.at(y), arm=arm, hollow=hollow)
        shape.append(node("title", told))
        self.parts.append(shape)

    def svg(self) -> Element:
        ident = f"{self.name}-{self.kind}"
        return node(
            "svg",
            node("title", self.title, id=f"{ident}-title"),
            node("desc", self.told, id=f"{ident}-told"),
            *self.parts,
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_labelledby=f"{ident}-title {ident}-told",
            class_=self.kind,
        )

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.h.at(x):.1f},{self.v.at(y):.1f}" for x, y in points)

    def _add(self, tag: str, *children: str, **attributes: object) -> None:
        short = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in attributes.items()}
        self.parts.append(node(tag, *children, **short))


def draw_mark(x: float, y: float, *, arm: int, hollow: bool = False, size: float = 4.0) -> Element:
    """The arm's shape, centred on (x, y)."""
    name = SHAPES[arm % len(SHAPES)]
    class_ = f"mark a{arm % len(SHAPES)}" + (" open" if hollow else "")
    if name == "circle":
        return node("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=size, class_=class_)
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.3), (1.2, 1), (-1.2, 1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        "down": ((0, 1.3), (1.2, -1), (-1.2, -1)),
        "cross": ((-0.4, -1.3), (0.4, -1.3), (0.4, -0.4), (1.3, -0.4), (1.3, 0.4), (0.4, 0.4), (0.4, 1.3), (-0.4, 1.3),
                  (-0.4, 0.4), (-1.3, 0.4), (-1.3, -0.4), (-0.4, -0.4)),
    }[name]  # fmt: skip
    path = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return node("polygon", points=path, class_=class_)


def swatch(*parts: Element) -> Element:
    """What stands before a word in a key: 36 × 14, hidden from who hears the page."""
    return node("svg", *parts, viewBox="0 0 36 14", class_="swatch", aria_hidden="true")


def key(entries: Sequence[tuple[Element, str]]) -> Element:
    return node("ul", *(node("li", picture, " ", text) for picture, text in entries), class_="key")


def arm_swatch(arm: int, *, hollow: bool = False) -> Element:
    line = node("line", x1=0, x2=36, y1=7, y2=7, class_=f"line a{arm}")
    return swatch(line, draw_mark(18, 7, arm=arm, hollow=hollow))


def both_widths(draw: Callable[[int, str], Chart], *, title: str, below: Sequence[Element] = ()) -> Element:
    """A figure with the picture drawn for a wide window and for a telephone; the style shows one of them."""
    return node(
        "figure", node("h3", title), draw(WIDE, "wide").svg(), draw(NARROW, "narrow").svg(), *below, class_="picture"
    )


def thinned(values: Sequence[T], most: int = MOST_MARKS) -> list[T]:
    """Evenly, with the first and the newest."""
    if len(values) <= most:
        return list(values)
    step = (len(values) - 1) / (most - 1)
    return [values[round(place * step)] for place in range(most)]


def _apart(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, low + 0.5)
