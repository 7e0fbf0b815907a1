"""P x K batches: what every batch holds, when a pass ends, and what a seed decides."""

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.data import epoch_batches, load_dataset, pk_batches
from msinet.errors import DataError

some = settings(max_examples=100, deadline=None)  # a busy machine is no failure


class Case(NamedTuple):
    labels: list[int]
    p: int
    k: int
    seed: int


@st.composite
def cases(draw: st.DrawFn, fewest: int = 1) -> Case:
    """Shuffled labels with gaps between their numbers, of enough identities for a batch."""
    sizes = draw(st.lists(st.integers(fewest, 11), min_size=1, max_size=12))
    labels = [7 * i + 3 for i, size in enumerate(sizes) for _ in range(size)]
    p = draw(st.integers(1, len(sizes)))
    k = draw(st.integers(1, 5))
    return Case(draw(st.permutations(labels)), p, k, draw(st.integers(0, 2**40)))


def used(case: Case, batches: list[list[int]]) -> Counter[int]:
    """Chunks per identity."""
    return Counter(case.labels[batch[i]] for batch in batches for i in range(0, len(batch), case.k))


@some
@given(cases())
def test_a_batch_has_p_identities_with_k_images_side_by_side(case: Case) -> None:
    batches = pk_batches(case.labels, case.p, case.k, (case.seed,))
    assert batches  # enough identities for one batch at least
    for batch in batches:
        assert len(batch) == case.p * case.k
        groups = [{case.labels[i] for i in batch[at : at + case.k]} for at in range(0, len(batch), case.k)]
        assert all(len(group) == 1 for group in groups)
        assert len(set.union(*groups)) == case.p
        assert all(type(i) is int for i in batch)


@some
@given(cases())
def test_within_a_pass_images_repeat_only_where_an_identity_has_too_few(case: Case) -> None:
    batches = pk_batches(case.labels, case.p, case.k, (case.seed,))
    sizes = Counter(case.labels)
    for image, times in Counter(i for batch in batches for i in batch).items():
        assert times == 1 or sizes[case.labels[image]] < case.k


