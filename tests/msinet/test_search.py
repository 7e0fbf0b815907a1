"""The search: its split, its memories, its algorithm written out plainly, and all the ways to stop and go on.

A search of the smoke profile has six iterations: two epochs of three.
"""

import copy
import csv
import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msinet.cli import run_command
from msinet.data import Dataset, epoch_batches, load_dataset, open_pixels
from msinet.data.loading import PixelSource, train_batches
from msinet.data.transforms import Augmentation, normalize
from msinet.errors import DataError, TrainingDiverged, UserError, WeightsError
from msinet.models import build_model
from msinet.models.supernet import alphas_of, interactions_of
from msinet.models.weights import read_metadata
from msinet.search import (
    Memory,
    SearchRecipe,
    Side,
    block_sizes,
    read_genotype,
    search,
    search_line,
    search_recipe,
    split_identities,
    twins,
)
from msinet.search.run import entropy
from msinet.search.twins import Twins, search_alphas
from msinet.training import loop
from msinet.training.run import How, Record

SMOKE = search_recipe("smoke", "market1501")
STEPS = 6
SUPERNET = "supernet_x0_25"
CPU = torch.device("cpu")
PAPER = "GGEGAGGNGAEA"  # Table 1
#: Every way to search with a supernet, by a name.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "alphas first, leak": {"order": "alphas", "leak": True},
    "weights first, leak": {"order": "weights", "leak": True},
    "ce": {"mechanism": "ce", "overlap": 1.0},
    "zeros": {"memory_init": "zeros"},
}
some = settings(max_examples=100, deadline=None)


class Stopped(Exception):
    """Stands for a sudden end: nothing in the code under test expects it."""


# --- The split -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fifths", [False, True])
@pytest.mark.parametrize(("n", "sizes"), [(10, (2, 4, 4)), (751, (150, 300, 301)), (1041, (208, 416, 417))])
def test_blocks_are_those_of_the_specification(n: int, sizes: tuple[int, int, int], fifths: bool) -> None:
    assert block_sizes(n, 0.4, fifths=fifths) == sizes


def test_fifths_are_those_of_the_released_code_whatever_the_overlap() -> None:
    for n in range(1, 400):
        blocks = [0, 0, 0]
        for identity in range(n):  # as released: [0, q) training, [q, 3q) shared, [3q, n) validation
            q = int(n / 5)
            blocks[0 if identity < q else 1 if identity < 3 * q else 2] += 1
        assert block_sizes(n, 0.9, 7.0, fifths=True) == tuple(blocks)
        general = block_sizes(n, 0.4)
        assert max(abs(a - b) for a, b in zip(general, blocks, strict=True)) <= 3
        assert n % 5 or general == tuple(blocks)


@some
@given(st.integers(0, 2000), st.floats(0, 1), st.floats(0.05, 20))
def test_blocks_have_the_shares_asked_for(n: int, overlap: float, ratio: float) -> None:
    train_only, shared, val_only = block_sizes(n, overlap, ratio)
    assert train_only + shared + val_only == n
    assert min(train_only, shared, val_only) >= 0
    assert abs(shared - overlap * n) <= 0.5
    assert abs(train_only - (n - shared) / (1 + ratio)) <= 1


class Case(NamedTuple):
    labels: np.ndarray
    overlap: float
    ratio: float
    seed: int
    list_order: bool


