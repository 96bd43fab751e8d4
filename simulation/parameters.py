"""Every parameter of the simulated marketplace, with its unit and its reason.

One frozen value describes one marketplace; together with a seed it fixes every taste, item and event. The
figures that these defaults lead to stand in `docs/simulation.md`, beside those of real logs.
"""

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Parameters:
    # --- calendar -----------------------------------------------------------------------------------------------
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)
    """Midnight of day 0, UTC. A Monday, so that weeks and days count alike."""
    horizon_days: int = 90
    """Days that can be simulated. Arrivals are drawn for all of them at once, so that a day's catalogue depends on
    the seed alone and never on which days were asked for first."""

    # --- people -------------------------------------------------------------------------------------------------
    users: int = 5_000
    """People known on day 0. Enough for 2,000 matured users in each arm of a trial."""
    new_users_per_day: int = 15
    """People who arrive each later day, so that the slice of new users is never empty."""
    daily_visitor_share: float = 0.06
    """Share of people who come every day or every second day: the heavy head that real logs have."""
    visit_gaps_days: tuple[int, ...] = (4, 5, 6, 7)
    """Days between the visits of everybody else, drawn once a person. Long and regular, so that a day's visitors are
    mostly people whom the running trial has not met yet, and users mature quickly."""
    extra_visit: float = 0.015
    """Probability, a day, of a visit out of turn: visits are habits, not clocks."""
    bots: int = 4
    """Crawlers among the users. A few: they must be noticeable in the data and not decide a trial."""
    bot_events_per_day: int = 60
    """Item pages that one crawler opens a day, ten times a busy person's."""
    bot_requests_per_day: int = 2
    """Requests for recommendations that one crawler makes a day; crawlers mostly open item pages."""
    bot_click: float = 0.3
    """Click probability of a crawler at any position on any item: indiscriminate."""

    # --- tastes -------------------------------------------------------------------------------------------------
    topics: int = 9
    """Topics of the catalogue; each is a category of its items."""
    subtopics_per_topic: int = 4
    """Sub-topics of one topic: 36 in all, some 33 items each, so that ten slots can be filled from one
    taste, and a week of events tells all of them."""
    interests: int = 3
    """Sub-topics that a person cares about at a time. A short history then shows them all."""
    topics_per_user: int = 2
    """Topics from which most of a person's interests come, so that sub-topics of one topic are told together."""
    off_topic_interest: float = 0.25
    """Probability that an interest comes from outside the person's topics."""
    interest_click: float = 2.6
    """Log-odds that an interest of strength 1 adds to a click. Personal taste must matter more than popularity,
    else a popularity list would do."""
    interest_spread: float = 0.3
    """Half-width of the uniform strength of an interest around 1."""
    choice_sharpness: float = 2.0
    """Exponent from click log-odds to the choice of the next sub-topic when a person browses alone: search and
    menus lead to what one wants better than a list that somebody else composed."""
    interest_change: float = 0.025
    """Probability, a day and interest, that it gives way to another one: half a person's interests a month."""
    trend_step: float = 0.1
    """Daily standard deviation of a sub-topic's market-wide trend, in log-odds. Everybody's taste moves together, so
    a model of last week is wrong in the same direction for everyone."""
    trend_persistence: float = 0.97
    """Share of the trend that is left the next day; keeps it stationary (standard deviation about .41)."""
    user_spread: float = 0.25
    """Standard deviation of a person's own click inclination, in log-odds. Small, so that the standard error of a
    trial's lift comes from clicks, not from who came."""

    # --- items --------------------------------------------------------------------------------------------------
    items: int = 1_200
    """Items on sale on day 0."""
    new_items_per_day: float = 20.0
    """Mean of the Poisson number of items released each later day: 1.7 % of the catalogue."""
    first_release_day: int = -60
    """Release day of the oldest items of day 0; those before it have no novelty left."""
    quality_spread: float = 0.35
    """Standard deviation of an item's quality, in click log-odds."""
    novelty: float = 2.0
    """Log-odds that an item has on its release day. With `novelty_days` it puts about three tenths of the attention on
    items of the last eight days, as in a shop with seasons: a model that never saw them loses that."""
    novelty_days: float = 8.0
    """Time constant in days after which novelty has fallen to 37 %."""
    popularity_pull: float = 0.35
    """Exponent of an item's recent views in what people find when they browse alone: rich get richer. It does not
    change whether they like what they are shown."""
    popularity_memory: float = 0.8
    """Share of an item's popularity that is left the next day."""
    price_median: float = 24.0
    """Median price, in the shop's currency."""
    price_spread: float = 0.7
    """Standard deviation of the logarithm of the price."""
    non_ascii: float = 0.08
    """Share of titles and of user ids with letters outside ASCII: files, databases and browsers must carry them."""

    # --- sessions -----------------------------------------------------------------------------------------------
    session_items_mean: float = 3.9
    """Mean number of items that a person looks at in a session of their own (geometric)."""
    session_spread: float = 0.4
    """Standard deviation of the logarithm of a person's mean session length: some always browse longer."""
    session_items_max: int = 40
    """Longest session, in items; cuts the geometric tail."""
    stay: float = 0.15
    """Probability that the next item is of the last item's sub-topic."""
    complement: float = 0.15
    """Probability that the next item is of the complement of the last item's sub-topic (a lens after a camera). It
    is what only a model of the order can learn."""
    resume: float = 0.8
    """Share of the last item's influence that is left at the start of a new session."""
    repeat: float = 0.06
    """Probability that the next item is one that the person already looked at in an earlier session."""
    repeat_memory: int = 8
    """Items that a person remembers for a repeat."""
    context_click: float = 1.2
    """Log-odds that a shown item gains when it is of the last item's sub-topic or of its complement."""
    step_seconds: float = 45.0
    """Mean time between two items of a session (exponential, plus two seconds): well under the 30 minutes at which
    sessions are split."""

    # --- funnel, organic and after a click ------------------------------------------------------------------------
    click: float = 0.38
    """P(click | view) on an item of average quality that was found by browsing."""
    favourite: float = 0.28
    """P(favourite | click)."""
    cart: float = 0.42
    """P(cart | favourite). Each step of the funnel keeps fewer than the one before."""
    cart_directly: float = 0.08
    """P(cart | click, no favourite)."""
    purchase: float = 0.42
    """P(purchase | cart) at the median price."""
    price_aversion: float = 0.25
    """Fall of the log-odds of a purchase with the logarithm of the price."""
    rating: float = 0.3
    """P(rating from 1 to 5 | purchase)."""
    delayed: float = 0.4
    """Share of the purchases that come hours after the cart: people sleep on it, and an attribution window must wait
    for them."""
    delay_hours: tuple[float, float] = (2.0, 48.0)
    """Shortest and longest delay of such a purchase (uniform in the logarithm)."""

    # --- the recommendation surface -------------------------------------------------------------------------------
    slots: int = 10
    """Items on a page."""
    examination_decay: float = 0.35
    """Position bias: a person looks at position j with probability j to the power of minus this; .45 at the tenth."""
    click_base: float = -3.6
    """Log-odds of a click on an examined item outside all interests, of average quality, without trend or novelty:
    under 3 %. Leads to about .2 clicks per impression for a trained model."""
    second_session: float = 0.3
    """Probability of a second session with recommendations on the same day."""
    second_page: float = 0.5
    """Probability of a second page in a session. With `second_session` about two requests a visitor and day."""

    # --- faults that the ingest door must catch ---------------------------------------------------------------------
    dirty: float = 0.004
    """Share of extra rows that are broken: unknown behaviour, missing item, bad time or NaN value, in turn."""
    duplicate: float = 0.001
    """Share of rows that are delivered twice: at-least-once delivery upstream."""

    @property
    def subtopics(self) -> int:
        return self.topics * self.subtopics_per_topic
