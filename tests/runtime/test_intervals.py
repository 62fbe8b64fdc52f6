"""Intervals against published worked examples, closed forms and their promised coverage."""

import math

import numpy as np
import pytest

from onnx_basisprune.runtime.intervals import (
    bootstrap_median_ratio,
    compute_paired_interval,
    compute_wilson_interval,
)

Z2 = 1.959963984540054**2


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_examples(successes: int, n: int, low: float, high: float) -> None:
    interval = compute_wilson_interval(successes, n)
    assert interval.estimate == successes / n
    assert interval.low == pytest.approx(low, abs=5e-5)  # printed with four decimals
    assert interval.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 10_000])
def test_wilson_ends_where_all_or_none_succeed(n: int) -> None:
    none, every = compute_wilson_interval(0, n), compute_wilson_interval(n, n)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(Z2 / (n + Z2), rel=1e-12)
    assert every.low == pytest.approx(n / (n + Z2), rel=1e-12)


def test_tango_gives_the_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation (1, 1; 7, 12) in Fagerland, Lydersen and
    # Laake, Statistics in Medicine 33 (2014) 2850-2875: -0.517 to -0.026.
    interval = compute_paired_interval(1, 7, 21)
    assert interval.estimate == pytest.approx(-6 / 21, rel=1e-12)
    assert interval.low == pytest.approx(-0.517, abs=5e-4)  # printed with three decimals
    assert interval.high == pytest.approx(-0.026, abs=5e-4)


@pytest.mark.parametrize("n", [1, 20, 10_000])
def test_tango_where_all_pairs_agree(n: int) -> None:
    # With b = c = 0, q = 0 for t > 0 and T² = n t / (1 - t): the end is z² / (n + z²).
    interval = compute_paired_interval(0, 0, n)
    assert interval.estimate == 0.0
    assert interval.high == pytest.approx(Z2 / (n + Z2), abs=1e-9)
    assert interval.low == -interval.high


@pytest.mark.parametrize("n", [5, 20, 1000])
def test_tango_where_all_pairs_differ_one_way(n: int) -> None:
    # With b = n, q = (1 - t)/2 and T² = n (1 - t) / (1 + t): the end is (n - z²) / (n + z²).
    interval = compute_paired_interval(n, 0, n)
    assert interval.low == pytest.approx((n - Z2) / (n + Z2), abs=1e-9)
    assert (interval.estimate, interval.high) == (1.0, 1.0)
    assert compute_paired_interval(0, n, n).high == -interval.low


def test_tango_is_mcnemars_test_at_zero() -> None:
    # T(0)² = (b - c)² / (b + c), so 0 leaves the interval just where that exceeds z².
    for b in range(30):
        for c in range(30):
            interval = compute_paired_interval(b, c, 200)
            assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
            assert (interval.low > 0 or interval.high < 0) == ((b - c) ** 2 > Z2 * (b + c))


def test_tango_ends_solve_the_score_equation() -> None:
    b, c, n = 40, 20, 160
    interval = compute_paired_interval(b, c, n)
    for t in (interval.low, interval.high):
        # The likelihood of (b, c) under p12 - p21 = t, maximised over p21 on a grid, not in closed form.
        p21 = np.linspace(1e-6, (1 - t) / 2 - 1e-6, 400_001)
        likelihood = b * np.log(p21 + t) + c * np.log(p21) + (n - b - c) * np.log1p(-2 * p21 - t)
        q = p21[likelihood.argmax()]
        score = (b - c - n * t) / math.sqrt(n * (2 * q + t * (1 - t)))
        assert abs(score) == pytest.approx(math.sqrt(Z2), abs=1e-4)  # grid of 1e-6


@pytest.mark.parametrize(("p12", "p21"), [(0.01, 0.0), (0.03, 0.01), (0.2, 0.1)])
def test_intervals_cover_the_truth(p12: float, p21: float) -> None:
    rng, n, trials = np.random.default_rng(0), 300, 600
    tables = rng.multinomial(n, [p12, p21, 1 - p12 - p21], size=trials)
    paired = [compute_paired_interval(int(b), int(c), n) for b, c, _ in tables]
    wilson = [compute_wilson_interval(int(b), n) for b, _, _ in tables]
    # Of 600 trials at 95 % 570 are expected, with a standard deviation of 5.3.
    assert sum(i.low <= p12 - p21 <= i.high for i in paired) >= 550
    assert sum(i.low <= p12 <= i.high for i in wilson) >= 550
    # Nor are they needlessly wide: the large-sample width is 2 z sd, which three expected events exceed most.
    sd = math.sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    assert np.mean([i.high - i.low for i in paired]) < 1.5 * 2 * math.sqrt(Z2) * sd


def test_ratio_of_constant_times_is_exact() -> None:
    speedup = bootstrap_median_ratio(np.full(30, 6.0), np.full(30, 4.0), seed=0)
    assert (speedup.median, speedup.low, speedup.high) == (1.5, 1.5, 1.5)
    assert bootstrap_median_ratio(np.array([3.0]), np.array([2.0]), seed=0).high == 1.5


def test_shared_drift_cancels_in_the_ratio() -> None:
    # A machine that gets slower and slower hits both alike: the ratio is still known exactly in every round.
    drift = np.linspace(1.0, 3.0, 60)
    speedup = bootstrap_median_ratio(2.0 * drift, drift, seed=1)
    assert speedup.median == pytest.approx(2.0, rel=1e-12)
    assert speedup.high - speedup.low < 1e-9


def test_ratio_is_seeded() -> None:
    a, b = np.random.default_rng(3).lognormal(size=(2, 50))
    assert bootstrap_median_ratio(a, b, seed=5) == bootstrap_median_ratio(a, b, seed=5)
    assert bootstrap_median_ratio(a, b, seed=5) != bootstrap_median_ratio(a, b, seed=6)


def test_ratio_covers_the_truth_where_rounds_depend_on_each_other() -> None:
    # Noise of both models as first-order autoregression with coefficient 0.3; the medians' ratio is 2.
    rng, n, trials, hits = np.random.default_rng(4), 100, 60, 0
    for trial in range(trials):
        noise = rng.normal(scale=0.1, size=(2, n))
        for i in range(1, n):
            noise[:, i] += 0.3 * noise[:, i - 1]
        a, b = np.exp(noise)
        speedup = bootstrap_median_ratio(2 * a, b, seed=trial)
        hits += speedup.low <= 2.0 <= speedup.high
    # At 95 % 57 of 60 are expected with a standard deviation of 1.7; blocks catch most of the dependence.
    assert hits >= 51
