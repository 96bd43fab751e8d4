"""The evidence page: what it says is what the ledger holds, for every kind of trial, safely and in little space."""

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate.decision import decide
from gate.estimator import ArmSums
from gate.interleaving import judge_interleaving
from gate.looks import LookSums, MetricSums
from gate.metrics import Better, Metric, Slice, Value
from gate.states import TrialMode, TrialState
from gate.trial import Challenger, StagePlan, TrialConfig, digest
from stores.ledger_records import ChallengerRecord, EvidenceRecord, StageRecord, TrialRecord
from tasks.trial_page.page import trial_page, write_trial_page
from tasks.trial_page.summary import summary_markdown

START = datetime(2026, 3, 2, tzinfo=UTC)
CHAMPION_DIGEST, PARITY = "c" * 64, {"max_abs_diff": 3.1e-7, "top10_agreement": 0.9996, "provider": "CPU"}
CLICKS = Metric("clicks", "click")
RAILS = (
    Metric("purchases", "purchase", margin=0.2),
    Metric("revenue", "purchase", value=Value.SUM, margin=0.25),
    Metric("latency", "latency", margin=0.1, better=Better.LOWER),
    Metric("failures", "failure", margin=0.1, absolute=0.002, better=Better.LOWER),
)
SLICES = (
    Slice("new users", "new", "true", margin=0.2, protected=True),
    Slice("known users", "new", "false", margin=0.2),
    Slice("app", "surface", "app", margin=0.15),
)
STAGES = (
    StagePlan(TrialMode.SHADOW, hours=6, least=500),
    StagePlan(TrialMode.CANARY, share=0.05, hours=6, least=50),
    StagePlan(TrialMode.COMPARE),
)


def config(**changed: Any) -> TrialConfig:
    stated: dict[str, Any] = {
        "trial_id": "trial-7", "challenger_version": 42, "challenger_digest": "d" * 64, "champion_version": 41,
        "champion_digest": CHAMPION_DIGEST, "champion_epoch": 12, "salt": "s", "start": START,
        "deadline": START + timedelta(days=14), "n_max": 5_000, "primary": CLICKS, "guardrails": RAILS,
        "slices": SLICES, "bot_rules": ("rate>30/min",),
    }  # fmt: skip
    return TrialConfig(**{**stated, **changed})


@lru_cache
def day_sums(seed: int, users: int, lift: float, rate: float, spread: float) -> ArmSums:
    """One arm and day: N impressions, outcomes at `rate` · (1 + lift), a pre-period of the same taste."""
    random = np.random.default_rng(seed)
    taste_U = rate * random.gamma(4.0, 0.25, users)
    shown_U, before_U = 1 + random.poisson(8, users), random.poisson(6, users)
    hits_U = random.poisson(taste_U * (1 + lift) * shown_U * spread) / spread
    return ArmSums.from_users(hits_U, shown_U.astype(float), random.poisson(taste_U * before_U).astype(float), before_U)


def look_sums(promise: TrialConfig, day: int, *, lifts: Mapping[str, float], users: int, **changed: Any) -> LookSums:
    """All days up to `day`; `lifts` by arm of clicks, other metrics alike but for noise."""
    rates = {"clicks": 0.11, "purchases": 0.02, "revenue": 0.4, "latency": 21.0, "failures": 0.001}
    counts = {arm: round(users * share * 2) for arm, share in zip(promise.arms, promise.shares, strict=True)}
    metrics = {}
    for place, metric in enumerate((promise.primary, *promise.guardrails)):
        rows = []
        for number in range(day):
            for arm, count in counts.items():
                seed = 1_000 * number + 10 * place + promise.arms.index(arm)
                lift = lifts.get(arm, 0.0) if metric is promise.primary else 0.0
                rate = rates.get(metric.name, 0.1)
                sums = day_sums(seed, count, lift, rate, 1.0 if metric.value is Value.COUNT else 0.5)
                rows.append({"arm": arm, "day": date(2026, 3, 2) + timedelta(days=number), **sums.as_json()})
        metrics[metric.name] = MetricSums.from_rows(rows)
    slices = {}
    for place, part in enumerate(promise.slices):
        part_of = 0.7 if part.equals == "false" else 0.3  # of the users
        slices[part.name] = {
            arm: day_sums(77 + place, round(day * count * part_of), lifts.get(arm, 0.0), 0.1, 1.0)
            for arm, count in counts.items()
        }
    stated: dict[str, Any] = {
        "watermark": START + timedelta(days=day + 1), "since": START, "metrics": metrics, "slices": slices,
        "exposed": {arm: (day + 1) * count for arm, count in counts.items()}, "crossed": 1,
        "bots": dict.fromkeys(counts, 3 * day + 9), "late": dict.fromkeys(counts, 40 + day),
    }  # fmt: skip
    return LookSums(**{**stated, **changed})


