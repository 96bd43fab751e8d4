"""Whether the comparison was fair: the split of users, bots and late outcomes, how answers came, parity."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from gate.trial import CHAMPION
from tasks.trial_page.chart import Chart, arm_swatch, both_widths, key, thinned
from tasks.trial_page.markup import node, soft, table
from tasks.trial_page.reading import COMPARE, Evidence, Told, comparison, ends, figure, leading, mapping, stage_of, text
from tasks.trial_page.wording import UNKNOWN, chance, count, number, share

P_VALUES = (("srm_p", "exposed users"), ("srm_p_matured", "matured users"), ("bots_p", "users with bot requests"))
FLOOR = 1e-6
"""Smaller p-values are drawn here."""


def split_part(told: Told) -> list[Element] | None:
    """Counts of each arm against the declared split, and the always-valid p over the looks."""
    compared = told.compared
    if not compared:
        return None
    newest = compared[-1]
    exposed, matured = _by_arm(told, newest, "exposed"), _by_arm(told, newest, "matured")
    bots, late = _by_arm(told, newest, "bots"), _by_arm(told, newest, "late")
    total = sum(exposed.values())
    body = [
        (
            told.named(arm), told.users(exposed.get(arm)),
            share(exposed[arm] / total if total and arm in exposed else None), share(declared),
            told.users(matured.get(arm)), told.users(bots.get(arm)), told.users(late.get(arm)),
        )
        for arm, declared in zip(told.config.arms, told.config.shares, strict=True)
    ]  # fmt: skip
    head = ("arm", "exposed", "share", "declared", "matured", "with bot requests", "late outcomes")
    alpha = told.config.srm_alpha
    broken = [words for name, words in P_VALUES if (p := figure(newest, name)) is not None and p < alpha]
    state, tone = (f"✗ split broken: {', '.join(broken)}", "bad") if broken else ("✓ split as declared", "good")
    crossed = figure(newest, "crossed")
    parts = [
        node("p", node("span", state, class_=f"state {tone}"), _p_words(newest, alpha)),
        table("Users by arm", head, body),
        soft(
            f"Users seen in two arms: {told.users(crossed)}, at most {share(told.config.crossed_limit)} may be. "
            f"Bot rules, fixed before exposure and blind to the arm: {', '.join(told.config.bot_rules) or 'none'}. "
            "Late outcomes came after their user's window; they are counted here and in no estimate."
        ),
    ]
    picture = _p_picture(told)
    return parts if picture is None else [*parts, picture]


def served_part(told: Told) -> list[Element] | None:
    """How each arm's answers came; None where no look knows."""
    served = mapping(told.newest, "served")
    if not served or stage_of(told.newest) != COMPARE:  # earlier stages tell it themselves
        return None
    arms = [*(arm for arm in told.config.arms if arm in served), *sorted(served.keys() - set(told.config.arms))]
    return [served_table(told, served, arms, caption="Answers by arm, bots left out")]


def served_table(told: Told, served: Evidence, arms: Sequence[str], *, caption: str) -> Element:
    body = []
    for arm in arms:
        own = mapping(served, arm)
        requests, failures = figure(own, "requests"), figure(own, "failures")
        failing = failures / requests if requests and failures is not None else None
        body.append(
            (
                told.named(arm), count(requests), count(failures), share(failing, digits=2),
                number(figure(own, "p50_ms")), number(figure(own, "p99_ms")),
            )
        )  # fmt: skip
    return table(caption, ("arm", "requests", "failed", "share failed", "p50 ms", "p99 ms"), body)


def parity_part(told: Told) -> list[Element] | None:
    parity = mapping(told.newest, "parity")
    if not parity:
        return None
    rows = [
        ("largest difference of a score", number(figure(parity, "max_abs_diff"))),
        ("agreement of the ten best", share(figure(parity, "top10_agreement"), digits=2)),
        ("measured with", text(parity, "provider") or UNKNOWN),
    ]
    return [
        soft("The exported graph that serves, against the network that was trained."),
        table("Parity of the challenger's bundle", ("what", "value"), rows, texts=(1,)),
    ]


def _by_arm(told: Told, look: Evidence, name: str) -> dict[str, float]:
    """Counts by arm: from the sums, which have every arm, else from the comparisons, which have a pair each."""
    whole = mapping(look, "sums", name)
    found = {arm: amount for arm in told.config.arms if (amount := figure(whole, arm)) is not None}
    for challenger in told.config.arms[1:]:
        both = ends(comparison(look, challenger), name)
        if both is not None:
            found.setdefault(CHAMPION, both[0])
            found.setdefault(challenger, both[1])
    return found


def _p_words(look: Evidence, alpha: float) -> str:
    known = [f"{words} p = {chance(figure(look, name))}" for name, words in P_VALUES if look.get(name) is not None]
    return f": {', '.join(known)}; below {alpha:g} nothing is promoted." if known else ""


def _p_picture(told: Told) -> Element | None:
    looks = [(number_, comparison(look, leading(look))) for number_, look in enumerate(told.compared, start=1)]
    series = {
        words: [(float(n), max(p, FLOOR)) for n, part in looks if (p := figure(part, name)) is not None]
        for name, words in P_VALUES
    }
    series = {words: points for words, points in series.items() if points}
    if len(looks) < 2 or not series:
        return None
    alpha = told.config.srm_alpha
    low = math.log10(min(alpha / 10, *(p for points in series.values() for _, p in points)))
    newest = "; ".join(f"{words}: {chance(points[-1][1])}" for words, points in series.items())

    def draw(width: int, kind: str) -> Chart:
        chart = Chart(
            "split", "Sample ratio: p over the looks", newest, (1, len(looks)), (low, 0.0), count, _power,
            x_label="look", x_least=1, width=width, height=170, kind=kind,
        )  # fmt: skip
        chart.rule(math.log10(alpha), class_="needed", label="nothing is promoted below")
        for place, (words, points) in enumerate(series.items(), start=1):
            drawn = thinned(points)
            chart.line([(x, math.log10(p)) for x, p in drawn], class_=f"line a{place}")
            for x, p in drawn:
                chart.mark(x, math.log10(p), arm=place, told=f"look {x:.0f}, {words}: p = {chance(p)}")
        return chart

    entries = [(arm_swatch(place), words) for place, words in enumerate(series, start=1)]
    return both_widths(draw, title="Sample ratio: always-valid p over the looks", below=[key(entries)])


def _power(exponent: float) -> str:
    return chance(10**exponent)
