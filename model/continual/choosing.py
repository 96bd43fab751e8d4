"""What to do next: nothing, an increment, or a full retrain, as a value with its reasons.

A pure function of the evidence, the options and what was decided before, so that a decision can be read, and made
again, from its log.
"""

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

from model.continual.drift import Shift
from model.continual.prequential import Figure
from relations.errors import UsageError


class Action(StrEnum):
    SKIP = "skip"
    INCREMENT = "increment"
    FULL = "full"


@dataclass(frozen=True)
class RetrainOptions:
    """The same names as `[retrain]` in `ratchet.toml`."""

    max_age_days: float = 28.0
    """A full retrain at least this often, where there is anything new."""
    cool_down_days: float = 1.0
    """After a full retrain none is made on evidence for so long."""
    confirmations: int = 2
    """Decisions in a row, each on other events, that must see decay alone, or drift that cannot be tested, before a
    full retrain. Decay together with drift needs no second look."""
    decay: float = 0.1
    """Share that is lost on new events of the last full retrain's NDCG@k, or the parent's where that is better."""
    psi: float = 0.25
    """Of behaviours and item popularity, beyond chance and the usual."""
    ks: float = 0.15
    """Of gaps between events and session lengths."""
    new_items: float = 0.2
    """Rise of the share of events on items that were not there."""
    item_vectors: float = 0.1
    """One minus the cosine of the mean item vectors."""
    alpha: float = 0.01
    """Chance that a measure seems beyond chance when nothing has changed."""
    window_days: float = 7.0
    """Events as new as this are judged, and those since the last full retrain at most."""
    reference_days: float = 28.0
    """Events of the last full retrain that the new ones are compared with, from its cutoff backwards."""
    max_users: int = 2_000
    """Users that the test before training is made on."""
    min_new_share: float = 0.001
    """New events below this share of all events wait for more."""
    max_cost_ratio: float = 1.0
    """An increment that is expected to take more than this share of a full retrain's time is made a full retrain."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"[retrain] alpha = {self.alpha} is not in (0, 1)")

    def threshold(self, measure: str) -> float:
        return {
            "behaviours": self.psi,
            "popularity": self.psi,
            "gaps": self.ks,
            "session lengths": self.ks,
            "new items": self.new_items,
            "item vectors": self.item_vectors,
        }[measure]


@dataclass(frozen=True)
class Evidence:
    """What is known when a decision is made; None: not known."""

    events_version: int
    parent: int | None
    """The version that an increment would go on from; None: nobody has made a champion yet."""
    new_events: int
    """That the parent has not seen."""
    events: int
    """All that may be learnt from."""
    since_full: int
    """That the last full retrain has not seen."""
    full_age_days: float | None
    """None: there is no full retrain yet."""
    baseline: Figure | None = None
    """NDCG@k of the last full retrain on the slice that it was tested on, or of the parent where that is better: what
    was gained since may be lost too."""
    prequential: Figure | None = None
    """NDCG@k of the models since then on newer events, each before it learnt from them."""
    shifts: tuple[Shift, ...] = ()
    forgotten: tuple[str, ...] = ()
    """Cohorts that the newest increment has lost beyond their margin."""
    full_seconds: float | None = None
    """What a full retrain would take, from the last one's seconds an event."""
    increment_seconds: float | None = None

    @property
    def decay(self) -> float | None:
        """1 − prequential / baseline."""
        if self.baseline is None or self.prequential is None or not self.baseline.mean:
            return None
        return 1 - self.prequential.mean / self.baseline.mean

    def decayed(self, options: RetrainOptions) -> bool:
        """By the threshold at least, and beyond the noise of both figures (one-sided z, users independent)."""
        decay, baseline, now = self.decay, self.baseline, self.prequential
        if decay is None or baseline is None or now is None or baseline.error is None or now.error is None:
            return False
        error = math.hypot(baseline.error, now.error)
        beyond = baseline.mean - now.mean > NormalDist().inv_cdf(1 - options.alpha) * error
        return decay >= options.decay and beyond

    def drifted(self, options: RetrainOptions) -> tuple[Shift, ...]:
        return tuple(shift for shift in self.shifts if shift.beyond(options.threshold(shift.measure)))


@dataclass(frozen=True)
class Reason:
    """`against`: the bound that the value is held to; `breached`: the value speaks for a full retrain."""

    measure: str
    value: float | None
    against: float | None
    breached: bool
    says: str


@dataclass(frozen=True)
class State:
    """What earlier decisions have seen in a row, since the last full retrain. `seen`: the newest events version that
    was counted, so that deciding twice on the same events confirms nothing."""

    decay: int = 0
    drift: int = 0
    seen: int = -1


