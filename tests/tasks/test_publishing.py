"""From delivered items to what serving reads of them, as of a moment."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from stores.catalogue import Catalogue, read
from stores.clock import set_clock
from stores.home import Home
from stores.settings import Settings
from tasks.ingesting import ingest_file
from tasks.publishing import publish_catalogue
from tasks.refreshing import refresh_serving

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def deliver(folder: Path, home: Home, *rows: dict[str, Any]) -> None:
    path = folder / f"items-{len(list(folder.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps({"title": "t", **row}) + "\n" for row in rows))
    receipt = ingest_file(path, home=home, settings=Settings(), now=NOW, kind="items")
    assert receipt.accepted == len(rows), receipt


def told(catalogue: Catalogue) -> dict[str, tuple[bool, float | None, list[str]]]:
    begins, category_begins = ([0, *ends.tolist()[:-1]] for ends in (catalogue.ends_C, catalogue.category_ends_C))
    return {
        catalogue.ids[begin : int(catalogue.ends_C[c])]: (
            bool(catalogue.available_C[c]),
            None if np.isnan(catalogue.price_C[c]) else float(catalogue.price_C[c]),
            [catalogue.names[code] for code in catalogue.category_E[from_ : catalogue.category_ends_C[c]]],
        )
        for c, (begin, from_) in enumerate(zip(begins, category_begins, strict=True))
    }


def test_the_newest_state_that_holds_now(tmp_path: Path, home: Home, settings: Settings) -> None:
    assert publish_catalogue(home, settings, now=NOW) is False  # no items, nothing to tell
    deliver(
        tmp_path,
        home,
        {"item_id": "ü🛒", "categories": ["a", "b"], "price": 2.5},
        {"item_id": "b", "valid_from": "2026-01-01", "categories": ["a"], "price": 1.0},
        {"item_id": "b", "valid_from": "2026-02-01", "available": False},  # its price and categories are gone, too
        {"item_id": "soon", "valid_from": "2026-03-02", "categories": ["c"]},
        {"item_id": "ü🛒", "valid_from": "2026-03-01T13:00:00Z", "categories": ["b"], "available": False},
    )
    assert publish_catalogue(home, settings, now=NOW)
    assert told(read(home.catalogue)) == {"b": (False, None, []), "ü🛒": (True, 2.5, ["a", "b"])}
    assert publish_catalogue(home, settings, now=NOW + timedelta(minutes=59)) is False
    assert publish_catalogue(home, settings, now=NOW + timedelta(minutes=60))
    assert told(read(home.catalogue)) == {"b": (False, None, []), "ü🛒": (False, None, ["b"])}
    assert publish_catalogue(home, settings, now=NOW + timedelta(hours=24))
    assert told(read(home.catalogue))["soon"] == (True, None, ["c"])
    assert publish_catalogue(home, settings, now=NOW + timedelta(days=99)) is False


def test_a_withdrawal_is_published_with_the_next_refresh(tmp_path: Path, home: Home) -> None:
    settings = Settings.model_validate({"home": {"clock": "request"}})
    set_clock(home, NOW)
    deliver(tmp_path, home, {"item_id": "a"}, {"item_id": "b"})
    refresh_serving(home, settings)  # without any event
    assert told(read(home.catalogue)) == {"a": (True, None, []), "b": (True, None, [])}
    deliver(tmp_path, home, {"item_id": "a", "valid_from": "2026-02-28", "available": False})
    refresh_serving(home, settings)
    assert told(read(home.catalogue))["a"] == (False, None, [])
    home.catalogue.write_bytes(b"damaged")
    refresh_serving(home, settings)
    assert told(read(home.catalogue))["a"] == (False, None, [])
