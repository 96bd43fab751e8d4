"""Approvals: bound to one look, counted by person, enough of them; and every row of the ledger's race table."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate.states import TrialState
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import ApprovalRecord, Champion, VersionRecord, Waiting
from stores.people import Role

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TWO = {"slices": [{"name": "newcomers", "protected": True}]}
"""A configuration that protects a group: two people must approve."""


def record(number: int, *, submitter: str = "carol", events: int | None = None) -> VersionRecord:
    facts = (number, f"{number:064x}", "full", number - 1 or None, events or number, 0, 0, True, {}, "run", T0, "", "")
    return VersionRecord(*facts, submitter)


def made(url: str, *, enforce: bool = False) -> Ledger:
    ledger = Ledger(url, enforce_roles=enforce)
    for number in (1, 2, 3, 4):
        ledger.record_version(record(number))
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Champion version 1; whatever a test does, the audit verifies at its end."""
    ledger = made(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    yield ledger
    assert ledger.verify() == []


def begin(ledger: Ledger, trial: str = "t1", *, version: int = 2, config: Any = TWO, now: datetime = T0) -> str:
    """Opened by bob; version 2's training was asked for by carol."""
    ledger.open_trial(trial, config, challengers=[version], salt="s", allocation=0.5, actor="bob", now=now)
    return look(ledger, trial, now=now)


def look(ledger: Ledger, trial: str = "t1", decision: str = "PROMOTE", *, now: datetime = T0, **told: Any) -> str:
    number = ledger.trial(trial).looks + 1
    return ledger.record_evidence(trial, {"decision": decision, "look": number, **told}, now=now)


def approve(ledger: Ledger, who: str, trial: str = "t1", *, now: datetime = T0 + HOUR, **told: Any) -> Any:
    return ledger.approve(trial, actor=who, reason=f"{who} likes it", now=now, **told)


# Quorum


def test_one_person_is_enough_where_no_group_is_protected(ledger: Ledger) -> None:
    seen = begin(ledger, config={"slices": [{"name": "newcomers", "protected": False}]})
    assert ledger.trial("t1").quorum == 1
    assert isinstance(approve(ledger, "ann", evidence=seen), Champion)
    assert ledger.trial("t1").approvals == (ApprovalRecord("ann", seen, "ann likes it", T0 + HOUR),)
    assert ledger.history()[-1].approvers == ("ann",)


def test_two_people_approve_for_a_protected_group_and_the_promotion_names_both(ledger: Ledger) -> None:
    seen = begin(ledger)
    assert ledger.trial("t1").quorum == 2
    assert approve(ledger, "ann") == Waiting("t1", ("ann",), 2)
    assert ledger.trial("t1").state is TrialState.AWAIT_APPROVAL
    reached = approve(ledger, "dan", now=T0 + 2 * HOUR)
    assert (reached.version, reached.epoch) == (2, 2)
    first, last = ledger.audit()[-2:]
    assert (first.action, first.actor, first.payload["evidence"]) == ("approve", "ann", seen)
    assert (last.action, last.actor, last.payload["approvers"]) == ("promote", "dan", ["ann", "dan"])
    assert ledger.history()[-1].approvers == ("ann", "dan")
    assert [each.name for each in ledger.trial("t1").approvals] == ["ann", "dan"]


@pytest.mark.parametrize("again", ["ann", "Ann", " ANN ", "\uff41nn"])
def test_one_person_counts_once_however_the_name_is_written(ledger: Ledger, again: str) -> None:
    begin(ledger)
    approve(ledger, "ann")
    entries = ledger.audit()
    assert approve(ledger, again) == Waiting("t1", ("ann",), 2)
    assert ledger.audit() == entries


@pytest.mark.parametrize("who", ["bob", "Bob ", "carol", "gate", "GATE"])
def test_neither_submitter_nor_the_gate_counts(ledger: Ledger, who: str) -> None:
    begin(ledger)
    approve(ledger, "ann")
    with pytest.raises(GateRefused):
        approve(ledger, who)
    assert ledger.trial("t1").state is TrialState.AWAIT_APPROVAL


def test_a_new_look_voids_what_was_approved_before(ledger: Ledger) -> None:
    first = begin(ledger)
    approve(ledger, "ann", evidence=first)
    second = look(ledger, now=T0 + HOUR)
    assert ledger.trial("t1").approvals == ()
    with pytest.raises(GateRefused, match=r"the newest look is 2 .* and not the one that was approved"):
        approve(ledger, "dan", evidence=first)
    assert approve(ledger, "dan", evidence=second) == Waiting("t1", ("dan",), 2)
    assert isinstance(approve(ledger, "ann", evidence=second), Champion)


def test_only_promote_is_approved_though_an_earlier_look_was_one(ledger: Ledger) -> None:
    begin(ledger)
    approve(ledger, "ann")
    look(ledger, decision="HOLD", now=T0 + HOUR)
    with pytest.raises(GateRefused, match="look 2 says HOLD"):
        approve(ledger, "dan")


# People


def role(ledger: Ledger, name: str, *roles: Role) -> None:
    ledger.add_person(name, roles=frozenset(roles), password=None, actor="root", now=T0)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger that knows its people: root administers; ann, dan and eve approve; bob submits, and approves too."""
    ledger = made(f"sqlite:///{tmp_path / 'guarded.db'}", enforce=True)
    ledger.add_first_admin("root", password=None, now=T0)
    for name in ("ann", "dan", "eve"):
        role(ledger, name, Role.APPROVER)
    role(ledger, "bob", Role.SUBMITTER, Role.APPROVER)
    role(ledger, "sue", Role.SUBMITTER)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    yield ledger
    assert ledger.verify() == []


def test_who_was_disabled_meanwhile_does_not_count(guarded: Ledger) -> None:
    begin(guarded)
    approve(guarded, "ann")
    guarded.disable_person("ann", actor="root", reason="has left", now=T0)
    assert approve(guarded, "dan") == Waiting("t1", ("dan",), 2)
    assert isinstance(approve(guarded, "eve"), Champion)
    assert guarded.audit()[-1].payload["approvers"] == ["dan", "eve"]
    assert [each.name for each in guarded.trial("t1").approvals] == ["dan", "eve"], "hers is not one that promoted"


def test_who_may_not_approve_any_more_does_not_count(guarded: Ledger) -> None:
    begin(guarded)
    approve(guarded, "ann")
    guarded.set_roles("ann", roles=frozenset({Role.SUBMITTER}), actor="root", now=T0)
    assert approve(guarded, "dan") == Waiting("t1", ("dan",), 2)
    guarded.set_roles("ann", roles=frozenset({Role.APPROVER}), actor="root", now=T0)
    assert isinstance(approve(guarded, "dan"), Champion), "hers counts again, and his is given already"


STEPS: dict[str, Callable[[Ledger, str], Any]] = {
    "approve": lambda ledger, who: approve(ledger, who),
    "reject": lambda ledger, who: ledger.reject("t1", actor=who, reason="no", now=T0),
    "stop": lambda ledger, who: ledger.stop_trial("t1", actor=who, reason="no", now=T0),
    "kill": lambda ledger, who: ledger.kill_trial("t1", actor=who, reason="no", now=T0),
    "rollback": lambda ledger, who: ledger.rollback(actor=who, reason="no", now=T0),
    "open": lambda ledger, who: ledger.open_trial(
        "t2", {}, challengers=[3], salt="s", allocation=0.5, actor=who, now=T0
    ),
    "break": lambda ledger, who: ledger.ask_break_glass(3, hours=1, actor=who, reason="fire", now=T0),
    "bootstrap": lambda ledger, who: ledger.bootstrap(1, actor=who, reason="again", now=T0),
}
MAY = {
    "approve": ("ann",),
    "reject": ("ann", "bob"),
    "stop": ("ann", "bob", "sue"),
    "kill": ("ann", "bob", "sue", "ada"),
    "rollback": ("ann", "bob", "ada", "gate"),
    "open": ("bob", "sue", "deployment trial/hourly"),
    "break": ("ann", "bob"),
    "bootstrap": ("ann", "bob"),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_for_its_roles_and_refused_to_all_others(tmp_path: Path, step: str) -> None:
    """ann approves, bob submits and approves, sue submits, ada administers; nobody knows mallory."""
    people = ("ann", "bob", "sue", "ada", "mallory", "gate", "deployment trial/hourly")
    ledger = made(f"sqlite:///{tmp_path / 'ledger.db'}", enforce=True)
    ledger.add_first_admin("root", password=None, now=T0)
    kinds = {"a": Role.APPROVER, "s": Role.SUBMITTER, "d": Role.ADMIN}
    for name, roles in (("ann", "a"), ("bob", "sa"), ("sue", "s"), ("ada", "d")):
        role(ledger, name, *(kinds[each] for each in roles))
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    begin(ledger, config={})
    if step in ("rollback", "break"):
        approve(ledger, "ann")
    before = ledger.audit()
    for who in people:
        if who not in MAY[step]:
            with pytest.raises(GateRefused):
                STEPS[step](ledger, who)
    assert ledger.audit() == before
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as source:
        for who in MAY[step]:
            with contextlib.closing(sqlite3.connect(tmp_path / f"{who.partition('/')[0]}.db")) as copy:
                source.backup(copy)
            STEPS[step](Ledger(f"sqlite:///{tmp_path}/{who.partition('/')[0]}.db", enforce_roles=True), who)


# GATE.md, section 4: the race table


def test_race_nobody_answers_in_72_hours(ledger: Ledger) -> None:
    begin(ledger)
    approve(ledger, "ann", now=T0 + HOUR)
    assert ledger.expire(T0 + 72 * HOUR) == ()
    assert ledger.expire(T0 + 73 * HOUR) == ("t1",)
    assert ledger.trial("t1").state is TrialState.EXPIRED
    assert ledger.serving_state().trial is None, "the challenger is at 0 %"
    with pytest.raises(GateRefused, match="is EXPIRED"):
        approve(ledger, "dan", now=T0 + 73 * HOUR)


def test_race_rejected_and_the_same_artifact_comes_back(ledger: Ledger) -> None:
    begin(ledger)
    ledger.reject("t1", actor="ann", reason="ugly pictures", now=T0)
    assert (ledger.trial("t1").state, ledger.trial("t1").reason) == (TrialState.REJECTED, "ugly pictures")
    with pytest.raises(GateRefused, match="the same bundle was rejected in trial t1; train a new one on new data"):
        begin(ledger, "t2")
    assert ledger.record_version(replace(record(9, events=9), digest=record(2).digest)) == 2, "one digest, one version"
    begin(ledger, "t3", version=3)  # the same network on newer data has another digest, and is another artifact
    assert ledger.trial("t3").is_open


def test_race_two_approvals_of_one_digest(ledger: Ledger, tmp_path: Path) -> None:
    seen = begin(ledger, config={})

    def one(at: int) -> Any:
        own = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        return own.approve("t1", actor=("ann", "dan")[at % 2], reason="good", now=T0, evidence=seen)

    with ThreadPoolExecutor(8) as pool:
        reached = set(pool.map(one, range(8)))
    assert len(reached) == 1
    assert [entry.action for entry in ledger.audit()].count("promote") == 1
    assert len(ledger.history()) == 2


def test_race_two_challengers_approved_at_once(tmp_path: Path) -> None:
    """A surface has one open trial, so the first is opened again by hand: the swap holds where that rule did not."""
    ledger = made(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    begin(ledger, "t1", config={})
    begin(ledger, "t2", version=3, config={})
    with ledger._database.write() as tx:
        tx.exec_driver_sql("UPDATE trial SET state = 'AWAIT_APPROVAL' WHERE id = 't1'")

    def one(trial: str) -> Any:
        own = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        try:
            return own.approve(trial, actor="ann", reason="good", now=T0)
        except GateRefused as refused:
            return str(refused)

    with ThreadPoolExecutor(2) as pool:
        reached = list(pool.map(one, ("t1", "t2")))
    assert sum(isinstance(each, Champion) for each in reached) == 1
    (loser,) = (each for each in reached if isinstance(each, str))
    assert "STALE: it was run against the champion of epoch 1, now it is version" in loser
    states = {ledger.trial(trial).state for trial in ("t1", "t2")}
    assert states == {TrialState.PROMOTED, TrialState.STALE}
    assert len(ledger.history()) == 2


def test_race_the_incumbent_changed_meanwhile(ledger: Ledger) -> None:
    begin(ledger, "t0", version=2, config={})
    approve(ledger, "ann", "t0")
    seen = begin(ledger, "t1", version=3, now=T0 + HOUR)
    approve(ledger, "ann", now=T0 + 2 * HOUR)
    ledger.rollback(actor="dan", reason="errors rose", now=T0 + 2 * HOUR)
    assert ledger.trial("t1").state is TrialState.STALE
    with pytest.raises(GateRefused, match="is STALE"):
        approve(ledger, "dan", now=T0 + 2 * HOUR)
    ledger.open_trial("t2", TWO, challengers=[3], salt="s", allocation=0.5, actor="bob", now=T0 + 3 * HOUR)
    with pytest.raises(GateRefused, match="is COMPARE"):
        approve(ledger, "dan", "t2", now=T0 + 3 * HOUR, evidence=seen)
    assert ledger.trial("t2").approvals == (), "evidence is never reused"


def test_race_a_guardrail_fires_while_it_waits(ledger: Ledger) -> None:
    begin(ledger)
    approve(ledger, "ann")
    look(ledger, decision="REJECT", now=T0 + HOUR, reasons=["guardrail carts: proven worse than its margin"])
    trial = ledger.trial("t1")
    assert (trial.state, trial.decided_by, trial.approvals) == (TrialState.ABORTED, "gate", ())
    assert "guardrail carts: proven worse than its margin; approvals given so far are void" in trial.reason
    assert ledger.serving_state().trial is None
    with pytest.raises(GateRefused, match="is ABORTED"):
        approve(ledger, "dan")
    with pytest.raises(GateRefused, match="the same bundle was rejected"):
        begin(ledger, "t2")


# Whatever is written behind its back


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE approval SET name = 'eve' WHERE person = 'ann'", "approval of trial t1"),
        ("UPDATE approval SET reason = 'bribed' WHERE person = 'dan'", "approval of trial t1"),
        ("UPDATE approval SET evidence = 'x' WHERE person = 'ann'", "approval of trial t1"),
        ("DELETE FROM approval WHERE person = 'ann'", "approval of trial t1"),
        ("INSERT INTO approval VALUES ('t1', 'x', 'eve', 'eve', 'r', '2026')", "by 'eve': the ledger holds"),
        (
            "UPDATE audit SET payload = replace(payload, '\"ann\",\"dan\"', '\"dan\"') WHERE action = 'promote'",
            "changed",
        ),
        (
            "UPDATE audit SET payload = replace(payload, '\"ann\",\"dan\"', '\"dan\"') WHERE action = 'promote'",
            "1 of 2",
        ),
        ("UPDATE audit SET actor = 'eve' WHERE action = 'approve'", "by people who did not approve its look"),
        ("UPDATE audit SET actor = 'bob' WHERE action = 'approve'", "bob approved by its submitter"),
        ("UPDATE audit SET actor = 'eve' WHERE action = 'promote'", "by another than those who approved"),
    ],
)
def test_an_edited_approval_is_named(tmp_path: Path, statement: str, named: str) -> None:
    ledger = made(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    begin(ledger)
    approve(ledger, "ann")
    approve(ledger, "dan")
    assert ledger.verify() == []
    with ledger._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    problems = ledger.verify()
    assert any(named in problem for problem in problems), problems


# Random people


class Office:
    """People of all roles, who come and go, approve whatever waits, again and again, while looks go on."""

    NAMES = ("ann", "dan", "eve", "bob", "sue", "carol")

    def __init__(self, folder: Path, seed: int) -> None:
        self.ledger = made(f"sqlite:///{folder / f'{seed}.db'}", enforce=True)
        self.rng, self.now, self.promotions = np.random.default_rng(seed), T0, 0
        self.ledger.add_first_admin("root", password=None, now=T0)
        for name in self.NAMES:
            role(self.ledger, name, *([Role.SUBMITTER] if name == "sue" else [Role.APPROVER, Role.SUBMITTER]))
        self.ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
        begin(self.ledger, config=TWO)
        self.given: dict[str, set[str]] = {}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += timedelta(minutes=10)
            step = self.rng.choice(["approve", "look", "roles", "disable"], p=[0.6, 0.15, 0.15, 0.1])
            getattr(self, step)()
            if self.ledger.trial("t1").state is TrialState.PROMOTED:
                self.promotions += 1
                break
        assert self.ledger.verify() == []

    def who(self) -> str:
        return str(self.rng.choice(self.NAMES))

    def look(self) -> None:
        look(self.ledger, decision=str(self.rng.choice(["PROMOTE", "PROMOTE", "HOLD"])), now=self.now)

    def roles(self) -> None:
        kinds = [Role.APPROVER] if self.rng.random() < 0.6 else [Role.SUBMITTER]
        with contextlib.suppress(UsageError):  # of somebody disabled
            self.ledger.set_roles(self.who(), roles=frozenset(kinds), actor="root", now=self.now)

    def disable(self) -> None:
        with contextlib.suppress(UsageError):  # disabled already
            self.ledger.disable_person(self.who(), actor="root", reason="away", now=self.now)

    def approve(self) -> None:
        who, trial = self.who(), self.ledger.trial("t1")
        newest = trial.evidence[-1]
        stated = newest.sha256 if self.rng.random() < 0.8 else trial.evidence[0].sha256
        try:
            reached = approve(self.ledger, who, now=self.now, evidence=stated)
        except GateRefused:
            return
        self.given.setdefault(newest.sha256, set()).add(who)
        if isinstance(reached, Champion):
            assert newest.decision == "PROMOTE"
            assert stated == newest.sha256
            approvers = set(self.ledger.audit()[-1].payload["approvers"])
            assert len(approvers) >= 2
            assert approvers <= self.given[newest.sha256], "each has approved this very look"
            assert not approvers & {"bob", "carol"}, "they submitted the trial and its challenger"
            people = {person.name: person for person in self.ledger.people()}
            assert all(people[name].has(Role.APPROVER) for name in approvers)


def test_no_history_of_people_promotes_without_enough_of_them_on_the_newest_look(tmp_path: Path) -> None:
    offices = [Office(tmp_path, seed) for seed in range(4)]
    for office in offices:
        office.run(30)
    assert sum(office.promotions for office in offices) >= 1, "the law says nothing where nothing happens"
