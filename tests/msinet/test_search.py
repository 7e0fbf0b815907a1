"""The search: its split, its memories, its algorithm written out plainly, and all the ways to stop and go on.

A search of the smoke profile has six iterations: two epochs of three.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support import At, Exact, ExactMemory, Stopped, at_steps, changed, interrupt, noting, stop, table
from torch import Tensor, nn

from msinet.cli import run_command
from msinet.data import Dataset, epoch_batches, load_dataset, open_pixels
from msinet.data.loading import PixelSource, train_batches
from msinet.data.transforms import normalize
from msinet.errors import DataError, TrainingDiverged, UserError, WeightsError
from msinet.models import build_model
from msinet.models.supernet import interactions_of
from msinet.models.weights import read_metadata
from msinet.search import (
    Memory,
    SearchRun,
    Side,
    block_sizes,
    read_genotype,
    search,
    search_line,
    split_identities,
    twins,
)
from msinet.search.run import entropy
from msinet.search.twins import SEARCHES, Twins, TwinsSearch
from msinet.training import fit
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, Search, settings
from msinet.training.recipes import resolve_search
from msinet.training.run_folder import Record

SMOKE = resolve_search("smoke", "market1501").recipe
PUBLISHED = resolve_search("paper", "msmt17").recipe
STEPS = 6
SUPERNET = "supernet_x0_25"
PAPER = "GGEGAGGNGAEA"  # Table 1
#: Every way to search with a supernet, by a name.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "alphas first, leak": {"order": "alphas", "leak": True},
    "weights first, leak": {"order": "weights", "leak": True},
    "ce": {"mechanism": "ce", "overlap": 1.0},
    "zeros": {"memory_init": "zeros"},
}
some = given_settings(max_examples=100, deadline=None)


# --- The split -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fifths", [False, True])
@pytest.mark.parametrize(("n", "sizes"), [(10, (2, 4, 4)), (751, (150, 300, 301)), (1041, (208, 416, 417))])
def test_block_sizes_of_real_data_sets(n: int, sizes: tuple[int, int, int], fifths: bool) -> None:
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
    if overlaps is None:
        overlaps = st.sampled_from([0.0, 0.2, 0.4, 1.0]) | st.floats(0, 1)
    overlap = draw(overlaps)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return Case(
        labels[order], overlap, draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.integers(0, 99)), draw(st.booleans())
    )


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
        "training": [
            m if b == "training" or (b == "shared" and m == 1) else (m // 2 if b == "shared" else 0)
            for m, b in zip(counts, blocks, strict=True)
        ],
        "validation": [
            m if b == "validation" else (m - m // 2 if b == "shared" and m > 1 else 0)
            for m, b in zip(counts, blocks, strict=True)
        ],
    }
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


def test_ten_identities_split_as_in_the_released_code() -> None:
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
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=16),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.integers(0, 999),
    st.booleans(),
)
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
        "optimizer": "sgd",
        "lr": 0.025,
        "weight_decay": 5e-4,
        "epochs": 350,
        "warmup": 10,
        "milestones": (150, 225, 300),
        "alpha_lr": 0.002,
        "alpha_weight_decay": 1e-3,
        "alpha_milestones": (150, 225, 300),
        "temperature": 0.05,
        "momentum": 0.2,
        "overlap": 0.4,
        "side_ratio": 2.0,
        "mechanism": "tcm",
        "order": "weights",
        "leak": False,
        "memory_init": "centroids",
        "mid": "out",
        "identities": 16,
        "images": 4,
        "label_smoothing": 0.0,
    }
    assert settings(PUBLISHED) | expected == settings(PUBLISHED)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.00025),
        (1, 0.002725),
        (9, 0.022525),
        (10, 0.025),
        (149, 0.025),
        (150, 2.5e-3),
        (225, 2.5e-4),
        (349, 2.5e-5),
    ],
)
def test_the_weights_follow_the_schedule(epoch: int, expected: float) -> None:
    assert PUBLISHED.learning_rate(epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 2e-3), (1, 2e-3), (149, 2e-3), (150, 2e-4), (224, 2e-4), (225, 2e-5), (299, 2e-5), (300, 2e-6), (349, 2e-6)],
)
def test_the_architecture_has_no_warm_up_and_milestones_of_its_own(epoch: int, expected: float) -> None:
    recipe = changed(PUBLISHED, milestones=(5,), warmup=40)
    assert recipe.search_settings.alpha_learning_rate(epoch) == pytest.approx(expected)
    released = changed(recipe, alpha_milestones=(150, 225, 350))
    assert released.search_settings.alpha_learning_rate(epoch) == pytest.approx(
        max(expected, 2e-5)
    )  # the last one never acts


def test_other_lengths_stretch_the_architecture_s_schedule_too() -> None:
    recipe = changed(PUBLISHED, alpha_milestones=(150, 225, 350))
    shorter = recipe.with_epochs(70)
    assert (shorter.schedule.epochs, shorter.schedule.warmup) == (70, 2)
    assert shorter.schedule.milestones == (30, 45, 60)
    assert shorter.search_settings.alpha_milestones == (30, 45, 70)
    assert recipe.with_epochs(700).search_settings.alpha_milestones == (300, 450, 700)
    assert recipe.with_epochs(1).search_settings.alpha_milestones == (1, 1, 1)  # never before the first epoch
    assert shorter.search_settings.alpha_lr == 0.002
    assert changed(PUBLISHED, epochs=0).with_epochs(5) == changed(PUBLISHED, epochs=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": -0.1}, r"overlap must lie in \[0, 1\], got -0.1"),
        ({"overlap": 1.1}, r"overlap must lie in \[0, 1\], got 1.1"),
        ({"overlap": math.nan}, r"overlap must lie in \[0, 1\], got nan"),
        ({"mechanism": "ce"}, "mechanism ce needs overlap 1, got 0.4"),
        ({"mechanism": "darts"}, "unknown mechanism 'darts'.* Known: ce, tcm, tpe"),
        ({"split": "thirds"}, "unknown split 'thirds'.* Known: fifths, general"),
        ({"split": "fifths", "overlap": 0.5}, "split fifths .* needs mechanism tcm or tpe, overlap 0.4 and side_ratio"),
        ({"split": "fifths", "side_ratio": 3.0}, "split fifths .* needs .* overlap 0.4 and side_ratio 2"),
        ({"split": "fifths", "mechanism": "ce", "overlap": 1.0}, "split fifths .* needs mechanism tcm or tpe"),
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
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(PUBLISHED, **changes)


def test_settings_at_the_edge_are_accepted() -> None:
    for changes in (
        {"overlap": 0.0},
        {"overlap": 1.0, "mechanism": "ce"},
        {"momentum": 0.0},
        {"trials": 1},
        {"alpha_weight_decay": 0.0},
    ):
        assert settings(changed(PUBLISHED, **changes)) == settings(PUBLISHED) | changes


def test_a_label_tells_what_is_not_as_in_the_paper() -> None:
    assert Search().label == "TCM r=0.4"
    assert Search(overlap=0.25, alpha_lr=1.0).label == "TCM r=0.25"
    assert Search(mechanism="ce", overlap=1.0).label == "CE r=1"
    assert Search(mechanism="tpe", trials=5, leak=True).label == "TPE, 5 trials"
    words = Search(leak=True, order="alphas", momentum=0.5).label.split()
    assert words[:2] == ["TCM", "r=0.4"]
    assert set(words[2:]) == {"leak", "order=alphas", "momentum=0.5"}


def test_vehicles_are_searched_in_squares() -> None:
    sizes = {
        (profile, source): (image.height, image.width)
        for profile in ("smoke", "mini", "paper")
        for source in ("msmt17", "veri776", "vehicleid_800")
        if (image := resolve_search(profile, source).recipe.image)
    }
    assert sizes == {
        ("smoke", "msmt17"): (32, 16),
        ("smoke", "veri776"): (32, 32),
        ("smoke", "vehicleid_800"): (32, 32),
        ("mini", "msmt17"): (64, 32),
        ("mini", "veri776"): (48, 48),
        ("mini", "vehicleid_800"): (48, 48),
        ("paper", "msmt17"): (256, 128),
        ("paper", "veri776"): (256, 256),
        ("paper", "vehicleid_800"): (256, 256),
    }
    with pytest.raises(UserError, match=r"unknown profile 'papper'\. Did you mean 'paper'"):
        resolve_search("papper", "msmt17")


# --- The algorithm, written out plainly ----------------------------------------------------------


class Setting(NamedTuple):
    """All that a search of the mechanism starts from."""

    twins: Twins
    pixels: PixelSource
    training: Side
    validation: Side


def start(dataset: Dataset, recipe: Recipe, seed: int = 0) -> Setting:
    training, validation = split_identities(dataset.labels, recipe.search_settings.overlap, seed=seed)
    torch.manual_seed(seed)
    network = Exact(build_model(SUPERNET, dataset.num_classes, interactions=6))
    memories = (
        ExactMemory(side.classes, 128, recipe.search_settings.temperature, recipe.search_settings.momentum)
        for side in (training, validation)
    )
    both = Twins(network, *memories).to(torch.float64).to(memory_format=torch.channels_last)
    return Setting(both, open_pixels(dataset, "train", 32, 16, progress=False), training, validation)


def alternate(
    setting: Setting, recipe: Recipe, folder: Path, on_step: Callable[[float], None] | None = None
) -> fit.Result:
    sides = setting.training, setting.validation
    kind = SEARCHES[recipe.search_settings.mechanism]
    task = kind(setting.twins, setting.pixels, sides, recipe, 11)
    return fit.fit(task, folder, "", RunOptions(progress=False), on_step)


def plainly(setting: Setting, recipe: Recipe) -> dict[str, Tensor]:
    """The state after the same search, as the paper and the released code describe it."""
    network, search = setting.twins.network, recipe.search_settings
    alphas = [parameter for name, parameter in network.named_parameters() if name.endswith("alpha")]
    weights = [p for name, p in network.named_parameters() if p.requires_grad and not name.endswith("alpha")]
    sgd = torch.optim.SGD(weights, 1.0, momentum=0.9, weight_decay=recipe.optimizer.weight_decay, foreach=False)
    adam = torch.optim.Adam(alphas, 1.0, betas=(0.5, 0.999), weight_decay=1e-3, foreach=False)
    memories: list[Tensor] = []
    for side in (setting.training, setting.validation):
        images = normalize(np.stack([setting.pixels[int(i)] for i in side.positions]))
        with torch.no_grad():
            features = copy.deepcopy(network).train()(images).embeddings[0].float().double()
        rows = torch.zeros(side.classes, 128, dtype=torch.float64)
        for feature, label in zip(features, side.labels, strict=True):
            rows[label] += feature / feature.norm() / int((side.labels == label).sum())
        filled = search.memory_init == "centroids" and search.mechanism == "tcm"
        memories.append(rows / rows.norm(dim=1, keepdim=True) if filled else 0 * rows)
    network.train()
    leaked: list[Tensor | None] = [None] * len(weights)

    def batches(side: Side, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        plan = [
            (epoch, step, batch)
            for epoch in range(recipe.schedule.epochs)
            for step, batch in enumerate(
                epoch_batches(
                    side.labels,
                    recipe.sampler.identities,
                    recipe.sampler.images,
                    seed=seed,
                    epoch=epoch,
                    steps=recipe.sampler.steps_per_epoch,
                )
            )
            if step >= first
        ]
        labels = side.identities[side.labels] if search.mechanism == "ce" else side.labels
        own = [setting.pixels[int(i)] for i in side.positions]
        return train_batches(own, labels, recipe.augmentation, iter(plan), seed=seed)

    streams = (batches(setting.training, 11), batches(setting.validation, 12, int(search.order == "alphas")))

    def loss_on(number: int) -> tuple[Tensor, Callable[[], None]]:
        """The loss of a side's next batch, and what renews its memory."""
        images, labels = next(streams[number])
        output = network(images.to(memory_format=torch.channels_last))
        if search.mechanism == "ce":
            return F.cross_entropy(output.logits[0], labels), lambda: None
        features, rows = output.embeddings[0], memories[number].clone()
        unit = features / features.norm(dim=1, keepdim=True)
        scores = unit @ rows.T / search.temperature
        loss = (scores.logsumexp(1) - scores[range(len(labels)), labels]).mean()

        def renew() -> None:
            for one, label in zip(unit.detach(), labels.tolist(), strict=True):
                mixture = search.momentum * memories[number][label] + (1 - search.momentum) * one
                memories[number][label] = mixture / mixture.norm()

        return loss, renew

    def architecture() -> None:
        loss, renew = loss_on(1)
        gradients = torch.autograd.grad(loss, [*alphas, *weights], allow_unused=True)
        if search.leak:
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

    for epoch in range(recipe.schedule.epochs):
        sgd.param_groups[0]["lr"] = recipe.optimizer.lr * (0.01 if epoch == 0 and recipe.schedule.warmup else 1)
        adam.param_groups[0]["lr"] = search.alpha_lr * (0.1 if epoch >= 1 else 1)
        for step in range(3):
            if search.order == "weights":
                ordinary()
                architecture()
            else:
                if step:
                    architecture()
                ordinary()
    return {
        **{f"network.{name}": value for name, value in network.state_dict().items()},
        "training_memory.centres": memories[0],
        "validation_memory.centres": memories[1],
    }


