"""What every room's tests may ask for: an empty home, settings, a Prefect API, the real data sets."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from stores.home import Home
from stores.pseudonyms import Keys
from stores.settings import Settings

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

# A busy machine is no failure of a law.
hypothesis.settings.register_profile("ratchet", deadline=None)
hypothesis.settings.load_profile("ratchet")


def pytest_configure(config: pytest.Config) -> None:
    # Prefect's client leaves its sockets to the garbage collector, in whichever test that happens to run.
    for leak in ("unclosed.*<socket", "unclosed transport"):
        config.addinivalue_line("filterwarnings", f"ignore:{leak}:ResourceWarning")


def pytest_sessionfinish() -> None:
    # Ibis's default connection would still be open when the interpreter is torn down, which DuckDB reports as leaks.
    ibis = sys.modules.get("ibis")
    if ibis is not None and ibis.options.default_backend is not None:
        ibis.options.default_backend.disconnect()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home, with keys from a seed so that pseudonyms and derived ids repeat."""
    made = Home.create(tmp_path / "home", simulation=True)
    Keys.write_derived(made.keys, seed=7)
    return made


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """An ephemeral Prefect API for flows under test. Starting it takes some 15 seconds, once a session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=280):
        yield


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of the real data sets; skips where there is none."""
    stated = os.environ.get("RATCHET_TEST_DATA")
    folder = Path(stated) if stated else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; name their folder in RATCHET_TEST_DATA")
    return folder
