"""User-level DP-SGD: what one user can add, the noise, the draws, and ε against published numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from model.optimizers.building import Optimizers
from model.optimizers.options import OptimizerOptions
from model.optimizers.private import Phase, UserGradients, draw_users, epsilon, new_secret, sampling_rate
from relations.errors import UsageError

USERS, EVENTS, ITEMS = 5, 4, 6


class Net(nn.Module):
    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Embedding(ITEMS, 3, sparse=sparse)
        self.output = nn.Linear(3, ITEMS)
        self.unused = nn.Linear(2, 2)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, row_N: Tensor) -> Tensor:
        logits: Tensor = self.output(self.table(row_N))
        return logits


def events() -> tuple[Tensor, Tensor]:
    row_UN, target_UN = torch.randint(ITEMS, (2, USERS, EVENTS), generator=torch.Generator().manual_seed(2))
    return row_UN, target_UN


def loss_of(net: nn.Module, row_N: Tensor, target_N: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(row_N), target_N)


def gradients_of(net: Net, clip: float) -> UserGradients:
    return UserGradients(dict(net.named_parameters()), clip=clip, noise=0.0)


@pytest.mark.parametrize("clip", [0.05, 0.5, 1e3])
@pytest.mark.parametrize("sparse", [False, True])
def test_equals_the_naive_loop_and_vmap(clip: float, sparse: bool) -> None:
    row_UN, target_UN = events()
    net = Net(sparse=sparse)
    private = gradients_of(net, clip)
    norms = [private.add(loss_of(net, row_UN[user], target_UN[user])) for user in range(USERS)]
    private.write(expected_users=4.0, secret=1, step=0)
    found = torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])

    # the naive loop: a fresh network a user, its gradient laid flat, clipped whole, summed
    total = torch.zeros_like(found)
    for user in range(USERS):
        alone = Net()
        loss_of(alone, row_UN[user], target_UN[user]).backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in alone.parameters()])
        assert norms[user] == pytest.approx(float(flat.norm()), rel=1e-5)
        total += flat * min(1.0, clip / float(flat.norm()))
    torch.testing.assert_close(found, total / 4, rtol=1e-4, atol=1e-6)

    # all users at once
    named = {name: weight.detach() for name, weight in Net().named_parameters()}
    dense = Net()

    def user_loss(weights: dict[str, Tensor], row_N: Tensor, target_N: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(dense, weights, (row_N,)), target_N)

    each = vmap(grad(user_loss), in_dims=(None, 0, 0))(named, row_UN, target_UN)
    flat_UP = torch.cat([each[name].reshape(USERS, -1) for name in named], dim=1)
    clipped_UP = flat_UP * (clip / flat_UP.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(found, clipped_UP.sum(dim=0) / 4, rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 50), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_one_user_moves_the_sum_by_at_most_the_clip(seed: int, size: int, scale: float) -> None:
    """However many events and however large its loss; the others' part is the same with and without that user."""
    generator = torch.Generator().manual_seed(seed)
    row_UN, target_UN = events()
    intruder = torch.randint(ITEMS, (2, size), generator=generator)
    totals = []
    for present in (False, True):
        net = Net(sparse=True)
        private = gradients_of(net, 0.7)
        for user in range(3):
            private.add(loss_of(net, row_UN[user], target_UN[user]))
        if present:
            private.add(scale * loss_of(net, intruder[0], intruder[1]))
        totals.append(torch.cat([part.flatten() for part in private.total_P]).double())
    assert float((totals[1] - totals[0]).norm()) <= 0.7 + 1e-6


def test_noise_has_its_deviation_and_returns_with_its_secret() -> None:
    weights = {"a": nn.Parameter(torch.zeros(200, 100)), "b": nn.Parameter(torch.zeros(20_000))}
    private = UserGradients(weights, clip=0.5, noise=2.0)

    def noise(secret: int, step: int) -> tuple[Tensor, Tensor]:
        private.write(expected_users=10.0, secret=secret, step=step)  # also when nobody was drawn
        assert weights["a"].grad is not None
        assert weights["b"].grad is not None
        return weights["a"].grad.flatten().clone(), weights["b"].grad.clone()

    first, other = noise(7, 0)
    assert float(first.std()) == pytest.approx(2.0 * 0.5 / 10, rel=0.02)  # σ C / (q U)
    assert abs(float(first.mean())) < 4 * 0.1 / 200_000**0.5 * 10**0.5  # 4 standard errors of 20,000 draws
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.03
    assert torch.equal(noise(7, 0)[0], first)
    assert not torch.equal(noise(7, 1)[0], first)
    assert not torch.equal(noise(8, 0)[0], first)


def test_a_step_leaves_nothing_for_the_next() -> None:
    row_UN, target_UN = events()
    net = Net()
    private = gradients_of(net, 1.0)
    private.add(loss_of(net, row_UN[0], target_UN[0]))
    private.write(expected_users=1.0, secret=0, step=0)
    private.write(expected_users=1.0, secret=0, step=1)
    assert not any(weight.grad.any() for weight in net.parameters() if weight.grad is not None)


