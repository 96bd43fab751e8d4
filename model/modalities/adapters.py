"""An encoder fine-tuned on which items follow each other, through a few weights beside its own.

Shapes: P pairs of items, B pairs of a step, K dimensions, H width of a layer, R rank.
"""

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from model.digest import digest_tensors
from model.modalities.encoders import Content, Encoder
from model.modalities.options import Adapter, AdapterOptions, Kind
from relations.errors import DataRejected, UsageError

NARROWING = 2
"""A linear layer whose input is at least this many times as wide as its output ends a feed-forward part."""
CLIP_NORM = 1.0


class Bottleneck(nn.Module):
    """h ↦ h + W_up GELU(W_down h), after a feed-forward part's last layer; W_up = 0 at first, so it starts as nothing.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, section 2.1, in the place of
    Pfeiffer et al., AdapterFusion, EACL 2021. peft has no such adapter.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.out_features, rank)
        self.up = nn.Linear(rank, layer.out_features)
        nn.init.normal_(self.down.weight, std=layer.out_features**-0.5)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        added: Tensor = self.up(functional.gelu(self.down(h)))
        return h + added


@dataclass(frozen=True)
class Tuned:
    encoder: Encoder
    """Ready to encode: LoRA is merged into the weights, the other two stay in the path."""
    options: AdapterOptions
    weights: Mapping[str, Tensor]
    """What was trained, by name."""
    base: str
    """Digest of the encoder that it was trained beside."""
    losses: tuple[float, ...]
    """Nats, a step each."""


def adapted(encoder: Encoder, options: AdapterOptions) -> Encoder:
    """A copy of `encoder` whose adapter alone is trainable; the adapter changes nothing yet, but prefixes, which do.

    Raises UsageError where this encoder has no place for that adapter.
    """
    model = copy.deepcopy(encoder.model)
    model.requires_grad_(False)
    if options.adapter is Adapter.NONE:
        raise ValueError("there is no adapter to train")
    if options.adapter is Adapter.BOTTLENECK:
        return replace(encoder, model=_with_bottlenecks(model, options.rank, encoder.name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft asks transformers by names that go in its next version
            if options.adapter is Adapter.PREFIX:
                if encoder.kind is not Kind.TEXT:
                    raise ValueError("prefixes are for texts")
                prefix = PrefixTuningConfig(
                    task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=options.rank, prefix_projection=False
                )
                tuned = get_peft_model(model, prefix)
            else:
                tuned = _with_lora(model, options.rank)
    except (ValueError, AttributeError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f'adapter = "{options.adapter}" does not fit the encoder {encoder.name}: {error}; '
            'use "lora" or "bottleneck", or "none"'
        ) from error
    return replace(encoder, model=tuned.eval())


def tune(encoder: Encoder, contents: Sequence[Content], pair_P2: np.ndarray, *, options: AdapterOptions) -> Tuned:
    """Train an adapter on pairs of items (indices into `contents`) that users met one after the other.

    The loss is symmetric InfoNCE (van den Oord et al. 2018, eq. 4) at `temperature`: among the batch's items, find the
    partner's. A negative that is one of the pair's own items does not count. Deterministic by `seed` on a CPU. Raises
    DataRejected for fewer than two distinct pairs' worth of items.
    """
    pair_P2 = pair_P2[pair_P2[:, 0] != pair_P2[:, 1]]
    if len(np.unique(pair_P2)) < 3:
        raise DataRejected(
            f"events: {len(pair_P2)} pairs of successive items are too few to fine-tune {encoder.name} on; "
            'ingest more events, or set adapter = "none"'
        )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(options.seed)
        learner = adapted(encoder, options)
        weights = [parameter for _, parameter in _trainable(learner)]
        optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
        # the encoder stays in eval mode: its dropout would blur vectors that are encoded without it
        rng = np.random.default_rng(options.seed)
        losses = []
        for step in range(options.steps):
            for group in optimizer.param_groups:  # falls to 0 in a straight line
                group["lr"] = options.learning_rate * (1 - step / options.steps)
            chosen_B2 = pair_P2[rng.choice(len(pair_P2), size=min(options.batch_pairs, len(pair_P2)), replace=False)]
            loss = info_nce(
                learner.vectors([contents[index] for index in chosen_B2[:, 0]]),
                learner.vectors([contents[index] for index in chosen_B2[:, 1]]),
                torch.from_numpy(chosen_B2),
                temperature=options.temperature,
            )
            if not torch.isfinite(loss):
                raise DataRejected(
                    f"{encoder.name}: the loss of step {step + 1} is {loss.item()}; lower adapter_learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimizer.step()
            losses.append(loss.item())
    trained = {name: parameter.detach() for name, parameter in _trainable(learner)}
    return Tuned(_finished(learner, encoder.digest, options, trained), options, trained, encoder.digest, tuple(losses))


def save_adapter(tuned: Tuned, file: Path) -> None:
    """The trained weights alone, with what they belong to; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    stated = {"base": tuned.base, "options": json.dumps(asdict(tuned.options)), "losses": json.dumps(tuned.losses)}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tuned.weights.items()}, temporary, metadata=stated)
    temporary.replace(file)