@st.composite
def cases(draw: st.DrawFn, overlaps: st.SearchStrategy[float] | None = None) -> Case:
    """Shuffled labels of identities with one image and more."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=15))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    overlap = draw(overlaps or st.sampled_from([0.0, 0.2, 0.4, 1.0]) | st.floats(0, 1))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return Case(labels[order], overlap, draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.integers(0, 99)),
                draw(st.booleans()))  # fmt: skip


def split(case: Case) -> tuple[Side, Side]:
    return split_identities(
        case.labels, case.overlap, side_ratio=case.ratio, seed=case.seed, list_order=case.list_order
    )


def blocks_of(case: Case) -> list[str]:
    """What becomes of each identity."""
    train_only, shared, val_only = block_sizes(len(np.unique(case.labels)), case.overlap, case.ratio)
    return ["training"] * train_only + ["shared"] * shared + ["validation"] * val_only


@some
@given(cases())
def test_every_image_is_on_the_side_of_its_identity(case: Case) -> None:
    counts, blocks = np.bincount(case.labels), blocks_of(case)
    expected = {
        "training": [m if b == "training" or (b == "shared" and m == 1) else (m // 2 if b == "shared" else 0)
                     for m, b in zip(counts, blocks, strict=True)],
        "validation": [m if b == "validation" else (m - m // 2 if b == "shared" and m > 1 else 0)
                       for m, b in zip(counts, blocks, strict=True)],
    }  # fmt: skip
    empty = [name for name, sizes in expected.items() if not sum(sizes)]
    if empty:
        with pytest.raises(DataError, match=f"the ({'|'.join(empty)}) side of the search is empty"):
            split(case)
        return
    sides = dict(zip(("training", "validation"), split(case), strict=True))
    for name, side in sides.items():
        found = np.bincount(case.labels[side.positions], minlength=len(counts))
        assert found.tolist() == expected[name]
        assert np.all(np.diff(side.positions) > 0)
        # The side's own numbering: without gaps, in the order of the identities.
        assert side.classes == len(side.identities) == np.count_nonzero(expected[name])
        assert np.array_equal(side.identities, np.flatnonzero(expected[name]))
        assert np.array_equal(side.identities[side.labels], case.labels[side.positions])
        assert side.positions.dtype == side.labels.dtype == np.int64
    together = np.concatenate([side.positions for side in sides.values()])
    assert sorted(together.tolist()) == list(range(len(case.labels)))  # each image once, on one side


@some
@given(cases())
def test_in_list_order_the_first_images_of_a_shared_identity_train(case: Case) -> None:
    case = case._replace(list_order=True)
    try:
        training, validation = split(case)
    except DataError:
        return
    for identity, block in enumerate(blocks_of(case)):
        if block == "shared":
            images = [place for place, label in enumerate(case.labels) if label == identity]
            half = len(images) // 2 or 1
            assert set(images[:half]) <= set(training.positions.tolist())
            assert set(images[half:]) <= set(validation.positions.tolist())


@some
@given(cases(st.sampled_from([0.0, 1.0])))
def test_no_overlap_has_no_identity_in_common_and_full_overlap_all(case: Case) -> None:
    try:
        training, validation = split(case)
    except DataError:
        return
    common = set(training.identities.tolist()) & set(validation.identities.tolist())
    if case.overlap == 0:
        assert not common
        assert training.identities.max() < validation.identities.min()  # blocks in ascending order
    else:
        counts = np.bincount(case.labels)
        assert common == set(np.flatnonzero(counts > 1).tolist())
        assert training.classes == len(counts)


@some
@given(cases())
def test_the_same_seed_splits_the_same_way(case: Case) -> None:
    try:
        first = split(case)
    except DataError:
        return
    np.random.seed(0)  # noqa: NPY002 - the point is that it has no say
    for one, other in zip(first, split(case), strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.labels, other.labels)


def test_halves_are_random_and_another_seed_halves_otherwise() -> None:
    labels = np.repeat(np.arange(50), 6)
    found = [split_identities(labels, 1.0, seed=seed)[0].positions for seed in range(3)]
    listed, _ = split_identities(labels, 1.0, seed=0, list_order=True)
    assert listed.positions.tolist() == [6 * identity + image for identity in range(50) for image in range(3)]
    for one, other in ((found[0], found[1]), (found[0], found[2]), (found[0], listed.positions)):
        assert not np.array_equal(one, other)
    # Each of the six images is about as likely as another to train.
    often = np.bincount(np.concatenate(found) % 6, minlength=6)
    assert often.sum() == 450
    assert np.abs(often - 75).max() < 25


def test_ten_identities_split_as_in_the_specification() -> None:
    labels = np.repeat(np.arange(10), 5)
    for fifths in (False, True):
        training, validation = split_identities(labels, 0.4, fifths=fifths, list_order=True)
        assert training.identities.tolist() == [0, 1, 2, 3, 4, 5]
        assert validation.identities.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
        assert np.bincount(training.labels).tolist() == [5, 5, 2, 2, 2, 2]
        assert np.bincount(validation.labels).tolist() == [3, 3, 3, 3, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("labels", "overlap", "ratio", "side"),
    [([0, 0, 0], 0.0, 2.0, "training"), ([0, 0, 1, 1], 0.0, 0.1, "validation"), ([0, 1, 2], 1.0, 2.0, "validation")],
    ids=["one identity", "ratio", "single images"],
)
def test_an_empty_side_is_named(labels: list[int], overlap: float, ratio: float, side: str) -> None:
    message = rf"{max(labels) + 1} identities, overlap {overlap:g} and side ratio {ratio:g} the {side} side .* is empty"
    with pytest.raises(DataError, match=message):
        split_identities(np.array(labels), overlap, side_ratio=ratio)


# --- The memory ----------------------------------------------------------------------------------


def memory_of(centres: Tensor, **settings: float) -> Memory:
    memory = Memory(*centres.shape, **settings).to(centres.dtype)
    memory.centres.copy_(centres)
    return memory


def unit_rows(classes: int, channels: int, seed: int = 0) -> Tensor:
    rows = torch.randn(classes, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


@some
@given(st.lists(st.integers(0, 4), min_size=1, max_size=16), st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 999),
       st.booleans())  # fmt: skip
def test_an_update_goes_sample_by_sample(labels: list[int], momentum: float, seed: int, empty: bool) -> None:
    start = torch.zeros(5, 3, dtype=torch.float64) if empty else unit_rows(5, 3, seed)
    features = 4 * torch.randn(len(labels), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    memory = memory_of(start, momentum=momentum)
    memory.update(features, torch.tensor(labels))
    rows = start.tolist()
    for feature, label in zip(features.tolist(), labels, strict=True):
        length = math.sqrt(sum(x * x for x in feature))
        mixture = [momentum * c + (1 - momentum) * x / length for c, x in zip(rows[label], feature, strict=True)]
        length = math.sqrt(sum(x * x for x in mixture))
        rows[label] = [x / length for x in mixture]
    torch.testing.assert_close(memory.centres, torch.tensor(rows, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    written = torch.tensor(sorted(set(labels)))
    torch.testing.assert_close(memory.centres[written].norm(dim=1), torch.ones(len(written), dtype=torch.float64))


def test_one_update_keeps_a_fifth_of_the_row() -> None:
    memory = memory_of(torch.eye(3))
    memory.update(torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([0]))  # orthogonal to the row, of any length
    expected = torch.eye(3)
    expected[0] = torch.tensor([0.2, 0.8, 0.0]) / math.sqrt(0.2**2 + 0.8**2)
    torch.testing.assert_close(memory.centres, expected)


def test_without_momentum_a_row_is_the_last_feature_of_its_class() -> None:
    memory = memory_of(unit_rows(2, 4), momentum=0.0)
    features = unit_rows(3, 4, seed=1)
    memory.update(7 * features, torch.tensor([1, 0, 1]))
    torch.testing.assert_close(memory.centres, features[[1, 2]])


def test_an_empty_memory_knows_nothing() -> None:
    memory = Memory(7, 16)
    features = torch.randn(5, 16, requires_grad=True)
    loss = F.cross_entropy(memory.logits(features), torch.tensor([0, 1, 2, 2, 6]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(5, 16))


def test_logits_are_cosines_over_the_temperature() -> None:
    memory = memory_of(unit_rows(4, 6), temperature=0.05)
    features = 3 * torch.randn(5, 6, dtype=torch.float64)
    expected = [[float(f @ c) / float(f.norm()) / 0.05 for c in memory.centres] for f in features]
    torch.testing.assert_close(memory.logits(features), torch.tensor(expected, dtype=torch.float64))


def test_an_update_before_the_backward_pass_does_not_change_the_gradient() -> None:
    labels, gradients = torch.tensor([0, 1, 1, 3]), []
    for first in (False, True):
        memory = memory_of(unit_rows(4, 6))
        features = unit_rows(4, 6, seed=1).requires_grad_()
        loss = F.cross_entropy(memory.logits(features), labels)
        if first:
            memory.update(features, labels)
        loss.backward()
        gradients.append(features.grad)
    assert torch.equal(*gradients)
    assert not memory.centres.requires_grad


def test_a_filled_memory_holds_the_means_of_unit_features() -> None:
    memory = memory_of(unit_rows(3, 4))
    features, labels = 5 * unit_rows(9, 4, seed=1) * torch.arange(1, 10)[:, None], [0, 2, 1, 1, 0, 2, 2, 0, 2]
    memory.fill(features, torch.tensor(labels))
    for label in range(3):
        mine = [feature / feature.norm() for feature, own in zip(features, labels, strict=True) if own == label]
        mean = torch.stack(mine).mean(0)
        torch.testing.assert_close(memory.centres[label], mean / mean.norm())


# --- The recipe ----------------------------------------------------------------------------------


def test_the_defaults_are_the_paper_s() -> None:
    expected = {
        "optimizer": "sgd", "lr": 0.025, "weight_decay": 5e-4, "epochs": 350, "warmup": 10,
        "milestones": (150, 225, 300), "alpha_lr": 0.002, "alpha_weight_decay": 1e-3,
        "alpha_milestones": (150, 225, 300), "temperature": 0.05, "momentum": 0.2, "overlap": 0.4, "side_ratio": 2.0,
        "mechanism": "tcm", "order": "weights", "leak": False, "memory_init": "centroids", "mid": "out",
        "identities": 16, "images": 4, "label_smoothing": 0.0,
    }  # fmt: skip
    assert asdict(SearchRecipe()) | expected == asdict(SearchRecipe())
    assert search_recipe("paper", "msmt17") == SearchRecipe()


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.00025), (1, 0.002725), (9, 0.022525), (10, 0.025), (149, 0.025), (150, 2.5e-3), (225, 2.5e-4), (349, 2.5e-5)],
)
def test_the_weights_follow_the_schedule(epoch: int, expected: float) -> None:
    assert SearchRecipe().learning_rate(epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 2e-3), (1, 2e-3), (149, 2e-3), (150, 2e-4), (224, 2e-4), (225, 2e-5), (299, 2e-5), (300, 2e-6), (349, 2e-6)],
)
def test_the_architecture_has_no_warm_up_and_milestones_of_its_own(epoch: int, expected: float) -> None:
    recipe = SearchRecipe(milestones=(5,), warmup=40)
    assert recipe.alpha_learning_rate(epoch) == pytest.approx(expected)
    released = replace(recipe, alpha_milestones=(150, 225, 350))
    assert released.alpha_learning_rate(epoch) == pytest.approx(max(expected, 2e-5))  # the last one never acts


def test_other_lengths_stretch_the_architecture_s_schedule_too() -> None:
    recipe = SearchRecipe(alpha_milestones=(150, 225, 350))
    shorter = recipe.with_epochs(70)
    assert (shorter.epochs, shorter.warmup) == (70, 2)
    assert shorter.milestones == (30, 45, 60)
    assert shorter.alpha_milestones == (30, 45, 70)
    assert recipe.with_epochs(700).alpha_milestones == (300, 450, 700)
    assert recipe.with_epochs(1).alpha_milestones == (1, 1, 1)  # never before the first epoch
    assert shorter.alpha_lr == 0.002
    assert SearchRecipe(epochs=0).with_epochs(5) == SearchRecipe(epochs=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlap": -0.1}, r"overlap must lie in \[0, 1\], got -0.1"),
        ({"overlap": 1.1}, r"overlap must lie in \[0, 1\], got 1.1"),
        ({"overlap": math.nan}, r"overlap must lie in \[0, 1\], got nan"),
        ({"mechanism": "ce"}, "mechanism ce needs overlap 1, got 0.4"),
        ({"mechanism": "darts"}, "unknown mechanism 'darts'.* Known: ce, tcm, tpe"),
        ({"split": "thirds"}, "unknown split 'thirds'.* Known: fifths, general"),
        ({"halves": "rnadom"}, "unknown halves 'rnadom'. Did you mean 'random'"),
        ({"memory_init": "zero"}, "unknown memory_init 'zero'. Did you mean 'zeros'"),
        ({"order": "alpha"}, "unknown order 'alpha'. Did you mean 'alphas'"),
        ({"mid": "input"}, "unknown mid 'input'.* Known: in, out"),
        ({"side_ratio": 0.0}, "side_ratio must be above 0, got 0.0"),
        ({"side_ratio": math.inf}, "side_ratio must be above 0, got inf"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"alpha_lr": -1.0}, "alpha_lr must be above 0, got -1.0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\), got -0.1"),
        ({"alpha_weight_decay": -1e-3}, "alpha_weight_decay must be at least 0, got -0.001"),
        ({"alpha_weight_decay": math.inf}, "alpha_weight_decay must be at least 0, got inf"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"identities": 1}, "identities must be at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchRecipe(**settings)


def test_settings_at_the_edge_are_accepted() -> None:
    for settings in ({"overlap": 0.0}, {"overlap": 1.0, "mechanism": "ce"}, {"momentum": 0.0}, {"trials": 1},
                     {"alpha_weight_decay": 0.0}):  # fmt: skip
        assert asdict(SearchRecipe(**settings)) == asdict(SearchRecipe()) | settings


def test_vehicles_are_searched_in_squares() -> None:
    sizes = {
        (profile, source): (search_recipe(profile, source).height, search_recipe(profile, source).width)
        for profile in ("smoke", "mini", "paper") for source in ("msmt17", "veri776", "vehicleid_800")
    }  # fmt: skip
    assert sizes == {
        ("smoke", "msmt17"): (32, 16), ("smoke", "veri776"): (32, 32), ("smoke", "vehicleid_800"): (32, 32),
        ("mini", "msmt17"): (64, 32), ("mini", "veri776"): (48, 48), ("mini", "vehicleid_800"): (48, 48),
        ("paper", "msmt17"): (256, 128), ("paper", "veri776"): (256, 256), ("paper", "vehicleid_800"): (256, 256),
    }  # fmt: skip
    with pytest.raises(UserError, match="unknown profile 'papper'. Did you mean 'paper'"):
        search_recipe("papper", "msmt17")


# --- The algorithm, written out plainly ----------------------------------------------------------


class Exact(nn.Module):
    """A network in float64, whatever the images come in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Any:
        return self.network(images.double())


