"""Signatures of bundles: what verifies, and everything that does not."""

import base64
import hashlib
import json
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relations.errors import DataRejected, DependencyFailed, GateRefused, SettingsError, UsageError
from stores.bundle import Bundle, canonical, open_bundle, write_bundle
from stores.settings import load_settings
from stores.signatures import key_id, make_key, public_hex, sign, verify


def written(folder: Path, content: bytes = b"graph") -> Bundle:
    files = folder / hashlib.sha256(content).hexdigest()[:8]
    files.mkdir(parents=True, exist_ok=True)
    (files / "model.onnx").write_bytes(content)
    return write_bundle(files, describe={"kind": "full"}, releases=folder / "releases", attestation={})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return written(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A private key's file, and the public key."""
    return tmp_path / "key", make_key(tmp_path / "key")


def signature(bundle: Bundle) -> Path:
    return bundle.folder / "signature.json"


def stated(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(signature(bundle).read_bytes())
    return found


def test_what_is_signed_verifies(bundle: Bundle, key: tuple[Path, str]) -> None:
    private, public = key
    signer = sign(bundle, private)
    assert signer == key_id(public) == hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]
    assert verify(bundle, trusted=[public]) == signer
    assert open_bundle(bundle.folder.parent, bundle.digest) == bundle  # the digest knows nothing of it
    assert stated(bundle).keys() == {"format", "key_id", "public_key", "signature"}
    assert sorted(path.name for path in bundle.folder.parent.iterdir()) == [bundle.digest]  # nothing is left beside


def test_another_implementation_of_ed25519_agrees(bundle: Bundle, key: tuple[Path, str]) -> None:
    """The message is the text that the module states, and the key file RFC 8032's seed."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    private, public = key
    sign(bundle, private)
    seed = bytes.fromhex(private.read_text().strip())
    reference = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert reference.public_key().public_bytes_raw().hex() == public
    message = b"ratchet release v1" + b"\x00" + bundle.digest.encode()
    assert reference.sign(message).hex() == stated(bundle)["signature"]


def test_signing_or_writing_again_changes_nothing(bundle: Bundle, key: tuple[Path, str], tmp_path: Path) -> None:
    sign(bundle, key[0])
    before = signature(bundle).stat()
    sign(bundle, key[0])
    assert written(tmp_path) == bundle
    after = signature(bundle).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert verify(bundle, trusted=[key[1]])


def test_two_keys_are_trusted_while_one_follows_the_other(bundle: Bundle, tmp_path: Path) -> None:
    old, new = make_key(tmp_path / "old"), make_key(tmp_path / "new")
    sign(bundle, tmp_path / "old")
    assert verify(bundle, trusted=[new, old]) == key_id(old)
    with pytest.raises(GateRefused, match=f"signed by the key {key_id(old)}, which is not trusted"):
        verify(bundle, trusted=[new])
    sign(bundle, tmp_path / "new")  # in place of the former
    assert verify(bundle, trusted=[new, old]) == key_id(new)
    with pytest.raises(GateRefused, match="not trusted"):
        verify(bundle, trusted=[old])


def test_unsigned_is_refused(bundle: Bundle, key: tuple[Path, str]) -> None:
    with pytest.raises(GateRefused, match=r"not signed; .*ratchet release sign"):
        verify(bundle, trusted=[key[1]])


def test_a_signature_of_another_bundle_is_refused(bundle: Bundle, key: tuple[Path, str], tmp_path: Path) -> None:
    other = written(tmp_path, b"another graph")
    sign(other, key[0])
    shutil.copy(signature(other), signature(bundle))
    with pytest.raises(GateRefused, match="not this release's signature"):
        verify(bundle, trusted=[key[1]])


def test_content_under_the_signed_digest_cannot_change(bundle: Bundle, key: tuple[Path, str]) -> None:
    sign(bundle, key[0])
    (bundle.folder / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(DataRejected, match="SHA-256"):
        open_bundle(bundle.folder.parent, bundle.digest)
    manifest = json.loads((bundle.folder / "manifest.json").read_bytes())
    manifest["files"]["model.onnx"]["sha256"] = hashlib.sha256(b"grapH").hexdigest()
    (bundle.folder / "manifest.json").write_bytes(canonical(manifest))
    with pytest.raises(DataRejected, match="digest"):
        open_bundle(bundle.folder.parent, bundle.digest)


def _with(**changed: Any) -> Callable[[bytes], bytes]:
    return lambda sound: canonical(json.loads(sound) | changed)


@pytest.mark.parametrize(
    "harm",
    [
        lambda sound: b"",
        lambda sound: sound[:-1],
        lambda sound: sound[: len(sound) // 2],
        lambda sound: sound + b"\n",
        lambda sound: sound + b" " * 10_000,
        lambda sound: json.dumps(json.loads(sound)).encode(),  # not canonical
        lambda sound: b"\xff\xfe",
        lambda sound: b"[" * 4000,
        lambda sound: b"[]\n",
        lambda sound: canonical({name: value for name, value in json.loads(sound).items() if name != "key_id"}),
        _with(format=2),
        _with(format="1"),
        _with(format=None),
        _with(more="x"),
        _with(key_id="0" * 16),
        _with(signature=None),
        _with(signature=5),
        _with(signature="0" * 126),
        _with(signature="0" * 128),
        _with(public_key="0" * 62),
        lambda sound: _with(signature=json.loads(sound)["signature"].upper())(sound),
    ],
)
def test_anything_else_in_its_place_is_refused(
    bundle: Bundle, key: tuple[Path, str], harm: Callable[[bytes], bytes]
) -> None:
    sign(bundle, key[0])
    sound = signature(bundle).read_bytes()
    signature(bundle).write_bytes(harm(sound))
    assert open_bundle(bundle.folder.parent, bundle.digest) == bundle  # as a bundle it is whole
    with pytest.raises(GateRefused, match="ratchet release sign"):
        verify(bundle, trusted=[key[1]])
    sign(bundle, key[0])
    assert signature(bundle).read_bytes() == sound


def test_no_flipped_bit_of_a_signature_verifies(bundle: Bundle, key: tuple[Path, str]) -> None:
    sign(bundle, key[0])
    sound = bytes.fromhex(stated(bundle)["signature"])
    for bit in range(0, 512, 3):
        flipped = (int.from_bytes(sound) ^ (1 << bit)).to_bytes(64)
        signature(bundle).write_bytes(canonical(stated(bundle) | {"signature": flipped.hex()}))
        with pytest.raises(GateRefused, match="not this release's"):
            verify(bundle, trusted=[key[1]])


def test_only_this_one_file_may_stand_beside(bundle: Bundle, key: tuple[Path, str], tmp_path: Path) -> None:
    sign(bundle, key[0])
    (bundle.folder / "signature.json.bak").write_text("{}")
    with pytest.raises(DataRejected, match=r"signature\.json\.bak"):
        open_bundle(bundle.folder.parent, bundle.digest)
    (bundle.folder / "signature.json.bak").unlink()
    signature(bundle).rename(tmp_path / "elsewhere")
    signature(bundle).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataRejected, match="a link"):
        open_bundle(bundle.folder.parent, bundle.digest)
    files = tmp_path / "more"
    files.mkdir()
    (files / "signature.json").write_text("{}")
    with pytest.raises(UsageError, match=r"signature\.json"):
        write_bundle(files, describe={}, releases=tmp_path / "r", attestation={})


def test_a_private_key_is_its_owners_alone(bundle: Bundle, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="never overwritten"):
        make_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(UsageError, match="everybody"):
        sign(bundle, tmp_path / "key")
    with pytest.raises(DependencyFailed, match="cannot be written"):
        make_key(tmp_path / "no" / "key")


@pytest.mark.parametrize("content", [b"", b"secret words", b"0" * 63, b"0" * 128, b"\xff" * 64])
def test_what_is_no_key_signs_nothing_and_is_not_repeated(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(UsageError, match="not a signing key") as refused:
        sign(bundle, tmp_path / "key")
    assert "secret words" not in str(refused.value)
    with pytest.raises(UsageError, match="no such signing key"):
        sign(bundle, tmp_path / "absent")
    assert not signature(bundle).exists()


def test_public_keys_are_hex_or_base64(key: tuple[Path, str]) -> None:
    raw = bytes.fromhex(key[1])
    plain, safe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    for text in (key[1], key[1].upper(), f" {key[1]}\n", plain, plain.rstrip("="), safe):
        assert public_hex(text) == key[1]
    for text in ("", "0" * 63, "0" * 66, plain[:-4], "ü" * 64, "trust me"):
        with pytest.raises(ValueError, match="32 bytes"):
            public_hex(text)
    settings = load_settings(None, environment={"RATCHET_SERVING__TRUSTED_KEYS": f"{plain}, {key[1]}"})
    assert settings.serving.trusted_keys == (key[1], key[1])
    assert load_settings(None, environment={}).serving.trusted_keys == ()
    with pytest.raises(SettingsError, match=r"trusted_keys.*32 bytes"):
        load_settings(None, environment={"RATCHET_SERVING__TRUSTED_KEYS": "trust me"})


def test_without_the_library_it_says_what_to_install(
    bundle: Bundle, key: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(bundle, key[0])
    monkeypatch.setitem(sys.modules, "nacl", None)
    with pytest.raises(DependencyFailed, match="PyNaCl"):
        verify(bundle, trusted=[key[1]])
