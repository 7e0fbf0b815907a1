"""Agreement of searches, against the binomial distribution, enumeration and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from msinet.models.genotype import OPERATIONS
from reports.genotypes import agreement


@pytest.mark.parametrize("equal", range(13))
def test_two_searches_are_binomial(equal: int) -> None:
    found = agreement(["G" * 12, "G" * equal + "N" * (12 - equal)])
    assert found.share == pytest.approx(equal / 12)
    assert found.p == pytest.approx(stats.binom.sf(equal - 1, 12, 1 / 4))
    assert found.above_chance == (equal >= 7)


def test_three_searches_against_all_genotypes_of_two_interactions() -> None:
    words = ["".join(letters) for letters in product(OPERATIONS, repeat=2)]
    shares = np.array([agreement(three).share for three in product(words, repeat=3)])
    assert shares.mean() == pytest.approx(1 / 4)
    for three in (["NN", "NN", "NN"], ["NG", "NA", "NE"], ["NG", "GN", "EA"]):
        found = agreement(three)
        assert found.p == pytest.approx((shares >= found.share - 1e-12).mean())


def test_pairs_are_counted() -> None:
    found = agreement(["NNGE", "NGGA", "NAEA"])
    assert found.share == pytest.approx((3 + 0 + 1 + 1) / 3 / 4)
    assert found.searches, found.interactions == (3, 4)
    low, high = found.interval
    shares = np.array([1, 0, 1 / 3, 1 / 3])
    half = stats.t.ppf(0.975, 3) * shares.std(ddof=1) / 2
    assert (low, high) == pytest.approx((max(0, shares.mean() - half), min(1, shares.mean() + half)))


def test_random_searches_are_above_chance_in_at_most_one_case_of_twenty() -> None:
    rng = np.random.default_rng(0)
    letters = rng.choice(list(OPERATIONS), (1000, 4, 12))
    found = [agreement(["".join(one) for one in four]).above_chance for four in letters]
    assert np.mean(found) < 0.07


@pytest.mark.parametrize("genotypes", [["NNNN"], [], ["NN", "NNN"]])
def test_one_search_has_no_agreement(genotypes: list[str]) -> None:
    with pytest.raises(ValueError, match="at least two genotypes of one length"):
        agreement(genotypes)


def test_the_sentence() -> None:
    assert str(agreement(["G" * 12, "G" * 6 + "N" * 6])).startswith("2 searches agree in 6.0 of 12 interactions [2.")
