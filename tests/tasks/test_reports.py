"""The evidence page: small cells show no figures."""

import re
from pathlib import Path
from typing import Any

from tasks.reports import write_trial_report

CONFIG = {
    "trial_id": "trial-1",
    "challenger_version": 2,
    "champion_version": 1,
    "primary": {"name": "clicks"},
    "srm_alpha": 0.001,
    "crossed_limit": 0.01,
}


def look(matured: tuple[int, int], crossed: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "look": 1, "verdict": "CONTINUE", "reasons": [], "matured": matured, "lift": None, "lift_interval": None,
        "z": None, "boundary": None, "srm_p": 0.5, "srm_p_matured": 0.5, "crossed": crossed, "guardrails": [],
        "sums": {"watermark": "2026-03-01", "metrics": {"clicks": rows}},
    }  # fmt: skip


def row(day: int, arm: str, users: int) -> dict[str, Any]:
    return {"day": day, "arm": arm, "n": users, "i": 10 * users, "s": 2.0 * users}


def cells(page: str, first: str) -> list[str]:
    """The row of a table whose first cell says `first`."""
    found = re.search(rf"<tr><td>{first}</td>(.*?)</tr>", page)
    assert found is not None
    return re.findall("<td>(.*?)</td>", found[1])


def test_groups_of_few_users_show_no_figures(tmp_path: Path) -> None:
    rows = [row(1, "champion", 50), row(1, "challenger", 4), row(2, "champion", 6), row(3, "champion", 0)]
    file = tmp_path / "trial.html"
    write_trial_report(file, config=CONFIG, config_hash="c", looks=[look((2, 1), 3, rows)], k=5)
    page = file.read_text()
    table = page[page.index("Arms by day") : page.index("Checks")]
    assert [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(<td>.*?)</tr>", table)] == [
        ["1", "champion", "50", "500", "100", "0.2000"],
        ["1", "challenger", "&lt; 5", "–", "–", "–"],
        ["2", "champion", "–", "–", "–", "–"],  # else the four of the day before were the whole less the others
        ["3", "champion", "0", "0", "0", "–"],
    ]
    assert cells(page, "users seen in both arms")[0] == "&lt; 5"
    assert cells(page, "1")[0] == "&lt; 5"  # matured users of look 1
