"""Options, schedules, clipping, accumulation and the state that a stopped training goes on from."""

import contextlib
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from model.optimizers.building import Optimizers
from model.optimizers.growing import grow_rows
from model.optimizers.options import OptimizerOptions, Schedule
from model.optimizers.schedules import factor
from model.optimizers.tables import sparse_pays
from relations.errors import UsageError

SHARE = st.floats(0, 1, allow_nan=False)
TABLE_ALGORITHMS = ("same", "sgd", "adagrad", "sparse_adam", "rowwise_adagrad", "ftrl", "rowwise_ftrl")


class Net(nn.Module):
    def __init__(self, rows: int = 7) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.table = nn.Embedding(rows, 3)
        self.body = nn.Linear(3, 3)
        with torch.no_grad():
            for weight in (self.body.weight, self.body.bias):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
            self.table.weight.copy_(torch.randn((rows, 3), generator=generator) * 0.5)

    def losses(self, step: int, users: int = 8) -> Tensor:
        row, target = torch.randint(7, (2, users), generator=torch.Generator().manual_seed(step))
        logits = self.body(self.table(row)) @ self.table.weight[:7].T
        return nn.functional.cross_entropy(logits, target, reduction="none")


def build(net: Net, **rest: object) -> Optimizers:
    stated: dict[str, object] = {
        "learning_rate": 0.05,
        "ema": 0.9,
        "weight_decay": 0.01,
        "ftrl_l1": 0.1,
        "ftrl_l2": 0.1,
    }
    options = OptimizerOptions(**(stated | rest))  # type: ignore[arg-type]
    return Optimizers(dict(net.named_parameters()), options=options, tables=["table.weight"])


def run(net: Net, optimizers: Optimizers, steps: range) -> None:
    for step in steps:
        optimizers.zero_grad()
        net.losses(step).mean().backward()
        optimizers.step(step / 10)


def through_disk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in state.items()}