@dataclass(frozen=True)
class Decision:
    action: Action
    because: str
    reasons: tuple[Reason, ...]
    evidence: Evidence
    state: State = field(default_factory=State)
    """For the next decision."""
    drifted: bool = False
    """A full retrain because of what was measured, not of age or cost."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "action": self.action.value}

    def markdown(self) -> str:
        lines = [
            f"# {self.action.value}",
            "",
            self.because,
            "",
            "| measure | value | threshold | says |",
            "|---|---|---|---|",
        ]
        for each in self.reasons:
            shown = ["–" if number is None else f"{number:,.4g}" for number in (each.value, each.against)]
            says = f"**{each.says}**" if each.breached else each.says
            lines.append(f"| {each.measure} | {shown[0]} | {shown[1]} | {says} |")
        return "\n".join(lines) + "\n"


def decide(evidence: Evidence, *, options: RetrainOptions, state: State) -> Decision:
    """Skip, increment or full retrain.

    A full retrain: where there is none, at `max_age_days`, where cohorts are forgotten, for decay with drift at once,
    for decay alone when confirmed, for drift alone when confirmed and decay is not measured, or seen but within the
    noise: drift that the increments follow costs nothing. Within the cool-down none of these but the first. Nothing
    new: skip.
    """
    decayed, drifted = evidence.decayed(options), evidence.drifted(options)
    cooling = evidence.full_age_days is not None and evidence.full_age_days < options.cool_down_days
    counted = _counted(evidence, options, state, decayed=decayed, drifted=bool(drifted))
    reasons = _reasons(evidence, options, decayed=decayed, cooling=cooling)
    names = ", ".join(shift.measure for shift in drifted)

    def full(because: str, *, measured: bool = False) -> Decision:
        return Decision(Action.FULL, because, reasons, evidence, State(seen=evidence.events_version), measured)

    def other(action: Action, because: str) -> Decision:
        return Decision(action, because, reasons, evidence, counted)

    if evidence.full_age_days is None:
        return full("there is no model yet")
    if not evidence.since_full:
        return other(Action.SKIP, "no new events since the last full retrain")
    if evidence.full_age_days >= options.max_age_days:
        return full(
            f"the last full retrain is {evidence.full_age_days:.1f} days old, max_age_days = {options.max_age_days:g}"
        )
    if evidence.parent is None:
        return other(Action.SKIP, "no champion to go on from; `ratchet trial bootstrap` makes the first")
    because, patient = _measured(evidence, options, counted, decayed=decayed, names=names)
    if because and not cooling and not patient:
        return full(because, measured=True)
    held = f"; {because}, and {'cooling down' if cooling else 'waiting for a second look'}" if because else ""
    if not evidence.new_events:
        return other(Action.SKIP, f"no new events{held}")
    if evidence.new_events < options.min_new_share * evidence.events and not because:
        return other(
            Action.SKIP,
            f"{evidence.new_events:,} new events are below min_new_share = {options.min_new_share:g} of all "
            f"{evidence.events:,}",
        )
    price, whole = evidence.increment_seconds, evidence.full_seconds
    if price is not None and whole is not None and price > options.max_cost_ratio * whole and not cooling:
        return full(f"an increment would take {price:.0f} s, a full retrain {whole:.0f} s")
    followed = f"; drift of {names}, which the models follow" if drifted and not because else ""
    return other(Action.INCREMENT, f"{evidence.new_events:,} new events{held}{followed}")


def _measured(
    evidence: Evidence, options: RetrainOptions, counted: State, *, decayed: bool, names: str
) -> tuple[str, bool]:
    """What speaks for a full retrain, and whether it is to be seen again first."""
    if evidence.forgotten:
        return f"forgotten: {', '.join(evidence.forgotten)}", False
    if decayed:
        lost = f"NDCG on new events is {evidence.decay:.1%} below what it was"
        if names:
            return f"{lost}, with drift of {names}", False
        return lost, counted.decay < options.confirmations
    if names and (evidence.decay is None or evidence.decay >= options.decay):
        return f"drift of {names}, with too little to test decay on", counted.drift < options.confirmations
    return "", False


def _counted(evidence: Evidence, options: RetrainOptions, state: State, *, decayed: bool, drifted: bool) -> State:
    """A streak of decay ends only below half the threshold: a figure about the threshold would else begin it anew
    every other time."""
    if evidence.events_version <= state.seen:
        return state
    gone = evidence.decay is not None and evidence.decay < options.decay / 2
    return State(
        decay=state.decay + 1 if decayed else 0 if gone else state.decay,
        drift=state.drift + 1 if drifted else 0,
        seen=evidence.events_version,
    )


def _reasons(evidence: Evidence, options: RetrainOptions, *, decayed: bool, cooling: bool) -> tuple[Reason, ...]:
    age, decay = evidence.full_age_days, evidence.decay
    old = age is not None and age >= options.max_age_days
    rows = 0 if evidence.prequential is None else evidence.prequential.rows
    lost = "lost" if decayed else "fresh" if decay is not None and decay < options.decay else "within the noise"
    few = evidence.new_events < options.min_new_share * evidence.events
    found = [
        Reason(
            "new events",
            evidence.new_events,
            options.min_new_share * evidence.events,
            False,
            "few" if few else "enough",
        ),
        Reason(
            "age of the last full retrain, days",
            age,
            options.max_age_days,
            old or age is None,
            "there is none" if age is None else "too old" if old else "cooling down" if cooling else "young enough",
        ),
        Reason(
            "decay of NDCG on new events",
            decay,
            options.decay,
            decayed,
            "not measured" if decay is None else f"{lost}, on {rows:,} rows",
        ),
    ]
    for shift in evidence.shifts:
        threshold = options.threshold(shift.measure)
        beyond = shift.beyond(threshold)
        says = "drift" if beyond else "chance" if shift.value <= shift.critical else "small"
        found.append(Reason(f"drift of {shift.measure}", shift.excess, threshold, beyond, says))
    if not evidence.shifts:
        found.append(Reason("drift", None, None, False, "not measured: too few events"))
    forgotten = ", ".join(evidence.forgotten)
    found.append(Reason("cohorts forgotten", len(evidence.forgotten), 1, bool(forgotten), forgotten or "none"))
    found.append(
        Reason(
            "seconds of an increment",
            evidence.increment_seconds,
            None if evidence.full_seconds is None else options.max_cost_ratio * evidence.full_seconds,
            False,
            "not known" if evidence.increment_seconds is None else "expected",
        )
    )
    return tuple(found)
