"""Pseudo-labels, sparse and with dense matrices, at a tenth of Market-1501's size."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.clustering import FORMS, made_up
from msinet.training.recipe import Unsupervised

IMAGES, IDENTITIES, DIM = 1294, 75, 2048


@pytest.mark.parametrize("form", FORMS)
def test_pseudo_labels(benchmark: BenchmarkFixture, form: str) -> None:
    """Jaccard distances and DBSCAN; `python -m bench clustering` measures full sizes and memory."""
    benchmark.group = "pseudo-labels"
    features, settings = made_up(IMAGES, IDENTITIES, DIM), Unsupervised()
    if form == "sparse":
        np.testing.assert_array_equal(FORMS["sparse"](features, settings), FORMS["dense"](features, settings))
    benchmark.pedantic(FORMS[form], (features, settings), rounds=3, warmup_rounds=1)