# -- options


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"optimizer": "adam"}, "optimizer = 'adam' must be one of: adamw"),
        ({"optimizer": "ftrl"}, "optimizer = 'ftrl' must be one of"),
        ({"embedding_optimizer": "x"}, "embedding_optimizer = 'x'"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"momentum": 1.0}, "momentum"),
        ({"schedule": "inverse_sqrt", "warm_up": 0.0}, "warm_up"),
        ({"floor": 1.5}, "floor"),
        ({"accumulate": 0}, "accumulate"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"ema": 1.0}, "ema"),
        ({"sparse": "sparse"}, "sparse = sparse needs embedding_optimizer"),
        ({"sparse": "sparse", "embedding_optimizer": "sgd"}, "momentum = 0"),
        ({"dp_noise": 1.0}, "needs dp_clip"),
        ({"dp_clip": 1.0, "accumulate": 2}, "accumulate"),
        ({"dp_clip": 1.0, "dp_delta": 0.0}, "dp_delta"),
    ],
)
def test_options_that_do_not_work_name_their_key(stated: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        OptimizerOptions(**stated)  # type: ignore[arg-type]
    assert "[train]" in str(caught.value)
    assert named in str(caught.value)


def test_sparse_only_where_it_pays() -> None:
    def pays(rows: int, touched: int, **rest: object) -> bool:
        return sparse_pays(OptimizerOptions(**rest), rows=rows, touched=touched)  # type: ignore[arg-type]

    assert pays(1_000_000, 3_000, embedding_optimizer="sparse_adam")
    assert not pays(1_000_000, 1_000_000, embedding_optimizer="sparse_adam")
    assert not pays(3_000, 30, embedding_optimizer="sparse_adam")
    assert not pays(1_000_000, 3_000)  # AdamW's moments move every row
    assert not pays(1_000_000, 3_000, embedding_optimizer="sparse_adam", dp_clip=1.0)
    assert pays(30, 30, embedding_optimizer="ftrl", sparse="sparse")
    assert not pays(1_000_000, 3_000, embedding_optimizer="ftrl", sparse="dense")


# -- schedules


def test_schedules_by_hand() -> None:
    def at(schedule: str, done: float) -> float:
        return factor(Schedule(schedule), done, warm_up=0.1, floor=0.2)

    assert at("cosine", 0.0) == pytest.approx(0.01)  # (0 + 0.001) / 0.1, at the peak of the cosine
    assert at("cosine", 0.5) == pytest.approx(0.2 + 0.8 * 0.5)
    assert at("cosine", 1.0) == pytest.approx(0.2)
    assert at("linear", 0.25) == pytest.approx(0.2 + 0.8 * 0.75)
    assert at("inverse_sqrt", 0.4) == pytest.approx(0.5)  # √(0.1 / 0.4)
    assert at("inverse_sqrt", 0.1) == 1.0
    assert at("constant", 0.099) == pytest.approx(1.0)
    assert factor(Schedule.CONSTANT, 0.0, warm_up=0.0, floor=0.0) == 1.0


@given(schedule=st.sampled_from(Schedule), done=SHARE, more=SHARE, warm_up=st.floats(0.01, 0.5), floor=SHARE)
def test_schedules_rise_then_fall_within_their_bounds(
    schedule: Schedule, done: float, more: float, warm_up: float, floor: float
) -> None:
    def at(share: float) -> float:
        return factor(schedule, share, warm_up=warm_up, floor=floor)

    first, second = sorted((done, more))
    assert 0 <= at(done) <= 1
    if first >= warm_up:
        assert floor - 1e-9 <= at(second) <= at(first) + 1e-9
    assert abs(at(first) - at(min(1.0, first + 1e-6))) < 2e-4  # no jump: at most 1/0.01 in slope


def test_the_schedule_reaches_all_but_ftrl() -> None:
    for algorithm, scheduled in (("sgd", True), ("ftrl", False)):
        net = Net()
        plain = {"momentum": 0.0, "ema": 0.0, "weight_decay": 0.0, "ftrl_l1": 0.0, "ftrl_l2": 0.0}
        optimizers = build(net, optimizer="sgd", embedding_optimizer=algorithm, **plain)
        before = [weight.detach().clone() for weight in (net.table.weight, net.body.weight)]
        for weight in (net.table.weight, net.body.weight):
            weight.grad = torch.ones_like(weight)
        optimizers.step(1.0)  # the floor: 0.05 · 0.05
        torch.testing.assert_close(before[1] - net.body.weight, torch.full((3, 3), 0.0025))
        # FTRL: α g / (β + √n) = 0.05 · 1 / (1 + 1)
        moved = 0.0025 if scheduled else 0.025
        torch.testing.assert_close(before[0] - net.table.weight, torch.full((7, 3), moved))


# -- a step


def test_adamw_steps_as_torch_does() -> None:
    ours, plain = Net(), Net()
    optimizers = build(ours, ema=0.0, schedule="constant", warm_up=0.0)
    matrices = [plain.table.weight, plain.body.weight]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": [plain.body.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), fused=True)
    for step in range(5):
        for net, stepper in ((ours, optimizers), (plain, reference)):
            stepper.zero_grad()
            net.losses(step).mean().backward()
        optimizers.step(0.3)
        reference.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sparse", [False, True])
def test_clipping_by_the_norm_of_everything(sparse: bool) -> None:
    weights = {"t": nn.Parameter(torch.zeros(4, 1)), "b": nn.Parameter(torch.zeros(1))}
    options = OptimizerOptions(
        optimizer="sgd",  # type: ignore[arg-type]
        momentum=0.0,
        learning_rate=1.0,
        schedule="constant",  # type: ignore[arg-type]
        warm_up=0.0,
        clip_norm=1.0,
    )
    optimizers = Optimizers(weights, options=options, tables=["t"])
    rows = torch.tensor([2, 2])  # 1 + 2 on the same row: 3, not √5
    values = torch.tensor([[1.0], [2.0]])
    gradient = torch.sparse_coo_tensor(rows[None], values, (4, 1), check_invariants=True)
    weights["t"].grad = gradient if sparse else gradient.to_dense()
    weights["b"].grad = torch.tensor([4.0])
    norm = optimizers.step(0.0)
    assert norm is not None
    assert norm.item() == pytest.approx(5.0)  # √(3² + 4²)
    torch.testing.assert_close(weights["t"].detach().flatten(), torch.tensor([0, 0, -3 / 5, 0]))
    torch.testing.assert_close(weights["b"].detach(), torch.tensor([-4 / 5]))
    weights["t"].grad, weights["b"].grad = None, torch.tensor([0.5])
    optimizers.step(0.0)
    torch.testing.assert_close(weights["b"].detach(), torch.tensor([-4 / 5 - 0.5]))  # short gradients stay


def test_unequal_micro_batches_make_the_step_of_the_whole() -> None:
    whole, parts = Net(), Net()
    weight_N = torch.tensor([1.0, 2, 0.5, 0, 1, 3, 1, 1])
    first, second = build(whole, clip_norm=0.1), build(parts, clip_norm=0.1)
    for step in range(4):
        first.zero_grad()
        ((weight_N * whole.losses(step)).sum() / weight_N.sum()).backward()  # type: ignore[no-untyped-call]
        first.step(0.2)
        second.zero_grad()
        for part in (slice(0, 3), slice(3, 4), slice(4, 8)):
            (weight_N * parts.losses(step))[part].sum().backward()  # type: ignore[no-untyped-call]
        second.step(0.2, weight=float(weight_N.sum()))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_frozen_parameters_and_unknown_tables() -> None:
    net = Net()
    net.body.requires_grad_(False)
    optimizers = build(net)
    run(net, optimizers, range(2))
    assert torch.equal(net.body.weight, Net().body.weight)
    assert not any(name.startswith("body") for name in optimizers.state_tensors())
    with pytest.raises(UsageError, match=r"no parameter is called 'item_table'; there are: body\.bias"):
        Optimizers(dict(net.named_parameters()), options=OptimizerOptions(), tables=["item_table"])


# -- state


@pytest.mark.parametrize("body", ["adamw", "sgd", "adagrad"])
@pytest.mark.parametrize("table", TABLE_ALGORITHMS)
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_resumed_training_ends_in_the_same_bits(body: str, table: str, stop: int) -> None:
    straight = Net()
    through = build(straight, optimizer=body, embedding_optimizer=table, clip_norm=0.5)
    run(straight, through, range(9))

    stopped = Net()
    before = build(stopped, optimizer=body, embedding_optimizer=table, clip_norm=0.5)
    run(stopped, before, range(stop))
    resumed = Net()
    resumed.load_state_dict(stopped.state_dict())
    after = build(resumed, optimizer=body, embedding_optimizer=table, clip_norm=0.5)
    after.load_state_tensors(through_disk(before.state_tensors()))
    run(resumed, after, range(stop, 9))
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    expected, found = through.state_tensors(), after.state_tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize("table", TABLE_ALGORITHMS)
def test_a_state_of_fewer_rows_goes_on(table: str) -> None:
    """Old rows keep their state; a new row that no gradient has touched is one that starts."""
    old = Net()
    before = build(old, embedding_optimizer=table)
    run(old, before, range(3))
    grown = Net()
    fresh = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.5, -0.5]])
    grown.body.load_state_dict(old.body.state_dict())
    grown.table = nn.Embedding.from_pretrained(torch.cat([old.table.weight.detach(), fresh]), freeze=False)
    assert torch.equal(grown.table.weight[:7], old.table.weight)
    after = build(grown, embedding_optimizer=table)
    after.load_state_tensors(through_disk(before.state_tensors()))
    state, known = after.state_tensors(), before.state_tensors()
    for name, tensor in known.items():
        assert torch.equal(state[name][: len(tensor)] if tensor.dim() else state[name], tensor), name
    assert torch.equal(state["table.weight/ema"][7:], fresh)
    if table == "same":
        assert not state["table.weight/exp_avg"][7:].any()
        mean = known["table.weight/exp_avg_sq"][1:].mean(dim=0)
        torch.testing.assert_close(state["table.weight/exp_avg_sq"][8], mean)
    if table == "ftrl":
        assert not state["table.weight/n"][7:].any()
        torch.testing.assert_close(state["table.weight/z"][7:], -fresh / 0.05)  # −(β/α) w

    reference = Net()
    reference.load_state_dict(old.state_dict())
    alike = build(reference, embedding_optimizer=table)
    alike.load_state_tensors(through_disk(before.state_tensors()))
    run(grown, after, range(3, 6))
    run(reference, alike, range(3, 6))
    # the product over more columns may round otherwise
    torch.testing.assert_close(grown.table.weight[:7], reference.table.weight, rtol=1e-4, atol=1e-5)
    assert bool(grown.table.weight.isfinite().all())


