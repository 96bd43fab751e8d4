"""Upkeep as a flow."""

import pyarrow as pa
import pytest

from flows.maintenance import maintenance
from relations.schemas import SCHEMAS
from stores.home import Home
from stores.lake import Lake


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_the_flow_reports_each_table(home: Home) -> None:
    Lake(home.lake).append("items", SCHEMAS["items"].empty_table(), transaction="none")
    assert maintenance(str(home.root)) == {"tables": []}
    row = {"delivery_id": "d", "row": 0, "kind": "events", "format": "csv", "raw": b"x", "reasons": [], "source": "s",
           "received_time": 0, "state": "open"}  # fmt: skip
    Lake(home.lake).append("quarantine", pa.Table.from_pylist([row], schema=SCHEMAS["quarantine"]), transaction="d")
    (done,) = maintenance(str(home.root))["tables"]
    assert (done["table"], done["files"], done["dropped"]) == ("quarantine", (1, 1), 0)
