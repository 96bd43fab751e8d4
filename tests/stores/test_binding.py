"""Binding: which of a source's columns is which of Ratchet's, and what to write where one is missing."""

import re

import pytest

from relations.errors import SettingsError
from stores.binding import Binding, absent, bind, require_mapping
from stores.settings import SourceSettings


def bound(settings: SourceSettings) -> Binding:
    names = ("user_id", "product", "behaviour", "event_time")
    return bind(names, kind="events", source="shop", settings=settings, pseudonymous=False, replayed=False)


def test_missing_columns_name_the_near_ones_and_the_remedy() -> None:
    (missing,) = bound(SourceSettings()).missing
    assert missing.column == "item_id"
    assert "near names: product" in missing.message
    assert '[sources.shop] columns = { item_id = "product" }' in missing.message
    assert bound(SourceSettings(columns={"item_id": "product"})).missing == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"columns": {"itm_id": "sku"}}, "columns: 'itm_id' is no column of Ratchet's; did you mean item_id?"),
        ({"constants": {"qqqq": "red"}}, "constants: 'qqqq' is no column of Ratchet's; known: allocation, "),
        ({"constants": {"value": "many"}}, "constants: value: 'many' is not a finite number"),
        (
            {"behaviours": {"browse": "veiw"}},
            "behaviours: browse: 'veiw' is no behaviour of Ratchet's; did you mean view",
        ),
    ],
)
def test_a_mapping_to_what_is_not_there_is_refused(said: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"ratchet.toml: [sources.shop] {message}")):
        require_mapping("shop", SourceSettings.model_validate(said))


def test_a_stated_column_that_is_not_there_and_need_not_be_is_told_of() -> None:
    settings = SourceSettings(columns={"value": "starz", "item_id": "sku"}, context=("device", "hour"))
    assert absent({"stars", "hour"}, kind="events", source="shop", settings=settings) == [
        "source shop: column starz (value) is not in this delivery; did you mean stars?",
        "source shop: column device (context) is not in this delivery",
    ]
    assert absent({"starz", "device", "hour"}, kind="events", source="shop", settings=settings) == []
    assert absent({"name"}, kind="items", source="shop", settings=settings) == []
