from typing import Any

from tasks.tracking import _metrics, variant_metrics


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


def test_variants_are_logged_as_far_as_they_were_measured() -> None:
    rows = [
        {"name": "int8", "kept": True, "why": "holds", "bytes": 10, "ndcg_loss": 0.001, "ms_batch_1": 0.5},
        {"name": "student", "kept": False, "why": "slow", "bytes": None, "ndcg_loss": None, "ms_batch_1": None},
    ]
    assert variant_metrics(rows) == {
        "variants/int8/kept": 1.0,
        "variants/int8/bytes": 10.0,
        "variants/int8/ndcg_loss": 0.001,
        "variants/int8/ms_batch_1": 0.5,
        "variants/student/kept": 0.0,
    }
