"""Statistics against independent computations, to 1e-9; the simulations are a benchmark."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import integrate, optimize, stats

from modelforge.evaluation import preferences as P
from modelforge.evaluation import statistics as S
from modelforge.measuring.intervals import wilson

RANDOM = np.random.default_rng(7)
seeds = some.integers(0, 2**32 - 1)


def test_the_bca_interval_is_the_one_of_the_formula():
    gaps = RANDOM.exponential(size=40)
    weights = RANDOM.integers(1, 9, size=40).astype(float)
    found = S.paired(np.zeros(40), gaps, weights, resamples=999, seed=3)

    def mean(rows, share, axis=-1):
        return (rows * share).sum(axis) / share.sum(axis)

    drawn = stats.bootstrap(
        (gaps, weights), mean, paired=True, vectorized=True, n_resamples=999,
        rng=np.random.default_rng(3),
    ).bootstrap_distribution  # fmt: skip
    seen = mean(gaps, weights)
    assert found.by == pytest.approx(seen, abs=1e-12)
    z0 = stats.norm.ppf(((drawn < seen).mean() + (drawn <= seen).mean()) / 2)
    left = np.array([mean(np.delete(gaps, i), np.delete(weights, i)) for i in range(40)])
    lean = left.mean() - left
    a = (lean**3).sum() / (6 * ((lean**2).sum() ** 1.5))
    rest = (gaps - seen) * weights / weights.mean()
    freedom = min(39, 40 / (1 + max(stats.kurtosis(rest - rest.mean()), 0)))
    wide = stats.t.ppf(0.975, max(freedom, 12)) * math.sqrt(40 / 39)  # Hesterberg's, for few rows
    for side, z in ((found.low, -wide), (found.high, wide)):
        share = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
        assert side == pytest.approx(np.percentile(drawn, 100 * share), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_few_signs_are_all_tried(seed):
    gaps = np.random.default_rng(seed).normal(size=9).round(1)
    sums = [abs(np.dot(turn, gaps)) for turn in itertools.product((1, -1), repeat=9)]
    expected = np.mean([s >= abs(gaps.sum()) - 1e-9 for s in sums])
    assert S.signs(gaps) == pytest.approx(expected, abs=1e-12)


def test_many_signs_agree_with_scipy():
    gaps = np.random.default_rng(2).normal(0.35, 1, size=60)
    theirs = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert S.signs(gaps, resamples=20_000) == pytest.approx(theirs, abs=0.004)


@settings(max_examples=20, deadline=None)
@given(some.lists(some.tuples(some.integers(0, 1), some.integers(0, 1)), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_sum(rows):
    won, lost = rows.count((0, 1)), rows.count((1, 0))
    n = won + lost
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(won, lost) + 1))
    expected = float(min(Fraction(1), 2 * tail)) if n else 1.0
    first, second = zip(*rows, strict=True)
    assert S.mcnemar(first, second) == pytest.approx(expected, abs=1e-9)
    if len(rows) > 3:
        assert S.paired(first, second, resamples=99).p == S.mcnemar(first, second)
    if n <= 16:
        assert S.signs(np.subtract(second, first)) == pytest.approx(expected, abs=1e-9)


@given(some.lists(some.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_closed_testing_of_bonferroni(p):
    """A hypothesis falls if every set of hypotheses that it is in falls."""
    ours = S.holm(p)
    for i in range(len(p)):
        sets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), k)]
        expected = max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s)
        assert ours[i] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(some.integers(1, 400), some.floats(0, 1))
def test_wilson_is_scipys(count, share):
    right = round(share * count)
    theirs = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx(tuple(theirs), abs=1e-9)


def test_a_mean_has_students_interval_and_right_rows_wilsons():
    rows = RANDOM.normal(size=30)
    mean, low, high = S.mean_interval(rows)
    theirs = stats.ttest_1samp(rows, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((rows.mean(), theirs.low, theirs.high), abs=1e-9)
    assert S.mean_interval([1, 1, 0, 1])[1:] == wilson(0.75, 4)
    assert math.isnan(S.mean_interval([0.3, 0.4])[1])


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_the_length_controlled_rate_minimises_its_loss(seed):
    rng = np.random.default_rng(seed)
    longer = rng.normal(3, 5, size=60)
    wins = rng.choice([0, 0.5, 1], size=60)
    found = P.length_controlled(wins, longer)
    x = np.tanh(longer / longer.std())

    def loss(at):
        p = 1 / (1 + np.exp(-(at[0] + at[1] * x)))
        return -(wins * np.log(p) + (1 - wins) * np.log1p(-p)).sum() + 0.005 * (at @ at)

    best = optimize.minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9})
    at = np.array([math.log(found.win_rate / (1 - found.win_rate)), found.length])
    assert loss(at) <= best.fun + 1e-9 and at == pytest.approx(best.x, abs=1e-4)
    for i in (0, 1):  # the slope is 0
        step = np.eye(2)[i] * 1e-5
        assert abs(loss(at + step) - loss(at - step)) / 2e-5 < 1e-6
    assert found.low < found.win_rate < found.high


def test_a_judge_that_likes_length_gives_no_win_at_equal_length():
    longer = RANDOM.normal(2, 2, size=2000)
    odds = 1.5 * np.tanh(longer / longer.std())
    wins = (RANDOM.random(2000) < 1 / (1 + np.exp(-odds))).astype(float)
    assert P.win_rate(wins)[1] > 0.55
    found = P.length_controlled(wins, longer)
    assert found.low < 0.5 < found.high and found.length_low > 1


def test_strengths_are_where_the_likelihood_is_highest():
    true = [-1.0, 0.0, 1.0]
    pairs, prompts = [], []
    for prompt in range(100):
        for i, j in itertools.combinations(range(3), 2):
            p = 1 / (1 + math.exp(true[j] - true[i]))
            pairs.append((i, j, float(RANDOM.random() < p)))
            prompts.append(prompt)
    found = P.bradley_terry(pairs, 3, prompts=prompts, resamples=100)

    def slope(at):
        sums = -0.01 * np.array(at)
        for i, j, won in pairs:
            rest = won - 1 / (1 + math.exp(at[j] - at[i]))
            sums[i] += rest
            sums[j] -= rest
        return sums

    assert np.abs(slope(found.strength)).max() < 1e-9
    assert all(a < t < b for a, t, b in zip(found.low, true, found.high, strict=True))
    alone = P.bradley_terry([(0, 1, 1.0)] * 5, 2, resamples=10)
    assert math.isfinite(alone.strength[0]) and alone.strength[0] > 1


def test_power_is_that_of_the_t_test():
    for spread, effect, rows in ((1.0, 0.3, 60), (0.45, 0.05, 640), (1.0, 1.0, 6)):
        # The t statistic given the variance is normal: an integral over chi instead of scipy's nct.
        bound, shift = stats.t.ppf(0.975, rows - 1), effect / spread * math.sqrt(rows)

        def beyond(u, bound=bound, shift=shift, rows=rows):
            chi = stats.chi(rows - 1).pdf(u)
            return chi * stats.norm.sf(bound * u / math.sqrt(rows - 1) - shift)

        middle = math.sqrt(rows - 1)
        exact, _ = integrate.quad(
            beyond, max(0, middle - 9), middle + 9, epsabs=1e-12, points=[middle]
        )
        assert S.found_with(spread, effect, rows) == pytest.approx(exact, abs=1e-9)
        least = S.smallest_effect(spread, rows)
        assert S.found_with(spread, least, rows) == pytest.approx(0.8, abs=1e-9)
        needed = S.rows_needed(spread, effect)
        assert S.found_with(spread, effect, needed) >= 0.8
        assert S.found_with(spread, effect, needed - 1) < 0.8
    assert S.rows_needed(0.45, 0.05) == 638  # (1.96 + 0.84)² sd² / effect² is 636, by the normal
    assert S.rows_needed(0.0, 0.1) == 2 and S.smallest_effect(1.0, 1) == math.inf
    assert S.rows_needed(1.0, 1e-3) > 7_000_000  # where the noncentral t is hard to compute
    with pytest.raises(ValueError):
        S.rows_needed(1.0, 0.0)


def test_pass_at_k_is_the_share_of_choices():
    for n, k in itertools.product(range(1, 8), range(1, 8)):
        for right in range(n + 1):
            if k > n:
                with pytest.raises(ValueError):
                    S.pass_at_k(n, right, k)
                continue
            rows = itertools.combinations([1] * right + [0] * (n - right), k)
            expected = np.mean([max(row) for row in rows])
            assert S.pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-9)


def test_kl_estimates_have_the_right_mean():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    found = S.kl_estimates(np.log(p), np.log(q))
    exact = stats.entropy(p, q)
    assert (p * found["k1"]).sum() == pytest.approx(exact, abs=1e-9)
    assert (p * found["k3"]).sum() == pytest.approx(exact, abs=1e-9)
    assert (found["k3"] >= 0).all() and (p * found["k2"]).sum() != pytest.approx(exact, abs=1e-3)


def test_nothing_to_compare_is_told_and_not_raised():
    assert S.paired([], []).p == 1.0
    same = S.paired([1.0] * 5, [1.0] * 5)
    assert (same.by, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert math.isnan(S.paired([0.1, 0.2], [0.3, 0.1]).low)
    share, low, high = P.win_rate([0.5] * 30)
    assert share == 0.5 and low < 0.5 < high