LEARNING = changed(SMOKE, optimizer="sgd", lr=0.05, warmup=0, milestones=(), alpha_lr=0.1, alpha_milestones=(1,), pad=1)


@pytest.mark.parametrize(
    "way",
    [
        *WAYS.values(),
        {"order": "alphas"},
        {"order": "alphas", "leak": True, "memory_init": "zeros"},
        {"mechanism": "ce", "overlap": 1.0, "leak": True, "order": "alphas"},
    ],
    ids=lambda way: " ".join(f"{name}={value}" for name, value in way.items()) or "default",
)
def test_a_search_is_the_algorithm_written_out_plainly(market: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    recipe = changed(LEARNING, **way)
    setting = start(market, recipe)
    before = {name: value.clone() for name, value in setting.twins.state_dict().items()}
    alternate(setting, recipe, tmp_path)
    expected = plainly(start(market, recipe), recipe)
    found = setting.twins.state_dict()
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
    still = {n.removeprefix("network.network.") for n, value in found.items() if torch.equal(value, before[n])}
    still = {name for name in still if ".gate." not in name}  # narrow ones can be dead
    idle = {
        "tcm": {"head.bn.bias", "head.bn.weight", "head.classifier.weight"},  # a classifier that nothing trains
        "ce": {"head.bn.bias", "training_memory.centres", "validation_memory.centres"},
    }
    assert still == idle[recipe.search_settings.mechanism]


# --- Sides that keep to themselves ---------------------------------------------------------------


def moved(setting: Setting, before: dict[str, Tensor], kind: str) -> float:
    """The largest change of a trained parameter: of the architecture, or of the weights."""
    return max(
        (parameter.detach() - before[f"network.{name}"]).abs().max().item()
        for name, parameter in setting.twins.network.named_parameters()
        if name.endswith("alpha") == (kind == "alphas")
    )


@pytest.mark.parametrize(("still", "moving"), [("weights", "alphas"), ("alphas", "weights")])
@pytest.mark.parametrize("order", ["weights", "alphas"])
def test_a_step_leaves_the_other_side_alone(market, tmp_path: Path, still: str, moving: str, order: str) -> None:
    recipe = changed(LEARNING, order=order, epochs=1, **{"lr" if still == "weights" else "alpha_lr": 1e-30})
    setting = start(market, recipe)
    before = {name: value.clone() for name, value in setting.twins.state_dict().items()}
    alternate(setting, recipe, tmp_path)
    assert moved(setting, before, still) < 1e-20
    assert moved(setting, before, moving) > 1e-2


@pytest.mark.parametrize("order", ["weights", "alphas"])
@pytest.mark.parametrize("leak", [False, True])
def test_gradients_of_weights_wait_only_where_they_leak(market, tmp_path: Path, order: str, leak: bool) -> None:
    recipe = changed(LEARNING, order=order, leak=leak, epochs=1)
    setting = start(market, recipe)
    left: list[bool] = []

    def note(_share: float) -> None:
        left.append(any(p.grad is not None and bool(p.grad.any()) for p in setting.twins.weights))
        assert not any(alpha.grad is not None and bool(alpha.grad.any()) for alpha in setting.twins.alphas)

    alternate(setting, recipe, tmp_path, on_step=note)
    # With the architecture first, the step of the weights in the same iteration has used them up.
    assert left == [leak and order == "weights"] * 3


@pytest.mark.parametrize(("order", "expected"), [("weights", 6), ("alphas", 4)])
def test_with_the_architecture_first_each_epoch_leaves_out_one_of_its_steps(
    market: Dataset, tmp_path: Path, order: str, expected: int
) -> None:
    recipe = changed(LEARNING, order=order)
    alternate(start(market, recipe), recipe, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["task"]
    assert {int(one["step"]) for one in state["alphas"]["state"].values()} == {expected}
    assert len(state["alphas"]["state"]) == 6


def test_filling_the_memories_leaves_the_network_as_it_is(market: Dataset) -> None:
    setting = start(market, SMOKE)
    setting.twins.network.eval()
    before = {name: value.clone() for name, value in setting.twins.network.state_dict().items()}
    task = TwinsSearch(setting.twins, setting.pixels, (setting.training, setting.validation), SMOKE, 0)
    twins.fill_memory(setting.twins.network, setting.twins.training_memory, task.training, batch_size=3)
    assert not setting.twins.network.training
    for name, value in setting.twins.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    rows = setting.twins.training_memory.centres.norm(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@pytest.mark.parametrize("memory_init", ["centroids", "zeros"])
def test_what_memories_hold_at_first_shows_in_the_first_loss(market, tmp_path: Path, memory_init: str) -> None:
    recipe = changed(SMOKE, memory_init=memory_init, epochs=1, steps_per_epoch=1)
    setting = start(market, recipe)
    (row,) = alternate(setting, recipe, tmp_path).history
    uniform = row["loss"] == pytest.approx(math.log(5)) and row["val_loss"] == pytest.approx(math.log(6))
    assert uniform == (memory_init == "zeros")


# --- Complete searches ---------------------------------------------------------------------------


def go(
    folder: Path,
    dataset: Dataset,
    *,
    way: Mapping[str, Any] | None = None,
    recipe: Recipe = SMOKE,
    seed: int = 0,
    model: str = SUPERNET,
    options: Mapping[str, Any] | None = None,
    at: At | None = None,
    **run_options: Any,
) -> Record:
    """One search in `folder`; `at` tells what happens after an iteration, counted from 1."""
    search_run = SearchRun(dataset, changed(recipe, **(way or {})), seed, model, options or {})
    return search(
        folder, search_run, RunOptions(**{"device": "cpu", "progress": False, **run_options}), at_steps(at, STEPS)
    )


def outcome(folder: Path) -> dict[str, Any]:
    """All that a search determines; nothing of its timings."""
    record = json.loads((folder / "record.json").read_text())
    own = {name: value for name, value in record.items() if name not in ("seconds_training", "finished", "code")}
    return {**own, **{name: (folder / name).read_bytes() for name in ("history.csv", "alphas.csv")}}


@pytest.fixture(scope="module")
def done(market: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of uninterrupted searches, by way. Shared: do not change them."""
    folder = tmp_path_factory.mktemp("whole")
    for number, way in enumerate(WAYS.values()):
        go(folder / str(number), market, way=way)
    return {name: folder / str(number) for number, name in enumerate(WAYS)}


@pytest.fixture(scope="module")
def whole(done: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What they come to."""
    return {name: outcome(folder) for name, folder in done.items()}


@pytest.mark.parametrize("name", ["default", "alphas first, leak"])
def test_a_repeated_search_is_the_same_to_the_last_bit(market, whole, tmp_path: Path, name: str) -> None:
    torch.rand(7)  # what the process drew before must not matter
    go(tmp_path, market, way=WAYS[name])
    assert outcome(tmp_path) == whole[name]


def test_another_seed_is_another_search(market, whole, tmp_path: Path) -> None:
    go(tmp_path, market, seed=1)
    found = outcome(tmp_path)
    for name in ("alphas.csv", "history.csv"):
        assert found[name] != whole["default"][name]


def test_every_way_ends_elsewhere(whole: dict[str, dict[str, Any]]) -> None:
    for name in ("alphas.csv", "history.csv"):
        assert len({found[name] for found in whole.values()}) == len(WAYS)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of forked workers
@pytest.mark.parametrize(
    ("name", "run_options"),
    [("default", {"workers": 2}), ("alphas first, leak", {"workers": 1}), ("default", {"cache": False})],
)
def test_how_a_search_is_carried_out_changes_nothing(market, whole, tmp_path: Path, name: str, run_options) -> None:
    go(tmp_path, market, way=WAYS[name], **run_options)
    assert outcome(tmp_path) == whole[name]


def test_test_images_are_not_looked_at(own_copy, own_cache: Path, whole, tmp_path: Path) -> None:
    dataset = load_dataset("market1501", own_copy("market1501"))
    for image in dataset.test:
        image.path.write_bytes(b"x" * image.path.stat().st_size)
    go(tmp_path / "search", dataset)
    assert outcome(tmp_path / "search") == whole["default"]


# --- Its files -----------------------------------------------------------------------------------


def test_a_search_writes_its_files(done: dict[str, Path]) -> None:
    for folder in done.values():
        found = {path.name for path in folder.iterdir()}
        assert found == {"record.json", "genotype.json", "history.csv", "alphas.csv", "log.txt"}


def test_the_record_says_what_was_found(market: Dataset, done: dict[str, Path]) -> None:
    for name, folder in done.items():
        record = json.loads((folder / "record.json").read_text())
        last = [row for row in table(folder / "alphas.csv") if row["epoch"] == "2"]
        letters = [max("NGAE", key=lambda letter, row=row: float(row[f"alpha_{letter}"])) for row in last]
        assert record["genotype"] == "".join(letters)
        assert record["agreement"] == sum(letters[i] == PAPER[i] for i in range(12))
        assert record["skip_ratio"] == letters.count("N") / 12
        assert record["collapsed"] is False
        assert record["entropy"] == pytest.approx(np.mean([float(row["entropy"]) for row in last]))
        assert record["steps"] == STEPS
        # 8 identities of 1, 2, 3, 5, ... images: 2 train, 3 are shared, 3 validate; or all are shared.
        sides = (8, 1 + 1 + 1 + 5 * 2, 7, 1 + 2 + 5 * 3) if name == "ce" else (5, 1 + 2 + 1 + 2 + 2, 6, 2 + 3 + 3 + 15)
        names = ("training_identities", "training_images", "validation_identities", "validation_images")
        assert tuple(record[one] for one in names) == sides
        assert record["source_fingerprint"] == record["target_fingerprint"] == market.fingerprint
        assert record["seconds_training"] > 0
        assert {"code", "torch", "cpu", "device", "threads", "finished"} <= set(record)
        log = (folder / "log.txt").read_text()
        assert search_line(record) in log
        assert f"training side: {sides[0]} identities, {sides[1]} images" in log


def test_the_genotype_s_file_tells_where_it_comes_from(market: Dataset, done: dict[str, Path], tmp_path: Path) -> None:
    found = json.loads((done["zeros"] / "genotype.json").read_text())
    record = json.loads((done["zeros"] / "record.json").read_text())
    assert found | record == found
    assert (found["source"], found["seed"], found["model"], found["options"]) == ("market1501", 0, SUPERNET, {})
    wanted = settings(changed(SMOKE, memory_init="zeros"))
    recipe = {name.removeprefix("recipe."): value for name, value in found.items() if name.startswith("recipe.")}
    assert recipe == {n: str(v) if isinstance(v, tuple) else v for n, v in wanted.items()}
    assert read_genotype(done["zeros"] / "genotype.json") == record["genotype"]


def test_the_trajectory_has_a_row_per_epoch_and_interaction(done: dict[str, Path]) -> None:
    for folder in done.values():
        rows = table(folder / "alphas.csv")
        assert [(row["epoch"], row["interaction"]) for row in rows] == [
            (str(epoch), str(number)) for epoch in (1, 2) for number in range(1, 13)
        ]
        for row in rows:
            alphas = [float(row[f"alpha_{letter}"]) for letter in "NGAE"]
            weights = [float(row[f"weight_{letter}"]) for letter in "NGAE"]
            expected = [math.exp(alpha) / sum(map(math.exp, alphas)) for alpha in alphas]
            assert weights == pytest.approx(expected, abs=1e-6)
            assert sum(weights) == pytest.approx(1)
            spread = -sum(weight * math.log(weight) for weight in expected) / math.log(4)
            assert float(row["entropy"]) == pytest.approx(spread, abs=1e-6)
            assert 0 <= float(row["entropy"]) <= 1


def test_the_history_has_a_row_per_epoch(done: dict[str, Path]) -> None:
    for name, folder in done.items():
        rows = table(folder / "history.csv")
        columns = ["epoch", "steps", "lr", "alpha_lr", "loss", "accuracy", "val_loss", "val_accuracy"]
        assert sorted(rows[0]) == sorted(columns), name
        assert [(row["epoch"], row["steps"]) for row in rows] == [("1", "3"), ("2", "3")]
        assert [float(row["lr"]) for row in rows] == pytest.approx([1e-5, 1e-3])
        assert [float(row["alpha_lr"]) for row in rows] == pytest.approx([0.1, 0.1])
        assert all(0 <= float(row[column]) <= 1 for row in rows for column in ("accuracy", "val_accuracy"))


def test_entropy_tells_equal_from_decided_mixtures() -> None:
    alphas = torch.tensor([[2.0] * 4, [1e4, 0, 0, 0], [0.0, 0.0, -1e4, -1e4]])
    assert entropy(alphas).tolist() == pytest.approx([1.0, 0.0, 0.5])


def test_fewer_interactions_have_no_agreement_with_the_paper(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, options={"interactions": 6, "ratio": 1})
    assert len(str(record["genotype"])) == 6
    assert record["agreement"] is None
    assert "as in the paper" not in search_line(record)
    assert len(table(tmp_path / "alphas.csv")) == 12
    assert json.loads((tmp_path / "genotype.json").read_text())["options"] == {"interactions": 6, "ratio": 1}


def test_no_epochs_read_out_the_initial_alphas(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, way={"epochs": 0})
    assert record["steps"] == 0
    assert record["entropy"] == pytest.approx(1.0, abs=1e-5)
    assert read_genotype(tmp_path / "genotype.json") == record["genotype"]


@pytest.mark.parametrize("dataset", ["msmt17", "veri776", "vehicleid"])
def test_every_layout_can_be_searched(data_root: Path, tmp_path: Path, dataset: str) -> None:
    record = go(tmp_path, load_dataset(dataset, data_root), recipe=resolve_search("smoke", dataset).recipe)
    assert record["steps"] == STEPS
    assert record["training_identities"] == 5


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The supernets that searches build, newest last, for tests that change one."""
    built: list[nn.Module] = []
    monkeypatch.setattr("msinet.models.build_model", lambda *a, **k: (built.append(build_model(*a, **k)), built[-1])[1])
    return built


def test_a_search_that_ends_in_no_interactions_says_so(market, networks, tmp_path: Path) -> None:
    def collapse() -> None:
        for interaction in interactions_of(networks[-1]):
            interaction.alpha.data.copy_(torch.tensor([9.0, -9.0, -9.0, -9.0]))

    record = go(tmp_path, market, at={5: collapse})
    assert record["genotype"] == "N" * 12
    assert record["collapsed"] is True
    assert record["skip_ratio"] == 1
    assert record["entropy"] < 0.01
    assert record["agreement"] == PAPER.count("N")
    assert "collapsed: every interaction is N (none)" in search_line(record)
    assert "collapsed: every interaction is N (none)" in (tmp_path / "log.txt").read_text()


def test_one_line_tells_what_was_found() -> None:
    found = {"genotype": "NNGNNN", "agreement": None, "collapsed": False}
    assert search_line(found) == "genotype NNGNNN"
    found = {"genotype": PAPER, "agreement": 12, "entropy": 0.756, "collapsed": False}
    assert search_line(found) == (
        f"genotype {PAPER}, 12 of 12 interactions as in the paper, mean entropy of the mixtures 0.76 of 1"
    )
    found = {"genotype": "NNNNNN", "agreement": None, "entropy": 0.0, "collapsed": True}
    assert search_line(found).endswith("0.00 of 1, collapsed: every interaction is N (none)")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        '"GGEGAG"',
        "7",
        '{"genotyp": "GGEGAG"}',
        '{"genotype": 7}',
        '{"genotype": null}',
        '{"genotype": ["G", "G", "E", "G", "A", "G"]}',
        '{"genotype": "GGEGAX"}',
        '{"genotype": "GGEGA"}',
        '{"genotype": ""}',
        b"\xff\xfe\x00",
    ],
)
def test_what_holds_no_genotype_is_refused(tmp_path: Path, text: str | bytes | None) -> None:
    path = tmp_path / "genotype.json"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=r"(?s)holds no genotype \(.*msinet search writes such files|is not valid"):
        read_genotype(path)


def test_a_genotype_s_file_may_be_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"genotype": "gg eg ag GG NG AE"}')
    assert read_genotype(tmp_path / "mine.json") == "GGEGAGGGNGAE"


# --- Stopping and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
def test_a_search_that_is_interrupted_at_every_step_leaves_no_trace(market, whole, tmp_path: Path, name: str) -> None:
    done: list[int] = []
    for step in range(1, STEPS + 1):
        at = {n: lambda n=n: done.append(n) for n in range(1, step)}
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, market, way=WAYS[name], at={**at, step: interrupt})
        assert (tmp_path / "checkpoint.pt").exists()
        assert not (tmp_path / "record.json").exists()
    go(tmp_path, market, way=WAYS[name])
    assert not done  # nothing was done twice
    assert outcome(tmp_path) == whole[name]
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("default", step) for step in (1, 3, 4, STEPS)),
        ("alphas first, leak", 2),
        ("alphas first, leak", 5),
        ("weights first, leak", 3),
    ],
)
def test_a_sudden_end_leaves_no_trace(market, whole, tmp_path: Path, monkeypatch, name: str, step: int) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # after every step
    with pytest.raises(Stopped):
        go(tmp_path, market, way=WAYS[name], at={step: stop})
    assert (tmp_path / "checkpoint.pt").exists() == (step > 1)
    go(tmp_path, market, way=WAYS[name])
    assert outcome(tmp_path) == whole[name]


def test_weights_and_memories_go_on_too(market: Dataset, tmp_path: Path) -> None:
    recipe = changed(LEARNING, leak=True)
    straight, resumed = start(market, recipe), start(market, recipe)
    alternate(straight, recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        alternate(resumed, recipe, tmp_path / "resumed", on_step=lambda share: interrupt() if share > 0.6 else None)
    resumed = start(market, recipe, seed=0)
    resumed.twins.load_state_dict({name: 0 * value for name, value in resumed.twins.state_dict().items()})
    alternate(resumed, recipe, tmp_path / "resumed")
    expected = straight.twins.state_dict()
    for name, value in resumed.twins.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_no_resume_starts_again(market, whole, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, at={4: interrupt})
    steps: list[int] = []
    go(tmp_path, market, resume=False, at=noting(steps, STEPS))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert outcome(tmp_path) == whole["default"]


def test_a_search_that_is_being_replaced_no_longer_looks_finished(market, tmp_path: Path) -> None:
    go(tmp_path, market, way={"epochs": 0})
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, resume=False, at={2: interrupt})
    assert not (tmp_path / "record.json").exists()
    assert (tmp_path / "record.before.json").exists()


@pytest.fixture(scope="module")
def checkpoint(market: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a search that was interrupted after the first iteration."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        go(folder, market, at={1: interrupt})
    return (folder / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"model": "supernet_x0_50"},
        {"options": {"fusion": "minus"}},
        {"way": {"overlap": 0.6}},
        {"way": {"leak": True}},
        {"way": {"alpha_milestones": (1,)}},
        {"way": {"order": "alphas"}},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_search_is_refused(market, checkpoint, tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(checkpoint)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt belongs to another training; .*--no-resume"):
        go(tmp_path, market, **other)
    assert path.read_bytes() == checkpoint
    assert not (tmp_path / "record.json").exists()


def test_a_damaged_checkpoint_is_named_with_the_remedy(market, checkpoint, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint[: len(checkpoint) // 2])
    with pytest.raises(WeightsError, match=r"checkpoint\.pt cannot be read \(.+\); delete it to start again"):
        go(tmp_path, market)


@pytest.mark.parametrize("name", ["head.bn.running_var", "backbone.stage1.0.interaction1.alpha"])
def test_a_spoilt_state_is_never_saved(market, whole, networks, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(TrainingDiverged, match=r"a weight became NaN or infinite by epoch 2, step 1; the last good"):
        go(tmp_path, market, at={4: lambda: networks[-1].state_dict()[name].fill_(math.nan)})
    go(tmp_path, market)  # from the third step
    assert outcome(tmp_path) == whole["default"]


@pytest.mark.parametrize("way", [{"lr": 1e30, "warmup": 0}, {"lr": 1e30, "warmup": 0, "order": "alphas"}], ids=str)
def test_a_huge_learning_rate_diverges_in_words(market: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    with pytest.raises(TrainingDiverged, match=r"the loss became \w+ in epoch 1, step [12]; there was no checkpoint"):
        go(tmp_path, market, way=way)


# --- What cannot be searched ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"identities": 6}, "the training side of the search is too small: a batch needs 6 identities, .* has 5"),
        (
            {"identities": 5, "overlap": 0.0, "side_ratio": 0.4},
            "the validation side of the search is too small: a batch needs 5 identities, .* has 2",
        ),
        ({"overlap": 0.0, "side_ratio": 1e3}, "the training side of the search is empty"),
        ({"order": "alphas", "steps_per_epoch": 1}, r"an epoch of 1 iteration\(s\) has no step of the architecture"),
    ],
    ids=["training", "validation", "empty", "one iteration"],
)
def test_too_little_data_is_told_with_the_side(market, tmp_path: Path, way: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        go(tmp_path, market, way=way)
    assert not (tmp_path / "record.json").exists()


def test_the_sides_can_be_checked_without_a_search(market: Dataset) -> None:
    SearchRun(market, SMOKE).check_sides()
    with pytest.raises(DataError, match="the training side of the search is too small: a batch needs 6 identities"):
        SearchRun(market, changed(SMOKE, identities=6)).check_sides()
    with pytest.raises(DataError, match=r"an epoch of 1 iteration\(s\) has no step of the architecture"):
        SearchRun(market, changed(SMOKE, order="alphas", steps_per_epoch=1)).check_sides()
    with pytest.raises(DataError, match="the validation side of the search is too small: a batch needs 5 identities"):
        SearchRun(market, changed(SMOKE, identities=5, overlap=0.0, side_ratio=0.4)).check_sides()
    with pytest.raises(DataError, match="the training side of the search is empty"):
        SearchRun(market, changed(SMOKE, overlap=0.0, side_ratio=1e3)).check_sides()


def test_a_side_of_one_image_is_told_too(market: Dataset, tmp_path: Path) -> None:
    # The first identity, alone in training, has a single image.
    with pytest.raises(DataError, match="the training side of the search is too small"):
        go(tmp_path, market, way={"overlap": 0.0, "side_ratio": 7.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "msinet_x0_25"}, "only a supernet can be searched, .* not msinet_x0_25"),
        ({"model": "supernett"}, "unknown network 'supernett'. Did you mean 'supernet'"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"way": {"overlap": 0.0, "side_ratio": 1e3}}, "the training side of the search is empty"),
        ({"way": {"identities": 6}}, "the training side of the search is too small"),
        ({"options": {"fusoin": "sum"}}, "unknown option of supernet 'fusoin'"),
        ({"options": {"genotype": PAPER}}, "genotype is what the search finds"),
        ({"options": {"interactions": 7}}, "multiple of six interactions, not 7"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_searched_is_refused_and_replaces_nothing(market, tmp_path: Path, changes, message) -> None:
    (tmp_path / "record.json").write_text("of an earlier search")
    with pytest.raises(UserError, match=message):
        go(tmp_path, market, resume=False, **changes)
    assert (tmp_path / "record.json").read_text() == "of an earlier search"


def test_a_setting_of_the_recipe_is_no_option_of_the_network(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mid"):
        go(tmp_path, market, options={"mid": "in"})


# --- The commands --------------------------------------------------------------------------------

QUIET = ("--device", "cpu", "--no-progress", "--profile", "smoke", "--dataset", "market1501")


def command(name: str, data_root: Path, out: Path, *more: object) -> int:
    """`msinet search` or `msinet train` at its smallest; a later option counts, not an earlier one."""
    model = {"search": SUPERNET, "train": "msinet_x0_25"}[name]
    return run_command(
        [str(w) for w in (name, "--data-root", data_root, "--out", out, "--model", model, *QUIET, *more)]
    )


def test_what_the_command_finds_can_be_trained(data_root: Path, whole, tmp_path: Path, capsys) -> None:
    out = tmp_path / "search"
    assert command("search", data_root, out) == 0
    assert outcome(out) == whole["default"]
    genotype = whole["default"]["genotype"]
    printed = capsys.readouterr().out
    assert f"genotype {genotype}, {whole['default']['agreement']} of 12 interactions as in the paper" in printed
    assert f"--genotype {out}/genotype.json --model msinet_x0_25 --out DIR" in printed
    assert f"train it: msinet train --data-root {data_root} --dataset m" in printed
    assert command("train", data_root, tmp_path / "run", "--genotype", out / "genotype.json") == 0
    noted = read_metadata(tmp_path / "run" / "model.safetensors")
    assert json.loads(noted["options"]) == {"genotype": genotype}
    # The letters themselves train the same network.
    assert command("train", data_root, tmp_path / "typed", "--options", f"genotype={genotype}") == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("run", "typed")]
    assert weights[0] == weights[1]


def test_settings_and_options_of_the_command_arrive(data_root: Path, tmp_path: Path) -> None:
    words = (
        "--recipe",
        "mechanism=ce",
        "overlap=1",
        "order=alphas",
        "leak=True",
        "mid=in",
        "epochs=1",
        "alpha_lr=0.05",
        "--options",
        "interactions=6",
        "fusion=minus",
        "--seed",
        3,
    )
    assert command("search", data_root, tmp_path, *words) == 0
    found = json.loads((tmp_path / "genotype.json").read_text())
    names = ("mechanism", "overlap", "order", "leak", "mid", "epochs", "alpha_lr", "alpha_milestones")
    assert [found[f"recipe.{name}"] for name in names] == ["ce", 1.0, "alphas", True, "in", 1, 0.05, "(1,)"]
    assert found["options"] == {"interactions": 6, "fusion": "minus"}
    assert (found["seed"], len(found["genotype"])) == (3, 6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--recipe", "overlap=1.5"], ["recipe: overlap must lie in [0, 1], got 1.5"]),
        (["--recipe", "overlpa=0.5"], ["unknown setting of the recipe 'overlpa'", "Did you mean 'overlap'?"]),
        (["--recipe", "leak=1"], ["recipe: leak is a bool such as False, not 1"]),
        (["--recipe", "mechanism=ce"], ["mechanism ce needs overlap 1"]),
        (["--evaluate-every", "1"], ["a search ranks no test images; leave out --evaluate-every"]),
        (["--keep-same-camera"], ["a search ranks no test images; leave out --keep-same-camera"]),
        (["--recipe", "identities=6"], ["the training side of the search is too small"]),
        (["--recipe", "lr=1e30", "warmup=0"], ["the loss became", "in epoch 1", "--no-resume"]),
        (["--options", "ration=2"], ["unknown option of supernet 'ration'", "Did you mean 'ratio'?"]),
        (["--model", "msinet"], ["only a supernet can be searched"]),
        (["--profile", "papr"], ["unknown profile 'papr'", "full, mini, paper, smoke"]),
        (["--dataset", "market"], ["unknown data set 'market'"]),
        (["--data-root", "nowhere"], ["data root nowhere does not exist"]),
    ],
    ids=lambda value: " ".join(value) if str(value[0]).startswith("--") else "",
)
def test_a_search_that_cannot_be_is_one_line_and_status_2(data_root, tmp_path: Path, capsys, words, expected) -> None:
    assert command("search", data_root, tmp_path / "out", *words) == 2
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for part in expected:
        assert part in message
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_finished_search_is_not_searched_over(data_root: Path, tmp_path: Path, capsys) -> None:
    assert command("search", data_root, tmp_path, "--recipe", "epochs=0") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command("search", data_root, tmp_path) == 2
    assert "holds a finished search; choose another --out, or --no-resume" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert command("search", data_root, tmp_path, "--recipe", "epochs=0", "--no-resume") == 0


def test_a_genotype_is_given_once(data_root: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps({"genotype": PAPER}))
    words = ("--genotype", path, "--options", "ratio=2", f"genotype={PAPER}")
    assert command("train", data_root, tmp_path / "run", *words) == 2
    assert "give one of --genotype FILE and --options genotype=..., not both" in capsys.readouterr().err
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_network_without_genotype_takes_none(data_root: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps({"genotype": PAPER}))
    assert command("train", data_root, tmp_path / "run", "--genotype", path, "--model", "osnet_x0_25") == 2
    assert "unknown option of osnet 'genotype'" in capsys.readouterr().err


def test_a_missing_genotype_s_file_is_told(data_root: Path, tmp_path: Path, capsys) -> None:
    assert command("train", data_root, tmp_path / "run", "--genotype", tmp_path / "nowhere.json") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'nowhere.json'} holds no genotype")
    assert message.count("\n") == 1


def test_an_interrupted_command_is_status_130_and_goes_on(data_root, whole, tmp_path, capsys, monkeypatch) -> None:
    rows = twins.alphas_of
    with monkeypatch.context() as patch:
        patch.setattr(twins, "alphas_of", lambda *a: (interrupt(), rows(*a))[1])  # after the first epoch
        assert command("search", data_root, tmp_path) == 130
    assert "interrupted; the same command resumes" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").exists()
    assert command("search", data_root, tmp_path) == 0
    assert outcome(tmp_path) == whole["default"]
