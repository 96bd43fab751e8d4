from typing import Any

from tasks.tracking import _metrics


def test_metrics_are_logged_with_the_ends_of_their_intervals() -> None:
    report: dict[str, Any] = {
        "overall": {"ndcg@10": 0.2, "gini": 0.5, "rows": 7},
        "intervals": {"ndcg@10": [0.1, 0.3]},
        "by_slice": {"new_items": {"ndcg@10": 0.05, "rows": 3}},
        "by_behaviour": {},
    }
    evaluation = {"k": 10, "models": {"challenger": report}, "difference": None}
    found = _metrics(evaluation, {"seconds": 2, "steps": 5}, {"max_abs_diff": 0.0, "top10_agreement": 1.0})
    assert {name: value for name, value in found.items() if name.startswith("challenger")} == {
        "challenger/ndcg@10": 0.2,
        "challenger/gini": 0.5,
        "challenger/rows": 7.0,
        "challenger/ndcg@10/low": 0.1,
        "challenger/ndcg@10/high": 0.3,
        "challenger/ndcg@10/new_items": 0.05,
    }
