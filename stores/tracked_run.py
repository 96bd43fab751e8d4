"""One MLflow run, as the rest of Ratchet writes to it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.mlflow_client import translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORBIDDEN = re.compile(r"[^/\w.\- :]")
BATCH = 1_000  # MLflow's own limit of metrics in one request


class TrackedRun:
    """One MLflow run. Metric names: `@` is written `_at_` and others that MLflow forbids `_`; `/` groups them in
    the UI.

    Values that are not finite are left out. Points without a time of their own carry the run's start, so that logging
    the same point again, after a kill, changes nothing.
    """

    def __init__(self, client: Any, run: Any, *, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._started: int = run.info.start_time
        self.run_id: str = run.info.run_id
        self.url_hint = f"#/experiments/{run.info.experiment_id}/runs/{self.run_id}"

    def log_metrics(self, values: Mapping[str, float | None], step: int = 0, *, model_id: str | None = None) -> None:
        """`model_id`: MLflow's logged model that they are of; its page shows them then, and the run's does too."""
        points = [(name, step, value, self._started) for name, value in values.items() if value is not None]
        self.log_points(points, model_id=model_id)

    def log_curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        """Points (step, value), in as few requests as MLflow allows."""
        self.log_points([(name, step, value, self._started) for step, value in points])

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Nested mappings become `outer.inner`."""
        from mlflow.entities import Param

        flat = [Param(name, str(value)) for name, value in _flat(values)]
        with translated(self._uri):
            for begin in range(0, len(flat), 100):
                self._client.log_batch(self.run_id, params=flat[begin : begin + 100])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        with translated(self._uri):
            self._client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def rename(self, name: str) -> None:
        with translated(self._uri):
            self._client.update_run(self.run_id, name=name)

    def set_status(self, status: str) -> None:
        """`status`: MLflow's word; anything but RUNNING ends the run."""
        with translated(self._uri):
            if status == "RUNNING":
                self._client.update_run(self.run_id, status=status)
            else:
                self._client.set_terminated(self.run_id, status=status)

    def steps(self, name: str) -> set[int]:
        """The steps at which the run has a point of this name."""
        with translated(self._uri):
            return {point.step for point in self._client.get_metric_history(self.run_id, _allowed(name))}

    def log_figure(self, figure: "Figure", name: str) -> None:
        """`name` ends in .png."""
        with translated(self._uri):
            self._client.log_figure(self.run_id, figure, name)

    def log_dict(self, value: Mapping[str, Any], name: str) -> None:
        """`name` ends in .json."""
        with translated(self._uri):
            self._client.log_text(self.run_id, json.dumps(value, indent=2, ensure_ascii=False, default=str), name)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows of equal keys as one of MLflow's tables, `name` ending in .json; logged again it is replaced.

        MLflow's own `log_table` adds rows to those that are there, so that a run that is told again would have all of
        them twice.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        columns = list(rows[0])
        self.log_dict({"columns": columns, "data": [[row[column] for column in columns] for row in rows]}, name)
        with translated(self._uri):
            stated = self._client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]")
        tables = [table for table in json.loads(stated) if table["path"] != name]
        self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*tables, {"path": name, "type": "table"}])})

    def log_text(self, text: str, name: str) -> None:
        with translated(self._uri):
            self._client.log_text(self.run_id, text, name)

    def log_page(self, file: Path, name: str) -> None:
        """A text file under a name of its own in the run."""
        with translated(self._uri):
            self._client.log_text(self.run_id, file.read_text(encoding="utf-8"), name)

    def log_data(self, table: str, *, version: int, digest: str, uri: str, context: str = "training") -> None:
        """A table version that was read, as MLflow's dataset of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": uri, "version": version, "digest": digest})
        # MLflow allows a dataset 36 characters of digest; the whole one is in the source.
        data = Dataset(f"{table} v{version}", digest[:36], "delta_table", source)
        with translated(self._uri):
            self._client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def log_points(self, points: Sequence[tuple[str, int, float, int]], *, model_id: str | None = None) -> None:
        """Points (name, step, value, milliseconds since 1970), in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        metrics = [
            Metric(_allowed(name), float(value), time_ms, step, model_id=model_id)
            for name, step, value, time_ms in points
            if math.isfinite(value)
        ]
        with translated(self._uri):
            for begin in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[begin : begin + BATCH])


def _allowed(name: str) -> str:
    return _FORBIDDEN.sub("_", name.replace("@", "_at_"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
