"""`ratchet release`, as a person and as a script meet it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from stores.bundle import Bundle, write_bundle
from stores.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


@pytest.fixture
def bundle(home: Home, tmp_path: Path) -> Bundle:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.onnx").write_bytes(b"graph")
    return write_bundle(tmp_path / "files", describe={}, releases=home.releases, attestation={})


def release(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["release", *arguments, "--home", str(home.root)])


def test_a_key_a_signature_and_a_verdict(home: Home, bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = release(home, "keygen", "--out", str(file))
    assert made.exit_code == 0, made.output
    public = made.output.splitlines()[0]
    assert file.read_text().strip() not in made.output
    refused = release(home, "verify", bundle.digest, "--trust", public)
    assert (refused.exit_code, "not signed" in refused.output) == (4, True)
    assert release(home, "sign", bundle.digest[:12], "--key", str(file)).exit_code == 0
    assert release(home, "verify", bundle.digest[:8], "--trust", public).exit_code == 0
    (home.root / "ratchet.toml").write_text(
        f'[release]\nsigning_key = "{file}"\n[serving]\ntrusted_keys = ["{public}"]\n'
    )
    assert release(home, "sign", bundle.digest).exit_code == 0
    assert "whole, and signed by the key" in release(home, "verify", bundle.digest).output
    (bundle.folder / "model.onnx").write_bytes(b"grapH")
    assert release(home, "verify", bundle.digest).exit_code == 3


def test_signatures_for_scripts(home: Home, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["release", *arguments, "--home", str(home.root), "--json"])
        answer: dict[str, Any] = json.loads(capfd.readouterr().out)
        return answer

    made = told("keygen", "--out", str(tmp_path / "key"))
    assert made.keys() == {"public_key", "key_id", "file"}
    assert told("sign", bundle.digest, "--key", made["file"]) == {"signed": {bundle.digest: made["key_id"]}}
    verified = told("verify", bundle.digest, "--trust", made["public_key"])
    assert verified == {"verified": {bundle.digest: made["key_id"]}}
    other = told("keygen", "--out", str(tmp_path / "other"))
    assert told("verify", bundle.digest, "--trust", other["public_key"])["kind"] == "GateRefused"


def test_wrong_arguments(home: Home, bundle: Bundle, tmp_path: Path) -> None:
    for arguments in (
        ("sign", bundle.digest),
        ("verify", bundle.digest),
        ("verify", bundle.digest, "--trust", "me"),
        ("sign", bundle.digest, "--key", str(tmp_path / "absent")),
        ("verify", bundle.digest[:7], "--trust", "0" * 64),
        ("verify", "../../etc", "--trust", "0" * 64),
        ("verify", "*" * 64, "--trust", "0" * 64),
    ):
        assert release(home, *arguments).exit_code == 2, arguments
    assert release(home, "verify", "f" * 64, "--trust", "0" * 64).exit_code == 6
