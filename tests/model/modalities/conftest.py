"""Tiny encoders of real architectures, with random weights, saved as a hub folder has them."""

import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from model.modalities.encoders import Encoder, load_encoder
from model.modalities.options import Kind

WORDS = ("red", "blue", "green", "shoe", "hat", "coat", "size", "small", "large", "naïve")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **SMALL)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(ViTConfig(image_size=16, patch_size=8, **SMALL), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    config = Wav2Vec2Config(
        conv_dim=(8, 8),
        conv_kernel=(20, 16),
        conv_stride=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        **SMALL,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(text_folder: Path) -> Encoder:
    return load_encoder(str(text_folder), kind=Kind.TEXT)


@pytest.fixture(scope="session")
def pictures(image_folder: Path) -> Encoder:
    return load_encoder(str(image_folder), kind=Kind.IMAGE)


@pytest.fixture(scope="session")
def png() -> Callable[[tuple[int, int, int]], bytes]:
    def make(colour: tuple[int, int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (20, 12), colour).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def wav() -> Callable[[float], bytes]:
    """A second of a tone of so many hertz, at 16,000 samples a second."""

    def make(hertz: float) -> bytes:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            sample = np.sin(np.arange(16000) * (2 * np.pi * hertz / 16000))
            file.writeframes((sample * 32767).astype("<i2").tobytes())
        return buffer.getvalue()

    return make
