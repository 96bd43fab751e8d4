"""`verify` knows who held which role at each entry: whoever decided without it is named, and nobody else.

A ledger opened without roles, as in a simulation, is the forger's tool here: every table and the whole chain agree
with what it writes, and only the roles do not.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from gate.states import TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.audit import GENESIS, append_audit
from stores.break_glass import UNCONFIRMED
from stores.ledger import Ledger
from stores.ledger_export import check_export
from stores.ledger_records import GATE, VersionRecord, canonical_json, sha256
from stores.ledger_tables import approvals, audits, reigns
from stores.people import Role
from stores.standing_records import DeltaLimits

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROLES = {
    "ann": {Role.APPROVER},
    "dan": {Role.APPROVER},
    "carol": {Role.APPROVER, Role.SUBMITTER},
    "sue": {Role.SUBMITTER},
    "fay": {Role.APPROVER},
    "gus": {Role.APPROVER},
}
"""Beside root, who administers. Carol has every version trained; Fay is a submitter from entry 8 on, Gus disabled."""
LEARNER = "deployment learn/nightly"
TWO = {"slices": [{"name": "newcomers", "protected": True}], "bake_hours": 1}
Act = Callable[[Ledger], Any]


def staffed(url: str) -> Ledger:
    """Roles are enforced. Entries 1 to 7 add people, 8 and 9 change Fay and Gus, then come twelve versions."""
    ledger = Ledger(url, enforce_roles=True)
    ledger.add_first_admin("root", password=None, roles=frozenset({Role.ADMIN}), now=T0)
    for name, roles in ROLES.items():
        ledger.add_person(name, roles=frozenset(roles), password=None, actor="root", now=T0)
    ledger.set_roles("fay", roles=frozenset({Role.SUBMITTER}), actor="root", now=T0)
    ledger.disable_person("gus", actor="root", reason="left", now=T0)
    for number in range(1, 13):
        ledger.record_version(version(number))
    return ledger


def version(number: int) -> VersionRecord:
    return VersionRecord(
        number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "", submitter="carol"
    )


def begin(ledger: Ledger, challenger: int = 2, *, who: str = "sue", mode: TrialMode = TrialMode.COMPARE) -> str:
    trial = f"t{len(ledger.trials()) + 1}"
    stated: dict[str, Any] = {"challengers": [challenger], "salt": "s", "allocation": 0.5, "mode": mode}
    ledger.open_trial(trial, TWO, actor=who, now=T0, **stated)
    return trial


def look(ledger: Ledger, trial: str = "t1", decision: str = "PROMOTE") -> str:
    told: dict[str, Any] = {"decision": decision, "look": ledger.trial(trial).looks + 1}
    return ledger.record_evidence(trial, told, now=T0)


def approve(ledger: Ledger, who: str, trial: str = "t1") -> Any:
    return ledger.approve(trial, actor=who, reason="good", now=T0)


def waiting(url: str) -> Ledger:
    """Champion version 1, and t1 of version 2 waits for two approvals."""
    made = staffed(url)
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    begin(made)
    look(made)
    assert made.verify() == []
    return made


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return waiting(ledger_url)


@pytest.fixture
def forger(ledger: Ledger, ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


WHY: dict[str, Any] = {"reason": "I say so", "now": T0}
LIMITS: dict[str, Any] = {"recipe": "r", "limits": DeltaLimits(5, 1000, 0.1, 0.9), "expires": T0 + HOUR}


def baking(ledger: Ledger) -> None:
    approve(ledger, "ann")
    approve(ledger, "dan")


def begun(ledger: Ledger) -> None:
    baking(ledger)
    ledger.begin_bake("t1", now=T0)


def running(ledger: Ledger) -> None:
    ledger.stop_trial("t1", actor="sue", **WHY)
    begin(ledger, who=LEARNER, mode=TrialMode.SHADOW)


def broken(ledger: Ledger) -> None:
    ledger.ask_break_glass(3, hours=1, actor="ann", **WHY)
    ledger.confirm_break_glass(1, actor="dan", **WHY)


def nothing(_: Ledger) -> None:
    """Nothing comes before."""


FORGED: list[tuple[Act, Act, list[str]]] = [
    (nothing, lambda tool: approve(tool, "eve"), ["(approve trial t1): eve needed role approver, and was not known"]),
    (nothing, lambda tool: approve(tool, "fay"), ["(approve trial t1): fay needed role approver, and had submitter"]),
    (
        nothing,
        lambda tool: approve(tool, "gus"),
        [
            "(approve trial t1): gus needed role approver, and was disabled since 2026-01-01T00:00:00.000000Z "
            "(with approver)"
        ],
    ),
    (
        lambda ledger: approve(ledger, "ann"),
        lambda tool: approve(tool, "root"),
        ["(promote trial t1): root needed role approver, and had admin"],
    ),
    (
        lambda ledger: (
            approve(ledger, "ann"),
            ledger.disable_person("ann", actor="root", reason="left", now=T0 + HOUR),
        ),
        lambda tool: approve(tool, "dan"),
        [
            "(promote trial t1): ann needed role approver, and was disabled since 2026-01-01T01:00:00.000000Z "
            "(with approver)"
        ],
    ),
    (
        nothing,
        lambda tool: tool.reject("t1", actor="sue", **WHY),
        ["(close_trial trial t1): sue needed role approver, and had submitter"],
    ),
    (
        nothing,
        lambda tool: tool.reject("t1", actor=GATE, **WHY),
        ["(close_trial trial t1): gate needed role approver, and is no person"],
    ),
    (
        nothing,
        lambda tool: tool.stop_trial("t1", actor="root", **WHY),
        ["(close_trial trial t1): root needed role submitter or approver, and had admin"],
    ),
    (
        nothing,
        lambda tool: begin(tool, 3, who="ann"),
        [
            "(close_trial trial t1): ann needed role submitter, and had approver",
            "(open_trial trial t2): ann needed role submitter, and had approver",
        ],
    ),
    (
        running,
        lambda tool: tool.set_stage("t2", TrialMode.COMPARE, actor="eve", **WHY),
        ["(set_stage trial t2): eve needed role submitter or approver or admin, and was not known"],
    ),
    (
        running,
        lambda tool: tool.set_stage("t2", TrialMode.COMPARE, actor=LEARNER, **WHY),
        [f"(set_stage trial t2): {LEARNER} needed role submitter or approver or admin, and is no person"],
    ),
    (
        baking,
        lambda tool: tool.begin_bake("t1", actor="sue", now=T0),
        ["(begin_bake trial t1): sue needed role approver, and had submitter"],
    ),
    (
        begun,
        lambda tool: tool.end_bake("t1", actor="eve", now=T0 + HOUR),
        ["(end_bake trial t1): eve needed role approver, and was not known"],
    ),
    (
        baking,
        lambda tool: tool.rollback(actor="sue", **WHY),
        [
            "(rollback version 2): sue needed role approver or admin, and had submitter",
            "(close_trial trial t1): sue needed role approver or admin, and had submitter",
        ],
    ),
    (
        nothing,
        lambda tool: tool.ask_break_glass(3, hours=1, actor="sue", **WHY),
        ["(ask_break_glass break-glass 1): sue needed role approver, and had submitter"],
    ),
    (
        lambda ledger: (
            ledger.ask_break_glass(3, hours=1, actor="ann", **WHY),
            ledger.set_roles("ann", roles=frozenset({Role.SUBMITTER}), actor="root", now=T0),
        ),
        lambda tool: tool.confirm_break_glass(1, actor="dan", **WHY),
        ["(break_glass break-glass 1): ann needed role approver, and had submitter"],
    ),
    (
        lambda ledger: ledger.ask_break_glass(3, hours=1, actor="ann", **WHY),
        lambda tool: tool.confirm_break_glass(1, actor="eve", **WHY),
        [
            "(break_glass break-glass 1): eve needed role approver, and was not known",
            "(close_trial trial t1): eve needed role approver or admin, and was not known",
        ],
    ),
    (
        lambda ledger: ledger.ask_break_glass(3, hours=1, actor="ann", **WHY),
        lambda tool: tool.end_break_glass(1, actor="root", **WHY),
        ["(end_break_glass break-glass 1): root needed role approver, and had admin"],
    ),
    (
        broken,
        lambda tool: tool.end_break_glass(1, actor="sue", **WHY),
        [
            "(rollback version 3): sue needed role approver or admin, and had submitter",
            "(end_break_glass break-glass 1): sue needed role approver or admin, and had submitter",
        ],
    ),
    (
        nothing,
        lambda tool: tool.allow_deltas(actor="sue", **LIMITS, **WHY),
        ["(allow_deltas standing approval 1): sue needed role approver, and had submitter"],
    ),
    (
        lambda ledger: ledger.allow_deltas(actor="ann", **LIMITS, **WHY),
        lambda tool: tool.withdraw_deltas(actor="online", **WHY),
        [
            "(end_deltas standing approval 1): online needed role submitter or approver or admin, and is no person",
        ],
    ),
    (
        nothing,
        lambda tool: tool.bootstrap(2, actor="root", surface="cart", **WHY),
        ["(bootstrap version 2): root needed role approver, and had admin"],
    ),
    (
        nothing,
        lambda tool: tool.set_roles("sue", roles=frozenset({Role.APPROVER}), actor="sue", now=T0),
        ["(set_roles person sue): sue needed role admin, and had submitter"],
    ),
    (
        nothing,
        lambda tool: tool.add_person("eve", roles=frozenset(Role), password=None, actor="eve", now=T0),
        ["(add_person person eve): eve needed role admin, and was not known"],
    ),
    (
        nothing,
        lambda tool: tool.enable_person("gus", actor="ann", reason="back", now=T0),
        ["(enable_person person gus): ann needed role admin, and had approver"],
    ),
    (
        nothing,
        lambda tool: tool.disable_person("dan", actor="ann", reason="a rival", now=T0),
        ["(disable_person person dan): ann needed role admin, and had approver"],
    ),
    (
        nothing,
        lambda tool: tool.set_password("dan", "correct horse battery", actor="sue", now=T0),
        ["(set_password person dan): sue needed role admin, and had submitter"],
    ),
]


@pytest.mark.parametrize(("before", "act", "named"), FORGED)
def test_a_decision_without_its_role_is_named_though_everything_else_agrees(
    tmp_path: Path, quick_passwords: None, before: Act, act: Act, named: list[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger, forger = waiting(url), Ledger(url)
    before(ledger)
    assert ledger.verify() == []
    count = len(ledger.audit())
    act(forger)
    assert forger.verify() == [], "the chain and every table agree"
    found = ledger.verify()
    assert [each.partition(" (")[2] for each in found] == [each[1:] for each in named]
    assert all(int(each.split()[2]) > count for each in found), "entries of before are not accused"


def test_tokens_are_ones_own_or_an_admins(ledger: Ledger, forger: Ledger) -> None:
    mine, _ = ledger.issue_token("dan", label="", lifetime=None, actor="dan", now=T0)
    his, _ = ledger.issue_token("dan", label="", lifetime=None, actor="root", now=T0)
    ledger.revoke_token(mine.id, actor="Dan", now=T0)
    assert ledger.verify() == []
    stolen, _ = forger.issue_token("dan", label="", lifetime=None, actor="sue", now=T0)
    forger.revoke_token(his.id, actor="sue", now=T0)
    lacks = "sue needed role admin, and had submitter"
    at = len(ledger.audit())
    assert ledger.verify() == [
        f"audit entry {at - 1} (issue_token token {stolen.id}): {lacks}",
        f"audit entry {at} (revoke_token token {his.id}): {lacks}",
    ]


def rewrite(ledger: Ledger, old: str, new: str) -> None:
    """Put one person in another's place in every entry since the first look and in the tables, and chain anew."""
    with ledger._database.write() as tx:
        previous, since = GENESIS, False
        for row in tx.execute(select(audits).order_by(audits.c.number)).all():
            since = since or row.action == "record_evidence"
            link = {**row._mapping, "previous": previous}
            del link["hash"]
            if since:
                link["actor"] = new if row.actor == old else row.actor
                link["payload"] = row.payload.replace(f'"{old}"', f'"{new}"')
            told: dict[str, Any] = {**link, "payload": json.loads(link["payload"])}
            previous = sha256(canonical_json(told, what="a link"))
            tx.execute(update(audits).where(audits.c.number == row.number).values(**link, hash=previous))
        tx.execute(update(approvals).where(approvals.c.person == old).values(person=new, name=new))
        tx.execute(update(reigns).where(reigns.c.actor == old, reigns.c.epoch > 1).values(actor=new))


