"""A challenger on the champion's log: two trained models, logged requests, an answer or a refusal."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from cli.commands.trial_plan import screen as screen_command
from gate.off_policy import Estimator
from model.evaluation import RankerRecommender
from model.recommending import Past, Question, best_items
from relations.errors import GateRefused, UsageError
from relations.schemas import EVENTS, EXPOSURES
from serving.choosing.policy import epsilon_greedy
from stores.candidate_sets import set_hash
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings, load_settings
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.screening import screen_challenger
from tasks.training import fit_model, load_version

NOW = datetime(2026, 2, 1, tzinfo=UTC)
MORE = """
[forgetting]
users_share = 0.0
[policy]
exploration = {exploration}
candidates = 8
[trial.metrics.clicks]
outcome = "click"
[trial.metrics.returns]
outcome = "return"
per = "user"
[trial.metrics.takings]
outcome = "purchase"
value = "sum"
cap = 50
"""
SLOTS, REQUESTS = 3, 250


@dataclass
class Logged:
    home: Home

    @property
    def settings(self) -> Settings:
        return load_settings(self.home.root / "ratchet.toml", environment={})

    def explore(self, share: float) -> None:
        text = (self.home.root / "ratchet.toml").read_text()
        kept = [line for line in text.splitlines() if not line.startswith("exploration")]
        kept.insert(kept.index("[policy]") + 1, f"exploration = {share}")
        (self.home.root / "ratchet.toml").write_text("\n".join(kept))


@pytest.fixture(scope="module")
def logged(two_days: Callable[..., Home], tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """v1 is champion, v2 the same training with one more epoch, v3 v1 again; v1's log explores half of the time."""
    home = two_days(tmp_path_factory.mktemp("screened"), more=MORE.format(exploration=0.5))
    place = Logged(home)
    ledger = Ledger.of(home, place.settings)
    for version, epochs in ((1, 2), (2, 3), (3, 2)):
        settings = place.settings
        settings = settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": epochs})})
        job = plan_training(home, settings, mode=Mode.FULL)
        assert isinstance(job, TrainingJob)
        fit_model.fn(home, settings, job)
        ledger.record_version(_version(version, job))
    ledger.add_first_admin("ann", password=None, now=NOW)
    ledger.bootstrap(1, actor="ann", reason="first", now=NOW)
    _log(place)
    return place


def _version(number: int, job: TrainingJob) -> VersionRecord:
    return VersionRecord(
        version=number,
        digest=str(number) * 64,
        mode=job.mode.value,
        parent=None,
        events_version=job.events_version,
        items_version=job.items_version,
        cutoff_us=_us(NOW),
        offline_passed=True,
        metrics={},
        run_id="",
        created=NOW,
        checkpoint=f"{job.folder}/fitted",
    )


def _us(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _log(place: Logged) -> None:
    """Requests of known users, slots by serving's own policy; item i is clicked with a rate of its own."""
    home, settings = place.home, place.settings
    lake = Lake.of(home, settings.lake)
    past: dict[str, list[Past]] = {}
    for row in sorted(lake.read("events").to_pylist(), key=lambda row: (row["event_time"], row["event_id"])):
        if row["item_id"] is not None:
            past.setdefault(row["user"], []).append(Past(row["item_id"], row["behaviour"], _us(row["event_time"])))
    recommender = RankerRecommender.of(load_version(home, settings, 1))
    chance = np.random.default_rng(9)
    users = sorted(past)
    exposures, events, questions = [], [], []
    for number in range(REQUESTS):
        user = users[number % len(users)]
        shown = NOW + timedelta(minutes=5 * number)
        history = [each for each in past[user] if each.time_us < _us(shown)]
        questions.append((user, shown, Question(history, _us(shown), frozenset(each.item_id for each in history))))
    lists = best_items(recommender, [question for *_, question in questions], n=8)
    for number, ((user, shown, _), ranked) in enumerate(zip(questions, lists, strict=True)):
        request = f"{number * 7919 % 9973:05}"
        slots = epsilon_greedy(candidates=len(ranked), k=SLOTS, exploration=0.5, request_id=request)
        for position, slot in enumerate(slots, start=1):
            item, name = ranked[slot.candidate], f"{request}:{position}"
            row = _exposure(name, request, user, item, position, slot.propensity, shown)
            # Of every third request the hash is of a set with new items that are not kept
            beside = (
                {"served_by": "m+side:0123"}
                if number % 3 == 0
                else {"candidate_set_hash": _hash(recommender.items, ranked)}
            )
            exposures.append({**row, **beside})
            if chance.random() < 0.1 + 0.5 * (hash_of(item) % 3 == 0):
                events.append(_event(name, user, item, shown + timedelta(minutes=1)))
    last = _exposure("zz:1", "zz", users[0], "i", 1, 1.0, NOW + timedelta(days=3))
    last["digest"] = "another"  # moves the watermark on, so that the outcomes of all others are in
    lake.append("exposures", pa.Table.from_pylist([*exposures, last], schema=EXPOSURES), transaction="t")
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction="clicks")
    lake.close()


def _hash(items: Sequence[str], ranked: Sequence[str]) -> str:
    """As serving logs it, from the rows of the network."""
    return set_hash("1" * 64, np.sort([items.index(item) for item in ranked]).astype("<i8").tobytes())


def hash_of(item: str) -> int:
    return sum(item.encode())


