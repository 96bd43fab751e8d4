"""Signatures of releases: Ed25519 (RFC 8032) over a bundle's digest, as `signature.json` beside its attestation.

    signature = Ed25519(private key, "ratchet release v1" · 0x00 · digest in hex)

The digest covers the manifest and, through it, every content byte, so that the signature does; it is itself outside the
digest. `signature.json` is canonical JSON of four fields:

    format      1
    key_id      the first 16 hex digits of the SHA-256 of the public key's 32 bytes
    public_key  64 hex digits
    signature   128 hex digits

A signature says who released a bundle, not that it may serve: that the ledger says. The library (PyNaCl) is imported
when something is signed or verified, and not before.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from relations.errors import DependencyFailed, GateRefused, UsageError
from stores.bundle import SIGNATURE, Bundle, add_signature, canonical

if TYPE_CHECKING:
    from nacl.signing import SigningKey

FORMAT = 1
DOMAIN = b"ratchet release v1\0"
"""What is signed begins with it, so that no signature made for another purpose is one of a release."""
_FIELDS = {"key_id": r"[0-9a-f]{16}", "public_key": r"[0-9a-f]{64}", "signature": r"[0-9a-f]{128}"}
_MOST_BYTES = 4096
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


def make_key(path: Path) -> str:
    """Write a new private key to `path`, readable by its owner alone, and return the public key in hex.

    Raises UsageError where there is a file already: an overwritten key could never sign again.
    """
    key = _library().SigningKey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path}: is there already, and a key is never overwritten; give another --out") from error
    except OSError as error:
        raise DependencyFailed(f"{path}: cannot be written: {error.strerror}; give another --out") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.encode().hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return bytes(key.verify_key).hex()


def key_id(public: str) -> str:
    """Of a public key in hex."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def public_hex(stated: str) -> str:
    """A public key as people write it, in hex or base64, as 64 hex digits. Raises ValueError for anything else."""
    text = stated.strip()
    if _HEX_KEY.fullmatch(text):
        return text.lower()
    try:
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ValueError("no Ed25519 public key, which is 32 bytes in hex or base64; `ratchet release keygen` tells it")
    return raw.hex()


def sign(bundle: Bundle, key: Path) -> str:
    """Sign with the private key in the file `key`, in place of a former signature; returns the key's id.

    Idempotent: a key signs a digest in one way. Nobody sees half a signature. Raises UsageError for a file that is no
    private key or that everybody may read, DependencyFailed for the disk.
    """
    private = _private(key)
    public = bytes(private.verify_key).hex()
    signature = private.sign(_message(bundle.digest)).signature.hex()
    stated = {"format": FORMAT, "key_id": key_id(public), "public_key": public, "signature": signature}
    if _content(bundle) != canonical(stated):
        add_signature(bundle, stated)
    return key_id(public)


def verify(bundle: Bundle, *, trusted: Collection[str]) -> str:
    """The id of the key that signed; it is one of `trusted` (in hex). Raises GateRefused where none of them did."""
    remedy = "sign the release with a trusted key: `ratchet release sign`"
    content = _content(bundle)
    if content is None:
        raise GateRefused(f"{bundle.folder}: not signed; {remedy}")
    stated = _parsed(content)
    if stated is None:
        raise GateRefused(f"{bundle.folder / SIGNATURE}: not a signature of format {FORMAT}; {remedy}")
    if stated["public_key"] not in trusted:
        raise GateRefused(f"{bundle.folder}: signed by the key {stated['key_id']}, which is not trusted; {remedy}")
    key = _library().VerifyKey(bytes.fromhex(stated["public_key"]))
    from nacl.exceptions import BadSignatureError

    try:
        key.verify(_message(bundle.digest), bytes.fromhex(stated["signature"]))
    except BadSignatureError as error:
        raise GateRefused(f"{bundle.folder / SIGNATURE}: is not this release's signature; {remedy}") from error
    return stated["key_id"]


def _message(digest: str) -> bytes:
    return DOMAIN + digest.encode("ascii")


def _content(bundle: Bundle) -> bytes | None:
    try:
        with (bundle.folder / SIGNATURE).open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DependencyFailed(f"{bundle.folder / SIGNATURE}: not readable: {error.strerror}") from error


def _parsed(content: bytes) -> dict[str, str] | None:
    """The three fields of text, where the file is exactly what `sign` writes; None for anything else."""
    try:
        stated = json.loads(content) if len(content) <= _MOST_BYTES else None
        if not isinstance(stated, dict) or canonical(stated) != content or stated.pop("format", None) != FORMAT:
            return None
    except (ValueError, RecursionError):
        return None
    if stated.keys() != _FIELDS.keys():
        return None
    if not all(isinstance(text, str) and re.fullmatch(_FIELDS[name], text) for name, text in stated.items()):
        return None
    return stated if stated["key_id"] == key_id(stated["public_key"]) else None


def _private(path: Path) -> "SigningKey":
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_BYTES).strip()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such signing key; make one with `ratchet release keygen --out {path}`") from error
    except OSError as error:
        raise DependencyFailed(f"{path}: the signing key is not readable: {error.strerror}") from error
    if mode & 0o007:
        raise UsageError(f"{path}: everybody on this machine may use this signing key; chmod 600 it, or make another")
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise UsageError(f"{path}: not a signing key; make one with `ratchet release keygen`")
    private: SigningKey = _library().SigningKey(bytes.fromhex(text.decode("ascii")))
    return private


def _library() -> ModuleType:
    try:
        from nacl import signing
    except ImportError as error:
        raise DependencyFailed(f"signatures need PyNaCl ({error}); pip install 'ratchet-rec[serve]'") from error
    return signing
