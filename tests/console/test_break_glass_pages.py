"""Breaking the glass on pages, over HTTP: one approver asks, another confirms, one ends it; and each refusal."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench.console_world import World
from gate.states import TrialState
from stores.bundle import open_bundle, write_bundle

PAGE = "/break-glass"
EMPTY = "the champion <i>shows</i> nothing on the new client"


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def told(page: str, role: str) -> str:
    """What the page's message or refusal says."""
    found = re.search(rf'<(p|section) class="\w+" role="{role}".*?</\1>', page, flags=re.DOTALL)
    return "" if found is None else words(found[0])


@dataclass
class Scene:
    """A console on a world; `version`: one that can be asked for."""

    world: World
    running: Any
    come: Callable[..., Any]
    version: int = 2

    def ask(self, who: Any, **changed: str) -> Any:
        """As the page's form stands, with what is chosen and typed."""
        form = who.form(PAGE, PAGE)
        return who.send(form, **{"version": str(self.version), "reason": EMPTY, **changed})

    def after(self, who: Any, answer: Any) -> str:
        """What the page says that a step led to."""
        assert answer.status_code == 303, told(answer.text, "alert")
        assert answer.headers["location"] == PAGE
        return told(who.get(PAGE).text, "status")


@pytest.fixture
def scene(
    world_of: Callable[..., World], console_on: Callable[..., Any], visit: Callable[..., Any]
) -> Callable[..., Scene]:
    """`scene("canary")`: champion v1, v2 meets its first users."""

    def make(story: str = "canary", **given: Any) -> Scene:
        world = world_of(story, **given)
        running = console_on(world)
        return Scene(world, running, lambda name: visit(running, name))

    return make


def refused(answer: Any, status: int, *why: str) -> None:
    """On the page itself, with why, what to do, and what was typed."""
    assert answer.status_code == status, answer.text
    said = told(answer.text, "alert")
    for each in why:
        assert each in said, said
    assert "<h1>Break the glass</h1>" in answer.text


