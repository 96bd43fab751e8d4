"""Notices to real servers on this machine: one web hook, one mail server, one that hangs, one that is not there."""

import json
import logging
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import stores.notice_log
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import AuditEntry, VersionRecord, stamp
from stores.notice_log import ATTEMPTS, CLAIM, NoticeLog
from stores.settings import Settings, load_settings
from tasks.notices import Setting, compose, kind_of, plain
from tasks.notifying import Told, notify_new, try_notify, undelivered, unreadable
from tasks.sending import named

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DIGESTS = {1: "1" * 64, 2: "2" * 64, 3: "3" * 64}
SECRET = "tok3n-s3cret"
LOOK = {
    "decision": "PROMOTE",
    "challenger": "challenger",
    "lift": 0.031,
    "lift_interval": [0.004, 0.059],
    "reasons": ["the lift is proven"],
}


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def ledger(home: Home) -> Ledger:
    """Version 1 is champion; versions 2 and 3 descend from it."""
    ledger = Ledger.of(home, Settings())
    for number, digest in DIGESTS.items():
        ledger.record_version(
            VersionRecord(number, digest, "full", 1 if number > 1 else None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return ledger


def settings_for(*urls: str, **more: Any) -> Settings:
    return Settings.model_validate({"notify": {"urls": list(urls), **more}})


def a_trial_waits(ledger: Ledger, *, name: str = "t1", challenger: int = 2, now: datetime = T0) -> None:
    ledger.open_trial(name, {}, challengers=[challenger], salt="s", allocation=0.5, actor="bob", now=now)
    ledger.record_evidence(name, LOOK, now=now)


def is_read(home: Home, settings: Settings) -> None:
    """What was before is old news."""
    assert notify_new(home, settings) == Told()


class Hook:
    """A web hook: keeps what it got and answers `status`, once it is let."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.requests = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.open = threading.Event()
        self.open.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.requests += 1
                hook.open.wait(60)
                if hook.status == 200:
                    hook.got.append(body)
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.server.server_port}/hooks/{SECRET}"

    @property
    def titles(self) -> list[str]:
        return [each["title"] for each in self.got]

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@contextmanager
def mail_server() -> Iterator[tuple[int, list[bytes]]]:
    """As little of SMTP as a mail needs, without authentication."""
    mails: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                word = line.split()[0].upper() if line.split() else b""
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    mail = b""
                    while (line := self.rfile.readline()) != b".\r\n":
                        mail += line
                    mails.append(mail)
                self.wfile.write(b"250 ok\r\n" if word != b"QUIT" else b"221 bye\r\n")
                if word == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1], mails
        server.shutdown()
        thread.join()


def refused() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"json://127.0.0.1:{probe.getsockname()[1]}/{SECRET}"


def test_a_trial_that_waits_is_told_once_with_what_a_person_needs(home: Home, ledger: Ledger, hook: Hook) -> None:
    settings = settings_for(hook.url)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.record_evidence("t1", {**LOOK, "look": 2}, now=T0 + timedelta(hours=20))  # one that renews the evidence
    assert notify_new(home, settings) == Told(sent=1)
    assert notify_new(home, settings) == Told()
    (told,) = hook.got
    assert told["title"] == "Ratchet simulation: t1 waits for approval: lift +3.10% (+0.40%, +5.90%)"
    assert told["type"] == "warning"
    lines = told["message"].splitlines()
    assert "- challenger: version 2, against version 1" in lines
    assert "- submitted by: bob, who cannot approve it" in lines
    assert "- approvals needed: one" in lines
    assert "- expires: 2026-01-04 00:00 UTC" in lines  # 72 hours after it began to wait
    assert f"- evidence: {ledger.trial('t1').evidence[-1].sha256}" in lines
    assert undelivered(home, settings) == ()


def test_what_happens_to_a_trial_is_told_in_order(home: Home, ledger: Ledger, hook: Hook) -> None:
    settings = settings_for(hook.url)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.approve("t1", actor="ann", reason="clicks rose", now=T0)
    ledger.rollback(actor="gate", reason="alarm: answers fail", now=T0)
    a_trial_waits(ledger, name="t2", challenger=3)
    ledger.kill_trial("t2", actor="eve", reason="hurts", now=T0)
    ledger.stop_trial("t2", actor="eve", reason="killed", now=T0)
    assert notify_new(home, settings) == Told(sent=6)
    assert [title.removeprefix("Ratchet simulation: ") for title in hook.titles] == [
        "t1 waits for approval: lift +3.10% (+0.40%, +5.90%)",
        "version 2 is champion, promoted after t1",
        "rolled back by the gate's watch, to version 1",
        "t2 waits for approval: lift +3.10% (+0.40%, +5.90%)",
        "t2 was killed: nobody sees its challengers any more",
        "t2 ended without a promotion: aborted",
    ]
    assert "- reason: clicks rose" in hook.got[1]["message"]
    assert "- champion: version 2 → version 1, epoch 3" in hook.got[2]["message"]


def test_expired_stale_and_rejected_trials_are_told(home: Home, ledger: Ledger, hook: Hook) -> None:
    settings = settings_for(hook.url, kinds=["ended", "rejected"])
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.expire(T0 + timedelta(days=9))
    a_trial_waits(ledger, name="t2")
    a_trial_waits(ledger, name="t3", challenger=3)  # a newer one takes the place of one that waits
    ledger.reject("t3", actor="ann", reason="not on a Friday", now=T0)
    assert notify_new(home, settings) == Told(sent=3)  # and nothing of kinds that were not asked for
    assert [title.rpartition("simulation: ")[2] for title in hook.titles] == [
        "t1 ended without a promotion: expired",
        "t2 ended without a promotion: stale",
        "t3 is rejected",
    ]
    assert "replaced by trial t3" in hook.got[1]["message"]


def entry(action: str, **payload: Any) -> AuditEntry:
    return AuditEntry(7, stamp(T0), str(payload.pop("actor", "ann")), action, "trial t1", payload, "", "")


WHERE = Setting(home="shop", simulation=False, approval_hours=72, link="")


@pytest.mark.parametrize(
    ("told", "kind", "title"),
    [
        (
            entry("ask_break_glass", version=2, hours=4.0, reason="x"),
            "break_glass",
            "BREAK GLASS asked for: another app",
        ),
        (entry("break_glass", to={"version": 2, "epoch": 3}), "break_glass", "BREAK GLASS: version 2 is champion past"),
        (entry("end_break_glass", reason="over"), "break_glass", "BREAK GLASS ended"),
        (entry("approve", trial="t1", quorum=2), "approval", "t1 has a first approval and waits for another person's"),
        (entry("end_bake", trial="t1", version=2, bake_hours=6.0), "believed", "t1: version 2 stays champion"),
        (entry("mirror_repaired", repaired=["alias champion"]), "mirror", "MLflow was changed by hand, and put back"),
        (entry("record_evidence", trial="t1", state="REJECTED", look=4), "rejected", "t1 is rejected"),
        (entry("record_evidence", trial="t1", state="INCONCLUSIVE", look=4), "ended", "t1 ended without a promotion"),
        (entry("bootstrap", to={"version": 1, "epoch": 1}), "promoted", "version 1 is champion"),
    ],
)
def test_other_entries_and_their_titles(told: AuditEntry, kind: str, title: str) -> None:
    assert kind_of(told, awaiting={}) == kind
    message = compose(told, kind, trial=None, where=WHERE)
    assert message.title.startswith(f"Ratchet {title}")
    assert "- home: shop" in message.body


@pytest.mark.parametrize(
    "told",
    [
        entry("record_evidence", trial="t1", state="COMPARE"),
        entry("record_evidence", trial="t1", state="AWAIT_APPROVAL"),  # which waited already
        entry("close_trial", trial="t1", state="ROLLED_BACK"),  # the rollback itself is told
        entry("open_trial", trial="t1", state="COMPARE"),
        entry("record_version"),
    ],
)
def test_nobody_is_told_of_everyday_entries(told: AuditEntry) -> None:
    assert kind_of(told, awaiting={"t1": stamp(T0 - timedelta(hours=1))}) is None


EVIL = "eve\r\nBcc: all@example.org\r\n\r\n<img src=http://evil.example/x> [pay](http://evil.example) @everyone \u202e"


def test_names_and_reasons_become_no_header_no_markup_and_no_line(home: Home, ledger: Ledger, hook: Hook) -> None:
    with mail_server() as (port, mails):
        mail = f"mailto://127.0.0.1:{port}/on-call@example.org?from=ratchet@example.com"
        settings = settings_for(mail, f"{mail}&format=text", hook.url)
        is_read(home, settings)
        a_trial_waits(ledger)
        ledger.reject("t1", actor=EVIL, reason=f"{EVIL}\n- by: ann", now=T0)
        assert notify_new(home, settings) == Told(sent=2)
    told = [message_from_bytes(each) for each in mails]
    assert len(told) == 4
    assert sum(each.get_content_type() == "multipart/alternative" for each in told) == 2
    for each in told:
        assert [name for name in each if name.lower() in ("bcc", "cc")] == []
        assert "\n" not in str(make_header(decode_header(str(each["Subject"]))))
        for part in parts(each):
            assert "<img" not in part.lower()
            assert "http://evil" not in part
            assert "@everyone" not in part
            assert "\u202e" not in part
    (line,) = [line for line in hook.got[1]["message"].splitlines() if line.startswith("- by")]
    assert line.startswith("- by: eve Bcc: all＠example.org ‹img src=http: //evil.example/x› (pay)(http: //evil")


def parts(mail: Mail) -> list[str]:
    found = [each.get_payload(decode=True) for each in mail.walk() if not each.is_multipart()]
    assert found
    return [each.decode() for each in found if isinstance(each, bytes)]


@pytest.mark.parametrize("text", ["", "\x00\x1b[31m", "‮‭", "a" * 5000, "日本語 ناقص", "\ud800"])
def test_any_text_is_one_short_printable_line(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert len(shown) <= 300


def test_failures_are_kept_and_tried_again_until_given_up(
    home: Home, ledger: Ledger, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gone = refused()
    settings = settings_for(hook.url, gone)
    is_read(home, settings)
    a_trial_waits(ledger)
    hook.status = 503
    assert notify_new(home, settings) == Told(failed=1)
    (line,) = undelivered(home, settings)
    assert "json://127.0.0.1 (#1): it answered 503" in line
    assert "json://127.0.0.1 (#2): no connection, or no answer" in line
    assert "1 of 5, tried again later" in line
    assert notify_new(home, settings) == Told()  # not at once
    monkeypatch.setattr(stores.notice_log, "AGAIN_AFTER", (timedelta(0),) * (ATTEMPTS - 1))
    hook.status = 200
    for _ in range(ATTEMPTS - 1):
        assert notify_new(home, settings) == Told(failed=1)
    assert notify_new(home, settings) == Told()
    assert len(hook.got) == 1  # who has it does not get it again
    (line,) = undelivered(home, settings)
    assert "(#1)" not in line
    assert "5 of 5, given up" in line
    assert SECRET not in line + caplog.text


@pytest.fixture
def slow() -> Iterator[Hook]:
    """Takes a request, and answers when it is let."""
    made = Hook()
    made.open.clear()
    yield made
    made.close()


def test_one_that_hangs_holds_up_nobody_for_longer_than_agreed(home: Home, ledger: Ledger, slow: Hook) -> None:
    settings = settings_for(slow.url, timeout_s=0.5)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.reject("t1", actor="ann", reason="no", now=T0)
    notify = threading.Thread(target=notify_new, args=(home, settings))
    notify.start()
    notify.join(60)  # far more than a busy machine needs, and less than the server takes
    assert not notify.is_alive()
    assert slow.got == []
    assert ["no answer within 0.5 s" in line for line in undelivered(home, settings)] == [True, True]


def test_a_slow_one_does_not_hold_up_the_others(home: Home, ledger: Ledger, hook: Hook, slow: Hook) -> None:
    settings = settings_for(slow.url, hook.url, timeout_s=30)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.reject("t1", actor="ann", reason="no", now=T0)
    notify = threading.Thread(target=notify_new, args=(home, settings))
    notify.start()
    while len(hook.got) < 2:  # pytest's own limit ends it where they wait for each other
        assert notify.is_alive()
        time.sleep(0.01)
    slow.open.set()
    notify.join()


def test_many_senders_send_each_once(home: Home, ledger: Ledger, hook: Hook) -> None:
    settings = settings_for(hook.url, timeout_s=30)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.reject("t1", actor="ann", reason="no", now=T0)
    sums: list[Told] = []
    senders = [threading.Thread(target=lambda: sums.append(notify_new(home, settings))) for _ in range(6)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert sum(each.sent for each in sums) == 2
    assert len(hook.got) == 2


def test_a_killed_senders_entries_are_taken_over(home: Home, ledger: Ledger, hook: Hook) -> None:
    settings = settings_for(hook.url)
    is_read(home, settings)
    a_trial_waits(ledger)
    log, now = NoticeLog.of(home, settings), datetime.now(UTC)
    (mine,) = log.claim(kind_of=lambda each: "waits" if each.action == "record_evidence" else None, now=now)
    assert log.claim(kind_of=lambda _: None, now=now + CLAIM / 2) == ()
    assert notify_new(home, settings) == Told()
    ((theirs, _),) = log.claim(kind_of=lambda _: None, now=now + CLAIM * 2)
    assert (theirs.number, theirs.attempts) == (mine[0].number, 2)
    log.settle(mine[0], failed={"x": "came back to life"}, now=now)  # it is not this one's any more
    assert log.failed() == ()
    log.settle(theirs, failed={}, now=now)
    assert log.claim(kind_of=lambda _: None, now=now + CLAIM * 9) == ()


def test_a_sender_that_is_killed_each_time_is_given_up(home: Home, ledger: Ledger) -> None:
    log, now = NoticeLog.of(home, Settings()), datetime.now(UTC)
    log.claim(kind_of=lambda _: None, now=now)
    a_trial_waits(ledger)
    for tried in range(ATTEMPTS):
        claimed = log.claim(
            kind_of=lambda each: (each.action[:3] == "rec" and "waits") or None, now=now + tried * 2 * CLAIM
        )
        assert [each.attempts for each, _ in claimed] == [tried + 1]
    assert log.claim(kind_of=lambda _: None, now=now + 99 * CLAIM) == ()
    (left,) = log.failed()
    assert left.given_up


def test_of_a_flood_the_newest_are_told(
    home: Home, ledger: Ledger, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores.notice_log, "MOST", 2)
    settings = settings_for(hook.url, timeout_s=30)
    is_read(home, settings)
    a_trial_waits(ledger)
    ledger.kill_trial("t1", actor="ann", reason="hurts", now=T0)
    ledger.stop_trial("t1", actor="ann", reason="killed", now=T0)
    assert notify_new(home, settings) == Told(sent=2)
    assert ["killed" in hook.titles[0], "aborted" in hook.titles[1]] == [True, True]
    assert notify_new(home, settings) == Told()


def test_without_urls_and_without_the_ledger_nothing_happens(
    home: Home, ledger: Ledger, hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_trial_waits(ledger)
    assert notify_new(home, Settings()) == Told()
    settings = settings_for(hook.url)
    is_read(home, settings)
    down = settings.model_copy(
        update={"ledger": settings.ledger.model_copy(update={"url": f"sqlite:///{tmp_path}/no/folder/ledger.db"})}
    )
    assert notify_new(home, down) == Told()
    assert "nobody was told anything" in caplog.text
    assert hook.got == []


def test_a_redirect_is_not_followed(home: Home, ledger: Ledger, hook: Hook) -> None:
    elsewhere = Hook()
    try:
        settings = settings_for(elsewhere.url)
        is_read(home, settings)
        elsewhere.status, elsewhere.headers = 307, {"Location": f"http://127.0.0.1:{hook.server.server_port}/"}
        a_trial_waits(ledger)
        assert notify_new(home, settings) == Told(failed=1)
        assert elsewhere.requests == 1
        assert hook.requests == 0
    finally:
        elsewhere.close()


def test_loading_apprise_and_reading_urls_asks_no_network() -> None:
    program = (
        "import socket\n"
        "def refuse(*stated, **more): raise SystemExit(f'asked the network: {stated}')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from tasks.sending import readable\n"
        "urls = 'jsons://host.example/x', 'mailtos://a:b@mail.example?to=c@d.example', 'slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ'\n"
        "print([readable(url) for url in urls], readable('http://nothing.example'), readable('nonsense'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[True, True, True] False False\n", done.stderr


def test_a_test_message_and_urls_that_cannot_be_read(home: Home, hook: Hook) -> None:
    settings = settings_for(hook.url, f"slack://{SECRET}", f"no url, {SECRET}", refused())
    tried = try_notify(home, settings)
    assert list(tried) == ["json://127.0.0.1 (#1)", "slack (#2)", "not a URL (#3)", "json://127.0.0.1 (#4)"]
    assert list(tried.values()) == [
        "",
        "apprise cannot read this URL",
        "apprise cannot read this URL",
        "no connection, or no answer",
    ]
    assert hook.titles == ["Ratchet: a test"]
    assert unreadable(settings) == ("slack (#2)", "not a URL (#3)")
    assert SECRET not in repr(settings) + str(settings.model_dump()) + str(list(named([hook.url])))


def test_the_environment_states_urls_and_errors_show_none(tmp_path: Path) -> None:
    one, two = f"json://a:{SECRET}@x.example", f"mailto://b:{SECRET}@y.example?to=c@d.example,e@f.example"
    for stated in (f"{one}, {two}", f"{one}\n{two}", json.dumps([one, two])):
        found = load_settings(
            None, environment={"RATCHET_NOTIFY__URLS": stated, "RATCHET_NOTIFY__KINDS": "waits,mirror"}
        )
        assert [url.get_secret_value() for url in found.notify.urls] == [one, two]
        assert found.notify.kinds == ("waits", "mirror")
    file = tmp_path / "ratchet.toml"
    file.write_text(f'[notify]\nurls = [["{SECRET}"]]\n', encoding="utf-8")
    with pytest.raises(Exception, match=r"\[notify.urls\] urls.0: Input should be a valid string") as caught:
        load_settings(file, environment={})
    assert SECRET not in str(caught.value)
