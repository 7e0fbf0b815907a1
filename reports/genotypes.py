"""Agreement of the genotypes that several searches found, compared with chance.

If searches that differ only in their seed do not agree, their operations are arbitrary. Training their genotypes then
says nothing about the search. docs/statistics.md states the formulas.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import special  # scipy.stats takes seconds to import

from msinet.models.genotype import OPERATIONS
from reports.statistics import LEVEL, p_value


@dataclass(frozen=True)
class Agreement:
    """Share of interactions that two searches have in common, mean over all pairs of searches."""

    searches: int
    interactions: int
    share: float
    """in [0, 1]; by chance 1 / number of operations"""
    interval: tuple[float, float]
    """95 % interval over interactions"""
    p: float
    """probability of this share or a larger one if all operations are equally likely and independent"""

    @property
    def above_chance(self) -> bool:
        """True if the searches agree more than by chance."""
        return self.p < LEVEL

    def __str__(self) -> str:
        low, high = (self.interactions * bound for bound in self.interval)
        chance = f"by chance {self.interactions / len(OPERATIONS):.0f}, {p_value(self.p)}"
        return (
            f"{self.searches} searches agree in {self.interactions * self.share:.1f} of {self.interactions} "
            f"interactions [{low:.1f}, {high:.1f}], {chance}"
        )


def agreement(genotypes: Sequence[str]) -> Agreement:
    """Agreement of searches.

    Args:
        genotypes: one per search, with one letter per interaction; all of the same length.

    Raises:
        ValueError: fewer than two genotypes, or of different lengths.
    """
    if len(genotypes) < 2 or len(set(map(len, genotypes))) > 1:
        raise ValueError("agreement needs at least two genotypes of one length")
    letters = np.array([list(one) for one in genotypes])  # (searches, interactions)
    number, length = letters.shape
    equal = [sum(a == b for i, a in enumerate(column) for b in column[:i]) for column in letters.T]
    pairs = math.comb(number, 2)
    shares = np.array(equal) / pairs  # (interactions,)
    half = float(special.stdtrit(length - 1, 1 - LEVEL / 2) * shares.std(ddof=1) / math.sqrt(length))
    mean = float(shares.mean())
    chance = _distribution(number, length)
    return Agreement(
        number, length, mean, (max(0.0, mean - half), min(1.0, mean + half)), float(chance[sum(equal) :].sum())
    )


@cache
def _distribution(searches: int, interactions: int) -> np.ndarray:
    """(pairs * interactions + 1,) probability of each number of equal pairs if all operations are equally likely."""
    one = np.zeros(math.comb(searches, 2) + 1)
    for counts in product(range(searches + 1), repeat=len(OPERATIONS)):
        if sum(counts) == searches:
            ways = math.factorial(searches) / math.prod(map(math.factorial, counts))
            one[sum(math.comb(count, 2) for count in counts)] += ways / len(OPERATIONS) ** searches
    total = np.ones(1)
    for _ in range(interactions):
        total = np.convolve(total, one)
    return total