@pytest.mark.parametrize(
    ("new", "named"),
    [
        ("eve", ["approve trial t1): eve needed", "promote trial t1): eve needed"]),
        ("fay", ["approve trial t1): fay needed", "promote trial t1): fay needed"]),
        ("gus", ["approve trial t1): gus needed", "promote trial t1): gus needed"]),
        (GATE, ["approve trial t1): gate needed", "promote trial t1): gate needed"]),
        ("sue", ["sue approved by its submitter", "promote by its submitter", "t1): sue needed", "t1): sue needed"]),
        ("carol", ["promote by its submitter", "approve trial t1): carol had it trained"]),
    ],
)
def test_a_rewritten_chain_that_is_whole_is_caught_by_who_is_in_it(ledger: Ledger, new: str, named: list[str]) -> None:
    baking(ledger)
    assert ledger.verify() == []
    rewrite(ledger, "dan", "dan")
    assert ledger.verify() == [], "the rewriting alone leaves no trace"
    rewrite(ledger, "ann", new)
    found = ledger.verify()
    assert [each for each in found if "chain" in each or "was changed" in each or "the ledger holds" in each] == []
    assert all(any(each in told for told in found) for each in named), found


def test_a_rewritten_chain_cannot_leave_nobody_who_administers_and_begin_anew(ledger: Ledger, forger: Ledger) -> None:
    """As one who wants to be the first admin again would have it."""
    with forger._database.write() as tx:
        told: dict[str, Any] = {"key": "root", "reason": "left"}
        append_audit(tx, actor="root", action="disable_person", subject="person root", payload=told, now=T0)
        tx.exec_driver_sql(
            "UPDATE person SET disabled = '2026-01-01T00:00:00.000000Z', disabled_by = 'root' WHERE key = 'root'"
        )
    ledger.add_first_admin("eve", password=None, now=T0)
    [found] = ledger.verify()
    assert found.endswith("(disable_person person root): leaves nobody who can administer")


