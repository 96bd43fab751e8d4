import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.modalities import cache
from model.modalities.cache import cached_vectors
from model.modalities.encoders import BATCH_TOKENS, Encoder, _batches, encode, load_encoder
from model.modalities.options import Kind, ModalityOptions
from relations.errors import UsageError

TITLES = ["red shoe", "blue hat size small", "naïve", "red shoe red shoe red shoe red shoe", "unheard of", "ü 東京"]


def test_text_vectors_are_the_mean_of_the_last_states(texts: Encoder) -> None:
    ours_NK = encode(texts, TITLES)
    for title, ours_K in zip(TITLES, ours_NK, strict=True):  # one by one there is no padding
        with torch.no_grad():
            state_TK = texts.model(**texts.prepare(title, return_tensors="pt")).last_hidden_state[0].numpy()
        mean_K = state_TK.mean(axis=0)
        np.testing.assert_allclose(ours_K, mean_K / np.linalg.norm(mean_K), atol=1e-5)
    np.testing.assert_array_equal(ours_NK, encode(texts, TITLES))
    assert encode(texts, []).shape == (0, 0)


def test_batches_go_by_length_and_hold_everything_once(texts: Encoder) -> None:
    many = ["red"] * 900 + ["red shoe " * 10] * 600 + ["hat " * 99]  # 3, 22 and (cut to the model's places) 32 tokens
    batches = list(_batches(texts, many))
    assert sorted(index for batch in batches for index in batch) == list(range(len(many)))
    length_N = [3] * 900 + [22] * 600 + [32]
    for batch in batches:
        assert len(batch) * max(length_N[index] for index in batch) <= BATCH_TOKENS


@pytest.mark.parametrize("said", ["", "  \n"])
def test_a_blank_text_is_missing(texts: Encoder, said: str) -> None:
    assert not texts.readable(said)
    assert texts.readable("red")


