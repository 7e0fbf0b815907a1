"""Decoding, the cache of decoded images, and batches that no number of workers changes."""

import os
import pickle
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision import transforms as released

from msinet.data import (
    Augmentation,
    Dataset,
    decoding,
    epoch_batches,
    load_dataset,
    loading,
    open_pixels,
    train_batches,
)
from msinet.data import test_batches as batches_in_order  # by its own name pytest would take it for a test
from msinet.data.decoding import decode
from msinet.data.loading import CachedPixels, DecodeOnDemand
from msinet.errors import DataError, UserError
from msinet.progress import bar

Copy = Callable[[str], Path]

# From Python 3.12 on a process with threads, which torch starts, warns when it forks; torch warns where there are
# fewer cores than workers. Neither is what these tests are about.
workers_may_warn = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)


def opened(dataset: Dataset, role: str = "train", size: tuple[int, int] = (16, 8), cache: bool | None = True):
    return open_pixels(dataset, role, *size, cache=cache, progress=False)


def contents(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.glob("*"))


@pytest.fixture
def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*arguments: object) -> None:
        raise AssertionError("an image is decoded again")

    def forbid() -> None:
        for module in (decoding, loading):
            monkeypatch.setattr(module, "decode", refuse)

    return forbid


# --- Decoding ------------------------------------------------------------------------------------


def picture(height: int = 30, width: int = 20) -> PIL.Image.Image:
    """A smooth image, so that a lossy file stays close to it."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([8 * rows, 12 * columns, 255 - 4 * rows - 4 * columns], axis=-1)
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_decoding_is_that_of_the_released_code(data_root: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    pipeline = released.Compose(
        [
            released.Resize((20, 12)),
            released.ToTensor(),
            released.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    (batch,) = batches_in_order(DecodeOnDemand(dataset.test[:8], 20, 12), 8)
    for image, tensor in zip(dataset.test, batch, strict=False):
        with PIL.Image.open(image.path) as file:
            torch.testing.assert_close(tensor, pipeline(file.convert("RGB")), rtol=0, atol=1e-6)


def test_a_lossless_image_of_the_right_size_is_decoded_exactly(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png", 30, 20)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(picture()))
    assert decode(tmp_path / "a.png", 7, 50).shape == (7, 50, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = picture().convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 30, 20), expected)
    assert (np.ptp(expected, axis=-1) == 0).all() == (mode in ("1", "L", "LA"))


def test_opacity_is_no_colour(tmp_path: Path) -> None:
    image = picture()
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 30, 20), np.asarray(picture()))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palettes_are_read_without_a_warning(tmp_path: Path, suffix: str) -> None:
    """Warnings are errors here, and Pillow has one for such files."""
    image = picture().quantize(16)
    colours = np.array(image.getpalette()).reshape(-1, 3)[np.asarray(image)]
    image.save(tmp_path / f"a.{suffix}", transparency=bytes(range(0, 160, 10)) if suffix == "png" else 3)
    np.testing.assert_array_equal(decode(tmp_path / f"a.{suffix}", 30, 20), colours)


def test_a_transparent_colour_is_read_without_a_warning(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", transparency=(0, 0, 255))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 30, 20), np.asarray(picture()))


def test_four_inks_become_rgb(tmp_path: Path) -> None:
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    difference = decode(tmp_path / "a.jpg", 30, 20).astype(int) - np.asarray(picture())
    assert np.abs(difference).mean() < 4  # an inverted image would be off by a hundred


@pytest.mark.parametrize("content", ["half", "text", "nothing"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_cannot_be_decoded_is_named(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture().save(path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "text": b"<html>404</html>", "nothing": b""}[content])
    with pytest.raises(DataError, match=rf"{path}: cannot be decoded \(.+\); fetch it again or remove it"):
        decode(path, 8, 8)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be decoded .*No such file"):
        decode(tmp_path / "gone.jpg", 8, 8)


def test_an_image_too_large_to_be_true_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)  # refused beyond twice as many
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded .*decompression bomb"):
        decode(tmp_path / "a.png", 8, 8)


def test_any_error_of_pillow_is_reported_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged AVIF files raise RuntimeError."""
    picture().save(tmp_path / "a.png")

    def damaged(*arguments: object) -> None:
        raise RuntimeError("Failed to decode frame 0: Truncated data")

    monkeypatch.setattr(PIL.Image.Image, "convert", damaged)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded \(Failed to decode frame 0"):
        decode(tmp_path / "a.png", 8, 8)


# --- Opening the images of a set -----------------------------------------------------------------


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize("name", ["market1501", "vehicleid"])
def test_the_cache_holds_what_decoding_gives(data_root: Path, own_cache: Path, name: str, role: str) -> None:
    dataset = load_dataset(name, data_root)
    cached, fresh = opened(dataset, role), opened(dataset, role, cache=False)
    assert isinstance(cached, CachedPixels)
    assert isinstance(fresh, DecodeOnDemand)
    images = dataset.train if role == "train" else dataset.test
    assert len(cached) == len(fresh) == len(images)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(cached[i], fresh[i])
        np.testing.assert_array_equal(cached[i], decode(image.path, 16, 8))
        assert cached[i].shape == (16, 8, 3)
        assert cached[i].dtype == np.uint8


def test_images_are_decoded_once(data_root: Path, own_cache: Path, forbid_decoding: Callable[[], None]) -> None:
    first = np.array(opened(load_dataset("market1501", data_root)))
    (file,) = own_cache.iterdir()
    before = file.stat()
    forbid_decoding()
    second = opened(load_dataset("market1501", data_root))
    np.testing.assert_array_equal(first, second)
    after = file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_images_are_verified_once_without_the_cache(
    data_root: Path, own_cache: Path, forbid_decoding: Callable[[], None]
) -> None:
    opened(load_dataset("market1501", data_root), cache=False)
    forbid_decoding()
    opened(load_dataset("market1501", data_root), cache=False, size=(32, 16))  # of any size
    with pytest.raises(AssertionError):  # the other role has other images
        opened(load_dataset("market1501", data_root), "test", cache=False)


def test_without_the_cache_nothing_needs_to_be_written(data_root: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "file" / "cache"))
    assert len(opened(load_dataset("market1501", data_root), cache=False)) == 31


