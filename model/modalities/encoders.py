"""Encoders from Hugging Face: a text, a picture or a sound to one vector of length 1.

Shapes: B contents of a batch, N contents in all, T tokens or patches, K dimensions.
"""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from model.digest import digest_tensors
from model.modalities.options import Kind
from relations.errors import UsageError

Content = str | bytes
"""A text, or the bytes of a picture's or sound's file."""

BATCH_TOKENS = 8_192
"""Tokens of texts in one batch, padding included."""
BATCH_FILES = 32
"""Pictures in one batch. Sounds go one by one: padding would be heard."""
UNUSED = ("pooler", "masked_spec_embed")
"""Weights that the last states do not depend on; an encoder may lack them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """A model of any architecture that `AutoModel` knows, and what prepares its input. The model is in eval mode."""

    kind: Kind
    name: str
    model: nn.Module
    prepare: Any  # a tokenizer, an image processor or a feature extractor
    digest: str
    """SHA-256 of weights and preparation: equal digests mean equal vectors."""
    max_tokens: int

    def vectors(self, contents: Sequence[Content]) -> Tensor:
        """[B, K] of length 1, differentiable; the mean of the last states, padding left out.

        Source for the mean: Reimers and Gurevych, Sentence-BERT, EMNLP 2019, section 3. Raises ValueError for a file
        that `readable` refuses.
        """
        inputs = self._inputs(contents)
        state = self.model(**inputs).last_hidden_state
        if state.ndim == 4:  # convolutions: [B, K, H, W]
            state = state.flatten(2).transpose(1, 2)
        mask_BT = inputs.get("attention_mask")
        if self.kind is Kind.TEXT and mask_BT is not None:
            weight_BT1 = mask_BT[..., None].to(state.dtype)
            mean_BK = (state * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1)
        else:
            mean_BK = state.mean(dim=1)
        return functional.normalize(mean_BK.float(), dim=-1)

    def readable(self, content: Content) -> bool:
        """Whether there is anything to encode: a text that is not blank, or a file that opens."""
        if self.kind is Kind.TEXT:
            return isinstance(content, str) and bool(content.strip())
        try:
            self._opened(content)
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow and SciPy raise for broken files
            logger.info("%s: a file cannot be read: %s", self.kind, error)
            return False
        return True

    def _inputs(self, contents: Sequence[Content]) -> dict[str, Tensor]:
        if self.kind is Kind.TEXT:
            # types of tokens tell sentences of a pair apart; there is one sentence
            inputs = self.prepare(
                list(contents),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_token_type_ids=False,
                return_tensors="pt",
            )
        elif self.kind is Kind.IMAGE:
            inputs = self.prepare(images=[self._opened(content) for content in contents], return_tensors="pt")
        else:
            sounds = [self._opened(content) for content in contents]
            inputs = self.prepare(sounds, sampling_rate=self.prepare.sampling_rate, return_tensors="pt")
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in inputs.items()}

    def _opened(self, content: Content) -> Any:
        if isinstance(content, str):
            raise ValueError("a text where a file was expected")
        return _picture(content) if self.kind is Kind.IMAGE else _sound(content, self.prepare.sampling_rate)


def load_encoder(name: str, *, kind: Kind, max_tokens: int = 128, device: torch.device | None = None) -> Encoder:
    """From a local folder or by hub name; `HF_HUB_OFFLINE=1` and a filled hub cache keep it off the network.

    Raises UsageError when there is no such encoder or it prepares another kind of content.
    """
    preparing = {Kind.TEXT: AutoTokenizer, Kind.IMAGE: AutoImageProcessor, Kind.AUDIO: AutoFeatureExtractor}
    if kind not in preparing:
        raise ValueError(f"a {kind} has no encoder")
    try:
        with _silent():
            model, found = AutoModel.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, use_safetensors=True
            )
            prepare = preparing[kind].from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f'encoder = "{name}": not loaded as an encoder of {kind}: {str(error).splitlines()[0]}; name a folder that '
            "save_pretrained wrote, or a hub name that is in the cache or can be fetched"
        ) from error
    missing = set(found["missing_keys"])
    needed = sorted(key for key in missing if not any(part in key for part in UNUSED))
    if needed:
        raise UsageError(
            f'encoder = "{name}": it holds no weights for {needed[0]}; restore its folder, or name another'
        )
    if kind is Kind.TEXT:
        limit = getattr(model.config, "max_position_embeddings", max_tokens)
        max_tokens = min(max_tokens, limit, prepare.model_max_length)
    backend = getattr(prepare, "backend_tokenizer", None)
    stated = backend.to_str() if backend is not None else _stated(prepare)
    weights = {key: tensor for key, tensor in model.state_dict().items() if key not in missing}
    digest = digest_tensors(weights, f"mean/1\0{kind}\0{max_tokens}\0{stated}")
    model = model.to(device or torch.device("cpu")).eval()
    return Encoder(kind, Path(name).name, model, prepare, digest, max_tokens)


@torch.no_grad()
def encode(encoder: Encoder, contents: Sequence[Content]) -> np.ndarray:
    """Float32 [N, K] in the order of `contents`, all readable; texts go by length, so that little is padding.

    A content's last bits depend on what shares its batch; the same contents give the same bits on a CPU.
    """
    answer: np.ndarray | None = None
    for batch in _batches(encoder, contents):
        vector_BK = encoder.vectors([contents[index] for index in batch]).cpu().numpy()
        if answer is None:
            answer = np.zeros((len(contents), vector_BK.shape[1]), dtype=np.float32)
        answer[batch] = vector_BK
    return np.zeros((0, 0), dtype=np.float32) if answer is None else answer


def _batches(encoder: Encoder, contents: Sequence[Content]) -> Iterator[list[int]]:
    if encoder.kind is not Kind.TEXT:
        step = BATCH_FILES if encoder.kind is Kind.IMAGE else 1
        for at in range(0, len(contents), step):
            yield list(range(at, min(at + step, len(contents))))
        return
    if not contents:
        return
    tokens = encoder.prepare(list(contents), truncation=True, max_length=encoder.max_tokens)["input_ids"]
    length_N = np.array([len(ids) for ids in tokens])
    batch: list[int] = []
    for index in np.argsort(-length_N, kind="stable").tolist():
        if batch and (len(batch) + 1) * int(length_N[batch[0]]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _picture(content: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _sound(content: bytes, rate: int) -> np.ndarray:
    """Mono float32 in [-1, 1] at `rate` samples a second, from a WAV file."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    found, sample = wavfile.read(io.BytesIO(content))
    if not len(sample):
        raise ValueError("a sound without samples")
    if sample.dtype == np.uint8:  # 8 bits are stored from 0
        sample = sample.astype(np.float32) - 128
        largest = 128.0
    else:
        largest = float(np.iinfo(sample.dtype).max) + 1 if np.issubdtype(sample.dtype, np.integer) else 1.0
    sample = sample.astype(np.float32) / largest
    mono = sample.mean(axis=1) if sample.ndim == 2 else sample
    return np.asarray(mono if found == rate else resample_poly(mono, rate, found), dtype=np.float32)


def _stated(prepare: Any) -> str:
    stated = prepare.to_dict() if hasattr(prepare, "to_dict") else prepare.get_vocab()
    return json.dumps(stated, sort_keys=True, default=str)


@contextmanager
def _silent() -> Iterator[None]:
    """Without bars, and without remarks on a torchvision that Pillow stands in for."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
