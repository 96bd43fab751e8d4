"""Steps taken on pages: each is the ledger's transition, on what the page showed; a refusal says why on the page."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bench.console_world import World
from gate.states import TrialMode, TrialState
from relations.errors import DependencyFailed
from serving.console import csrf
from serving.console.app import create_console
from stores import kill_switch
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import Champion, Waiting
from stores.settings import Settings
from tasks.deciding import Decided

ADDRESS = "http://127.0.0.1:8891"


@pytest.fixture(autouse=True)
def mlflow_is_not_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes seconds; what it is made to show, tests/tasks and the browser's walk look at."""
    monkeypatch.setattr("tasks.deciding.mirror_decision", lambda home, settings: ((), ""))


def visitor(world: World, name: str) -> TestClient:
    client = TestClient(
        create_console(world.home, world.settings),
        base_url=ADDRESS,
        follow_redirects=False,
        headers={"Origin": ADDRESS},
    )
    secret = Ledger(world.home.ledger_url).open_session(name, now=datetime.now(UTC))
    client.cookies.set("ratchet_session", secret)
    return client


def post(client: TestClient, path: str, **fields: str) -> Any:
    return client.post(path, data={"csrf": csrf.token_of(client.cookies["ratchet_session"]), **fields})


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def newest(world: World) -> str:
    return world.ledger.trial(world.trial).evidence[-1].sha256


def told_next(client: TestClient, answer: Any) -> str:
    """What the page says that a step led to."""
    assert answer.status_code == 303, words(answer.text)
    found = re.search(r'<p class="message" role="status">(.*?)</p>', client.get(answer.headers["location"]).text)
    assert found is not None
    return found[1]


def test_an_approval_moves_the_champion_and_says_so_once(world_of: Callable[..., World]) -> None:
    world = world_of("waiting")
    client, path = visitor(world, "ada"), f"/trials/{world.trial}"
    before = world.ledger.champion()
    fields = {"reason": "holds <b>everywhere</b>", "evidence": newest(world)}
    answer = post(client, f"{path}/approve", **fields)
    assert answer.headers["location"] == path
    told = told_next(client, answer)
    after = world.ledger.champion()
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch + 1
    assert f"v{after.version} is champion, epoch {after.epoch}" in told
    assert "No server runs on this machine to be asked" in told
    record = world.ledger.trial(world.trial)
    assert (record.decided_by, record.reason) == ("ada", "holds <b>everywhere</b>")
    page = client.get(path).text
    assert 'class="message"' not in page
    assert "<b>everywhere" not in page
    # Pressed twice: one commit, and the same answer.
    again = post(client, f"{path}/approve", **fields)
    assert again.status_code == 303
    assert world.ledger.champion() == after
    assert [entry.action for entry in world.ledger.audit()].count("promote") == sum(
        reign.how == "promote" for reign in world.ledger.history()
    )


def test_an_approval_is_of_the_evidence_that_the_page_showed(world_of: Callable[..., World]) -> None:
    world = world_of("waiting")
    client, path = visitor(world, "ada"), f"/trials/{world.trial}/approve"
    head = world.ledger.audit()[-1].hash
    for evidence, status, why in (("", 422, "which evidence you saw"), ("0" * 64, 409, "read it, and decide again")):
        answer = post(client, path, reason="seen it", evidence=evidence, form="approve")
        assert answer.status_code == status
        assert why in words(answer.text)
        assert "seen it" in answer.text, "what was typed is there again"
    assert world.ledger.audit()[-1].hash == head


def test_nobody_approves_their_own(world_of: Callable[..., World]) -> None:
    world = world_of("waiting")
    submitter = world.ledger.trial(world.trial).submitter
    person = world.ledger.person(submitter)
    approvers = {"dana"} if person is None else {person.name}
    for name in approvers:
        client = visitor(world, name)
        answer = post(client, f"/trials/{world.trial}/approve", reason="mine", evidence=newest(world))
        assert answer.status_code in (403, 409)
    assert world.ledger.trial(world.trial).state is TrialState.AWAIT_APPROVAL


