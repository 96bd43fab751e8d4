import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.fault_bundles import forged
from relations.errors import DataRejected, DependencyFailed, RatchetError, UsageError
from stores.bundle import Bundle, is_complete, open_bundle, write_bundle

DESCRIBE = {"architecture": "ranker", "items": 3, "max_history": 50, "behaviours": ["<pad>", "view"], "kind": "full"}


def content(folder: Path) -> Path:
    (folder / "index").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(random.Random(1).randbytes(4_000))
    (folder / "vocabulary.json").write_text('{"version": 1, "items": ["a", "ü", "🛒"]}')
    (folder / "index" / "rows.bin").write_bytes(b"\x00\x01\x02")
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    files = content(tmp_path / "files")
    return write_bundle(files, describe=DESCRIBE, releases=tmp_path / "releases", attestation={"seconds": 1.5})


def test_what_is_written_is_what_opens(written: Bundle) -> None:
    opened = open_bundle(written.folder.parent, written.digest)
    assert opened == written
    assert opened.read("index/rows.bin") == b"\x00\x01\x02"
    assert opened.manifest["files"]["index/rows.bin"] == {
        "sha256": hashlib.sha256(b"\x00\x01\x02").hexdigest(),
        "bytes": 3,
    }
    assert opened.manifest["max_history"] == 50
    assert opened.attestation["seconds"] == 1.5


def test_the_digest_is_of_content_only(written: Bundle, tmp_path: Path) -> None:
    again = content(tmp_path / "elsewhere")
    same = write_bundle(again, describe=DESCRIBE, releases=tmp_path / "other", attestation={"seconds": 9.0})
    assert same.digest == written.digest
    (again / "model.onnx").write_bytes(b"another graph")
    changed = write_bundle(again, describe=DESCRIBE, releases=tmp_path / "other", attestation={})
    assert changed.digest != written.digest
    described = write_bundle(again, describe={**DESCRIBE, "kind": "delta"}, releases=tmp_path / "other", attestation={})
    assert described.digest != changed.digest


def test_writing_again_changes_nothing(written: Bundle, tmp_path: Path) -> None:
    again = write_bundle(
        tmp_path / "files", describe=DESCRIBE, releases=written.folder.parent, attestation={"seconds": 9.0}
    )
    assert again == written  # the first attestation stays
    assert [folder.name for folder in written.folder.parent.iterdir()] == [written.digest]


def test_nothing_is_left_of_a_refused_write(tmp_path: Path) -> None:
    files = content(tmp_path / "files")
    (files / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="link"):
        write_bundle(files, describe=DESCRIBE, releases=tmp_path / "releases", attestation={})
    (files / "link").unlink()
    (files / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"manifest\.json"):
        write_bundle(files, describe=DESCRIBE, releases=tmp_path / "releases", attestation={})
    with pytest.raises(UsageError, match="digest"):
        write_bundle(files, describe={"digest": "x"}, releases=tmp_path / "releases", attestation={})
    assert list((tmp_path / "releases").iterdir()) == []


def test_no_flipped_byte_ever_loads(written: Bundle) -> None:
    rng = random.Random(7)
    files = [path for path in written.folder.rglob("*") if path.is_file()]
    refused = 0
    for _ in range(200):
        path = rng.choice(files)
        sound = path.read_bytes()
        at, mask = rng.randrange(len(sound)), rng.randrange(1, 256)
        path.write_bytes(sound[:at] + bytes([sound[at] ^ mask]) + sound[at + 1 :])
        with pytest.raises(RatchetError):
            open_bundle(written.folder.parent, written.digest)
        refused += 1
        path.write_bytes(sound)
    assert refused == 200
    assert open_bundle(written.folder.parent, written.digest) == written


def test_no_truncated_or_lengthened_file_ever_loads(written: Bundle) -> None:
    rng = random.Random(8)
    for path in [path for path in written.folder.rglob("*") if path.is_file()]:
        sound = path.read_bytes()
        for damaged in (b"", sound[: rng.randrange(len(sound))], sound[:-1], sound + b" ", sound + b"\n"):
            path.write_bytes(damaged)
            with pytest.raises(DataRejected):
                open_bundle(written.folder.parent, written.digest)
        path.write_bytes(sound)