def extras(promise: TrialConfig) -> dict[str, Any]:
    """What the tasks add to a judgement."""
    return {
        "stage": "compare",
        "data_versions": {"events": 31, "exposures": 90},
        "champion_digest": promise.champion_digest,
        "challenger_digest": promise.challenger_digest,
        "champion_epoch": promise.champion_epoch,
        "served": {
            arm: {"requests": 8_123, "failures": 4, "p50_ms": 6.25, "p99_ms": 23.5, "digests": []}
            for arm in promise.arms
        },
        "parity": PARITY,
        "alpha_ledger": {"trials": 23, "expected_false": 0.575, "a_year": 1.3, "promotions": 6},
        "aa": {"trial": "trial-1", "state": "INCONCLUSIVE", "verdict": "INCONCLUSIVE"},
    }


def compared(promise: TrialConfig, looks: Sequence[LookSums]) -> list[dict[str, Any]]:
    """The evidence of each look, as `look_at_trial` records it."""
    found = []
    for number in range(1, len(looks) + 1):
        judgement = decide(promise, looks[:number]).as_json()
        found.append({**judgement, "decision": judgement["verdict"], **extras(promise)})
    return found


def record(promise: TrialConfig, evidence: Sequence[Mapping[str, Any]], **changed: Any) -> TrialRecord:
    after = {
        "PROMOTE": TrialState.AWAIT_APPROVAL,
        "REJECT": TrialState.REJECTED,
        "INCONCLUSIVE": TrialState.INCONCLUSIVE,
    }
    newest = str(evidence[-1].get("verdict")) if evidence else ""
    stated: dict[str, Any] = {
        "id": promise.trial_id, "surface": promise.surface, "state": after.get(newest, TrialState.COMPARE),
        "challenger": promise.challenger_version, "challenger_digest": promise.challenger_digest,
        "champion": promise.champion_version, "champion_digest": promise.champion_digest,
        "champion_epoch": promise.champion_epoch, "config": promise.as_json(), "config_hash": promise.digest(),
        "salt": promise.salt, "allocation": promise.allocation, "submitter": "bob", "opened": START, "changed": START,
        "awaiting_since": None, "offline_worse": False, "decided_by": "", "reason": "", "promoted_epoch": None,
        "others": tuple(ChallengerRecord(each.name, each.version, each.digest) for each in promise.others),
        "looks": len(evidence),
        "evidence": tuple(
            EvidenceRecord(n, digest(each), str(each.get("decision", "")), START, each)
            for n, each in enumerate(evidence, start=1)
        ),
    }  # fmt: skip
    return TrialRecord(**{**stated, **changed})


def promoted() -> TrialRecord:
    promise = config()
    lifts = {"challenger": 0.12}
    return record(promise, compared(promise, [look_sums(promise, n, lifts=lifts, users=260) for n in range(1, 7)]))


def harmed() -> TrialRecord:
    promise = config()
    lifts = {"challenger": -0.25}
    return record(promise, compared(promise, [look_sums(promise, n, lifts=lifts, users=260) for n in range(1, 4)]))


def first_look() -> TrialRecord:
    promise = config()
    return record(promise, compared(promise, [look_sums(promise, 1, lifts={"challenger": 0.02}, users=260)]))


def held() -> TrialRecord:
    promise = config()
    looks = [look_sums(promise, n, lifts={"challenger": 0.05}, users=260) for n in (1, 2)]
    looks.append(dataclasses.replace(looks[-1], exposed={"champion": 1_500, "challenger": 900}, problems=()))
    return record(promise, compared(promise, looks))


def undecided() -> TrialRecord:
    promise = config(n_max=2_600)
    lifts = {"challenger": 0.015}
    return record(promise, compared(promise, [look_sums(promise, n, lifts=lifts, users=260) for n in range(1, 6)]))