def test_private_training_learns_and_repeats() -> None:
    """40 users who like one item each time they see another: with little noise the loss falls, and the bits return."""

    def train() -> tuple[float, Tensor]:
        net = Net()
        options = OptimizerOptions(learning_rate=0.05, dp_clip=0.5, dp_noise=0.1, dp_users=20)
        named = {name: weight for name, weight in net.named_parameters() if "unused" not in name}
        optimizers = Optimizers(named, options=options, tables=["table.weight"])
        private = UserGradients(named, clip=options.dp_clip, noise=options.dp_noise)
        rate = sampling_rate(options, users=40)
        for step in range(40):
            for user in draw_users(40, rate=rate, secret=9, step=step):
                row = torch.tensor([int(user) % ITEMS])
                private.add(loss_of(net, row, (row + 1) % ITEMS))
            private.write(expected_users=rate * 40, secret=9, step=step)
            optimizers.step(step / 40)
        everything = torch.arange(ITEMS)
        loss = loss_of(net, everything, (everything + 1) % ITEMS).item()
        return loss, torch.cat([weight.detach().flatten() for weight in named.values()])

    everything = torch.arange(ITEMS)
    (after, weights), (_, again) = train(), train()
    assert after < 0.5 * loss_of(Net(), everything, (everything + 1) % ITEMS).item()
    assert torch.equal(weights, again)


def test_a_user_whose_gradient_is_not_finite() -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(UsageError, match="lower learning_rate"):
        UserGradients({"w": weight}, clip=1.0, noise=1.0).add((weight * torch.inf).sum())


def test_draws_are_independent_and_repeatable() -> None:
    drawn = [draw_users(1000, rate=0.1, secret=3, step=step) for step in range(200)]
    assert np.mean([len(users) for users in drawn]) == pytest.approx(100, abs=4 * (1000 * 0.1 * 0.9 / 200) ** 0.5)
    assert len({len(users) for users in drawn}) > 10  # Poisson sampling: the number varies, and must
    assert np.array_equal(drawn[5], draw_users(1000, rate=0.1, secret=3, step=5))
    assert not np.array_equal(drawn[5], drawn[6])
    assert len(draw_users(4, rate=1.0, secret=3, step=0)) == 4
    assert len(draw_users(0, rate=0.5, secret=3, step=0)) == 0
    assert new_secret() != new_secret()


def test_epsilon_equals_the_published_number() -> None:
    # Opacus's own test: σ = 1.5, q = 0.04, 90 epochs, δ = 1e-5
    assert epsilon([Phase(noise=1.5, rate=0.04, steps=2250)], delta=1e-5) == pytest.approx(7.32911117143, abs=1e-6)
    # Abadi et al., section 3.2: σ = 4, q = 0.01, 10,000 steps, δ = 1e-5 is at most 1.26; later conversions are tighter
    assert 0.9 < epsilon([Phase(noise=4.0, rate=0.01, steps=10_000)], delta=1e-5) < 1.26
    # one Gaussian mechanism over everybody: α/(2σ²) + conversion, minimised over α by hand
    orders = np.linspace(1.01, 60, 200_000)
    by_hand = orders / (2 * 2.0**2) - (np.log(1e-5) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    assert epsilon([Phase(noise=2.0, rate=1.0, steps=1)], delta=1e-5) == pytest.approx(by_hand.min(), rel=1e-3)


@settings(max_examples=4, deadline=None)  # the accountant takes some 0.1 s
@given(noise=st.floats(0.6, 8), rate=st.floats(0.001, 0.5), steps=st.integers(1, 5000))
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(noise: float, rate: float, steps: int) -> None:
    spent = epsilon([Phase(noise, rate, steps)], delta=1e-6)
    assert 0 < spent < epsilon([Phase(noise, rate, 2 * steps)], delta=1e-6)
    assert epsilon([Phase(noise * 1.5, rate, steps)], delta=1e-6) < spent
    assert spent < epsilon([Phase(noise, min(1.0, rate * 1.5), steps)], delta=1e-6)
    assert epsilon([Phase(noise, rate, steps)], delta=1e-5) < spent
    halves = [Phase(noise, rate, steps // 2), Phase(noise, rate, steps - steps // 2)]
    assert epsilon(halves, delta=1e-6) == pytest.approx(spent)  # increments add up to the training they make


def test_epsilon_of_nothing_and_of_no_noise() -> None:
    assert epsilon([], delta=1e-6) == 0
    assert epsilon([Phase(1.0, 0.1, 0)], delta=1e-6) == 0
    assert epsilon([Phase(1.0, 0.1, 5), Phase(0.0, 0.1, 1)], delta=1e-6) == float("inf")


def test_sampling_rate() -> None:
    options = OptimizerOptions(dp_clip=1.0, dp_noise=1.0, dp_users=256, dp_delta=1e-5)
    assert sampling_rate(options, users=6040) == 256 / 6040
    assert sampling_rate(options, users=100) == 1.0
    with pytest.raises(UsageError, match="below 1 / users"):
        sampling_rate(options, users=100_000)
