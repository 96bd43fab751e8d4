"""A search on a home's own events: present settings first, resumable, repeatable, and honest about what it found."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pytest

from relations.errors import DataRejected, SettingsError, UsageError
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.home import Home
from stores.pseudonyms import Keys
from stores.registry import Registry
from stores.replay import left, read_sent, spools
from stores.settings import Settings, load_settings
from stores.spool import Point, read_points
from tasks import tuning_trials
from tasks.ingesting import ingest_file
from tasks.search_space import fragment, space_of
from tasks.tuning import plan_search, run_search, verdict
from tasks.tuning_metric import Metric
from tasks.tuning_trials import Searching

TOML = """
[model]
width = 8
blocks = 1
heads = 1
max_history = 10
[train]
epochs = 3
batch_tokens = 400
threads = 1
seed = 3
[tune]
first_epochs = 1
[tune.model]
width = {choices = [8, 16]}
[tune.train]
learning_rate = {low = 1e-4, high = 3e-2, log = true}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("tune")
    home = Home.create(folder / "home")
    Keys.write_derived(home.keys, seed=5)
    market = Marketplace(Parameters(users=60, items=40, topics=4, subtopics_per_topic=2), seed=5)
    columns = ("user_id", "item_id", "behaviour", "event_time")
    rows = [",".join(str(row[name]) for name in columns) for day in range(2) for row in market.organic_day(day)]
    file = folder / "events.csv"
    file.write_text("\n".join([",".join(columns), *rows]), encoding="utf-8")
    (home.root / "ratchet.toml").write_text(TOML)
    now = datetime(2026, 2, 1, tzinfo=UTC)
    ingest_file(file, home=home, settings=of(home), now=now)
    return home


def of(home: Home, **tune: Any) -> Settings:
    settings = load_settings(home.root / "ratchet.toml", environment={})
    return settings.model_copy(update={"tune": settings.tune.model_copy(update=tune)})


def search(home: Home, **given: Any) -> dict[str, Any]:
    settings = of(home)
    return run_search.fn(home, settings, plan_search(home, settings, **given))


def test_the_present_settings_first_and_the_same_answer_every_time(made: Home, tmp_path: Path) -> None:
    answer = search(made, trials=3, seed=1)
    first = answer["trials"][0]
    assert first["params"] == {"model.width": 8, "train.learning_rate": 0.002}
    assert (first["state"], first["epochs"]) == ("complete", 3)
    assert len(answer["trials"]) == 3
    values = [trial["value"] for trial in answer["trials"] if trial["state"] == "complete"]
    assert answer["best"]["value"] == max(values)
    if answer["test"] is not None:
        interval = answer["test"]["ndcg@10"]
        assert interval["low"] <= interval["difference"] <= interval["high"]
        assert answer["test"]["best"] - answer["test"]["present"] == pytest.approx(interval["difference"])
    assert search(made, trials=3, seed=1) == answer  # it is done: nothing is trained again
    (made.root / answer["folder"]).rename(tmp_path / "old")
    assert search(made, trials=3, seed=1) == answer  # from scratch, under the same seed
    other = search(made, trials=2, seed=2)
    assert other["trials"][0] == first
    assert other["trials"][1]["params"] != answer["trials"][1]["params"]
    kept = {folder.parent.name for folder in (made.root / answer["folder"]).glob("trial-*/fitted")}
    assert kept == {"trial-0000", f"trial-{answer['best']['trial']:04d}"}


class Killed(BaseException):
    pass


