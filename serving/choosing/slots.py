"""Which candidate stands in which slot of an answer, whose it is, and with what probability it came there."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.choosing.candidates import Candidates
from serving.choosing.interleaving import team_draft
from serving.choosing.policy import epsilon_greedy

SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Shown:
    """One slot."""

    source: Candidates
    """Whose ranking the item was taken from."""
    candidate: int
    """Index into the source's candidates."""
    propensity: float
    explored: bool
    policy: str

    @property
    def item(self) -> str:
        return self.source.items[self.candidate]

    @property
    def score(self) -> float:
        return self.source.scores[self.candidate]


def by_policy(candidates: Candidates, *, k: int, exploration: float, request_id: str) -> list[Shown]:
    """The logging policy on one ranking."""
    slots = epsilon_greedy(candidates=len(candidates.items), k=k, exploration=exploration, request_id=request_id)
    return [Shown(candidates, slot.candidate, slot.propensity, slot.explored, candidates.policy) for slot in slots]


def by_draft(champion: Candidates, challenger: Candidates, *, k: int, request_id: str) -> list[Shown]:
    """Two rankings drafted into one list; each slot is of the team that picked it."""
    sources = (champion, challenger)
    picks = team_draft(champion.items, challenger.items, k=k, request_id=request_id)
    return [Shown(sources[pick.team], pick.candidate, pick.propensity, False, pick.policy) for pick in picks]


def in_shadow(candidates: Candidates, *, k: int) -> Sequence[Shown]:
    """What would have been best; it had no chance to be shown."""
    return [Shown(candidates, place, 0.0, False, SHADOW) for place in range(min(k, len(candidates.items)))]