def test_one_asks_another_confirms_and_one_of_them_ends_it(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ben, ledger = at.come("ada"), at.come("ben"), at.world.ledger
    before = ledger.champion()
    assert before is not None
    assert before.version == 1
    assert 'href="/break-glass"' in ada.get("/champions").text
    assert 'href="/break-glass"' in ada.get("/").text
    page = ada.get(PAGE).text
    assert f"Then {at.world.trial} ends as stale." in words(page)
    assert "canary in trial-1" in words(page)
    assert '<option value="1"' not in page, "the champion itself is no choice"

    message = at.after(ada, at.ask(ada, hours="2.5"))
    assert message.startswith("Break-glass 1 is asked for: v2 for 2.5 hours. Nothing has changed yet. It waits until")
    assert message.endswith("for ben or dana.")
    record = ledger.break_glass(1)
    assert (record.version, record.hours, record.asked_by, record.reason) == (2, 2.5, "ada", EMPTY)
    assert (record.champion_epoch, ledger.champion()) == (before.epoch, before)
    queue = ben.get("/").text
    assert "ada asks to break the glass: v2 for 2.5 hours, without evidence" in words(queue)
    assert "Waits for ben or dana to confirm it" in words(queue)
    assert "<i>shows" not in queue + ben.get(PAGE).text
    assert "ada has asked for v2" in words(ben.get("/champions").text)

    message = at.after(ben, ben.send(ben.form(PAGE, f"{PAGE}/1/confirm"), reason="seen it"))
    assert message.startswith("Confirmed, without evidence, until its hours are over. v2 is champion, epoch 2.")
    reigning, state = ledger.champion(), ledger.serving_state()
    assert reigning is not None
    assert (reigning.version, reigning.epoch) == (2, 2)
    assert state.champion == reigning, "what servers read"
    assert (ledger.history()[-1].how, ledger.history()[-1].approvers) == ("break_glass", ("ada", "ben"))
    assert ledger.trial(at.world.trial).state is TrialState.STALE
    for path in ("/", "/champions", PAGE):
        assert "serves without evidence" in words(ada.get(path).text), path

    end = ada.form(PAGE, f"{PAGE}/1/end")
    message = at.after(ada, ada.send(end, reason="the client is fixed"))
    assert message.startswith("Break-glass 1 is ended. v1 is champion, epoch 3.")
    back = ledger.champion()
    assert back is not None
    assert (back.version, back.epoch) == (1, 3)
    assert "nothing else has changed" in at.after(ada, ada.send(end, reason="the client is fixed"))
    assert ledger.champion() == back
    record = ledger.break_glass(1)
    assert (record.in_force, record.ended_by, record.ended_reason) == (False, "ada", "the client is fixed")
    assert "the client is fixed" in ada.get(PAGE).text
    assert [entry.action for entry in ledger.audit()][-5:] == [
        *("ask_break_glass", "break_glass", "close_trial", "rollback", "end_break_glass")
    ]
    assert ledger.verify() == []


def test_asking_twice_is_one_request_and_another_waits_its_turn(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ben = at.come("ada"), at.come("ben")
    first_page, second_page = ada.form(PAGE, PAGE), ben.form(PAGE, PAGE)  # both were opened before anybody asked
    said = {"version": "2", "reason": EMPTY}
    first = at.after(ada, ada.send(first_page, **said))
    assert at.after(ada, ada.send(first_page, **said)) == first
    assert len(at.world.ledger.break_glasses()) == 1
    refused(ben.send(second_page, **said), 409, "request 1, of version 2 by ada, waits for a second person")
    assert at.world.ledger.break_glass(1).hours == 4.0, "where nobody says how long"


def test_who_asked_cannot_confirm_and_can_withdraw(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ledger = at.come("ada"), at.world.ledger
    at.after(ada, at.ask(ada))
    page = ada.get(PAGE).text
    assert "Confirm: you asked for it, and another person confirms." in words(page)
    assert f'action="{PAGE}/1/confirm"' not in page
    answer = ada.post(f"{PAGE}/1/confirm", {"csrf": ada.csrf, "reason": "me too", "form": "confirm"})
    refused(answer, 409, "ada asked for it, and another person confirms")
    message = at.after(ada, ada.send(ada.form(PAGE, f"{PAGE}/1/end"), reason="found it"))
    assert message == "Break-glass 1 is over, ended by ada; nothing else has changed."
    assert (ledger.break_glass(1).ended_by, len(ledger.history())) == ("ada", 1)
    late = ada.post(f"{PAGE}/1/confirm", {"csrf": ada.csrf, "reason": "after all"})
    refused(late, 409, "is over (found it)", "ask anew")


def test_a_request_lapses_after_its_hour(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ben = at.come("ada"), at.come("ben")
    at.after(ada, at.ask(ada))
    confirm = ben.form(PAGE, f"{PAGE}/1/confirm")
    at.running.clock.ahead = timedelta(minutes=61)
    refused(ben.send(confirm, reason="late"), 409, "nobody confirmed it in time", "ask anew")
    assert at.world.ledger.break_glass(1).ended is not None
    assert "not confirmed" in words(ben.get(PAGE).text)
    assert at.after(ben, at.ask(ben)).startswith("Break-glass 2 is asked for")


def test_who_had_it_trained_neither_asks_nor_confirms(scene: Callable[..., Scene]) -> None:
    """v3 was trained for dana, who has every role."""
    at = scene()
    ledger = at.world.ledger
    first = ledger.version(1)
    ledger.record_version(replace(first, version=3, digest=copied(at.world, 2), submitter="dana"))
    dana, ada = at.come("dana"), at.come("ada")
    assert re.search(r'<option value="3" disabled>[^<]*you had it trained', dana.get(PAGE).text)
    refused(at.ask(dana, version="3"), 409, "dana had it trained and cannot approve it", "ask someone else")
    at.after(ada, at.ask(ada, version="3"))
    page = dana.get(PAGE).text
    assert "you had v3 trained, and nobody approves their own" in words(page)
    assert "Waits for ben" in words(page)
    answer = dana.post(f"{PAGE}/1/confirm", {"csrf": dana.csrf, "reason": "mine"})
    refused(answer, 409, "dana had it trained")


def copied(world: World, number: int) -> str:
    """Another release with the files of version `number`; returns its digest."""
    of = open_bundle(world.home.releases, world.ledger.version(number).digest)
    files = world.home.root / "copied"
    for name in of.manifest["files"]:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(of.read(name))
    return write_bundle(files, describe={"copied": True}, releases=world.home.releases, attestation={}).digest


WRONG = [
    ({"reason": "  "}, 422, "A reason is missing"),
    ({"version": ""}, 422, "A version is missing"),
    ({"version": "five"}, 422, "A version is missing"),
    ({"version": "9"}, 422, "v9 is not in the ledger"),
    ({"version": "2"}, 409, "is the champion already"),
    ({"hours": ""}, 422, "The hours are missing"),
    ({"hours": "0"}, 422, "of at most 72"),
    ({"hours": "72.5"}, 422, "of at most 72"),
    ({"hours": "nan"}, 422, "of at most 72"),
    ({"hours": "1e1"}, 422, "of at most 72"),
    ({"hours": "٤"}, 422, "of at most 72"),
    ({"epoch": ""}, 422, "which champion you saw"),
    ({"epoch": "3"}, 409, "the champion is at epoch 4, not 3"),
]


def test_what_is_asked_wrongly_is_refused_with_what_was_typed(console_for_all: Any, visit: Callable[..., Any]) -> None:
    ada, ledger = visit(console_for_all, "ada"), console_for_all.world.ledger
    form = ada.form(PAGE, PAGE)
    head = ledger.audit()[-1].hash
    for changed, status, why in WRONG:
        answer = ada.send(form, **{"version": "5", "hours": "8", "reason": EMPTY, **changed})
        refused(answer, status, why)
        if "reason" not in changed:
            assert "on the new client</textarea>" in answer.text
        assert f'value="{changed.get("hours", "8")}"' in answer.text
        if "version" not in changed:
            assert re.search(r'<option value="5" selected', answer.text)
    assert ledger.audit()[-1].hash == head


def test_a_release_that_is_not_whole_is_no_choice(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ledger = at.come("ada"), at.world.ledger
    form = ada.form(PAGE, PAGE)
    folder = at.world.home.releases / ledger.version(2).digest
    model = folder / "model.onnx"
    sound = model.read_bytes()
    model.write_bytes(sound[:-1])
    assert '<option value="2"' not in ada.get(PAGE).text
    asked = {"version": "2", "reason": EMPTY}
    refused(ada.send(form, **asked), 409, "The release of v2 is not whole in this home")
    # As long as it was, and other bytes: only hashing tells.
    model.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    refused(ada.send(form, **asked), 409, "model.onnx does not match its SHA-256")
    assert ledger.break_glasses() == ()
    model.write_bytes(sound)
    at.after(ada, ada.send(form, **asked))
    model.unlink()
    ben = at.come("ben")
    refused(ben.send(ben.form(PAGE, f"{PAGE}/1/confirm"), reason="r"), 409, "The release of v2 is not whole")
    assert len(ledger.history()) == 1


def test_while_a_promotion_is_watched_a_rollback_comes_first(scene: Callable[..., Scene]) -> None:
    at = scene("baking")
    ada = at.come("ada")
    page = ada.get(PAGE).text
    assert f"{at.world.trial} has just promoted v2, which is watched" in words(page)
    assert f'action="{PAGE}"' not in page
    fields = {"csrf": ada.csrf, "version": "1", "hours": "4", "epoch": "2", "reason": EMPTY}
    refused(ada.post(PAGE, fields), 409, "has just promoted version 2", "bring the former champion back")


def test_nobody_ends_what_their_page_did_not_show(scene: Callable[..., Scene]) -> None:
    """A request that is withdrawn while somebody confirms it is a reign by then, and stays one."""
    at = scene()
    ada, ben, ledger = at.come("ada"), at.come("ben"), at.world.ledger
    at.after(ada, at.ask(ada))
    withdraw = ada.form(PAGE, f"{PAGE}/1/end")
    at.after(ben, ben.send(ben.form(PAGE, f"{PAGE}/1/confirm"), reason="seen it"))
    answer = ada.send(withdraw, reason="it mended itself")
    refused(answer, 409, "end break-glass 1: the champion is at epoch 2, not 1", "look again")
    assert ledger.break_glass(1).in_force
    assert "v2 serves without evidence" in words(answer.text), "the page shows what is now"
    second = ada.post(PAGE, {"csrf": ada.csrf, "version": "1", "hours": "4", "epoch": "2", "reason": EMPTY})
    refused(second, 409, "break-glass 1 is in force already")
    ledger.rollback(actor="ben", reason="worse", now=datetime.now(UTC))
    assert "ended by ben" in at.after(ada, ada.send(withdraw, reason="over"))


def test_its_hours_end_by_themselves_and_the_page_says_so(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ben, ledger = at.come("ada"), at.come("ben"), at.world.ledger
    at.after(ada, at.ask(ada, hours="1"))
    at.after(ben, ben.send(ben.form(PAGE, f"{PAGE}/1/confirm"), reason="seen it"))
    at.running.clock.ahead = timedelta(minutes=90)
    assert "its time was over" in words(ada.get(PAGE).text)
    assert ledger.expire(datetime.now(UTC) + timedelta(minutes=90)) == ("break-glass 1",)
    page = words(ada.get(PAGE).text)
    assert "Ask for it" in page
    assert "by gate" in page


def test_requests_that_are_not_there(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada = at.come("ada")
    for number in ("7", "x", "²", "9" * 12):
        for step in ("confirm", "end"):
            answer = ada.post(f"{PAGE}/{number}/{step}", {"csrf": ada.csrf, "reason": "r", "epoch": "1"})
            refused(answer, 404, "No request has this number")


def test_who_is_no_approver_reads_and_presses_nothing(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, carl = at.come("ada"), at.come("carl")
    assert "Asking needs the role approver" in words(carl.get(PAGE).text)
    at.after(ada, at.ask(ada))
    page = carl.get(PAGE).text
    assert "Waits for ben or dana" in words(page)
    assert f'action="{PAGE}' not in page
    assert "Read it" in words(carl.get("/").text)


def test_nobody_else_may_confirm_and_the_queue_says_so(scene: Callable[..., Scene]) -> None:
    at = scene()
    ada, ledger, now = at.come("ada"), at.world.ledger, datetime.now(UTC)
    at.after(ada, at.ask(ada))
    ledger.disable_person("dana", actor="ben", reason="away", now=now)
    assert "Waits for ben to confirm it" in words(ada.get("/").text)


def test_in_a_simulation_anybody_else_confirms(scene: Callable[..., Scene]) -> None:
    at = scene(simulation=True)
    zoe, yan = at.come("zoë"), at.come("yan")
    assert at.after(zoe, at.ask(zoe)).endswith("for anybody but zoë.")
    assert "v2 is champion" in at.after(yan, yan.send(yan.form(PAGE, f"{PAGE}/1/confirm"), reason="seen"))


def test_without_a_champion_there_is_nothing_to_replace(small: Any) -> None:
    client = small.client("ada")
    assert "There is no champion yet that it could replace" in words(client.get(PAGE).text)
    fields = {"version": "1", "hours": "4", "epoch": "0", "reason": "r"}
    assert "v1 is not in the ledger" in words(small.post(client, PAGE, fields).text)
