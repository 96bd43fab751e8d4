"""By hand, against plain integration, exactly by recursion over all sequences of signs, and through real lists."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from gate.interleaving import CONCENTRATION, Preference, judge_interleaving, log_e
from relations.errors import UsageError
from serving.choosing.interleaving import POLICY, team_draft

counts = st.integers(0, 400)
ALPHA = 0.025


def judge(wins, losses):
    return judge_interleaving(wins, losses, alpha=ALPHA)


def plain_e(wins, losses, *, against=0.5):
    """The mixture integrated numerically, term by term as it is defined: likelihood ratio times prior."""
    prior = beta(CONCENTRATION, CONCENTRATION)

    def term(q):
        ratio = (q / against) ** wins * ((1 - q) / (1 - against)) ** losses
        return ratio * prior.pdf(q) / prior.sf(against)

    return quad(term, against, 1, epsabs=0, epsrel=1e-10, limit=500)[0]


def chance_of_refusal(p, *, alpha, users):
    """Exact P(E⁺ ever reaches 1/α within `users` signs), by recursion over the number of wins."""
    paths, refused = np.array([1.0]), 0.0
    for n in range(1, users + 1):
        paths = np.append((1 - p) * paths, 0.0) + np.append(0.0, p * paths)
        wins = np.arange(n + 1)
        over = log_e(wins, n - wins) >= -math.log(alpha)
        refused += paths[over].sum()
        paths[over] = 0.0
    return refused


@pytest.mark.parametrize(("wins", "losses", "against"), [(0, 0, 0.5), (3, 1, 0.5), (60, 40, 0.5), (9, 30, 0.3)])
def test_the_closed_form_is_the_mixture(wins, losses, against):
    assert math.exp(log_e(wins, losses, against=against)) == pytest.approx(plain_e(wins, losses, against=against))


def test_one_win_by_hand():
    # E[2q] over the upper half of Beta(30, 30): 1 + the mean distance 2·E|q − ½| = 1 + 2·(1/2)^60/(30·B(30, 30))
    distance = 2 * 0.5**60 / 30 / math.exp(2 * math.lgamma(30) - math.lgamma(60))
    assert judge(1, 0).e_win == pytest.approx(1 + distance)
    assert judge(1, 0).e_loss == pytest.approx(1 - distance)


@given(wins=counts, losses=counts)
def test_a_fair_next_user_changes_nothing_on_average(wins, losses):
    """The law behind Ville's inequality, exactly: E⁺ and E⁻ are martingales at P(win) = ½, not below on either side."""
    for e in (lambda a, b: float(log_e(a, b)), lambda a, b: float(log_e(b, a))):
        after = np.logaddexp(math.log(0.5) + e(wins + 1, losses), math.log(0.5) + e(wins, losses + 1))
        assert after == pytest.approx(e(wins, losses), abs=1e-9)
    worse = np.logaddexp(math.log(0.4) + log_e(wins + 1, losses), math.log(0.6) + log_e(wins, losses + 1))
    assert worse < log_e(wins, losses)


@pytest.mark.parametrize("alpha", [0.05, ALPHA])
def test_false_verdicts_over_every_look_by_exact_recursion(alpha):
    fair = chance_of_refusal(0.5, alpha=alpha, users=800)
    assert alpha / 4 < fair <= alpha
    assert chance_of_refusal(0.48, alpha=alpha, users=800) < fair
    assert chance_of_refusal(0.6, alpha=alpha, users=800) > 0.95


def test_false_verdicts_by_simulation():
    signs = np.random.default_rng(5).random((2_000, 1_000)) < 0.5
    wins = signs.cumsum(axis=1)
    losses = np.arange(1, 1_001) - wins
    decided = np.maximum(log_e(wins, losses), log_e(losses, wins)) >= -math.log(ALPHA)
    # Both ways at α each: at most 5 %, with three standard errors of 2,000 trials 5 + 3·0.49 = 6.5 %
    assert 0.005 < decided.any(axis=1).mean() <= 0.065


