"""What Prometheus reads of a running app: counters and histograms as things happen, gauges when it asks.

Labels are routes, statuses, arms, fates and digests, never users or items, so that there are few series whatever the
traffic. Arms have the same names in every trial (champion, challenger, challenger-2, …), so that trials add none. Each
app has a registry of its own. Counting costs about 0.3 µs, a latency 0.8 µs (`tests/serving/test_metrics.py` bounds
both); a gauge costs nothing until a scrape.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from stores.facts import FATES, Facts
from stores.ledger_records import TrialMode

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.5),
)
"""Upper bounds of the latency buckets. Neighbours are at most 1⅔ apart between 1 ms and 1 s, so a quantile read off
them is at most that wrong."""
QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the batch size's buckets."""
K = TypeVar("K")
C = TypeVar("C")


class Fallback(StrEnum):
    """Why an answer is not of the model that its user was assigned to."""

    POPULARITY = "popularity"
    CHAMPION = "champion_for_challenger"
    FORMER = "former_champion"
    """The new champion does not load."""
    ENGINE = "failing_engine"
    """A network raised or gave no finite scores; what answered instead is counted beside it."""


class Fate(StrEnum):
    """Of one event of a feedback request."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class ShadowFate(StrEnum):
    """Of one request whose challenger is in the shadow."""

    SCORED = "scored"
    DROPPED = "dropped"
    """There was no room, no quiet moment, or a disk that is behind."""
    FAILED = "failed"
    """The challenger could not answer."""


@dataclass(frozen=True)
class LogStanding:
    """Of one log that serving writes for ingest, in rows.

    Since the start: `written`, and `refused`, which were not taken, as the request was told. Now: `pending`, which
    ingest cannot see yet, and of these `unwritten`, which kill -9 would lose. `oldest_seconds`: the longest wait of a
    pending row.
    """

    written: int = 0
    refused: int = 0
    pending: int = 0
    unwritten: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True)
class BundleStanding:
    """A bundle in memory. `role`: champion, a challenger's name, delta, former (what a rollback would bring back while
    a promotion is watched) or warm; `version` 0 where it is nobody's."""

    role: str
    version: int
    digest: str
    provider: str


@dataclass(frozen=True)
class Standing:
    """How an app stands at the moment of a scrape. Ages are in seconds on the home's clock; None: there is none."""

    ready: bool
    bundles: Sequence[BundleStanding] = ()
    champion_epoch: int = 0
    champion_age_seconds: float | None = None
    delta_sequence: int = 0
    trial_open: bool = False
    trial_mode: TrialMode | None = None
    """As users meet it: killed as soon as this server knows."""
    trial_shares: Mapping[str, float] = field(default_factory=dict)
    """Variant → share of users, those held back apart, who are assigned to it now."""
    trial_out: int = 0
    """Challengers that a look has rejected."""
    trial_held_seconds: float = 0.0
    baking: bool = False
    queue_depth: int = 0
    logs: Mapping[str, LogStanding] = field(default_factory=dict)
    side_index_items: int = 0
    ledger_silent_seconds: float = 0.0
    """Since the ledger answered last."""
    problems: int = 0
    swaps: int = 0
    shed: int = 0
    timeouts: int = 0
    facts: Facts | None = None
    trial_state_seconds: Mapping[str, float] = field(default_factory=dict)
    """State → since the newest trial in it came to it or was looked at."""
    facts_age_seconds: float | None = None
    data_age_seconds: float | None = None


