"""Reviews with a real Prefect API: suspended with a form, answered through the API, carried out by the ledger."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bench.console_world import Teller, World, make_world
from relations.errors import GateRefused, UsageError
from stores.home import Home
from stores.people import Role
from stores.settings import SchedulesSettings, Settings


def teller_of(world: World, folder: Path) -> Teller:
    return Teller(world.home, world.settings, folder / "scratch", world.now)


@pytest.fixture
def waiting(tmp_path: Path) -> World:
    """Version 1 is champion; trial-1 of version 2, which carl submitted, waits for one person."""
    world = make_world(tmp_path, story="empty")
    teller = teller_of(world, tmp_path)
    teller.people()
    teller.begin()
    assert teller.waiting() == "trial-1"
    return world


class Prefect:
    """What the UI would do, by the API."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def deploy(self, home: Home) -> UUID:
        from flows.deployments import deployments_of

        (found,) = [each for each in deployments_of(home, SchedulesSettings(), config=None) if each.name == "review"]
        identity: UUID = found.apply()
        return identity

    def keep(self, world: World) -> None:
        """As the trial's flow does at its end."""
        from prefect import flow

        from flows.review import keep_reviews

        @flow(name="keeps-reviews")
        def keeper() -> None:
            keep_reviews(world.home, world.settings, config=None)

        keeper()

    def runs(self, world: World) -> list[Any]:
        found = self.client.read_flow_runs(limit=200)
        mine = [run for run in found if run.parameters.get("home") == str(world.home.root) and run.deployment_id]
        return sorted(mine, key=lambda run: run.created)

    def go_on(self, run: Any) -> Any:
        """The run's process, in this one: from the first line to its end, or until it is suspended."""
        from prefect.exceptions import Pause
        from prefect.flow_engine import run_flow

        from flows.review import review

        with suppress(Pause):  # what ends the process of a run that is suspended
            run_flow(review, flow_run=self.client.read_flow_run(run.id), parameters=run.parameters, return_type="state")
        return self.client.read_flow_run(run.id).state

    def form(self, run: Any, number: int) -> dict[str, Any]:
        schema: dict[str, Any] = json.loads(self.client.read_flow_run_input(run.id, key=f"suspended-{number}-schema"))
        return schema

    def told(self, run: Any, number: int) -> str:
        return str(json.loads(self.client.read_flow_run_input(run.id, key=f"suspended-{number}-description")))

    def answer(self, run: Any, **typed: str) -> Any:
        return self.client.resume_flow_run(run.id, run_input=typed)


@pytest.fixture
def prefect(prefect_harness: None) -> Iterator[Prefect]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield Prefect(client)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


def code_of(world: World, name: str, *, step: str = "approve", evidence: str | None = None) -> str:
    seen = world.ledger.trial("trial-1").evidence[-1].sha256 if evidence is None else evidence
    return world.ledger.issue_code(name, step=step, subject="trial-1", evidence=seen, now=datetime.now(UTC))


@pytest.mark.slow
@pytest.mark.servers
def test_a_form_in_prefect_promotes_once_the_right_person_answers(waiting: World, prefect: Prefect) -> None:
    ledger = waiting.ledger
    ledger.set_roles("carl", roles=frozenset({Role.SUBMITTER, Role.APPROVER}), actor="ben", now=datetime.now(UTC))
    prefect.deploy(waiting.home)
    prefect.keep(waiting)
    prefect.keep(waiting)
    (run,) = prefect.runs(waiting)  # one for a look, however often the trial's flow comes by
    state = prefect.go_on(run)
    assert (state.type.value, state.name) == ("PAUSED", "Suspended")
    assert 60 < (state.state_details.pause_timeout - datetime.now(UTC)).total_seconds() < 72 * 3600
    form = prefect.form(run, 1)
    assert set(form["properties"]) == {"decision", "code", "reason", "evidence"}
    assert form["properties"]["evidence"]["default"] == ledger.trial("trial-1").evidence[-1].sha256
    assert "trial-1 waits for a person" in prefect.told(run, 1)
    assert "Submitted by carl, who cannot approve it" in prefect.told(run, 1)

    assert prefect.answer(run, decision="approve", reason="no code").status.value == "REJECT"  # the form is not whole

    refusals = [
        ("rc_nonsense", "Not accepted"),
        (code_of(waiting, "carl"), "submitted it and cannot approve it"),
        (code_of(waiting, "ada", step="reject"), "Not accepted"),
        (code_of(waiting, "ada", evidence="0" * 64), "the code is for another look"),
    ]
    evidence = form["properties"]["evidence"]["default"]
    for number, (code, why) in enumerate(refusals, start=2):
        prefect.answer(run, decision="approve", code=code, reason="I like it", evidence=evidence)
        assert prefect.go_on(run).name == "Suspended"
        assert why in prefect.told(run, number)
        champion = ledger.champion()
        assert champion is not None
        assert champion.version == 1

    prefect.answer(run, decision="approve", code=code_of(waiting, "ada"), reason="clicks rose", evidence=evidence)
    assert prefect.go_on(run).type.value == "COMPLETED"
    champion, trial = ledger.champion(), ledger.trial("trial-1")
    assert champion is not None
    assert (champion.version, trial.decided_by, trial.reason) == (2, "ada", "clicks rose")
    assert ledger.verify() == []
    prefect.keep(waiting)
    assert [each.id for each in prefect.runs(waiting)] == [run.id]


