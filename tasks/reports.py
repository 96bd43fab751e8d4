"""The evidence page of a trial: one file, no requests to anywhere, the verdict first."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relations.cells import shown, suppressed

STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--soft:#666;--line:#ddd;--page:#fff;--accent:#0b5fa5;--warn:#b23b00}
@media(prefers-color-scheme:dark){:root{--ink:#eee;--soft:#aaa;--line:#444;--page:#161616;--accent:#6db3ee;--warn:#ff9d66}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.verdict{border:2px solid var(--accent);padding:1rem;border-radius:.5rem}
.verdict.no{border-color:var(--warn)}.verdict strong{font-size:1.6rem}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right}td:first-child,th:first-child{text-align:left}
.soft{color:var(--soft)}code{font-size:.85em;overflow-wrap:anywhere}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
"""


def write_trial_report(
    file: Path, *, config: Mapping[str, Any], config_hash: str, looks: Sequence[Mapping[str, Any]], k: int
) -> None:
    """`looks`: the evidence of each look so far, oldest first. Groups of fewer than `k` users show no figures."""
    newest = looks[-1]
    good = newest["verdict"] == "PROMOTE"
    title = f"{config['trial_id']}: v{config['challenger_version']} against v{config['champion_version']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_text(title)}</title><style>{STYLE}</style><h1>{_text(title)}</h1>",
        f"<p class=soft>look {newest['look']} · data up to {_text(newest['sums']['watermark'])}</p>",
        f"<div class='verdict{'' if good else ' no'}'><strong>{_text(newest['verdict'])}</strong><ul>",
        *(f"<li>{_text(reason)}</li>" for reason in newest["reasons"]),
        "</ul></div>",
        f"<h2>Effect on {_text(config['primary']['name'])} per impression</h2>",
        _effect_picture(looks),
        _table(
            ("look", "matured", "lift", "interval", "z", "boundary", "verdict"),
            [
                (
                    look["look"],
                    _users(sum(look["matured"]), k),
                    _percent(look["lift"]),
                    _interval(look["lift_interval"]),
                    _number(look["z"]),
                    _number(look["boundary"]),
                    look["verdict"],
                )
                for look in looks
            ],
        ),
        "<p class=soft>Intervals are repeated confidence intervals: valid at every look, however often one looks.</p>",
        "<h2>Arms by day</h2>",
        _table(
            ("day", "arm", "users", "impressions", "outcomes", "rate"),
            _arm_days(newest["sums"]["metrics"][config["primary"]["name"]], k),
        ),
        "<h2>Checks</h2>",
        _table(
            ("check", "value", "limit"),
            [
                ("sample ratio, exposed users: p", _number(newest["srm_p"], 4), f"≥ {config['srm_alpha']}"),
                ("sample ratio, matured users: p", _number(newest["srm_p_matured"], 4), f"≥ {config['srm_alpha']}"),
                ("users seen in both arms", _users(newest["crossed"], k), f"≤ {config['crossed_limit']:.0%}"),
                *((f"guardrail {g['name']}", _number(g.get("z")), "non-inferior") for g in newest["guardrails"]),
            ],
        ),
        "<h2>What was promised before the start</h2>",
        _table(("setting", "value"), [(key, value) for key, value in config.items()]),
        f"<p class=soft>configuration <code>{_text(config_hash)}</code></p>",
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    temporary.write_text("\n".join(parts), encoding="utf-8")
    temporary.replace(file)


def _arm_days(rows: Sequence[Mapping[str, Any]], k: int) -> list[tuple[Any, ...]]:
    seen = shown({f"{row['day']} {row['arm']}": int(row["n"]) for row in rows}, k=k)
    return [
        (row["day"], row["arm"], int(row["n"]), int(row["i"]), f"{row['s']:.0f}", _rate(row))
        if f"{row['day']} {row['arm']}" in seen
        else (row["day"], row["arm"], f"< {k}" if row["n"] < k else "–", "–", "–", "–")
        for row in rows
    ]


def _effect_picture(looks: Sequence[Mapping[str, Any]]) -> str:
    """Lift with its interval over matured users, as SVG: zero is the line to stay above."""
    points = [(sum(look["matured"]), look["lift"], look["lift_interval"]) for look in looks]
    points = [
        (n, lift, interval) for n, lift, interval in points if lift is not None and interval and None not in interval
    ]
    if not points:
        return "<p class=soft>No look could estimate the effect yet.</p>"
    width, height, left, top = 720, 240, 56, 12
    most = max(max(abs(lift) * 2, 0.02) for _, lift, _ in points)
    high = float(min(max(*(interval[1] for _, _, interval in points), 0.02), most))
    low = float(max(min(*(interval[0] for _, _, interval in points), -0.02), -most))
    last = float(max(n for n, _, _ in points))

    def x(n: float) -> float:
        return left + (width - left - 16) * n / last

    def y(value: float) -> float:
        return top + (height - top - 30) * (high - min(max(value, low), high)) / (high - low)

    marks = "".join(
        f"<line x1={x(n):.1f} x2={x(n):.1f} y1={y(i[0]):.1f} y2={y(i[1]):.1f} stroke='var(--accent)' stroke-width=2 />"
        f"<circle cx={x(n):.1f} cy={y(lift):.1f} r=4 fill='var(--accent)'>"
        f"<title>{n} users: {_percent(lift)} {_interval(i)}</title></circle>"
        for n, lift, i in points
    )
    grid = "".join(
        f"<text x=4 y={y(value) + 4:.1f}>{value:+.1%}</text>"
        f"<line x1={left} x2={width} y1={y(value):.1f} y2={y(value):.1f} stroke='var(--line)' />"
        for value in (low, high)
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='lift and interval over matured users'>{grid}"
        f"<line x1={left} x2={width} y1={y(0):.1f} y2={y(0):.1f} stroke='var(--ink)' stroke-dasharray='4 3' />"
        f"<text x=4 y={y(0) + 4:.1f}>0</text>{marks}"
        f"<text x={width - 16} y={height - 8} text-anchor=end>{last:,.0f} matured users</text></svg>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th scope=col>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _users(count: int, k: int) -> int | str:
    return suppressed(count, users=count, k=k)


def _rate(row: Mapping[str, Any]) -> str:
    return _number(row["s"] / row["i"] if row["i"] else None, 4)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"


def _interval(interval: Sequence[float | None] | None) -> str:
    if not interval or None in interval:
        return "–"
    low, high = interval
    return f"[{_percent(low)}, {_percent(high)}]"
