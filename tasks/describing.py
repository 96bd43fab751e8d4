"""What the lake says of items, for those who judge what is recommended."""

from model.metrics.facts import ItemFacts
from stores.lake import Lake


def item_facts(lake: Lake, *, version: int) -> ItemFacts | None:
    """Each item's categories by its newest state in that version of `items`; None where none has any."""
    rows = lake.read("items", version=version, columns=["item_id", "valid_from", "categories"]).sort_by("valid_from")
    stated = dict(zip(rows["item_id"].to_pylist(), rows["categories"].to_pylist(), strict=True))
    categories = {item: tuple(names) for item, names in stated.items() if names}
    return ItemFacts(categories=categories) if categories else None
