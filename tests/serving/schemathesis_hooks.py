"""What no schema can say of a request, for schemathesis: SCHEMATHESIS_HOOKS names this file.

Filters name categories that the catalogue has (it has those of RATCHET_CATEGORIES, separated by commas), and no
smallest price is above the largest. Whatever breaks the schema itself is left as it is.
"""

import os
from typing import Any

import schemathesis


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    body: Any = case.body
    requests = body.get("requests", [body]) if isinstance(body, dict) else []
    for request in requests if isinstance(requests, list) else []:
        filters = request.get("filters") if isinstance(request, dict) else None
        if isinstance(filters, dict):
            make_sensible(filters, os.environ["RATCHET_CATEGORIES"].split(","))
    return case


def make_sensible(filters: dict[str, Any], known: list[str]) -> None:
    for field in ("categories", "without_categories"):
        named = filters.get(field)
        if isinstance(named, list):
            filters[field] = [known[len(name) % len(known)] if is_id(name) else name for name in named]
    low, high = filters.get("min_price"), filters.get("max_price")
    if is_number(low) and is_number(high) and low > high:
        filters["min_price"], filters["max_price"] = high, low


def is_id(stated: object) -> bool:
    return isinstance(stated, str) and 1 <= len(stated) <= 512


def is_number(stated: object) -> bool:
    return isinstance(stated, int | float) and not isinstance(stated, bool)
