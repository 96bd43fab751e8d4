"""Other people's implementations of the same formulas, on the same users.

`tea-tasting` (ratio metrics, CUPED, sample ratio) comes with the `dev` extra. `gbstats`, GrowthBook's engine (ratio
metrics, regression adjustment, the asymptotic confidence sequence), pins a NumPy that is too old, so it is installed by
`make install` without its dependencies; where it is absent its tests are skipped.
"""

import numpy as np
import pandas as pd
import pytest
import tea_tasting
from scipy.stats import chi2

from gate.confidence import tuned_rho, two_sided_width
from gate.estimator import ArmSums, estimate
from gate.mismatch import CONCENTRATION, mismatch_p

COLUMNS = ["outcome", "impressions", "before", "impressions_before"]
USERS = 4_000


def users_of(seed, *, lift=0.0, users=USERS):
    """One row a user: clustered clicks, a third of the users without a pre-period."""
    rng = np.random.default_rng(seed)
    taste, activity = rng.beta(1, 9, users), rng.gamma(2.0, 4.0, users)
    impressions, before = 1 + rng.poisson(activity), rng.poisson(activity) * (rng.random(users) > 0.3)
    outcome = rng.binomial(impressions, np.minimum(1, taste * (1 + lift)))
    rows = np.stack([outcome, impressions, rng.binomial(before, taste), before], axis=1)
    return pd.DataFrame(rows.astype(float), columns=COLUMNS)


def single(frame):
    """The same users with one impression each and no impressions before: a plain mean with one covariate."""
    return frame.assign(impressions=1.0, impressions_before=0.0)


def ours(champion, challenger, *, adjust=True):
    arms = [ArmSums.from_users(*(frame[column].to_numpy() for column in COLUMNS)) for frame in (champion, challenger)]
    return estimate(arms[0].array(), arms[1].array(), adjust=adjust)


def theirs(champion, challenger, metric):
    both = pd.concat([champion.assign(variant=0), challenger.assign(variant=1)], ignore_index=True)
    return tea_tasting.Experiment({"metric": metric}).analyze(both)["metric"]


@pytest.fixture(scope="module")
def arms():
    return users_of(1), users_of(2, lift=0.05)


def test_ratio_and_delta_method_against_tea_tasting(arms):
    metric = tea_tasting.RatioOfMeans("outcome", "impressions", equal_var=False, use_t=False)
    found, oracle = ours(*arms, adjust=False), theirs(*arms, metric)
    assert float(found.champion_rate) == pytest.approx(oracle.control, rel=1e-12)
    assert float(found.challenger_rate) == pytest.approx(oracle.treatment, rel=1e-12)
    assert float(found.delta) == pytest.approx(oracle.effect_size, rel=1e-9)
    assert float(found.z) == pytest.approx(oracle.statistic, rel=1e-9)
    half = (oracle.effect_size_ci_upper - oracle.effect_size_ci_lower) / 2
    assert 1.959964 * float(found.standard_error) == pytest.approx(half, rel=1e-6)


def test_lift_interval_against_tea_tasting(arms):
    """Fieller's set against theirs, from the log of the ratio: two intervals of one order, apart by a bit of theirs."""
    metric = tea_tasting.RatioOfMeans("outcome", "impressions", equal_var=False, use_t=False)
    found, oracle = ours(*arms, adjust=False), theirs(*arms, metric)
    width = oracle.rel_effect_size_ci_upper - oracle.rel_effect_size_ci_lower
    for own, other in zip(
        found.lift_interval(1.959964),
        (oracle.rel_effect_size_ci_lower, oracle.rel_effect_size_ci_upper),
        strict=True,
    ):
        assert float(own) == pytest.approx(other, abs=0.01 * width)


def test_cuped_of_a_mean_against_tea_tasting(arms):
    """One covariate. Theirs is θ of the pooled users, ours of the arms' own: apart by the arms' difference, O(1/n)."""
    champion, challenger = (single(frame) for frame in arms)
    metric = tea_tasting.Mean("outcome", "before", equal_var=False, use_t=False)
    found, oracle = ours(champion, challenger), theirs(champion, challenger, metric)
    error = float(found.standard_error)
    assert float(found.delta) == pytest.approx(oracle.effect_size, abs=1e-3 * error)
    assert error == pytest.approx(oracle.effect_size / oracle.statistic, rel=1e-3)
    assert error < 0.9 * float(found.raw_standard_error)


def test_cuped_of_a_ratio_against_tea_tasting(arms):
    """They adjust by the linearised ratio of the pre-period, we by its two parts, which can only explain more."""
    metric = tea_tasting.RatioOfMeans(
        "outcome", "impressions", "before", "impressions_before", equal_var=False, use_t=False
    )
    found, oracle = ours(*arms), theirs(*arms, metric)
    error, other = float(found.standard_error), oracle.effect_size / oracle.statistic
    assert error <= other * (1 + 1e-3)
    assert error == pytest.approx(other, rel=0.02)
    assert float(found.delta) == pytest.approx(oracle.effect_size, abs=0.2 * error)