def three() -> TrialRecord:
    others = (Challenger("challenger-2", 43, "e" * 64), Challenger("challenger-3", 44, "f" * 64))
    promise = config(others=others, n_max=6_000)
    lifts = {"challenger": 0.03, "challenger-2": 0.14, "challenger-3": -0.4}
    looks: list[LookSums] = []
    for number in range(1, 6):
        gone = decide(promise, looks).out if looks else ()
        looks.append(look_sums(promise, number, lifts=lifts, users=600, out=gone))
    return record(promise, compared(promise, looks))


def rehearsed() -> TrialRecord:
    promise = config(is_aa=True, challenger_version=41, challenger_digest=CHAMPION_DIGEST, n_max=2_600)
    return record(promise, compared(promise, [look_sums(promise, n, lifts={}, users=260) for n in range(1, 6)]))


def stage_look(promise: TrialConfig, stage: str, number: int, *reasons: str, **more: Any) -> dict[str, Any]:
    """A look before the comparison, with few keys."""
    return {
        "trial_id": promise.trial_id, "look": number, "stage": stage, "verdict": "CONTINUE", "decision": "CONTINUE",
        "reasons": list(reasons), "data_versions": {"exposures": 3},
        "served": {
            "champion": {"requests": 2_000, "failures": 1, "p50_ms": 6.0, "p99_ms": 20.0},
            "challenger": {"requests": 1_998, "failures": 3, "p50_ms": 6.5, "p99_ms": 22.0},
        }, **more,
    }  # fmt: skip


def staged(*looks: Mapping[str, Any], state: TrialState, modes: Sequence[TrialMode]) -> TrialRecord:
    plan = (STAGES[0], STAGES[1], StagePlan(TrialMode.INTERLEAVE, share=0.2, least=2_000), STAGES[2])
    promise = config(stages=plan)
    shares = {TrialMode.CANARY: 0.05, TrialMode.INTERLEAVE: 0.2, TrialMode.COMPARE: 0.5}
    stages = tuple(
        StageRecord("trial-7", n, mode, shares.get(mode, 0.0), START + timedelta(hours=7 * n), "gate", f"step {n}")
        for n, mode in enumerate(modes, start=1)
    )
    return record(promise, looks, state=state, stages=stages)


def interleaved() -> TrialRecord:
    credit = {"challenger": judge_interleaving(412, 355, alpha=0.01).as_json()}
    looks = (
        stage_look(config(), "shadow", 1, "shadow: 800 of 1,000 requests were scored"),
        stage_look(config(), "shadow", 2, "on to canary with 0.05 of users: 6.0 hours are over"),
        stage_look(config(), "canary", 3, "on to interleave with 0.2 of users"),
        stage_look(config(), "interleave", 4, "interleave: 767 of 2,000 users", credit=credit),
    )
    return staged(*looks, state=TrialState.INTERLEAVE, modes=list(TrialMode)[:3])


STORIES = {
    "promote": promoted, "reject": harmed, "first": first_look, "hold": held, "inconclusive": undecided, "three": three,
    "aa": rehearsed, "interleave": interleaved,
}  # fmt: skip


