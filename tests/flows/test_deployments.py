"""Deployments with a real Prefect server: what is stated, what an outage missed, who is killed, who came second."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from relations.errors import TrainingUnderWay
from stores.home import Home
from stores.settings import SchedulesSettings
from stores.turns import training_turn

REPOSITORY = Path(__file__).parents[2]


def api_url() -> str:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    assert url is not None
    return url


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_API_URL": api_url(), "PYTHONPATH": str(REPOSITORY), **more}


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    try:
        yield started
    finally:
        started.terminate()
        started.wait(60)
        started.stdout.close()


def stated(deployment: dict[str, Any]) -> dict[str, Any]:
    """What a deployment of prefect.yaml says, in the words of the embedded ones."""
    (schedule,) = deployment.get("schedules") or [{}]
    return {
        "entrypoint": deployment["entrypoint"],
        "every": timedelta(seconds=schedule["interval"]) if schedule else None,
        "anchor": datetime.fromisoformat(schedule["anchor_date"]) if schedule else None,
        "parameters": {
            name: value for name, value in deployment["parameters"].items() if name not in ("home", "config")
        },
        "limit": deployment.get("concurrency_limit"),
        "expects": [sorted(trigger["expect"]) for trigger in deployment.get("triggers", [])],
    }


def test_prefect_yaml_and_the_embedded_schedules_say_the_same(home: Home) -> None:
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.client.schemas.schedules import IntervalSchedule

    from flows.deployments import deployments_of

    raw = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))
    assert len(PrefectYamlModel.model_validate(raw).deployments) == len(raw["deployments"])
    embedded = {}
    for each in deployments_of(home, SchedulesSettings(), config=None):
        schedules = [entry.schedule for entry in each.schedules or []]
        assert all(isinstance(schedule, IntervalSchedule) for schedule in schedules)
        assert each.parameters["home"] == str(home.root)
        options = each.concurrency_options
        embedded[each.name] = {
            "entrypoint": each.entrypoint,
            "every": schedules[0].interval if schedules else None,
            "anchor": schedules[0].anchor_date if schedules else None,
            "parameters": {k: v for k, v in each.parameters.items() if k not in ("home", "config")},
            "limit": {"limit": each.concurrency_limit, "collision_strategy": options.collision_strategy.value}
            if options
            else None,
            "expects": [sorted(trigger.expect) for trigger in each.triggers],
        }
    assert {each["name"]: stated(each) for each in raw["deployments"]} == embedded
    pools = {each["name"]: each["work_pool"]["name"] for each in raw["deployments"]}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {"learn", "full-retrain", "incremental", "tune"}
    device = {each["work_pool"]["job_variables"]["env"]["RATCHET_TRAIN__DEVICE"]
              for each in raw["deployments"] if each["work_pool"]["name"] == "gpu"}  # fmt: skip
    assert device == {"cuda"}


def test_hourly_and_weekly_trainings_do_not_begin_in_the_same_minute() -> None:
    from flows.deployments import scheduled

    times = {each.flow.name: each for each in scheduled(SchedulesSettings())}
    apart = (times["full-retrain"].anchor - times["learn"].anchor) % times["learn"].every
    assert apart == timedelta(minutes=30)


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_harness")
def test_prefect_deploys_the_file_to_its_pools(home: Home) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        for pool in ("cpu", "gpu"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        made = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment(RATCHET_HOME=str(home.root)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        learn = client.read_deployment_by_name("learn/learn")
        full = client.read_deployment_by_name("full-retrain/full-retrain")
        automations = client.request("POST", "/automations/filter", json={}).json()
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
    assert (learn.work_pool_name, learn.entrypoint) == ("gpu", "flows/learn.py:learn")
    assert learn.parameters == {"home": str(home.root), "config": None, "hand_over": True}
    assert learn.job_variables == {"env": {"RATCHET_TRAIN__DEVICE": "cuda"}}
    assert [each.schedule.interval for each in learn.schedules] == [timedelta(hours=1)]
    assert learn.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    (drift,) = [each for each in automations if each["actions"][0].get("deployment_id") == str(full.id)]
    assert drift["trigger"]["expect"] == ["ratchet.drift"]
    assert drift["trigger"]["match"] == {"prefect.resource.id": "ratchet.home.*"}


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_harness")
def test_runs_missed_in_an_outage_become_one(home: Home) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.runner import Runner

    from flows.deployments import deployments_of

    (ingest,) = [each for each in deployments_of(home, SchedulesSettings(), config=None) if each.name == "ingest"]

    async def serve_once() -> None:
        runner = Runner(limit=2, pause_on_shutdown=False)
        await runner.aadd_deployment(ingest)
        await runner.start(run_once=True)  # one look at what is to be run, where `serve` looks every ten seconds

    identity = ingest.apply()
    now = datetime.now(UTC)
    outage = {"start_time": (now - timedelta(minutes=9)).isoformat(), "end_time": now.isoformat(), "min_runs": 20}
    mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[identity]))
    with get_client(sync_client=True) as client:
        client.request("POST", f"/deployments/{identity}/schedule", json=outage)  # what the scheduler does, in the past
        late = [run.id for run in client.read_flow_runs(flow_run_filter=mine) if run.expected_start_time < now]
        assert len(late) >= 8
        asyncio.run(serve_once())
        states = [client.read_flow_run(each).state for each in late]
        client.delete_deployment(identity)
    ended = Counter(state.type.value for state in states if state)
    assert ended == {"COMPLETED": 1, "CANCELLED": len(late) - 1}
    reasons = {str(state.message).partition(":")[0] for state in states if state and state.is_cancelled()}
    assert reasons <= {"Missed, and one run does the work of all that were", "Deployment concurrency limit reached."}


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_harness")
def test_a_killed_run_is_ended_with_the_reason_and_a_living_one_is_left(home: Home) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    from flows.runs import PROCESS, reap_killed

    def held() -> Any:
        (found,) = [
            run
            for run in client.read_flow_runs()
            if PROCESS in run.labels and run.parameters.get("home") == str(home.root)
        ]
        return found

    with process("tests/flows/held_run.py", str(home.root)) as running, get_client(sync_client=True) as client:
        assert running.stdout is not None
        assert running.stdout.readline() == "held\n"
        assert reap_killed(home, client=client) == []
        assert held().state.type is StateType.RUNNING
        running.kill()
        running.wait()
        assert held().state.type is StateType.RUNNING  # Prefect knows nothing of it
        assert reap_killed(home, client=client) == [held().name]
        assert held().state.type is StateType.CRASHED
        assert held().state.message.startswith("Its process ended without a word: killed")
        assert reap_killed(home, client=client) == []


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
@pytest.mark.parametrize("name", ["full_retrain", "incremental", "learn"])
def test_the_newer_training_ends_as_cancelled_and_says_who_was_first(home: Home, name: str, monkeypatch: Any) -> None:
    import importlib

    module = importlib.import_module(f"flows.{name}")
    if name == "learn":
        from model.continual.choosing import Action

        monkeypatch.setattr(module, "decide_training", lambda *_, **__: Decided(Action.FULL))
    flow = getattr(module, name)
    with training_turn(home, who="full-retrain run brave-otter"):
        state = flow(str(home.root), return_state=True)
        assert (state.type.value, "brave-otter" in state.message) == ("CANCELLED", True)
        with pytest.raises(TrainingUnderWay, match="brave-otter"):
            flow(str(home.root))


class Decided:
    """A decision that was taken."""

    because, drifted = "asked for", False

    def __init__(self, action: Any) -> None:
        self.action = action

    def markdown(self) -> str:
        return self.because


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_harness")
def test_the_command_exits_6_without_cuda_and_while_another_trains(home: Home) -> None:
    import torch

    port = api_url().rpartition(":")[2].partition("/")[0]
    (home.run / "prefect.json").write_text(json.dumps({"pid": os.getpid(), "port": int(port)}))

    def train(**more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "cli.main", "train", "--mode", "full", "--home", str(home.root)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment(**more), capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    with training_turn(home, who="learn run shy-fox"):
        code, says = train()
    assert (code, "learn run shy-fox" in says, "one training at a time" in says) == (6, True, True)
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    code, says = train(RATCHET_TRAIN__DEVICE="cuda")
    assert (code, 'device = "cuda", but torch' in says) == (6, True)
    assert list(home.checkpoints.iterdir()) == []