def test_each_set_role_and_size_has_a_file_of_its_own(data_root: Path, own_copy: Copy, own_cache: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    opened(dataset)
    opened(dataset, "test")
    opened(dataset, size=(8, 16))
    opened(load_dataset("veri776", data_root))
    folder = own_copy("market1501")
    (folder / "query" / "0001_c1s1_000020_01.jpg").unlink()
    opened(load_dataset("market1501", folder))
    assert len(contents(own_cache)) == 5


def test_decoded_images_are_kept_where_they_fit(
    data_root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset("veri776", data_root)
    size = 32 * 16 * 8 * 3
    monkeypatch.setattr(loading, "CACHE_LIMIT", size - 1)
    assert isinstance(opened(dataset, cache=None), DecodeOnDemand)
    monkeypatch.setattr(loading, "CACHE_LIMIT", size)
    monkeypatch.setattr(loading, "disk_usage", lambda _: SimpleNamespace(free=2 * size - 1))
    assert isinstance(opened(dataset, cache=None), DecodeOnDemand)
    monkeypatch.setattr(loading, "disk_usage", lambda _: SimpleNamespace(free=2 * size))
    assert isinstance(opened(dataset, cache=None), CachedPixels)
    monkeypatch.setattr(loading, "CACHE_LIMIT", 0)
    assert isinstance(opened(dataset, cache=None), CachedPixels)  # it is there already
    assert isinstance(opened(dataset, cache=False), DecodeOnDemand)
    (file,) = own_cache.glob("*.npy")
    truncate(file)
    assert isinstance(opened(dataset, cache=None), DecodeOnDemand)  # what is there is of no use


def cut_tail(good: bytes) -> bytes:
    return good[:-1]


def cut_header(good: bytes) -> bytes:
    return good[:50]


def empty(good: bytes) -> bytes:
    return b""


def zeros(good: bytes) -> bytes:
    return bytes(len(good))


def unbalanced_header(good: bytes) -> bytes:
    return good.replace(b"(31,", b"((31")


def other_shape(good: bytes) -> bytes:
    return good.replace(b"(31, 16, 8, 3)", b"(31, 8, 16, 3)")


def longer(good: bytes) -> bytes:
    return good + b"\0"


@pytest.mark.parametrize("cache", [True, None])
@pytest.mark.parametrize(
    "damage", [cut_tail, cut_header, empty, zeros, unbalanced_header, other_shape, longer], ids=lambda f: f.__name__
)
def test_a_damaged_cache_is_written_anew(
    data_root: Path, own_cache: Path, damage: Callable[[bytes], bytes], cache: bool | None
) -> None:
    dataset = load_dataset("market1501", data_root)
    expected = np.array(opened(dataset))
    (file,) = own_cache.iterdir()
    good = file.read_bytes()
    assert damage(good) != good
    file.write_bytes(damage(good))
    np.testing.assert_array_equal(opened(dataset, cache=cache), expected)
    assert file.read_bytes() == good
    assert contents(own_cache) == [file.name]


def test_the_cache_is_a_file_that_numpy_reads(data_root: Path, own_cache: Path) -> None:
    pixels = opened(load_dataset("market1501", data_root))
    (file,) = own_cache.iterdir()
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), pixels)


