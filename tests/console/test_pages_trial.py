"""The list of trials and a trial's page: what they say is what the ledger holds, and what nobody may do is told."""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from bench.console_world import World
from gate.states import TrialState
from serving.console.pages.links import Links
from serving.console.pages.steps import Steps
from serving.console.pages.trial import trial_view
from serving.console.pages.trials import trials_view
from serving.console.pages.words import WORDS
from serving.console.place import Place
from serving.console.rendering import Frame, render
from stores.ledger import Ledger
from stores.people import Role
from tasks.look_runs import FILE, LookRun, look_runs, note_look_run

HOSTILE = "</textarea><script>alert('ü')</script>\"'&\u202e<img src=x onerror=y>"


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: text or "" for name, text in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [stated["href"] for tag, stated in self.tags if tag == "a"]

    @property
    def actions(self) -> list[str]:
        return [stated["action"] for tag, stated in self.tags if tag == "form"]


def place_of(world: World, **settings: Any) -> Place:
    return Place.of(world.home, world.settings.model_copy(update=settings))


def frame_of(place: Place, name: str, path: str = "/trials", **more: Any) -> Frame:
    person = place.ledger.person(name)
    return Frame(person=person, csrf="token", path=path, simulation=False, now=place.now(), **more)


def trial_page(place: Place, trial: str, name: str) -> str:
    return render("trial.html", frame=frame_of(place, name), **trial_view(place, trial))


@pytest.fixture(scope="module")
def world(told: Callable[..., World]) -> World:
    """Nobody changes it."""
    found: World = told("waiting", simulation=False, ago=timedelta(0))
    return found


def test_the_list_has_every_trial_newest_first_and_those_of_a_state(world: World) -> None:
    place = place_of(world)
    records = place.ledger.trials()
    page = Reader(render("trials.html", frame=frame_of(place, "ada"), **trials_view(place)))
    named = [link.rpartition("/")[2] for link in page.links if link.startswith("/trials/")]
    assert named == [record.id for record in reversed(records)]
    states = Counter(str(record.state) for record in records)
    assert {f"/trials?state={state}" for state in states} <= set(page.links)
    for state, amount in states.items():
        view = trials_view(place, state=state)
        assert [one.trial.state for one in view["trials"]] == [state] * amount
        one = Reader(render("trials.html", frame=frame_of(place, "ada"), **view))
        assert WORDS[state].said in one.text
    assert len(trials_view(place, state="<script>")["trials"]) == len(records)


def test_every_state_of_a_trial_has_words() -> None:
    """REGISTERED and OFFLINE_OK are a version's, before it has a trial."""
    assert {str(state) for state in TrialState} - set(WORDS) == {"REGISTERED", "OFFLINE_OK"}
    assert len({(word.sign, word.said) for word in WORDS.values()}) == len(WORDS)


def test_the_verdict_comes_first_then_the_decision_bound_to_what_is_shown(world: World) -> None:
    place = place_of(world)
    trial = place.ledger.trial(world.trial)
    page = trial_page(place, world.trial, "ada")
    evidence = trial.evidence[-1].sha256
    assert page.index('class="verdict good"') < page.index('id="decide"') < page.index('id="effect"')
    form = page[page.index(f'action="/trials/{trial.id}/approve"') :].partition("</form>")[0]
    assert f'name="evidence" value="{evidence}"' in form
    assert re.search(r'<label for="approve-reason">.*?<textarea id="approve-reason"[^>]* required', form, re.DOTALL)
    read = Reader(page)
    assert read.actions.count(f"/trials/{trial.id}/approve") == 1
    assert {f"/trials/{trial.id}/{step}" for step in ("reject", "stop", "kill", "code")} <= set(read.actions)
    assert trial.awaiting_since is not None
    expires = trial.awaiting_since + timedelta(hours=place.settings.ledger.approval_hours)
    assert f'It expires <time datetime="{expires.isoformat()}">' in page
    assert "0 of 1 approval" in read.text
    assert {"effect", "guardrails", "slices", "days", "split", "served", "parity", "stages", "promise", "origins"} <= {
        stated["id"] for tag, stated in read.tags if tag == "section" and "id" in stated
    }
    assert f"/trials/{trial.id}/evidence" in read.links
    ids = [stated["id"] for _, stated in read.tags if "id" in stated]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("name", "action", "because"),
    [
        ("ada", "approve", ""),
        ("ada", "kill", ""),
        ("carl", "approve", "it needs the role approver, and you have submitter; an admin gives roles"),
        ("carl", "reject", "it needs the role approver, and you have submitter; an admin gives roles"),
        ("carl", "stop", ""),
    ],
)
def test_who_may_not_is_told_why(world: World, name: str, action: str, because: str) -> None:
    place = place_of(world)
    record = place.ledger.trial(world.trial)
    assert Steps.of(place, record, now=place.now()).why_not(action, frame_of(place, name)) == because
    page = Reader(trial_page(place, world.trial, name))
    assert (f"/trials/{record.id}/{action}" in page.actions) is not bool(because)
    assert because in page.text