@pytest.mark.slow
@pytest.mark.servers
def test_two_approvals_and_a_decision_elsewhere(tmp_path: Path, prefect: Prefect) -> None:
    world = make_world(tmp_path, story="protected")
    assert world.ledger.trial("trial-1").quorum == 2
    deployment = prefect.deploy(world.home)
    prefect.keep(world)
    (run,) = prefect.runs(world)
    prefect.go_on(run)
    prefect.answer(run, decision="approve", code=code_of(world, "ada"), reason="fine")
    assert prefect.go_on(run).name == "Suspended"
    assert "ada approved. Another person's approval is needed." in prefect.told(run, 2)
    assert [each.name for each in world.ledger.trial("trial-1").approvals] == ["ada"]
    world.ledger.reject("trial-1", actor="ben", reason="not on a Friday", now=world.now)
    prefect.keep(world)
    (run,) = prefect.runs(world)
    assert run.state.type.value == "CANCELLED"
    assert "waits no more" in run.state.message
    given = {"home": str(world.home.root), "trial": "trial-1"}
    late = prefect.client.create_flow_run_from_deployment(deployment, parameters=given)
    state = prefect.go_on(late)  # there is nothing to ask any more
    assert state.type.value == "COMPLETED"


@pytest.mark.slow
@pytest.mark.servers
def test_in_a_simulation_a_name_is_enough(tmp_path: Path, prefect: Prefect) -> None:
    world = make_world(tmp_path, story="protected", simulation=True)
    prefect.deploy(world.home)
    prefect.keep(world)
    (run,) = prefect.runs(world)
    prefect.go_on(run)
    assert set(prefect.form(run, 1)["properties"]) == {"decision", "name", "reason", "evidence"}
    prefect.answer(run, decision="reject", name="ann", reason="<b>no</b>")
    assert prefect.go_on(run).type.value == "COMPLETED"
    trial = world.ledger.trial("trial-1")
    assert (str(trial.state), trial.decided_by) == ("REJECTED", "ann")


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_only_a_deployments_run_can_wait(home: Home) -> None:
    from flows.review import review

    with pytest.raises(UsageError, match="only a deployment's run can wait"):
        review(str(home.root), "trial-1")


def test_a_name_alone_decides_nothing_outside_simulations(waiting: World, tmp_path: Path) -> None:
    from flows.deciders import decider, refuse_bare_name

    ledger, simulation = waiting.ledger, Home.create(tmp_path / "simulation", simulation=True)
    evidence = ledger.trial("trial-1").evidence[-1].sha256
    with pytest.raises(UsageError, match="ratchet people code trial-1 --step approve"):
        decider(waiting.home, ledger, step="approve", subject="trial-1", actor="ada")
    code = code_of(waiting, "ada")
    with pytest.raises(UsageError, match="the code is ada's, and not ben's"):
        decider(waiting.home, ledger, step="approve", subject="trial-1", actor="ben", code=code)
    with pytest.raises(UsageError):  # it was good once
        decider(waiting.home, ledger, step="approve", subject="trial-1", code=code)
    found = decider(waiting.home, ledger, step="approve", subject="trial-1", actor=" ADA", code=code_of(waiting, "ada"))
    assert found == ("ada", evidence)
    assert decider(simulation, ledger, step="rollback", actor="anybody") == ("anybody", None)
    with pytest.raises(GateRefused, match="cannot act as ada"):
        refuse_bare_name(waiting.home, actor="ada", deployed=True)
    refuse_bare_name(waiting.home, actor="ada", deployed=False)
    refuse_bare_name(waiting.home, actor="", deployed=True)
    refuse_bare_name(simulation, actor="ada", deployed=True)


def test_outside_a_run_prefect_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.review

    asked = []
    monkeypatch.setattr(flows.review, "get_client", lambda **_: asked.append("Prefect"))
    flows.review.keep_reviews(home, Settings(), config=None)
    assert asked == []
