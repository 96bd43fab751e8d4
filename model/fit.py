"""Fitting a ranker from scratch, and going on from a parent with what is new."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from model.digest import digest_tensors
from model.growth import grow
from model.machine import seeded_threads
from model.options import IncrementOptions, NetworkOptions, TrainOptions
from model.ranker import Ranker, RankerConfig
from model.sequences import BEHAVIOUR_NAMES, Histories, merge
from model.trainer import OnStep, Schedule, train
from model.vocabulary import Vocabulary
from model.windows import Corpus, Epoch, Windows, cover, tile
from relations.errors import DataRejected


@dataclass(frozen=True)
class Fitted:
    """A trained ranker with all that a later increment needs. The ranker is on the CPU and in eval mode."""

    ranker: Ranker
    vocabulary: Vocabulary
    optimizer_state: dict[str, Tensor]  # "<parameter>/<kind>" → tensor
    losses: tuple[tuple[int, float], ...]  # (step from 1, nats)
    steps: int
    seconds: float
    tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 of weights and vocabulary: equal digests mean equal answers."""
        return digest_tensors(self.ranker.state_dict(), self.vocabulary.to_json())


def fit_full(
    histories: Histories,
    *,
    network: NetworkOptions,
    training: TrainOptions,
    run: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit from scratch on all of `histories`; cut them by time first (`split_by_time`).

    `run` holds the checkpoint that a killed training resumes from; it is left there, and the caller may delete it.
    Raises DataRejected without a single target, DependencyFailed for `cuda` without CUDA.
    """
    vocabulary = Vocabulary(tuple(str(item) for item in histories.items))
    corpus = Corpus.of(histories, np.arange(1, len(vocabulary) + 1))
    if not corpus.first_U.any() and not corpus.next_N.any():
        raise DataRejected(f"events: {len(histories)} events hold nothing to learn from; ingest more events first")

    def epoch_of(epoch: int) -> Epoch:
        rng = np.random.default_rng([training.seed, epoch])
        windows = tile(corpus, length=network.max_history, rng=rng)
        return Epoch.of(corpus, windows, first_F=corpus.first_U, batch_tokens=training.batch_tokens, rng=rng)

    with seeded_threads(training.threads):
        torch.manual_seed(training.seed)
        ranker = Ranker(RankerConfig(items=len(vocabulary), behaviours=len(BEHAVIOUR_NAMES) - 1, **asdict(network)))
        count_V = np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:]
        ranker.start_from_popularity(count_V)
        outcome = train(
            ranker,
            epoch_of=epoch_of,
            options=training,
            schedule=Schedule.DECAY,
            optimizer_state=None,
            count_V=count_V,
            fingerprint=_fingerprint(corpus, vocabulary, asdict(network), asdict(training)),
            run=run,
            on_step=on_step,
        )
    return Fitted(ranker, vocabulary, **outcome.__dict__)


def fit_increment(
    parent: Fitted,
    *,
    new: Histories,
    past: Histories,
    training: TrainOptions,
    increment: IncrementOptions,
    run: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Go on from `parent` with the events of `new`; `past` are those that it was trained on. `parent` stays as it is.

    Targets are new events, in the context of their user's whole history, plus past targets until these make up
    `replay_share` of all. Weights, optimiser state and rows carry over; unknown items get rows (`model.growth`).
    `training` gives batch size, loss, seed, device and threads, `increment` the epochs and the learning rate. Raises
    DataRejected for fewer than `min_new_events` events or none that is a target, DependencyFailed for `cuda`
    without CUDA.
    """
    if len(new) < max(1, increment.min_new_events):
        raise DataRejected(f"events: {len(new)} new events, fewer than min_new_events = {increment.min_new_events}")
    options = replace(training, epochs=increment.epochs, learning_rate=increment.learning_rate)
    length = parent.ranker.config.max_history
    histories, new_N = merge(past, new)
    vocabulary = parent.vocabulary.grown(str(item) for item in histories.items)
    corpus = Corpus.of(histories, vocabulary.rows(histories.items))
    fresh = cover(corpus, new_N, length=length)
    opens_U = new_N[corpus.offsets_U1[:-1]]
    if not len(fresh) and not corpus.first_U[opens_U].any():
        raise DataRejected(f"events: {len(new)} new events hold no target (dislikes, or repeats of one item)")
    wanted = increment.replay_share / (1 - increment.replay_share) * fresh.targets_W(corpus.next_N).sum()
    stop_U = _last_past_position(corpus, new_N)

    def epoch_of(epoch: int) -> Epoch:
        rng = np.random.default_rng([options.seed, epoch])
        old = tile(corpus, length=length, rng=rng, stop_U=stop_U)
        windows = fresh + _draw(old, corpus, wanted, rng)
        return Epoch.of(corpus, windows, first_F=corpus.first_U[opens_U], batch_tokens=options.batch_tokens, rng=rng)

    with seeded_threads(options.threads):
        ranker, state = grow(
            parent.ranker,
            parent.optimizer_state,
            items=len(vocabulary),
            row_N=corpus.row_N,
            user_N=histories.user_N(),
        )
        outcome = train(
            ranker,
            epoch_of=epoch_of,
            options=options,
            schedule=Schedule.CONSTANT,
            optimizer_state=state,
            count_V=np.bincount(corpus.row_N, minlength=len(vocabulary) + 1)[1:],
            fingerprint=_fingerprint(corpus, vocabulary, new_N, asdict(increment), asdict(options), parent.digest),
            run=run,
            on_step=on_step,
        )
    return Fitted(ranker, vocabulary, **outcome.__dict__)


def save_fitted(fitted: Fitted, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` as Hugging Face does, with optimiser, vocabulary and loss beside.

    The folder appears whole or not at all; one that is there is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    transformers_logging.disable_progress_bar()  # one small file needs no bar
    temporary.mkdir()
    # what save_pretrained writes, without its progress bars
    fitted.ranker.config.save_pretrained(temporary)
    save_file(fitted.ranker.state_dict(), temporary / "model.safetensors", metadata={"format": "pt"})
    save_file(
        {name: tensor.contiguous() for name, tensor in fitted.optimizer_state.items()},
        temporary / "optimizer.safetensors",
    )
    fitted.vocabulary.save(temporary / "vocabulary.json")
    training = {"losses": fitted.losses, "steps": fitted.steps, "seconds": fitted.seconds, "tokens": fitted.tokens}
    (temporary / "training.json").write_text(json.dumps(training), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def load_fitted(folder: Path) -> Fitted:
    """What `save_fitted` wrote, scoring identically. Raises DataRejected when a part is missing or broken."""
    transformers_logging.disable_progress_bar()
    try:
        training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            ranker = Ranker(RankerConfig.from_json_file(folder / "config.json"))
        # cloned, because a product over the file's own unaligned memory rounds differently
        weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        ranker.load_state_dict(weights, assign=True)
        optimizer = load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataRejected(f"{folder}: not a model checkpoint ({error}); restore it or train again") from error
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    losses = tuple((int(step), float(loss)) for step, loss in training.pop("losses"))
    return Fitted(ranker.eval(), vocabulary, optimizer, losses, **training)


def _last_past_position(corpus: Corpus, new_N: np.ndarray) -> np.ndarray:
    """For each user, the end of the positions whose target is past."""
    first_new_U = corpus.offsets_U1[1:].copy()
    at = np.flatnonzero(new_N)
    np.minimum.at(first_new_U, np.searchsorted(corpus.offsets_U1, at, side="right") - 1, at)
    return first_new_U - 1


def _draw(windows: Windows, corpus: Corpus, targets: float, rng: np.random.Generator) -> Windows:
    """Random windows until they hold `targets` targets, or all."""
    order_W = rng.permutation(len(windows))
    held_W = np.cumsum(windows.targets_W(corpus.next_N)[order_W])
    return windows.keep(order_W[: int(np.searchsorted(held_W, targets, side="left")) + 1] if targets else order_W[:0])


def _fingerprint(corpus: Corpus, vocabulary: Vocabulary, *parts: object) -> str:
    """What a checkpoint must agree on to be continued. The device and threads may differ; the bits then may too."""
    h = hashlib.sha256(vocabulary.to_json().encode())
    for array in _arrays(corpus.__dict__.values()):
        h.update(np.ascontiguousarray(array).data)
    for part in parts:
        if isinstance(part, np.ndarray):
            h.update(np.ascontiguousarray(part).data)
        else:
            stated = (
                {k: v for k, v in part.items() if k not in ("device", "threads")} if isinstance(part, dict) else part
            )
            h.update(json.dumps(stated, sort_keys=True).encode())
    return h.hexdigest()


def _arrays(values: Iterable[object]) -> list[np.ndarray]:
    return [value for value in values if isinstance(value, np.ndarray)]
