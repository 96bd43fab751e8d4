"""Every algorithm against a slow plain reference, dense against sparse, and a golden loss trace of each."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.optimizers.building import Optimizers
from model.optimizers.ftrl import Ftrl
from model.optimizers.options import OptimizerOptions
from model.optimizers.rows import as_sparse, touched_rows
from model.optimizers.rowwise_adagrad import RowwiseAdagrad

GOLDEN = Path(__file__).with_name("golden.json")
ROWS, WIDTH, STEPS, RATE = 6, 4, 7, 0.05
TABLE_ALGORITHMS = ("adamw", "sgd", "adagrad", "sparse_adam", "rowwise_adagrad", "ftrl", "rowwise_ftrl")
SPARSE_ALGORITHMS = ("sgd", "adagrad", "sparse_adam", "rowwise_adagrad", "ftrl", "rowwise_ftrl")

Plain = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From starting weights [V, D] and gradients [T, V, D], the weights after T steps, in float64, entry by entry."""


def adamw(weight: np.ndarray, gradients: np.ndarray, *, decay: float = 0.1, lazy: bool = False) -> np.ndarray:
    weight, first, second = weight.copy(), np.zeros_like(weight), np.zeros_like(weight)
    for t, gradient in enumerate(gradients, start=1):
        for at in np.ndindex(*weight.shape):
            if lazy and not gradient[at[0]].any():
                continue
            g = gradient[at]
            weight[at] *= 1 - RATE * decay
            first[at] = 0.9 * first[at] + 0.1 * g
            second[at] = 0.98 * second[at] + 0.02 * g * g
            mean, square = first[at] / (1 - 0.9**t), second[at] / (1 - 0.98**t)
            weight[at] -= RATE * mean / (math.sqrt(square) + 1e-8)
    return weight


