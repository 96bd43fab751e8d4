"""Release bundles: one folder a digest, written once, verified byte by byte before anything in it is opened.

`releases/<digest>/` holds the content files, `manifest.json` (what they are, with the SHA-256 and size of each) and
`attestation.json` (measurements, times and versions: what was observed about the content, outside the digest). It may
hold `signature.json`, outside the digest too, which `stores.signatures` writes and judges.

    digest = SHA-256(canonical JSON of the manifest without its `digest`)

so the digest covers every content byte and every manifest field. The attestation names the digest and carries a
checksum of its own, which finds damage. Standard library only: serving installs small.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from relations.errors import DataRejected, DependencyFailed, RatchetError, UsageError

FORMAT = 1
MANIFEST = "manifest.json"
ATTESTATION = "attestation.json"
SIGNATURE = "signature.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    folder: Path
    digest: str
    manifest: Mapping[str, Any]
    attestation: Mapping[str, Any]

    def read(self, name: str) -> bytes:
        """A content file's bytes, checked once more: what is used is what was verified, whatever the disk does since.

        Raises DataRejected for a name outside the manifest or bytes that changed.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise DataRejected(f"{self.folder}: no file {name!r}; it has {', '.join(sorted(self.manifest['files']))}")
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise DataRejected(
                f"{self.folder / name}: not readable: {error.strerror}; export the model again"
            ) from error
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DataRejected(f"{self.folder / name}: changed since it was verified; export the model again")
        return content


