"""Who submits what a flow trains: who called it, or the deployment whose run it is."""

import pytest

from flows.submitting import submitted_by
from stores.people import is_deployment


def test_who_calls_a_flow_submits_what_it_trains() -> None:
    assert submitted_by("ann") == "ann"


def test_a_deployments_run_is_the_deployments_whatever_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Prefect's own documentation says that what a run knows of itself is mocked.
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "6f1f")
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__NAME", "nightly\x1b[2J")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "learn")
    for stated in ("", "ann"):
        assert submitted_by(stated) == "deployment learn/nightly\ufffd[2J"
        assert is_deployment(submitted_by(stated))