def sparse_adam(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return adamw(weight, gradients, decay=0.0, lazy=True)


def sgd(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    weight, speed = weight.copy(), np.zeros_like(weight)
    for gradient in gradients:
        speed = 0.9 * speed + gradient
        weight -= RATE * speed
    return weight


def adagrad(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    weight, total = weight.copy(), np.zeros_like(weight)
    for gradient in gradients:
        for at in np.ndindex(*weight.shape):
            total[at] += gradient[at] ** 2
            if total[at]:
                weight[at] -= RATE * gradient[at] / (math.sqrt(total[at]) + 1e-10)
    return weight


def rowwise_adagrad(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    weight, total = weight.copy(), np.zeros(len(weight))
    for gradient in gradients:
        for row, g in enumerate(gradient):
            total[row] += sum(x * x for x in g) / len(g)
            if total[row]:
                weight[row] -= RATE * g / (math.sqrt(total[row]) + 1e-10)
    return weight


def ftrl(weight: np.ndarray, gradients: np.ndarray, *, rowwise: bool = False) -> np.ndarray:
    """Algorithm 1 with β = 1, λ1 = 0.3, λ2 = 0.2, from z = −(β/α) w."""
    beta, l1, l2 = 1.0, 0.3, 0.2
    weight, n, z = weight.copy(), np.zeros_like(weight), -beta / RATE * weight
    for gradient in gradients:
        for row, g in enumerate(gradient):
            for d in range(len(g)):
                square = sum(x * x for x in g) / len(g) if rowwise else g[d] ** 2
                if not square:
                    continue
                sigma = (math.sqrt(n[row, d] + square) - math.sqrt(n[row, d])) / RATE
                z[row, d] += g[d] - sigma * weight[row, d]
                n[row, d] += square
                if abs(z[row, d]) <= l1:
                    weight[row, d] = 0.0
                else:
                    strength = (beta + math.sqrt(n[row, d])) / RATE + l2
                    weight[row, d] = -(z[row, d] - math.copysign(l1, z[row, d])) / strength
    return weight


def rowwise_ftrl(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return ftrl(weight, gradients, rowwise=True)


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(ROWS, WIDTH)) * 0.02
    gradients = rng.normal(size=(STEPS, ROWS, WIDTH))
    gradients[rng.random((STEPS, ROWS)) < 0.4] = 0  # rows that a step leaves alone
    gradients[2, :, 1] = 0
    gradients[:, 0] = 0  # never touched
    return weight, gradients


def options_of(algorithm: str, **rest: object) -> OptimizerOptions:
    stated = {"learning_rate": RATE, "schedule": "constant", "warm_up": 0.0, "weight_decay": 0.1}
    stated |= {"ftrl_l1": 0.3, "ftrl_l2": 0.2, "embedding_optimizer": algorithm}
    return OptimizerOptions(**(stated | rest))  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [adamw, sgd, adagrad, sparse_adam, rowwise_adagrad, ftrl, rowwise_ftrl])
def test_equals_the_plain_reference(plain: Plain) -> None:
    start, gradients = problem()
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizers = Optimizers({"t": weight}, options=options_of(plain.__name__), tables=["t"])
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizers.step(0.5)
    torch.testing.assert_close(weight.detach().double(), torch.tensor(plain(start, gradients)), atol=2e-6, rtol=1e-5)


def test_first_steps_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    weight.grad = torch.tensor([[3.0, 1.0]])
    RowwiseAdagrad([weight], lr=0.5).step()
    root = math.sqrt((3**2 + 1**2) / 2)  # one divisor for the row: √5
    torch.testing.assert_close(weight, torch.tensor([[1 - 0.5 * 3 / root, 2 - 0.5 * 1 / root]]))

    weight = nn.Parameter(torch.tensor([[0.0, 0.0]]))
    weight.grad = torch.tensor([[4.0, 0.5]])
    Ftrl([weight], lr=0.5, beta=1.0, l1=1.0, l2=2.0).step()
    # z = g, as w = 0; |0.5| ≤ λ1 keeps the second at 0; the first: −(4 − 1) / ((1 + 4)/0.5 + 2)
    torch.testing.assert_close(weight, torch.tensor([[-3 / 12, 0.0]]))


def test_ftrl_without_regularisers_is_gradient_descent_with_a_rate_of_its_own() -> None:
    """McMahan, AISTATS 2011: then w ← w − α g / (β + √n), from any start."""
    start, gradients = problem()
    weight = nn.Parameter(torch.tensor(start))
    optimizer = Ftrl([weight], lr=RATE)
    plain, n = start.copy(), np.zeros_like(start)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        n += gradient**2
        plain -= RATE * gradient / (1 + np.sqrt(n))
    torch.testing.assert_close(weight.detach(), torch.tensor(plain))


def test_l1_makes_zeros() -> None:
    weight = nn.Parameter(torch.full((3, 2), 0.001))
    optimizer = Ftrl([weight], lr=0.1, l1=5.0)
    for _ in range(3):
        weight.grad = torch.full((3, 2), 0.01)
        optimizer.step()
    assert not weight.any()


@pytest.mark.parametrize("algorithm", SPARSE_ALGORITHMS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), looked_up=st.integers(1, 9))
def test_sparse_lookups_train_like_dense_ones(algorithm: str, seed: int, looked_up: int) -> None:
    """The same rows looked up in both, some twice, some with a gradient of zeros; the others keep their bits."""
    answers = []
    for sparse in (False, True):
        generator = torch.Generator().manual_seed(seed)
        table = nn.Embedding(ROWS, WIDTH, sparse=sparse)
        with torch.no_grad():
            start = table.weight.copy_(torch.randn(ROWS, WIDTH, generator=generator)).clone()
        options = options_of(algorithm, momentum=0.0, clip_norm=0.5)
        optimizers = Optimizers({"table": table.weight}, options=options, tables=["table"])
        touched = set()
        for _ in range(3):
            rows = torch.randint(ROWS, (looked_up,), generator=generator)
            factor = torch.randint(-1, 2, (looked_up, 1), generator=generator)
            touched |= set(rows[factor.squeeze(1) != 0].tolist())
            (table(rows) * factor).square().sum().backward()
            assert table.weight.grad is not None
            assert table.weight.grad.is_sparse is sparse
            optimizers.step(0.5)
            optimizers.zero_grad()
        alone = [row for row in range(ROWS) if row not in touched]
        assert torch.equal(table.weight[alone], start[alone])
        answers.append(table.weight.detach().clone())
    # equal within a rounding: the sums over equal rows and over the norm that clips are taken in another order
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["rowwise_adagrad", "ftrl", "rowwise_ftrl", "sparse_adam"])
def test_without_clipping_dense_and_sparse_are_equal_to_the_bit(algorithm: str) -> None:
    start, gradients = problem()
    weights = [nn.Parameter(torch.tensor(start, dtype=torch.float32)) for _ in range(2)]
    both = [Optimizers({"t": weight}, options=options_of(algorithm), tables=["t"]) for weight in weights]
    for gradient in gradients:
        dense = torch.tensor(gradient, dtype=torch.float32)
        weights[0].grad, weights[1].grad = dense.clone(), dense.to_sparse(1)
        for optimizers in both:
            optimizers.step(0.5)
    assert torch.equal(*weights)
    assert torch.equal(weights[0][0], torch.tensor(start[0], dtype=torch.float32))


@pytest.mark.parametrize("algorithm", TABLE_ALGORITHMS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5,)])
def test_the_smallest_tables(algorithm: str, shape: tuple[int, ...]) -> None:
    """One row, one column, and biases without columns; a step without any gradient changes nothing."""
    weight = nn.Parameter(torch.ones(shape))
    optimizers = Optimizers({"t": weight}, options=options_of(algorithm), tables=["t"])
    optimizers.step(0.5)
    assert torch.equal(weight, torch.ones(shape))
    weight.grad = torch.ones(shape)
    optimizers.step(0.5)
    assert bool((weight < 1).all())
    assert bool(weight.isfinite().all())
    weight.grad = torch.zeros(shape)
    optimizers.step(0.5)
    assert bool(weight.isfinite().all())


