"""A trained ranker with all that a later increment needs, in memory and as a folder."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from model.digest import digest_tensors
from model.features import PLAIN, FeatureSpec
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.options import ObjectiveOptions
from model.optimizers.private import Phase
from model.private_steps import Privacy
from model.vocabulary import Vocabulary
from relations.errors import DataRejected


@dataclass(frozen=True)
class Fitted:
    """The ranker is on the CPU and in eval mode. `objective_state`: what its loss has learnt."""

    ranker: Ranker
    objective: ObjectiveOptions
    objective_state: dict[str, Tensor]
    vocabulary: Vocabulary
    optimizer_state: dict[str, Tensor]  # "<parameter>/<kind>" → tensor
    losses: tuple[tuple[int, float], ...]  # (step from 1, nats)
    steps: int
    seconds: float
    tokens: int
    targets: int
    features: FeatureSpec = PLAIN
    privacy: Privacy | None = None
    """Of all trainings so far; None: none of them bounded what it tells of a user."""

    @property
    def digest(self) -> str:
        """SHA-256 of weights, vocabulary and feature spec: equal digests mean equal answers."""
        spec = json.dumps(self.features.stated()) if self.features.attributes else ""
        return digest_tensors(self.ranker.state_dict(), self.vocabulary.to_json() + spec)


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
    save_file(fitted.objective_state, temporary / "objective.safetensors")
    fitted.vocabulary.save(temporary / "vocabulary.json")
    training = {
        "losses": fitted.losses,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "tokens": fitted.tokens,
        "targets": fitted.targets,
        "objective": asdict(fitted.objective),
        "features": fitted.features.stated(),
        "privacy": None if fitted.privacy is None else asdict(fitted.privacy),
    }
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
        objective_state = load_file(folder / "objective.safetensors")
        objective = ObjectiveOptions(**training.pop("objective"))
        training["privacy"] = _privacy(training.get("privacy"))
        training["features"] = FeatureSpec.read(training.get("features", ()))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataRejected(f"{folder}: not a model checkpoint ({error}); restore it or train again") from error
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    losses = tuple((int(step), float(loss)) for step, loss in training.pop("losses"))
    return Fitted(ranker.eval(), objective, objective_state, vocabulary, optimizer, losses, **training)


def _privacy(stated: dict[str, Any] | None) -> Privacy | None:
    if stated is None:
        return None
    return Privacy(tuple(Phase(**phase) for phase in stated["phases"]), stated["delta"], stated["epsilon"])