def test_growing_row_by_row() -> None:
    assert grow_rows("row_sum", torch.ones(2), rows=4).tolist() == [1, 1, 0, 0]
    assert grow_rows("exp_avg_sq", torch.tensor([0.0, 2.0, 4.0]), rows=4).tolist() == [0, 2, 4, 3]  # (2 + 4) / 2
    assert grow_rows("exp_avg_sq", torch.zeros(1, 2), rows=3).tolist() == [[0, 0]] * 3  # padding alone has no mean
    assert grow_rows("step", torch.tensor(3.0), rows=4) == 3
    assert grow_rows("ema", torch.ones(2), rows=4).tolist() == [1, 1]  # for `load_state_tensors` to complete


@pytest.mark.parametrize("table", ["ftrl", "rowwise_ftrl"])
def test_ftrl_goes_on_from_weights_that_another_hand_has_set(table: str) -> None:
    """FTRL's weights follow from its z: one that still meant the last weights would throw the average away."""
    net = Net()
    before = build(net, embedding_optimizer=table)
    run(net, before, range(4))
    last = net.table.weight.detach().clone()
    state = through_disk(before.state_tensors())
    before.adopt_average()
    average = net.table.weight.detach().clone()
    after = build(net, embedding_optimizer=table)
    after.load_state_tensors(state)
    net.table.weight.grad = torch.full((7, 3), 1e-6)  # all but nothing: whoever is touched is written anew from z
    after.step(0.5)
    assert float((average - last).abs().max()) > 1e-3
    touched = state["table.weight/n" if table == "ftrl" else "table.weight/row_n"].reshape(7, -1).any(dim=1)
    torch.testing.assert_close(net.table.weight[touched], average[touched], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"other/step": torch.tensor(1.0)}, "belongs to no trained parameter"),
        (lambda state: state | {"body.bias/sum": torch.zeros(3)}, "is not the state of adamw"),
        (lambda state: {k: v for k, v in state.items() if k != "body.bias/step"}, "is not the state of adamw"),
        (lambda state: state | {"body.bias/exp_avg": torch.zeros(4)}, "train anew"),
        (lambda state: state | {"table.weight/exp_avg": torch.zeros(7, 2)}, "train anew"),
        (lambda state: state | {"table.weight/ema": torch.zeros(8, 3)}, "train anew"),
    ],
)
def test_a_state_that_does_not_fit(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str) -> None:
    net = Net()
    before = build(net)
    run(net, before, range(1))
    with pytest.raises(UsageError, match=message):
        build(Net()).load_state_tensors(change(through_disk(before.state_tensors())))