def test_pictures_of_any_size(
    pictures: Encoder, png: Callable[[tuple[int, int, int]], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    red, blue = png((255, 0, 0)), png((0, 0, 255))
    vector_NK = encode(pictures, [red, blue, red])
    np.testing.assert_allclose(np.linalg.norm(vector_NK, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vector_NK[0], vector_NK[2])
    assert vector_NK[0] @ vector_NK[1] < 0.999
    assert pictures.readable(red)
    with caplog.at_level(logging.INFO):
        assert not pictures.readable(red[:40])
        assert not pictures.readable(b"")
        assert not pictures.readable("a text")
    assert "cannot be read" in caplog.text


def test_sounds_at_any_rate(audio_folder: Path, wav: Callable[[float], bytes]) -> None:
    sounds = load_encoder(str(audio_folder), kind=Kind.AUDIO)
    low, high = wav(200), wav(3000)
    vector_NK = encode(sounds, [low, high, low])
    np.testing.assert_allclose(np.linalg.norm(vector_NK, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vector_NK[0], vector_NK[2])
    assert vector_NK[0] @ vector_NK[1] < 0.999
    assert sounds.readable(low)
    assert not sounds.readable(b"RIFF nonsense")


def test_what_is_no_encoder_is_named(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*save_pretrained"):
        load_encoder(str(tmp_path / "nowhere"), kind=Kind.TEXT)
    with pytest.raises(UsageError, match="not loaded as an encoder of text"):
        load_encoder(str(image_folder), kind=Kind.TEXT)
    half = shutil.copytree(image_folder, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    save_file(
        {name: w for name, w in weights.items() if "layers.1" not in name and "layer.1" not in name},
        half / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UsageError, match=r"no weights for .*1\."):
        load_encoder(str(half), kind=Kind.IMAGE)


def test_the_digest_tells_weights_and_preparation(texts: Encoder, text_folder: Path, tmp_path: Path) -> None:
    assert load_encoder(str(text_folder), kind=Kind.TEXT).digest == texts.digest
    assert load_encoder(str(text_folder), kind=Kind.TEXT, max_tokens=8).digest != texts.digest
    moved = shutil.copytree(text_folder, tmp_path / "moved")
    assert load_encoder(str(moved), kind=Kind.TEXT).digest == texts.digest
    words = (moved / "tokenizer.json").read_text(encoding="utf-8")
    (moved / "tokenizer.json").write_text(words.replace('"red"', '"rot"'), encoding="utf-8")
    assert load_encoder(str(moved), kind=Kind.TEXT).digest != texts.digest


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every content that is really encoded."""
    asked: list[str] = []

    def spy(encoder: Encoder, contents: list[str]) -> np.ndarray:
        asked.extend(contents)
        return encode(encoder, contents)

    monkeypatch.setattr(cache, "encode", spy)
    return asked


def test_a_content_is_encoded_once(texts: Encoder, tmp_path: Path, seen: list[str]) -> None:
    first_NK = cached_vectors(tmp_path, texts, ["red hat", "blue hat", "red hat"])
    np.testing.assert_allclose(first_NK, encode(texts, ["red hat", "blue hat", "red hat"]), atol=1e-6)
    assert sorted(seen) == ["blue hat", "red hat"]
    again_NK = cached_vectors(tmp_path, texts, ["green coat", "blue hat"])
    assert seen[2:] == ["green coat"]
    np.testing.assert_array_equal(again_NK[1], first_NK[1])
    other = load_encoder_like(texts)
    cached_vectors(tmp_path, other, ["blue hat"])  # another encoder has vectors of its own
    assert seen[3:] == ["blue hat"]
    assert cached_vectors(tmp_path, texts, []).shape == (0, 0)


def load_encoder_like(encoder: Encoder) -> Encoder:
    return Encoder(encoder.kind, "other", encoder.model, encoder.prepare, "f" * 64, encoder.max_tokens)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_broken_entry_is_made_again(texts: Encoder, tmp_path: Path, seen: list[str], damage: str) -> None:
    whole_NK = cached_vectors(tmp_path, texts, ["red hat", "blue hat"])
    cached_vectors(tmp_path, texts, ["coat"])
    file = next(file for file in tmp_path.rglob("*.safetensors") if file.stat().st_size > 300)
    broken = bytearray(file.read_bytes())
    broken[-7] ^= 1  # in the vectors
    file.write_bytes({"flip": bytes(broken), "cut": bytes(broken[:-9]), "empty": b""}[damage])
    seen.clear()
    np.testing.assert_allclose(cached_vectors(tmp_path, texts, ["red hat", "blue hat"]), whole_NK, atol=1e-6)
    assert len(seen) <= 2
    seen.clear()
    cached_vectors(tmp_path, texts, ["red hat", "blue hat", "coat"])
    assert set(seen) <= {"coat"}  # if it was its file that was hit
    cached_vectors(tmp_path, texts, ["red hat", "blue hat", "coat"])
    assert len(seen) <= 1


def test_many_small_files_become_one(texts: Encoder, tmp_path: Path, seen: list[str]) -> None:
    for index in range(cache.FILES + 3):
        cached_vectors(tmp_path, texts, [f"hat {index} " + "red " * index])
    assert len(list(tmp_path.rglob("*.safetensors"))) <= cache.FILES
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]  # nothing half written is left
    seen.clear()
    cached_vectors(tmp_path, texts, [f"hat {index} " + "red " * index for index in range(cache.FILES + 3)])
    assert seen == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "text"}, "needs an encoder"),
        ({"kind": "image", "encoder": "e", "columns": ("a", "b")}, "one column"),
        ({"kind": "image", "encoder": "e", "columns": ("a",), "adapter": "prefix"}, "for texts"),
        ({"kind": "vector", "encoder": "e"}, "ready made"),
        ({"kind": "vector", "columns": ("a", "b")}, "one column"),
        ({"kind": "text", "encoder": "e", "id_dropout": 1.5}, "no share"),
    ],
)
def test_choices_that_exclude_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModalityOptions(**options)  # type: ignore[arg-type]


def test_columns_have_defaults() -> None:
    assert ModalityOptions(encoder="e").columns_of("text") == ("title",)
    assert ModalityOptions(kind=Kind.VECTOR).columns_of("clip") == ("clip",)
