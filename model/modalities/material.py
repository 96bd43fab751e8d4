"""One modality's vectors beside a vocabulary, and the whitening that the network sees them through.

Shapes: V items, K dimensions of a vector, W whitened directions.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relations.errors import DataRejected

SHRINKAGE = 0.01
"""Share of the mean variance added to every direction's: those that hold but noise are not blown up."""


@dataclass(frozen=True)
class Modality:
    """Vectors of one modality: entry i belongs to vocabulary row i + 1. Absent items have vectors of zeros.

    `source` names what made the vectors (an encoder's digest): vectors of two sources never mix. Raises ValueError for
    shapes that do not agree.
    """

    vector_VK: np.ndarray  # float32
    present_V: np.ndarray  # bool; the missing-modality mask
    source: str = ""
    dims: int = 64
    """Whitened directions to keep; 0: all."""
    id_dropout: float = 0.1

    def __post_init__(self) -> None:
        vector_VK, present_V = np.asarray(self.vector_VK, dtype=np.float32), np.asarray(self.present_V, dtype=bool)
        if vector_VK.ndim != 2 or present_V.shape != vector_VK.shape[:1] or not vector_VK.shape[1]:
            raise ValueError(f"vectors {vector_VK.shape} and mask {present_V.shape} are not [V, K] and [V]")
        object.__setattr__(self, "vector_VK", np.where(present_V[:, None], vector_VK, np.float32(0)))
        object.__setattr__(self, "present_V", present_V)

    def __len__(self) -> int:
        return len(self.present_V)

    @property
    def kept(self) -> int:
        """W, the directions that the network sees."""
        width = int(self.vector_VK.shape[1])
        return min(self.dims, width) if self.dims else width

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a training sees of it."""
        h = hashlib.sha256(f"{self.source}\0{self.vector_VK.shape}\0{self.dims}\0{self.id_dropout}\0".encode())
        h.update(self.present_V.tobytes())
        h.update(self.vector_VK.tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class NamedVectors:
    """One modality's vectors by item id, before it is known which vocabulary they stand beside.

    Raises DataRejected for an id that occurs twice or a vector that holds something that is no number.
    """

    items: tuple[str, ...]
    vector_IK: np.ndarray  # float32
    source: str = ""
    dims: int = 64
    id_dropout: float = 0.1

    def __post_init__(self) -> None:
        vector_IK = np.asarray(self.vector_IK, dtype=np.float32)
        if vector_IK.ndim != 2 or len(vector_IK) != len(self.items):
            raise ValueError(f"vectors {vector_IK.shape} of {len(self.items)} items are not [I, K]")
        if len(set(self.items)) != len(self.items):
            raise DataRejected("items: two vectors of one item in one modality; keep the newest")
        broken_I = ~np.isfinite(vector_IK).all(axis=1)
        if broken_I.any():
            raise DataRejected(
                f"items: {int(broken_I.sum())} vectors hold NaN or infinity, first that of "
                f"{self.items[int(np.flatnonzero(broken_I)[0])]!r}; leave such vectors out"
            )
        object.__setattr__(self, "vector_IK", vector_IK)

    def beside(self, items: Sequence[str]) -> Modality:
        """Laid beside `items` (a vocabulary's); those without a vector are absent."""
        at = {item: index for index, item in enumerate(self.items)}
        at_V = np.fromiter((at.get(item, -1) for item in items), dtype=np.int64, count=len(items))
        vector_VK = np.zeros((len(items), self.vector_IK.shape[1]), dtype=np.float32)
        vector_VK[at_V >= 0] = self.vector_IK[at_V[at_V >= 0]]
        return Modality(vector_VK, at_V >= 0, source=self.source, dims=self.dims, id_dropout=self.id_dropout)


@dataclass(frozen=True)
class Whitening:
    """x ↦ (x − μ) W with W = U_w (Λ_w + ε)^(−1/2): the first directions of the covariance, of unit variance each.

    Vectors of language models lie in a narrow cone, in which all items look alike. Source: Zhang, Hu et al., "Are ID
    Embeddings Necessary? Whitening Pre-trained Text Embeddings for Effective Sequential Recommendation", ICDE 2024,
    section III. ε = SHRINKAGE · mean(Λ).
    """

    mean_K: np.ndarray  # float32
    matrix_KW: np.ndarray  # float32

    @staticmethod
    def fit(modality: Modality) -> "Whitening":
        """From the present vectors. With none of them, or all alike, the matrix is 0: such vectors say nothing."""
        here_NK = modality.vector_VK[modality.present_V].astype(np.float64)
        width, kept = modality.vector_VK.shape[1], modality.kept
        if not len(here_NK):
            return Whitening(np.zeros(width, dtype=np.float32), np.zeros((width, kept), dtype=np.float32))
        mean_K = here_NK.mean(axis=0)
        centred_NK = here_NK - mean_K
        variance_K, direction_KK = np.linalg.eigh(centred_NK.T @ centred_NK / len(here_NK))
        variance_W, direction_KW = variance_K[::-1][:kept].clip(min=0), direction_KK[:, ::-1][:, :kept]
        spread = variance_K.clip(min=0).mean()
        # vectors that are alike but for rounding have no directions
        if spread <= 1e-12 * max(1.0, float(np.square(mean_K).mean())):
            return Whitening(mean_K.astype(np.float32), np.zeros((width, kept), dtype=np.float32))
        # an eigenvector's sign is the library's whim: the largest entry is made positive
        largest_W = direction_KW[np.abs(direction_KW).argmax(axis=0), np.arange(kept)]
        direction_KW = direction_KW * np.where(largest_W < 0, -1.0, 1.0)
        matrix_KW = direction_KW / np.sqrt(variance_W + SHRINKAGE * spread)
        return Whitening(mean_K.astype(np.float32), matrix_KW.astype(np.float32))

    def apply(self, modality: Modality) -> np.ndarray:
        """Float32 [V, W]; zeros where the modality is absent."""
        white_VW = (modality.vector_VK - self.mean_K) @ self.matrix_KW
        return np.where(modality.present_V[:, None], white_VW, np.float32(0))