def test_killed_it_goes_on_to_the_same_answer(made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(made, trials=3, seed=7)
    (made.root / whole["folder"]).rename(tmp_path / "whole")
    add, calls = tuning_trials.Spool.add, []

    def killed(self: Any, key: str, *, step: int, value: float) -> None:
        calls.append(key)
        if len(calls) in (3, 8):  # in the first trial and in the next
            raise Killed
        add(self, key, step=step, value=value)

    monkeypatch.setattr(tuning_trials.Spool, "add", killed)
    for _ in range(2):
        with pytest.raises(Killed):
            search(made, trials=3, seed=7)
    assert search(made, trials=3, seed=7) == whole
    points = [point for folder in spools(made.root / whole["folder"]) for point in read_points(folder)[0]]
    assert keys(points) == keys([point for folder in spools(tmp_path / "whole") for point in read_points(folder)[0]])


def keys(points: list[Point]) -> list[tuple[str, int]]:
    return sorted((point.key, point.step) for point in points if not point.key.startswith("train/"))


def test_trials_are_runs_inside_the_searchs_run(made: Home) -> None:
    settings = of(made)
    answer = search(made, trials=2, seed=11)
    registry = Registry(made, settings)
    parent = read_sent(made.root / answer["folder"], uri=registry.uri)
    assert parent is not None
    client: Any = registry._client
    found = client.get_run(parent.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["best"] == answer["toml"]
    query = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    children = client.search_runs([found.info.experiment_id], query, order_by=["attributes.start_time"])
    assert [child.data.tags["state"] for child in children] == [trial["state"] for trial in answer["trials"]]
    first = min(children, key=lambda child: child.info.start_time)
    assert first.data.params == {"model.width": "8", "train.learning_rate": "0.002"}
    curve = client.get_metric_history(first.info.run_id, "ndcg_at_10")
    assert [point.step for point in curve] == [1, 2, 3]
    assert curve[-1].value == answer["present"]["value"]
    assert not any(left(folder, uri=registry.uri) for folder in spools(made.root / answer["folder"]))


def test_time_that_is_up_leaves_the_trial_to_go_on_with(made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the present settings came to epoch 0 of 3 in that time; run it again"):
        search(made, trials=1, minutes=1e-6, seed=21)
    ends = iter([True] * 4 + [False] * 1000)
    monkeypatch.setattr(Searching, "in_time", property(lambda self: next(ends)))
    with pytest.raises(UsageError, match="came to epoch"):
        search(made, trials=1, seed=21)
    monkeypatch.undo()
    assert len(search(made, trials=1, seed=21)["trials"]) == 1


def test_a_trial_that_fails_is_told_and_the_search_goes_on(made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = tuning_trials.fit_full, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        if len(calls) == 2:
            raise UsageError("training: the loss is nan at step 7")
        return fit(*args, **kwargs)

    monkeypatch.setattr(tuning_trials, "fit_full", failing)
    answer = search(made, trials=3, seed=31)
    assert [trial["state"] == "failed" for trial in answer["trials"]] == [False, True, False]
    assert answer["trials"][1]["error"] == "training: the loss is nan at step 7"
    calls[:] = [{}]
    with pytest.raises(UsageError, match="the loss is nan"):
        search(made, trials=3, seed=32)  # the present settings themselves: that is an answer too


def test_a_stopped_trial_enters_as_what_it_would_have_come_to() -> None:
    """At epoch 2 the finished ones had half and a quarter of what they ended with: 0.1 × median(2, 4) = 0.3."""
    study = optuna.create_study(direction="maximize")
    for curve in ({1: 0.1, 2: 0.2, 3: 0.4}, {1: 0.1, 2: 0.1, 3: 0.4}):
        trial = study.ask()
        for epoch, value in curve.items():
            trial.report(value, epoch)
        trial.set_user_attr("state", "complete")
        study.tell(trial, curve[3])
    stopped = study.ask()
    stopped.report(0.1, 2)
    searching = Searching.__new__(Searching)
    searching.study = study
    assert searching.expected(stopped) == pytest.approx(0.3)


def test_hopeless_trials_are_stopped_early(made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners.SuccessiveHalvingPruner, "prune", lambda *_: True)
    answer = search(made, trials=3, seed=41)
    assert [(trial["state"], trial["epochs"]) for trial in answer["trials"]] == [
        ("complete", 3),  # the present settings are what is compared with
        ("pruned", 1),
        ("pruned", 1),
    ]
    assert answer["test"] is None
    assert verdict(answer).startswith("nothing better than the present settings was found: ndcg@10 0.")


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        ("ndgc@10", "the offline evaluation has no ndgc@10; it has: auc, .*ndcg@10"),
        ("ndcg@ten", "what follows @ is a number of items"),
        ("mrr:nobody", "has no part nobody; it has: "),
    ],
)
def test_a_metric_that_there_is_not_is_told_before_anything_is_trained(made: Home, metric: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        search(made, trials=1, metric=metric)


def test_any_figure_of_the_evaluation_will_do(made: Home) -> None:
    answer = search(made, trials=1, metric="gini")
    assert answer["lower_is_better"]
    answer = search(made, trials=1, metric="ndcg@5:view")
    assert answer["metric"] == "ndcg@5:view"
    assert not left(
        made.root / answer["folder"] / "trial-0000", uri=Registry(made, of(made)).uri
    )  # MLflow takes the name
    assert Metric.of("hr@20", k=10).k == 20


@pytest.mark.parametrize(
    ("toml", "match"),
    [
        (
            "[tune.train]\nlearning_rat = {low = 1, high = 2}",
            r"\[tune.train\] learning_rat: .*; did you mean learning_rat",
        ),
        ("[tune.train]\nseed = {low = 1, high = 2}", "nothing of .train. that a search may change"),
        ("[tune.train]\nlearning_rate = {low = -1, high = 2}", "learning_rate = -1.0: Input should be greater than 0"),
        ("[tune.train]\nepochs = {low = 1.5, high = 2}", "epochs = 1.5: "),
        ("[tune.train]\nloss = {choices = ['fall']}", "loss = 'fall': "),
        ("[tune.train]\nloss = {choices = ['full'], low = 1, high = 2}", "give low and high, or choices"),
        ("[tune.train]\nepochs = {low = 3, high = 2}", "low must be below high"),
        ("[tune.train]\nweight_decay = {low = 0, high = 2, log = true}", "log needs a low above 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_a_clear_error(tmp_path: Path, toml: str, match: str) -> None:
    file = tmp_path / "ratchet.toml"
    file.write_text(toml)
    with pytest.raises(SettingsError, match=match):
        space_of(load_settings(file, environment={}))


def test_the_present_values_are_in_every_space() -> None:
    """Stated or not: width 48 is not among the choices, and 2e-3 is below the range."""
    stated = {"model": {"width": 48}, "tune": {"model": {"width": {"choices": [64]}}}}
    stated["tune"]["train"] = {"learning_rate": {"low": 5e-3, "high": 1e-2}}  # type: ignore[dict-item]
    space = space_of(Settings.model_validate(stated))
    assert space.distributions["model.width"].choices == (64, 48)  # type: ignore[attr-defined]
    assert space.distributions["train.learning_rate"].low == 2e-3  # type: ignore[attr-defined]
    usual = space_of(Settings())
    assert usual.present["model.width"] == 64
    assert all(
        usual.distributions[name]._contains(usual.distributions[name].to_internal_repr(value))
        for name, value in usual.present.items()
    )


def test_the_answer_is_settings_that_can_be_pasted(tmp_path: Path) -> None:
    params = {
        "train.learning_rate": 0.00123456,
        "model.width": 128,
        "train.loss": "gbce",
        "model.relative_times": False,
    }
    file = tmp_path / "ratchet.toml"
    file.write_text(fragment(params))
    found = load_settings(file, environment={})
    assert (found.train.learning_rate, found.model.width, found.train.loss) == (0.001235, 128, "gbce")
    assert not found.model.relative_times
    with pytest.raises(SettingsError, match="width"):
        space_of(found).settings(found, {"model.width": -1})


def test_no_events_and_too_few_are_clear(home: Home, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no events yet"):
        plan_search(home, settings)
    file = tmp_path / "one.csv"
    file.write_text("user_id,item_id,behaviour,event_time\nü,i,view,2026-01-01T00:00:00Z\n")
    ingest_file(file, home=home, settings=settings, now=datetime(2026, 2, 1, tzinfo=UTC))
    with pytest.raises(DataRejected):
        run_search.fn(home, settings, plan_search(home, settings))


def test_two_processes_at_one_search(made: Home) -> None:
    from filelock import FileLock

    settings = of(made)
    planned = plan_search(made, settings, trials=1, seed=51)
    (made.root / planned.folder).mkdir(parents=True)
    with FileLock(made.root / planned.folder / "search.lock"), pytest.raises(UsageError, match="another process"):
        run_search.fn(made, settings, planned)
