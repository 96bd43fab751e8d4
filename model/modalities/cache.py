"""Vectors on disk by content: what an encoder has seen it never encodes again.

One folder an encoder's digest; in it safetensors files named by what they hold, each written whole or not at all. Every
file states the digest of its own tensors: a flipped bit is found, the file dropped, and its contents encoded anew.

Shapes: N contents, K dimensions, E entries of a file.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model.modalities.encoders import Content, Encoder, encode
from relations.errors import DependencyFailed

FILES = 16
"""More files of one encoder than this are joined to one."""

logger = logging.getLogger(__name__)


def cached_vectors(folder: Path, encoder: Encoder, contents: Sequence[Content]) -> np.ndarray:
    """Float32 [N, K]: `encode`, but each distinct content at most once in this folder's life. All are readable.

    Raises DependencyFailed when the disk fails.
    """
    place = folder / encoder.digest[:32]
    key_N = [_key(content) for content in contents]
    known = _read(place)
    fresh = {key: content for key, content in zip(key_N, contents, strict=True) if key not in known}
    if fresh:
        # in the keys' order, so that the same contents have the same batches whatever asked for them
        keys = sorted(fresh)
        vector_EK = encode(encoder, [fresh[key] for key in keys])
        found = dict(zip(keys, vector_EK, strict=True))
        known |= found
        try:
            _write(place, found)
            _join(place, known)
        except OSError as error:
            raise DependencyFailed(
                f"{place}: cannot write: {error}; make space or fix the disk, then repeat"
            ) from error
    if not key_N:
        return np.zeros((0, 0), dtype=np.float32)
    return np.stack([known[key] for key in key_N])


def _key(content: Content) -> bytes:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).digest()


def _read(place: Path) -> dict[bytes, np.ndarray]:
    known: dict[bytes, np.ndarray] = {}
    for file in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as stored:
                key_E32, vector_EK = stored.get_tensor("keys"), stored.get_tensor("vectors")
                stated = (stored.metadata() or {}).get("digest")
        except (SafetensorError, OSError) as error:
            logger.warning("%s: %s; its contents are encoded again", file, error)
            file.unlink(missing_ok=True)
            continue
        if stated != _digest(key_E32, vector_EK):
            logger.warning("%s: its bytes are not those that were written; its contents are encoded again", file)
            file.unlink(missing_ok=True)
            continue
        known |= {key.tobytes(): vector for key, vector in zip(key_E32, vector_EK, strict=True)}
    return known


def _write(place: Path, entries: dict[bytes, np.ndarray]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    key_E32 = np.frombuffer(b"".join(entries), dtype=np.uint8).reshape(-1, 32)
    vector_EK = np.stack(list(entries.values()))
    digest = _digest(key_E32, vector_EK)
    file = place / f"{digest[:32]}.safetensors"
    temporary = place / f".{file.name}.{os.getpid()}"
    save_file({"keys": key_E32, "vectors": vector_EK}, temporary, metadata={"digest": digest})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(file)
    return file


def _join(place: Path, known: dict[bytes, np.ndarray]) -> None:
    """One file in place of many. Who reads meanwhile may miss one and encode its contents again: late, not wrong."""
    files = set(place.glob("*.safetensors"))
    if len(files) > FILES:
        whole = _write(place, dict(sorted(known.items())))
        for file in files - {whole}:
            file.unlink(missing_ok=True)


def _digest(key_E32: np.ndarray, vector_EK: np.ndarray) -> str:
    h = hashlib.sha256(f"{key_E32.shape}{vector_EK.shape}{vector_EK.dtype.str}".encode())
    h.update(np.ascontiguousarray(key_E32).tobytes())
    h.update(np.ascontiguousarray(vector_EK).tobytes())
    return h.hexdigest()
