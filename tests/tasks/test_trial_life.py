"""A trial's whole way on a small shop whose users are assigned as serving assigns them: shadow, canary, comparison,
approval, bake; and each way out of it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from gate.states import TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from relations.schemas import SCHEMAS
from serving.choosing.assignment import assign
from serving.choosing.interleaving import team_draft
from stores.bundle import write_bundle
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings, load_settings
from tasks.baking import bake_file, believe_promotion, watch_markdown, watch_promotion, watched_trial
from tasks.deciding import approve_trial, rollback_champion
from tasks.trial_page.summary import summary_markdown
from tasks.trials import aa_outcome, look_at_trial, start_trial, worth_recording

T0 = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOML = """
[tracking]
uri = "http://127.0.0.1:9"  # refuses at once: MLflow is not the point
[trial]
stages = ["shadow", "canary", "compare"]
window_hours = 4
n_max = 1200
min_users = 60
minimum_days = 0
deadline_days = 6
bake_hours = 8
guardrails = ["dislikes"]
shadow = { hours = 2, requests = 200 }
canary = { shares = [0.05], hours = 2, users = 20 }
[trial.metrics.clicks]
outcome = "click"
[trial.metrics.dislikes]
outcome = "dislike"
better = "lower"
absolute = 0.05
"""
REST: dict[str, Any] = {
    **{"propensity": 1.0, "score": 1.0, "policy": "top-k", "surface": "default", "model_version": 1},
    **{"served_by": "onnx", "candidate_set_hash": "h", "explored": False, "is_bot": False, "bot_rules": None},
    **{"context": None, "source": "serving", "delivery_id": "d", "received_time": T0},
}


@dataclass
class Shop:
    """`rates`: digest → clicks an impression. `latency`: digest → milliseconds. `broken`: digests that never answer."""

    home: Home
    settings: Settings
    ledger: Ledger
    digests: list[str]
    now: datetime = T0
    rates: dict[str, float] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    users: int = 700
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def open(self, hours: int) -> None:
        """So many hours of visits, logged as serving logs them."""
        for _ in range(hours):
            exposures, events = self._hour()
            lake, name = Lake(self.home.lake), f"{self.now:%d-%H}"
            for table, rows in (("exposures", exposures), ("events", events)):
                lake.append(table, pa.Table.from_pylist(rows, schema=SCHEMAS[table]), transaction=f"{table}-{name}")
            self.now += HOUR

    def _hour(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        state = self.ledger.serving_state()
        assert state.champion is not None
        trial, exposures, events = state.trial, [], []
        for number in np.flatnonzero(self.rng.random(self.users) < 0.4):
            user = f"user-{number}"
            own = {"champion": state.champion.digest}
            reason, arm, trial_id, shadowed = "no trial", "champion", None, False
            if trial is not None:
                own |= {each.name: each.digest for each in trial.challengers}
                met = assign(user, trial)
                reason, arm, trial_id, shadowed = met.reason, met.variant, met.trial, met.reason == "shadow"
            asked = f"{user}@{self.now:%d-%H}"
            shown = self.now + timedelta(seconds=int(self.rng.integers(3_600)))
            common = {**REST, "user": user, "champion_epoch": state.champion.epoch, "shown_time": shown}
            if arm == "interleaved":
                assert met.rival is not None
                drafted = self._drafted(common, trial_id, asked=asked, teams=(own["champion"], own[met.rival]))
                exposures += drafted
                for row in drafted:
                    events += self._outcomes([row], rate=self.rates.get(row["digest"], 0.2))
                continue
            digest, failed = own[arm], own[arm] in self.broken
            answer = {
                "digest": state.champion.digest if failed else digest,
                "variant": arm,
                "trial": trial_id,
                "assignment_reason": "fallback" if failed and reason != "canary" else reason,
                "error": "not loaded" if failed else None,
            }
            rows = self._rows(common, answer, asked=asked, slow=self.latency.get(digest, 5.0))
            exposures += rows
            if shadowed and trial is not None:
                hidden = {"digest": trial.challenger_digest, "variant": "challenger", "trial": trial.id, "error": None}
                exposures += self._rows(
                    common, {**hidden, "assignment_reason": "shadow"}, asked=f"{asked}~shadow", slow=4.0
                )
            events += self._outcomes(rows, rate=self.rates.get(rows[0]["digest"], 0.2))
        return exposures, events

    def _rows(
        self, common: Mapping[str, Any], answer: Mapping[str, Any], *, asked: str, slow: float
    ) -> list[dict[str, Any]]:
        hidden = asked.endswith("~shadow")
        told = {**common, **answer, "request_id": asked, "is_shadow": hidden, "allocation": 0.5}
        told["propensity_kind"] = "unusable" if hidden else "exact"
        told["latency_ms"] = slow * float(self.rng.uniform(0.9, 1.1))
        return [{**told, "exposure_id": f"{asked}:{n}", "position": n, "item_id": f"item-{n}"} for n in (1, 2, 3)]

    def _drafted(
        self, common: Mapping[str, Any], trial: str | None, *, asked: str, teams: tuple[str, str]
    ) -> list[dict[str, Any]]:
        """As serving drafts and logs it: rankings that want the same first item, and no other in common."""
        rankings = [["item-0", *(f"item-{team}{n}" for n in range(4))] for team in ("a", "b")]
        rows = []
        for place, pick in enumerate(team_draft(*rankings, k=5, request_id=asked), start=1):
            what = {"item_id": rankings[pick.team][pick.candidate], "position": place, "policy": pick.policy}
            whose = {"digest": teams[pick.team], "variant": "interleaved", "trial": trial, "error": None}
            how = {"assignment_reason": "interleave", "allocation": 0.5, "is_shadow": False, "latency_ms": 5.0}
            ids = {"request_id": asked, "exposure_id": f"{asked}:{place}"}
            rows.append(
                {**common, **what, **whose, **how, **ids, "propensity": pick.propensity, "propensity_kind": "exact"}
            )
        return rows

    def _outcomes(self, rows: list[dict[str, Any]], *, rate: float) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            for behaviour, share in (("click", rate), ("dislike", 0.01)):
                if self.rng.random() < share:
                    told = {"event_id": f"{row['exposure_id']}-{behaviour}", "behaviour": behaviour}
                    when = {"event_time": row["shown_time"] + timedelta(minutes=1), "received_time": T0}
                    what = {name: row[name] for name in ("user", "item_id", "exposure_id", "source", "delivery_id")}
                    found.append({**told, **when, **what, "value": None})
        return found

    def look(self, trial: str, *, scheduled: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = look_at_trial.fn(
            self.home, self.settings, trial_id=trial, now=self.now, scheduled=scheduled
        )
        return found

    def start(self, **stated: Any) -> str:
        stated = {"actor": "pipeline", "challengers": (2,), **stated}
        name: str = start_trial.fn(self.home, self.settings, now=self.now, **stated)["trial_id"]
        return name

    def state(self, trial: str) -> TrialState:
        return self.ledger.trial(trial).state


@pytest.fixture
def shop(home: Home, tmp_path: Path) -> Shop:
    """Version 1 is champion, 2 and 3 are its children; two hours of visits lie behind."""
    (home.root / "ratchet.toml").write_text(TOML)
    settings = load_settings(home.root / "ratchet.toml", environment={})
    ledger = Ledger.of(home, settings)
    digests = []
    for number in (1, 2, 3):
        files = tmp_path / f"files-{number}"
        files.mkdir()
        (files / "model.onnx").write_bytes(bytes([number]))
        parity = {"max_abs_diff": 1e-7, "top10_agreement": 1.0}
        ready = write_bundle(files, describe={}, releases=home.releases, attestation={"parity": parity})
        digests.append(ready.digest)
        record = VersionRecord(number, ready.digest, "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        ledger.record_version(record)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    made = Shop(home, settings, ledger, digests)
    made.open(2)
    return made


@contextmanager
def server(shop: Shop, *, shadow_failed: int = 0, champion: str | None = None) -> Iterator[None]:
    """Answers /readyz as serving does. `champion`: a digest that it stays with; None: the ledger's."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = shop.ledger.serving_state()
            digest = champion or (state.champion.digest if state.champion else "")
            fates = {"scored": 1, "dropped": 0, "failed": shadow_failed}
            trial = {"id": state.trial.id, "shadow": fates} if state.trial else None
            body = json.dumps({"champion": {"digest": digest}, "trial": trial}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (shop.home.run / "serving.json").write_text(json.dumps({"pid": os.getpid(), "port": listening.server_port}))
    try:
        yield
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_the_long_way_to_a_believed_champion(shop: Shop) -> None:
    shop.rates[shop.digests[1]] = 0.32
    with server(shop):
        trial = shop.start()
        assert shop.state(trial) is TrialState.SHADOW
        shop.open(1)
        early = shop.look(trial, scheduled=True)
        assert (early["verdict"], early["stage"], early["next"]) == ("CONTINUE", "shadow", None)
        assert early["reasons"][0].startswith("shadow: lasts until")
        assert "sums" not in early
        shop.open(2)
        assert shop.look(trial, scheduled=True)["next"] == {"mode": "canary", "share": 0.05}
        assert shop.state(trial) is TrialState.CANARY
        shop.open(3)
        on = shop.look(trial, scheduled=True)
        assert (on["verdict"], on["next"]["mode"], shop.state(trial)) == ("CONTINUE", "compare", TrialState.COMPARE)
        assert on["canary"]["exposed"]["challenger"] >= 20
        verdicts = []
        for _ in range(6):
            shop.open(5)
            verdicts.append(shop.look(trial)["verdict"])
            if verdicts[-1] != "CONTINUE":
                break
        assert verdicts[-1] == "PROMOTE", verdicts
        newest = shop.ledger.trial(trial).evidence[-1].evidence
        assert newest["served"].keys() == {"champion", "challenger"}
        assert newest["parity"] == {"max_abs_diff": 1e-7, "top10_agreement": 1.0}
        assert newest["aa"] is None
        compared_since = shop.ledger.trial(trial).stages[-1].since
        assert datetime.fromisoformat(newest["sums"]["since"]) == compared_since
        users = sum(newest["exposed"])
        assert 0.8 * 700 < users < 0.95 * 700  # 10 % were in the canary, and stay out

        decided = approve_trial(
            shop.home, shop.settings, trial, actor="ann", reason="clicks rose", now=shop.now, wait_seconds=5
        )
        assert decided.trial is not None
        assert (decided.trial.state, decided.as_json()["state"]) == (TrialState.BAKING, "BAKING")
        found = watched_trial(shop.ledger)
        assert found is not None
        assert found.id == trial
        with pytest.raises(GateRefused, match="bak"):
            shop.start(challengers=(3,))
        shop.open(4)
        going = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
        assert (going.state, going.decided) == (TrialState.BAKING, None)
        shop.open(6)
        passed = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
        assert (passed.state, "without an alarm" in passed.reasons[0]) == (TrialState.PROMOTED, True), passed.reasons
        assert json.loads(bake_file(shop.home, trial).read_text())["outcome"] == "PASSED"
    with pytest.raises(GateRefused, match="only a promotion"):
        watch_promotion(shop.home, shop.settings, trial, now=shop.now)
    assert shop.ledger.verify() == []


@pytest.mark.parametrize("harm", ["failures", "clicks"])
def test_a_challenger_that_harms_is_out_before_many_met_it(shop: Shop, harm: str) -> None:
    with server(shop):
        trial = shop.start(mode=TrialMode.CANARY, share=0.05)
        if harm == "failures":
            shop.broken.add(shop.digests[1])
        else:
            shop.rates |= {shop.digests[0]: 0.6, shop.digests[1]: 0.02}
        shop.users = 1_400
        for _ in range(5):
            shop.open(2)
            found = shop.look(trial, scheduled=True)
            if found["verdict"] != "CONTINUE" or found["next"]:
                break
    words = {"failures": "answers failed", "clicks": "proven harm in the canary"}[harm]
    assert (found["verdict"], words in found["reasons"][0]) == ("REJECT", True), found["reasons"]
    assert shop.state(trial) is TrialState.REJECTED


def test_a_shadow_without_a_server_to_ask_is_held_and_so_is_what_was_not_planned(shop: Shop) -> None:
    trial = shop.start()
    held = shop.look(trial)
    assert held["reasons"] == ["no exposures have been ingested since the shadow stage began"]
    shop.open(3)
    held = shop.look(trial)
    assert (held["verdict"], "no server here tells" in held["reasons"][0]) == ("HOLD", True)
    shop.ledger.set_stage(trial, TrialMode.INTERLEAVE, allocation=0.2, actor="ann", reason="why not", now=shop.now)
    moved = shop.look(trial)
    assert (moved["verdict"], moved["stage"]) == ("HOLD", "interleave")
    assert "a person moved it to interleave" in moved["reasons"][0]


def test_a_shadow_that_fails_is_rejected(shop: Shop) -> None:
    trial = shop.start()
    shop.open(3)
    with server(shop, shadow_failed=400):
        assert shop.look(trial)["verdict"] == "REJECT"


@pytest.mark.parametrize(("rate", "ends"), [(0.4, TrialState.COMPARE), (0.05, TrialState.REJECTED)])
def test_drafted_lists_prefer_or_prune_and_never_promote(shop: Shop, rate: float, ends: TrialState) -> None:
    shop.settings = shop.settings.model_copy(
        update={"trial": shop.settings.trial.model_copy(update={"stages": ("interleave", "compare")})}
    )
    trial = shop.start()
    assert shop.state(trial) is TrialState.INTERLEAVE
    shop.rates[shop.digests[1]] = rate
    for _ in range(8):
        shop.open(3)
        found = shop.look(trial)
        assert (found["stage"], found["verdict"] == "PROMOTE") == ("interleave", False)
        if shop.state(trial) is not TrialState.INTERLEAVE:
            break
    credit = found["credit"]["challenger"]
    assert shop.state(trial) is ends
    assert credit["preference"] == {TrialState.COMPARE: "PREFERRED", TrialState.REJECTED: "PRUNE"}[ends]
    assert (credit["wins"] > credit["losses"]) is (ends is TrialState.COMPARE)
    assert "# trial-1" in summary_markdown(found)
    assert Path(found["report"]).stat().st_size > 1_000
    if ends is TrialState.COMPARE:
        shop.open(6)
        # Whoever met drafted lists is in both arms alike: another layer of the hash deals the comparison.
        compared = shop.look(trial)
        assert (compared["stage"], compared["srm_p"] > 0.001) == ("compare", True)


def test_a_bake_without_data_never_passes_and_an_alarm_brings_the_former_champion_back(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.rates[shop.digests[1]] = 0.32
    trial = shop.start(mode=TrialMode.COMPARE)
    for _ in range(6):
        shop.open(5)
        if shop.look(trial)["verdict"] == "PROMOTE":
            break
    approve_trial(shop.home, shop.settings, trial, actor="ann", reason="clicks rose", now=shop.now)
    assert shop.state(trial) is TrialState.PROMOTING
    silent = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
    assert (silent.state, "no running server could be asked" in silent.reasons[0]) == (TrialState.PROMOTING, True)
    with server(shop, champion=shop.digests[0]):
        stale = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
        assert (stale.state, "reports" in stale.reasons[0]) == (TrialState.PROMOTING, True)
    with server(shop):
        assert watch_promotion(shop.home, shop.settings, trial, now=shop.now).state is TrialState.BAKING
        shop.now += timedelta(hours=20)
        idle = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
        assert idle.state is TrialState.BAKING
        assert any("no exposures have been ingested" in reason for reason in idle.reasons)
        assert "have matured" in "; ".join(idle.reasons)
        shop.now -= timedelta(hours=20)
        shop.rates[shop.digests[1]] = 0.02
        shop.open(9)
        alarm = watch_promotion(shop.home, shop.settings, trial, now=shop.now)
    assert alarm.state is shop.state(trial) is TrialState.ROLLED_BACK
    assert "proven to be more than 20% below it" in alarm.reasons[0]
    assert watch_markdown(alarm).startswith("# ALARM: rolled back")
    champion = shop.ledger.champion()
    assert champion is not None
    assert (champion.version, champion.epoch) == (1, 3)
    assert f"ratchet.bake.rolled_back trial={trial} from_version=2 to_version=1" in caplog.text
    assert shop.ledger.trial(trial).decided_by == "gate"
    assert shop.ledger.verify() == []


def test_a_person_can_believe_a_promotion_that_too_few_users_meet(shop: Shop) -> None:
    shop.rates[shop.digests[1]] = 0.4
    trial = shop.start(mode=TrialMode.COMPARE)
    shop.open(12)
    assert shop.look(trial)["verdict"] == "PROMOTE"
    approve_trial(shop.home, shop.settings, trial, actor="ann", reason="clicks rose", now=shop.now)
    said: dict[str, Any] = {"actor": "ann", "reason": "nobody comes at night"}
    with server(shop, champion=shop.digests[0]), pytest.raises(GateRefused, match="a server that can be asked"):
        believe_promotion(shop.home, shop.settings, trial, now=shop.now, **said)
    begun = believe_promotion(shop.home, shop.settings, trial, now=shop.now, **said)
    assert (begun.state, begun.reasons[0]) == (TrialState.BAKING, "ann: nobody comes at night")
    with pytest.raises(GateRefused, match="bakes until"):
        believe_promotion(shop.home, shop.settings, trial, now=shop.now, **said)
    with pytest.raises(UsageError, match="Give a --reason"):
        believe_promotion(shop.home, shop.settings, trial, now=shop.now, actor="ann", reason="")
    done = believe_promotion(shop.home, shop.settings, trial, now=shop.now + timedelta(hours=9), **said)
    assert done.state is shop.state(trial) is TrialState.PROMOTED
    told = [entry.action for entry in shop.ledger.audit() if entry.action.startswith("believe_")]
    assert told == ["believe_promoting", "believe_baking"]
    assert shop.ledger.verify() == []


def test_servers_that_never_serve_it_are_an_alarm_too(shop: Shop) -> None:
    shop.rates[shop.digests[1]] = 0.4
    trial = shop.start(mode=TrialMode.COMPARE)
    shop.open(12)
    assert shop.look(trial)["verdict"] == "PROMOTE"
    approve_trial(shop.home, shop.settings, trial, actor="ann", reason="clicks rose", now=shop.now)
    with server(shop, champion=shop.digests[0]):
        late = watch_promotion(shop.home, shop.settings, trial, now=shop.now + timedelta(hours=8))
    assert (late.state, "not served within 8 hours" in late.reasons[0]) == (TrialState.ROLLED_BACK, True)


def test_an_a_a_trial_never_promotes_and_is_shown_in_others_evidence(shop: Shop) -> None:
    trial = shop.start(challengers=(), is_aa=True, mode=TrialMode.COMPARE)
    shop.open(6)
    found = shop.look(trial)
    assert found["verdict"] in ("CONTINUE", "HOLD", "INCONCLUSIVE")
    assert found["challenger_digest"] == found["champion_digest"]
    shop.ledger.stop_trial(trial, actor="ann", reason="enough", now=shop.now)
    primary = shop.ledger.trial(trial).config["primary"]
    assert aa_outcome(shop.ledger.trials(), primary) == {
        "trial": trial,
        "state": "ABORTED",
        "verdict": found["verdict"],
    }
    assert aa_outcome(shop.ledger.trials(), {**primary, "outcome": "cart"}) is None
    other = shop.start(mode=TrialMode.COMPARE)
    shop.open(6)
    assert shop.look(other)["aa"]["trial"] == trial
    with pytest.raises(UsageError, match="leave --challenger out"):
        shop.start(is_aa=True)


def test_two_challengers_meet_one_champion(shop: Shop) -> None:
    trial = shop.start(challengers=(2, 3), mode=TrialMode.COMPARE)
    shop.rates |= {shop.digests[0]: 0.4, shop.digests[1]: 0.03, shop.digests[2]: 0.4}
    shop.open(10)
    found = shop.look(trial)
    assert (found["verdict"], found["out"], found["challenger"]) == ("CONTINUE", ["challenger"], "challenger-2")
    assert shop.ledger.trial(trial).out == ("challenger",)
    shop.open(3)
    again = shop.look(trial)
    assert again["out"] == ["challenger"]
    assert again["challenger_digest"] == shop.digests[2]


def test_scheduled_looks_are_recorded_where_they_say_something_new(shop: Shop) -> None:
    trial = shop.start(mode=TrialMode.COMPARE)
    shop.open(5)
    first = shop.look(trial, scheduled=True)
    assert (first["recorded"], shop.ledger.trial(trial).looks) == (True, 1)
    again = shop.look(trial, scheduled=True)
    assert (again["recorded"], shop.ledger.trial(trial).looks) == (False, 1)
    assert again["evidence_sha256"] == shop.ledger.trial(trial).evidence[-1].sha256
    assert "# trial-1, look 2: " in summary_markdown(again)
    assert shop.look(trial)["recorded"]  # a person asked
    shop.open(2)
    assert shop.look(trial, scheduled=True)["recorded"]


def test_forgetting_whose_rows_are_the_newest_stops_no_trial(shop: Shop) -> None:
    trial = shop.start(mode=TrialMode.COMPARE)
    shop.open(5)
    first = shop.look(trial)
    newest = Lake(shop.home.lake).watermark("exposures")
    assert newest is not None
    for table, time in (("exposures", "shown_time"), ("events", "event_time")):
        file = DeltaTable(str(shop.home.lake / table))
        file.delete(f"{time} > '{(newest - timedelta(minutes=10)).isoformat()}'")
    again = shop.look(trial)
    assert again["sums"]["watermark"] == first["sums"]["watermark"]
    assert sum(again["matured"]) <= sum(first["matured"])


def test_what_is_new() -> None:
    def told(verdict: str = "CONTINUE", *, n: int = 1_000, **more: Any) -> dict[str, Any]:
        rows = [{"n": n / 2}, {"n": n / 2}]
        sums = {"metrics": {"clicks": rows}, "problems": more.pop("problems", [])}
        return {"stage": "compare", "verdict": verdict, "out": [], "challenger": "challenger", "sums": sums, **more}

    def is_new(found: dict[str, Any], *, before: dict[str, Any] | None = None, hours: float = 0.25) -> bool:
        return worth_recording(before or told(), found, n_max=10_000, age=timedelta(hours=hours))

    assert not is_new(told())
    assert not is_new(told(n=1_049))
    assert is_new(told(n=1_050))  # .5 % of n_max
    assert is_new(told(), hours=24)
    assert is_new(told(n=1_001, tested=True)), "what spends α is recorded, whoever is ahead"
    assert not is_new(told(n=1_001, tested=True, final=True), before=told(tested=True, final=True))
    assert is_new(told("REJECT", n=1_001))
    assert is_new(told(out=["challenger-2"]))
    assert not is_new(told("HOLD"))  # nobody matured since
    assert is_new(told("HOLD", problems=["3 files wait"]))
    assert is_new(told(n=1_001), before=told("HOLD", problems=["3 files wait"]))
    assert is_new({**told(), "stage": "compare"}, before={"stage": "canary", "verdict": "CONTINUE"})
    canary = {"stage": "canary", "verdict": "CONTINUE", "out": []}
    assert not is_new(canary, before=canary)
    assert is_new({**canary, "verdict": "HOLD"}, before=canary)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"share": 0.02}, "the shadow has none to choose"),
        ({"mode": TrialMode.CANARY, "share": 0.3}, "at most 0.05"),
        ({"challengers": (1,)}, "needs another bundle"),
        ({"challengers": (2, 2)}, "one bundle twice"),
        ({"challengers": (99,)}, "99"),
    ],
)
def test_trials_that_cannot_be_are_refused_before_anything_is_written(
    shop: Shop, stated: dict[str, Any], words: str
) -> None:
    with pytest.raises((UsageError, GateRefused), match=words):
        shop.start(**stated)
    assert shop.ledger.trials() == ()
    assert rollback_or_none(shop) is None


def rollback_or_none(shop: Shop) -> object:
    try:
        return rollback_champion(shop.home, shop.settings, actor="ann", reason="none", now=shop.now)
    except GateRefused:
        return None