def test_the_cache_is_mapped_again_in_another_process(data_root: Path, own_cache: Path) -> None:
    pixels = opened(load_dataset("market1501", data_root))
    copied = pickle.dumps(pixels)
    assert len(copied) < 1000 < pixels.pixels.nbytes
    again = pickle.loads(copied)
    assert isinstance(again.pixels, np.memmap)
    np.testing.assert_array_equal(again.pixels, pixels.pixels)


def test_few_decoded_images_wait_for_a_slow_disk(
    data_root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = written = most = 0
    original = decoding.decode

    def counted(*arguments: Any) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        return original(*arguments)

    def slow(**settings: Any) -> Any:
        shown = bar(**settings)
        update = shown.update

        def after_a_write() -> None:
            nonlocal written, most
            written += 1
            time.sleep(0.002)
            most = max(most, decoded - written)
            update()

        monkeypatch.setattr(shown, "update", after_a_write)
        return shown

    monkeypatch.setattr(loading, "AHEAD", 8)
    monkeypatch.setattr(decoding, "decode", counted)
    monkeypatch.setattr(loading, "bar", slow)
    opened(load_dataset("market1501", data_root))
    assert decoded == written == 31
    assert most <= 8


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("cache", [True, False, None])
@pytest.mark.parametrize(
    ("role", "name"),
    [("train", "bounding_box_train/0008_c1s1_000000_01.jpg"), ("test", "query/0001_c1s1_000020_01.jpg")],
)
def test_a_truncated_image_is_named_before_training(
    own_copy: Copy, own_cache: Path, cache: bool | None, role: str, name: str
) -> None:
    folder = own_copy("market1501")
    shutil.copy(folder / name, folder / "whole.jpg")
    truncate(folder / name)
    for _ in range(2):  # nothing is left behind that would hide it the second time
        with pytest.raises(DataError) as caught:
            opened(load_dataset("market1501", folder), role, cache=cache)
        assert str(caught.value).startswith("market1501: 1 image(s) cannot be used: ")
        assert f"{folder / name}: cannot be decoded" in str(caught.value)
        assert "fetch it again or remove it" in str(caught.value)
        assert contents(own_cache) == []
    opened(load_dataset("market1501", folder), "test" if role == "train" else "train", cache=cache)  # not concerned
    shutil.move(folder / "whole.jpg", folder / name)
    assert opened(load_dataset("market1501", folder), role, cache=cache)[0].shape == (16, 8, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_broken_images_are_reported_by_the_whole_name_of_their_set(
    own_copy: Copy, own_cache: Path, cache: bool
) -> None:
    dataset = replace(load_dataset("market1501", own_copy("market1501")), name="my-photos")
    truncate(dataset.train[0].path)
    with pytest.raises(DataError, match=r"^my-photos: 1 image\(s\) cannot be used"):
        opened(dataset, cache=cache)


@pytest.mark.parametrize("cache", [True, False])
def test_all_broken_images_are_counted(own_copy: Copy, own_cache: Path, cache: bool) -> None:
    folder = own_copy("veri776")
    for path in (folder / "image_train").iterdir():
        truncate(path)
    with pytest.raises(DataError, match=r"^veri776: 32 image\(s\) cannot be used: .*0010_c001.* and 27 more$"):
        opened(load_dataset("veri776", folder), cache=cache)


def test_a_cache_that_cannot_be_written_is_a_user_error(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache: Not a directory; set MSINET_CACHE to a folder"):
        opened(load_dataset("market1501", data_root))


def test_the_cache_lies_where_it_should(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MSINET_CACHE")
    assert loading.cache_folder() == tmp_path / ".cache" / "msinet"
    monkeypatch.setenv("MSINET_CACHE", str(tmp_path / "here"))
    assert loading.cache_folder() == tmp_path / "here"


# --- Batches -------------------------------------------------------------------------------------

Batches = list[tuple[Tensor, Tensor]]
Plan = list[tuple[int, int, list[int]]]


def plan_of(labels: np.ndarray, epochs: int = 2, steps: int = 3) -> Plan:
    return [
        (epoch, step, batch)
        for epoch in range(epochs)
        for step, batch in enumerate(epoch_batches(labels, 4, 2, seed=3, epoch=epoch, steps=steps))
    ]


def drawn(dataset: Dataset, plan: Plan, *, seed: int = 3, workers: int = 0, cache: bool = True) -> Batches:
    recipe = Augmentation(pad=2, jitter=True)
    pixels = opened(dataset, cache=cache)
    return list(train_batches(pixels, dataset.labels, recipe, iter(plan), seed=seed, workers=workers))


def assert_same(first: Batches, second: Batches) -> None:
    assert len(first) == len(second)
    for (images, labels), (others, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_training_batches_follow_the_plan(data_root: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    plan = plan_of(dataset.labels)
    batches = drawn(dataset, plan)
    assert len(batches) == 6
    for (images, labels), (_, _, batch) in zip(batches, plan, strict=True):
        assert (images.shape, images.dtype) == ((8, 3, 16, 8), torch.float32)
        assert (labels.shape, labels.dtype) == ((8,), torch.int64)
        assert labels.tolist() == [dataset.labels[i] for i in batch]
    nothing = Augmentation(flip=0, pad=0, erase=0)
    pixels = opened(dataset)
    everything = torch.cat(list(batches_in_order(pixels, 100)))
    for (images, _), (_, _, batch) in zip(
        train_batches(pixels, dataset.labels, nothing, plan, seed=0), plan, strict=True
    ):
        assert torch.equal(images, everything[batch])


@workers_may_warn
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_bit(data_root: Path, workers: int, cache: bool) -> None:
    dataset = load_dataset("market1501", data_root)
    plan = plan_of(dataset.labels)
    torch.manual_seed(0)
    alone = drawn(dataset, plan)
    torch.manual_seed(1)  # has no say
    assert_same(drawn(dataset, plan, workers=workers, cache=cache), alone)


@workers_may_warn
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [2, 4])  # within an epoch
def test_a_plan_can_start_in_the_middle(data_root: Path, start: int, workers: int) -> None:
    dataset = load_dataset("market1501", data_root)
    plan = plan_of(dataset.labels)
    assert_same(drawn(dataset, plan[start:], workers=workers), drawn(dataset, plan)[start:])


def test_chance_differs_by_seed_epoch_step_and_place(data_root: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    plan = [(epoch, step, [5, 5]) for epoch in range(3) for step in range(3)]  # one image, again and again
    images = [
        image.numpy().tobytes() for seed in (0, 1) for batch, _ in drawn(dataset, plan, seed=seed) for image in batch
    ]
    assert len(images) == len(set(images)) == 36


def test_a_plan_is_read_as_it_is_needed(data_root: Path) -> None:
    """A long training must not be planned to its end before it begins."""
    dataset = load_dataset("market1501", data_root)

    def endless() -> Iterator[tuple[int, int, list[int]]]:
        step = 0
        while True:
            yield 0, step, [0, 1]
            step += 1

    batches = train_batches(opened(dataset), dataset.labels, Augmentation(), endless(), seed=0)
    assert len([next(batches) for _ in range(5)]) == 5


@workers_may_warn
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_during_training_is_named(own_copy: Copy, own_cache: Path, workers: int) -> None:
    folder = own_copy("market1501")
    dataset = load_dataset("market1501", folder)
    pixels = opened(dataset, cache=False)
    truncate(dataset.train[4].path)
    with pytest.raises(DataError, match=dataset.train[4].path.name) as caught:
        list(train_batches(pixels, dataset.labels, Augmentation(), [(0, 0, [0, 4])], seed=0, workers=workers))
    assert str(caught.value).startswith(f"{dataset.train[4].path}: cannot be decoded")  # without a traceback
    traceback.clear_frames(caught.tb)  # frees the loader now; the garbage collector would wait 5 s for its workers


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("size", "lengths"), [(7, [7, 7, 3]), (17, [17]), (50, [17]), (1, [1] * 17)])
def test_test_batches_are_in_order(data_root: Path, cache: bool, size: int, lengths: list[int]) -> None:
    dataset = load_dataset("vehicleid", data_root)
    batches = list(batches_in_order(opened(dataset, "test", cache=cache), size))
    assert [len(batch) for batch in batches] == lengths
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for image, tensor in zip(dataset.test, torch.cat(batches), strict=True):
        expected = (decode(image.path, 16, 8).astype(np.float32) / 255 - mean) / std
        np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), expected)
