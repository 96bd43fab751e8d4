"""A smaller network that answers as a larger one: what it starts from, what stays, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.compression.student import StudentOptions, distil_student, start_student
from model.evaluation import RankerRecommender
from model.export import parity_rows
from model.fitted import Fitted
from model.network.ranker import Ranker
from model.options import TrainOptions
from model.parity import stretches
from model.private_steps import Privacy
from model.sequences import Histories
from relations.errors import DataRejected, UsageError


def agreement(one: Fitted, other: Fitted, histories: Histories) -> float:
    """Mean share of the three best that both name."""
    shared = []
    for inputs in stretches(one.ranker, parity_rows(one, histories), np.random.default_rng(1)):
        best = [RankerRecommender.of(each).scores(inputs).argsort(axis=1)[:, -3:] for each in (one, other)]
        shared += [len(np.intersect1d(a, b)) / 3 for a, b in zip(*best, strict=True)]
    return float(np.mean(shared))


def size(ranker: Ranker) -> int:
    return sum(weight.numel() for weight in ranker.parameters())


def test_a_student_of_half_the_blocks_is_smaller_and_answers_alike(
    fitted: Fitted, cycle: Histories, brief: TrainOptions
) -> None:
    student = distil_student(fitted, cycle, student=StudentOptions(epochs=3), training=brief)
    config = student.ranker.config
    assert (config.width, config.blocks, config.items) == (16, 1, 12)
    # a softmax block of width 16: norms 2·2·16, query and out 2·(16·16 + 16), key and value 16·32 + 32,
    # feed-forward 16·64 + 64 + 64·16 + 16, biases of 8 places and 40 ages for 2 heads
    assert size(fitted.ranker) - size(student.ranker) == 64 + 544 + 544 + 2128 + 96
    assert student.vocabulary == fitted.vocabulary
    assert agreement(fitted, student, cycle) > 0.8  # by chance 3/12
    # its states are in the teacher's space: items' vectors and biases are the teacher's, bit for bit
    for name in ("item_table.weight", "item_bias"):
        assert torch.equal(student.ranker.get_parameter(name), fitted.ranker.get_parameter(name))
        assert student.ranker.get_parameter(name).requires_grad


def test_a_narrow_student_has_vectors_of_its_own(fitted: Fitted, cycle: Histories, brief: TrainOptions) -> None:
    student = distil_student(fitted, cycle, student=StudentOptions(width=8, epochs=4), training=brief)
    assert student.ranker.item_table.weight.shape == (13, 8)
    assert student.ranker.config.heads == 2
    assert size(student.ranker) < size(fitted.ranker) / 2
    assert agreement(fitted, student, cycle) > 0.5


def test_it_starts_from_the_best_narrow_table(fitted: Fitted) -> None:
    table_VD = fitted.ranker.item_table.weight.detach()
    narrow_VW = start_student(fitted.ranker, width=4, blocks=1).item_table.weight.detach()
    # Eckart–Young: what is lost of the table's squares is those of its smallest singular values
    singular_D = torch.linalg.svdvals(table_VD.double())
    lost = table_VD.double().square().sum() - narrow_VW.double().square().sum()
    assert float(lost) == pytest.approx(float(singular_D[4:].square().sum()), rel=1e-4)


def test_it_starts_from_the_teachers_last_block(fitted: Fitted) -> None:
    student = start_student(fitted.ranker, width=16, blocks=1)
    for name, tensor in student.blocks[0].state_dict().items():
        assert torch.equal(tensor, fitted.ranker.blocks[1].state_dict()[name])


def test_the_same_student_twice(fitted: Fitted, cycle: Histories, brief: TrainOptions) -> None:
    one, two = (
        distil_student(fitted, cycle, student=StudentOptions(width=8, epochs=1), training=brief) for _ in range(2)
    )
    assert one.digest == two.digest
    assert one.digest != fitted.digest


def test_what_is_not_smaller_or_not_known_or_private_is_refused(
    fitted: Fitted, cycle: Histories, brief: TrainOptions
) -> None:
    for wrong in (StudentOptions(blocks=2), StudentOptions(width=32), StudentOptions(width=8, blocks=3)):
        with pytest.raises(UsageError, match="not smaller than the ranker's width 16 and 2 blocks"):
            distil_student(fitted, cycle, student=wrong, training=brief)
    strange = replace(cycle, items=np.array([f"strange {item}" for item in cycle.items], dtype=object))
    with pytest.raises(DataRejected, match="0 events hold nothing to learn from"):
        distil_student(fitted, strange, student=StudentOptions(), training=brief)
    private = replace(fitted, privacy=Privacy((), 1e-6, 1.0))
    with pytest.raises(UsageError, match="no privacy bound"):
        distil_student(private, cycle, student=StudentOptions(), training=brief)
