"""What each way of going on changes, and what it leaves alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions, Trained
from model.fit import fit_full
from model.fitted import Fitted, load_fitted, save_fitted
from model.optimizers.options import Schedule
from model.options import Loss, NetworkOptions, TrainOptions
from model.sequences import BEHAVIOUR_NAMES, Histories
from relations.errors import UsageError

CLICK = BEHAVIOUR_NAMES.index("click")
NETWORK = NetworkOptions(width=16, blocks=1, heads=2, max_history=8)
TRAINING = TrainOptions(epochs=2, threads=1, batch_tokens=64, ema=0.9)
PLAIN = IncrementOptions(epochs=2, learning_rate=1e-2, schedule=Schedule.CONSTANT, replay_share=0.5)


def walks(users: range, *, items: int, start: int) -> Histories:
    """Each user walks round the items, one a second."""
    length = 6
    return Histories(
        np.array([f"u{user:03d}" for user in users], dtype=object),
        np.array([f"i{item:02d}" for item in range(items)], dtype=object),
        np.concatenate([(user + np.arange(length)) % items for user in users]).astype(np.int64),
        np.full(length * len(users), CLICK),
        np.concatenate([start + user + np.arange(length) for user in users]).astype(np.int64) * 1_000_000,
        np.arange(0, length * len(users) + 1, length),
    )


PAST = walks(range(40), items=12, start=0)
NEW = walks(range(100, 120), items=14, start=1000)


@pytest.fixture(scope="module")
def parent() -> Fitted:
    return fit_full(PAST, network=NETWORK, training=TRAINING)


def went_on(parent: Fitted, **changes: object) -> Fitted:
    return fit_increment(
        parent,
        new=NEW,
        past=PAST,
        training=TRAINING,
        increment=replace(PLAIN, **changes),  # type: ignore[arg-type]
    )


def moved(parent: Fitted, child: Fitted) -> dict[str, float]:
    """How far each weight went, in the rows that both have."""
    before, after = parent.ranker.state_dict(), child.ranker.state_dict()
    return {name: float((after[name][: len(old)] - old).norm()) if old.dim() else 0.0 for name, old in before.items()}


def test_item_table_alone_leaves_every_other_weight_to_the_bit(parent: Fitted) -> None:
    far = moved(parent, went_on(parent, trained=Trained.ITEMS))
    assert {name for name, length in far.items() if length} == {"item_table.weight", "item_bias"}


def test_low_rank_changes_are_merged_and_of_that_rank(parent: Fitted) -> None:
    child = went_on(parent, trained=Trained.LORA, lora_rank=2)
    before, after = parent.ranker.state_dict(), child.ranker.state_dict()
    assert before.keys() == after.keys()
    ranks = {
        name: int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4))
        for name in before
        if name.startswith("blocks.") and name.endswith("weight") and before[name].dim() == 2
    }
    assert 2 in ranks.values()
    assert max(rank for name, rank in ranks.items() if "position" not in name) == 2


def test_elastic_weights_hold_the_longer_the_stiffer(parent: Fitted) -> None:
    free, held = (sum(moved(parent, went_on(parent, ewc=ewc)).values()) for ewc in (0.0, 1e3))
    assert held < 0.7 * free


def test_dropout_is_another_while_it_goes_on_and_the_networks_afterwards(parent: Fitted) -> None:
    child = went_on(parent, dropout=0.0)
    assert child.digest != went_on(parent).digest == went_on(parent, dropout=NETWORK.dropout).digest
    assert child.ranker.config.dropout == NETWORK.dropout
    assert all(block.dropout == NETWORK.dropout for block in child.ranker.blocks)


def test_a_teacher_keeps_old_answers_nearer(parent: Fitted) -> None:
    def nats(child: Fitted) -> float:
        """KL of the parent's answers to the child's about past histories, over the items that both know."""
        rows = torch.from_numpy(parent.vocabulary.rows(PAST.items)[PAST.item_N].reshape(-1, 6))
        inputs = (rows, torch.full_like(rows, CLICK), torch.zeros_like(rows))
        with torch.no_grad():
            p, q = (each.ranker(*inputs)[:, :12].log_softmax(dim=1) for each in (parent, child))
        return float((p.exp() * (p - q)).sum(dim=1).mean())

    assert nats(went_on(parent, distillation=20.0)) < 0.7 * nats(went_on(parent))


def test_line_search_takes_one_of_its_three_rates(parent: Fitted) -> None:
    found = went_on(parent, line_search=True).digest
    rates = [went_on(parent, learning_rate=PLAIN.learning_rate * factor).digest for factor in (0.5, 1.0, 2.0)]
    assert found in rates


@pytest.mark.parametrize(
    "changes",
    [{"trained": Trained.LORA}, {"trained": Trained.ITEMS, "ewc": 1.0}, {"distillation": 1.0}, {"line_search": True}],
)
def test_every_way_is_repeatable_and_can_be_gone_on_from(
    parent: Fitted, changes: dict[str, object], tmp_path: Path
) -> None:
    child = went_on(parent, **changes)
    assert child.digest == went_on(parent, **changes).digest
    folder = tmp_path / "child"
    save_fitted(child, folder)
    later = walks(range(200, 210), items=14, start=2000)
    grandchild = fit_increment(
        load_fitted(folder), new=later, past=NEW, training=TRAINING, increment=PLAIN, teacher=parent
    )
    assert grandchild.digest != child.digest


def test_sampled_losses_go_on_as_well(parent: Fitted) -> None:
    training = replace(TRAINING, loss=Loss.SAMPLED, negatives=6)
    increment = replace(PLAIN, distillation=1.0, ewc=1.0, line_search=True)
    child = fit_increment(parent, new=NEW, past=PAST, training=training, increment=increment)
    assert np.isfinite([loss for _, loss in child.losses]).all()


def test_what_is_unset_follows_the_full_training(parent: Fitted) -> None:
    training = replace(TRAINING, loss=Loss.SAMPLED, negatives=6, learning_rate=4e-3)

    def child(rate: float | None, negatives: int | None) -> str:
        increment = replace(PLAIN, learning_rate=rate, negatives=negatives)
        return fit_increment(parent, new=NEW, past=PAST, training=training, increment=increment).digest

    assert child(None, None) == child(2e-3, 9)
    assert len({child(2e-3, 9), child(4e-3, 9), child(2e-3, 6)}) == 3


def test_only_events_that_may_be_replayed_are(parent: Fitted) -> None:
    """With nothing to replay an increment is fine-tuning alone, whatever the share."""
    none_N = np.zeros(len(PAST), dtype=bool)
    child = fit_increment(parent, new=NEW, past=PAST, training=TRAINING, increment=PLAIN, replayed_N=none_N)
    assert child.targets == went_on(parent, replay_share=0.0).targets < went_on(parent).targets


@pytest.mark.parametrize("changes", [{"ewc": 1.0}, {"distillation": 1.0}, {"line_search": True}, {"trained": "lora"}])
def test_what_has_no_bound_on_what_it_tells_is_refused_where_privacy_is_asked_for(
    parent: Fitted, changes: dict[str, object]
) -> None:
    training = replace(TRAINING, dp_clip=1.0, dp_noise=1.0, ema=0.0)
    with pytest.raises(UsageError, match=next(iter(changes))):
        fit_increment(parent, new=NEW, past=PAST, training=training, increment=replace(PLAIN, **changes))  # type: ignore[arg-type]