class Reader(HTMLParser):
    """Keeps what a person reads, and refuses what is not well formed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def words(self, *, inside: str = "body") -> str:
        return " ".join(text for path, text in self.texts if inside in path and "style" not in path)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def page_of(trial: TrialRecord, folder: Path, *, k: int = 5) -> str:
    write_trial_page(folder / "a b" / "trial.html", trial, k=k)
    assert [file.name for file in (folder / "a b").iterdir()] == ["trial.html"]
    return (folder / "a b" / "trial.html").read_text(encoding="utf-8")


def section(page: str, ident: str) -> str:
    found = re.search(rf'<section id="{ident}".*?</section>', page, re.DOTALL)
    assert found is not None, ident
    return found[0]


def table_rows(part: str) -> dict[str, list[str]]:
    """First cell → other cells, of every row of every table in `part`."""
    found = {}
    for line in re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", part, re.DOTALL):
        first, *others = [
            html.unescape(re.sub("<small>.*?</small>|<[^>]+>", "", cell)) for cell in re.split("</t[hd]>", line)
        ]
        found[first] = [cell for cell in others if cell]
    return found


@pytest.mark.parametrize("story", STORIES)
def test_a_page_asks_nobody_runs_nothing_and_is_well_formed(story: str, tmp_path: Path) -> None:
    trial = STORIES[story]()
    page = page_of(trial, tmp_path)
    reader = read(page)
    assert not re.search(r"(?i)https?:|//[a-z]|<script|javascript:|url\(|@import|\son[a-z]+=", page)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in reader.tags}
    idents = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(idents)) == len(idents)
    named = " ".join(str(attributes.get("aria-labelledby", "")) for _, attributes in reader.tags).split()
    anchors = [str(attributes["href"]).removeprefix("#") for tag, attributes in reader.tags if tag == "a"]
    assert {*named, *anchors} <= set(idents)
    assert len(anchors) >= 4
    pictures = [attributes for tag, attributes in reader.tags if tag == "svg" and attributes.get("role") == "img"]
    assert all("-title " in str(picture["aria-labelledby"]) for picture in pictures)
    headings = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(headings))
    scopes = [attributes.get("scope") for tag, attributes in reader.tags if tag == "th"]
    assert set(scopes) == {"row", "col"}
    assert all(
        attributes.get("tabindex") == "0" for tag, attributes in reader.tags if attributes.get("class") == "scroll"
    )


@pytest.mark.parametrize("story", STORIES)
def test_the_verdict_stands_first_with_what_decided_and_what_is_waited_for(story: str, tmp_path: Path) -> None:
    trial = STORIES[story]()
    words = read(page_of(trial, tmp_path)).words()
    newest = trial.evidence[-1].evidence
    parts = [str(newest["verdict"]), str(newest["reasons"][0]), "Waits for:", "ratchet trial status trial-7"]
    if newest["verdict"] == "PROMOTE":
        parts[-1:] = [
            "2 people other than bob",
            'ratchet approve trial-7 --as NAME --reason "…"',
            "ratchet reject trial-7",
        ]
    places = [words.index(part) for part in parts]
    assert places == sorted(places)
    assert all(str(sentence) in words for sentence in newest.get("outlook", ()))
    assert all(str(reason) in words for reason in newest["reasons"])


def test_figures_are_the_evidences_own(tmp_path: Path) -> None:
    """Each table against the evidence, with the arithmetic that leads from one to the other."""
    trial = promoted()
    page = page_of(trial, tmp_path)
    looks = [each.evidence for each in trial.evidence]
    newest = looks[-1]
    by_look = table_rows(section(page, "effect"))
    assert list(by_look) == [str(look["look"]) for look in reversed(looks)]
    for look in looks:
        low, high = look["lift_interval"]
        needed = look["boundary"] * look["standard_error"] / look["champion_rate"]
        assert by_look[str(look["look"])] == [
            f"{sum(look['matured']):,}", f"{look['information']:.1%}", f"{look['lift']:+.2%}",
            f"[{low:+.2%}, {high:+.2%}]", "[{:+.2%}, {:+.2%}]".format(*look["lift_sequence"]), f"{needed:+.2%}",
            f"{look['z']:.2f}", f"{look['boundary']:.2f}", look["verdict"],
        ]  # fmt: skip
        # On the page as in the gate: at or above the needed lift is at or above the boundary.
        assert (look["lift"] >= needed) == (look["z"] >= look["boundary"])
    rails = table_rows(section(page, "guardrails"))
    for rail in newest["guardrails"]:
        cells = rails[rail["name"]]
        assert cells[1:3] == [f"{rail['champion_rate']:.4g}", f"{rail['challenger_rate']:.4g}"]
        assert cells[-3:] == [f"{rail['z']:.2f}", f"{rail['boundary']:.2f}", f"{rail['harm_p']:.2g}"]
    failures = next(rail for rail in newest["guardrails"] if rail["name"] == "failures")
    # 10 % of the champion's rate and 0.002 more are allowed; slack is what is left of it, so 1 − slack/allowed is used
    allowed = 0.1 * failures["champion_rate"] + 0.002
    worse = failures["challenger_rate"] - failures["champion_rate"]
    assert rails["failures"][5] == f"{-worse / allowed:+.2f}" == f"{failures['slack'] / allowed - 1:+.2f}"
    assert rails["failures"][4] == "10.0% + 0.002"
    users = table_rows(section(page, "split"))
    assert users["champion v41"] == ["1,820", "50.0%", "50.0%", "1,560", "27", "46"]  # 7 days of 260; 6 matured
    assert users["challenger v42"] == users["champion v41"]
    origins = read(section(page, "origins")).words(inside="section")
    for said in (trial.config_hash, trial.evidence[-1].sha256, CHAMPION_DIGEST, "d" * 64, "version 31", "version 90"):
        assert said in origins
    assert "ratchet ledger verify" in origins


def test_days_are_the_sums_with_delta_method_intervals(tmp_path: Path) -> None:
    trial = promoted()
    rows = [row for row in trial.evidence[-1].evidence["sums"]["metrics"]["clicks"] if row["day"] == "2026-03-02"]
    part = section(page_of(trial, tmp_path), "days")
    lines = re.findall(r"<tr><th scope=\"row\">2026-03-02</th>(.*?)</tr>", part)
    assert len(lines) == 2 * 5  # arms × metrics
    for row, line in zip(rows, lines, strict=False):
        rate = row["s"] / row["i"]
        # Var(ψ) with ψ = (S − R·N)/N̄, from the users' second moments; the mean of S − R·N is 0
        variance = (
            (row["ss"] - 2 * rate * row["si"] + rate**2 * row["ii"]) / (row["n"] - 1) / (row["i"] / row["n"]) ** 2
        )
        half = 1.959964 * (variance / row["n"]) ** 0.5
        assert re.findall(r"<td(?: class=\"words\")?>(.*?)</td>", line)[1:] == [
            f"{row['n']:.0f}", f"{row['i']:,.0f}", f"{row['s']:.6g}", f"{rate:.4g}",
            f"{rate - half:.4g} to {rate + half:.4g}",
        ]  # fmt: skip


def test_a_metric_of_values_says_its_cap_and_how_much_one_user_has(tmp_path: Path) -> None:
    """In steps: 7.31 % would tell of a person."""
    revenue = Metric("revenue", "purchase", per="user", value=Value.SUM, cap=250.0)
    promise = config(primary=revenue, guardrails=(), slices=())
    looks = [look_sums(promise, 3, lifts={}, users=500, dominance={"champion": 0.0731, "challenger": 0.012})]
    evidence = compared(promise, looks)
    assert evidence[-1]["sums"]["dominance"] == {"champion": 0.0731, "challenger": 0.012}
    shown = html.unescape(page_of(record(promise, evidence), tmp_path))
    assert "Of an arm's whole revenue, one user has 5% or more." in shown
    assert "purchase value per user, at most 250 a user" in shown
    assert "7.3" not in shown.split("Of an arm's whole revenue")[1][:60]
    assert "one user has" not in page_of(promoted(), tmp_path)


def test_groups_of_few_users_show_no_figures(tmp_path: Path) -> None:
    """k = 300: 260 users a day and arm are too few, 390 of a slice are not."""
    trial = undecided()
    page = page_of(trial, tmp_path, k=300)
    days = section(page, "days")
    assert "Too few users a day to show." in days
    assert set(re.findall(r"<td>(.*?)</td>", days)) == {"&lt; 300", "–"}
    assert table_rows(section(page, "slices"))["app"][1] != "–"
    hidden = section(page_of(trial, tmp_path, k=400), "slices")
    # 390 users of 1,300: neither their rates nor their change
    assert table_rows(hidden)["app"][:4] == ["too few users to show", "–", "–", "–"]
    assert "&lt; 400 and &lt; 400 users" in hidden
    # 390 new and 910 known users are everybody, who are shown: of a single hidden group one could tell
    assert table_rows(hidden)["known users"][0] == "too few users to show"


def test_the_smallest_other_day_is_hidden_with_a_single_hidden_one(tmp_path: Path) -> None:
    """50 + 50 + 4 + 6 users: of the four alone one could tell what they did from the total less the others."""
    rows = [("2026-03-02", "champion", 50), ("2026-03-02", "challenger", 4), ("2026-03-03", "champion", 6),
            ("2026-03-03", "challenger", 50)]  # fmt: skip
    sums = [
        {"day": day, "arm": arm, **dict.fromkeys(ArmSums().as_json(), 1.0), "n": n, "i": 10 * n, "s": 2 * n}
        for day, arm, n in rows
    ]
    evidence = {**first_look().evidence[-1].evidence}
    evidence["sums"] = {**evidence["sums"], "metrics": {"clicks": sums}}
    part = section(page_of(record(config(), [evidence]), tmp_path, k=5), "days")
    shown = [
        re.findall(r"<td(?: class=\"words\")?>(.*?)</td>", line)[:5]
        for line in re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", part)
    ]
    assert shown == [
        ["champion v41", "50", "500", "100", "0.2"],
        ["challenger v42", "&lt; 5", "–", "–", "–"],
        ["champion v41", "–", "–", "–", "–"],
        ["challenger v42", "50", "500", "100", "0.2"],
    ]


HOSTILE = "</style></title><script>alert('ü')</script>\"'&\x00\u202e<img src=https:x onerror=y>"


def test_names_of_others_stay_text(tmp_path: Path) -> None:
    """Metrics, slices, reasons, people: whatever they are called, the page has the same elements."""
    plain, nasty = promoted(), promoted()
    promise = config(
        primary=dataclasses.replace(CLICKS, name=HOSTILE), slices=(dataclasses.replace(SLICES[0], name=HOSTILE),)
    )
    evidence = {
        **nasty.evidence[-1].evidence,
        "reasons": [HOSTILE],
        "outlook": [HOSTILE],
        "data_versions": {HOSTILE: HOSTILE},
    }
    evidence["slices"] = [{**evidence["slices"][0], "name": HOSTILE}]
    evidence["served"] = {HOSTILE: evidence["served"]["champion"]}
    evidence["sums"] = {**evidence["sums"], "metrics": {HOSTILE: evidence["sums"]["metrics"]["clicks"]}}
    stage = StageRecord("trial-7", 1, TrialMode.COMPARE, 0.5, START, HOSTILE, HOSTILE)
    trial = record(promise, [evidence], submitter=HOSTILE, stages=(stage,))
    reader = read(page_of(trial, tmp_path))
    assert {tag for tag, _ in reader.tags} <= {tag for tag, _ in read(page_of(plain, tmp_path)).tags}
    seen = "".join(text for path, text in reader.texts if "style" not in path)
    assert seen.count("<script>alert('ü')</script>") >= 8
    assert "\x00" not in seen
    assert "\u202e" not in seen
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)


def test_no_key_of_a_look_is_needed() -> None:
    """Every key of every kind of look may be missing or null: there is a page all the same, verdict first."""
    early, late = stage_look(config(), "canary", 1, "going on"), promoted().evidence[-1].evidence
    looks: list[tuple[Mapping[str, Any], TrialState]] = [({}, TrialState.CANARY), ({}, TrialState.COMPARE)]
    for whole, state in ((early, TrialState.CANARY), (late, TrialState.COMPARE)):
        for key in whole:
            looks += [
                ({name: value for name, value in whole.items() if name != key}, state),
                ({**whole, key: None}, state),
            ]
    assert len(looks) > 2 * (len(early) + 40)
    for look, state in looks:
        page = trial_page(record(config(stages=STAGES), [look], state=state), k=5)
        assert page.find(".//section[@aria-label='Verdict']") is not None
    assert trial_page(record(config(), []), k=5).find(".//h1") is not None


def test_hundreds_of_looks_fit_in_three_megabytes(tmp_path: Path) -> None:
    """200 looks, 28 days, 5 metrics, three challengers."""
    others = (Challenger("challenger-2", 43, "e" * 64), Challenger("challenger-3", 44, "f" * 64))
    promise = config(others=others, n_max=60_000)
    newest = compared(promise, [look_sums(promise, 28, lifts={"challenger": 0.02}, users=300)])[0]
    looks = []
    for number in range(1, 201):
        matured = [number * 100, number * 33]
        parts = {
            name: {**part, "matured": matured, "information": number / 400}
            for name, part in newest["comparisons"].items()
        }
        looks.append({**newest, "look": number, "matured": matured, "comparisons": parts})
    assert len(newest["sums"]["metrics"]) == 5
    assert len(newest["sums"]["metrics"]["clicks"]) == 28 * 4
    page = page_of(record(promise, looks), tmp_path)
    assert 200_000 < len(page.encode()) < 3_000_000
    read(page)


def test_several_challengers_stand_side_by_side(tmp_path: Path) -> None:
    trial = three()
    newest = trial.evidence[-1].evidence
    assert newest["out"] == ["challenger-3"]
    part = section(page_of(trial, tmp_path), "challengers")
    found = table_rows(part)
    assert found["challenger-3 v44"][0] == "out: rejected by an earlier look"
    second = newest["comparisons"]["challenger-2"]
    assert found["challenger-2 v43 ◆"][:3] == [
        second["verdict"],
        f"{sum(second['matured']):,}",
        f"{second['lift']:+.2%}",
    ]
    assert len(re.findall("<figure", part)) == 3
    assert "α = 0.00833" in part  # .025 / 3


def test_an_aa_trial_says_what_it_means(tmp_path: Path) -> None:
    words = read(page_of(rehearsed(), tmp_path)).words()
    assert "against itself (A/A)" in words
    assert "there is no difference to be found" in words
    assert "never promotes" in words
    assert "trial-1 (INCONCLUSIVE, INCONCLUSIVE)" in read(page_of(promoted(), tmp_path)).words()


def test_stages_stand_in_order_with_the_credit_of_interleaving(tmp_path: Path) -> None:
    trial = interleaved()
    part = section(page_of(trial, tmp_path), "stages")
    assert re.findall(r"<h3>(\w+): (\d) look", part) == [("Shadow", "2"), ("Canary", "1"), ("Interleave", "1")]
    credit = trial.evidence[-1].evidence["credit"]["challenger"]
    cells = re.findall(r"<td>(.*?)</td>", part[part.index("always-valid interval") :])
    assert cells[:3] == ["412", "355", f"{412 / (412 + 355):.1%}"]
    assert f"{credit['e_win']:.3g}" in cells
    assert "It decides at 100" in part  # 1/α = 1/.01


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (TrialState.PROMOTING, "serving, which has to be seen to serve"),
        (TrialState.BAKING, "nobody, unless an alarm"),
        (TrialState.STALE, "a new trial: the champion changed"),
        (TrialState.ABORTED, "nobody: it was stopped. By eve: enough"),
    ],
)
def test_who_waits_for_what_follows_the_ledgers_state(state: TrialState, said: str, tmp_path: Path) -> None:
    trial = dataclasses.replace(promoted(), state=state, decided_by="eve", reason="enough")
    assert said in read(page_of(trial, tmp_path)).words()
    killed = StageRecord("trial-7", 1, TrialMode.KILLED, 0.0, START, "eve", "on fire")
    trial = dataclasses.replace(promoted(), stages=(killed,))
    assert "somebody to end it: it was killed (on fire)" in read(page_of(trial, tmp_path)).words()


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of an sRGB colour."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_ink_stands_out_in_light_dark_and_on_paper() -> None:
    """Text at 4.5, as AA asks; marks and lines of arms are text's colours too."""
    style = (Path(__file__).parents[2] / "tasks" / "trial_page" / "parts.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--(\w+):(#\w{6})", theme)) for theme in re.findall(r":root\{(.*?)\}", style, re.DOTALL)]
    assert len(themes) == 3
    assert themes[0] == themes[2], "paper is light"
    inks = ("ink", "soft", "good", "bad", "wait", "plain", *(f"arm{place}" for place in range(6)))
    for theme in themes:
        for ground in ("page", "wash"):
            for ink in inks:
                dark, bright = sorted((luminance(theme[ink]), luminance(theme[ground])))
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_the_summary_for_prefect_is_a_table_that_nobodys_name_can_break() -> None:
    trial = promoted()
    newest = {**trial.evidence[-1].evidence, "state": "AWAIT_APPROVAL", "evidence_sha256": trial.evidence[-1].sha256}
    said = summary_markdown(newest)
    assert said.startswith("# trial-7, look 6: ✓ PROMOTE\n")
    low, high = newest["lift_interval"]
    assert f"| lift | {newest['lift']:+.2%} \\[{low:+.2%}, {high:+.2%}\\] |" in said
    assert "| matured users | 3,120 |" in said
    assert "`ratchet approve trial-7 --as NAME --reason TEXT`" in said
    assert f"| evidence | {trial.evidence[-1].sha256} |" in said
    nasty = {**newest, "reasons": ["a|b\n# <b>[c](d)`"], "guardrails": [{"name": "x|y", "holds": True, "z": 1.0}]}
    assert "- a\\|b \\# &lt;b&gt;\\[c\\](d)\\`\n" in summary_markdown(nasty)
    assert "| guardrail x\\|y | holds, z = 1.00 |" in summary_markdown(nasty)
    credit = summary_markdown(interleaved().evidence[-1].evidence)
    assert "| interleaving, challenger | 412 users won, 355 lost, e of winning 3.7" in credit
    for key in newest:
        assert (
            summary_markdown({name: value for name, value in newest.items() if name != key}).count("| evidence |") == 1
        )
    assert summary_markdown({}).startswith("# ")
