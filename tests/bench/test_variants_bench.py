from typing import Any

import pytest

from bench import variants
from relations.errors import UsageError

MEASURED: dict[str, Any] = {
    "why": "holds", "bytes": 10_400, "top10_agreement": 1.0, "max_abs_diff": 1e-6, "ndcg": 0.1, "ndcg_loss": 0.0,
    "ms_batch_1": 0.2, "ms_batch_32": 3.0, "fp32_ms_batch_1": 0.3, "fp32_ms_batch_32": 4.0, "provider": "CPU",
}  # fmt: skip


def test_what_is_kept_has_a_bar_and_what_is_refused_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [
        {"name": "fp32", "kept": True} | MEASURED,
        {"name": "int8", "kept": True} | MEASURED | {"ndcg_loss": 0.004},
        {"name": "student", "kept": False} | MEASURED | {"ndcg_loss": 0.2, "why": "NDCG@10 loss 20.00%"},
        {"name": "pruned", "kept": False} | dict.fromkeys(MEASURED) | {"why": "no head would go"},
    ]
    monkeypatch.setattr(variants, "table", lambda data, *, block, epochs: table)
    rows = {row["name"]: row for row in variants.run()}
    assert rows["fp32: ten best shared with torch"]["bar"] == "≥ 0.99"
    assert rows["fp32: largest difference from torch"]["holds"] is True
    kept = rows["int8: kept; NDCG@10 loss"]
    assert (kept["measured"], kept["bar"], kept["holds"]) == (0.4, "≤ 0.5", True)
    refused = rows["student: refused (NDCG@10 loss 20.00%); NDCG@10 loss"]
    assert (refused["measured"], refused["holds"]) == (20.0, None)
    assert rows["int8: batch 32 on CPU, fp32 in turns 4.000"]["measured"] == 3.0
    assert rows["pruned: no head would go"]["measured"] is None


def test_another_block_is_refused() -> None:
    with pytest.raises(UsageError, match="known: softmax, hstu"):
        variants.run(preset="mamba")
