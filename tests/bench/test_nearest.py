"""The benchmark of the index, on a stream made small."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from bench.nearest import _made, run


def test_made_items_lie_among_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    centre_GD = rng.normal(size=(20, 8)) * 5
    group_V = np.arange(4_000) % 20
    known_VD = (centre_GD[group_V] + rng.normal(size=(4_000, 8))).astype(np.float32)
    made_ND = _made(known_VD, 2_000)
    assert made_ND.shape == (2_000, 8)
    nearest_N = np.argmin(((made_ND[:, None] - centre_GD) ** 2).sum(axis=2), axis=1)
    spread = (made_ND - centre_GD[nearest_N]).std()
    # neighbours are nearer than the group's spread of 1, and their mean still varies
    assert 0.5 < spread < 1.1
    assert np.bincount(nearest_N, minlength=20).min() > 50  # of 100 on average


@pytest.mark.slow
def test_a_small_catalogue_is_scored_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for period in range(15):
        clicks = [(session, int(item)) for session in range(40) for item in rng.integers(0, 60, size=5)]
        with gzip.open(tmp_path / f"period_{period}.txt.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"{session} {item}\n" for session, item in clicks)
    rows = run(tmp_path, rows=60, seconds=0.1)
    assert [row["name"].split(":")[0] for row in rows] == ["training"] + ["60 items"] * 3
    assert rows[1]["measured"] is None  # why there is no index
    assert "held-out histories; recall needs 200" in rows[1]["name"]
    assert all(row["measured"] > 0 for row in rows[2:])
