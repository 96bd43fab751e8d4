"""People: who is who, what proves it, who may do what, and that the record tells of every change."""

import json
import re
import threading
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from relations.errors import DependencyFailed, GateRefused, RatchetError, UsageError
from stores import passwords
from stores.audit import find_problems
from stores.ledger import Ledger
from stores.people import (
    MACHINES,
    Role,
    check_may,
    check_name,
    deployment_identity,
    is_deployment,
    key_of,
    same_person,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOOD = "correct horse battery"
ADMIN, APPROVER, SUBMITTER = (frozenset({role}) for role in (Role.ADMIN, Role.APPROVER, Role.SUBMITTER))
A_MINUTE = timedelta(minutes=1)

NAMES = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")), min_size=1, max_size=40)


@pytest.fixture
def ledger(tmp_path: Path, quick_passwords: None) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", enforce_roles=True)


@pytest.fixture
def staffed(ledger: Ledger) -> Ledger:
    """root (admin), ann (approver), sue (submitter)."""
    return staff(ledger)


def staff(ledger: Ledger) -> Ledger:
    ledger.add_first_admin("root", password=GOOD, roles=ADMIN, now=NOW)
    ledger.add_person("Ann", roles=APPROVER, password=GOOD, actor="root", now=NOW)
    ledger.add_person("Sue", roles=SUBMITTER, password=None, actor="root", now=NOW)
    return ledger


def change(ledger: Ledger, statement: str) -> None:
    """By hand, past the ledger."""
    with ledger._database.write() as tx:
        assert tx.execute(text(statement)).rowcount > 0


# Names


@given(NAMES)
def test_a_key_is_its_own_key(name: str) -> None:
    assert key_of(key_of(name)) == key_of(name)


@given(NAMES, st.sampled_from(["upper", "lower", "swapcase", "NFD", "NFKC", "blanks"]))
def test_no_two_spellings_are_two_people(name: str, way: str) -> None:
    try:
        recorded = check_name(name)
    except UsageError:
        return
    if way == "blanks":
        spelled = f"  {recorded.replace(' ', '   ')} "
    elif way.startswith("NF"):
        spelled = unicodedata.normalize(way, recorded)  # type: ignore[arg-type]
    else:
        spelled = getattr(recorded, way)()
        if key_of(spelled) != key_of(recorded):
            # Capitals of a few letters are other letters: ŉ becomes ʼN. Those are two names then, and stay two.
            assert spelled.casefold() != recorded.casefold()
            return
    assert same_person(spelled, recorded)


@given(NAMES)
def test_a_name_once_checked_stays_as_it_is(name: str) -> None:
    try:
        recorded = check_name(name)
    except UsageError:
        return
    assert check_name(recorded) == recorded
    assert recorded.isprintable()
    assert key_of(recorded) == key_of(name)


@given(
    st.sampled_from(["gate", "GATE", "ｇａｔｅ", "Deployment learn/learn", "deployment  x", *MACHINES]),
    st.sampled_from([str.upper, str.lower, str.title, str]),
)
def test_what_acts_by_itself_lends_nobody_its_name(name: str, way: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="by itself"):
        check_name(way(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "1 to 100"),
        ("   ", "1 to 100"),
        ("x" * 101, "101 characters"),
        ("ann\n", "do not show"),
        ("an\x1b[2Jn", "do not show"),
        ("\u202enna", "do not show"),
        ("an\u200bn", "do not show"),
        ("an\u00adn", "do not show"),
        ("ann\ufe0f", "do not show"),
        ("ann\u3164", "do not show"),
        ("ann\ud800", "do not show"),
        ("…", "no letter"),
    ],
)
def test_a_name_that_nobody_can_have_is_refused_without_being_repeated_raw(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        check_name(name)
    assert str(refused.value).isprintable()


def test_deployments_are_known_by_their_identity() -> None:
    assert deployment_identity("learn/nightly") == "deployment learn/nightly"
    assert is_deployment("deployment learn/nightly")
    assert not is_deployment("deployer")


# People


def test_the_first_admin_is_first_once(ledger: Ledger) -> None:
    first = ledger.add_first_admin(" Zoë  B ", password=GOOD, now=NOW)
    assert (first.name, first.roles, first.created_by, first.has_password) == ("Zoë B", frozenset(Role), "Zoë B", True)
    with pytest.raises(GateRefused, match="Zoë B is admin already"):
        ledger.add_first_admin("eve", password=GOOD, now=NOW)
    assert [each.name for each in ledger.people()] == ["Zoë B"]
    assert ledger.person("ZOE\u0308 b") == first


def test_of_two_first_admins_at_once_there_is_one(ledger_url: str) -> None:
    met, outcomes = threading.Barrier(8), []

    def be_first(name: str) -> None:
        own = Ledger(ledger_url, enforce_roles=True)
        met.wait()
        try:
            own.add_first_admin(name, password=None, now=NOW)
            outcomes.append(name)
        except GateRefused:
            outcomes.append("")

    run([partial(be_first, f"p{n}") for n in range(8)])
    ledger = Ledger(ledger_url)
    assert sorted(outcomes)[:7] == [""] * 7
    assert [each.name for each in ledger.people()] == [sorted(outcomes)[7]]
    assert ledger.verify() == []


def test_people_are_added_by_admins(staffed: Ledger) -> None:
    added = staffed.add_person("bob", roles=APPROVER | SUBMITTER, password=None, actor="ROOT", now=NOW)
    assert (added.roles, added.has_password, added.has(Role.ADMIN)) == (APPROVER | SUBMITTER, False, False)
    for actor, message in [("ann", "needs role admin, and Ann has approver; ask root"), ("eve", "'eve' is not known")]:
        with pytest.raises(GateRefused, match=message):
            staffed.add_person("carl", roles=APPROVER, password=None, actor=actor, now=NOW)
    with pytest.raises(UsageError, match="is there already as 'bob'"):
        staffed.add_person("BOB", roles=APPROVER, password=None, actor="root", now=NOW)
    with pytest.raises(UsageError, match="at least one role"):
        staffed.add_person("carl", roles=frozenset(), password=None, actor="root", now=NOW)


def test_in_a_simulation_anybody_may(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.add_person("ann", roles=APPROVER, password=None, actor="nobody", now=NOW)
    with ledger._database.read() as tx:
        check_may(tx, "eve", Role.ADMIN, what="anything", enforce=False)
    assert ledger.session(ledger.open_session(" eve", now=NOW), now=NOW).name == "eve"  # type: ignore[union-attr]
    code = ledger.issue_code("eve", step="rollback", subject="", evidence="", now=NOW)
    assert ledger.redeem_code(code, step="rollback", subject="", now=NOW)[0].roles == frozenset(Role)


@pytest.mark.parametrize(
    ("actor", "roles", "message"),
    [
        ("Sue", (Role.APPROVER,), "approve t1: needs role approver, and Sue has submitter; ask Ann"),
        ("sue", (Role.APPROVER, Role.ADMIN), "needs role approver or admin, and Sue has submitter; ask Ann, root"),
        ("eve", (), "'eve' is not known to this ledger; an admin adds people: `ratchet people add NAME --role sub"),
        ("eve\x1b[2J", (), r"'eve\\x1b\[2J' is not known"),
    ],
)
def test_a_refusal_says_what_is_needed_and_who_has_it(
    staffed: Ledger, actor: str, roles: tuple[Role, ...], message: str
) -> None:
    with staffed._database.read() as tx, pytest.raises(GateRefused, match=message):
        check_may(tx, actor, *roles, what="approve t1", enforce=True)


def test_a_refusal_names_a_few_and_says_where_nobody_has_the_role(staffed: Ledger) -> None:
    staffed.set_roles("ann", roles=SUBMITTER, actor="root", now=NOW)
    with staffed._database.read() as tx, pytest.raises(GateRefused, match="nobody has it: `ratchet people roles 'Sue'"):
        check_may(tx, "sue", Role.APPROVER, what="approve t1", enforce=True)
    for name in ("a1", "a2", "a3", "a4", "a5"):
        staffed.add_person(name, roles=APPROVER, password=None, actor="root", now=NOW)
    with staffed._database.read() as tx, pytest.raises(GateRefused, match="ask a1, a2, a3 or 2 more"):
        check_may(tx, "sue", Role.APPROVER, what="approve t1", enforce=True)


def test_without_anybody_the_way_to_the_first_admin_is_told(ledger: Ledger) -> None:
    with ledger._database.read() as tx, pytest.raises(GateRefused, match="ratchet people first NAME"):
        check_may(tx, "ann", Role.APPROVER, what="approve t1", enforce=True)


def test_the_last_admin_stays(staffed: Ledger) -> None:
    with pytest.raises(GateRefused, match="root: is the only admin and cannot be disabled; make another one"):
        staffed.disable_person("root", actor="root", reason="leaves", now=NOW)
    with pytest.raises(GateRefused, match="cannot give up the role"):
        staffed.set_roles("root", roles=APPROVER, actor="root", now=NOW)
    staffed.set_roles("ann", roles=ADMIN | APPROVER, actor="root", now=NOW)
    staffed.disable_person("root", actor="ann", reason="leaves", now=NOW)
    with pytest.raises(GateRefused, match="root was disabled"):
        staffed.set_roles("sue", roles=ADMIN, actor="root", now=NOW)
    with pytest.raises(GateRefused, match="Ann: is the only admin"):
        staffed.disable_person("ann", actor="ann", reason="leaves too", now=NOW)


def test_who_is_disabled_has_no_way_in_and_comes_back_without_one(staffed: Ledger) -> None:
    token, shown = staffed.issue_token("ann", label="laptop", lifetime=None, actor="ann", now=NOW)
    session = staffed.sign_in("ann", GOOD, now=NOW)
    code = staffed.issue_code("ann", step="approve", subject="t1", evidence="e", now=NOW)
    gone = staffed.disable_person("ANN", actor="root", reason="left", now=NOW)
    assert (gone.disabled, gone.has_password, gone.has(Role.APPROVER)) == (NOW, False, False)
    assert staffed.disable_person("ann", actor="root", reason="again", now=NOW + A_MINUTE) == gone
    assert staffed.session(session, now=NOW) is None
    for attempt, message in [
        (lambda: staffed.who_is(shown, now=NOW), "revoked"),
        (lambda: staffed.sign_in("ann", GOOD, now=NOW), "name or password is wrong"),
        (lambda: staffed.redeem_code(code, step="approve", subject="t1", now=NOW), "no one-time code"),
        (lambda: staffed.issue_code("ann", step="approve", subject="t1", evidence="e", now=NOW), "was disabled at"),
        (lambda: staffed.issue_token("ann", label="", lifetime=None, actor="root", now=NOW), "was disabled at"),
        (lambda: staffed.add_person("ann", roles=ADMIN, password=None, actor="root", now=NOW), "people enable"),
    ]:
        refused(attempt, message)
    back = staffed.enable_person("ann", actor="root", reason="is back", now=NOW)
    assert (back.disabled, back.roles, back.has_password) == (None, APPROVER, False)
    assert [each.revoked for each in staffed.tokens("ann")] == [NOW]
    refused(lambda: staffed.who_is(shown, now=NOW), f"token {token.id} of Ann revoked")
    refused(lambda: staffed.sign_in("ann", GOOD, now=NOW), "wrong")
    assert staffed.verify() == []


def refused(attempt: Callable[[], Any], message: str) -> None:
    with pytest.raises(RatchetError, match=message):
        attempt()


# Passwords


@pytest.mark.parametrize(
    ("password", "message"),
    [("short", "5 characters; it has 12 to 1000"), ("x" * 1001, "1001 characters"), ("ANN BAKER-SMITH", "is the name")],
)
def test_a_weak_password_is_refused(staffed: Ledger, password: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        staffed.add_person("Ann  Baker-Smith", roles=APPROVER, password=password, actor="root", now=NOW)
    assert password not in str(told.value)


def test_a_password_lets_in_who_knows_it_and_says_no_more(staffed: Ledger) -> None:
    assert staffed.session(staffed.sign_in(" ANN ", GOOD, now=NOW), now=NOW).name == "Ann"  # type: ignore[union-attr]
    told = set()
    for name, password in [("ann", GOOD + "x"), ("nobody", GOOD), ("sue", GOOD), ("sue", ""), ("", ""), ("ann", "")]:
        with pytest.raises(UsageError) as wrong:
            staffed.sign_in(name, password, now=NOW)
        told.add(str(wrong.value))
    assert told == {"name or password is wrong"}


def test_an_unknown_name_costs_the_work_of_a_known_one(staffed: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = passwords._hasher()
    checked: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(hasher, name)

        def verify(self, kept: str, password: bytes) -> bool:
            checked.append(kept.rsplit("$", 2)[0])
            return hasher.verify(kept, password)

    monkeypatch.setattr(passwords, "_hasher", Counting)
    for name in ("ann", "nobody", "sue"):
        refused(partial(staffed.sign_in, name, "wrong", now=NOW), "wrong")
    assert checked == [checked[0]] * 3  # once each, with the same parameters


def test_what_is_kept_is_argon2id_by_the_rfc() -> None:
    kept = passwords.hash_password(GOOD)  # the real parameters, once
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords._nobodys().split("$")[:4] == kept.split("$")[:4]
    assert not passwords.is_outdated(kept)
    # A password is one however its letters are composed, and a damaged hash fits none.
    assert passwords.matches(kept, GOOD)
    assert not passwords.matches(kept[:-4], GOOD)


def test_without_memory_it_is_said_and_nobody_is_let_in(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from argon2.exceptions import VerificationError

    class Full:
        def verify(self, kept: str, password: bytes) -> bool:
            raise VerificationError("Memory allocation error")

    monkeypatch.setattr(passwords, "_hasher", Full)
    with pytest.raises(DependencyFailed, match="free some memory"):
        passwords.matches("$argon2id$x", GOOD)


def test_a_hash_with_other_parameters_is_renewed_at_the_next_sign_in(
    staffed: Ledger, monkeypatch: pytest.MonkeyPatch, cheap_hasher: Callable[..., Any]
) -> None:
    other = staffed.sign_in("ann", GOOD, now=NOW)
    stronger = cheap_hasher(time_cost=2)
    monkeypatch.setattr(passwords, "_hasher", lambda: stronger)
    passwords._nobodys.cache_clear()
    staffed.sign_in("ann", GOOD, now=NOW)
    staffed.sign_in("ann", GOOD, now=NOW)
    renewed = [entry.actor for entry in staffed.audit() if entry.action == "renew_password"]
    assert renewed == ["Ann"]
    assert staffed.session(other, now=NOW) is not None  # it is the same password
    assert staffed.verify() == []


def test_passwords_are_changed_by_oneself_or_an_admin_and_end_the_sessions(staffed: Ledger) -> None:
    tok = staffed.issue_token("ann", label="", lifetime=None, actor="ann", now=NOW)[1]
    for actor in ("ann", "root"):
        session = staffed.sign_in("ann", GOOD, now=NOW)
        staffed.set_password("Ann", GOOD, actor=actor, now=NOW)
        assert staffed.session(session, now=NOW) is None
    with pytest.raises(GateRefused, match="password of Ann: needs role admin"):
        staffed.set_password("ann", GOOD, actor="sue", now=NOW)
    assert staffed.who_is(tok, now=NOW).name == "Ann"


# Tokens


def test_a_token_is_its_persons_until_it_ends(staffed: Ledger) -> None:
    token, shown = staffed.issue_token("ann", label="laptop", lifetime=timedelta(days=1), actor="root", now=NOW)
    assert re.fullmatch(f"rt_{token.id}_[0-9a-f]{{48}}", shown)  # 192 bits
    assert staffed.who_is(shown, now=NOW).name == "Ann"
    assert staffed.tokens("ANN") == (token,)
    refused(
        lambda: staffed.who_is(shown, now=NOW + timedelta(days=1)), f"token {token.id} of Ann expired at 2026-03-02"
    )
    ended = staffed.revoke_token(token.id, actor="ann", now=NOW)
    assert staffed.revoke_token(token.id, actor="root", now=NOW + A_MINUTE) == ended
    refused(lambda: staffed.who_is(shown, now=NOW), "revoked at 2026-03-01")
    secret = shown.rsplit("_", 1)[1]
    assert secret not in json.dumps([entry.payload for entry in staffed.audit()], default=str)


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-1] + "!", lambda s: s[:-1], lambda s: "", lambda s: f"{s}\n", str.upper]
)
def test_a_damaged_token_is_none_and_is_not_repeated(staffed: Ledger, damage: Callable[[str], str]) -> None:
    shown = damage(staffed.issue_token("ann", label="", lifetime=None, actor="ann", now=NOW)[1])
    with pytest.raises(UsageError, match="no token of this ledger") as told:
        staffed.who_is(shown, now=NOW)
    assert not shown or shown not in str(told.value)


def test_tokens_are_ones_own_or_an_admins_business(staffed: Ledger) -> None:
    token, _ = staffed.issue_token("ann", label="", lifetime=None, actor="ann", now=NOW)
    refused(lambda: staffed.issue_token("ann", label="", lifetime=None, actor="sue", now=NOW), "needs role admin")
    refused(lambda: staffed.revoke_token(token.id, actor="sue", now=NOW), "needs role admin")
    refused(lambda: staffed.revoke_token("00000000", actor="root", now=NOW), "none of this id")
    refused(lambda: staffed.issue_token("eve", label="", lifetime=None, actor="root", now=NOW), "not known")
    refused(lambda: staffed.issue_token("ann", label="\n", lifetime=None, actor="ann", now=NOW), "printable")
    refused(
        lambda: staffed.issue_token("ann", label="", lifetime=timedelta(0), actor="ann", now=NOW), "expired already"
    )


# Sessions


def test_a_session_ends_when_idle_old_or_signed_out(staffed: Ledger) -> None:
    secret = staffed.sign_in("ann", GOOD, now=NOW)
    idle = staffed.sign_in("ann", GOOD, now=NOW)
    assert staffed.session(idle, now=NOW + timedelta(hours=7.9)) is not None  # renews it
    assert staffed.session(secret, now=NOW + timedelta(hours=8)) is None
    assert staffed.session(idle, now=NOW + timedelta(hours=15.8)) is not None
    assert staffed.session(idle, now=NOW + timedelta(hours=23.7)) is not None
    assert staffed.session(idle, now=NOW + timedelta(hours=24)) is None
    left = staffed.sign_in("ann", GOOD, now=NOW)
    staffed.sign_out(left)
    staffed.sign_out(left)
    assert staffed.session(left, now=NOW) is None
    assert staffed.session("", now=NOW) is None


def test_a_session_is_written_at_most_once_a_minute_and_lives_without_it(
    staffed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = staffed.sign_in("ann", GOOD, now=NOW)
    writes: list[None] = []

    def full() -> Any:
        writes.append(None)
        raise DependencyFailed("disk full")

    monkeypatch.setattr(staffed._database, "write", full)
    assert staffed.session(secret, now=NOW + timedelta(seconds=59)) is not None
    assert writes == []
    assert staffed.session(secret, now=NOW + A_MINUTE) is not None
    assert len(writes) == 1


def test_other_roles_end_the_session_and_the_same_do_not(staffed: Ledger) -> None:
    secret = staffed.sign_in("ann", GOOD, now=NOW)
    staffed.set_roles("ann", roles=APPROVER, actor="root", now=NOW)
    assert staffed.session(secret, now=NOW) is not None
    staffed.set_roles("ann", roles=APPROVER | SUBMITTER, actor="root", now=NOW)
    assert staffed.session(secret, now=NOW) is None


def test_a_name_alone_opens_sessions_in_simulations_only(staffed: Ledger) -> None:
    refused(lambda: staffed.open_session("ann", now=NOW), "simulation homes only")


# One-time codes


def test_a_code_is_for_one_step_and_one_use(staffed: Ledger) -> None:
    code = staffed.issue_code("ann", step="approve", subject="t1", evidence="e" * 64, now=NOW)
    assert re.fullmatch("rc_[0-9a-f]{48}", code)
    for step, subject, message in [
        ("approve", "t2", "is to approve t1, not to approve t2"),
        ("reject", "t1", "not to reject t1; make a new one: `ratchet people code t1`"),
        ("rollback", "", "not to rollback; make a new one: `ratchet people code --step rollback`"),
    ]:
        refused(partial(staffed.redeem_code, code, step=step, subject=subject, now=NOW), message)
    person, evidence = staffed.redeem_code(f" {code}\n", step="approve", subject="t1", now=NOW)
    assert (person.name, evidence) == ("Ann", "e" * 64)
    refused(lambda: staffed.redeem_code(code, step="approve", subject="t1", now=NOW), "was used at 2026-03-01T12:00")
    late = staffed.issue_code("root", step="rollback", subject="", evidence="", now=NOW)
    after = NOW + timedelta(minutes=10)
    refused(lambda: staffed.redeem_code(late, step="rollback", subject="", now=after), "expired at 2026-03-01T12:10")
    refused(lambda: staffed.redeem_code("", step="rollback", subject="", now=NOW), "no one-time code")


@pytest.mark.parametrize(
    ("name", "step", "subject", "message"),
    [
        ("sue", "approve", "t1", "approve t1: needs role approver, and Sue has submitter"),
        ("sue", "rollback", "", "rollback: needs role approver or admin"),
        ("eve", "approve", "t1", "is not known"),
        ("ann", "promote", "t1", "a code is for one of approve, reject, rollback"),
        ("ann", "approve", "", "name the TRIAL"),
        ("ann", "rollback", "t1", "names no trial"),
    ],
)
def test_codes_are_for_who_may_take_the_step(staffed: Ledger, name: str, step: str, subject: str, message: str) -> None:
    refused(lambda: staffed.issue_code(name, step=step, subject=subject, evidence="", now=NOW), message)


@pytest.mark.usefixtures("quick_passwords")
def test_of_two_uses_of_a_code_at_once_one_is_refused(ledger_url: str) -> None:
    staffed = staff(Ledger(ledger_url, enforce_roles=True))
    code = staffed.issue_code("ann", step="approve", subject="t1", evidence="e", now=NOW)
    met, outcomes = threading.Barrier(8), []

    def redeem() -> None:
        own = Ledger(ledger_url, enforce_roles=True)
        met.wait()
        try:
            outcomes.append(own.redeem_code(code, step="approve", subject="t1", now=NOW)[0].name)
        except UsageError as error:
            outcomes.append(str(error).split(" at ")[0])

    run([redeem] * 8)
    assert sorted(outcomes) == ["Ann", *["this code was used"] * 7]
    # And the rest of a person's day on the same database.
    shown = staffed.issue_token("sue", label="", lifetime=A_MINUTE, actor="root", now=NOW)[1]
    session = staffed.sign_in("ann", GOOD, now=NOW)
    assert staffed.session(session, now=NOW + A_MINUTE).name == "Ann"  # type: ignore[union-attr]
    assert staffed.who_is(shown, now=NOW).name == "Sue"
    staffed.disable_person("ann", actor="root", reason="left", now=NOW)
    assert staffed.session(session, now=NOW) is None
    assert staffed.verify() == []


def run(bodies: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The record


def test_every_change_is_on_the_record_and_no_secret_is(staffed: Ledger) -> None:
    token, shown = staffed.issue_token("sue", label="CI", lifetime=None, actor="root", now=NOW)
    staffed.revoke_token(token.id, actor="sue", now=NOW)
    staffed.set_password("sue", "another long password", actor="root", now=NOW)
    staffed.set_roles("sue", roles=APPROVER, actor="root", now=NOW)
    staffed.disable_person("sue", actor="root", reason="left", now=NOW)
    staffed.enable_person("sue", actor="root", reason="is back", now=NOW)
    told = [(entry.actor, entry.action, entry.subject) for entry in staffed.audit()]
    assert told == [
        ("root", "add_person", "person root"),
        ("root", "add_person", "person Ann"),
        ("root", "add_person", "person Sue"),
        ("root", "issue_token", f"token {token.id}"),
        ("sue", "revoke_token", f"token {token.id}"),
        *[("root", f"{act}_{'person' if 'able' in act else what}", "person Sue")
          for act, what in [("set", "password"), ("set", "roles"), ("disable", ""), ("enable", "")]],
    ]  # fmt: skip
    assert staffed.verify() == []
    recorded = json.dumps([entry.payload for entry in staffed.audit()])
    with staffed._database.read() as tx:
        kept = [*tx.execute(text("SELECT secret_sha256 FROM person_token")).scalars()]
        kept += [each for each in tx.execute(text("SELECT password FROM person")).scalars() if each]
    assert kept
    for secret in (GOOD, "another long password", shown.split("_")[2], *kept):
        assert secret not in recorded


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("""UPDATE person SET roles = '["admin"]' WHERE key = 'sue'""", "person sue: roles not as the audit has it"),
        ("UPDATE person SET password = 'mine' WHERE key = 'ann'", "person ann: password not as the audit has it"),
        ("UPDATE person SET name = 'Bob' WHERE key = 'ann'", "person ann: name not as the audit has it"),
        ("UPDATE person SET disabled = NULL, disabled_by = '' WHERE key = 'bob'", "person bob: disabled, disabled_by"),
        ("DELETE FROM person WHERE key = 'sue'", "person sue: in the audit, and gone from the ledger"),
        (
            "INSERT INTO person SELECT 'eve', 'eve', roles, password, created, created_by, disabled, disabled_by "
            "FROM person WHERE key = 'root'",
            "person eve: in the ledger, and not in the audit",
        ),
        ("UPDATE person_token SET person = 'root'", "person not as the audit has it"),
        ("UPDATE person_token SET secret_sha256 = 'aa'", "secret not as the audit has it"),
        ("UPDATE person_token SET expires = NULL", "expires not as the audit has it"),
        ("UPDATE person_token SET revoked = NULL", "revoked not as the audit has it"),
        ("DELETE FROM person_token", "in the audit, and gone from the ledger"),
    ],
)
def test_what_is_written_past_the_ledger_is_found(staffed: Ledger, statement: str, problem: str) -> None:
    staffed.add_person("bob", roles=ADMIN, password=GOOD, actor="root", now=NOW)
    staffed.issue_token("bob", label="", lifetime=timedelta(days=1), actor="root", now=NOW)
    staffed.disable_person("bob", actor="root", reason="left", now=NOW)
    assert staffed.verify() == []
    change(staffed, statement)
    [found] = staffed.verify()
    assert problem in found


def test_roles_that_no_ratchet_writes_are_named_and_let_nobody_act(staffed: Ledger) -> None:
    change(staffed, """UPDATE person SET roles = '["emperor"]' WHERE key = 'sue'""")
    with pytest.raises(DependencyFailed, match=r"roles of 'sue' are .*emperor.*ledger verify"):
        staffed.people()
    assert staffed.verify() == ["person sue: roles not as the audit has it"]


def test_a_record_that_contradicts_itself_is_named(staffed: Ledger) -> None:
    from stores.audit import append_audit

    def add(tx: Connection, action: str, payload: dict[str, Any]) -> None:
        append_audit(tx, actor="eve", action=action, subject="person x", payload=payload, now=NOW)

    with staffed._database.write() as tx:
        add(tx, "add_person", {"key": "ann"})
        add(tx, "set_roles", {"key": "ghost", "roles": "[]"})
        add(tx, "revoke_token", {"id": "gone"})
        problems = find_problems(tx, roles_enforced=False)
    assert [each for each in problems if "audit entry" in each] == [
        "audit entry 4: person x was added before",
        "audit entry 5: set_roles of person x, which was never there",
        "audit entry 6: revoke_token of person x, which was never there",
    ]