class Metrics:
    """One app's metrics. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        requests = self._counter("requests", "Requests by route and status", "route", "status")
        seconds = self._histogram("request_seconds", "From a request's first byte to its answer's last", "route")
        self._requests = _Children[tuple[str, int], Counter](lambda key: requests.labels(*key))
        self._request_seconds = _Children[str, Histogram](seconds.labels)
        answers = self._histogram("answer_seconds", "Recommendations by the arm that their user was assigned to", "arm")
        self._answer_seconds = _Children[str, Histogram](answers.labels)
        failures = self._counter("answer_failures", "Of these, not of the assigned model, or made without all", "arm")
        self._answer_failures = _Children[str, Counter](failures.labels)
        self._batch_queries = Histogram(
            "ratchet_batch_queries", "Queries that a network was asked at once", registry=self.registry, buckets=QUERIES
        )
        self._batch_seconds = self._histogram("batch_seconds", "One run of a network")
        self.user_state_errors = self._counter("user_state_errors", "Answers made without the user's history")
        fallbacks = self._counter("fallbacks", "Answers that are not of the assigned model, by reason", "reason")
        self._fallbacks = {reason: fallbacks.labels(reason) for reason in Fallback}
        feedback = self._counter("feedback_events", "Events of feedback requests by what became of them", "fate")
        self._feedback = {fate: feedback.labels(fate) for fate in Fate}
        shadow = self._counter("shadow_requests", "Requests handed to a challenger in the shadow, by fate", "fate")
        self._shadow = {fate: shadow.labels(fate) for fate in ShadowFate}
        lookups = self._counter("cache_lookups", "Look-ups in the cache of repeated requests", "result")
        self._lookups = {True: lookups.labels("hit"), False: lookups.labels("miss")}

    def observe(self, standing: Callable[[], Standing]) -> None:
        """Ask `standing` at each scrape, once."""
        self.registry.register(_Gauges(standing))

    def text(self) -> bytes:
        """The exposition, of content type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def request(self, route: str, *, status: int, seconds: float) -> None:
        """`route`: a path template of the app, never a path that a client made up."""
        self._requests[route, status].inc()
        self._request_seconds[route].observe(seconds)

    def answer(self, *, arm: str, seconds: float, failed: bool) -> None:
        """`failed`: as the gate's guardrail `failure` has it, an exposure with `error`."""
        self._answer_seconds[arm].observe(seconds)
        self._answer_failures[arm].inc(failed)

    def batch(self, queries: int, seconds: float) -> None:
        self._batch_queries.observe(queries)
        self._batch_seconds.observe(seconds)

    def fallback(self, reason: Fallback) -> None:
        self._fallbacks[reason].inc()

    def cache(self, *, hit: bool) -> None:
        self._lookups[hit].inc()

    def shadow(self, fate: ShadowFate) -> None:
        self._shadow[fate].inc()

    def feedback(self, *, accepted: int, duplicate: int, refused: int) -> None:
        for fate, events in ((Fate.ACCEPTED, accepted), (Fate.DUPLICATE, duplicate), (Fate.REFUSED, refused)):
            if events:
                self._feedback[fate].inc(events)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"ratchet_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, *labels: str) -> Histogram:
        return Histogram(f"ratchet_{name}", told, labels, registry=self.registry, buckets=SECONDS)


class _Children(dict[K, C]):
    """Labelled series by their labels: the library's own look-up costs three times what counting does."""

    def __init__(self, make: Callable[[K], C]) -> None:
        self._make = make

    def __missing__(self, key: K) -> C:
        self[key] = child = self._make(key)
        return child


