"""Differences over seeds against scipy's own tests and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.statistics import holm, paired


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8))
def test_paired_differences_agree_with_scipy(values: list[int]) -> None:
    if len(set(values)) == 1:
        return  # no spread: below
    found = paired(values)
    theirs = stats.ttest_1samp(values, 0.0)
    interval = theirs.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.count == len(values)


def test_three_seeds_by_hand() -> None:
    found = paired([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t of 97.5 % at two degrees of freedom, standard deviation 1
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half))
    assert found.p == pytest.approx(0.0741799, abs=1e-6)  # 2 sqrt(3) at two degrees of freedom


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = paired([1.5])
    assert (found.mean, found.count) == (1.5, 1)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p))


def test_seeds_without_a_partner_are_left_out() -> None:
    assert paired([1.0, math.nan, 3.0]) == paired([1.0, 3.0])
    with pytest.raises(ValueError, match="no pair"):
        paired([math.nan])


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (2.0, 0.0)])
def test_differences_without_spread(value: float, p: float) -> None:
    found = paired([value] * 3)
    assert (found.mean, found.low, found.high, found.p) == (value, value, value, p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), max_size=6))
def test_holm_keeps_the_order_and_never_lowers_a_value(p: list[float]) -> None:
    adjusted = holm(p)
    known = [(a, b) for a, b in zip(p, adjusted, strict=True) if not math.isnan(a)]
    assert [math.isnan(value) for value in adjusted] == [math.isnan(value) for value in p]
    assert all(a <= b <= 1 for a, b in known)
    assert [b for _, b in sorted(known)] == sorted(b for _, b in known)
    if known:
        assert min(b for _, b in known) == pytest.approx(min(1.0, len(known) * min(a for a, _ in known)))
