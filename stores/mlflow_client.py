"""Opening MLflow: quietly, without telemetry, and with its errors translated.

MLflow and what it brings take seconds to import, so it happens at the first use.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from relations.errors import DependencyFailed, RatchetError
from stores.home import Home
from stores.settings import Settings

# Set before MLflow is imported, which reads some of them only then. A tracking server that does not answer must not
# hold up whoever is waiting for a promotion to be shown.
_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(home: Home, settings: Settings) -> str:
    return settings.tracking.uri or home.tracking_uri


def open_client(home: Home, settings: Settings) -> Any:
    """An `MlflowClient` on the settings' store, whose tables are made and migrated by one process at a time."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # only this word counts
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri(home, settings)
    with translated(uri):
        with warnings.catch_warnings(action="ignore"):  # of MLflow's own imports, about MLflow's own code
            import mlflow

        for name in ("mlflow", "alembic"):  # its import has set its own
            logging.getLogger(name).setLevel(logging.WARNING)
        with FileLock(home.run / "mlflow.lock", timeout=60):
            client = mlflow.MlflowClient(uri, uri)
            client.search_experiments(max_results=1)
    return client


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """MLflow raises its own, SQLAlchemy's, requests' and the system's errors: all mean that it could not be reached."""
    try:
        yield
    except RatchetError:
        raise
    except ImportError as error:
        raise DependencyFailed(f"MLflow is not installed ({error.name}); install ratchet-rec[train]") from error
    except Exception as error:
        raise DependencyFailed(f"MLflow at {uri}: {_told(error)}; check [tracking] uri and the disk") from error


def _told(error: Exception) -> str:
    """In a line; connection errors of the HTTP client name a pool, an object and the retries instead of the fact."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return "does not answer" if "Max retries exceeded" in first or "Connection refused" in first else first
