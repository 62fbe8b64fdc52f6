"""Confidence intervals: of proportions, of differences of paired proportions, of ratios of medians.

Proportions get score intervals: unlike the textbook (Wald) ones they hold near 0 and 1 and for few images,
and they are never empty where nothing was observed.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.results import Interval, Speedup

LEVEL = 0.95
# Standard errors from an estimate to either end of its interval where it is normal: 1.96.
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
_RESAMPLES = 2000

# The root search brackets from beside the estimate: there the test statistic is 0/0 where all pairs agree.
_BESIDE = 1e-9


def compute_wilson_interval(successes: int, n: int) -> Interval:
    """Return the 95 % score interval of a proportion.

    Source: E. B. Wilson, JASA 22 (1927) 209-212; "method 3" of R. G. Newcombe, Statistics in Medicine 17
    (1998) 857-872.

    Args:
        successes: Between 0 and `n`.
        n: Number of trials, at least 1.

    Returns:
        Fractions.
    """
    z2 = QUANTILE**2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the bound is exact; floating point would leave 1e-17 there.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(p, low, high)


def compute_paired_interval(only_first: int, only_second: int, n: int) -> Interval:
    """Return the 95 % score interval of the difference of two proportions on the same subjects.

    With b = `only_first` and c = `only_second`, the difference d = (b - c)/n is tested against a true value
    t by

        T(t) = (b - c - n t) / sqrt(n (2 q + t (1 - t)))

    where q, the maximum likelihood estimate of P(only second) under t, is the greater root of
    A q² + B q + C = 0 with A = 2n, B = -b - c + (2n - b + c) t, C = -c t (1 - t). The interval's ends are
    where T = ±z; at t = 0, T² is McNemar's statistic.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908; compared with others by M. W. Fagerland,
    S. Lydersen and P. Laake, Statistics in Medicine 33 (2014) 2850-2875.

    Args:
        only_first: Subjects on which only the first succeeds.
        only_second: Subjects on which only the second succeeds.
        n: All subjects, at least 1.

    Returns:
        First minus second, as fractions in [-1, 1].
    """
    estimate = (only_first - only_second) / n
    # The upper end of a difference is the lower end of the opposite one.
    return Interval(
        estimate,
        _find_lower_end(only_first, only_second, n),
        -_find_lower_end(only_second, only_first, n),
    )


def _find_lower_end(b: int, c: int, n: int) -> float:
    """Return the t below (b - c)/n where Tango's T(t) = z, the quantile."""
    from scipy.optimize import brentq

    def exceed(t: float) -> float:
        """Return the numerator of T minus z times its denominator, which stays finite at t = -1."""
        B = -b - c + (2 * n - b + c) * t
        C = -c * t * (1 - t)
        q = (math.sqrt(max(B * B - 8 * n * C, 0.0)) - B) / (4 * n)
        return (b - c - n * t) - QUANTILE * math.sqrt(max(n * (2 * q + t * (1 - t)), 0.0))

    top = (b - c) / n - _BESIDE
    if top <= -1.0 or exceed(-1.0) <= 0.0:
        return -1.0
    return float(brentq(exceed, -1.0, top, xtol=1e-12))


def bootstrap_median_ratio(first: NDArray[np.float64], second: NDArray[np.float64], seed: int) -> Speedup:
    """Return the ratio of two medians of paired, consecutive measurements with its 95 % interval.

    Neighbouring rounds share the state of the machine (clock frequency, other processes), so whole blocks of
    rounds are drawn: the circular block bootstrap of D. N. Politis and J. P. Romano (in: Exploring the Limits
    of Bootstrap, 1992, 263-270), blocks of n^(1/3) rounds, percentile interval. (BCa would need the
    jackknife, which is inconsistent for medians.)

    Args:
        first: float64 `[n]`, the numerator's measurements in order of time.
        second: float64 `[n]`, the denominator's from the same rounds.
        seed: Seeds the resampling.
    """
    n = len(first)
    length = max(1, round(n ** (1 / 3)))
    blocks = -(-n // length)
    rng = np.random.default_rng(seed)
    ratios = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        starts = rng.integers(0, n, size=(blocks, 1))
        rounds = ((starts + np.arange(length)) % n).ravel()[:n]
        ratios[i] = np.median(first[rounds]) / np.median(second[rounds])
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Speedup(float(np.median(first) / np.median(second)), float(low), float(high))
