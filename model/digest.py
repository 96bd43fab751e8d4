"""One digest for a set of named tensors and the text that belongs to them."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def digest_tensors(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 (hex) of names, types, shapes and bytes, whatever the mapping's order, and of `text`."""
    h = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        h.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        h.update(array.tobytes())
    return h.hexdigest()
