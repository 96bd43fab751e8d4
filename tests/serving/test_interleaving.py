"""Team draft, by hand, against every coin, and its laws."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.choosing import interleaving
from serving.choosing.interleaving import AGREED, CHALLENGER, CHAMPION, FILLED, POLICY, Pick, team_draft

RANKINGS = st.permutations("abcdef").flatmap(
    lambda one: st.tuples(st.just(one), st.permutations("abcdefgh"), st.integers(1, 6), st.integers(1, 8))
)


def with_coins(monkeypatch: pytest.MonkeyPatch, coins: Sequence[int]) -> None:
    monkeypatch.setattr(interleaving, "_coins", lambda *_: iter(coins))


def items(champion: Sequence[str], challenger: Sequence[str], picks: Sequence[Pick]) -> str:
    return "".join((champion, challenger)[pick.team][pick.candidate] for pick in picks)


def all_coins(
    monkeypatch: pytest.MonkeyPatch, champion: Sequence[str], challenger: Sequence[str], k: int
) -> Iterator[list[Pick]]:
    for coins in product((0, 1), repeat=(k + 1) // 2):
        with_coins(monkeypatch, coins)
        yield team_draft(champion, challenger, k=k, request_id="r")


def test_a_draft_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Champion a b c d, challenger b a d c. The champion first: a, then b. Then the challenger first: d, then c."""
    with_coins(monkeypatch, [CHAMPION, CHALLENGER])
    picks = team_draft("abcd", "badc", k=4, request_id="r")
    assert items("abcd", "badc", picks) == "abdc"
    assert [pick.team for pick in picks] == [CHAMPION, CHALLENGER, CHALLENGER, CHAMPION]
    assert [pick.candidate for pick in picks] == [0, 0, 2, 2]
    assert [pick.propensity for pick in picks] == [0.5, 1.0, 0.5, 1.0]  # each second place follows from the first
    assert {pick.policy for pick in picks} == {POLICY}


def test_an_agreed_first_place_hides_the_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both want a. Then it is the second team's best, b or c, and nobody can tell which from the list above."""
    for first, second in ((CHAMPION, "ac"), (CHALLENGER, "ab")):
        with_coins(monkeypatch, [first])
        picks = team_draft("abc", "acb", k=2, request_id="r")
        assert items("abc", "acb", picks) == second
        assert [(pick.policy, pick.propensity) for pick in picks] == [(AGREED, 1.0), (POLICY, 0.5)]


def test_what_one_ranking_lacks_the_other_fills() -> None:
    picks = team_draft("a", "abc", k=5, request_id="r")
    assert items("a", "abc", picks) == "abc"
    assert [pick.policy for pick in picks] == [AGREED, FILLED, FILLED]
    assert team_draft("", "", k=5, request_id="r") == []
    assert {pick.team for pick in team_draft("", "ab", k=5, request_id="r")} == {CHALLENGER}
    assert {pick.policy for pick in team_draft("ab", "", k=5, request_id="r")} == {FILLED}


def test_each_team_picks_first_as_often() -> None:
    first = Counter(team_draft("ab", "ba", k=2, request_id=f"r{n}")[0].team for n in range(10_000))
    assert abs(first[CHAMPION] - 5_000) < 4 * 50  # 4 standard errors of a fair coin


@settings(max_examples=200, deadline=None)
@given(drawn=RANKINGS, request_id=st.text())
def test_laws_of_a_draft(drawn: tuple[list[str], list[str], int, int], request_id: str) -> None:
    champion, challenger, length, k = drawn
    champion = champion[:length]
    picks = team_draft(champion, challenger, k=k, request_id=request_id)
    shown = items(champion, challenger, picks)
    assert len(set(shown)) == len(shown) == min(k, len({*champion, *challenger}))
    drafted = [pick for pick in picks if pick.policy != FILLED]
    teams = Counter(pick.team for pick in drafted)
    assert abs(teams[CHAMPION] - teams[CHALLENGER]) <= 1
    for team, ranking in enumerate((champion, challenger)):  # the best that was left, each time
        for place, pick in enumerate(drafted):
            if pick.team == team:
                assert set(ranking[: pick.candidate]) <= set(shown[:place])
    assert picks == team_draft(champion, challenger, k=k, request_id=request_id)


@settings(max_examples=50, deadline=None)
@given(ranking=st.permutations("abcdef"), k=st.integers(1, 8), request_id=st.text())
def test_a_champion_against_itself_is_neutral_at_every_place(ranking: list[str], k: int, request_id: str) -> None:
    picks = team_draft(ranking, ranking, k=k, request_id=request_id)
    assert items(ranking, ranking, picks) == "".join(ranking[:k])
    assert {(pick.policy, pick.propensity) for pick in picks} == {(AGREED, 1.0)}


@settings(max_examples=60, deadline=None)
@given(drawn=RANKINGS)
def test_propensities_are_those_of_the_coins_and_neutral_credit_favours_no_team(
    drawn: tuple[list[str], list[str], int, int],
) -> None:
    champion, challenger, length, k = drawn
    champion = champion[:length]
    with pytest.MonkeyPatch.context() as monkeypatch:
        drafts = list(all_coins(monkeypatch, champion, challenger, k))
    stated: dict[str, float] = {}
    counted: dict[str, float] = defaultdict(float)
    credit = [[0.0] * k, [0.0] * k]  # of each team at each place, for a user who clicks by place alone
    for picks in drafts:
        shown = items(champion, challenger, picks)
        counted[shown] += 1 / len(drafts)
        probability = 1.0
        for pick in picks:
            probability *= pick.propensity
        assert stated.setdefault(shown, probability) == probability  # a list says the same, whoever picked
        for place, pick in enumerate(picks):
            if pick.policy == POLICY:
                credit[pick.team][place] += 1 / len(drafts)
    assert stated == pytest.approx(dict(counted))
    assert credit[CHAMPION] == pytest.approx(credit[CHALLENGER])
