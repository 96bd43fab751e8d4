"""Guardrails and slices against their margins: one picture and one table for both kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from scipy.special import ndtri

from gate.confidence import holm
from gate.metrics import Better, Metric
from relations.cells import shown
from tasks.trial_page.chart import NARROW, WIDE, Scale, draw_mark
from tasks.trial_page.days import unit
from tasks.trial_page.markup import node, soft, table
from tasks.trial_page.reading import Evidence, Told, comparison, ends, figure, leading, rows, text
from tasks.trial_page.wording import UNKNOWN, chance, number, percent, score, share

REACH = 2.5
"""Margins to each side of no change that the picture shows."""
ROW = 34


@dataclass(frozen=True)
class Test:
    """One non-inferiority test. `used`: how much better (+) or worse (−) the challenger is, in margins; −1 is the limit

    `used_low`, `used_high`: at the look's boundary, or at the one-sided α where the look did not test. All None where
    the champion's rate and so the margin is 0, or figures are of too few users.
    """

    name: str
    note: str
    champion: float | None
    challenger: float | None
    change: float | None
    margin: str
    used: float | None
    used_low: float | None
    used_high: float | None
    z: float | None
    boundary: float | None
    harm_p: float | None
    state: str
    tone: str


def guardrails_part(told: Told) -> list[Element] | None:
    """None where the trial declares none, or no look could judge them."""
    part = _newest_part(told)
    declared = {metric.name: metric for metric in told.config.guardrails}
    harmed = _harmed(told, part)
    found = [
        _test(row, declared.get(text(row, "name")), told=told, harmed=f"guardrail {text(row, 'name')}" in harmed)
        for row in rows(part, "guardrails")
    ]
    if not found:
        missing = ", ".join(declared)
        said = f"Not judged yet: {missing}. Each must hold before anything is promoted."
        return [soft(said)] if declared and told.compared else None
    return [
        soft("Each must be proven no worse than its margin allows; a guardrail that is not proven promotes nobody."),
        _picture(found, name="guardrails", title="Guardrails against their margins"),
        _table("Guardrails", found),
    ]


def slices_part(told: Told) -> list[Element] | None:
    part = _newest_part(told)
    stated = rows(part, "slices")
    harmed = _harmed(told, part)
    visible = _visible(told, stated)
    found = []
    for row in stated:
        name = text(row, "name")
        both = ends(row, "users")
        note = "◆ protected" if row.get("protected") else ""
        if both is not None and name not in visible:
            few = " and ".join(told.users(amount) if amount < told.k else UNKNOWN for amount in both)
            found.append(_hidden(name, f"{note} {few} users".strip(), row))
            continue
        users = "" if both is None else f"{both[0]:,.0f} and {both[1]:,.0f} users"
        found.append(
            _test(row, None, told=told, harmed=f"slice {name}" in harmed, note=" · ".join(filter(None, (note, users))))
        )
    if not found:
        names = ", ".join(each.name for each in told.config.slices)
        return [soft(f"Not judged yet: {names}.")] if names and told.compared else None
    return [
        soft(
            f"{told.config.primary.name} within groups declared before the start. Proven harm beyond the margin in any "
            "of them rejects. A ◆ protected one must also be proven not to lose more than its margin."
        ),
        _picture(found, name="slices", title="Slices against their margins"),
        _table("Slices", found),
    ]


def _newest_part(told: Told) -> Evidence:
    newest = told.compared[-1] if told.compared else {}
    return comparison(newest, leading(newest))


def _harmed(told: Told, part: Evidence) -> tuple[str, ...]:
    """Those proven beyond their margins, as the gate counts them: Holm over guardrails and slices together."""
    found = {
        f"{kind} {text(row, 'name')}": p
        for kind, key in (("guardrail", "guardrails"), ("slice", "slices"))
        for row in rows(part, key)
        if (p := figure(row, "harm_p")) is not None
    }
    return holm(found, alpha=told.config.harm_alpha_each)


def _test(row: Mapping[str, Any], metric: Metric | None, *, told: Told, harmed: bool, note: str = "") -> Test:
    champion, challenger = figure(row, "champion_rate"), figure(row, "challenger_rate")
    slack, error, boundary = figure(row, "slack"), figure(row, "standard_error"), figure(row, "boundary")
    margin = figure(row, "margin") or 0.0
    absolute = figure(row, "absolute") or (metric.absolute if metric else 0.0)
    allowed = margin * abs(champion or 0.0) + absolute
    known = slack is not None and error is not None and allowed > 0
    width = boundary if boundary is not None else float(-ndtri(told.config.alpha_each))
    protected, holds = bool(row.get("protected")), bool(row.get("holds"))
    if harmed:
        state, tone = "✗ proven worse", "bad"
    elif holds:
        state, tone = "✓ within margin", "good"
    elif metric is None and not protected:
        state, tone = "· no harm proven", "plain"
    else:
        state, tone = "… not proven yet", "wait"
    said = f"{margin:.1%}" + (f" + {number(absolute)}" if absolute else "")
    direction = "" if metric is None or metric.better is Better.HIGHER else ", less is better"
    return Test(
        name=text(row, "name"),
        note=note or (f"{unit(metric)}{direction}" if metric else ""),
        champion=champion,
        challenger=challenger,
        change=(challenger - champion) / champion if champion and challenger is not None else None,
        margin=said,
        used=slack / allowed - 1 if known and slack is not None else None,
        used_low=(slack - width * error) / allowed - 1 if known and slack is not None and error is not None else None,
        used_high=(slack + width * error) / allowed - 1 if known and slack is not None and error is not None else None,
        z=figure(row, "z"),
        boundary=boundary,
        harm_p=figure(row, "harm_p"),
        state=state,
        tone=tone,
    )


def _hidden(name: str, note: str, row: Mapping[str, Any]) -> Test:
    margin = share(figure(row, "margin"))
    nothing = dict.fromkeys(("champion", "challenger", "change", "used", "used_low", "used_high", "z", "boundary"))
    return Test(
        name=name, note=note, margin=margin, harm_p=None, state="too few users to show", tone="plain", **nothing
    )


def _visible(told: Told, stated: Sequence[Mapping[str, Any]]) -> set[str]:
    """Slices whose figures may be shown: of slices by one thing and of the rest of the users, in both arms."""
    by = {each.name: each.by for each in told.config.slices}
    total = ends(_newest_part(told), "matured") or (0.0, 0.0)
    visible = {text(row, "name") for row in stated}
    for kind in {by.get(text(row, "name"), "") for row in stated}:
        own = [row for row in stated if by.get(text(row, "name"), "") == kind]
        for arm in (0, 1):
            counts = {text(row, "name"): round((ends(row, "users") or (0.0, 0.0))[arm]) for row in own}
            rest = round(total[arm]) - sum(counts.values())
            seen = shown({**counts, **({"": rest} if rest > 0 else {})}, k=told.k)
            visible -= counts.keys() - seen
    return visible


def _picture(found: Sequence[Test], *, name: str, title: str) -> Element:
    entries = [
        "Right is better. 0: no change; −1: all of the margin is used. Bars reach as far as the look's boundary: what "
        "stands right of the dashed line with its whole bar is proven. Hollow: the look did not test."
    ]
    wide, narrow = _forest(found, name, title, WIDE, "wide"), _forest(found, name, title, NARROW, "narrow")
    return node("figure", node("h3", title), wide, narrow, node("figcaption", *entries))


def _forest(found: Sequence[Test], name: str, title: str, width: int, kind: str) -> Element:
    left, height = (200 if width > 500 else 10), ROW * len(found) + 40
    deep = 0 if width > 500 else 16  # on a telephone names stand above their bars
    height += deep * len(found)
    scale = Scale(-REACH, REACH, left, width - 12)
    parts = [
        node("line", x1=f"{scale.at(x):.1f}", x2=f"{scale.at(x):.1f}", y1=4, y2=height - 30, class_=class_)
        for x, class_ in ((0.0, "zero"), (-1.0, "needed"))
    ]
    parts += [
        node("text", f"{x:+d}" if x else "0", x=f"{scale.at(x):.1f}", y=height - 16, class_="middle")
        for x in (-2, -1, 0, 1, 2)
    ]
    parts.append(node("text", "margins better →", x=width - 12, y=height - 2, class_="end"))
    parts.append(node("text", "← worse", x=f"{scale.at(-REACH):.1f}", y=height - 2))
    for place, test in enumerate(found):
        top = 6 + place * (ROW + deep)
        y = top + deep + 15
        named = f"{test.name}" + (" ◆" if "protected" in test.note else "")
        parts.append(node("text", _short(named, 32), x=4, y=top + 13, class_="strong"))
        parts.append(node("text", test.state, x=4 if not deep else width - 12, y=top + (27 if not deep else 13),
                          class_=None if not deep else "end"))  # fmt: skip
        if test.used is None or test.used_low is None or test.used_high is None:
            parts.append(node("text", "no scale: see the table", x=f"{scale.at(0) + 6:.1f}", y=y + 4))
            continue
        parts.append(node("line", x1=f"{scale.at(test.used_low):.1f}", x2=f"{scale.at(test.used_high):.1f}", y1=y, y2=y,
                          class_="whisker a1"))  # fmt: skip
        parts += [_arrow(scale, end, y) for end in (test.used_low, test.used_high) if not scale.holds(end)]
        mark = draw_mark(scale.at(test.used), y, arm=1, hollow=test.boundary is None)
        mark.append(
            node("title", f"{test.name}: {test.used:+.2f} margins, {test.used_low:+.2f} to {test.used_high:+.2f}")
        )
        parts.append(mark)
    ident = f"{name}-{kind}"
    heard = "; ".join(f"{test.name}: {test.state}" for test in found)
    return node(
        "svg",
        node("title", title, id=f"{ident}-title"),
        node("desc", heard, id=f"{ident}-told"),
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-told",
        class_=kind,
    )


def _arrow(scale: Scale, end: float, y: float) -> Element:
    """The bar goes on beyond the picture."""
    at, way = scale.at(end), 1 if end > 0 else -1
    return node("polyline", points=f"{at - 5 * way:.1f},{y - 4:.1f} {at:.1f},{y:.1f} {at - 5 * way:.1f},{y + 4:.1f}",
                class_="line whisker a1")  # fmt: skip


def _table(kind: str, found: Sequence[Test]) -> Element:
    body = [
        (
            _named(test), node("span", test.state, class_=f"state {test.tone}"),
            number(test.champion), number(test.challenger), percent(test.change), test.margin, _used(test),
            score(test.z), score(test.boundary), chance(test.harm_p)
        )
        for test in found
    ]  # fmt: skip
    head = ("name", "state", "champion", "challenger", "change", "margin", "in margins", "z", "boundary",
            "harm p")  # fmt: skip
    return table(f"{kind}: the challenger against the champion", head, body, texts=(1,))


def _named(test: Test) -> Element:
    return node("span", test.name, node("small", test.note) if test.note else None)


def _used(test: Test) -> str:
    return UNKNOWN if test.used is None else f"{test.used:+.2f}"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