@pytest.mark.parametrize(
    ("who", "lacks"), [("sue", "needs role approver, and sue has submitter"), ("eve", "not known")]
)
def test_that_a_promotion_may_stay_is_an_approvers_word(ledger: Ledger, who: str, lacks: str) -> None:
    baking(ledger)
    with pytest.raises(GateRefused, match=f"begin the bake of trial t1: .*{lacks}"):
        ledger.begin_bake("t1", actor=who, now=T0)
    ledger.begin_bake("t1", actor="ann", now=T0)
    with pytest.raises(GateRefused, match=f"end the bake of trial t1: .*{lacks}"):
        ledger.end_bake("t1", actor=who, now=T0 + HOUR)
    assert ledger.end_bake("t1", actor="dan", now=T0 + HOUR).state is TrialState.PROMOTED
    assert ledger.verify() == []


def test_a_challenger_that_failed_the_offline_check_is_for_simulations_alone(ledger: Ledger, forger: Ledger) -> None:
    ledger.record_version(replace(version(13), offline_passed=False))
    ledger.stop_trial("t1", actor="sue", **WHY)
    let_in: dict[str, Any] = {"allow_offline_worse": True, "simulation": True}
    stated: dict[str, Any] = {"salt": "s", "allocation": 0.5, "actor": "sue", "now": T0}
    forger.open_trial("t2", {}, challengers=[3, 13], **let_in, **stated)
    assert forger.verify() == []
    [found] = ledger.verify()
    assert "(open_trial trial t2): with a challenger that failed the offline check" in found


