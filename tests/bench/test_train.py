"""The benchmark of training: what it counts, on logs small enough to count by hand."""

import ast
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.train import take_turns, turn_rows
from bench.train_data import drawn, movielens, read_histories
from bench.train_machine import Gemm, measure_gemm, model_flops
from bench.train_peer_home import RECTOOLS, SCRIPT, peer_python
from bench.train_processes import peer_work
from bench.train_work import Cost, Meter, Work, _Enough, measure
from relations.errors import DataRejected, DependencyFailed, UsageError


def cost(*, targets: int = 100, cpu_s: float = 1.0) -> Cost:
    return Cost(
        targets=targets, tokens=100, pairs=500, steps=1, items=50, cpu_s=cpu_s, wall_s=1.0, loss=1.0, peak_mb=700.0
    )


def test_flops_are_those_of_the_products() -> None:
    work = Work(data="", width=8, blocks=2, feed=4)
    # layers 100 · 2·64·(4 + 8) · 2 = 307,200; attention 500 · 4·8 · 2 = 32,000; logits 100 · 2·8 · 50 = 80,000
    assert model_flops(work, cost()) == 3 * (307_200 + 32_000 + 80_000)
    few = Work(data="", width=8, blocks=2, feed=4, loss="sampled", negatives=9)
    assert model_flops(few, cost()) == 3 * (307_200 + 32_000 + 100 * 2 * 8 * 10)
    hstu = Work(data="", width=8, blocks=2, block="hstu")
    assert model_flops(hstu, cost()) == 3 * (100 * 2 * 64 * 5 * 2 + 32_000 + 80_000)


def test_every_item_is_drawn_and_users_have_their_lengths(tmp_path: Path) -> None:
    log = drawn(items=30, lengths=np.array([20, 5, 10]))
    assert np.bincount(log.user_N).tolist() == [20, 5, 10]
    assert set(log.item_N.tolist()) == set(range(30))
    histories = read_histories(log.write(tmp_path / "log.npz"))
    assert histories.offsets_U1.tolist() == [0, 20, 25, 35]
    assert [int(item) for item in histories.items[histories.item_N]] == log.item_N.tolist()
    with pytest.raises(UsageError, match="no room for 36 items"):
        drawn(items=36, lengths=np.array([20, 5, 10]))


def test_rare_items_are_dropped_and_users_stand_in_their_order(tmp_path: Path) -> None:
    # item 7 has five ratings, item 8 one; user 2's positions are given backwards
    rows = {"user_id": [2, 2, 1, 3, 4, 5], "item_id": [7, 8, 7, 7, 7, 7], "pos": [1, 0, 0, 0, 0, 0]}
    pq.write_table(pa.table({**rows, "rating": [5] * 6}), tmp_path / "ratings_ordered.parquet")
    log = movielens(tmp_path)
    assert (log.user_N.tolist(), log.item_N.tolist()) == ([1, 2, 3, 4, 5], [7] * 5)


def test_a_folder_without_ratings_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ratings_ordered\.parquet is missing"):
        movielens(tmp_path)
    pq.write_table(
        pa.table({"user_id": [1], "item_id": [7], "pos": [0]}),
        tmp_path / "ratings_ordered.parquet",
    )
    with pytest.raises(DataRejected, match="no item has 5 ratings"):
        movielens(tmp_path)


def test_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 4.0, 6.0])  # made, then after each step
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    meter = Meter(warm=2.0, seconds=2.5)
    windows = np.array([3, 4])
    for _ in range(3):
        meter.saw(targets=5, length_B=windows)
        meter.stepped(1.0)
    assert (meter.targets, meter.steps, meter.cpu_s) == (5, 1, 1.0)  # the step from 3.0 to 4.0
    meter.saw(targets=5, length_B=windows)
    with pytest.raises(_Enough):
        meter.stepped(0.5)
    assert (meter.targets, meter.tokens, meter.pairs, meter.cpu_s) == (10, 14, 2 * (6 + 10), 3.0)