class Setting(NamedTuple):
    """All that a search of the mechanism starts from."""

    twins: Twins
    pixels: PixelSource
    training: Side
    validation: Side


def start(dataset: Dataset, recipe: SearchRecipe, seed: int = 0) -> Setting:
    training, validation = split_identities(dataset.labels, recipe.overlap, seed=seed)
    torch.manual_seed(seed)
    network = Exact(build_model(SUPERNET, dataset.num_classes, interactions=6))
    memories = (Memory(side.classes, 128, recipe.temperature, recipe.momentum) for side in (training, validation))
    both = Twins(network, *memories).to(torch.float64).to(memory_format=torch.channels_last)
    return Setting(both, open_pixels(dataset, "train", 32, 16, progress=False), training, validation)


def alternate(setting: Setting, recipe: SearchRecipe, folder: Path, **more: Any) -> loop.Result:
    return search_alphas(
        setting.twins, setting.pixels, setting.training, setting.validation, recipe, folder,
        seed=11, identity="", device=CPU, progress=False, **more,
    )  # fmt: skip


def plainly(setting: Setting, recipe: SearchRecipe) -> dict[str, Tensor]:
    """The state after the same search, as the paper and the released code describe it (SPEC A.5, A.7, A.10)."""
    network = setting.twins.network
    alphas = [parameter for name, parameter in network.named_parameters() if name.endswith("alpha")]
    weights = [p for name, p in network.named_parameters() if not name.endswith("alpha") and name != "head.bn.bias"]
    weights = [p for p in weights if p.requires_grad]
    sgd = torch.optim.SGD(weights, 1.0, momentum=0.9, weight_decay=recipe.weight_decay, foreach=False)
    adam = torch.optim.Adam(alphas, 1.0, betas=(0.5, 0.999), weight_decay=1e-3, foreach=False)
    memories: list[Tensor] = []
    for side in (setting.training, setting.validation):
        images = normalize(np.stack([setting.pixels[int(i)] for i in side.positions]))
        with torch.no_grad():
            features = copy.deepcopy(network).train()(images).embeddings[0]
        rows = torch.zeros(side.classes, 128, dtype=torch.float64)
        for feature, label in zip(features, side.labels, strict=True):
            rows[label] += feature / feature.norm() / int((side.labels == label).sum())
        memories.append(rows / rows.norm(dim=1, keepdim=True) if recipe.memory_init == "centroids" else 0 * rows)
    network.train()
    leaked: list[Tensor | None] = [None] * len(weights)

    def batches(side: Side, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        plan = [
            (epoch, step, batch)
            for epoch in range(recipe.epochs)
            for step, batch in enumerate(epoch_batches(
                side.labels, recipe.identities, recipe.images, seed=seed, epoch=epoch, steps=recipe.steps_per_epoch
            )) if step >= first
        ]  # fmt: skip
        labels = side.identities[side.labels] if recipe.mechanism == "ce" else side.labels
        own = [setting.pixels[int(i)] for i in side.positions]
        return train_batches(own, labels, recipe.augmentation, iter(plan), seed=seed)

    streams = batches(setting.training, 11), batches(setting.validation, 12, int(recipe.order == "alphas"))

    def loss_on(number: int) -> tuple[Tensor, Callable[[], None]]:
        """The loss of a side's next batch, and what renews its memory."""
        images, labels = next(streams[number])
        output = network(images.to(memory_format=torch.channels_last))
        if recipe.mechanism == "ce":
            return F.cross_entropy(output.logits[0], labels), lambda: None
        features, rows = output.embeddings[0], memories[number].clone()
        unit = features / features.norm(dim=1, keepdim=True)
        scores = unit @ rows.T / recipe.temperature
        loss = (scores.logsumexp(1) - scores[range(len(labels)), labels]).mean()

        def renew() -> None:
            for one, label in zip(unit.detach(), labels.tolist(), strict=True):
                mixture = recipe.momentum * memories[number][label] + (1 - recipe.momentum) * one
                memories[number][label] = mixture / mixture.norm()

        return loss, renew

    def architecture() -> None:
        loss, renew = loss_on(1)
        gradients = torch.autograd.grad(loss, [*alphas, *weights], allow_unused=True)
        if recipe.leak:
            leaked[:] = gradients[len(alphas) :]
        for alpha, gradient in zip(alphas, gradients, strict=False):
            alpha.grad = gradient
        adam.step()
        renew()

    def ordinary() -> None:
        loss, renew = loss_on(0)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient, rest in zip(weights, gradients, leaked, strict=True):
            weight.grad = gradient if rest is None or gradient is None else gradient + rest
        leaked[:] = [None] * len(weights)
        sgd.step()
        renew()

    for epoch in range(recipe.epochs):
        sgd.param_groups[0]["lr"] = recipe.lr * (0.01 if epoch == 0 and recipe.warmup else 1)
        adam.param_groups[0]["lr"] = recipe.alpha_lr * (0.1 if epoch >= 1 else 1)
        for step in range(3):
            if recipe.order == "weights":
                ordinary()
                architecture()
            else:
                if step:
                    architecture()
                ordinary()
    return {
        **{f"network.{name}": value for name, value in network.state_dict().items()},
        "training_memory.centres": memories[0], "validation_memory.centres": memories[1],
    }  # fmt: skip


LEARNING = replace(
    SMOKE, optimizer="sgd", lr=0.05, warmup=0, milestones=(), alpha_lr=0.1, alpha_milestones=(1,),
    augmentation=Augmentation(pad=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def market(data_root: Path) -> Dataset:
    return load_dataset("market1501", data_root)


@pytest.mark.parametrize(
    "way",
    [*WAYS.values(), {"order": "alphas"}, {"order": "alphas", "leak": True, "memory_init": "zeros"},
     {"mechanism": "ce", "overlap": 1.0, "leak": True, "order": "alphas"}],
    ids=lambda way: " ".join(f"{name}={value}" for name, value in way.items()) or "default",
)  # fmt: skip
def test_a_search_is_the_algorithm_written_out_plainly(market: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    recipe = replace(LEARNING, **way)
    setting = start(market, recipe)
    before = {name: value.clone() for name, value in setting.twins.state_dict().items()}
    alternate(setting, recipe, tmp_path)
    expected = plainly(start(market, recipe), recipe)
    found = setting.twins.state_dict()
    assert set(found) == set(expected)
    unlearned = {"head.classifier.weight", "head.bn.weight", "head.bn.bias"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
        idle = recipe.mechanism == "ce" and "memory" in name
        idle = idle or name == "network.network.head.bn.bias"  # the frozen one
        idle = idle or (recipe.mechanism == "tcm" and name.removeprefix("network.network.") in unlearned)
        assert torch.equal(value, before[name]) == idle, name