class _Gauges:
    """A collector of what an app knows of itself."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        now = self._standing()
        for name, told, value in (
            ("ready", "1 while there is anything to recommend", float(now.ready)),
            ("champion_loaded", "1 while a champion's network answers", _has(now, "champion")),
            ("champion_epoch", "How often the champion changed; 0 without one", now.champion_epoch),
            ("champion_age_seconds", "Since the champion became champion", now.champion_age_seconds),
            ("delta_sequence", "Number of the online delta that serves; 0 without one", now.delta_sequence),
            ("trial_open", "1 while a trial is open", float(now.trial_open)),
            ("trial_held_seconds", "Since the open trial's looks have all been HOLD", now.trial_held_seconds),
            ("trial_challengers_out", "Challengers of the open trial that a look has rejected", now.trial_out),
            ("baking", "1 while a promotion is watched", float(now.baking)),
            ("queue_depth", "Queries that wait for a network", now.queue_depth),
            ("side_index_items", "Items newer than the release that can be recommended", now.side_index_items),
            ("ledger_silent_seconds", "Since the ledger answered last", now.ledger_silent_seconds),
            ("problems", "What /readyz tells under problems, counted", now.problems),
            ("facts_age_seconds", "Since the flows published facts of the data", now.facts_age_seconds),
            ("data_age_seconds", "Since the newest accepted event", now.data_age_seconds),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"ratchet_{name}", told, value)
        for name, told, count in (
            ("swaps", "Changes of who serves", now.swaps),
            ("shed", "Queries refused because too much waited", now.shed),
            ("timeouts", "Queries refused because they had waited too long", now.timeouts),
        ):
            yield CounterMetricFamily(f"ratchet_{name}", told, count)
        yield from _trial(now)
        yield from _logs(now.logs)
        yield _bundles(now.bundles)
        yield from _rows(now.facts)


def _has(now: Standing, role: str) -> float:
    return float(any(bundle.role == role for bundle in now.bundles))


def _trial(now: Standing) -> Iterator[Metric]:
    modes = GaugeMetricFamily(
        "ratchet_trial_mode", "1 for how the open trial's challengers meet users", labels=["mode"]
    )
    for mode in TrialMode:
        modes.add_metric([mode], float(mode is now.trial_mode))
    shares = GaugeMetricFamily("ratchet_trial_share", "Share of users assigned to an arm of the trial", labels=["arm"])
    for arm, share in now.trial_shares.items():
        shares.add_metric([arm], share)
    yield from (modes, shares)
    told = "Since the newest trial in a state came to it or was looked at"
    ages = GaugeMetricFamily("ratchet_trial_state_seconds", told, labels=["state"])
    for state, seconds in now.trial_state_seconds.items():
        ages.add_metric([state], seconds)
    yield ages


def _logs(logs: Mapping[str, LogStanding]) -> Iterator[Metric]:
    written = CounterMetricFamily("ratchet_log_written_rows", "Rows written for ingest, by log", labels=["log"])
    refused = CounterMetricFamily("ratchet_log_refused_rows", "Rows that were not taken, by log", labels=["log"])
    pending = GaugeMetricFamily("ratchet_log_pending_rows", "Rows that ingest cannot see yet, by log", labels=["log"])
    unwritten = GaugeMetricFamily("ratchet_log_unwritten_rows", "Rows that kill -9 would lose, by log", labels=["log"])
    oldest = GaugeMetricFamily("ratchet_log_oldest_seconds", "Age of the oldest pending row, by log", labels=["log"])
    for name, log in logs.items():
        written.add_metric([name], log.written)
        refused.add_metric([name], log.refused)
        pending.add_metric([name], log.pending)
        unwritten.add_metric([name], log.unwritten)
        oldest.add_metric([name], log.oldest_seconds)
    yield from (written, refused, pending, unwritten, oldest)


def _bundles(bundles: Sequence[BundleStanding]) -> Metric:
    labels = ["role", "version", "digest", "provider"]
    family = GaugeMetricFamily("ratchet_bundle_info", "Bundles in memory and what runs them", labels=labels)
    for bundle in bundles:
        family.add_metric([bundle.role, str(bundle.version), bundle.digest, bundle.provider], 1.0)
    return family


def _rows(facts: Facts | None) -> Iterator[Metric]:
    if facts is None:
        return
    rows = GaugeMetricFamily("ratchet_day_rows", "Rows delivered in a day, and what became of them", labels=["fate"])
    for fate in FATES:
        rows.add_metric([fate], facts.rows[fate])
    yield rows
    delivered = facts.rows["delivered"]
    share = facts.rows["quarantined"] / delivered if delivered else 0.0
    yield GaugeMetricFamily("ratchet_quarantine_share", "Of the rows delivered in a day, those held back", share)