@some
@given(cases())
def test_a_pass_ends_when_too_few_identities_have_chunks_left(case: Case) -> None:
    batches = pk_batches(case.labels, case.p, case.k, (case.seed,))
    chunks = {label: max(1, size // case.k) for label, size in Counter(case.labels).items()}
    taken = used(case, batches)
    assert all(taken[label] <= chunks[label] for label in chunks)
    assert sum(taken[label] < chunks[label] for label in chunks) < case.p


@some
@given(cases())
def test_the_same_seed_gives_the_same_batches(case: Case) -> None:
    first = pk_batches(case.labels, case.p, case.k, (case.seed, 1))
    np.random.seed(0)  # noqa: NPY002 - the point is that it has no say
    random.seed(0)
    torch.manual_seed(0)
    assert pk_batches(np.array(case.labels), case.p, case.k, [case.seed, 1]) == first


def test_seeds_differ() -> None:
    labels = [i % 10 for i in range(60)]
    passes = [pk_batches(labels, 4, 3, seed) for seed in ((0,), (1,), (0, 1), (1, 1), (0, 1, 1))]
    assert all(passes[i] != passes[j] for i in range(5) for j in range(i))


@some
@given(cases(fewest=5))
def test_a_pass_is_at_most_as_long_as_the_images_allow(case: Case) -> None:
    batches = pk_batches(case.labels, case.p, case.k, (case.seed,))
    assert len(batches) <= len(case.labels) // (case.p * case.k)


@pytest.mark.parametrize(
    ("identities", "images", "bound"), [(751, 12_936, 202), (1041, 32_621, 510), (576, 37_778, 590)]
)
def test_published_sizes_stay_below_the_published_bound(identities: int, images: int, bound: int) -> None:
    """At most N/64 batches an epoch. As remainders are dropped, each identity costs 3 images at most."""
    rng = np.random.default_rng(0)
    extra = rng.multinomial(images - 4 * identities, rng.dirichlet(np.ones(identities)))
    labels = np.repeat(np.arange(identities), 4 + extra)
    batches = pk_batches(labels, 16, 4, (0,))
    assert 0.5 * bound < len(batches) <= bound == round(images / 64)
    assert len({i for batch in batches for i in batch}) == 64 * len(batches)


def test_every_identity_is_as_likely_to_come_first() -> None:
    labels = [0] * 4 + [1] * 12 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 40
    first = Counter(labels[i] for seed in range(3000) for i in pk_batches(labels, 2, 4, (seed,))[0][::4])
    for label in range(6):  # by identity, not by its number of images
        assert first[label] == pytest.approx(1000, abs=130)  # five standard deviations


def test_every_image_is_used_over_several_passes() -> None:
    labels = [0] * 7 + [1] * 5 + [2] * 2  # with k = 4 a pass drops 3 images of identity 0 and 1 of identity 1
    seen = {i for seed in range(40) for batch in pk_batches(labels, 3, 4, (seed,)) for i in batch}
    assert seen == set(range(14))


def test_an_identity_with_one_image_repeats_it() -> None:
    batches = pk_batches([5, 8, 8, 8, 8], 2, 4, (3,))
    assert len(batches) == 1
    assert sorted(batches[0]) == [0, 0, 0, 0, 1, 2, 3, 4]


def test_large_numbers_of_identities_stay_apart() -> None:
    """As 64-bit floats, these numbers are equal."""
    batches = pk_batches([10**17 + 1, 10**17 + 2, 10**17 + 1, 10**17 + 2], 2, 2, (0,))
    assert [sorted(map(sorted, (batch[:2], batch[2:]))) for batch in batches] == [[[0, 2], [1, 3]]]


def test_too_few_identities(data_root: Path) -> None:
    labels = load_dataset("market1501", data_root).labels
    assert pk_batches(labels, 8, 4, (0,))
    with pytest.raises(DataError, match="a batch needs 9 identities, but the training set has 8; take fewer"):
        pk_batches(labels, 9, 4, (0,))
    with pytest.raises(DataError, match="the training set has 0"):
        epoch_batches([], 1, 1, seed=0, epoch=0)


# --- Epochs --------------------------------------------------------------------------------------


@some
@given(cases(), st.integers(0, 400), st.integers(0, 30))
def test_an_epoch_of_given_length(case: Case, epoch: int, steps: int) -> None:
    batches = epoch_batches(case.labels, case.p, case.k, seed=case.seed, epoch=epoch, steps=steps)
    assert len(batches) == steps
    assert batches == epoch_batches(case.labels, case.p, case.k, seed=case.seed, epoch=epoch, steps=steps)
    whole = epoch_batches(case.labels, case.p, case.k, seed=case.seed, epoch=epoch)
    assert batches[: len(whole)] == whole[:steps]  # a longer epoch goes on where the pass ends
    assert all(len({case.labels[i] for i in batch}) == case.p for batch in batches)


def test_one_epoch_is_one_pass() -> None:
    labels = [i % 6 for i in range(50)]
    batches = epoch_batches(labels, 3, 4, seed=5, epoch=2)
    case = Case(labels, 3, 4, 0)
    assert all(times <= 2 for times in used(case, batches).values())  # 8 or 9 images are two chunks
    assert len(batches) in (3, 4)


def test_passes_of_a_long_epoch_differ() -> None:
    labels = [i % 4 for i in range(16)]  # one pass is one batch: all identities, all images
    batches = epoch_batches(labels, 4, 4, seed=0, epoch=0, steps=5)
    assert all(sorted(batch) == list(range(16)) for batch in batches)
    assert len({tuple(batch) for batch in batches}) == 5


def test_epochs_and_seeds_differ() -> None:
    labels = [i % 8 for i in range(64)]
    runs = [epoch_batches(labels, 4, 4, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(runs[i] != runs[j] for i in range(4) for j in range(i))