def test_touched_rows() -> None:
    dense = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 3.0]])
    twice = torch.sparse_coo_tensor(
        torch.tensor([[3, 1, 3, 0]]), torch.tensor([[1.0, 1], [0, 2], [0, 2], [0, 0]]), (4, 2), check_invariants=True
    )
    for gradient in (dense, twice):
        rows, values = touched_rows(gradient)
        assert isinstance(rows, Tensor)
        assert rows.tolist() == [1, 3]
        assert values.tolist() == [[0, 2], [1, 3]]
        assert torch.equal(as_sparse(gradient).to_dense(), dense)
    assert touched_rows(dense + 1)[0] == slice(None)
    assert touched_rows(torch.zeros(3, 2))[1].shape == (0, 2)


def trace(algorithm: str) -> list[float]:
    """Losses of 12 steps on a factorised softmax, with all that a step can do switched on."""
    generator = torch.Generator().manual_seed(11)
    table = nn.Embedding(9, 4)
    body = nn.Linear(4, 4)
    with torch.no_grad():
        for weight in (table.weight, body.weight, body.bias):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    optimizer = algorithm if algorithm in ("adamw", "sgd", "adagrad") else "adamw"
    options = OptimizerOptions(
        optimizer=optimizer,  # type: ignore[arg-type]
        embedding_optimizer=algorithm,  # type: ignore[arg-type]
        learning_rate=0.02,
        embedding_learning_rate=0.1,
        weight_decay=0.01,
        clip_norm=1.0,
        ema=0.9,
    )
    named = {"table.weight": table.weight, "body.weight": body.weight, "body.bias": body.bias}
    optimizers = Optimizers(named, options=options, tables=["table.weight"])
    losses = []
    for step in range(12):
        row, target = torch.randint(9, (2, 16), generator=generator)
        loss = nn.functional.cross_entropy(body(table(row)) @ table.weight.T, target)
        optimizers.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers.step(step / 12)
        losses.append(loss.item())
    with optimizers.averaged():
        losses.append(nn.functional.cross_entropy(body(table(row)) @ table.weight.T, target).item())
    return losses


@pytest.mark.parametrize("algorithm", TABLE_ALGORITHMS)
def test_golden_trace(algorithm: str) -> None:
    found = trace(algorithm)
    assert trace(algorithm) == found
    stored = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(stored | {algorithm: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert found == pytest.approx(stored[algorithm], rel=1e-5)
