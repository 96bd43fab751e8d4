"""One life of online learning in a home: allowed, learnt, served, judged, stopped."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.continual.online import Prequential
from model.fitted import load_fitted
from model.inputs import Inputs
from relations.errors import GateRefused, UsageError
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from stores.bundle import open_bundle
from stores.deltas import read_delta
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.people import Role
from stores.serving_settings import ReleaseSettings
from stores.settings import Settings, load_settings
from stores.signatures import make_key, verify
from stores.spool import read_points
from tasks import online
from tasks.evaluating import evaluate_model
from tasks.ingesting import ingest_file
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.online import OnlineReport, allow_online, recipe_of, take_online_step
from tasks.releasing import export_model
from tasks.training import fit_model

NOW = datetime(2026, 2, 1, tzinfo=UTC)
TwoDays = Callable[..., Home]
ONLINE = """
[online]
batch_events = 64
overlap = 0.1
margin = 0.9
"""


def settings_of(home: Home, **stated: Any) -> Settings:
    settings = load_settings(home.root / "ratchet.toml", environment={})
    return settings.model_copy(update={"online": settings.online.model_copy(update=stated)})


@pytest.fixture(scope="module")
def made(two_days: TwoDays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion has learnt two days, and its market in the day after: made once, lived many times."""
    home = two_days(tmp_path_factory.mktemp("made"), more=ONLINE)
    settings = settings_of(home)
    job = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    fit_model.fn(home, settings, job)
    report = json.loads(evaluate_model.fn(home, settings, job).read_text())
    ledger = Ledger.of(home, settings)
    ledger.record_version(
        VersionRecord(
            version=1, digest=export_model.fn(home, settings, job), mode="full", parent=None,
            events_version=job.events_version, items_version=-1, cutoff_us=report["cutoff_us"], offline_passed=True,
            metrics={}, run_id="", created=NOW, checkpoint=f"{job.folder}/fitted", submitter="ann",
        )
    )  # fmt: skip
    ledger.add_first_admin("bo", password=None, now=NOW)
    ledger.add_person("ann", roles=frozenset(Role), password=None, actor="bo", now=NOW)
    ledger.bootstrap(1, actor="bo", reason="the first", now=NOW)
    return home.root


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of it. MLflow has tests of its own."""
    monkeypatch.setattr(online, "replay", lambda *_, **__: 0)
    return Home.open(Path(shutil.copytree(made, tmp_path / "home")))


def step(home: Home, *, at: datetime = NOW, **stated: Any) -> OnlineReport:
    return take_online_step.fn(home, settings_of(home, **stated), now=at)


def served(home: Home) -> Engine:
    """What serving would answer with."""
    state = Ledger.of(home, settings_of(home)).serving_state()
    assert state.champion is not None
    engine = Engine.load(open_bundle(home.releases, state.champion.digest))
    return (
        engine if state.delta is None else engine.with_delta(read_delta(open_bundle(home.releases, state.delta.digest)))
    )


def digest(home: Home) -> str:
    state = Ledger.of(home, settings_of(home)).serving_state()
    assert state.champion is not None
    return state.champion.digest if state.delta is None else state.delta.digest


def test_events_become_a_delta_that_serves_until_it_is_stopped(home: Home) -> None:
    settings, ledger = settings_of(home), Ledger.of(home, settings_of(home))
    base = digest(home)
    assert step(home).state == "not_allowed"  # a new home's default
    allow_online(home, settings, actor="bo", reason="a quiet week", now=NOW)
    held_out = step(home)  # the newest tenth, which the champion was tested on and has not learnt
    assert (held_out.state, held_out.sequence) == ("recorded", 1)
    assert step(home).state == "nothing_new"
    ingest_file(home.root / "day-2.csv", home=home, settings=settings, now=NOW)
    report = step(home)
    assert (report.state, report.sequence) == ("recorded", 2)
    assert digest(home) == report.digest != base
    assert 0 < report.figures["rows"] <= open_bundle(home.releases, base).manifest["items"]
    assert report.figures["overlap"] >= 0.1
    assert {"step/ndcg@10", "step/base/ndcg@10", "step/hr@10", "log_loss"} <= set(report.figures)
    assert {point.step for point in read_points(home.checkpoints / "online-1")[0]} == {1, 2}
    # what serving answers is what torch does
    place, state = online._newest(home.checkpoints / "online-1")
    assert place is not None
    assert (state.sequence, state.digest) == (2, report.digest)
    inputs = Inputs.nothing(1, 3)
    for array, codes in zip(inputs.all(), ([3, 1, 2], [1, 1, 2], [90, 60, 5]), strict=False):
        array[0] = codes
    ours_V = load_fitted(place).ranker(*map(torch.from_numpy, inputs.arrays())).detach().numpy()[0]
    theirs_V = served(home).scores(Asked([3, 1, 2], [1, 1, 2], [90, 60, 5], [[], [], []]))
    assert np.abs(ours_V - theirs_V).max() <= 1e-4
    # the first delta's bundle is there still (keep = 3), and the record is whole
    assert (home.releases / held_out.digest).is_dir()
    ledger.withdraw_deltas(actor="bo", reason="enough", now=NOW)
    assert digest(home) == base
    stopped = step(home)
    assert stopped.state == "not_allowed"
    assert "enough" in stopped.reason
    assert ledger.verify() == []


def test_releases_and_deltas_are_signed_where_a_key_is_named(home: Home, tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    release = ReleaseSettings(signing_key=str(tmp_path / "key"))
    settings = settings_of(home).model_copy(update={"release": release})
    base = digest(home)
    stated = json.loads(next(home.checkpoints.glob("full-*/job.json")).read_text())
    job = TrainingJob(**stated | {"mode": Mode(stated["mode"])})
    (job.path(home) / "export.json").unlink()
    assert export_model.fn(home, settings, job) == base  # as it was, and signed
    allow_online(home, settings, actor="bo", reason="a quiet week", now=NOW)
    report = take_online_step.fn(home, settings, now=NOW)
    assert report.state == "recorded"
    for each in (base, report.digest):
        assert verify(open_bundle(home.releases, each), trusted=[public])


def test_a_killed_step_is_taken_again_to_the_same_digest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_online(home, settings_of(home), actor="bo", reason="a quiet week", now=NOW)

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    digests = []
    for name in ("_keep", "_record"):  # after the bundle was written; after the state was
        with monkeypatch.context() as patched:
            patched.setattr(online, name, die)
            with pytest.raises(Killed):
                step(home)
        digests.append(sorted(each.name for each in home.releases.iterdir()))
    assert digests[0] == digests[1]
    assert Ledger.of(home, settings_of(home)).serving_state().delta is None
    assert step(home).state == "nothing_new"  # learnt already; and now recorded
    assert digest(home) in digests[0]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"overlap": 1.0, "learning_rate": 0.3}, "top-10 overlap"),
        ({"learning_rate": 1e30}, "not finite|parity|torch|change|relative"),
    ],
)
def test_a_guardrail_ends_the_approval(home: Home, stated: dict[str, float], reason: str) -> None:
    base = digest(home)
    allow_online(home, settings_of(home, **stated), actor="bo", reason="a quiet week", now=NOW)
    report = step(home, **stated)
    assert report.state == "stopped"
    assert re.search(reason, report.reason), report.reason
    assert digest(home) == base
    ledger = Ledger.of(home, settings_of(home))
    assert ledger.standings()[-1].ended_reason == report.reason
    assert ledger.verify() == []


def test_the_limit_on_rows_ends_it_too(home: Home) -> None:
    allow_online(home, settings_of(home), actor="bo", reason="a quiet week", now=NOW, rows=1)
    report = step(home)
    assert report.state == "stopped"
    assert "rows" in report.reason
    assert Ledger.of(home, settings_of(home)).serving_state().delta is None


def test_it_expires_and_is_for_its_settings_and_not_for_its_submitter(home: Home) -> None:
    settings = settings_of(home)
    with pytest.raises(GateRefused, match="ann"):
        allow_online(home, settings, actor="ann", reason="mine", now=NOW)
    allow_online(home, settings, actor="bo", reason="an hour", now=NOW, hours=1)
    with pytest.raises(UsageError, match="other settings"):
        step(home, learning_rate=0.5)
    late = step(home, at=NOW + timedelta(hours=2))
    assert late.state == "not_allowed"
    assert "expired" in late.reason
    assert recipe_of(settings) != recipe_of(settings_of(home, negatives=7))


def test_a_model_that_ranks_below_its_base_is_stopped_beyond_chance() -> None:
    """40 users, a row each: base at 1, ours at 0.5: the difference is −.5 in every draw of the bootstrap."""
    settings = Settings()
    tested = Prequential(10, np.full(40, 0.5), np.ones(40, bool), np.ones(40), np.ones(40, bool), np.arange(40))
    rows = online._rows(tested, [(6, 1.0, 1.0)])
    assert [user for user, _, _ in rows] == list(range(7, 47))  # other users than those of the step before
    nothing: Any = type("Step", (), {"targets": 0, "prequential": tested, "log_loss": 0.0})()
    with pytest.raises(GateRefused, match=r"ndcg@10 0\.5000 on 40 newest events.*-0\.5000, below \[online\] margin"):
        online._judge(settings, nothing, nothing, rows, [])  # type: ignore[arg-type]
    even = [(user, 1.0, 1.0) for user in range(40)]
    assert online._judge(settings, nothing, nothing, even, [])["difference/high"] == 0.0  # type: ignore[arg-type]
