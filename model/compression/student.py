"""A smaller ranker that answers as a larger one does, over the same vocabulary.

Shapes: V items, D width of the teacher, W width of the student, N events.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.fit import fingerprint_of, fitted_of, loss_of, trusted
from model.fitted import Fitted
from model.machine import seeded_threads
from model.network.config import RankerConfig
from model.network.ranker import Ranker, materialised
from model.objectives.distillation import Teacher
from model.options import TrainOptions
from model.sequences import Histories
from model.trainer import train
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected, UsageError


@dataclass(frozen=True)
class StudentOptions:
    width: int = 0
    """Of its states; 0: the teacher's. A narrower student has item vectors of its own."""
    blocks: int = 0
    """0: half of the teacher's, at least one."""
    epochs: int = 6
    weight: float = 1.0
    """Of the teacher's answers, beside the events' own."""
    temperature: float = 1.0
    """τ of both sides' probabilities."""


def distil_student(
    teacher: Fitted,
    histories: Histories,
    *,
    student: StudentOptions,
    training: TrainOptions,
    run: Path | None = None,
) -> Fitted:
    """A smaller ranker with the teacher's vocabulary and features, taught by its answers to `histories`.

    Raises UsageError for a student that is not smaller than its teacher, DataRejected without anything to learn from.
    """
    config = teacher.ranker.config
    width, blocks = student.width or config.width, student.blocks or max(1, config.blocks // 2)
    if width > config.width or blocks > config.blocks or (width, blocks) == (config.width, config.blocks):
        raise UsageError(
            f"[release] a student of width {width} and {blocks} blocks is not smaller than the ranker's width "
            f"{config.width} and {config.blocks} blocks; set student_width or student_blocks"
        )
    with seeded_threads(training.threads):
        torch.manual_seed(training.seed)
        ranker = start_student(teacher.ranker, width=width, blocks=blocks)
    options = replace(training, epochs=student.epochs, patience=0)
    return taught(
        ranker, teacher, histories, training=options, weight=student.weight, temperature=student.temperature, run=run
    )


def start_student(teacher: Ranker, *, width: int, blocks: int) -> Ranker:
    """A ranker of `width` and `blocks` that begins near `teacher`, which stays as it is.

    At the teacher's width it takes its tables and evenly spaced ones of its blocks, the last among them (Sanh et al.,
    DistilBERT, 2019, section 3: one layer out of two). Narrower, its tables are the teacher's in the coordinates of
    the W leading right singular vectors of the item table, the best approximation of their products that W columns
    allow (Eckart & Young 1936), and its blocks begin by chance.
    """
    plain = materialised(teacher)
    config = RankerConfig.from_dict(
        plain.config.to_dict() | {"width": width, "blocks": blocks, "heads": math.gcd(width, plain.config.heads)}
    )
    student, known = Ranker(config), plain.state_dict()
    with torch.no_grad():
        if width == plain.config.width:
            taken = np.linspace(plain.config.blocks - 1, 0, blocks).round().astype(int)[::-1]
            of_block = {f"blocks.{new}.": f"blocks.{old}." for new, old in enumerate(taken)}
            named = {name: known[_renamed(name, of_block)] for name in student.state_dict()}
        else:
            named = student.state_dict() | _narrowed(known, width=width)
        student.load_state_dict(named)
    return student


def taught(
    ranker: Ranker,
    teacher: Fitted,
    histories: Histories,
    *,
    training: TrainOptions,
    weight: float = 1.0,
    temperature: float = 1.0,
    run: Path | None = None,
) -> Fitted:
    """`ranker` trained in place on `histories`, by the events and by `teacher`'s answers, as what it has become.

    At the teacher's width its item vectors and biases stay as they are, the teacher's: whatever is looked up by state
    (an index of the items, rows of new ones) then serves both. The loss is the teacher's without its self-supervised,
    rating and adversarial parts, which teach nothing that the answers do not tell. Events of unknown items are left
    out. Raises DataRejected when no target is left, UsageError for a private training: a teacher's answers to events
    have no bound on what they tell.
    """
    if training.dp_clip or teacher.privacy is not None:
        raise UsageError("[train] dp_clip: learning from answers to the events has no privacy bound; leave it out")
    objective = replace(teacher.objective, self_supervised=0.0, rating_weight=0.0, adversarial_epsilon=0.0)
    known_I = teacher.vocabulary.rows(histories.items) > 0
    histories = trusted(histories.keep(known_I[histories.item_N]), objective)
    corpus = Corpus.of(histories, teacher.vocabulary.rows(histories.items), teacher.features)
    if not corpus.first_U.any() and not corpus.next_N.any():
        raise DataRejected(f"events: {len(histories)} events hold nothing to learn from; ingest more events first")
    length = ranker.config.max_history

    def epoch_of(epoch: int) -> Epoch:
        rng = np.random.default_rng([training.seed, epoch])
        windows = tile(corpus, length=length, rng=rng)
        return Epoch.of(corpus, windows, opens_U=None, batch_tokens=training.batch_tokens, rng=rng)

    with seeded_threads(training.threads), _items_kept(ranker, kept=ranker.config.width == teacher.ranker.config.width):
        torch.manual_seed(training.seed)
        loss = loss_of(objective, training, ranker.config)
        loss.start(torch.from_numpy(corpus.behaviour_N), torch.from_numpy(corpus.value_N))
        loss.learn_from(Teacher(teacher.ranker, weight=weight, temperature=temperature))
        outcome = train(
            ranker,
            loss,
            epoch_of=epoch_of,
            options=training,
            optimizer_state=None,
            count_V=np.bincount(corpus.row_N, minlength=len(teacher.vocabulary) + 1)[1:],
            users=len(histories.users),
            fingerprint=fingerprint_of(
                corpus,
                teacher.vocabulary,
                [list(tensor.shape) for tensor in ranker.state_dict().values()],
                asdict(training),
                [weight, temperature],
                teacher.digest,
            ),
            run=run,
        )
    return fitted_of(ranker, loss, teacher.vocabulary, teacher.features, outcome)


@contextmanager
def _items_kept(ranker: Ranker, *, kept: bool) -> Iterator[None]:
    """Inside, the item table and biases learn nothing, where `kept`."""
    weights = [ranker.item_table.weight, ranker.item_bias] if kept else []
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _renamed(name: str, of_block: dict[str, str]) -> str:
    return next((old + name.removeprefix(new) for new, old in of_block.items() if name.startswith(new)), name)


def _narrowed(known: dict[str, Tensor], *, width: int) -> dict[str, Tensor]:
    """The teacher's tables in the item table's `width` leading directions, and its biases."""
    table_VD = known["item_table.weight"]
    values_D, vectors_DD = torch.linalg.eigh((table_VD.T @ table_VD).double())  # of D × D, however many items
    leading_DW = vectors_DD[:, values_D.argsort(descending=True)[:width]].to(table_VD)
    tables = {"item_table.weight", "behaviour_table.weight", "position_table.weight", "mask_vector"}
    tables |= {name for name in known if name.startswith("attribute_tables.")}
    return {name: known[name] @ leading_DW for name in sorted(tables)} | {"item_bias": known["item_bias"].clone()}
