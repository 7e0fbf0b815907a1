"""Pre-training: class folders, shuffled batches, random resized crops, and weights that start a re-identification."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support import CPU, At, Stopped, at_steps, changed, interrupt, noting, stop, table
from torch import nn
from torchvision.transforms.v2 import functional as tv

from msinet.cli import run_command
from msinet.data import Augmentation, augment, epoch_batches, normalize
from msinet.data.folders import ClassFolders, FolderImages, load_class_folders
from msinet.data.sampler import shuffled_batches
from msinet.data.transforms import centre_crop, crop_box
from msinet.errors import Busy, DataError, UserError, WeightsError
from msinet.io import exclusive
from msinet.models import Output, build_model, load_weights, save_weights
from msinet.models.weights import read_metadata
from msinet.training import fit
from msinet.training.batches import Batches
from msinet.training.options import RunOptions
from msinet.training.pretrain import Pretraining, classify, pretrain
from msinet.training.recipe import Recipe, Schedule, override, settings
from msinet.training.recipes import PROFILES, resolve, resolve_pretraining
from msinet.training.run_folder import Record
from msinet.training.supervised import Supervised, losses

some = given_settings(max_examples=100, deadline=None)  # a busy machine is no failure
SMOKE = changed(resolve_pretraining("smoke").recipe, height=16, width=16)
PUBLISHED = resolve_pretraining("paper").recipe
STEPS = 6
NETWORK = "msinet_x0_25"
DROPOUT = "cdnet_x0_25"  # draws from torch's generator in every step
NETWORKS = (NETWORK, "resnet50_x0_25", "osnet_x0_25", DROPOUT)
CLASSES = ("cross", "disc", "bar", "void", "wave", "ant")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(path: Path, kind: int, shot: int) -> None:
    """An image of its own size, with a coloured patch that tells its class."""
    rng = np.random.default_rng((kind, shot))
    height, width = (int(side) for side in rng.integers(20, 60, 2))
    pixels = rng.integers(0, 80, (height, width, 3))
    pixels[4:-4, 4:-4] = np.random.default_rng(kind).integers(60, 256, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


def make(root: Path) -> Path:
    """Class folders with 6 to 8 images to train and 3 to validate, in all spellings of their endings."""
    for kind, name in enumerate(CLASSES):
        for shot in range(6 + kind % 3):
            draw(root / "train" / name / f"{shot}{('.png', '.jpg', '.jpeg', '.JPEG')[shot % 4]}", kind, shot)
        for shot in range(3):
            draw(root / "val" / name / f"{shot}.png", kind, 100 + shot)
    (root / "train" / "ant" / "._0.jpg").write_bytes(b"of a Mac")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "classes.txt").write_text("no folder")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: do not change it."""
    return make(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def shapes(folder: Path) -> ClassFolders:
    return load_class_folders(folder)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def go(
    out: Path,
    data: ClassFolders,
    *,
    model: str = NETWORK,
    recipe: Recipe = SMOKE,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    at: At | None = None,
    **run_options: Any,
) -> Record:
    """One pre-training; `at` tells what happens after a step, counted from 1."""
    pretraining = Pretraining(model, options or {}, data, recipe, seed)
    return pretrain(
        out, pretraining, RunOptions(**{"device": "cpu", "progress": False, **run_options}), at_steps(at, STEPS)
    )


def outcome(out: Path) -> dict[str, Any]:
    """All that a pre-training determines."""
    weights = {name: value.numpy().tobytes() for name, value in load_file(out).items()}
    return weights | read_metadata(out) | {"history": out.with_suffix(".history.csv").read_text()}


@pytest.fixture(scope="module")
def trained(shapes: ClassFolders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of every network, trained without interruption. Shared: do not change them."""
    root = tmp_path_factory.mktemp("weights")
    files = {model: root / f"{model}.safetensors" for model in NETWORKS}
    for model, out in files.items():
        go(out, shapes, model=model)
    return files


# --- Class folders -------------------------------------------------------------------------------


def test_classes_are_numbered_by_sorted_name(shapes: ClassFolders, folder: Path) -> None:
    assert (shapes.name, shapes.root) == ("shapes", folder)
    assert shapes.classes == ("ant", "bar", "cross", "disc", "void", "wave")
    for images, labels, split, count in (
        (shapes.train, shapes.train_labels, "train", 6 + 7 + 8 + 6 + 7 + 8),
        (shapes.val, shapes.val_labels, "val", 18),
    ):
        assert len(images) == len(labels) == len(set(images)) == count
        assert labels.dtype == np.int64
        for image, label in zip(images, labels, strict=True):
            assert (folder / image).is_file()
            assert Path(image).parts[:2] == (split, shapes.classes[label])


def test_images_come_in_their_own_size_or_cut(shapes: ClassFolders) -> None:
    whole, cut = FolderImages(shapes.root, shapes.val), FolderImages(shapes.root, shapes.val, (16, 24))
    assert len(whole) == len(cut) == 18
    assert len({whole[i].shape for i in range(18)}) > 9
    for i in range(18):
        expected = np.asarray(PIL.Image.open(shapes.root / shapes.val[i]))
        np.testing.assert_array_equal(whole[i], expected)
        np.testing.assert_array_equal(cut[i], centre_crop(expected, 16, 24))


def test_the_fingerprint_knows_names_classes_splits_and_sizes(own: Path, shapes: ClassFolders) -> None:
    prints = [shapes.fingerprint, load_class_folders(own).fingerprint]
    assert prints[0] == prints[1]  # wherever the folder is and whatever it is called
    for change in (
        lambda: (own / "val/ant/0.png").rename(own / "val/ant/zero.png"),
        lambda: (own / "val/ant/1.png").rename(own / "val/bar/one.png"),
        lambda: (own / "val/ant/2.png").rename(own / "train/ant/two.png"),
        lambda: [(own / split / "ant").rename(own / split / "ape") for split in ("train", "val")],
        lambda: (own / "val/bar/0.png").write_bytes((own / "val/bar/0.png").read_bytes() + b"."),
    ):
        change()
        prints.append(load_class_folders(own).fingerprint)
    assert len(set(prints)) == 6
    assert len(prints[0]) == 12


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda own: shutil.rmtree(own),
            r"own does not exist or is not a folder; expected <root>/train/<class>/\*\.jpg",
        ),
        (lambda own: shutil.rmtree(own / "train"), r"own has no folder train/; expected .*<root>/val/<class>"),
        (lambda own: shutil.rmtree(own / "val"), r"own has no folder val/; expected .*<root>/val/<class>"),
        (lambda own: (own / "val/tree").mkdir(), r"val: tree not in .*train; both must have the same class folders"),
        (lambda own: emptied(own / "train/bar"), r"train: no images in bar; fill"),
        (lambda own: [emptied(f) for f in (own / "val").iterdir()], r"val: no images in its class"),
        (
            lambda own: [shutil.rmtree(own / "train" / name) for name in CLASSES[1:]],
            r"train holds 1 class folder\(s\) and needs at least two",
        ),
        (
            lambda own: (shutil.rmtree(own / "val"), draw(own / "val/ILSVRC2012_val_00000001.JPEG", 0, 0)),
            r"val holds images but no class folders; sort them into one folder per class",
        ),
    ],
    ids=["no root", "no train", "no val", "strange class", "empty class", "empty val", "one class", "flat val"],
)
def test_another_layout_is_one_clear_error(own: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(own)
    with pytest.raises(DataError, match=message):
        load_class_folders(own)


def test_a_rendered_set_is_called_so(own: Path) -> None:
    (own / "world.json").write_text('{"fingerprint": "a", "seed": 0, "samples": {}}')
    assert load_class_folders(own).name == "rendered"
    assert load_class_folders(own, "imagenet").name == "imagenet"


def test_a_class_without_validation_images_is_allowed(own: Path) -> None:
    shutil.rmtree(own / "val/bar")
    assert 1 not in load_class_folders(own, "other").val_labels
    assert load_class_folders(own, "other").name == "other"


# --- Batches -------------------------------------------------------------------------------------


@some
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 2**40), st.integers(0, 400), st.integers(0, 30))
def test_a_pass_is_a_permutation_without_its_incomplete_end(count, size, seed, epoch, steps) -> None:
    if count < size:
        with pytest.raises(DataError, match=f"a batch needs {size} images, but the training set has {count}; "):
            shuffled_batches(count, size, seed=seed, epoch=epoch)
        return
    batches = shuffled_batches(count, size, seed=seed, epoch=epoch)
    assert [len(batch) for batch in batches] == [size] * (count // size)
    images = [i for batch in batches for i in batch]
    assert len(set(images)) == len(images)
    assert set(images) <= set(range(count))
    assert all(type(i) is int for i in images)
    assert shuffled_batches(count, size, seed=seed, epoch=epoch) == batches
    longer = shuffled_batches(count, size, seed=seed, epoch=epoch, steps=steps)
    assert len(longer) == steps
    assert longer[: len(batches)] == batches[:steps]


def test_passes_epochs_and_seeds_differ_and_every_image_has_its_turn() -> None:
    passes = shuffled_batches(50, 8, seed=0, epoch=0, steps=12)
    runs = [passes[:6], passes[6:]] + [shuffled_batches(50, 8, seed=s, epoch=e) for s, e in ((0, 1), (1, 0), (1, 1))]
    assert all(runs[i] != runs[j] for i in range(5) for j in range(i))
    assert {i for epoch in range(9) for batch in shuffled_batches(50, 8, seed=0, epoch=epoch) for i in batch} == set(
        range(50)
    )
    assert passes[0] != sorted(passes[0])


def test_recipes_draw_their_own_kind_of_batch() -> None:
    labels = np.arange(40) % 4
    kinds = {"seed": 3, "epoch": 2}
    assert SMOKE.sampler.batches(labels, **kinds) == shuffled_batches(40, 8, **kinds, steps=3)
    whole = changed(SMOKE, steps_per_epoch=None)
    assert whole.sampler.batches(labels, **kinds) == shuffled_batches(40, 8, **kinds)
    assert resolve("smoke", "market1501").recipe.sampler.batches(labels, **kinds) == epoch_batches(
        labels, 4, 2, **kinds, steps=3
    )


# --- Recipes -------------------------------------------------------------------------------------


def test_the_learning_rate_falls_by_the_same_factor_each_epoch() -> None:
    for epoch in range(240):
        assert PUBLISHED.learning_rate(epoch) == pytest.approx(0.1 * 0.97**epoch, rel=1e-12)
    both = changed(PUBLISHED, warmup=4, milestones=(3,), epoch_decay=0.5)
    rates = [both.learning_rate(epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.001, 0.1 * 0.2575 / 2, 0.1 * 0.505 / 4, 0.01 * 0.7525 / 8, 0.01 / 16])


def test_a_shorter_schedule_ends_at_the_same_rate() -> None:
    full = resolve_pretraining("full").recipe
    assert full.schedule.epochs == 60
    assert full.schedule.epoch_decay == pytest.approx(0.97**4)
    assert full.learning_rate(30) == pytest.approx(PUBLISHED.learning_rate(120))
    assert changed(full, epochs=240, epoch_decay=0.97) == PUBLISHED  # nothing else moved
    assert PUBLISHED.with_epochs(240) == PUBLISHED
    assert changed(PUBLISHED, epochs=0).with_epochs(5) == changed(PUBLISHED, epochs=5)
    assert PUBLISHED.with_epochs(0).schedule.epoch_decay == 0.97


def test_the_paper_s_recipe_is_that_of_cdnet() -> None:
    expected = {
        "height": 224,
        "width": 224,
        "sampler": "shuffled",
        "identities": 32,
        "images": 4,
        "steps_per_epoch": None,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 3e-5,
        "label_smoothing": 0.1,
        "triplet": False,
        "alignment": "none",
        "precision": "tf32",
    }
    assert settings(PUBLISHED) | expected == settings(PUBLISHED)
    assert PUBLISHED.schedule == Schedule(epochs=240, warmup=0, milestones=(), epoch_decay=0.97)
    assert PUBLISHED.augmentation == Augmentation(flip=0.5, pad=0, jitter=False, erase=0.0, crop=0.08)
    with pytest.raises(UserError, match=r"unknown profile 'papr'\. Did you mean 'paper'\? Known: full, mini, paper"):
        resolve_pretraining("papr")
    for name in PROFILES:
        recipe = resolve_pretraining(name).recipe
        assert recipe.image.height == recipe.image.width


def test_settings_of_pre_training_can_be_changed_by_name() -> None:
    found = override(SMOKE, {"epoch_decay": 0.9, "crop": 0.5, "epochs": 4, "flip": 0})
    assert found.schedule == replace(SMOKE.schedule, epoch_decay=0.9, epochs=4, warmup=2)
    assert found.augmentation == replace(SMOKE.augmentation, crop=0.5, flip=0.0)
    assert override(PUBLISHED, {"epochs": 120}).schedule.epoch_decay == pytest.approx(0.97**2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch_decay", 0.0),
        ("epoch_decay", 1.01),
        ("epoch_decay", math.nan),
        ("crop", 0.0),
        ("crop", 1.5),
        ("crop", math.nan),
        ("pad", 2),
        ("height", 15),
        ("lr", 0.0),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(shapes: ClassFolders, name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"recipe: {name} must .*{value!r}"):
        Pretraining(NETWORK, {}, shapes, override(SMOKE, {name: value}))


def test_re_identification_has_fixed_sizes_and_two_losses() -> None:
    recipe = resolve("mini", "market1501").recipe
    pixels = noise(16, 8)
    for seed in range(20):
        one, two = (augment(pixels, np.random.default_rng(seed), Augmentation(), size) for size in (None, (64, 64)))
        assert torch.equal(one, two)
    output = Output((torch.randn(4, 2),), (torch.randn(4, 5),), torch.empty(0))
    labels = torch.tensor([0, 0, 1, 1])
    parts, alone = losses(output, labels, recipe), losses(output, labels, SMOKE)
    assert parts["triplet"] > 0
    assert list(alone) == ["loss", "identity"]
    assert alone["loss"] == alone["identity"] == parts["identity"]


# --- Random resized crops ------------------------------------------------------------------------


@some
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 2**32))
def test_a_crop_lies_in_the_image_and_its_bounds(height: int, width: int, crop: float, seed: int) -> None:
    box = top, left, h, w = crop_box(height, width, crop, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0
    # A side is rounded to whole pixels. Where nothing fits, the centre is what the aspects allow of the image.
    assert (w + 0.5) / max(h - 0.5, 0.1) >= 3 / 4
    assert (w - 0.5) / (h + 0.5) <= 4 / 3
    centre = (top, left) == ((height - h) // 2, (width - w) // 2) and (h == height or w == width)
    assert centre or (h + 0.5) * (w + 0.5) >= crop * height * width
    assert box == crop_box(height, width, crop, np.random.default_rng(seed))


def test_crops_are_spread_over_areas_aspects_and_places() -> None:
    boxes = np.array([crop_box(300, 300, 0.08, np.random.default_rng(seed)) for seed in range(3000)])
    top, left, h, w = boxes.T
    area, aspect = h * w / 300**2, w / h
    assert area.min() == pytest.approx(0.08, abs=0.01)
    assert area.max() > 0.95
    small = area[area < 0.75]  # such a box fits whatever its aspect
    assert np.histogram(small, bins=4, range=(0.08, 0.75))[0] == pytest.approx(len(small) / 4, rel=0.15)
    logs = np.log(aspect[area < 0.75]) / np.log(4 / 3)
    assert np.histogram(logs, bins=4, range=(-1, 1))[0] == pytest.approx(len(logs) / 4, rel=0.15)
    for start, side in ((top, h), (left, w)):
        free = start / np.maximum(300 - side, 1)
        assert free.mean() == pytest.approx(0.5, abs=0.03)
        assert (free.min(), free.max()) == (0, 1)


def test_what_never_fits_becomes_the_centre() -> None:
    assert crop_box(100, 10, 1.0, np.random.default_rng(0)) == (43, 0, 13, 10)  # 4:3 of its width
    assert crop_box(10, 100, 1.0, np.random.default_rng(0)) == (0, 43, 10, 13)


@some
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_a_training_image_is_a_resized_crop_of_the_flipped_image(height, width, out_height, out_width, seed) -> None:
    pixels, recipe = noise(height, width, seed), Augmentation(crop=0.2, pad=0, erase=0.0)
    image = augment(pixels, np.random.default_rng(seed), recipe, (out_height, out_width))
    assert image.shape == (3, out_height, out_width)
    rng = np.random.default_rng(seed)
    turned = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    top, left, h, w = crop_box(height, width, 0.2, rng)
    part = torch.from_numpy(turned[top : top + h, left : left + w].copy()).movedim(-1, 0)
    resized = tv.resize(part, [out_height, out_width], antialias=True)
    assert torch.equal(image, normalize(resized.movedim(0, -1).numpy()))
    torch.manual_seed(seed)  # the library's own randomness has no say
    assert torch.equal(image, augment(pixels, np.random.default_rng(seed), recipe, (out_height, out_width)))


def test_large_images_are_smoothed_not_sampled() -> None:
    chequers = np.indices((128, 128)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    image = augment(
        chequers.astype(np.uint8), np.random.default_rng(1), Augmentation(crop=0.9, pad=0, erase=0.0), (8, 8)
    )
    grey = normalize(np.full((8, 8, 3), 128, np.uint8))
    assert (image - grey).abs().max() < 0.2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (100, 50), (20, 31), (7, 9), (500, 375)])
def test_a_test_image_is_the_centre_of_the_resized_one(height: int, width: int) -> None:
    ramp = np.linspace(0, 255, max(height, width))
    pixels = np.stack(np.broadcast_arrays(ramp[:height, None], ramp[None, :width], 90.0), -1).astype(np.uint8)
    cut = centre_crop(pixels, 56, 56)
    assert cut.shape == (56, 56, 3)
    assert cut.dtype == np.uint8
    # By Pillow, as most do it: the shorter side becomes 56 * 256 / 224 = 64.
    scale = 64 / min(height, width)
    image = PIL.Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), PIL.Image.BILINEAR)
    top, left = (image.height - 56) // 2, (image.width - 56) // 2
    expected = np.asarray(image)[top : top + 56, left : left + 56].astype(int)
    assert np.abs(cut.astype(int) - expected).max() <= 2


# --- Evaluation ----------------------------------------------------------------------------------


def by_hand(network: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Mean probabilities of a network's classifiers, from its test features and the layers of its head."""
    head = network.head
    if not hasattr(head, "squeeze"):
        return head.classifier(features).softmax(1)
    v, f_v = features[:, : -2 * head.squeeze.out_channels], features[:, -2 * head.squeeze.out_channels :]
    whole, local = head.fc(v), head.local_fc(f_v)
    if hasattr(head, "bn"):
        whole, local = head.bn(whole), head.local_bn(local)
    logits = head.classifier(whole), head.local_classifier(local)
    return sum(one.softmax(1) for one in logits) / len(logits)


@pytest.mark.parametrize("model", NETWORKS)
def test_top_1_and_top_5_equal_a_count_by_hand(trained, shapes: ClassFolders, model: str) -> None:
    network = build_model(model, 6)
    load_weights(network, trained[model])
    record = json.loads(trained[model].with_suffix(".json").read_text())
    network.eval()
    first = five = 0
    for image, label in zip(shapes.val, shapes.val_labels, strict=True):
        pixels = centre_crop(np.asarray(PIL.Image.open(shapes.root / image)), 16, 16)
        with torch.inference_mode():
            likely = by_hand(network, network(normalize(pixels)[None]))[0]
        order = sorted(range(6), key=lambda one: -likely[one])
        first += order[0] == label
        five += label in order[:5]
    assert record["top1"] == pytest.approx(first / 18)
    assert record["top5"] == pytest.approx(five / 18)


@pytest.mark.parametrize("model", [*NETWORKS, "deit_small_x0_25"])  # the last one has stochastic depth
def test_evaluation_leaves_the_network_as_it_was(shapes: ClassFolders, model: str) -> None:
    torch.manual_seed(0)
    network = build_model(model, 6, image=(16, 16))
    network.backbone.eval()  # a mixture, to be kept
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels, labels = FolderImages(shapes.root, shapes.val, (16, 16)), torch.from_numpy(shapes.val_labels)
    rows = [classify(network, pixels, labels, CPU, batch_size=size) for size in (1, 7, 64)]
    assert rows[0] == rows[1] == rows[2]  # one image says nothing about another
    state = torch.get_rng_state()
    classify(network, pixels, labels, CPU)
    assert torch.equal(torch.get_rng_state(), state)  # evaluations on the way do not change a training
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Disputing(nn.Module):
    """Two heads: mean probabilities of 0.03, 0.48, 0.25, 0.25, while the mean logit is highest for class 0."""

    def forward(self, images: torch.Tensor) -> Output:
        assert self.training
        logits = [[-5.0, -50.0, 0.0, 0.0]], [[0.0, 3.0, -100.0, -100.0]]
        return Output(tuple(torch.tensor(one).expand(len(images), 4) for one in logits), (), images)


def test_heads_are_averaged_as_probabilities(shapes: ClassFolders) -> None:
    pixels = FolderImages(shapes.root, shapes.val[:3], (16, 16))
    assert classify(Disputing(), pixels, torch.tensor([1, 1, 1]), CPU)["top1"] == 1


def test_five_of_two_classes_are_both(shapes: ClassFolders) -> None:
    pixels = FolderImages(shapes.root, shapes.val[:4], (16, 16))
    assert classify(build_model(NETWORK, 2), pixels, torch.tensor([0, 1, 0, 1]), CPU)["top5"] == 1


# --- Training ------------------------------------------------------------------------------------


def test_it_learns(shapes: ClassFolders, tmp_path: Path) -> None:
    recipe = changed(
        SMOKE, identities=8, images=4, epochs=7, steps_per_epoch=8, lr=3e-3, warmup=0, milestones=(), crop=0.5
    )
    record = go(tmp_path / "a.safetensors", shapes, recipe=recipe, evaluate_every=2)
    rows = table(tmp_path / "a.history.csv")
    assert list(rows[0]) == ["epoch", "steps", "lr", "loss", "identity", "accuracy", "top1", "top5"]
    assert [bool(row["top1"]) for row in rows] == [False, True, False, True, False, True, False]
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert record["chance"] == 1 / 6
    assert record["top1"] > 0.5
    assert (record["steps"], record["train_images"], record["val_images"]) == (56, 42, 18)


def test_every_part_of_the_head_moves(shapes: ClassFolders, tmp_path: Path) -> None:
    """Nothing hangs on the triplet loss."""
    for model in NETWORKS:
        torch.manual_seed(0)
        network = build_model(model, 6)
        before = {name: value.clone() for name, value in network.head.named_parameters()}
        batches = Batches(FolderImages(shapes.root, shapes.train), shapes.train_labels, SMOKE, 0, CPU)
        fit.fit(Supervised(network, batches), tmp_path / model, "", RunOptions(progress=False))
        still = [n for n, p in network.head.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
        assert not still, f"{model} never moved: {still}"


def test_a_repeated_training_is_the_same_to_the_last_bit(trained, own: Path, tmp_path: Path) -> None:
    torch.rand(7)  # what the process drew before must not matter, nor where the images are
    go(tmp_path / "x.safetensors", load_class_folders(own, "shapes"), model=DROPOUT)
    assert outcome(tmp_path / "x.safetensors") == outcome(trained[DROPOUT])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of forked workers
def test_workers_and_evaluations_on_the_way_change_nothing(trained, shapes, tmp_path: Path) -> None:
    go(tmp_path / "x.safetensors", shapes, model=DROPOUT, workers=2, evaluate_every=1)
    assert load_file(tmp_path / "x.safetensors").keys() == load_file(trained[DROPOUT]).keys()
    for name, value in load_file(trained[DROPOUT]).items():
        assert torch.equal(load_file(tmp_path / "x.safetensors")[name], value), name


def test_another_seed_gives_other_weights(trained, shapes, tmp_path: Path) -> None:
    go(tmp_path / "x.safetensors", shapes, seed=1)
    assert outcome(tmp_path / "x.safetensors")["head.fc.weight"] != outcome(trained[NETWORK])["head.fc.weight"]


def test_an_interrupted_training_goes_on_to_the_same_bits(trained, shapes, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(KeyboardInterrupt):
        go(out, shapes, model=DROPOUT, at={2: interrupt})
    assert {path.name for path in tmp_path.iterdir()} == {".x.lock", "x.partial"}
    assert {path.name for path in (tmp_path / "x.partial").iterdir()} == {"checkpoint.pt", "log.txt"}
    with monkeypatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # after every step
        with pytest.raises(Stopped):
            go(out, shapes, model=DROPOUT, at={5: stop})
    steps: list[int] = []
    go(out, shapes, model=DROPOUT, at=noting(steps, STEPS))
    assert steps == [5, 6]
    assert outcome(out) == outcome(trained[DROPOUT])
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.json", "x.history.csv"}


def test_weights_appear_last(shapes: ClassFolders, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("msinet.training.pretrain.save_weights", lambda *_: stop())
        with pytest.raises(Stopped):
            go(out, shapes)
    assert not out.exists()
    assert (tmp_path / "x.json").exists()
    steps: list[int] = []
    go(out, shapes, at=noting(steps, STEPS))
    assert steps == []  # the training itself was over
    assert out.exists()


def test_a_finished_file_is_trained_again_only_on_request(trained, shapes, tmp_path: Path) -> None:
    out = Path(shutil.copy(trained[NETWORK], tmp_path / "x.safetensors"))
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"x\.safetensors holds a finished pre-training; .*--out, or --no-resume"):
        go(out, shapes, seed=1)
    assert out.read_bytes() == before
    with pytest.raises(UserError, match="unknown network"):
        go(out, shapes, model="msinett", resume=False)
    assert out.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        go(out, shapes, seed=1, resume=False, at={3: interrupt})
    assert not out.exists()  # so that the same command without --no-resume goes on
    assert (tmp_path / "x.before.safetensors").read_bytes() == before  # nothing is lost until then
    go(out, shapes, seed=1)
    assert outcome(out)["seed"] == "1"
    assert not list(tmp_path.glob("x.before.*"))
    go(out, shapes, seed=2, resume=False)
    assert outcome(out)["seed"] == "2"
    assert not list(tmp_path.glob("x.before.*"))


def test_a_checkpoint_of_another_training_is_refused(shapes: ClassFolders, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(KeyboardInterrupt):
        go(out, shapes, at={3: interrupt})
    draw(own / "train/ant/more.png", 5, 99)
    for other in (
        {"seed": 1},
        {"recipe": changed(SMOKE, epoch_decay=0.9)},
        {"recipe": override(SMOKE, {"crop": 0.5})},
        {"data": load_class_folders(own)},
        {"options": {"ratio": 2}},
    ):
        with pytest.raises(WeightsError, match=r"belongs to another training; .*--no-resume"):
            go(out, **{"data": shapes, **other})


def test_two_at_a_time_are_refused(shapes: ClassFolders, tmp_path: Path) -> None:
    with exclusive(tmp_path / ".x.lock", "another"), pytest.raises(Busy, match=r"pre-training in .*x\.safetensors"):
        go(tmp_path / "x.safetensors", shapes)


# --- Broken images -------------------------------------------------------------------------------


def test_broken_images_are_named_before_training(own: Path, tmp_path: Path) -> None:
    (own / "train/ant/0.png").write_bytes(b"<html>")
    whole = (own / "val/bar/1.png").read_bytes()
    (own / "val/bar/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"own: 2 image\(s\) cannot be used: .*train/ant/0\.png.*val/bar/1\.png"):
        go(tmp_path / "x.safetensors", load_class_folders(own), at={1: stop})
    assert not (tmp_path / "x.partial").exists()


def test_among_very_many_images_a_broken_one_stops_the_training(own, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("msinet.training.pretrain.VERIFY_LIMIT", 60)  # as many as there are
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    data = load_class_folders(own)
    assert len(data.train) + len(data.val) == 60
    broken = own / data.train[SMOKE.sampler.batches(data.train_labels, seed=0, epoch=0)[0][0]]  # of some batch

    with pytest.raises(DataError, match=rf"{broken.name}: cannot be decoded .*; fetch it again or remove it"):
        go(
            tmp_path / "x.safetensors",
            data,
            recipe=changed(SMOKE, epochs=9, steps_per_epoch=5),
            at={1: lambda: broken.write_bytes(b"")},
        )
    assert (tmp_path / "x.partial/checkpoint.pt").exists()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "own: 60 images are not all read beforehand" in printed


# --- What the weights are good for ---------------------------------------------------------------


def test_weights_and_record_say_where_they_come_from(trained, shapes: ClassFolders) -> None:
    noted = read_metadata(trained[NETWORK])
    record = json.loads(trained[NETWORK].with_suffix(".json").read_text())
    assert noted["interactions"] == "GGEGAGGNGAEA"
    for name, value in noted.items():
        assert name in ("interactions", "recipe") or str(record[name]) == value
    assert noted["pretrained_on"] == f"shapes {shapes.fingerprint}"
    assert (noted["model"], noted["options"], noted["num_classes"], noted["seed"]) == (NETWORK, "{}", "6", "0")
    assert (noted["height"], noted["width"], noted["steps"]) == ("16", "16", "6")
    assert json.loads(noted["recipe"]) == json.loads(json.dumps(settings(SMOKE)))
    assert all(type(value) in (str, int, float, bool, type(None)) for value in record.values())  # flat


def test_a_re_identification_starts_from_them(trained) -> None:
    for model in NETWORKS:
        torch.manual_seed(1)
        network = build_model(model, 751)
        fresh = {name: value.clone() for name, value in network.state_dict().items()}
        report = load_weights(network, trained[model])
        saved, loaded = load_file(trained[model]), network.state_dict()
        classifiers = {name for name in loaded if "classifier" in name}
        assert set(report.mismatched) == classifiers
        assert not report.missing
        assert not report.unexpected
        assert report.matched == len(loaded) - len(classifiers)
        for name, value in loaded.items():
            assert torch.equal(value, fresh[name] if name in classifiers else saved[name]), name


@pytest.mark.parametrize("model", ["msinet", "resnet50", "osnet", "cdnet"])
def test_so_it_does_at_full_width(tmp_path: Path, model: str) -> None:
    torch.manual_seed(0)
    save_weights(build_model(model, 10), tmp_path / "x.safetensors", {})
    network = build_model(model, 751)
    load_weights(network, tmp_path / "x.safetensors")
    for name, value in load_file(tmp_path / "x.safetensors").items():
        assert "classifier" in name or torch.equal(network.state_dict()[name], value), name


def test_weights_of_another_network_are_refused(trained) -> None:
    for model in NETWORKS:
        for other in {*NETWORKS, "msinet_x0_50", "resnet18_x0_25"} - {model}:
            with pytest.raises(WeightsError):
                load_weights(build_model(other, 751), trained[model])
    with pytest.raises(WeightsError, match="interactions differ"):
        load_weights(build_model(NETWORK, 751, genotype="GGEGAGGNGAEN"), trained[NETWORK])


# --- The command ---------------------------------------------------------------------------------


def command(*words: object) -> int:
    return run_command(["pretrain", *map(str, words), "--model", NETWORK, "--device", "cpu", "--no-progress"])


def test_the_command_s_weights_start_a_training(folder, data_root, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--data", folder, "--profile", "smoke", "--recipe", "height=16", "width=16", "crop=0.5")
    assert command(*words) == 0
    printed = capsys.readouterr().out
    record = json.loads(Path("weights", f"{NETWORK}.json").read_text())
    assert f"top1 {100 * record['top1']:.1f}, top5 {100 * record['top5']:.1f}, chance 16.7" in printed
    assert f"written: weights/{NETWORK}.safetensors, {NETWORK}.json, {NETWORK}.history.csv" in printed
    assert command(*words) == 2
    assert "holds a finished pre-training" in capsys.readouterr().err
    for name, more in (("with", ["--weights", f"weights/{NETWORK}.safetensors"]), ("without", [])):
        words = [
            "train",
            "--data-root",
            str(data_root),
            "--out",
            name,
            "--model",
            NETWORK,
            "--profile",
            "smoke",
            "--recipe",
            "epochs=0",
            "--device",
            "cpu",
            "--no-progress",
            *more,
        ]
        assert run_command(words) == 0
    assert len({json.loads(Path(name, "record.json").read_text())["mAP"] for name in ("with", "without")}) == 2


@pytest.mark.parametrize(
    ("words", "name", "profile"),
    [
        (["--data"], "shapes", "mini"),
        (["--imagenet"], "imagenet", "paper"),
        (["--profile", "full", "--imagenet"], "imagenet", "full"),
    ],
)
def test_imagenet_has_a_profile_of_its_own(folder, tmp_path: Path, monkeypatch, words, name, profile) -> None:
    seen: list[Any] = []

    def noted(*given: Any) -> Record:
        seen.extend(given)
        return {"top1": 0.5, "top5": 0.5, "chance": 0.1, "pretrained_on": "x"}

    monkeypatch.setattr("msinet.training.pretrain.pretrain", noted)
    assert command(*words, folder, "--out", tmp_path / "x.safetensors", "--seed", 3, "--options", "ratio=2") == 0
    out, pretraining, run_options = seen
    assert (pretraining.data.name, pretraining.seed) == (name, 3)
    assert pretraining.recipe == resolve_pretraining(profile).recipe
    assert (out, pretraining.options, run_options.device) == (tmp_path / "x.safetensors", {"ratio": 2}, "cpu")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "pretrain needs one of --data DIR and --imagenet DIR"),
        (["--data", ".", "--imagenet", "."], "pretrain needs one of --data DIR and --imagenet DIR"),
        (["--data", "nowhere"], "nowhere does not exist or is not a folder; expected <root>/train/<class>/*.jpg"),
        (["--data", "DATA", "--profile", "papr"], "unknown profile 'papr'. Did you mean 'paper'?"),
        (["--data", "DATA", "--recipe", "pad=2"], "recipe: pad must be 0 with a random resized crop"),
        (["--data", "DATA", "--recipe", "pk=2"], "unknown setting of the recipe 'pk'"),
        (["--data", "DATA", "--out", "weights.pth"], "weights.pth must be named X.safetensors"),
        (["--data", "DATA", "--options", "ration=3"], "unknown option of msinet 'ration'"),
        (["--data", "DATA", "--profile", "mini"], "a batch needs 64 images, but the training set has 42; take fewer"),
        (["--data", "DATA", "--device", "tpu"], "device 'tpu' cannot be used"),
        (["--data", "DATA", "--model", "colour_histogram"], "colour_histogram has nothing to train"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(folder, tmp_path, monkeypatch, capsys, words, expected) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["pretrain", "--model", NETWORK, "--device", "cpu", "--no-progress", *words]
    assert run_command([str(folder) if word == "DATA" else word for word in words]) == 2
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert expected in message
    assert not list(tmp_path.rglob("*.partial"))