# No false accusation


def test_nobody_is_asked_for_a_role_in_a_simulation_nor_before_there_were_people(ledger_url: str) -> None:
    """An upgraded ledger: what was decided before is nobody's fault, and counts from the first sign of people on."""
    old = Ledger(ledger_url)
    for number in (1, 2, 3):
        old.record_version(version(number))
    old.bootstrap(1, actor="anybody", reason="the first", now=T0)
    ledger = Ledger(ledger_url, enforce_roles=True)
    assert (old.roles_enforced, ledger.roles_enforced) == (False, True)
    assert ledger.verify() == []
    ledger.add_first_admin("ann", password=None, now=T0)
    ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="ann", now=T0)
    assert ledger.verify() == []
    old.stop_trial("t1", actor="anybody", **WHY)
    assert [each.rpartition("): ")[2] for each in ledger.verify()] == [
        "anybody needed role submitter or approver, and was not known"
    ]
    assert old.verify() == []


def test_a_kill_by_any_hand_is_no_offence_and_ends_the_trial_by_itself(ledger: Ledger) -> None:
    ledger.kill_trial("t1", actor="eve (unverified)", missed=True, **WHY)
    with pytest.raises(GateRefused, match="was killed"):
        approve(ledger, "ann")
    closed = ledger.audit()[-1]
    assert (closed.action, closed.actor, closed.payload["state"]) == ("close_trial", GATE, "ABORTED")
    assert ledger.verify() == []


