"""Team-draft interleaving: two rankings become one list, and each clicked item says whose pick it was.

In each round a coin says which team picks first; each then picks its best item that is not in the list yet. Source:
Radlinski, Kurup & Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008, algorithm 2. Coins come
from the request id alone, so that an answer can be repeated.

**Agreed picks.** Where the coin cannot change which item stands at a place (both teams want the same one), a click
there says nothing about the teams; such a place is marked, for credit that leaves it out. Whether a place is agreed
follows from the rankings and from what stands above the round, never from the coin, so that leaving it out favours no
team: who clicks by place alone gives both teams the same credit on average. A champion against itself has agreed places
only.

**Propensity.** A round begins in a state that the list so far tells completely, so P(item | the slots above, the
candidates) is exact: 1 at an agreed place, ½ at the first place of another round, and at the second 1 where the first
has told the coin, else ½. There is no exploration: a random item would be no team's pick.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

POLICY = "team-draft"
AGREED = f"{POLICY}/agreed"
FILLED = f"{POLICY}/filled"
CHAMPION, CHALLENGER = 0, 1


@dataclass(frozen=True, slots=True)
class Pick:
    team: int
    """CHAMPION or CHALLENGER: whose ranking the item was taken from."""
    candidate: int
    """Index into that team's candidates."""
    propensity: float
    policy: str
    """POLICY: the team's own pick. AGREED: any coin puts this item here. FILLED: one ranking had nothing left."""


def team_draft(champion: Sequence[str], challenger: Sequence[str], *, k: int, request_id: str) -> list[Pick]:
    """Up to `k` picks from two rankings of item ids, best first and each without repetition.

    Each team has as many picks as the other or one more, until a ranking has nothing left: the rest of the other one
    then fills the list.
    """
    rankings = (champion, challenger)
    taken: set[str] = set()
    picks: list[Pick] = []
    coins = _coins(request_id, k)

    def pick(team: int, place: int, propensity: float, policy: str) -> None:
        taken.add(rankings[team][place])
        picks.append(Pick(team, place, propensity, policy))

    while len(picks) < k and (best := _best(rankings, taken)):
        first = next(coins)
        second = 1 - first
        if champion[best[0]] != challenger[best[1]]:
            pick(first, best[first], 0.5, POLICY)
            if len(picks) < k:
                pick(second, best[second], 1.0, POLICY)  # the first place has told the coin
            continue
        pick(first, best[first], 1.0, AGREED)
        if len(picks) < k and (best := _best(rankings, taken)):
            agreed = champion[best[0]] == challenger[best[1]]
            pick(second, best[second], 1.0 if agreed else 0.5, AGREED if agreed else POLICY)
    for team, ranking in enumerate(rankings):
        for place, item in enumerate(ranking):
            if len(picks) == k:
                return picks
            if item not in taken:
                pick(team, place, 1.0, FILLED)
    return picks


def _best(rankings: tuple[Sequence[str], Sequence[str]], taken: set[str]) -> tuple[int, int] | None:
    """Where each ranking's best item stands that is not taken; None where one of them has nothing left."""
    one, other = (next((at for at, item in enumerate(each) if item not in taken), None) for each in rankings)
    return None if one is None or other is None else (one, other)


def _coins(request_id: str, k: int) -> Iterator[int]:
    """0 or 1 for each of up to `k` rounds, from SHAKE-128: the same on every Python."""
    for byte in hashlib.shake_128(f"{POLICY}:{request_id}".encode()).digest(max(k, 1)):
        yield byte & 1
