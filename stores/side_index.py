"""Side indexes: rows of items that came after a release, for serving to rank beside the release's own.

`serving/side/<digest>/` is a bundle (`stores.bundle`) and holds, besides `items.json`, raw little-endian arrays:

    vectors.bin     float32 [R, D]
    biases.bin      float32 [R]

so that an item's score is state · vector + bias, as for the release's items. The manifest names the release that the
rows belong to, `base_digest`; its attestation says when it was built and from which version of the items table.

`serving/side.json` says which indexes are in force: one per release that may serve. It is replaced whole, so that a
champion and the challenger of its trial change theirs in one step. Plain NumPy: serving reads these.

Shapes: R new items, D width of the network's states.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected, DependencyFailed
from stores.bundle import Bundle, open_bundle, write_bundle
from stores.ledger_records import stamp
from stores.signatures import verify

KIND = "side"
FORMAT = 1
NEVER = 2**62
"""As `until_us`: no state of an item is known to begin later."""
_ITEMS, _VECTORS, _BIASES = "items.json", "vectors.bin", "biases.bin"


@dataclass(frozen=True)
class NewItem:
    """`valid_from_us`: of the row of the items table that its vector is made from, microseconds since 1970."""

    item_id: str
    valid_from_us: int
    described: bool
    """By a modality of the network; else it stands where its categories' items stand."""


@dataclass(frozen=True)
class SideIndex:
    """`digest` is "" while it is not written."""

    base_digest: str
    items: tuple[NewItem, ...]
    vector_RD: npt.NDArray[np.float32]
    bias_R: npt.NDArray[np.float32]
    digest: str = ""

    def __post_init__(self) -> None:
        ids = [item.item_id for item in self.items]
        count = len(ids)
        if self.vector_RD.ndim != 2 or self.vector_RD.shape[0] != count or self.bias_R.shape != (count,) or not count:
            raise DataRejected(
                f"side index of {self.base_digest[:12]}: {count} items, vectors {self.vector_RD.shape} and biases "
                f"{self.bias_R.shape} do not fit together; remove serving/side.json, the next ingest builds it anew"
            )
        if ids != sorted(set(ids)):
            raise DataRejected(f"side index of {self.base_digest[:12]}: items must be distinct and in order")
        if not (np.isfinite(self.vector_RD).all() and np.isfinite(self.bias_R).all()):
            raise DataRejected(f"side index of {self.base_digest[:12]}: holds values that are not finite")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(item.item_id for item in self.items)

    def only(
        self, kept: Sequence[int]
    ) -> "tuple[tuple[NewItem, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]":
        """Items, vectors and biases of these places."""
        places = np.array(kept, dtype=np.int64)
        return tuple(self.items[place] for place in kept), self.vector_RD[places], self.bias_R[places]


@dataclass(frozen=True)
class InForce:
    """What `side.json` says.

    `indexes`: by the digest of a release, that of its side index, or "" where there is no new item to show for it.
    `items_version`: of the items table; `until_us`: when the next state of an item begins, microseconds since 1970.
    `recipe`: of the settings that they were built by.
    """

    items_version: int
    until_us: int
    recipe: str
    indexes: Mapping[str, str] = field(default_factory=dict)


def write_side_index(index: SideIndex, folder: Path, *, items_version: int, now: datetime) -> SideIndex:
    """Write it as a bundle under `folder`, verified; the same rows give the same digest."""
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        stated = [[item.item_id, item.valid_from_us, item.described] for item in index.items]
        (files / _ITEMS).write_text(json.dumps(stated, separators=(",", ":")), encoding="utf-8")
        np.ascontiguousarray(index.vector_RD, "<f4").tofile(files / _VECTORS)
        np.ascontiguousarray(index.bias_R, "<f4").tofile(files / _BIASES)
        describe = {"kind": KIND, "base_digest": index.base_digest, "items": len(index.items), "width": _width(index)}
        attestation = {"items_version": items_version, "built": stamp(now)}
        return _read(write_bundle(files, describe=describe, releases=folder, attestation=attestation))


def read_side_index(folder: Path, digest: str, *, trusted: Collection[str] = ()) -> SideIndex:
    """Verify the bundle `digest` under `folder` byte by byte, then read it.

    `trusted`: public keys in hex; where there are any, one of them must have signed it. Raises DataRejected for one
    that is damaged or of another kind, GateRefused for its signature, DependencyFailed where there is none.
    """
    bundle = open_bundle(folder, digest)
    if trusted:
        verify(bundle, trusted=trusted)
    return _read(bundle)


def _read(bundle: Bundle) -> SideIndex:
    try:
        if bundle.manifest["kind"] != KIND:
            raise ValueError(f"it is a {bundle.manifest['kind']} bundle")
        items = tuple(NewItem(str(item), int(at), bool(said)) for item, at, said in json.loads(bundle.read(_ITEMS)))
        vector_RD = np.frombuffer(bundle.read(_VECTORS), "<f4").reshape(len(items), int(bundle.manifest["width"]))
        bias_R = np.frombuffer(bundle.read(_BIASES), "<f4")
        return SideIndex(str(bundle.manifest["base_digest"]), items, vector_RD, bias_R, bundle.digest)
    except (KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{bundle.folder}: not a side index ({error}); the next ingest builds it anew") from error


def publish(path: Path, in_force: InForce) -> None:
    """Replace the file at `path` atomically. Raises DependencyFailed where the disk refuses; the former one stays."""
    stated = {
        "format": FORMAT,
        "items_version": in_force.items_version,
        "until_us": in_force.until_us,
        "recipe": in_force.recipe,
        "indexes": dict(sorted(in_force.indexes.items())),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(stated, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DependencyFailed(f"{path}: cannot publish the side indexes: {error.strerror}; free the disk") from error


def read_in_force(path: Path) -> InForce | None:
    """None where nothing was published yet. Raises DataRejected for a file that says something else."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["format"] != FORMAT:
            raise ValueError(f"format {stated['format']!r}")
        indexes = {str(base): str(digest) for base, digest in stated["indexes"].items()}
        return InForce(int(stated["items_version"]), int(stated["until_us"]), str(stated["recipe"]), indexes)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DependencyFailed(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataRejected(
            f"{path}: does not say which side indexes are in force ({error}); delete it, the next ingest writes it anew"
        ) from error


def prune(folder: Path, *, kept: Collection[str]) -> None:
    """Remove the indexes that are not `kept`. Keep the former ones too: serving may be about to open them."""
    for each in folder.glob("*"):
        if each.name not in kept and not each.name.startswith("."):
            shutil.rmtree(each, ignore_errors=True)  # what stays goes with the next


def _width(index: SideIndex) -> int:
    return int(index.vector_RD.shape[1])
