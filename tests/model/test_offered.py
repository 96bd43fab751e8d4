"""Withdrawn items: seen in histories, never recommended, and no row asks for them."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from model.evaluation import evaluate
from model.offered import Offered, offered_rows
from model.popularity import Popularity
from model.sequences import Histories, split_by_time

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_withdrawn_item_is_no_candidate_and_no_row() -> None:
    """Before the cutoff a ×3, b ×2, c ×1; then u asks for c, and v for a."""
    items = "aaabbc" + "ca"
    users = ["x1", "x2", "x3", "x1", "x2", "x1", "u", "v"]
    histories = Histories.from_table(
        pa.table(
            {
                "user": users,
                "item_id": list(items),
                "behaviour": ["view"] * len(items),
                "event_time": [NOON + timedelta(seconds=second) for second in range(len(items))],
            }
        )
    )
    split = split_by_time(histories, holdout_share=0.25)
    popularity = Popularity.of(split.train)
    plain = evaluate(popularity, split.holdout, draws=0)
    assert plain.rank_R.tolist() == [3, 1]  # u's c stands third, v's a first
    holdout = offered_rows(split.holdout, withdrawn={"a"})
    without = evaluate(Offered(popularity, withdrawn={"a"}), holdout, draws=0)
    assert without.rank_R.tolist() == [2]  # v's row is gone, and c stands behind b alone
    assert dict(without.recommended) == {"b": 1, "c": 1}