def test_what_acts_by_itself_may_what_it_does(ledger: Ledger) -> None:
    """A deployment's trial takes a waiting one's place; the gate lets time pass and rolls back."""
    begin(ledger, 3, who=LEARNER, mode=TrialMode.SHADOW)
    ledger.set_stage("t2", TrialMode.COMPARE, actor=GATE, **WHY)
    look(ledger, "t2")
    approve(ledger, "ann", "t2")
    approve(ledger, "dan", "t2")
    ledger.begin_bake("t2", now=T0)
    ledger.rollback(actor=GATE, **WHY)
    broken(ledger)
    assert ledger.expire(T0 + 2 * HOUR) == ("break-glass 1",)
    begin(ledger, 4)
    look(ledger, "t3")
    assert ledger.expire(T0 + timedelta(hours=99)) == ("t3",)
    assert ledger.verify() == []


def test_an_export_says_whether_roles_were_enforced_where_it_was_written(
    ledger: Ledger, forger: Ledger, tmp_path: Path
) -> None:
    approve(forger, "eve")
    accused = ledger.verify()
    assert len(accused) == 1
    enforced = check_export(ledger.export(tmp_path / "enforced", now=T0).file)
    assert (enforced.problems, enforced.roles_checked) == (tuple(accused), True)
    free = check_export(forger.export(tmp_path / "free", now=T0).file)
    assert (free.problems, free.roles_checked) == ((), False)


# Random histories: what an honest ledger takes verifies, and what only a forger's takes is named.


KINDS = {
    "begin": 0.14,
    "look": 0.14,
    "approve": 0.18,
    "end": 0.05,
    "stage": 0.05,
    "bake": 0.1,
    "back": 0.08,
    "ask": 0.03,
    "answer": 0.07,
    "standing": 0.04,
    "person": 0.08,
    "token": 0.04,
}
"""What is tried, and how often."""
OVER = (UNCONFIRMED, "the champion has changed since it was asked")
"""Why the gate ends a request, whoever comes to confirm it."""