@pytest.mark.parametrize(("loss", "precision"), [("full", "float32"), ("sampled", "bfloat16")])
def test_a_training_is_counted_and_ended(tmp_path: Path, loss: str, precision: str) -> None:
    path = drawn(items=20, lengths=np.full(40, 9)).write(tmp_path / "log.npz")
    work = Work(
        data=str(path), loss=loss, precision=precision, negatives=4, width=8, length=8, batch_tokens=64,
        warm=0.0, seconds=0.05,
    )  # fmt: skip
    found = measure(work)
    assert found.steps > 0
    assert found.items == 20
    assert 0 < found.targets <= found.tokens + found.steps * 40  # first events have no position of their own
    assert found.pairs > found.tokens  # windows are longer than one event
    assert found.cpu_s >= 0.05
    assert found.peak_mb > 50
    assert np.isfinite(found.loss)


def test_turns_alternate_and_ratios_are_within_a_turn() -> None:
    said: list[str] = []
    speeds = iter([400, 200, 800, 400])

    def ours(work: Work) -> Cost:
        said.append(work.precision)
        return cost(targets=next(speeds))

    rates = iter([50.0, 80.0])

    def theirs(work: Work) -> float:
        said.append("peer")
        return next(rates)

    work = Work(data="", width=8)
    turns = take_turns(work, turns=2, ours=ours, theirs=theirs)
    assert said == ["bfloat16", "float32", "peer"] * 2
    gemm = Gemm({"a": 0.001, "b": 0.002}, {"a": 1.0}, {"a": 0.004})
    rows = {row["name"]: row for row in turn_rows(work, turns, gemm)}
    ratio = rows["full softmax: ours in bfloat16 over RecTools'"]
    assert (ratio["measured"], ratio["holds"]) == (9.0, True)  # the median of 400/50 and 800/80
    assert ratio["unit"] == "× (8.00 to 10.00 over 2 turns)"
    slow = rows["full softmax: ours in float32 over RecTools'"]
    assert (slow["measured"], slow["holds"]) == (4.5, False)  # of 200/50 and 400/80
    assert rows["full softmax, bfloat16"]["measured"] == 600
    share = rows["full softmax, float32: model FLOPs over the float32 product's rate"]
    # 3·(307,200 + 32,000 + targets · 2·8 · 50) at 200 and 400 targets: 1,497,600 and 1,977,600; 2 MFLOP/s is 100 %
    assert share["measured"] == round(100 * (1_497_600 + 1_977_600) / 2 / 2e6, 1)


def test_without_the_peer_there_is_no_ratio() -> None:
    turns = take_turns(Work(data=""), turns=1, ours=lambda work: cost(), theirs=None)
    names = [row["name"] for row in turn_rows(Work(data=""), turns, Gemm({"a": 1.0}, {"a": 1.0}, {"a": 1.0}))]
    assert names
    assert not any("RecTools" in name for name in names)


def test_the_peer_gets_as_many_positions_a_batch() -> None:
    asked = peer_work(Work(data="log.npz", loss="sampled", batch_tokens=3_200, length=200))
    assert (asked["users"], asked["loss"], asked["width"]) == (16, "sampled_softmax", 128)


def test_the_peer_imports_nothing_of_ours() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            imported.add(node.module.split(".")[0])
    assert not imported & {"bench", "model", "relations", "stores", "gate", "tasks"}


def test_the_peers_environment_is_made_once_and_a_failure_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def runs(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        python = tmp_path / "peer" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(subprocess, "run", runs)
    python = peer_python("2.13.0", home=tmp_path / "peer")
    assert python.exists()
    assert asked[1][-2:] == [RECTOOLS, "torch==2.13.0"]
    assert peer_python("2.13.0", home=tmp_path / "peer") == python
    assert len(asked) == 2
    peer_python("2.14.0", home=tmp_path / "peer")  # another torch: made anew
    assert len(asked) == 4

    def breaks(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, "", "notice\nno such version\n")

    monkeypatch.setattr(subprocess, "run", breaks)
    with pytest.raises(DependencyFailed, match=r"could not be made \(no such version\)"):
        peer_python("0.1", home=tmp_path / "other")


def test_products_are_measured_and_torch_is_left_as_it_was() -> None:
    import torch

    before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
    gemm = measure_gemm(seconds=0.001)
    assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before
    assert gemm.float32 == max(gemm.plain.values()) > 0