@pytest.mark.parametrize("p", [0.35, 0.5, 0.62])
def test_the_sequence_covers_at_every_look_by_exact_recursion(p):
    """The lower bound misses p exactly when E⁺ against p reaches 1/α: at most α of all paths, at all looks together."""
    paths, missed = np.array([1.0]), 0.0
    for n in range(1, 301):
        paths = np.append((1 - p) * paths, 0.0) + np.append(0.0, p * paths)
        wins = np.arange(n + 1)
        over = log_e(wins, n - wins, against=p) > -math.log(ALPHA)
        missed += paths[over].sum()
        paths[over] = 0.0
        if n % 100 == 0:
            bounds = np.array([judge(int(w), int(n - w)).lower for w in wins])
            assert ((bounds > p) == over).all()
    assert missed <= ALPHA


@given(wins=st.integers(0, 5_000), losses=st.integers(0, 5_000))
def test_the_interval_excludes_a_half_exactly_when_something_is_proven(wins, losses):
    found = judge(wins, losses)
    assert 0 <= found.lower <= found.upper <= 1
    assert (found.preference is Preference.PREFERRED) == (found.lower > 0.5)
    assert (found.preference is Preference.PRUNE) == (found.upper < 0.5)
    if found.win_rate is not None:
        assert found.lower <= found.win_rate <= found.upper or wins * losses == 0


@given(wins=counts, losses=counts)
def test_exchanging_the_teams_exchanges_the_verdict(wins, losses):
    one, other = judge(wins, losses), judge(losses, wins)
    assert (one.e_win, one.p_loss) == (other.e_loss, other.p_win)
    assert one.lower == 1 - other.upper or one.lower == pytest.approx(1 - other.upper, abs=1e-12)
    swapped = {Preference.PRUNE: Preference.PREFERRED, Preference.PREFERRED: Preference.PRUNE}
    assert other.preference is swapped.get(one.preference, Preference.OPEN)


def test_what_follows():
    assert judge(0, 0).preference is Preference.OPEN
    assert judge(0, 0).win_rate is None
    won = judge(130, 70)
    assert won.preference is Preference.PREFERRED
    assert won.p_win == pytest.approx(1 / won.e_win)
    assert "won 130 users and lost 70" in won.reason
    lost = judge(70, 130)
    assert lost.preference is Preference.PRUNE
    assert "proven to lose" in lost.reason
    assert judge(60, 40).preference is Preference.OPEN
    assert json.loads(json.dumps(won.as_json()))["preference"] == "PREFERRED"


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (10_000_000, 0), (0, 10_000_000), (5_000_000, 5_010_000)])
def test_extreme_counts_stay_finite(wins, losses):
    stated = judge(wins, losses).as_json()
    assert all(math.isfinite(value) for value in stated.values() if isinstance(value, float))


def test_refusals_name_the_value():
    with pytest.raises(UsageError, match="-1 wins"):
        judge(-1, 0)
    with pytest.raises(UsageError, match=r"alpha 0\.7"):
        judge_interleaving(1, 0, alpha=0.7)


def test_neutral_credit_is_fair_to_a_user_who_clicks_by_place():
    """Two rankings of equal worth: clicks that follow the place alone are credited evenly over the coins."""
    champion, challenger = list("abcdefgh"), list("bacdfehg")
    clicks = 1 / np.arange(1, 7)
    balance = 0.0
    for request in range(4_000):
        picks = team_draft(champion, challenger, k=6, request_id=str(request))
        balance += sum(
            click * (2 * pick.team - 1) for pick, click in zip(picks, clicks, strict=True) if pick.policy == POLICY
        )
    # Coins of 4,000 requests: at most four credits of ±1 and less each, so a standard error below 2/√4000 = 0.032
    assert abs(balance / 4_000) < 3 * 0.032
