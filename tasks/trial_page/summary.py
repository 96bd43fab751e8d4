"""A look in the words of Markdown, for the Prefect UI."""

import json
from collections.abc import Mapping
from typing import Any

from tasks.trial_page.reading import comparison, ends, figure, leading, mapping, matured, rows, text, texts
from tasks.trial_page.wording import SIGNS, UNKNOWN, chance, count, interval, number, percent, score


def summary_markdown(evidence: Mapping[str, Any]) -> str:
    """A look of any stage: verdict, reasons, the figures behind them, who waits for what. Each key may be missing."""
    part = comparison(evidence, leading(evidence))
    verdict = text(evidence, "verdict") or text(evidence, "decision")
    trial, look = plain_markdown(text(evidence, "trial_id")), plain_markdown(text(evidence, "look"))
    found = [("stage", text(evidence, "stage") or "compare"), ("state", text(evidence, "state"))]
    if part:
        span = interval(ends(part, "lift_interval"))
        lift = figure(part, "lift")
        found += [
            ("lift", "not estimated" if lift is None else f"{percent(lift)} {span}"),
            ("matured users", count(matured(part))),
            (
                "sample ratio p",
                f"{chance(figure(part, 'srm_p'))} exposed, {chance(figure(part, 'srm_p_matured'))} matured",
            ),
        ]
        for kind, key in (("guardrail", "guardrails"), ("slice", "slices")):
            for row in rows(part, key):
                held = "holds" if row.get("holds") else "not proven"
                found.append((f"{kind} {text(row, 'name')}", f"{held}, z = {score(figure(row, 'z'))}"))
    for arm, served in mapping(evidence, "served").items():
        if isinstance(served, Mapping):
            slow = figure(served, "p99_ms")
            failed = f"{count(figure(served, 'failures'))} of {count(figure(served, 'requests'))} failed"
            found.append((f"answers, {arm}", failed + ("" if slow is None else f", p99 {slow:.0f} ms")))
    for arm, credit in mapping(evidence, "credit").items():
        if isinstance(credit, Mapping):
            signs = f"{count(figure(credit, 'wins'))} users won, {count(figure(credit, 'losses'))} lost"
            found.append((f"interleaving, {arm}", f"{signs}, e of winning {number(figure(credit, 'e_win'), digits=3)}"))
    found.append(("data versions", json.dumps(mapping(evidence, "data_versions"), default=str)))
    found.append(("evidence", text(evidence, "evidence_sha256") or UNKNOWN))
    lines = [
        f"# {trial}, look {look}: {SIGNS.get(verdict, '·')} {plain_markdown(verdict)}",
        "",
        *(f"- {plain_markdown(reason)}" for reason in texts(evidence, "reasons")),
        "",
    ]
    outlook = texts(evidence, "outlook")
    if outlook:
        lines += ["What would change the decision:", "", *(f"- {plain_markdown(sentence)}" for sentence in outlook), ""]
    if text(evidence, "state") == "AWAIT_APPROVAL":
        trial = text(evidence, "trial_id")
        lines += [f"Waits for a person: `ratchet approve {trial} --as NAME --reason TEXT`, or `ratchet reject …`", ""]
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {plain_markdown(name)} | {plain_markdown(said)} |" for name, said in found if said),
    ]
    return "\n".join(lines) + "\n"


def plain_markdown(said: str) -> str:
    """In Markdown, nobody's name can break a table, or become markup or a link."""
    marked = "".join(f"\\{each}" if each in "\\`*_[]|~#" else each for each in said)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", " ").replace("\n", " ")
