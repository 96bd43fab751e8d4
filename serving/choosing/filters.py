"""What a request asks the catalogue for, checked, and small enough to be the key of what is kept for it."""

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from serving.web.messages import Filters
from serving.web.problems import Refused
from stores.catalogue import Catalogue

_SUGGESTED = 3


@dataclass(frozen=True)
class Wanted:
    """Which items may be shown, beyond what may be shown to anybody. The default: all of them."""

    categories: frozenset[str] | None = None
    """At least one of these."""
    without: frozenset[str] = frozenset()
    """None of these."""
    items: frozenset[str] | None = None
    """No others."""
    min_price: float = -math.inf
    max_price: float = math.inf
    """Both ends included; an item without a price is within no bounds."""

    @property
    def priced(self) -> bool:
        return self.min_price > -math.inf or self.max_price < math.inf

    def also_without(self, categories: Collection[str], *, catalogue: Catalogue | None) -> "Wanted":
        """For a user who hides `categories`; those that the catalogue does not know hide nothing."""
        if not categories or catalogue is None:
            return self
        return replace(self, without=self.without | catalogue.codes.keys() & categories)


EVERYTHING = Wanted()


def check(filters: Filters | None, *, catalogue: Catalogue | None) -> Wanted:
    """The request's filters.

    Raises Refused (422) for a category that no item of the catalogue has: a mistyped one would otherwise give an empty
    answer, or, in `without_categories`, show what was to be kept from view. Likewise for filters by category or price
    where no catalogue was published.
    """
    if filters is None:
        return EVERYTHING
    wanted = Wanted(
        categories=None if filters.categories is None else frozenset(filters.categories),
        without=frozenset(filters.without_categories or ()),
        items=None if filters.items is None else frozenset(filters.items),
        min_price=-math.inf if filters.min_price is None else float(filters.min_price),
        max_price=math.inf if filters.max_price is None else float(filters.max_price),
    )
    if wanted.min_price > wanted.max_price:
        raise Refused(422, "filters: min_price is above max_price")
    named = {"categories": wanted.categories or frozenset(), "without_categories": wanted.without}
    if catalogue is None:
        if wanted.priced or any(named.values()):
            raise Refused(
                422, "filters: there are no items with categories or prices here; deliver the catalogue first"
            )
        return wanted
    for field, categories in named.items():
        for name in sorted(categories - catalogue.codes.keys()):
            near = difflib.get_close_matches(name, catalogue.names[:10_000], n=_SUGGESTED, cutoff=0.6)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise Refused(422, f"filters.{field}: no item has the category {name!r}{hint}")
    return wanted