@pytest.mark.parametrize("counts", [(5_000, 5_000), (5_100, 4_900), (50_500, 49_500), (101_000, 99_000)])
def test_mismatch_against_tests_at_one_look(counts):
    """At a fixed number of users, tea-tasting's test is the right one; ours, right at every look, is never smaller.

    And with χ² of these counts, ln BF → χ²/2·n/(n + c) − ½ ln(1 + n/c): the Dirichlet mixture of normal likelihoods.
    """
    frame = pd.DataFrame({"variant": np.repeat([0, 1], counts)})
    fixed = tea_tasting.Experiment({"metric": tea_tasting.SampleRatio(method="norm", correction=False)}).analyze(frame)
    p, always = fixed["metric"].pvalue, mismatch_p([counts], expected=(0.5, 0.5))
    assert always >= p
    users, squared = sum(counts), chi2.isf(p, df=1)
    odds = squared / 2 * users / (users + CONCENTRATION) - 0.5 * np.log1p(users / CONCENTRATION)
    assert always == pytest.approx(min(1.0, np.exp(-odds)), rel=0.01)


class TestGrowthBook:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("gbstats", reason="`make install` brings gbstats without its dependencies")

    @staticmethod
    def ratio(frame):
        from gbstats.models.statistics import RatioStatistic, SampleMeanStatistic

        def mean(column):
            values = frame[column]
            return SampleMeanStatistic(n=len(values), sum=values.sum(), sum_squares=(values**2).sum())

        product = float((frame["outcome"] * frame["impressions"]).sum())
        return RatioStatistic(
            n=len(frame), m_statistic=mean("outcome"), d_statistic=mean("impressions"), m_d_sum_of_products=product
        )

    def test_ratio_and_delta_method(self, arms):
        found, oracle = ours(*arms, adjust=False), [self.ratio(frame) for frame in arms]
        assert float(found.champion_rate) == pytest.approx(oracle[0].mean, rel=1e-12)
        assert float(found.champion_variance) == pytest.approx(oracle[0].variance / USERS, rel=1e-9)
        assert float(found.challenger_variance) == pytest.approx(oracle[1].variance / USERS, rel=1e-9)

    def test_the_confidence_sequence_with_the_default_of_always_valid_libraries(self, arms):
        """Theirs is tuned at 5,000 users whatever the trial's size: the formula that the gate is compared with."""
        from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest

        found = ours(*arms, adjust=False)
        config = SequentialConfig(difference_type="absolute", traffic_proportion_b=1, phase_length_days=1)
        lower, upper = SequentialTwoSidedTTest(*(self.ratio(frame) for frame in arms), config).compute_result().ci
        width = two_sided_width(2.0 * USERS, rho=tuned_rho(alpha=0.05, users=5_000), alpha=0.05)
        assert lower == pytest.approx(float(found.delta) - width * float(found.standard_error), rel=1e-9)
        assert upper == pytest.approx(float(found.delta) + width * float(found.standard_error), rel=1e-9)

    def test_cuped_with_one_covariate(self, arms):
        """Given θ of the arms' own covariances, computed plainly, regression adjustment is equal, not only close."""
        from gbstats.frequentist.tests import FrequentistConfig, TwoSidedTTest
        from gbstats.models.statistics import RegressionAdjustedStatistic, SampleMeanStatistic

        frames = [single(frame) for frame in arms]
        joint = sum(np.cov(frame["outcome"], frame["before"]) for frame in frames)
        theta = float(joint[0, 1] / joint[1, 1])

        def statistic(frame):
            parts = [
                SampleMeanStatistic(n=USERS, sum=values.sum(), sum_squares=(values**2).sum())
                for values in (frame["outcome"], frame["before"])
            ]
            product = float((frame["outcome"] * frame["before"]).sum())
            return RegressionAdjustedStatistic(USERS, *parts, post_pre_sum_of_products=product, theta=0)

        config = FrequentistConfig(difference_type="absolute", traffic_proportion_b=1, phase_length_days=1)
        oracle = TwoSidedTTest(*(statistic(frame) for frame in frames), config)
        found = ours(*frames)
        assert float(found.delta) == pytest.approx(oracle.point_estimate, abs=1e-2 * float(found.standard_error))
        oracle.stat_a.theta = oracle.stat_b.theta = theta  # theirs was of the pooled users, off by the arms' difference
        assert float(found.delta) == pytest.approx(oracle.point_estimate, rel=1e-9)
        assert float(found.standard_error) == pytest.approx(np.sqrt(oracle.variance), rel=1e-9)

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [((50_500, 49_500), (0.5, 0.5)), ((101_000, 99_000), (0.5, 0.5)), ((90_600, 9_400), (0.9, 0.1))],
    )
    def test_mismatch_at_one_look(self, counts, expected):
        from gbstats.utils import check_srm

        p = check_srm(list(counts), list(expected))
        always = mismatch_p([counts], expected=expected)
        assert always >= p
        users, squared = sum(counts), chi2.isf(p, df=1)
        odds = squared / 2 * users / (users + CONCENTRATION) - 0.5 * np.log1p(users / CONCENTRATION)
        # The mixture is normal in the limit only; at 90/10 the skewness of the prior shifts ln BF by some hundredths.
        assert np.log(always) == pytest.approx(-max(0.0, odds), rel=0.03)