def load_adapter(encoder: Encoder, file: Path) -> Tuned:
    """What `save_adapter` wrote, beside the same encoder. Raises DataRejected when the file is broken or of another."""
    try:
        with safe_open(file, framework="pt") as stored:
            stated = stored.metadata()
            trained = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 -- not a mapping
        options = AdapterOptions(**json.loads(stated["options"]))
        losses = tuple(json.loads(stated["losses"]))
        base = stated["base"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{file}: not an adapter ({error}); run a full retrain") from error
    if base != encoder.digest:
        raise DataRejected(f"{file}: trained beside another encoder than {encoder.name}; run a full retrain")
    learner = adapted(encoder, options)
    places = dict(_trainable(learner))
    if {name: tensor.shape for name, tensor in trained.items()} != {name: p.shape for name, p in places.items()}:
        raise DataRejected(f"{file}: its weights do not fit {encoder.name}; run a full retrain")
    with torch.no_grad():
        for name, parameter in places.items():
            parameter.copy_(trained[name])
    return Tuned(_finished(learner, base, options, trained), options, trained, base, losses)


def info_nce(left_BK: Tensor, right_BK: Tensor, item_B2: Tensor, *, temperature: float) -> Tensor:
    """−½ mean_b [log softmax_c(l_b·r_c / τ)_b + log softmax_c(r_b·l_c / τ)_b], in nats.

    A column c ≠ b is left out where its item is the pair's own, on either side: it is no negative.
    """
    logit_BB = left_BK @ right_BK.T / temperature
    item_B2 = item_B2.to(logit_BB.device)
    itself_BB = torch.eye(len(item_B2), dtype=torch.bool, device=logit_BB.device)

    def masked(column: int) -> Tensor:
        candidate = item_B2[:, column]
        own_BB = (item_B2[:, 0, None] == candidate) | (item_B2[:, 1, None] == candidate)
        return own_BB & ~itself_BB

    target_B = torch.arange(len(item_B2), device=logit_BB.device)
    forth = functional.cross_entropy(logit_BB.masked_fill(masked(1), -torch.inf), target_B)
    back = functional.cross_entropy(logit_BB.T.masked_fill(masked(0), -torch.inf), target_B)
    return (forth + back) / 2


def successive_pairs(item_N: np.ndarray, user_N: np.ndarray, *, window: int = 2) -> np.ndarray:
    """Int64 [P, 2]: items that a user met at most `window` events apart, each such pair of places once.

    `item_N`, `user_N`: events in each user's order of time. Pairs of one item with itself are left out.
    """
    pairs = []
    for shift in range(1, window + 1):
        near = (user_N[shift:] == user_N[:-shift]) & (item_N[shift:] != item_N[:-shift])
        pairs.append(np.stack([item_N[:-shift][near], item_N[shift:][near]], axis=1))
    return np.concatenate(pairs).astype(np.int64)


def _with_lora(model: nn.Module, rank: int) -> PeftModel:
    """LoRA (Hu et al., ICLR 2022) on the layers that peft knows for this architecture, else on all linear ones."""
    try:
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank))
    except ValueError:
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def _with_bottlenecks(model: nn.Module, rank: int, name: str) -> nn.Module:
    places = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.in_features >= NARROWING * module.out_features
    ]
    if not places:
        raise UsageError(f'adapter = "bottleneck": {name} has no feed-forward layers; use "lora", or "none"')
    for path, layer in places:
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, Bottleneck(layer, rank).to(layer.weight))
    return model.eval()


def _trainable(learner: Encoder) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in learner.model.named_parameters() if parameter.requires_grad]


def _finished(learner: Encoder, base: str, options: AdapterOptions, trained: Mapping[str, Tensor]) -> Encoder:
    """Ready to encode, with a digest of what was trained: merging may round otherwise on another machine."""
    model = learner.model
    if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
        model = model.merge_and_unload()
    model.requires_grad_(False)
    return replace(learner, model=model.eval(), digest=digest_tensors(trained, f"{base}{options.adapter}"))
