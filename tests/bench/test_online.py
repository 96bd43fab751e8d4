"""The benchmark of online learning, on a stream made small."""

from pathlib import Path

import numpy as np

from bench.online import run

DAY = 86_400


def test_every_way_answers_the_same_events(tmp_path: Path) -> None:
    """26 weeks of five users a week who walk ten items; two days after the base are lived."""
    rng = np.random.default_rng(0)
    lines = []
    for week in range(26):
        for user in range(5):
            start = int(rng.integers(0, 10))
            for place in range(6):
                when = week * 7 * DAY + user * 7 * 3_600 + place * 60
                lines.append(f"{week * 5 + user}\t{(start + place) % 10}\t4\t{when}")
    (tmp_path / "u.data").write_text("\n".join(lines) + "\n")
    rows = run(data=tmp_path, days=9, epochs=1)
    named = {row["name"]: row for row in rows}
    figures = [row["measured"] for name, row in named.items() if name.endswith(": NDCG@10")]
    assert len(figures) == 8
    assert all(0 <= figure <= 1 for figure in figures)
    assert 0 < named["online, FTRL: changed rows"]["measured"] <= 10
    bars = [row for row in rows if row["bar"] is not None]
    assert [row["holds"] for row in bars] == [bars[0]["measured"] >= 0]
