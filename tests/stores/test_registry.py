"""MLflow as it really is: runs, registered bundles, and the mirror of the ledger."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from onnx import TensorProto, helper, numpy_helper

from relations.errors import DataRejected, DependencyFailed
from stores.bundle import Bundle, write_bundle
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.mirror import reconcile
from stores.registry import Registry
from stores.settings import Settings, TrackingSettings
from stores.tracked_run import TrackedRun

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for the module: its tracking database takes two seconds to make. The space in its path is meant."""
    return Home.create(tmp_path_factory.mktemp("registry") / "a home", simulation=True)


@pytest.fixture
def registry(made: Home, request: pytest.FixtureRequest) -> Registry:
    """With a registered model and an experiment of the test's own."""
    return Registry(made, Settings(tracking=TrackingSettings(model=request.node.name, experiment=request.node.name)))


def bundle(home: Home, scratch: Path, seed: int = 0) -> Bundle:
    """`scores` = the sum of the items' rows: a graph with the release's inputs and output."""
    table = np.random.default_rng(seed).random((5, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["rows"]),
        helper.make_node("ReduceSum", ["rows"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("items", "behaviours")]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1, 3])]
    graph = helper.make_graph(nodes, "sum", inputs, outputs, [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = scratch / f"files-{seed}"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "vocabulary.json").write_text('{"items": ["ä"]}', encoding="utf-8")
    (folder / "features.json").write_text('{"max_history": 50}')
    return write_bundle(folder, describe={"architecture": "sum"}, releases=home.releases, attestation={"seed": seed})


def register(registry: Registry, bundle: Bundle, **tags: str) -> int:
    with registry.start_run(f"full {bundle.digest[:8]}") as run:
        return registry.register(bundle.folder, run_id=run.run_id, tags=tags)


def test_a_run_holds_what_a_person_looks_for(registry: Registry) -> None:
    with registry.start_run("full v3", tags={"mode": "full"}, params={"train": {"epochs": 12, "loss": "full"}}) as run:
        run.log_curve("train/loss", [(step, 1 / step) for step in range(1, 1_201)])
        run.log_metrics({"ndcg@10/head": 0.25, "ndcg@10/new": None, "mrr": float("nan")})
        figure = Figure()
        figure.subplots().plot([1, 2])
        run.log_figure(figure, "figures/loss.png")
        run.log_dict({"accepted": 3, "reason": "ü"}, "validation.json")
        run.log_text("# v3", "notes.md")
        run.log_data("events", version=4, digest="ab" * 32, uri="file:///lake/events")
    client: Any = registry._client
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "full v3"
    assert found.data.tags["mode"] == "full"
    assert found.data.params == {"train.epochs": "12", "train.loss": "full"}
    assert found.data.metrics == {"train/loss": 1 / 1_200, "ndcg_at_10/head": 0.25}
    assert [point.step for point in client.get_metric_history(run.run_id, "train/loss")] == list(range(1, 1_201))
    assert {each.path for each in client.list_artifacts(run.run_id)} == {"figures", "validation.json", "notes.md"}
    assert [each.path for each in client.list_artifacts(run.run_id, "figures")] == ["figures/loss.png"]
    dataset = found.inputs.dataset_inputs[0].dataset
    assert dataset.name == "events v4"
    assert json.loads(dataset.source) == {"uri": "file:///lake/events", "version": 4, "digest": "ab" * 32}
    assert run.url_hint == f"#/experiments/{found.info.experiment_id}/runs/{run.run_id}"


def test_a_table_is_one_of_mlflows_and_is_not_doubled(registry: Registry) -> None:
    import mlflow

    with registry.start_run("full v3") as run:
        run.log_table([{"name": "int8", "ms": 0.5}], "variants.json")
        run.log_table([{"name": "fp32", "ms": 1.0}, {"name": "int8", "ms": None}], "variants.json")
        run.log_table([{"n": 1}], "other.json")
    client: Any = registry._client
    tables = json.loads(client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": name, "type": "table"} for name in ("variants.json", "other.json")]
    experiment = client.get_run(run.run_id).info.experiment_id
    mlflow.set_tracking_uri(registry.uri)  # the client's own search asks the default one
    found = client.load_table(experiment, "variants.json", run_ids=[run.run_id])
    assert found["name"].tolist() == ["fp32", "int8"]
    assert found["ms"].isna().tolist() == [False, True]


def test_a_run_that_broke_is_gone_on_with_and_points_are_not_doubled(registry: Registry) -> None:
    def broken() -> None:
        with registry.start_run("full", key="job-1", tags={"turn": "1"}) as run:
            started.append(run)
            run.log_curve("loss", [(1, 0.5), (2, 0.4)])
            raise ZeroDivisionError

    started: list[TrackedRun] = []
    with pytest.raises(ZeroDivisionError):
        broken()
    run, client = started[0], registry._client
    assert client.get_run(run.run_id).info.status == "FAILED"
    with registry.start_run("full", key="job-1", tags={"turn": "2"}) as again:
        again.log_curve("loss", [(1, 0.5), (2, 0.4), (3, 0.3)])
    assert again.run_id == run.run_id
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert client.get_run(run.run_id).data.tags["turn"] == "2"
    assert [point.value for point in client.get_metric_history(run.run_id, "loss")] == [0.5, 0.4, 0.3]
    with registry.start_run("full", key="job-1") as other:
        pass
    assert other.run_id != run.run_id, "a finished run is never reopened"


def test_one_version_a_digest_with_its_files(registry: Registry, made: Home, tmp_path: Path) -> None:
    import mlflow

    first, second = bundle(made, tmp_path, 1), bundle(made, tmp_path, 2)
    assert register(registry, first, mode="full") == 1
    assert register(registry, second, mode="incremental") == 2
    assert register(registry, first, mode="changed") == 1
    assert registry.version_of(second.digest) == 2
    assert registry.version_of("0" * 64) is None
    found = registry.versions()
    assert [(each.version, each.digest, each.tags["mode"]) for each in found] == [
        (1, first.digest, "full"),
        (2, second.digest, "incremental"),
    ]
    place = Path(mlflow.artifacts.download_artifacts(f"models:/{registry.model}/2", dst_path=str(tmp_path)))
    assert (place / "model.onnx").exists()
    assert json.loads((place / "extra_files" / "vocabulary.json").read_text(encoding="utf-8")) == {"items": ["ä"]}
    assert json.loads((place / "extra_files" / "manifest.json").read_text())["digest"] == second.digest
    signature = mlflow.models.get_model_info(f"models:/{registry.model}/2").signature
    assert [(spec.name, spec.shape) for spec in signature.inputs.inputs] == [
        ("items", (-1, -1)),
        ("behaviours", (-1, -1)),
    ]
    assert signature.outputs.inputs[0].shape == (-1, 1, 3)


def test_a_registration_that_broke_leaves_no_version(
    registry: Registry, made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = bundle(made, tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(type(registry._client), "create_model_version", lambda *_, **__: 1 / 0)
        with pytest.raises(DependencyFailed, match="division by zero"):
            register(registry, ready)
    assert registry.versions() == ()
    assert register(registry, ready) == 1
    assert len(registry.versions()) == 1


def test_a_damaged_bundle_is_not_registered(registry: Registry, made: Home, tmp_path: Path) -> None:
    ready = bundle(made, tmp_path, 4)
    file = ready.folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataRejected, match=r"model\.onnx"):
        register(registry, ready)
    assert registry.versions() == ()
    shutil.rmtree(ready.folder)


def test_it_works_in_silence_and_tells_nobody(
    registry: Registry, made: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    register(registry, bundle(made, tmp_path, 5))
    registry.set_alias("champion", 1)
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_no_answer_is_a_dependency_that_failed(made: Home) -> None:
    away = Registry(made, Settings(tracking=TrackingSettings(uri="http://127.0.0.1:9")))
    with pytest.raises(DependencyFailed, match=r"MLflow at http://127\.0\.0\.1:9: .*; check \[tracking\] uri"):
        away.versions()


@pytest.fixture
def mirrored(registry: Registry, made: Home, tmp_path: Path) -> tuple[Ledger, Registry]:
    """Version 1 is champion, 2 waits for approval, 3 failed the offline check."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in (1, 2, 3):
        ready = bundle(made, tmp_path, 10 * number)
        assert register(registry, ready) == number
        ledger.record_version(
            VersionRecord(
                number, ready.digest, "full", number - 1 or None, 1, 1, 0, number < 3, {}, "run", T0, "checkpoint"
            )
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial(
        "t1", {"primary": {"name": "clicks"}}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0
    )
    evidence = {
        "decision": "PROMOTE", "verdict": "PROMOTE", "lift": 0.1, "lift_interval": [0.05, 0.15], "matured": [60, 40],
        "look": 1, "stage": "compare", "reasons": ["z = 3.10 reaches the boundary 2.80", "more"],
    }  # fmt: skip
    ledger.record_evidence("t1", evidence, now=T0)
    return ledger, registry


def test_mlflow_shows_what_the_ledger_says(mirrored: tuple[Ledger, Registry]) -> None:
    ledger, registry = mirrored
    assert "alias champion: none → version 1" in reconcile(ledger, registry)
    assert registry.aliases() == {"champion": 1, "challenger": 2}
    gate = [{k: v for k, v in each.tags.items() if k != "digest"} for each in registry.versions()]
    assert gate == [
        {"gate.state": "BOOTSTRAP", "approved_by": "ann"},
        {
            "gate.state": "AWAIT_APPROVAL",
            "gate.trial": "t1",
            "gate.stage": "compare",
            "gate.decision": "PROMOTE",
            "gate.evidence": ledger.trial("t1").evidence[0].sha256,
            "gate.lift": "+0.1000",
            "gate.interval": "[+0.0500, +0.1500]",
            "gate.users": "100",
            "gate.reason": "z = 3.10 reaches the boundary 2.80",
        },
        {"gate.state": "OFFLINE_WORSE"},
    ]
    assert reconcile(ledger, registry) == []
    ledger.approve("t1", actor="ann", reason="good", now=T0)
    assert set(reconcile(ledger, registry)) == {
        "model: described",
        "model: gate.champion = 2",
        "model: gate.epoch = 2",
        "version 2: gate.state = PROMOTED",
        "version 2: approved_by = ann",
        "version 1: described",
        "version 2: described",
        "alias champion: version 1 → version 2",
        "alias challenger: version 2 → none",
    }
    found = "t1, look 1, PROMOTE: clicks +10.00% [+5.00%, +15.00%] over 100 users; z = 3.10 reaches the boundary 2.80."
    assert [each.description for each in registry.versions()] == [
        "Not champion any more: v2 was approved on 2026-01-01 00:00 UTC (ann: good).",
        f"Champion since 2026-01-01 00:00 UTC (epoch 2): ann approved it (good). {found}",
        "Not champion: it failed the offline check, and no trial has met users with it.",
    ]
    ledger.rollback(actor="dora", reason="worse", now=T0)
    assert set(reconcile(ledger, registry)) == {
        "model: described",
        "model: gate.champion = 1",
        "model: gate.epoch = 3",
        "version 2: gate.state = ROLLED_BACK",
        "version 1: described",
        "version 2: described",
        "alias champion: version 2 → version 1",
    }
    shown = [each.description for each in registry.versions()]
    assert shown[0] == "Champion again since 2026-01-01 00:00 UTC (epoch 3): dora rolled back from v2 (worse)."
    assert shown[1].startswith(
        "Not champion any more: v1 came back by a rollback on 2026-01-01 00:00 UTC (dora: worse)."
    )


def test_what_was_moved_by_hand_is_put_back_and_told(mirrored: tuple[Ledger, Registry]) -> None:
    ledger, registry = mirrored
    reconcile(ledger, registry)
    registry.set_alias("champion", 3)
    for name, text in (("gate.state", "PROMOTED"), ("approved_by", "eve"), ("note", "a person's own")):
        registry.set_tag(3, name, text)
    registry.describe(3, "the best of all")
    assert reconcile(ledger, registry) == [
        "alias champion: version 3 → version 1",
        "version 3: approved_by removed",
        "version 3: described",
        "version 3: gate.state = OFFLINE_WORSE",
    ]
    assert registry.versions()[2].tags["note"] == "a person's own"


def test_an_alias_never_stands_on_another_bundle(mirrored: tuple[Ledger, Registry]) -> None:
    ledger, registry = mirrored
    reconcile(ledger, registry)
    registry.set_tag(1, "digest", "f" * 64)
    told = reconcile(ledger, registry)
    assert told[0].startswith("version 1: MLflow has another bundle, ffffffffffff; the ledger's digest is")
    assert "alias champion: version 1 → none" in told


def test_a_look_stands_on_the_challengers_model_and_in_its_run(
    mirrored: tuple[Ledger, Registry], tmp_path: Path
) -> None:
    """At its own step, once, however often it is told; a look that was missed comes with the next."""
    _, registry = mirrored
    page = tmp_path / "t1.html"
    looks: list[tuple[int, dict[str, float | None]]] = [
        (1, {"srm_p": None, "lift": 0.1}),
        (2, {"lift": 0.2}),
        (3, {"lift": 0.3}),
    ]
    for told in (looks[:1], looks[:1], looks):
        page.write_text(f"evidence of {len(told)}, ü", encoding="utf-8")
        registry.log_trial(2, "t1", looks=told, pages={f"look-{len(told):03d}.html": page})
    registry.log_trial(2, "t1", looks=[*looks, (4, {"guardrails/größe+%/z": 1.5})])
    client: Any = registry._client
    version = client.get_model_version(registry.model, "2")
    history = client.get_metric_history(version.run_id, "trial/t1/lift")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    logged, other = (
        client.get_logged_model(client.get_model_version(registry.model, n).source[len("models:/") :]) for n in "21"
    )
    assert {(each.key, each.step, each.value) for each in logged.metrics} == {
        ("trial/t1/lift", 1, 0.1), ("trial/t1/lift", 2, 0.2), ("trial/t1/lift", 3, 0.3),
        ("trial/t1/guardrails/größe__/z", 4, 1.5),
    }  # fmt: skip
    assert not other.metrics
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": registry.model, "version": 2}]
    pages = [each.path for each in client.list_artifacts(version.run_id, "trials/t1")]
    assert pages == ["trials/t1/look-001.html", "trials/t1/look-003.html"]
    assert client.get_run(version.run_id).info.status == "FINISHED"
