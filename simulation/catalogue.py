"""The marketplace's items: sub-topic, quality, price, release day, and a title that a person can read.

Items are numbered in the order of their release, so those on sale on a day are a prefix.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.clock import iso_times
from simulation.parameters import Parameters

TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Kitchen", ("Kettle", "Knife", "Casserole", "Scale", "Whisk", "Teapot")),
    ("Camera", ("Lens", "Tripod", "Flash", "Film", "Strap", "Filter")),
    ("Garden", ("Trowel", "Seeds", "Hose", "Planter", "Lantern", "Hammock")),
    ("Books", ("Novel", "Atlas", "Cookbook", "Memoir", "Mystery", "Poems")),
    ("Music", ("Guitar", "Vinyl", "Headphones", "Keyboard", "Ukulele", "Metronome")),
    ("Cycling", ("Helmet", "Saddle", "Pannier", "Pump", "Light", "Jersey")),
    ("Toys", ("Puzzle", "Kite", "Blocks", "Robot", "Marbles", "Doll")),
    ("Home", ("Lamp", "Rug", "Vase", "Curtain", "Shelf", "Candle")),
    ("Outdoor", ("Tent", "Stove", "Rucksack", "Compass", "Bottle", "Boots")),
    ("Craft", ("Yarn", "Brush", "Canvas", "Loom", "Clay", "Needles")),
    ("Fashion", ("Scarf", "Coat", "Belt", "Hat", "Gloves", "Dress")),
    ("Games", ("Dice", "Chess", "Cards", "Strategy", "Quiz", "Console")),
)
MAKERS = (
    "Alder",
    "Bramble",
    "Corvo",
    "Dune",
    "Ember",
    "Fjord",
    "Grove",
    "Harbour",
    "Iris",
    "Juniper",
    "Kestrel",
    "Lumen",
)
NON_ASCII_MAKERS = ("Ærø", "Café Niño", "Łódź", "Söder", "京都", "Ωmega", "Żubr", "Brûlée", "Владимир", "☕ Morning")
STYLES = (
    "Classic",
    "Compact",
    "Everyday",
    "Fine",
    "Grand",
    "Little",
    "Midnight",
    "Nordic",
    "Quiet",
    "Studio",
    "Sunny",
    "Travel",
)


@dataclass(frozen=True)
class Catalogue:
    """All items of the horizon, one entry an item (`_N`), numbered by release."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    subtopic_N: NDArray[np.int64]
    quality_N: NDArray[np.float64]
    price_N: NDArray[np.float64]
    release_N: NDArray[np.int64]
    number: dict[str, int]
    """Item id → its row."""
    parameters: Parameters

    def released(self, day: int) -> int:
        """How many items are on sale on `day`: rows 0 … released − 1."""
        return int(np.searchsorted(self.release_N, day, side="right"))

    def rows(self, day: int) -> list[dict[str, Any]]:
        """Rows of an items file with what is new on `day`; on day 0 all that is on sale."""
        last = self.released(day)
        first = self.released(day - 1) if day > 0 else 0
        per_topic = self.parameters.subtopics_per_topic
        day_us = np.maximum(self.release_N[first:last], 0) * 86_400_000_000
        valid_from = iso_times(day_us, self.parameters)
        rows = []
        for item, stamp in zip(range(first, last), valid_from, strict=True):
            topic, subtopic = names_of(int(self.subtopic_N[item]), per_topic)
            rows.append(
                {
                    "item_id": self.ids[item],
                    "title": self.titles[item],
                    "description": f"{self.titles[item]}: {subtopic.lower()} for {topic.lower()}.",
                    "categories": [topic, subtopic],
                    "price": float(self.price_N[item]),
                    "available": True,
                    "valid_from": stamp,
                }
            )
        return rows


def build_catalogue(parameters: Parameters, rng: np.random.Generator) -> Catalogue:
    p = parameters
    arrivals = rng.poisson(p.new_items_per_day, size=p.horizon_days)
    arrivals[0] = 0
    first = np.sort(rng.integers(p.first_release_day, 1, size=p.items))
    release_N = np.concatenate([first, np.repeat(np.arange(p.horizon_days), arrivals)]).astype(np.int64)
    count = len(release_N)
    # Sub-topics differ in size as shop departments do; none is empty on day 0.
    size_S = rng.dirichlet(np.full(p.subtopics, 6.0))
    subtopic_N = rng.choice(p.subtopics, size=count, p=size_S).astype(np.int64)
    subtopic_N[: p.subtopics] = rng.permutation(p.subtopics)
    ids = tuple(f"item-{row:05d}" for row in range(count))
    return Catalogue(
        ids=ids,
        titles=_titles(subtopic_N, p, rng),
        subtopic_N=subtopic_N,
        quality_N=rng.normal(0.0, p.quality_spread, size=count),
        price_N=np.round(p.price_median * np.exp(rng.normal(0.0, p.price_spread, size=count)), 2),
        release_N=release_N,
        number={item: row for row, item in enumerate(ids)},
        parameters=p,
    )


def names_of(subtopic: int, per_topic: int) -> tuple[str, str]:
    """Topic and sub-topic names; numbered where there are more than the lists hold."""
    topic, within = divmod(subtopic, per_topic)
    name, things = TOPICS[topic % len(TOPICS)]
    thing = things[within % len(things)]
    topic_round, thing_round = topic // len(TOPICS), within // len(things)
    return (
        name if topic_round == 0 else f"{name} {topic_round + 1}",
        thing if thing_round == 0 else f"{thing} {thing_round + 1}",
    )


def _titles(subtopic_N: NDArray[np.int64], p: Parameters, rng: np.random.Generator) -> tuple[str, ...]:
    count = len(subtopic_N)
    makers, styles = rng.integers(len(MAKERS), size=count), rng.integers(len(STYLES), size=count)
    foreign = rng.random(count) < p.non_ascii
    foreign_makers = rng.integers(len(NON_ASCII_MAKERS), size=count)
    titles = []
    for row in range(count):
        maker = NON_ASCII_MAKERS[foreign_makers[row]] if foreign[row] else MAKERS[makers[row]]
        _, thing = names_of(int(subtopic_N[row]), p.subtopics_per_topic)
        titles.append(f"{maker} {STYLES[styles[row]]} {thing} No. {row % 97 + 1}")
    return tuple(titles)