def test_a_list_believes_what_has_all_its_files_at_their_sizes(written: Bundle) -> None:
    releases, model = written.folder.parent, written.folder / "model.onnx"
    sound = model.read_bytes()
    assert is_complete(releases, written.digest)
    assert not is_complete(releases, "0" * 64)
    model.write_bytes(sound[:-1])
    assert not is_complete(releases, written.digest)
    model.write_bytes(bytes(len(sound)))  # which only hashing tells
    assert is_complete(releases, written.digest)
    model.unlink()
    assert not is_complete(releases, written.digest)
    model.write_bytes(sound)
    for name in ("manifest.json", "attestation.json"):
        content = (written.folder / name).read_bytes()
        (written.folder / name).unlink()
        assert not is_complete(releases, written.digest)
        (written.folder / name).write_bytes(content)
    for files in ({"../secret": {"bytes": 1}}, {"model.onnx": None}, {"model.onnx": {"sha256": ""}}, "model.onnx"):
        assert not is_complete(releases, forged(written, files))


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _link_outside(folder: Path) -> None:
    outside = folder.parent.parent / "outside.onnx"
    shutil.move(folder / "model.onnx", outside)  # the same bytes, reached through a link
    (folder / "model.onnx").symlink_to(outside)


def _link_folder(folder: Path) -> None:
    moved = folder.parent.parent / "moved"
    shutil.move(folder, moved)
    folder.symlink_to(moved)


@pytest.mark.parametrize(
    "harm",
    [
        _remove("manifest.json"),
        _remove("attestation.json"),
        _remove("model.onnx"),
        lambda folder: (folder / "extra.py").write_text("print('hello')"),
        lambda folder: (folder / "index" / "extra").symlink_to("/etc/passwd"),
        lambda folder: (folder / "self").symlink_to(folder),
        _link_outside,
        _link_folder,
    ],
)
def test_a_bundle_that_is_not_exactly_its_manifest_never_loads(written: Bundle, harm: Callable[[Path], object]) -> None:
    harm(written.folder)
    with pytest.raises(DataRejected, match=written.digest):
        open_bundle(written.folder.parent, written.digest)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/hostname", "index/../../secret", "./model.onnx", "index//rows.bin", "..\\secret", "", "a\0b"],
)
def test_an_escaping_path_is_refused_even_under_a_matching_digest(written: Bundle, path: str) -> None:
    secret = written.folder.parent / "secret"
    secret.write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    with pytest.raises(DataRejected, match="plain relative"):
        open_bundle(written.folder.parent, forged(written, {**written.manifest["files"], path: entry}))


@pytest.mark.parametrize("files", [None, {}, [], "model.onnx", {"model.onnx": None}, {"model.onnx": {"bytes": 1}}])
def test_a_manifest_of_another_shape_is_refused_even_under_a_matching_digest(written: Bundle, files: object) -> None:
    with pytest.raises(DataRejected, match="damaged"):
        open_bundle(written.folder.parent, forged(written, files))


def test_another_bundle_under_this_name_is_refused(written: Bundle, tmp_path: Path) -> None:
    files = content(tmp_path / "more")
    (files / "model.onnx").write_bytes(b"other")
    other = write_bundle(files, describe=DESCRIBE, releases=written.folder.parent, attestation={})
    shutil.rmtree(written.folder)
    shutil.copytree(other.folder, written.folder)
    with pytest.raises(DataRejected, match="digest"):
        open_bundle(written.folder.parent, written.digest)


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "0" * 63, "0" * 64 + "\n", "popularity"])
def test_a_digest_that_is_none_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(DataRejected, match="64 hex digits"):
        open_bundle(tmp_path, digest)


def test_an_absent_bundle_is_a_failed_dependency(tmp_path: Path) -> None:
    with pytest.raises(DependencyFailed, match="no such bundle"):
        open_bundle(tmp_path, "0" * 64)


def test_bytes_that_change_after_the_verification_are_refused(written: Bundle) -> None:
    (written.folder / "model.onnx").write_bytes(b"swapped")
    with pytest.raises(DataRejected, match="changed"):
        written.read("model.onnx")
    with pytest.raises(DataRejected, match="no file"):
        written.read("../model.onnx")


def test_duplicate_keys_cannot_hide_a_second_meaning(written: Bundle) -> None:
    manifest = written.folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("{", '{\n  "items": 99,', 1))
    assert json.loads(manifest.read_text())["items"] == 3  # the later key wins: parsed, it looks sound
    with pytest.raises(DataRejected, match="canonical"):
        open_bundle(written.folder.parent, written.digest)
