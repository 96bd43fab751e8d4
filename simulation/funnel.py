"""What follows a click: favourite, cart, purchase (at once or hours later) and rating.

Legend: `_M` one entry a click.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.catalogue import Catalogue
from simulation.clock import HOUR_US, SECOND_US

STEPS: tuple[str, ...] = ("view", "click", "favourite", "cart", "purchase", "rating")
"""Behaviours of the funnel by depth; a behaviour's code is its place here."""
VIEW, CLICK, FAVOURITE, CART, PURCHASE, RATING = range(len(STEPS))


@dataclass(frozen=True)
class FollowUp:
    """Which steps follow each click, and how many microseconds after the click."""

    favourite_M: NDArray[np.bool_]
    cart_M: NDArray[np.bool_]
    purchase_M: NDArray[np.bool_]
    rating_M: NDArray[np.bool_]
    stars_M: NDArray[np.float64]
    favourite_us_M: NDArray[np.int64]
    cart_us_M: NDArray[np.int64]
    purchase_us_M: NDArray[np.int64]
    rating_us_M: NDArray[np.int64]


def follow_up(catalogue: Catalogue, item_M: NDArray[np.int64], rng: np.random.Generator) -> FollowUp:
    p = catalogue.parameters
    draw = rng.random((10, len(item_M)))
    quality_M = catalogue.quality_N[item_M]
    favourite_M = draw[0] < p.favourite
    cart_M = draw[1] < np.where(favourite_M, p.cart, p.cart_directly)
    log_odds_M = np.log(p.purchase / (1 - p.purchase)) + 0.5 * quality_M
    log_odds_M -= p.price_aversion * np.log(catalogue.price_N[item_M] / p.price_median)
    purchase_M = cart_M & (draw[2] < 1 / (1 + np.exp(-log_odds_M)))
    rating_M = purchase_M & (draw[3] < p.rating)
    stars_M = np.clip(np.round(3.6 + 1.2 * quality_M + 2.4 * (draw[4] - 0.5)), 1, 5)

    favourite_us_M = 3 * SECOND_US + (draw[5] * 20 * SECOND_US).astype(np.int64)
    cart_us_M = favourite_us_M + 3 * SECOND_US + (draw[6] * 40 * SECOND_US).astype(np.int64)
    shortest, longest = p.delay_hours
    later_us_M = (HOUR_US * shortest * (longest / shortest) ** draw[8]).astype(np.int64)
    soon_us_M = 10 * SECOND_US + (draw[8] * 120 * SECOND_US).astype(np.int64)
    purchase_us_M = cart_us_M + np.where(draw[7] < p.delayed, later_us_M, soon_us_M)
    rating_us_M = purchase_us_M + 5 * SECOND_US + (draw[9] * 60 * SECOND_US).astype(np.int64)
    return FollowUp(
        favourite_M=favourite_M,
        cart_M=cart_M,
        purchase_M=purchase_M,
        rating_M=rating_M,
        stars_M=stars_M,
        favourite_us_M=favourite_us_M,
        cart_us_M=cart_us_M,
        purchase_us_M=purchase_us_M,
        rating_us_M=rating_us_M,
    )
