"""The arms day by day, from the sums that decided."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from gate.estimator import SUMS, estimate
from gate.metrics import PER_IMPRESSION, Metric
from gate.tails import told_largest
from relations.cells import shown
from tasks.trial_page.chart import Chart, arm_swatch, both_widths, key, thinned
from tasks.trial_page.markup import folded, node, soft, table
from tasks.trial_page.reading import Ends, Told, figure, mapping
from tasks.trial_page.wording import UNKNOWN, count, number

Z95 = 1.959964
"""Of a normal distribution: 95 % lie within so many standard errors."""


@dataclass(frozen=True)
class ArmDay:
    """Users who met `arm` first on `day`. `rate` and its 95 % interval are None where too few users show figures."""

    day: str
    arm: str
    users: int
    shown: bool
    denominators: float
    outcomes: float
    rate: float | None
    interval: Ends | None


def days_part(told: Told) -> list[Element] | None:
    sums = mapping(told.compared[-1], "sums", "metrics") if told.compared else {}
    metrics = [metric for metric in (told.config.primary, *told.config.guardrails) if sums.get(metric.name)]
    if not metrics:
        return None
    found = {metric.name: arm_days(sums[metric.name], k=told.k) for metric in metrics}
    first, *others = metrics
    arms = told.config.arms
    entries = [(arm_swatch(place), told.named(arm)) for place, arm in enumerate(arms)]
    parts: list[Element] = [
        soft(
            "By the day on which a user came into the trial. Bars are 95 % intervals of a day alone; the decision is "
            "made on all days together."
        ),
        key(entries),
        _picture(first, found[first.name], arms=arms, place=0),
    ]
    dominance = mapping(told.compared[-1], "sums", "dominance")
    shares = [share for arm in dominance if (share := figure(dominance, arm)) is not None]
    if shares:
        parts.append(soft(f"Of an arm's whole {first.name}, {told_largest(max(shares))}."))
    if others:
        small = [_picture(m, found[m.name], arms=arms, place=n) for n, m in enumerate(others, start=1)]
        parts.append(node("div", *small, class_="two"))
    parts += [
        folded(f"{metric.name} by day in figures", _table(told, metric, found[metric.name])) for metric in metrics
    ]
    return parts


def arm_days(rows: Sequence[Mapping[str, Any]], *, k: int) -> list[ArmDay]:
    """Rates by day and arm with delta-method intervals (Deng, Knoblich & Lu, KDD 2018), from a metric's rows of sums.

    Figures of fewer than `k` users are left out, and those of one more group where they could be told from the total.
    """
    seen = shown({f"{row['day']} {row['arm']}": int(row["n"]) for row in rows}, k=k)
    sums_DM = np.array([[float(row.get(name, math.nan)) for name in SUMS] for row in rows]).reshape(-1, len(SUMS))
    variance_D = estimate(sums_DM, sums_DM, adjust=False).champion_variance
    found = []
    for row, variance in zip(rows, variance_D.tolist(), strict=True):
        visible = f"{row['day']} {row['arm']}" in seen
        rate = float(row["s"] / row["i"]) if visible and row["i"] else None
        half = Z95 * math.sqrt(variance) if math.isfinite(variance) else None
        found.append(
            ArmDay(
                day=str(row["day"]),
                arm=str(row["arm"]),
                users=int(row["n"]),
                shown=visible,
                denominators=float(row["i"]),
                outcomes=float(row["s"]),
                rate=rate,
                interval=None if rate is None or half is None else (rate - half, rate + half),
            )
        )
    return found


def _picture(metric: Metric, found: Sequence[ArmDay], *, arms: Sequence[str], place: int) -> Element:
    title = f"{metric.name}: {unit(metric)}"
    drawn = [each for each in found if each.rate is not None]
    if not drawn:
        return node("figure", node("h3", title), soft("Too few users a day to show."))
    days = {each.day: _ordinal(each.day, number) for number, each in enumerate(found)}
    begin = min(days.values())
    rates = [each.rate for each in drawn if each.rate is not None]
    ends = [end for each in drawn if each.interval for end in each.interval]
    halves = [(each.interval[1] - each.interval[0]) / 2 for each in drawn if each.interval]
    # A day with few users has an interval that would make the others' points one line.
    most = max(3 * (max(rates) - min(rates)), 2 * float(np.median(halves)) if halves else 0.0) or max(rates)
    middle = float(np.median(rates))
    low = max(min([*rates, *ends]), middle - most) if ends else min(rates)
    high = min(max([*rates, *ends]), middle + most) if ends else max(rates)
    last = max(days.values()) - begin
    told = f"{last + 1} days. " + "; ".join(_newest(arm, drawn) for arm in arms if _newest(arm, drawn))

    def on(x: float) -> str:
        """Month and day where a day begins."""
        return date.fromordinal(begin + round(x)).strftime("%m-%d") if abs(x - round(x)) < 1e-6 and begin > 0 else ""

    def draw(width: int, kind: str) -> Chart:
        chart = Chart(
            f"days-{place}", title, told, (-0.4, max(1, last) + 0.4), (low, high), on, number,
            x_label="day of the first exposure, UTC", x_least=1, width=width, height=240 if place == 0 else 200,
            left=58, kind=kind,
        )  # fmt: skip
        for number_, arm in enumerate(arms):
            own = [each for each in drawn if each.arm == arm]
            shift = (number_ - (len(arms) - 1) / 2) * 0.12  # whiskers of one day stand side by side
            points = [(days[each.day] - begin + shift, each.rate) for each in own if each.rate is not None]
            for (x, _), each in zip(points, own, strict=True):
                if each.interval and len(own) <= 60:
                    chart.whisker(x, *each.interval, arm=number_)
            chart.line(points, class_=f"line a{number_}")
            for (x, y), each in thinned(list(zip(points, own, strict=True)), 60):
                chart.mark(x, y, arm=number_, told=f"{each.day}, {arm}: {number(y)} ({count(each.users)} users)")
        return chart

    return both_widths(draw, title=title)


def unit(metric: Metric) -> str:
    """What one unit of the metric's rate is."""
    outcome = {"latency": "milliseconds", "failure": "failed answers", "distinct": "different items",
               "tail": "items off the head", "return": "users who return", "weighted": "worth"}  # fmt: skip
    what = outcome.get(metric.outcome) or (f"{metric.outcome} value" if metric.value == "sum" else f"{metric.outcome}s")
    per = "impression" if metric.per == PER_IMPRESSION else metric.per
    most = "" if metric.cap is None else f", at most {number(metric.cap)} a user"
    return f"{what} per {per}{most}"


