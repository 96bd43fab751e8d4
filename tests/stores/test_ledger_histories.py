"""Whatever is tried in whatever order: only a comparison's passing look and a foreign approval make a champion.

Every step is tried twice, and the second time must change nothing; after every step the audit must verify.
"""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gate.states import STAGES, TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import GATE, Champion, TrialRecord, VersionRecord
from stores.people import Role

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ARMS = ("challenger", "challenger-2")
PEOPLE = ("ann", "bob", "carol")
"""Each may submit and approve. Bob submits every trial, Carol the training of the odd versions."""
PROMOTED = (TrialState.PROMOTING, TrialState.BAKING, TrialState.PROMOTED)
FLAWS = ("aa", "canary", "out", "killed", "late", "submitter", "believed")
TWO = st.lists(st.integers(2, 9), min_size=2, max_size=2, unique=True)
TRIALS = st.sampled_from((0, 0, 0, 0, 1))
"""Which one is meant: the newest, or the one before it."""


class Histories(RuleBasedStateMachine):
    @initialize(arm=st.sampled_from(ARMS), flaw=st.sampled_from((None, *FLAWS)), versions=TWO)
    def made(self, arm: str, flaw: str | None, versions: list[int]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ledger")
        self.ledger = Ledger(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}", enforce_roles=True)
        self.now = T0
        self.ledger.add_first_admin("root", password=None, now=T0)
        for name in PEOPLE:
            roles = frozenset({Role.SUBMITTER, Role.APPROVER})
            self.ledger.add_person(name, roles=roles, password=None, actor="root", now=T0)
        for number in range(1, 10):
            submitter = "carol" if number % 2 else ""
            facts = (number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "", "")
            self.ledger.record_version(VersionRecord(*facts, submitter))
        self.ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
        self.known: dict[str, TrialRecord] = {}
        self.champion = self.ledger.champion()
        self.refused: set[str] = set()
        self.looks = 0
        self.nearly_all_the_way(arm, flaw, versions)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # What is tried

    @rule(
        versions=st.lists(st.integers(1, 9), min_size=1, max_size=2, unique=True),
        mode=st.sampled_from((*STAGES, TrialMode.COMPARE)),
        is_aa=st.sampled_from((False, False, True)),
        bake_hours=st.sampled_from((0, 24)),
    )
    def begin(self, versions: list[int], mode: TrialMode, is_aa: bool, bake_hours: int) -> None:
        assert self.champion is not None
        trial = f"t{len(self.known) + 1}"
        stated = {
            "challengers": [self.champion.version] if is_aa else versions,
            "is_aa": is_aa,
            "mode": mode,
            "share": 0.01 if mode in (TrialMode.CANARY, TrialMode.INTERLEAVE) else None,
        }
        given = {"salt": "s", "allocation": 0.5, "actor": "bob", "now": self.now}
        config = {"bake_hours": bake_hours}
        self.twice(trial, lambda: self.ledger.open_trial(trial, config, **stated, **given))

    @rule(back=TRIALS, mode=st.sampled_from((*STAGES, TrialMode.COMPARE)))
    def go_on(self, back: int, mode: TrialMode) -> None:
        trial, share = self.named(back), 0.05 if mode in (TrialMode.CANARY, TrialMode.INTERLEAVE) else None
        told = {"actor": "ann", "reason": "so far so good", "now": self.now}
        self.twice(trial, lambda: self.ledger.set_stage(trial, mode, allocation=share, **told))

    @rule(
        back=TRIALS,
        decision=st.sampled_from(("PROMOTE", "PROMOTE", "CONTINUE", "HOLD", "REJECT", "INCONCLUSIVE")),
        arm=st.sampled_from(ARMS),
        out=st.sampled_from(((), (), ("challenger",), ("challenger-2",))),
        stage=st.sampled_from(("compare", "compare", "canary")),
        epoch=st.sampled_from((None, None, 1)),
    )
    def look(
        self, back: int, decision: str, arm: str, out: tuple[str, ...], stage: str = "compare", epoch: int | None = None
    ) -> None:
        trial, self.looks = self.named(back), self.looks + 1
        evidence: dict[str, Any] = {"decision": decision, "look": self.looks, "challenger": arm, "out": list(out)}
        evidence |= {"stage": stage} | ({} if epoch is None else {"champion_epoch": epoch})
        self.twice(trial, lambda: self.ledger.record_evidence(trial, evidence, now=self.now))

    @rule(back=TRIALS, actor=st.sampled_from((*PEOPLE, "ann")))
    def approve(self, back: int, actor: str) -> None:
        trial = self.named(back)
        self.twice(trial, lambda: self.ledger.approve(trial, actor=actor, reason="clicks rose", now=self.now))

    @rule(arm=st.sampled_from(ARMS), flaw=st.sampled_from((None, None, *FLAWS)), versions=TWO)
    def nearly_all_the_way(self, arm: str, flaw: str | None, versions: list[int]) -> None:
        """To a promotion, or all but one step of it: what single steps would find rarely."""
        if any(trial.is_open for trial in self.known.values()):
            self.end(0, Ledger.stop_trial)
        mode = TrialMode.CANARY if flaw == "canary" else TrialMode.COMPARE
        self.begin(versions, mode, is_aa=flaw == "aa", bake_hours=0 if flaw == "believed" else 24)
        if flaw == "out":
            self.look(0, "CONTINUE", arm, (arm,))
        self.look(0, "PROMOTE", "challenger" if flaw == "aa" else arm, ())
        if flaw == "killed":
            self.end(0, Ledger.kill_trial)
        if flaw == "late":
            self.wait(25)
        self.approve(0, "carol" if flaw == "submitter" else "ann")
        self.watch(0, Ledger.begin_bake)

    @rule(back=TRIALS, step=st.sampled_from((Ledger.reject, Ledger.stop_trial, Ledger.kill_trial)))
    def end(self, back: int, step: Callable[..., Any]) -> None:
        trial = self.named(back)
        self.twice(trial, lambda: step(self.ledger, trial, actor="ann", reason="enough", now=self.now))

    @rule(back=TRIALS, step=st.sampled_from((Ledger.begin_bake, Ledger.end_bake)))
    def watch(self, back: int, step: Callable[..., Any]) -> None:
        trial = self.named(back)
        self.twice(trial, lambda: step(self.ledger, trial, now=self.now))

    @rule(actor=st.sampled_from((GATE, "ann")))
    @precondition(lambda self: self.champion.epoch > 1)
    def roll_back(self, actor: str) -> None:
        assert self.champion is not None
        told = {"actor": actor, "reason": "errors rose", "now": self.now, "expected_epoch": self.champion.epoch}
        self.twice(None, lambda: self.ledger.rollback(**told))

    @rule(hours=st.sampled_from((1, 24, 73)))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        self.twice(None, lambda: self.ledger.expire(self.now))

    # What must hold

    def named(self, back: int) -> str:
        return f"t{max(len(self.known) - back, 1)}"

    def twice(self, trial: str | None, step: Callable[[], Any]) -> None:
        """Try it, tell what it may have changed, and try it again."""
        answer = self.answer(step)
        entries = self.ledger.audit()
        self.compare(trial, answer)
        again = self.answer(step)
        assert self.ledger.audit() == entries, "a repetition changes nothing"
        if isinstance(answer, Champion) and trial is not None:
            assert again == answer, "the same approval is the same answer"

    def answer(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except (GateRefused, UsageError) as refusal:
            return refusal

    def compare(self, tried: str | None, answer: Any) -> None:
        """The trials after a step against those before it."""
        before, champion = self.known, self.ledger.champion()
        self.known = {trial.id: self.ledger.trial(trial.id) for trial in self.ledger.trials()}
        for name, trial in self.known.items():
            was = before[name].state if name in before else TrialState.OFFLINE_OK
            assert trial.state is was or was.may_become(trial.state)
            if trial.state in PROMOTED and was not in PROMOTED:
                assert name == tried
                self.check_promotion(before[name], answer)
            self.refused |= {arm.digest for arm in trial.challengers if arm.name in trial.out and not trial.is_aa}
        if champion != self.champion:
            assert champion is not None
            assert answer == champion
            if tried is None:
                assert champion.digest in {reign.digest for reign in self.ledger.history()[:-1]}, "a rollback"
            else:
                assert self.known[tried].state in PROMOTED
        self.champion = champion
        assert sum(trial.is_open or trial.is_watched for trial in self.known.values()) <= 1

    def check_promotion(self, trial: TrialRecord, champion: Champion) -> None:
        """`trial`: as it was when the approval came."""
        assert trial.state is TrialState.AWAIT_APPROVAL
        latest = trial.evidence[-1]
        assert (latest.decision, latest.evidence["stage"]) == ("PROMOTE", "compare")
        assert trial.mode is TrialMode.COMPARE, "neither at an earlier stage nor killed"
        assert not trial.is_aa
        arm = next(arm for arm in trial.challengers if arm.name == latest.evidence["challenger"])
        assert arm.name not in trial.out
        assert arm.digest not in self.refused
        assert (champion.version, champion.digest) == (arm.version, arm.digest)
        assert self.champion is not None
        assert trial.champion_epoch == self.champion.epoch == champion.epoch - 1
        promoted = self.ledger.audit()[-1]
        assert (promoted.action, promoted.payload["evidence"]) == ("promote", latest.sha256)
        submitters = {trial.submitter, self.ledger.version(arm.version).submitter}
        assert promoted.actor not in submitters

    @invariant()
    def the_audit_verifies(self) -> None:
        assert self.ledger.verify() == []

    @invariant()
    def serving_shows_what_the_record_says(self) -> None:
        state = self.ledger.serving_state()
        shown = next((trial for trial in self.known.values() if trial.is_open), None)
        watched = next((trial for trial in self.known.values() if trial.is_watched), None)
        assert (state.trial is None, state.bake is None) == (shown is None, watched is None)
        if state.trial is not None and shown is not None:
            assert (state.trial.challengers, state.trial.out) == (shown.challengers, shown.out)
            assert state.trial.mode is shown.mode
        if state.bake is not None:
            former = self.ledger.former()
            assert former is not None
            assert state.bake.digest == former.digest


@pytest.mark.parametrize("flaw", [None, *FLAWS])
def test_one_flaw_is_enough_to_stop_a_promotion(flaw: str | None) -> None:
    """Each of them for certain, and none of them for comparison; `believed` is one without a bake, and no flaw."""
    machine = Histories()
    machine.made("challenger-2", flaw, [2, 3])
    try:
        machine.the_audit_verifies()
        machine.serving_shows_what_the_record_says()
        assert machine.champion is not None
        assert machine.champion.version == (3 if flaw in (None, "believed") else 1)
    finally:
        machine.teardown()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    phases=(Phase.generate,),  # shrinking takes minutes, and a history is short as it is
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
