"""Addresses of what MLflow and Prefect show of a thing. Empty where nobody listens, as far as this machine knows."""

import os
from dataclasses import dataclass
from urllib.parse import quote

from serving.console.place import Place
from stores.running import running_server


@dataclass(frozen=True)
class Links:
    """`mlflow`, `prefect`: where their pages begin."""

    mlflow: str
    prefect: str
    model: str

    @staticmethod
    def of(place: Place) -> "Links":
        """Of a tracking server by `[tracking] uri`, of Prefect by PREFECT_UI_URL or PREFECT_API_URL, as Prefect reads
        them; else of the home's own servers, while they run."""
        tracking = place.settings.tracking
        stated = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix(
            "/api"
        )
        return Links(
            mlflow=_page(tracking.uri) or running_server(place.home, "mlflow") or "",
            prefect=_page(stated) or running_server(place.home, "prefect") or "",
            model=tracking.model,
        )

    def run(self, run_id: str) -> str:
        """Of a training's run."""
        return f"{self.mlflow}/#/runs/{quote(run_id, safe='')}" if self.mlflow and run_id else ""

    def version(self, number: int) -> str:
        """Of a registered version, which MLflow numbers as the ledger does unless it was away at a release."""
        return f"{self.mlflow}/#/models/{quote(self.model, safe='')}/versions/{number}" if self.mlflow else ""

    def flow_run(self, run_id: str) -> str:
        return f"{self.prefect}/runs/flow-run/{quote(run_id, safe='')}" if self.prefect and run_id else ""


def _page(address: str) -> str:
    """An address that a browser can open; a database's is none."""
    return address.rstrip("/") if address.startswith(("http://", "https://")) else ""