class Company:
    """People, strangers and machines who try everything; a step that is refused is then forged."""

    NAMES = ("root", "ann", "dan", "carol", "sue", "fay", "gus", "eve", GATE, LEARNER)

    def __init__(self, url: str, seed: int) -> None:
        self.ledger, self.forger = staffed(url), Ledger(url)
        self.ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
        self.rng, self.now = np.random.default_rng(seed), T0
        self.accused = 0
        self.taken: set[str] = set()
        self.forged: set[str] = set()

    def run(self, steps: int, *, forges: bool) -> None:
        for _ in range(steps):
            self.now += timedelta(minutes=int(self.rng.integers(1, 60)))
            kind = str(self.rng.choice([*KINDS], p=[*KINDS.values()]))
            act = getattr(self, kind)(str(self.rng.choice(self.NAMES)))
            if self.honest(act):
                self.taken.add(kind)
            elif forges and self.rng.random() < 0.4:
                self.forge(kind, act)

    def honest(self, act: Act) -> bool:
        before = len(self.ledger.audit())
        with suppress(GateRefused, UsageError):
            act(self.ledger)
        if len(self.ledger.audit()) == before:
            return False
        found = self.ledger.verify()
        assert len(found) == self.accused, found[self.accused :]
        return True

    def forge(self, kind: str, act: Act) -> None:
        before = len(self.ledger.audit())
        with suppress(GateRefused, UsageError):
            act(self.forger)
        if len(self.ledger.audit()) == before:
            return
        assert self.forger.verify() == []
        found = self.ledger.verify()
        written = [each for each in self.ledger.audit()[before:] if each.payload.get("reason") not in OVER]
        if written:
            assert len(found) > self.accused, (kind, written)
            self.forged.add(kind)
        self.accused = len(found)

    def why(self, who: str) -> dict[str, Any]:
        return {"actor": who, "reason": "so it seems", "now": self.now}

    @property
    def newest(self) -> str:
        return f"t{max(len(self.ledger.trials()), 1)}"

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def begin(self, who: str) -> Act:
        who = self.pick(who, "sue", LEARNER)
        trial, version = f"t{len(self.ledger.trials()) + 1}", int(self.rng.integers(2, 13))
        config = self.pick({}, {"bake_hours": 1}, TWO)
        stated: dict[str, Any] = {
            "challengers": [version],
            "salt": "s",
            "allocation": 0.5,
            "actor": who,
            "now": self.now,
        }
        mode = self.pick(TrialMode.SHADOW, TrialMode.COMPARE, TrialMode.COMPARE, TrialMode.COMPARE)
        return lambda ledger: ledger.open_trial(trial, config, mode=mode, **stated)

    def look(self, _: str) -> Act:
        trial, number = self.newest, len(self.ledger.audit())
        decisions = ("PROMOTE", "PROMOTE", "PROMOTE", "PROMOTE", "CONTINUE", "REJECT")
        told: dict[str, Any] = {"decision": self.pick(*decisions), "look": number}
        return lambda ledger: ledger.record_evidence(trial, told, now=self.now)

    def approve(self, who: str) -> Act:
        who = self.pick(who, "ann", "dan")
        return partial(Ledger.approve, trial_id=self.newest, **self.why(who))

    def end(self, who: str) -> Act:
        if self.rng.random() < 0.3:
            return partial(Ledger.kill_trial, trial_id=self.newest, missed=True, **self.why(who))
        return partial(self.pick(Ledger.reject, Ledger.stop_trial), trial_id=self.newest, **self.why(who))

    def stage(self, who: str) -> Act:
        mode = self.pick(TrialMode.SHADOW, TrialMode.COMPARE)
        return partial(Ledger.set_stage, trial_id=self.newest, mode=mode, **self.why(who))

    def bake(self, who: str) -> Act:
        who, begun = self.pick(who, GATE), any(each.state is TrialState.BAKING for each in self.ledger.trials())
        step = Ledger.end_bake if begun else Ledger.begin_bake
        return partial(step, trial_id=self.newest, actor=who, now=self.now)

    def back(self, who: str) -> Act:
        if self.rng.random() < 0.5:
            return lambda ledger: ledger.expire(self.now)
        return partial(Ledger.rollback, **self.why(who))

    def ask(self, who: str) -> Act:
        return partial(Ledger.ask_break_glass, version=int(self.rng.integers(2, 13)), hours=1, **self.why(who))

    def answer(self, who: str) -> Act:
        step = self.pick(Ledger.confirm_break_glass, Ledger.confirm_break_glass, Ledger.end_break_glass)
        return partial(step, number=max(len(self.ledger.break_glasses()), 1), **self.why(who))

    def standing(self, who: str) -> Act:
        if self.rng.random() < 0.3:
            return partial(Ledger.withdraw_deltas, **self.why(who))
        stated: dict[str, Any] = {**LIMITS, "expires": self.now + timedelta(hours=1)}
        return partial(Ledger.allow_deltas, **stated, **self.why(who))

    def person(self, who: str) -> Act:
        whom, who = str(self.rng.choice(self.NAMES[:7])), self.pick(who, "root")
        roles = self.pick({Role.APPROVER}, {Role.SUBMITTER}, {Role.APPROVER, Role.SUBMITTER}, set(Role))
        stated: dict[str, Any] = {"actor": who, "now": self.now}
        change = partial(Ledger.set_roles, name=whom, roles=frozenset(roles), **stated)
        disable = partial(Ledger.disable_person, name=whom, reason="away", **stated)
        enable = partial(Ledger.enable_person, name=whom, reason="back", **stated)
        act: Act = self.pick(change, change, disable, enable)
        return act

    def token(self, who: str) -> Act:
        whom = str(self.rng.choice(self.NAMES[:7]))
        ids = [token.id for token in self.ledger.tokens(whom)]
        if ids and self.rng.random() < 0.4:
            return partial(Ledger.revoke_token, token_id=self.pick(*ids), actor=who, now=self.now)
        return partial(Ledger.issue_token, name=whom, label="", lifetime=None, actor=who, now=self.now)


def test_whatever_an_honest_ledger_takes_verifies(ledger_url: str) -> None:
    company = Company(ledger_url, 7)
    company.run(150, forges=False)
    assert company.ledger.verify() == []
    assert len(company.taken) >= 10, company.taken


def test_whatever_only_a_forgers_ledger_takes_is_named(ledger_url: str) -> None:
    company = Company(ledger_url, 7)
    company.run(150, forges=True)
    assert len(company.forged) >= 6, company.forged