def _table(told: Told, metric: Metric, found: Sequence[ArmDay]) -> Element:
    per = "users" if metric.per == "user" else "impressions" if metric.per == PER_IMPRESSION else f"{metric.per}s"
    body = [
        (
            each.day,
            told.named(each.arm),
            told.users(each.users) if each.shown or each.users < told.k else UNKNOWN,
            count(each.denominators) if each.shown else UNKNOWN,
            number(each.outcomes, digits=6) if each.shown else UNKNOWN,
            number(each.rate) if each.shown else UNKNOWN,
            f"{number(each.interval[0])} to {number(each.interval[1])}" if each.interval else UNKNOWN,
        )
        for each in found
    ]
    head = ("day", "arm", "users", f"{per} (N)", "outcomes (S)", "rate S/N", "95 % interval")
    return table(f"{metric.name}: {unit(metric)}, by the day of a user's first exposure", head, body, texts=(1,))


def _newest(arm: str, drawn: Sequence[ArmDay]) -> str:
    own = [each for each in drawn if each.arm == arm]
    return f"{arm} {number(own[-1].rate)} on {own[-1].day}" if own else ""


def _ordinal(day: str, place: int) -> int:
    try:
        return date.fromisoformat(day[:10]).toordinal()
    except ValueError:
        return place
