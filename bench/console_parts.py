"""What a console's home has beside its ledger: bundles that can serve, deliveries, rows that were held back."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from model.graph import add_best
from relations.schemas import DELIVERIES, QUARANTINE
from stores import facts
from stores.bundle import write_bundle
from stores.home import Home
from stores.lake import Lake

ITEMS = tuple(f"item-{number:02d}" for number in range(24))
PARITY: Mapping[str, Any] = {"rows": 512, "max_abs_diff": 3.1e-7, "top10_agreement": 0.9996, "provider": "CPU"}
DELIVERED = (("shop-export", 12_480, 0, 61, 12), ("shop-export", 11_936, 41, 58, 3), ("partner", 900, 900, 0, 0))
"""Source, delivered, quarantined, duplicate, late; one six hours after the other."""
REFUSED = (
    ("expect_column_values_to_be_in_set", "behaviour", "behaviour = 'liked' is none that Ratchet knows", 37),
    ("expect_column_values_to_not_be_null", "item_id", "item_id is missing", 4),
)


def write_release(home: Home, files: Path, number: int) -> str:
    """The bundle of version `number`, over a random network; returns its digest."""
    files.mkdir(parents=True)
    (files / "model.onnx").write_bytes(_network(number))
    (files / "vocabulary.json").write_text(json.dumps({"version": 1, "items": ITEMS, "withdrawn": []}))
    features = {
        "max_history": 5,
        "behaviours": ["<pad>", "view", "click", "purchase"],
        "padding": 0,
        "inputs": ["items", "behaviours", "ages", "mask", "excluded", "k"],
    }
    (files / "features.json").write_text(json.dumps(features))
    attestation = {
        "parity": {**PARITY, "holds": True},
        "events_version": 20 + number,
        "items_version": 3,
        "machine": {"system": "Linux", "python": "3.12.3"},
    }
    describe = {"architecture": "linear", "items": len(ITEMS), "kind": "full", "max_history": 5}
    return write_bundle(files, describe=describe, releases=home.releases, attestation=attestation).digest


def deliver(home: Home, *, now: datetime, trial_states: Mapping[str, datetime]) -> None:
    """Receipts of the last day, one with rows that were held back and one held whole, and what serving is told."""
    receipts: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for place, (source, delivered, bad, duplicate, late) in enumerate(DELIVERED):
        at = now - timedelta(hours=20 - 6 * place)
        name = f"{place:04x}{source[:4].encode().hex()}"
        receipts.append(
            {
                "delivery_id": name,
                "digest": name * 4,
                "kind": "events",
                "source": source,
                "uri": f"file:///landing/{source}-{place}.jsonl",
                "received_time": at,
                "delivered": delivered,
                "accepted": delivered - bad - duplicate - late,
                "quarantined": bad,
                "duplicate": duplicate,
                "late": late,
                "table_versions": [("events", 30 + place)],
                "state": "quarantined_whole" if bad == delivered else "committed",
            }
        )
        held += _held(name, source, bad, at)
    lake = Lake(home.lake)
    lake.append("deliveries", pa.Table.from_pylist(receipts, schema=DELIVERIES), transaction="deliveries")
    lake.append("quarantine", pa.Table.from_pylist(held, schema=QUARANTINE), transaction="quarantine")
    fates = {fate: sum(int(str(each[fate])) for each in receipts) for fate in facts.FATES}
    told, newest = now - timedelta(minutes=30), now - timedelta(minutes=42)
    page = home.reports / "data-docs" / f"{receipts[-1]['delivery_id']}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!doctype html><title>Data Docs</title><p>900 of 900 rows were held back", encoding="utf-8")
    docs = str(page.relative_to(home.root))
    arrivals = tuple(
        facts.Arrival(
            source=each["source"],
            kind=each["kind"],
            delivery_id=each["delivery_id"],
            received=each["received_time"],
            state=each["state"],
            rows={fate: each[fate] for fate in facts.FATES},
            page=docs if each is receipts[-1] else "",
        )
        for each in (receipts[2], receipts[1])
    )
    counts = Counter((why["expectation"], why["column"]) for row in held for why in row["reasons"])
    broken = tuple(facts.Broken(*why, rows, receipts[-1]["delivery_id"], docs) for why, rows in counts.most_common())
    stated = facts.Facts(told, 32, newest, fates, trial_states=trial_states, arrivals=arrivals, broken=broken)
    facts.publish(home.facts, stated)


def _held(delivery: str, source: str, rows: int, at: datetime) -> list[dict[str, Any]]:
    why = [(expectation, column, said) for expectation, column, said, count in REFUSED for _ in range(count)]
    return [
        {
            "delivery_id": delivery,
            "row": row,
            "kind": "events",
            "user": None,
            "format": "json",
            "raw": json.dumps({"item_id": ITEMS[row % len(ITEMS)], "behaviour": "liked"}).encode(),
            "reasons": [dict(zip(("expectation", "column", "message"), why[row % len(why)], strict=True))],
            "source": source,
            "received_time": at,
            "state": "open",
            "settled_by": None,
        }
        for row in range(rows)
    ]


def _network(seed: int) -> bytes:
    """A graph that answers: the mean of random item vectors, times another table."""
    random, width, rows = np.random.default_rng(seed), 8, len(ITEMS) + 1
    tables = {
        "embedding": random.normal(size=(rows, width)).astype(np.float32),
        "of_behaviour": np.zeros((4, width), np.float32),
        "of_age": np.zeros((1, width), np.float32),
        "output": np.pad(random.normal(size=(width, rows - 1)).astype(np.float32), ((0, 0), (1, 0))),
        "last": np.array([2], np.int64),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "items"], ["of_items"]),
        helper.make_node("Gather", ["of_behaviour", "behaviours"], ["of_behaviours"]),
        helper.make_node("Cast", ["ages"], ["seconds"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seconds", "last"], ["of_seconds"]),
        helper.make_node("Mul", ["of_seconds", "of_age"], ["of_ages"]),
        helper.make_node("Add", ["of_items", "of_behaviours"], ["events"]),
        helper.make_node("Add", ["events", "of_ages"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "axes"], ["state"], keepdims=0),
        helper.make_node("MatMul", ["state", "output"], ["unmasked"]),
        helper.make_node("Add", ["unmasked", "mask"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            *_values(TensorProto.INT64, ["batch", "length"], "items", "behaviours", "ages"),
            *_values(TensorProto.FLOAT, [rows], "mask"),
        ],
        [
            *_values(TensorProto.FLOAT, ["batch", rows], "scores"),
            *_values(TensorProto.FLOAT, ["batch", width], "state"),
        ],
        [numpy_helper.from_array(table, name) for name, table in tables.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(add_best(model).SerializeToString())


def _values(kind: int, shape: Sequence[str | int], *names: str) -> list[Any]:
    return [helper.make_tensor_value_info(name, kind, shape) for name in names]
