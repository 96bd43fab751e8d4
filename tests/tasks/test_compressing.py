"""A release with other forms of its network: in the bundle, in the attestation, in what people read."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model.compression import variants
from serving.networks.engine import Engine
from stores.bundle import Bundle, open_bundle
from stores.home import Home
from stores.settings import Settings, load_settings
from tasks.compressing import variant_options
from tasks.evaluating import evaluate_model
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.releasing import Released, export_model, summary_markdown
from tasks.training import fit_model

NOW = datetime(2026, 2, 1, tzinfo=UTC)
TwoDays = Callable[..., Home]
RELEASE = """
[release]
variants = ["int8", "fp16", "student"]
variant_ndcg_loss = 0.9
variant_rows = 5
"""


@pytest.fixture
def fitted(two_days: TwoDays, tmp_path: Path) -> tuple[Home, TrainingJob]:
    """A home in which two days are learnt, and nothing is exported yet."""
    home = two_days(tmp_path, more=RELEASE)
    job = plan_training(home, of(home), mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    fit_model.fn(home, of(home), job)
    return home, job


def of(home: Home, **release: Any) -> Settings:
    settings = load_settings(home.root / "ratchet.toml", environment={})
    return settings.model_copy(update={"release": settings.release.model_copy(update=release)})


def exported(home: Home, job: TrainingJob, **release: Any) -> Bundle:
    (job.path(home) / "export.json").unlink(missing_ok=True)
    return open_bundle(home.releases, export_model.fn(home, of(home, **release), job))


@pytest.mark.slow
def test_a_release_holds_what_was_kept_and_says_what_was_not(
    fitted: tuple[Home, TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, job = fitted
    monkeypatch.setattr(variants, "medians_in_turns", lambda sessions, feed: (1.0, 2.0)[: len(sessions)])
    bundle = exported(home, job)
    # one block cannot be halved, so that there is no student
    assert set(bundle.manifest["files"]) == {
        "model.onnx", "vocabulary.json", "features.json", "model.int8.onnx", "model.fp16.onnx"
    }  # fmt: skip
    assert bundle.manifest["variants"] == {
        "fp16": {"file": "model.fp16.onnx", "precision": "float16", "state": "release"},
        "int8": {"file": "model.int8.onnx", "precision": "int8", "state": "release"},
    }
    table = bundle.attestation["variants"]
    assert [(row["name"], row["kept"]) for row in table] == [
        ("fp32", True), ("fp16", True), ("int8", True), ("student", False)
    ]  # fmt: skip
    assert "not smaller than the ranker's width 8 and 1 blocks" in table[3]["why"]
    assert table[2]["ms_batch_1"] == 1.0
    assert "1.0" not in json.dumps(bundle.manifest["variants"])  # nothing measured is content
    for name in ("fp32", "fp16", "int8"):
        assert Engine.load(bundle, variant=name).variant == name
    # what is not kept is no content
    monkeypatch.setattr(variants, "medians_in_turns", lambda sessions, feed: (2.0, 2.0)[: len(sessions)])
    slow = exported(home, job)
    assert set(slow.manifest["variants"]) == {"fp16"}

    evaluation = json.loads(evaluate_model.fn(home, of(home), job).read_text())
    stated = json.loads((job.path(home) / "export.json").read_text())
    released = Released(
        version=1, mode="full", passed=True, verdict="", fit_seconds=1.0, run_id="", evaluation=evaluation, **stated
    )  # fmt: skip
    assert "| student |" in summary_markdown(released)
    assert released.as_json()["variants"] == stated["variants"]


@pytest.mark.slow
def test_no_variant_is_asked_for_by_default_and_none_is_judged_by_too_few_rows(
    fitted: tuple[Home, TrainingJob],
) -> None:
    home, job = fitted
    assert Settings().release.variants == ()
    plain = exported(home, job, variants=())
    assert "variants" not in plain.manifest
    assert [row["name"] for row in plain.attestation["variants"]] == ["fp32"]
    few = exported(home, job, variant_rows=10**6)
    assert few.digest == plain.digest  # whose attestation stays, as of the first time
    table = json.loads((job.path(home) / "export.json").read_text())["variants"]
    assert ["fewer than variant_rows = 1000000" in row["why"] for row in table] == [False, True, True, True]


def test_settings_reach_the_options() -> None:
    settings = Settings.model_validate(
        {
            "release": {"variant_speedup": 1.5, "student_width": 16, "pruned_channels": 0.25},
            "serving": {"device": "cuda"},
            "policy": {"candidates": 7, "exclude_seen": False},
        }
    )
    options = variant_options(settings)
    assert (options.speedup, options.device, options.candidates, options.exclude_seen) == (1.5, "cuda", 7, False)
    assert (options.student.width, options.prune.channels) == (16, 0.25)
    assert variant_options(Settings()) == variants.VariantOptions()  # the same defaults in both places
