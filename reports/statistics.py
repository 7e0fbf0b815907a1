"""Differences over seeds: mean, confidence interval, paired t-test, and correction for multiple comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t: its distribution function and the inverse

#: Significance level of adjusted p values.
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A mean difference over paired repetitions."""

    mean: float
    low: float
    """lower end of the 95 % confidence interval (Student's t); NaN of a single pair"""
    high: float
    """upper end of the interval"""
    p: float
    """two-sided paired t-test; NaN of a single pair"""
    count: int
    """number of pairs"""


def paired(differences: "pd.Series[float] | Sequence[float]") -> Difference:
    """Mean, confidence interval and paired t-test of differences; NaN (an unpaired seed) is left out.

    Equal differences have no variance: the interval is a point and p is 0, or 1 if they are all 0.

    Raises:
        ValueError: no pair.
    """
    values = np.asarray(differences, dtype=float)
    values = values[~np.isnan(values)]
    count, mean = len(values), float(values.mean()) if len(values) else math.nan
    if not count:
        raise ValueError("no pair to compare")
    if count == 1:
        return Difference(mean, math.nan, math.nan, math.nan, 1)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0), count)
    half = float(stdtrit(count - 1, 0.975)) * error
    return Difference(mean, mean - half, mean + half, float(2 * stdtr(count - 1, -abs(mean) / error)), count)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the given order; NaN stays NaN and counts for nothing."""
    known = [i for i, value in enumerate(p) if not math.isnan(value)]
    adjusted = list(p)
    highest = 0.0
    for place, i in enumerate(sorted(known, key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(known) - place) * p[i]))
        adjusted[i] = highest
    return adjusted