def write_bundle(files: Path, *, describe: Mapping[str, Any], releases: Path, attestation: Mapping[str, Any]) -> Bundle:
    """Copy the folder `files` into a bundle under `releases` and return it, verified.

    `describe` is added to the manifest (it may not name `format`, `digest` or `files`). Written under a hidden name,
    then renamed: nobody sees half a bundle. Idempotent: the same content gives the same digest, and the bundle that
    is there already stays, with its attestation and its signature. Raises UsageError for links or reserved names in
    `files`, DependencyFailed for the disk, DataRejected where a damaged bundle holds the place.
    """
    if reserved := sorted({"format", "digest", "files"} & set(describe)):
        raise UsageError(f"describe names {', '.join(reserved)}, which the bundle states itself; leave them out")
    temporary = releases / f".part-{os.getpid()}-{time.time_ns()}"
    try:
        releases.mkdir(parents=True, exist_ok=True)
        _sweep(releases)
        names = _regular_files(files)
        if not names or {MANIFEST, ATTESTATION, SIGNATURE} & set(names):
            raise UsageError(
                f"{files}: holds {names}; give content files, none named {MANIFEST}, {ATTESTATION} or {SIGNATURE}"
            )
        temporary.mkdir()
        entries = {name: _copy(files / name, temporary / name) for name in names}
        content = {**describe, "format": FORMAT, "files": entries}
        digest = hashlib.sha256(canonical(content)).hexdigest()
        _write(temporary / MANIFEST, canonical({**content, "digest": digest}))
        stated = {**attestation, "digest": digest}
        stated["checksum"] = _checksum(stated)
        _write(temporary / ATTESTATION, canonical(stated))
        target = releases / digest
        if not target.exists():
            try:
                temporary.rename(target)
                _sync_folder(releases)
            except OSError:
                if not target.exists():  # else another process wrote the same content first
                    raise
    except OSError as error:
        raise DependencyFailed(f"{releases}: cannot write a bundle: {error.strerror}; free or mend the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_bundle(releases, digest)


def add_signature(bundle: Bundle, stated: Mapping[str, Any]) -> None:
    """Put `signature.json` into the bundle's folder, whole or not at all, in place of a former one.

    It is written beside the folder: a reader would take a file that is being written there for damage. Raises
    DependencyFailed for the disk.
    """
    temporary = bundle.folder.parent / f".part-{os.getpid()}-{time.time_ns()}"
    try:
        temporary.mkdir()
        _write(temporary / SIGNATURE, canonical(stated))
        (temporary / SIGNATURE).replace(bundle.folder / SIGNATURE)
        _sync_folder(bundle.folder)
    except OSError as error:
        raise DependencyFailed(f"{bundle.folder}: cannot be signed: {error.strerror}; free or mend the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_bundle(releases: Path, digest: str) -> Bundle:
    """Verify the bundle `digest` whole and return it; nothing in it is opened as anything but bytes before.

    Refuses (DataRejected): a digest that is none, a missing or damaged file, a file that the manifest does not name,
    links and other irregular files, absolute or escaping paths, a manifest that is not canonical or has another
    digest, an attestation that is damaged or names another digest. Raises DependencyFailed where there is no bundle.
    """
    if not _DIGEST.fullmatch(digest):
        raise DataRejected(f"{digest[:80]!r}: not a bundle digest, which is 64 hex digits")
    folder = releases / digest
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise DataRejected(
                f"{folder}: a link or a file where the bundle's folder should be; export the model again"
            )
        return _verified(folder, digest)
    except FileNotFoundError as error:
        if folder.exists():
            raise _damaged(folder, f"{error.filename} is missing") from error
        raise DependencyFailed(f"{folder}: no such bundle; export the model, or restore the folder") from error
    except OSError as error:
        raise DependencyFailed(f"{folder}: not readable: {error.strerror}; check its permissions") from error


def is_complete(releases: Path, digest: str) -> bool:
    """Whether the bundle `digest` has all files of its manifest at their sizes: what a list can ask of many bundles.

    Hashes the manifest alone, so that `open_bundle` may still refuse what this believes.
    """
    folder = releases / digest
    try:
        files = _manifest(folder, digest)["files"]
        for name in files:
            _check_path(folder, name)
        sizes = {name: (folder / name).stat().st_size for name in (*files, ATTESTATION)}
    except (OSError, DataRejected):
        return False
    return all(isinstance(entry, dict) and entry.get("bytes") == sizes[name] for name, entry in files.items())


def _verified(folder: Path, digest: str) -> Bundle:
    found = _regular_files(folder, refuse=DataRejected)
    manifest = _manifest(folder, digest)
    files = manifest["files"]
    for name in files:
        _check_path(folder, name)
    if extra := sorted((set(found) - {SIGNATURE}) ^ {*files, MANIFEST, ATTESTATION}):
        raise _damaged(folder, f"its files and {MANIFEST} disagree on {extra[0]!r}")
    for name, entry in files.items():
        if {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size} != entry:
            raise _damaged(folder, f"{name} does not match its SHA-256")
    attestation = _read_canonical(folder / ATTESTATION)
    if attestation.get("digest") != digest or attestation.get("checksum") != _checksum(attestation):
        raise _damaged(folder, f"{ATTESTATION} is damaged or is about another bundle")
    return Bundle(folder=folder, digest=digest, manifest=manifest, attestation=attestation)


def _manifest(folder: Path, digest: str) -> dict[str, Any]:
    """With its digest and format checked, and at least one file."""
    manifest = _read_canonical(folder / MANIFEST)
    content = {key: value for key, value in manifest.items() if key != "digest"}
    if manifest.get("digest") != digest or hashlib.sha256(canonical(content)).hexdigest() != digest:
        raise _damaged(folder, f"{MANIFEST} does not have the digest of its folder")
    if manifest.get("format") != FORMAT:
        raise DataRejected(f"{folder}: bundle format {manifest.get('format')!r}, this version reads {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise _damaged(folder, f"{MANIFEST} names no files")
    return manifest


def _damaged(folder: Path, what: str) -> DataRejected:
    return DataRejected(f"{folder}: damaged bundle: {what}; remove the folder and export the model again")


def _check_path(folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name:
        raise _damaged(folder, f"{MANIFEST} names the path {name!r}, which is not a plain relative one")


def _regular_files(folder: Path, *, refuse: type[RatchetError] = UsageError) -> list[str]:
    """Relative paths of all files below, sorted; links and anything that is not a plain file are refused."""
    names = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    names.append(Path(entry.path).relative_to(folder).as_posix())
                else:
                    raise refuse(f"{entry.path}: a link or a special file; a bundle holds plain files only")
    return sorted(names)


def canonical(stated: Mapping[str, Any]) -> bytes:
    """One rendering a value: sorted keys, two spaces, ASCII. Raises ValueError for NaN or infinity."""
    return (json.dumps(stated, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def _read_canonical(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        stated = json.loads(content)
        if isinstance(stated, dict) and canonical(stated) == content:
            return stated
    except (ValueError, RecursionError):
        pass
    raise _damaged(path.parent, f"{path.name} is not canonical JSON")


def _checksum(attestation: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({k: v for k, v in attestation.items() if k != "checksum"})).hexdigest()


def _copy(source: Path, target: Path) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return {"sha256": _sha256(target), "bytes": target.stat().st_size}


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(releases: Path) -> None:
    """Remove what killed exports left behind, once it is old enough not to belong to a running one."""
    for folder in releases.glob(".part-*"):
        if time.time() - folder.lstat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
