"""The effect over the looks: the estimate with its intervals, and what it has to reach."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from tasks.trial_page.chart import Chart, arm_swatch, both_widths, draw_mark, key, swatch, thinned
from tasks.trial_page.markup import folded, node, soft, table
from tasks.trial_page.reading import Point, Told, leading
from tasks.trial_page.wording import (
    UNKNOWN,
    chance,
    count,
    interval,
    number,
    percent,
    score,
    share,
    tick,
)

MOST_ROWS = 300


def effect_part(told: Told) -> list[Element] | None:
    """None before the comparison's first look that could estimate anything."""
    name = leading(told.compared[-1]) if told.compared else ""
    points = told.points(name)
    if not points:
        return None
    metric = told.config.primary
    tested = score_picture(points, name=f"score-{name}")
    parts = [
        soft(
            f"{metric.name}: {told.named(name)} against {told.named('champion')}, over matured users. "
            "A look promotes where its mark lies on or above the dashed line, and everything else holds."
        ),
        effect_picture(told, points, name=f"effect-{name}", title=f"Lift of {metric.name} over matured users"),
        tested,
        _looks_table(told, points),
    ]
    return [part for part in parts if part is not None]


def effect_picture(told: Told, points: Sequence[Point], *, name: str, title: str, keyed: bool = True) -> Element:
    """Lift with the interval of each look, the lift each look needed, and the always-valid sequence as a band."""
    known = [point for point in points if point.lift is not None]
    if not known:
        return soft("No look could estimate a lift: too little of the champion's rate is known.")
    low, high, cut = _reach(known, told.config.minimum_effect)
    users = _users_shown(points[-1].users, told.config.n_max)
    newest = known[-1]
    needed = "not tested" if newest.needed is None else f"needed {percent(newest.needed)}"
    told_aloud = (
        f"{len(known)} looks. Newest: {percent(newest.lift)} {interval(newest.interval)} at {count(newest.users)} "
        f"matured users, {needed}."
    )

    def draw(width: int, kind: str) -> Chart:
        chart = Chart(
            name, title, told_aloud, (0, users), (low, high), count, tick,
            x_label="matured users", width=width, height=300 if width > 500 else 260, kind=kind,
        )  # fmt: skip
        chart.band([(p.users, *p.sequence) for p in thinned([p for p in known if p.sequence]) if p.sequence])
        chart.rule(0, class_="zero")
        chart.rule(told.config.minimum_effect, class_="limit", label="effect to detect")
        for point in thinned(known):
            if point.interval:
                chart.whisker(point.users, *point.interval, arm=1)
        tested = [(p.users, p.needed, p.look) for p in known if p.needed is not None and p.needed <= high]
        chart.line([(x, y) for x, y, _ in thinned(tested)], class_="needed")
        for x, y, look in thinned(tested):
            chart.mark(x, y, arm=4, hollow=True, told=f"needed at look {look}: {percent(y)}")
        for point in thinned(known):
            if point.lift is not None:
                said = (
                    f"look {point.look}, {count(point.users)} users: {percent(point.lift)} {interval(point.interval)}"
                )
                chart.mark(point.users, point.lift, arm=1, told=said, hollow=point.needed is None)
        return chart

    line = node("line", x1=0, x2=36, y1=7, y2=7, class_="needed")
    entries = [
        (arm_swatch(1), "lift, with the interval that is valid at every look"),
        (swatch(draw_mark(18, 7, arm=1, hollow=True)), "a look that did not test"),
        (
            swatch(line, draw_mark(18, 7, arm=4, hollow=True)),
            "the lift needed to promote",
        ),
        (swatch(node("rect", x=0, y=2, width=36, height=10, class_="band")), "always-valid confidence sequence"),
    ]
    below = [key(entries)] if keyed else []
    if cut:
        below.append(soft("The first looks know little: their intervals go on beyond the picture."))
    return both_widths(draw, title=title, below=below)


