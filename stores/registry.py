"""MLflow: a run for each training, a registered version for each bundle, and what the gate said of it.

The registry mirrors; who is champion says the ledger. Every call either works or raises DependencyFailed.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from relations.errors import DependencyFailed
from stores.bundle import Bundle, open_bundle
from stores.home import Home
from stores.mlflow_client import open_client, tracking_uri, translated
from stores.settings import Settings
from stores.tracked_run import TrackedRun

DIGEST = "digest"
REQUIREMENTS = ["numpy>=2.4", "onnxruntime>=1.31"]
SMALL_PARTS = ("manifest.json", "attestation.json", "features.json")


@dataclass(frozen=True)
class Registered:
    """A version as MLflow has it."""

    version: int
    digest: str
    run_id: str
    tags: Mapping[str, str]
    description: str = ""


@dataclass(frozen=True)
class ModelPage:
    """The registered model itself, as MLflow has it. `aliases`: alias → version."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]
    description: str


class Registry:
    """Runs and registered versions of one home. MLflow is imported and opened at the first call."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.uri = tracking_uri(home, settings)
        self.model = settings.tracking.model
        self._opened: Any = None

    @contextmanager
    def start_run(
        self,
        name: str,
        *,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        key: str = "",
        run_id: str = "",
    ) -> Iterator[TrackedRun]:
        """A run that is FINISHED at the end of the block, FAILED when it raises.

        `key`: what the run is determined by. A run of the same key that did not finish is gone on with, not doubled.
        `run_id`: that very run, where the server has it.
        """
        tracked = self.run(run_id) if run_id else None
        if tracked is None:
            with translated(self.uri):
                experiment = self._experiment()
                found = self._of_key(experiment, key, unfinished=True) if key else None
                run = found or self._create(experiment, name, key=key)
            tracked = TrackedRun(self._client, run, uri=self.uri)
        try:
            tracked.rename(name)
            tracked.set_tags(tags or {})
            tracked.log_params(params or {})
            yield tracked
        except BaseException:
            with suppress(DependencyFailed), translated(self.uri):  # what went wrong first is what to report
                self._client.set_terminated(tracked.run_id, status="FAILED")
            raise
        with translated(self.uri):
            self._client.set_terminated(tracked.run_id)

    def open_run(
        self, name: str, *, key: str, tags: Mapping[str, Any], params: Mapping[str, Any], parent: str = ""
    ) -> TrackedRun:
        """The run of this key, finished or not, or a new one inside the run `parent`. The caller ends it."""
        with translated(self.uri):
            experiment = self._experiment()
            run = self._of_key(experiment, key) or self._create(experiment, name, key=key)
        tracked = TrackedRun(self._client, run, uri=self.uri)
        tracked.set_tags({**tags, **({"mlflow.parentRunId": parent} if parent else {})})
        tracked.log_params(params)
        return tracked

    def run(self, run_id: str) -> TrackedRun | None:
        """None where the server has no such run, or it was deleted."""
        with translated(self.uri):
            client = self._client  # its import is the quiet one
            from mlflow.exceptions import MlflowException

            try:
                found = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        active = found.info.lifecycle_stage == "active"
        return TrackedRun(self._client, found, uri=self.uri) if active else None

    def register(self, folder: Path, *, run_id: str, tags: Mapping[str, Any] | None = None) -> int:
        """Log the bundle in `folder` as the run's model and register it; returns the version's number.

        One version a digest: a bundle that is registered already keeps its number and its tags. The tags come with
        the version in one transaction, so a kill leaves either no version or a whole one.
        """
        bundle = open_bundle(folder.parent, folder.name)
        with translated(self.uri), FileLock(self.home.run / "registry.lock", timeout=120):
            known = self._find(bundle.digest)
            if known is not None:
                return known.version
            return self._register(bundle, run_id=run_id, tags=tags or {})

    def version_of(self, digest: str) -> int | None:
        with translated(self.uri):
            found = self._find(digest)
        return None if found is None else found.version

    def versions(self) -> tuple[Registered, ...]:
        """By number."""
        with translated(self.uri):
            return tuple(sorted(self._search(f"name = '{self.model}'"), key=lambda found: found.version))

    def set_tag(self, version: int, name: str, value: str) -> None:
        """A version's, or with 0 the registered model's. An empty value: the tag is taken away."""
        with translated(self.uri):
            client, place = self._client, (self.model, str(version)) if version else (self.model,)
            if value:
                (client.set_model_version_tag if version else client.set_registered_model_tag)(*place, name, value)
            else:
                (client.delete_model_version_tag if version else client.delete_registered_model_tag)(*place, name)

    def describe(self, version: int, text: str) -> None:
        """What the UI shows at the head of the version; 0: of the registered model."""
        with translated(self.uri):
            if version:
                self._client.update_model_version(self.model, str(version), text)
            else:
                self._client.update_registered_model(self.model, text)

    def aliases(self) -> Mapping[str, int]:
        """Alias → version; empty before the first registration."""
        page = self.page()
        return {} if page is None else page.aliases

    def open(self) -> None:
        """Import and open MLflow, if that was not done yet."""
        self._opened = self._client

    def page(self) -> ModelPage | None:
        """None before the first registration."""
        with translated(self.uri):
            client = self._client  # its import is the quiet one
            from mlflow.exceptions import MlflowException

            try:
                found = client.get_registered_model(self.model)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        aliases = {name: int(version) for name, version in found.aliases.items()}
        return ModelPage(aliases, dict(found.tags), found.description or "")

    def set_alias(self, name: str, version: int | None) -> None:
        """None: the alias is taken away."""
        with translated(self.uri):
            if version is None:
                self._client.delete_registered_model_alias(self.model, name)
            else:
                self._client.set_registered_model_alias(self.model, name, str(version))

    def log_trial(
        self,
        version: int,
        trial: str,
        *,
        looks: Sequence[tuple[int, Mapping[str, float | None]]],
        pages: Mapping[str, Path] | None = None,
    ) -> None:
        """Numbers of looks, oldest first, as `trial/<id>/<name>` at the look as step: on the logged model behind the
        version, and in its run. `pages`: files by the name that they get in the run's `trials/<id>`.

        The newest look and those that are missing are written: looks during which MLflow was away come with the next.
        """
        with translated(self.uri):
            found = self._client.get_model_version(self.model, str(version))
            run = self._client.get_run(found.run_id)
        tracked = TrackedRun(self._client, run, uri=self.uri)
        seen: dict[str, set[int]] = {}
        for place, (look, values) in enumerate(looks, start=1):
            named = {f"trial/{trial}/{name}": value for name, value in values.items() if value is not None}
            first = next(iter(named), None)
            if first is None:
                continue
            if first not in seen:
                seen[first] = tracked.steps(first)
            if look not in seen[first] or place == len(looks):
                tracked.log_metrics(named, step=look, model_id=_logged_model(found))
        for name, file in (pages or {}).items():
            tracked.log_page(file, f"trials/{trial}/{name}")

    @property
    def _client(self) -> Any:
        if self._opened is None:
            self._opened = open_client(self.home, self.settings)
        return self._opened

    def _experiment(self) -> str:
        name = self.settings.tracking.experiment
        client = self._client
        with FileLock(self.home.run / "experiment.lock", timeout=60):
            found = client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            # A server keeps artifacts where it says; without one they belong to the home.
            local = not self.uri.startswith(("http://", "https://"))
            place = self.home.tracking_artifacts.as_uri() if local else None
            return str(client.create_experiment(name, artifact_location=place))

    def _create(self, experiment: str, name: str, *, key: str) -> Any:
        tags = {"mlflow.source.name": "ratchet", **({"ratchet.key": key} if key else {})}
        return self._client.create_run(experiment, run_name=name, tags=tags)

    def _of_key(self, experiment: str, key: str, *, unfinished: bool = False) -> Any:
        query = f"tags.`ratchet.key` = '{key}'" + (" and attributes.status != 'FINISHED'" if unfinished else "")
        found = self._client.search_runs([experiment], query, max_results=1)
        if not found:
            return None
        if unfinished:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0]

    def _find(self, digest: str) -> Registered | None:
        found = self._search(f"name = '{self.model}' and tag.{DIGEST} = '{digest}'")
        return min(found, key=lambda each: each.version, default=None)

    def _search(self, query: str) -> list[Registered]:
        found, page = [], self._client.search_model_versions(query)
        found += page
        while page.token:
            page = self._client.search_model_versions(query, page_token=page.token)
            found += page
        return [
            Registered(
                int(each.version), each.tags.get(DIGEST, ""), each.run_id, dict(each.tags), each.description or ""
            )
            for each in found
        ]

    def _register(self, bundle: Bundle, *, run_id: str, tags: Mapping[str, Any]) -> int:
        with warnings.catch_warnings(action="ignore"):  # of MLflow's own imports, about MLflow's own code
            import mlflow
            import mlflow.onnx
            import mlflow.pyfunc
        import onnx
        from mlflow.exceptions import MlflowException

        for name in SMALL_PARTS:
            if (bundle.folder / name).exists():
                self._client.log_artifact(run_id, str(bundle.folder / name), "bundle")
        graph = onnx.load(bundle.folder / "model.onnx")
        beside = sorted(str(file) for file in bundle.folder.rglob("*.json"))
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        status = self._client.get_run(run_id).info.status
        with mlflow.start_run(run_id=run_id, nested=True):
            logged = mlflow.onnx.log_model(
                graph,
                name="model",
                signature=_signature(graph),
                pip_requirements=REQUIREMENTS,
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
                extra_files=beside,
                tags={DIGEST: bundle.digest},
            )
        self._client.update_run(run_id, status=status)  # the block above has ended it
        try:
            self._client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._client.create_model_version(
            self.model,
            source=logged.model_uri,
            run_id=run_id,
            tags={**{name: str(value) for name, value in tags.items()}, DIGEST: bundle.digest},
            model_id=logged.model_id,
        )
        # What `mlflow.register_model` does: the logged model's page then leads to its version, as that one's does back.
        linked = json.dumps([{"name": self.model, "version": made.version}])
        self._client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": linked})
        return int(made.version)


def _logged_model(version: Any) -> str | None:
    """The id of the logged model behind a version, which MLflow keeps in its source; None for one that has none."""
    scheme, _, place = str(version.source or "").partition(":/")
    return place if scheme == "models" and "/" not in place else None


def _signature(graph: Any) -> Any:
    """MLflow's signature of an ONNX graph; dynamic axes are -1."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
        return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(shape), value.name)

    inputs, outputs = graph.graph.input, graph.graph.output
    return ModelSignature(Schema([spec(each) for each in inputs]), Schema([spec(each) for each in outputs]))