def _exposure(
    name: str, request: str, user: str, item: str, position: int, propensity: float, shown: datetime
) -> dict[str, Any]:
    return {
        **{"exposure_id": name, "request_id": request, "user": user, "item_id": item, "position": position},
        **{"propensity": propensity, "propensity_kind": "exact", "policy": "epsilon-greedy", "surface": "default"},
        **{"variant": "champion", "allocation": 0.0, "assignment_reason": "no trial", "champion_epoch": 1},
        **{"model_version": 1, "digest": "1" * 64, "served_by": "m", "candidate_set_hash": "h", "explored": False},
        **{"is_shadow": False, "is_bot": False, "latency_ms": 1.0, "shown_time": shown, "received_time": shown},
        **{"source": "serving", "delivery_id": "d"},
    }


def _event(exposure: str, user: str, item: str, at: datetime) -> dict[str, Any]:
    return {
        **{"event_id": f"click {exposure}", "user": user, "item_id": item, "behaviour": "click", "value": None},
        # Known to serving at once, and not a day later when the file is ingested; but here no later request may see it
        **{"event_time": at, "received_time": at + timedelta(days=9), "source": "shop", "exposure_id": exposure},
        **{"delivery_id": "d"},
    }


def test_the_champion_on_its_own_log_weighs_one(logged: Logged) -> None:
    """Histories and candidates are found again, so all propensities are; every estimator gives the rate of clicks."""
    found = screen_challenger(logged.home, logged.settings, challenger=2)
    assert not found.refused, found.reasons
    assert found.rebuilt is not None
    assert found.rebuilt > 0.99  # scores that are equal but for rounding may change places
    assert found.read == REQUESTS
    assert len(found.log.requests) > 0.97 * REQUESTS
    assert found.champion is not None
    assert found.champion.overlap.share == pytest.approx(1, abs=0.02)
    clicks = float(found.log.reward_N.mean())
    for kind in (Estimator.IPS, Estimator.SNIPS):
        assert found.champion.value(kind).value == pytest.approx(clicks, abs=0.01)
    assert found.champion.value(Estimator.DR).value == pytest.approx(clicks, abs=0.05)
    assert found.reading in ("better", "worse", "not told apart")


def test_the_same_model_under_another_number_is_not_told_apart(logged: Logged) -> None:
    found = screen_challenger(logged.home, logged.settings, challenger=3)
    assert found.champion is not None
    assert found.challenger is not None
    for kind in Estimator:
        assert found.challenger.value(kind) == found.champion.value(kind)
    assert found.reading == "not told apart"


def test_a_log_without_exploration_is_no_answer(logged: Logged) -> None:
    """Asked for a target that hardly explores, the champion's log of half random slots is not its own any more."""
    logged.explore(0.01)
    try:
        found = screen_challenger(logged.home, logged.settings, challenger=2)
    finally:
        logged.explore(0.5)
    assert found.refused
    assert found.reading == "refused"
    assert "propensity that was logged" in found.reasons[0]
    assert "interleave" in found.reasons[-1]


def test_requests_that_were_asked_otherwise_are_left_out(logged: Logged) -> None:
    """With fewer candidates than were logged no request is found again: all others would be no better."""
    settings = logged.settings
    changed = settings.model_copy(update={"policy": settings.policy.model_copy(update={"candidates": 3})})
    found = screen_challenger(logged.home, changed, challenger=2)
    assert found.read == REQUESTS
    assert len(found.log.requests) < 0.1 * REQUESTS
    assert "comes to the candidates that were logged" in found.reasons[0]
    assert found.champion is None


def test_what_the_challenger_learnt_from_is_no_test_of_it(logged: Logged) -> None:
    ledger = Ledger.of(logged.home, logged.settings)
    later = ledger.version(2)
    fresh = VersionRecord(
        **{**vars(later), "version": 4, "digest": "4" * 64, "cutoff_us": _us(NOW + timedelta(days=2))}
    )
    ledger.record_version(fresh)
    found = screen_challenger(logged.home, logged.settings, challenger=4)
    assert found.refused
    assert found.log.requests == ()
    assert "may have learnt from what is older" in found.reasons[0]
    half = screen_challenger(logged.home, logged.settings, challenger=2, most=100)
    assert half.read == 100


def test_what_cannot_be_screened_is_named(logged: Logged, home: Home) -> None:
    with pytest.raises(UsageError, match="version 77: not in the ledger"):
        screen_challenger(logged.home, logged.settings, challenger=77)
    with pytest.raises(UsageError, match="metric returns: return per user is not told of single impressions"):
        screen_challenger(logged.home, logged.settings, challenger=2, metric="returns")
    with pytest.raises(UsageError, match="metric takings: cap = 50 is on a user's total, which single impressions"):
        screen_challenger(logged.home, logged.settings, challenger=2, metric="takings")
    with pytest.raises(UsageError, match="requests = 0 must be above 0"):
        screen_challenger(logged.home, logged.settings, challenger=2, most=0)
    with pytest.raises(GateRefused, match="no champion"):
        screen_challenger(home, Settings(), challenger=1)


def test_the_command_answers_and_leaves_the_ledger_alone(logged: Logged, capfd: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger.of(logged.home, logged.settings)
    before = len(ledger.audit())
    done = CliRunner().invoke(screen_command, ["--home", str(logged.home.root), "--challenger", "3"])
    assert done.exit_code == 0, done.output
    assert "given the slots above as they were shown" in done.output
    assert "not told apart" in done.output
    capfd.readouterr()
    refused = CliRunner().invoke(
        screen_command, ["--home", str(logged.home.root), "--challenger", "3", "--days", "0.001", "--json"]
    )
    assert refused.exit_code == 4
    assert json.loads(capfd.readouterr().out)["refused"] is True
    assert len(ledger.audit()) == before
    assert ledger.trials() == ()