def score_picture(points: Sequence[Point], *, name: str) -> Element | None:
    """z against its boundary over information time."""
    known = [point for point in points if point.z is not None and point.information is not None]
    if not known:
        return None
    values = [value for p in known for value in (p.z, p.boundary) if value is not None]
    reach = (min(-1.0, *values) - 0.3, max(3.0, *values) + 0.3)

    def draw(width: int, kind: str) -> Chart:
        chart = Chart(
            name, "z over information", _score_told(known[-1]), (0, 1), reach, lambda value: share(value, digits=0),
            lambda value: number(value, digits=2), x_label="share of n_max that has matured", width=width, height=190,
            kind=kind,
        )  # fmt: skip
        chart.rule(0, class_="zero")
        tested = [(p.information, p.boundary) for p in known if p.boundary is not None and p.information is not None]
        chart.line(thinned(tested), class_="needed")
        for x, y in thinned(tested):
            chart.mark(x, y, arm=4, hollow=True, told=f"boundary {score(y)} at {share(x)} of n_max")
        for point in thinned(known):
            if point.z is not None and point.information is not None:
                said = f"look {point.look}: z = {score(point.z)}, boundary {score(point.boundary)}"
                chart.mark(point.information, point.z, arm=1, told=said, hollow=point.boundary is None)
        return chart

    entries = [
        (swatch(draw_mark(18, 7, arm=1)), "z of the effect"),
        (swatch(draw_mark(18, 7, arm=4, hollow=True)), "group-sequential boundary"),
    ]
    return both_widths(draw, title="The test itself: z against its boundary", below=[key(entries)])


def _looks_table(told: Told, points: Sequence[Point]) -> Element:
    shown = list(points)[-MOST_ROWS:]
    head = (
        "look",
        "matured users",
        "of n_max",
        "lift",
        "interval",
        "always valid",
        "needed",
        "z",
        "boundary",
        "verdict",
    )
    body = [
        (
            str(p.look), told.users(p.users), share(p.information), percent(p.lift), interval(p.interval),
            interval(p.sequence), percent(p.needed), score(p.z), score(p.boundary), p.verdict or UNKNOWN,
        )
        for p in reversed(shown)
    ]  # fmt: skip
    left = f" (the newest {MOST_ROWS} of {len(points)})" if len(points) > MOST_ROWS else ""
    newest = told.newest
    facts = [
        f"one-sided p of the newest look alone {chance(_plain(newest.get('p_value')))}",
        f"α spent {number(_plain(newest.get('spent')))} of {number(told.config.alpha_each)}",
        f"variance saved by pre-period data {share(_plain(newest.get('variance_reduction')))}",
    ]
    return folded(
        "Every look in figures",
        table(f"Looks, newest first{left}", head, body, texts=(9,)),
        soft(
            "An interval is the repeated confidence interval at its look's boundary: however often one looks, it "
            f"misses the truth with a probability of at most {share(2 * told.config.alpha_each)}. The always-valid "
            "sequence holds at every moment, and is wider for it."
        ),
        soft("; ".join(facts) + "."),
    )


def _reach(points: Sequence[Point], effect: float) -> tuple[float, float, bool]:
    """From where to where the picture goes, and whether an interval goes beyond."""
    newest = points[-1]
    spans = [abs(end) for span in (newest.interval, newest.sequence) if span for end in span]
    most = max(
        [1.6 * max(spans, default=0.0), 2.5 * effect, *(1.3 * abs(p.lift) for p in points if p.lift is not None)]
    )
    every = [end for p in points for span in (p.interval, p.sequence) if span for end in span]
    every += [p.needed for p in points if p.needed is not None]
    every += [p.lift for p in points if p.lift is not None]
    low, high = max(-most, min([-effect, *every])), min(most, max([1.5 * effect, *every]))
    pad = (high - low) * 0.04
    return low - pad, high + pad, any(abs(end) > most for end in every)


def _users_shown(newest: float, n_max: int) -> float:
    """All of n_max as soon as a third of it is there; before, the looks would be a heap at the edge."""
    return max(float(n_max), newest) if newest * 3 >= n_max else newest * 1.5


def _score_told(point: Point) -> str:
    return (
        f"Newest look: z = {score(point.z)}, boundary {score(point.boundary)} at {share(point.information)} of n_max."
    )


def _plain(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