def test_of_two_approvals_the_first_waits_and_the_same_person_is_not_two(world_of: Callable[..., World]) -> None:
    world = world_of("protected")
    before = world.ledger.champion()
    ada, ben = visitor(world, "ada"), visitor(world, "ben")
    path, evidence = f"/trials/{world.trial}/approve", newest(world)
    first = post(ada, path, reason="fine", evidence=evidence)
    assert "1 of 2" in told_next(ada, first)
    same = post(ada, path, reason="fine again", evidence=evidence)
    assert same.status_code == 303
    assert "1 of 2" in told_next(ada, same)
    assert world.ledger.champion() == before
    assert "1 of 2 approvals given, by ada" in words(ada.get("/").text)
    second = post(ben, path, reason="fine too", evidence=evidence)
    assert "is champion" in told_next(ben, second)
    assert world.ledger.champion() != before


def test_what_waited_too_long_is_refused_and_has_expired(
    world_of: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of("waiting")
    client, evidence = visitor(world, "ada"), newest(world)
    later = datetime.now(UTC) + timedelta(hours=73)
    monkeypatch.setattr("serving.console.place.home_now", lambda home, settings: later)
    answer = post(client, f"/trials/{world.trial}/approve", reason="late", evidence=evidence)
    assert answer.status_code == 409
    assert "EXPIRED" in words(answer.text)
    assert world.ledger.trial(world.trial).state is TrialState.EXPIRED


@pytest.mark.parametrize(("action", "state"), [("reject", TrialState.REJECTED), ("stop", TrialState.ABORTED)])
def test_a_trial_is_ended_with_a_reason(world_of: Callable[..., World], action: str, state: TrialState) -> None:
    world = world_of("waiting")
    client, path = visitor(world, "ada"), f"/trials/{world.trial}/{action}"
    for reason in ("", " ", "x" * 2001, "a\x00"):
        assert post(client, path, reason=reason).status_code == 422
    assert world.ledger.trial(world.trial).is_open
    reason = "loses on <script>alert(1)</script>\r\nnew users"
    answer = post(client, path, reason=reason)
    assert told_next(client, answer)
    record = world.ledger.trial(world.trial)
    assert (record.state, record.reason) == (state, reason.replace("\r\n", "\n"))
    for page in (f"/trials/{world.trial}", f"/trials/{world.trial}/evidence", "/trials", "/", "/champions"):
        shown = client.get(page)
        assert shown.status_code == 200
        assert "<script" not in shown.text
    # A second person's is told that it is over.
    other = post(
        visitor(world, "ben"), f"/trials/{world.trial}/{'stop' if action == 'reject' else 'reject'}", reason="r"
    )
    assert other.status_code == 409
    assert f"is {state} already" in words(other.text)


def test_a_kill_reaches_the_file_before_the_ledger(world_of: Callable[..., World]) -> None:
    world = world_of("canary")
    client = visitor(world, "carl")
    answer = post(client, f"/trials/{world.trial}/kill", reason="empty carousels")
    assert "no server shows its challenger any more" in told_next(client, answer)
    (kill,) = kill_switch.read(world.home.kill_switch)
    assert (kill.trial, kill.actor, kill.reason) == (world.trial, "carl", "empty carousels")
    assert world.ledger.trial(world.trial).mode is TrialMode.KILLED
    assert "its end, after a kill" in words(client.get("/").text)
    assert post(client, f"/trials/{world.trial}/kill", reason="again").status_code == 303


def test_a_kill_that_the_ledger_missed_is_told_with_the_reason(
    world_of: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of("canary")
    client = visitor(world, "carl")

    def away(home: Home, settings: Settings) -> Ledger:
        raise DependencyFailed("ledger: out of reach; mend it")

    monkeypatch.setattr("stores.kills.Ledger", SimpleNamespace(of=away))
    told = told_next(client, post(client, f"/trials/{world.trial}/kill", reason="now"))
    assert "the ledger will be by the next command that reaches it" in told


def test_what_is_not_there_cannot_be_decided(world_of: Callable[..., World]) -> None:
    world = world_of("canary")
    client = visitor(world, "ada")
    for action in ("approve", "reject", "stop", "kill"):
        answer = post(client, f"/trials/nothing/{action}", reason="r", evidence="0" * 64)
        assert answer.status_code == 404, action
    assert post(client, "/trials/nothing/code", step="reject").status_code == 404
    assert post(client, "/break-glass/99/confirm", reason="r").status_code == 404
    assert post(client, "/break-glass/x/confirm", reason="r").status_code == 404


def test_a_rollback_is_from_the_champion_that_the_page_showed(world_of: Callable[..., World]) -> None:
    world = world_of("baking")
    client = visitor(world, "ben")
    before = world.ledger.champion()
    assert before is not None
    for epoch in ("", "x", "-1", "²", "9" * 20):
        assert post(client, "/rollback", reason="r", epoch=epoch).status_code == 422
    stale = post(client, "/rollback", reason="errors rise", epoch=str(before.epoch - 1))
    assert stale.status_code == 409
    assert f"the champion is at epoch {before.epoch}, not {before.epoch - 1}" in words(stale.text)
    assert world.ledger.champion() == before
    answer = post(client, "/rollback", reason="errors rise", epoch=str(before.epoch))
    assert answer.headers["location"] == "/champions"
    assert told_next(client, answer).startswith("Rolled back. v")
    after = world.ledger.champion()
    assert after is not None
    assert after.epoch == before.epoch + 1
    # Pressed twice: not two steps back.
    assert post(client, "/rollback", reason="errors rise", epoch=str(before.epoch)).status_code == 409
    assert world.ledger.champion() == after


def test_a_code_is_shown_once_and_is_for_one_step(world_of: Callable[..., World]) -> None:
    world = world_of("waiting")
    client, evidence, now = visitor(world, "ada"), newest(world), datetime.now(UTC)
    answer = post(client, f"/trials/{world.trial}/code", step="approve", evidence=evidence)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    found = re.search(r"rc_\w+", answer.text)
    assert found is not None
    person, seen = world.ledger.redeem_code(found[0], step="approve", subject=world.trial, now=now)
    assert (person.name, seen) == ("ada", evidence)
    assert found[0] not in client.get("/").text
    assert post(client, f"/trials/{world.trial}/code", step="approve").status_code == 422
    assert post(client, f"/trials/{world.trial}/code", step="promote", evidence=evidence).status_code == 422
    rollback = re.search(r"rc_\w+", post(client, "/rollback/code").text)
    assert rollback is not None
    assert world.ledger.redeem_code(rollback[0], step="rollback", subject="", now=now)[0].name == "ada"


@pytest.mark.parametrize(
    ("outcome", "words_of_it"),
    [
        (Waiting("t", ("ada",), 2), "1 of 2"),
        (True, "The servers of this machine serve it."),
        (False, "do not report it yet"),
        (None, "No server runs on this machine"),
    ],
)
def test_what_serving_says_is_told(
    world_of: Callable[..., World], monkeypatch: pytest.MonkeyPatch, outcome: Any, words_of_it: str
) -> None:
    world = world_of("canary")
    champion = Champion(7, "d" * 64, 3, datetime.now(UTC))
    decided = Decided("promote", "ada", "r", champion, None, None, outcome, (), "but MLflow does not show it yet")
    answered = outcome if isinstance(outcome, Waiting) else decided
    monkeypatch.setattr("serving.console.decisions.approve_trial", lambda *args, **given: answered)
    client = visitor(world, "ada")
    said = told_next(client, post(client, f"/trials/{world.trial}/approve", reason="r", evidence="e"))
    assert words_of_it in said
    assert isinstance(outcome, Waiting) or "MLflow does not show it yet" in said
