"""Private training: what is drawn, what is refused, what is told of ε, and that it goes on after a kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import trainer
from model.checkpoint import FILE, Checkpoint
from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions
from model.fit import fit_full
from model.fitted import Fitted, load_fitted, save_fitted
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective
from model.objectives.options import ObjectiveOptions
from model.optimizers.private import Phase, draw_users, epsilon
from model.options import Loss, NetworkOptions, TrainOptions
from model.private_steps import Privacy
from model.sequences import Histories
from relations.errors import UsageError

Make = Callable[..., Histories]


@pytest.fixture
def private(brief: TrainOptions) -> TrainOptions:
    """40 users, of whom a step draws 10 on average: q = 1/4, four steps an epoch."""
    return replace(brief, epochs=2, dp_clip=0.5, dp_noise=1.0, dp_users=10, dp_delta=1e-3)


@pytest.fixture
def known_secret(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(trainer, "new_secret", lambda: 7)
    return 7


def test_epsilon_is_that_of_the_steps_taken(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, tmp_path: Path
) -> None:
    found = fit_full(cycle, network=tiny, training=private)
    assert found.steps == 8
    assert found.privacy is not None
    assert found.privacy.phases == (Phase(noise=1.0, rate=0.25, steps=8),)
    assert found.privacy.epsilon == pytest.approx(epsilon(found.privacy.phases, delta=1e-3))
    assert 1 < found.privacy.epsilon < 20
    save_fitted(found, tmp_path / "m")
    assert load_fitted(tmp_path / "m").privacy == found.privacy
    assert json.loads((tmp_path / "m" / "training.json").read_text())["privacy"]["epsilon"] == found.privacy.epsilon


def test_without_it_nothing_is_claimed(fitted: Fitted) -> None:
    assert fitted.privacy is None


def test_increments_add_their_steps(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, fitted: Fitted, histories_of: Make
) -> None:
    later = int(cycle.time_N.max() // 1_000_000) + 1
    new = histories_of([(f"u{u:02d}", f"i{(u + t) % 12:02d}", "view", later + t) for u in range(20) for t in range(3)])

    def grown(parent: Fitted, training: TrainOptions) -> Privacy | None:
        increment = IncrementOptions(epochs=1, learning_rate=1e-3)
        return fit_increment(parent, new=new, past=cycle, training=training, increment=increment).privacy

    parent = fit_full(cycle, network=tiny, training=private)
    louder = grown(parent, replace(private, dp_noise=2.0))
    assert louder is not None
    assert louder.phases == (Phase(1.0, 0.25, 8), Phase(2.0, 0.25, 4))
    assert parent.privacy is not None
    assert parent.privacy.epsilon < louder.epsilon < np.inf
    same = grown(parent, private)
    assert same is not None
    assert same.phases == (Phase(1.0, 0.25, 12),)  # the same kind of step is one phase
    for unbounded in (grown(parent, replace(private, dp_clip=0.0, dp_noise=0.0)), grown(fitted, private)):
        assert unbounded is not None  # one of the two trainings had no noise
        assert unbounded.epsilon == np.inf
    assert grown(fitted, replace(private, dp_clip=0.0, dp_noise=0.0)) is None


def test_one_user_moves_a_step_by_no_more_than_the_clip(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, known_secret: int
) -> None:
    """SGD at rate 1 over one step without noise: a user more or less moves the weights by at most C / (q U)."""
    options = replace(private, epochs=1, dp_users=40, dp_noise=0.0, optimizer="sgd", momentum=0.0, learning_rate=1.0,
                      schedule="constant", warm_up=0.0)  # fmt: skip
    without = cycle.keep(cycle.user_N() != 39)

    def weights(h: Histories, users: int) -> dict[str, torch.Tensor]:
        found = fit_full(h, network=replace(tiny, dropout=0.0), training=replace(options, dp_users=users))
        assert found.steps == 1
        return {name: users * tensor for name, tensor in found.ranker.state_dict().items()}

    start = fit_full(
        cycle, network=replace(tiny, dropout=0.0), training=replace(options, learning_rate=1e-30)
    ).ranker.state_dict()
    whole, fewer = weights(cycle, 40), weights(without, 39)
    moved = sum(float(((whole[k] - 40 * v) - (fewer[k] - 39 * v)).square().sum()) for k, v in start.items()) ** 0.5
    assert 0 < moved <= 0.5 * 1.01


@pytest.mark.parametrize("loss", [Loss.FULL, Loss.SAMPLED])
def test_it_learns_when_the_noise_is_small(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, loss: Loss
) -> None:
    training = replace(private, epochs=10, dp_noise=1e-3, loss=loss, negatives=6)
    losses = [nats for _, nats in fit_full(cycle, network=tiny, training=training).losses]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_popularity_neither_starts_biases_nor_draws(
    histories_of: Make, tiny: NetworkOptions, private: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "start_from_popularity", lambda *_: pytest.fail("counts are not private"))
    drawn: list[torch.Tensor] = []
    tell = ItemObjective.__call__

    def spy(self: ItemObjective, *args: Any, **rest: Any) -> torch.Tensor:
        drawn.append(rest["negatives"].log_q_S)
        return tell(self, *args, **rest)

    monkeypatch.setattr(ItemObjective, "__call__", spy)
    h = histories_of([(f"u{u}", "abcd"[min(u * t, 3)], "view", t) for u in range(20) for t in range(4)])
    fit_full(h, network=tiny, training=replace(private, epochs=1, loss=Loss.SAMPLED, negatives=5))
    assert drawn
    assert all(torch.allclose(log_q_S, torch.tensor(0.25).log()) for log_q_S in drawn)


def test_a_step_that_draws_nobody_is_noise(histories_of: Make, tiny: NetworkOptions, private: TrainOptions) -> None:
    h = histories_of([(f"u{u}", "ab"[u % 2], "view", t) for u in range(5) for t in range(2)])
    training = replace(private, epochs=1, dp_users=1, dp_delta=1e-2)
    secret = next(s for s in range(100) if not len(draw_users(5, rate=0.2, secret=s, step=0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "new_secret", lambda: secret)
        found = fit_full(h, network=tiny, training=training)
    assert found.steps == 5
    assert found.losses[0] == (1, 0.0)
    assert all(bool(weight.isfinite().all()) for weight in found.ranker.state_dict().values())


def test_a_killed_training_goes_on_and_its_secret_is_forgotten(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, tmp_path: Path, known_secret: int
) -> None:
    clean = fit_full(cycle, network=tiny, training=private)

    def stop(step: trainer.Step) -> None:
        if step.step == 6:
            raise KeyboardInterrupt

    training = replace(private, checkpoint_every_steps=1)
    whole = fit_full(cycle, network=tiny, training=training)
    assert whole.digest == clean.digest
    with pytest.raises(KeyboardInterrupt):
        fit_full(cycle, network=tiny, training=training, run=tmp_path, on_step=stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "new_secret", lambda: pytest.fail("the secret is in the checkpoint"))
        resumed = fit_full(cycle, network=tiny, training=training, run=tmp_path)
    assert (resumed.digest, resumed.losses) == (whole.digest, whole.losses)
    assert b'"secret": 0' in (tmp_path / FILE).read_bytes().replace(b"\\", b"")
    assert Checkpoint.read(tmp_path, fingerprint="other") is None


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    r"\[train\] patience is not private": ({"patience": 2}, {}),
    r"contrastive_weight is not private": ({}, {"self_supervised": 0.5}),
    r"rating_weight is not private": ({}, {"rating_weight": 1.0}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_tell_of_users_is_refused(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions, message: str
) -> None:
    training, objective = REFUSED[message]
    with pytest.raises(UsageError, match=message):
        fit_full(cycle, network=tiny, training=replace(private, **training), objective=ObjectiveOptions(**objective))


def test_weights_and_a_large_delta_and_accumulation_are_refused(
    cycle: Histories, tiny: NetworkOptions, private: TrainOptions
) -> None:
    weighted = replace(cycle, weight_N=np.full(len(cycle), 0.5, dtype=np.float32))
    with pytest.raises(UsageError, match="weights are not private"):
        fit_full(weighted, network=tiny, training=private)
    with pytest.raises(UsageError, match=r"dp_delta = 0\.1 must be below 1 / users = 0\.025"):
        fit_full(cycle, network=tiny, training=replace(private, dp_delta=0.1))
    with pytest.raises(UsageError, match="accumulate"):
        replace(private, accumulate=2)