def test_what_stands_in_the_way_is_said_before_a_button_is_pressed(world: World) -> None:
    place = place_of(world)
    record, now = place.ledger.trial(world.trial), place.now()
    frame = frame_of(place, "ada")
    dana = dataclasses.replace(frame, person=place.ledger.person("dana"))
    assert Steps.of(place, record, now=now).why_not("approve", dana) == ""

    def why(action: str = "approve", *, later: timedelta = timedelta(0), by: Frame = frame, **changed: Any) -> str:
        return Steps.of(place, dataclasses.replace(record, **changed), now=now + later).why_not(action, by)

    assert why(submitter="Dana", by=dana).startswith("you submitted it")
    assert "days old, more than 24 h; look anew: ratchet trial look" in why(later=timedelta(hours=60))
    assert "its time for an answer is over" in why(later=timedelta(days=9))
    assert why(state=TrialState.COMPARE) == "the gate does not propose it: the newest look says PROMOTE"
    assert why("reject", state=TrialState.PROMOTED) == why(state=TrialState.STALE) == "the trial is over"
    assert why(challenger_digest=record.champion_digest).startswith("it compares the champion with itself")


def test_of_two_approvals_the_first_is_shown_and_not_asked_for_again(world_of: Callable[..., World]) -> None:
    world = world_of("protected")
    place = place_of(world)
    assert "0 of 2 approvals" in trial_page(place, world.trial, "ada")
    place.ledger.approve(world.trial, actor="ada", reason=HOSTILE, now=place.now())
    hers, his = (trial_page(place, world.trial, name) for name in ("ada", "ben"))
    assert "1 of 2 approvals" in hers
    assert "you have approved this evidence" in hers
    assert f"/trials/{world.trial}/approve" not in Reader(hers).actions
    assert f"/trials/{world.trial}/approve" in Reader(his).actions
    read = Reader(his)
    assert "✓ ada approved" in read.text
    assert "<script>alert('ü')</script>" in read.text  # as text
    assert not {"script", "img"} & {tag for tag, _ in read.tags}
    assert "\u202e" not in his


def test_a_refused_form_keeps_what_was_typed_as_text(world: World) -> None:
    place = place_of(world)
    typed = {"form": "stop", "reason": HOSTILE}
    page = render("trial.html", frame=frame_of(place, "carl", typed=typed), **trial_view(place, world.trial))
    assert "<details open>" in page
    assert "script" not in {tag for tag, _ in Reader(page).tags}
    assert page.count("&lt;/textarea&gt;&lt;script&gt;") == 1


def test_a_configuration_that_cannot_be_read_leaves_a_page_with_steps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(world)
    broken = dataclasses.replace(place.ledger.trial(world.trial), config={"primary": 3})
    monkeypatch.setattr(Ledger, "trial", lambda self, trial_id: broken)
    page = Reader(trial_page(place, world.trial, "ada"))
    assert "Not readable" in page.text
    assert f"/trials/{world.trial}/reject" in page.actions


def test_links_lead_to_servers_that_run_and_nowhere_else(
    world_of: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_UI_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    world = world_of("waiting")
    home, tracking = world.home, world.settings.tracking
    place = place_of(world, tracking=tracking.model_copy(update={"uri": ""}))
    assert Links.of(place) == Links("", "", tracking.model)
    assert Links.of(place).run("r1") == Links.of(place).flow_run("f1") == Links.of(place).version(3) == ""
    note_look_run(home, world.trial, LookRun(9, "0c7a-1"))
    assert "look 9 (<code>0c7a-1</code>)" in trial_page(place, world.trial, "ada")

    for name, port in (("mlflow", 5001), ("prefect", 4201)):
        (home.run / f"{name}.json").write_text(json.dumps({"pid": os.getpid(), "port": port}))
    trial = place.ledger.trial(world.trial)
    links = Reader(trial_page(place, world.trial, "ada")).links
    run = place.ledger.version(trial.challenger).run_id
    assert f"http://127.0.0.1:5001/#/runs/{run}" in links
    assert f"http://127.0.0.1:5001/#/models/{tracking.model}/versions/{trial.challenger}" in links
    assert "http://127.0.0.1:4201/runs/flow-run/0c7a-1" in links

    elsewhere = place_of(world, tracking=tracking.model_copy(update={"uri": "https://mlflow.example.com/"}))
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    assert Links.of(elsewhere).run("a/b") == "https://mlflow.example.com/#/runs/a%2Fb"
    assert Links.of(elsewhere).flow_run("f") == "https://prefect.example.com/runs/flow-run/f"
    monkeypatch.setenv("PREFECT_API_URL", "javascript:alert(1)")
    assert Links.of(elsewhere).prefect == "http://127.0.0.1:4201"


def test_which_run_made_a_look_is_read_past_a_torn_line(world_of: Callable[..., World]) -> None:
    home = world_of("protected").home
    assert look_runs(home, "trial-1") == look_runs(home, "nothing") == ()
    for look in (1, 2):
        note_look_run(home, "trial-1", LookRun(look, f"run-{look}"))
    with (home.trials / "trial-1" / FILE).open("ab") as log:
        log.write(b'{"look": 3, "flow_')
    assert look_runs(home, "trial-1") == (LookRun(1, "run-1"), LookRun(2, "run-2"))


def test_a_disabled_persons_page_offers_nothing(world: World) -> None:
    """The gate keeps them out; a page made all the same would tell them no more than that."""
    person = dataclasses.replace(frame_of(place_of(world), "carl").person, roles=frozenset())  # type: ignore[type-var]
    place = place_of(world)
    frame = dataclasses.replace(frame_of(place, "carl"), person=person)
    assert not any(frame.may(action) for action in ("approve", "reject", "stop", "kill"))
    said = Steps.of(place, place.ledger.trial(world.trial), now=datetime.now(UTC)).why_not("kill", frame)
    assert said.startswith("it needs the role admin or approver or submitter, and you have none")
    assert len(Role) == 3
