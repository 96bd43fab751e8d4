"""What is counted is what is exposed, and counting is cheap."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.web.metrics import SECONDS, BundleStanding, Fallback, LogStanding, Metrics, Standing
from stores.facts import Facts
from stores.ledger_records import TrialMode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(metrics: Metrics) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"ratchet_{name}", frozenset(labels.items())]


def test_every_kind_of_happening_is_counted_once() -> None:
    metrics = Metrics()
    metrics.request("/v1/recommend", status=200, seconds=0.0021)
    metrics.request("/v1/recommend", status=503, seconds=0.0004)
    metrics.answer(arm="challenger", seconds=0.002, failed=True)
    metrics.batch(5, 0.01)
    metrics.user_state_errors.inc()
    metrics.fallback(Fallback.CHAMPION)
    metrics.cache(hit=True)
    metrics.cache(hit=False)
    metrics.feedback(accepted=3, duplicate=0, refused=2)
    found = scraped(metrics)
    assert value(found, "requests_total", route="/v1/recommend", status="503") == 1
    assert value(found, "request_seconds_count", route="/v1/recommend") == 2
    assert value(found, "request_seconds_bucket", route="/v1/recommend", le="0.002") == 1  # .4 ms, not 2.1
    assert value(found, "request_seconds_bucket", route="/v1/recommend", le="0.003") == 2
    assert value(found, "answer_seconds_sum", arm="challenger") == 0.002
    assert value(found, "answer_failures_total", arm="challenger") == 1
    assert value(found, "batch_queries_bucket", le="4.0") == 0
    assert value(found, "batch_queries_bucket", le="8.0") == 1
    assert value(found, "batch_seconds_count") == 1
    assert value(found, "user_state_errors_total") == 1
    # Reasons, fates and results are there from the start, at 0: a rate over a series that appears is no rate.
    reasons = {reason: value(found, "fallbacks_total", reason=reason) for reason in Fallback}
    assert reasons == {"popularity": 0, "champion_for_challenger": 1, "former_champion": 0, "failing_engine": 0}
    assert [value(found, "cache_lookups_total", result=result) for result in ("hit", "miss")] == [1, 1]
    fates = [value(found, "feedback_events_total", fate=fate) for fate in ("accepted", "duplicate", "refused")]
    assert fates == [3, 0, 2]


def test_a_scrape_asks_once_how_the_app_stands() -> None:
    asked = []

    def standing() -> Standing:
        asked.append(1)
        return Standing(
            ready=True,
            bundles=[
                BundleStanding("champion", 3, "a" * 64, "CPUExecutionProvider"),
                BundleStanding("warm", 0, "b" * 64, "CPUExecutionProvider"),
            ],
            champion_epoch=2,
            champion_age_seconds=60.0,
            queue_depth=4,
            logs={"exposures": LogStanding(written=30, refused=1, pending=10, unwritten=2, oldest_seconds=1.5)},
            swaps=2,
            shed=7,
            timeouts=3,
            facts=Facts(NOW, 5, NOW, {"delivered": 8, "accepted": 5, "quarantined": 2, "duplicate": 1, "late": 0}),
            facts_age_seconds=30.0,
            data_age_seconds=90.0,
        )

    metrics = Metrics()
    metrics.observe(standing)
    assert not asked
    found = scraped(metrics)
    assert asked == [1]
    told = {name: value(found, name) for name in ("ready", "champion_loaded", "champion_epoch", "champion_age_seconds")}
    assert told == {"ready": 1, "champion_loaded": 1, "champion_epoch": 2, "champion_age_seconds": 60}
    assert value(found, "log_refused_rows_total", log="exposures") == 1
    assert value(found, "log_unwritten_rows", log="exposures") == 2
    assert value(found, "log_oldest_seconds", log="exposures") == 1.5
    assert [value(found, f"{name}_total") for name in ("swaps", "shed", "timeouts")] == [2, 7, 3]
    assert value(found, "quarantine_share") == 0.25  # 2 / 8
    assert value(found, "day_rows", fate="accepted") == 5
    role, warm = {"role": "champion", "version": "3", "digest": "a" * 64}, {"role": "warm", "version": "0"}
    assert value(found, "bundle_info", **role, provider="CPUExecutionProvider") == 1
    assert value(found, "bundle_info", **warm, digest="b" * 64, provider="CPUExecutionProvider") == 1


def test_what_is_not_known_is_not_exposed_as_zero() -> None:
    """An age of 0 would say that all is new; no sample lets a rule ask for the absence."""
    metrics = Metrics()
    metrics.observe(lambda: Standing(ready=False))
    found = scraped(metrics)
    names = {name for name, _ in found}
    absent = {"champion_age_seconds", "data_age_seconds", "facts_age_seconds", "quarantine_share", "day_rows"}
    assert not names & {f"ratchet_{name}" for name in absent}
    assert {"ratchet_ready", "ratchet_champion_loaded", "ratchet_champion_epoch"} <= names
    assert {value(found, "trial_mode", mode=mode) for mode in TrialMode} == {0}
    assert not names & {"ratchet_trial_share", "ratchet_trial_state_seconds"}


def test_how_an_open_trial_meets_users() -> None:
    metrics = Metrics()
    shares = {"champion": 0.4, "challenger": 0.3, "challenger-2": 0.3}
    metrics.observe(
        lambda: Standing(
            ready=True,
            trial_mode=TrialMode.CANARY,
            trial_shares=shares,
            trial_out=1,
            baking=True,
            trial_state_seconds={"BAKING": 60.0, "ROLLED_BACK": 7200.0},
        )
    )
    found = scraped(metrics)
    modes = {mode: value(found, "trial_mode", mode=mode) for mode in TrialMode}
    assert modes == {**dict.fromkeys(TrialMode, 0), TrialMode.CANARY: 1}
    assert {arm: value(found, "trial_share", arm=arm) for arm in shares} == shares
    assert (value(found, "trial_challengers_out"), value(found, "baking")) == (1, 1)
    ages = [value(found, "trial_state_seconds", state=state) for state in ("BAKING", "ROLLED_BACK")]
    assert ages == [60, 7200]


def test_a_day_without_deliveries_has_no_share_to_worry_about() -> None:
    metrics = Metrics()
    nothing = Facts(NOW, -1, None, dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0))
    metrics.observe(lambda: Standing(ready=False, facts=nothing))
    assert value(scraped(metrics), "quarantine_share") == 0


def test_two_apps_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.user_state_errors.inc()
    assert value(scraped(one), "user_state_errors_total") == 1
    assert value(scraped(other), "user_state_errors_total") == 0


def test_neighbouring_buckets_are_near_enough_to_read_a_quantile_off_them() -> None:
    inside = [bound for bound in SECONDS if 0.001 <= bound <= 1.0]
    assert (inside[0], inside[-1]) == (0.001, 1.0)
    assert max(upper / lower for lower, upper in pairwise(inside)) <= 5 / 3 + 1e-9


@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_histogram_loses_no_observation(seconds: list[float]) -> None:
    metrics = Metrics()
    for one in seconds:
        metrics.answer(arm="champion", seconds=one, failed=False)
    found = scraped(metrics)
    if seconds:
        assert value(found, "answer_seconds_bucket", arm="champion", le="+Inf") == len(seconds)
        for bound in SECONDS:
            below = sum(one <= bound for one in seconds)  # the plain reference: buckets are cumulative, bounds included
            assert value(found, "answer_seconds_bucket", arm="champion", le=str(bound)) == below


def _microseconds(happening: Callable[[], None], times: int = 20_000) -> float:
    started = time.process_time()
    for _ in range(times):
        happening()
    return (time.process_time() - started) / times * 1e6


def test_what_a_request_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Measured 3.3 µs of CPU a recommendation; a thousandth of one answer's time. Five times that may pass here."""
    metrics = Metrics()

    def recommendation() -> None:
        metrics.request("/v1/recommend", status=200, seconds=0.0042)
        metrics.answer(arm="champion", seconds=0.004, failed=False)
        metrics.cache(hit=False)
        metrics.batch(1, 0.002)

    cost = min(_microseconds(recommendation) for _ in range(3))
    metrics.observe(lambda: Standing(ready=True, logs={"exposures": LogStanding()}))
    scrape = min(_microseconds(metrics.text, times=20) for _ in range(3))  # type: ignore[arg-type]
    with capsys.disabled():
        print(f"\n{cost:.1f} µs a recommendation, {scrape:.0f} µs a scrape of {len(metrics.text()):,} bytes")  # noqa: T201
    assert cost < 20
