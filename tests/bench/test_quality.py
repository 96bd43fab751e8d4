"""The quality benchmark's protocol, on logs small enough to check by hand."""

from pathlib import Path

import numpy as np
import pytest

from bench.quality import RECIPES, Recipe, run, train_and_test
from bench.quality_data import leave_one_out, read
from relations.errors import DataRejected, UsageError

LINES = "ann x y z\nbob y x\ncyd z\n\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "log.txt"
    file.write_text(text, encoding="utf-8")
    return file


def test_each_users_last_event_is_asked_for(tmp_path: Path) -> None:
    data = leave_one_out(read(write(tmp_path, LINES)))
    assert (data.users, data.items) == (3, 3)
    h, held = data.holdout.histories, data.holdout
    assert [h.items[item] for item in h.item_N[held.event_R]] == ["2", "0"]  # z of ann, x of bob; cyd has but one
    assert [list(h.items[h.item_N[h.offsets_U1[u] : v]]) for u, v in zip(held.user_R, held.visible_R, strict=True)] == [
        ["0", "1"],
        ["1"],
    ]
    assert sorted(data.train.items[data.train.item_N]) == ["0", "1", "1", "2"]


def test_choosing_recipes_never_meets_the_last_event(tmp_path: Path) -> None:
    data = leave_one_out(read(write(tmp_path, LINES)), back=2)
    h, held = data.holdout.histories, data.holdout
    assert [h.items[item] for item in h.item_N[held.event_R]] == ["1"]  # y of ann, given x
    assert len(h) == 2 + 2 + 1  # ann's z is nowhere; bob and cyd are trained on


def test_a_line_an_event_is_read_as_well(tmp_path: Path) -> None:
    whole, single = read(write(tmp_path, "1 a b\n2 b\n")), read(write(tmp_path, "1 a\n1 b\n2 b\n"))
    assert np.array_equal(whole.item_N, single.item_N)
    assert np.array_equal(whole.user_N, single.user_N)


def test_broken_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"log\.txt, line 2: 'bob' names no item"):
        read(write(tmp_path, "ann x\nbob\n"))
    with pytest.raises(DataRejected, match="holds no line"):
        read(write(tmp_path, "\n"))
    with pytest.raises(UsageError, match="is missing"):
        read(tmp_path / "nothing.txt")
    with pytest.raises(DataRejected, match="nothing to test on"):
        leave_one_out(read(write(tmp_path, "ann x\n")))
    with pytest.raises(UsageError, match="known: base, quick"):
        run(data=tmp_path, preset="huge")


def test_a_walk_is_learnt_and_told_with_its_price(tmp_path: Path) -> None:
    """Sixty users walk a ring of ten items: the last step is certain."""
    lines = "\n".join(f"u{u} " + " ".join(f"i{(u + n) % 10}" for n in range(9)) for u in range(60))
    recipe = Recipe(
        network={"width": 16, "blocks": 1, "max_history": 12, "dropout": 0.0, "relative_times": False},
        training={"epochs": 15, "learning_rate": 2e-2, "batch_tokens": 128},
    )
    found = train_and_test(write(tmp_path, lines), recipe, seed=0)
    assert found["final"]["ndcg@10"] > 0.95
    assert found["rows"] == 60
    assert [point["epoch"] for point in found["curve"]] == [3, 6, 9, 12, 15]
    assert found["targets"] == 15 * 60 * 8  # seven steps of eight events, and the first one
    assert set(RECIPES) == {"base", "quick"}