def test_adamw_goes_on_from_sparse_adam() -> None:
    """Both keep the same moments; only the count of steps is of another type."""
    net = Net()
    before = build(net, embedding_optimizer="sparse_adam")
    run(net, before, range(2))
    after = build(net)
    after.load_state_tensors(through_disk(before.state_tensors()))
    run(net, after, range(2, 4))
    assert after.state_tensors()["table.weight/step"].item() == 4


# -- moving average


def test_moving_average_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    options = OptimizerOptions(
        optimizer="sgd",  # type: ignore[arg-type]
        momentum=0.0,
        learning_rate=1.0,
        schedule="constant",  # type: ignore[arg-type]
        warm_up=0.0,
        ema=0.15,
    )
    optimizers = Optimizers({"w": weight}, options=options)
    average = 1.0
    for keep, value in ((1 / 10, 2.0), (0.15, 3.0), (0.15, 4.0)):  # min(0.15, 1/10), min(0.15, 2/11), …
        weight.grad = torch.tensor([-1.0])
        optimizers.step(0.0)
        assert weight.item() == value
        average = keep * average + (1 - keep) * value
    with optimizers.averaged():
        assert weight.item() == pytest.approx(average)
    assert weight.item() == 4.0
    optimizers.adopt_average()
    assert weight.item() == pytest.approx(average)


def test_evaluating_the_average_leaves_no_trace() -> None:
    disturbed, alone = Net(), Net()
    first, second = build(disturbed), build(alone)
    for step in range(5):
        run(disturbed, first, range(step, step + 1))
        run(alone, second, range(step, step + 1))
        with contextlib.suppress(ZeroDivisionError), first.averaged():
            assert not torch.equal(disturbed.body.weight, alone.body.weight)
            raise ZeroDivisionError
    for one, other in zip(disturbed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    for name, tensor in second.state_tensors().items():
        assert torch.equal(tensor, first.state_tensors()[name])


def test_without_a_moving_average_nothing_is_swapped() -> None:
    net = Net()
    optimizers = build(net, ema=0.0)
    with optimizers.averaged():
        assert torch.equal(net.body.weight, Net().body.weight)
    optimizers.adopt_average()
    assert not optimizers.state_tensors()
