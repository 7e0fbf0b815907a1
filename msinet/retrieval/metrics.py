"""Per-query results of a ranking, and the table of metrics (Sec. 4.1, docs/protocol.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msinet.errors import UserError


@dataclass(frozen=True, eq=False)  # eq=False: arrays compare elementwise
class Retrieval:
    """Results of Q queries. Queries without a match are marked in `valid` and left out of all means.

    Attributes:
        valid: (Q,) bool, True if the query has a match in the gallery; at least one is True.
        ap: (Q,) average precision in (0, 1], NaN where invalid.
        inp: (Q,) matches / rank of the last match, in (0, 1], NaN where invalid.
        first_rank: (Q,) rank of the first match, from 1; 0 where invalid.
        positives: (Q,) number of matches; 0 where invalid.
    """

    valid: NDArray[np.bool_]
    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    first_rank: NDArray[np.int64]
    positives: NDArray[np.int64]

    @property
    def mAP(self) -> float:  # noqa: N802  (standard name)
        """Mean of the average precisions of the valid queries, in (0, 1]."""
        return float(self.ap[self.valid].mean())

    @property
    def mINP(self) -> float:  # noqa: N802
        """Mean inverse negative penalty of the valid queries, in (0, 1] (arXiv 2001.04193)."""
        return float(self.inp[self.valid].mean())

    def rank(self, k: int) -> float:
        """R-k: the share of valid queries with a match among their first k items, in [0, 1].

        Raises:
            UserError: k is below 1.
        """
        if k < 1:
            raise UserError(f"ranks count from 1, so R-k needs k of at least 1, got {k}")
        return float((self.first_rank[self.valid] <= k).mean())

    def cmc(self, length: int = 50) -> NDArray[np.float64]:
        """The cumulative match characteristic: R-1, R-2, ... as an array (length,). It is constant beyond the gallery.

        Raises:
            UserError: the length is below 1.
        """
        if length < 1:
            raise UserError(f"a CMC curve has at least 1 rank, got {length}")
        return np.array([self.rank(k) for k in range(1, length + 1)])

    def metrics(self) -> dict[str, float]:
        """Every metric of `METRICS` by name, in [0, 1]."""
        return {name: metric(self) for name, metric in METRICS.items()}


#: The metrics by name, as they are recorded: functions of a result with values in [0, 1]; higher is better.
METRICS: dict[str, Callable[[Retrieval], float]] = {
    "mAP": lambda result: result.mAP,
    "R1": lambda result: result.rank(1),
    "R5": lambda result: result.rank(5),
    "R10": lambda result: result.rank(10),
    "mINP": lambda result: result.mINP,
}


def mean_over_draws(results: Sequence[Retrieval]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation (n - 1 in the denominator; 0 for one draw) of every metric.

    Used for VehicleID, whose gallery is drawn at random several times (docs/protocol.md), and for oracles, whose equal
    images are ordered at random several times (docs/calibration.md).

    Raises:
        UserError: there are no results.
    """
    if not results:
        raise UserError("no draws to average: evaluate at least one gallery draw")
    draws = [result.metrics() for result in results]
    means = {name: float(np.mean([draw[name] for draw in draws])) for name in METRICS}
    if len(draws) == 1:
        return means, dict.fromkeys(METRICS, 0.0)
    return means, {name: float(np.std([draw[name] for draw in draws], ddof=1)) for name in METRICS}
