"""Decoding of images with a cache, and training and test batches."""

import contextlib
import io
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from msinet import distributed
from msinet.data.augmentation import Augmentation
from msinet.data.datasets import Dataset, Image
from msinet.data.decoding import DECODER, Pixels, decode, decode_or_note
from msinet.data.transforms import augment, normalize
from msinet.errors import DataError, UserError, first_few
from msinet.io import atomic_path, cache_folder, write_text
from msinet.progress import bar

#: Batches to load: (epoch, step, positions in the training set).
Plan = Iterable[tuple[int, int, list[int]]]


class PixelSource(Protocol):
    """Images by position, each (height, width, 3) uint8; of one size unless a random resized crop follows."""

    def __getitem__(self, index: int) -> Pixels: ...
    def __len__(self) -> int: ...


class CachedPixels:
    """Decoded images in a memory-mapped .npy file. A copy in another process maps the file again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.pixels: Pixels = np.load(file, mmap_mode="r")  # (N, height, width, 3) uint8

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Pixels:
        image: Pixels = self.pixels[index]
        return image

    def __getstate__(self) -> Mapping[str, Path]:
        return {"file": self.file}  # without the pixels, which would be copied

    def __setstate__(self, state: Mapping[str, Path]) -> None:
        self.__init__(state["file"])  # type: ignore[misc]


class DecodeOnDemand:
    """Decodes an image on every access."""

    def __init__(self, images: Sequence[Image], height: int, width: int) -> None:
        self.paths = [image.path for image in images]
        self.height, self.width = height, width

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels:
        return decode(self.paths[index], self.height, self.width)


def undecodable(images: Sequence[Image], *, progress: bool = True) -> list[str]:
    """Read every image once and return one message per image that cannot be decoded."""
    problems: list[str] = []

    def attempt(image: Image) -> None:
        decode_or_note(image.path, 8, 8, problems)

    for _ in _in_threads(attempt, images, "reading images", progress):
        pass
    return sorted(problems)


Result = TypeVar("Result")
#: Images that are decoded before their pixels are written, so that a slow disk does not fill the memory.
AHEAD = 256


def _in_threads(
    work: Callable[[Image], Result], images: Sequence[Image], what: str, progress: bool
) -> Iterator[Result]:
    """Yield the results of all images, in order, with a bar. At most `AHEAD` results are in memory."""
    # Pillow decodes outside the interpreter lock, so threads use all cores.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        bar(desc=what, total=len(images), unit="img", disable=not progress) as shown,
    ):
        for start in range(0, len(images), AHEAD):
            for result in pool.map(work, images[start : start + AHEAD]):
                yield result
                shown.update()


#: Larger sets, in bytes of decoded images, are cached only on request.
CACHE_LIMIT = 4 * 2**30


def open_pixels(
    dataset: Dataset, role: str, height: int, width: int, *, cache: bool | None = None, progress: bool = True
) -> PixelSource:
    """The decoded images of one role, after a check that all can be decoded.

    The first call for a data set and size decodes all images, so that broken ones are reported before training starts.
    With `cache` it also stores the decoded images for this run and later ones.

    Args:
        dataset: a loaded data set.
        role: "train" or "test".
        height: of the resized images.
        width: of the resized images.
        cache: store decoded images in a memory-mapped file; None: if they fit in 4 GiB and on the disk.
        progress: show a bar.

    Raises:
        DataError: images that cannot be decoded, by path.
    """
    with distributed.leader_first():
        return _open_pixels(dataset, role, height, width, cache, progress)


def _open_pixels(
    dataset: Dataset, role: str, height: int, width: int, cache: bool | None, progress: bool
) -> PixelSource:
    images = dataset.train if role == "train" else dataset.test
    # The fingerprint alone does not change when a file is rewritten with the same size.
    contents = dataset.contents("train" if role == "train" else "test")
    key = f"{dataset.name}-{dataset.fingerprint}-{contents}-{role}{DECODER}"
    folder = cache_folder() if cache is False else _made_cache_folder()
    file = folder / f"{key}-{height}x{width}.npy"
    size = len(images) * height * width * 3
    intact = _intact(file, (len(images), height, width, 3))
    if cache is None:
        cache = intact or (size <= CACHE_LIMIT and 2 * size <= disk_usage(folder).free)
    if cache:
        if not intact:
            _write_cache(dataset.name, images, height, width, file, progress=progress)
        return CachedPixels(file)
    verify(dataset.name, key, images, progress=progress)
    return DecodeOnDemand(images, height, width)


def verify(name: str, key: str, images: Sequence[Image], *, progress: bool = True) -> None:
    """Decode every image once, unless `key` was verified before; a small file in the cache notes that, if possible.

    Raises:
        DataError: images of the set `name` that cannot be decoded, by path.
    """
    verified = cache_folder() / f"{key}.verified"
    if not verified.exists():
        problems = undecodable(images, progress=progress)
        if problems:
            raise _broken(name, problems)
        with contextlib.suppress(UserError):  # a full or read-only disk costs time at the next start, no more
            write_text(verified, f"{len(images)} images decode\n")


def _made_cache_folder() -> Path:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot store decoded images in {folder}: {error.strerror}; "
            "set MSINET_CACHE to a folder that you may write to"
        ) from error
    return folder


def _broken(name: str, problems: Sequence[str]) -> DataError:
    return DataError(f"{name}: {len(problems)} image(s) cannot be used: {first_few(problems)}")


def _header(shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file of uint8."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _intact(file: Path, shape: tuple[int, ...]) -> bool:
    """True if a cache file has the right header and size; otherwise it is written again."""
    if not file.is_file():
        return False
    header = _header(shape)
    with file.open("rb") as stream:
        return stream.read(len(header)) == header and file.stat().st_size == len(header) + math.prod(shape)


def _write_cache(name: str, images: Sequence[Image], height: int, width: int, file: Path, *, progress: bool) -> None:
    problems: list[str] = []
    with atomic_path(file) as temporary:
        # np.lib.format.open_memmap would leave a sparse file, with a bus error later on a full disk. Writing the
        # bytes reports a full disk now.
        with temporary.open("wb") as stream:
            stream.write(_header((len(images), height, width, 3)))

            def attempt(image: Image) -> Pixels:
                return _try_decode(image.path, height, width, problems)

            for pixels in _in_threads(attempt, images, "decoding images", progress):
                stream.write(pixels.tobytes())
        if problems:
            raise _broken(name, sorted(problems))


def _try_decode(path: Path, height: int, width: int, problems: list[str]) -> Pixels:
    pixels = decode_or_note(path, height, width, problems)
    return np.zeros((height, width, 3), np.uint8) if pixels is None else pixels


# --- Training batches ----------------------------------------------------------------------------


class _TrainImages(TorchDataset[tuple[Tensor, int] | DataError]):
    """Augmented images. The random numbers of an image depend only on (seed, epoch, position in the epoch).

    The item of an image that cannot be decoded is the error: if a worker raised it, torch would add a traceback to its
    message.
    """

    def __init__(
        self,
        pixels: PixelSource,
        labels: np.ndarray,
        augmentation: Augmentation,
        seed: int,
        size: tuple[int, int] | None,
    ) -> None:
        self.pixels, self.labels, self.augmentation, self.seed, self.size = pixels, labels, augmentation, seed, size

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int] | DataError:
        epoch, position, index = key
        rng = np.random.default_rng((self.seed, epoch, position, 1))  # 1: differs from the sampler's seeds
        try:
            pixels = self.pixels[index]
        except DataError as error:
            return error
        return augment(pixels, rng, self.augmentation, self.size), int(self.labels[index])


def _joined(items: list[tuple[Tensor, int] | DataError]) -> tuple[Tensor, Tensor] | DataError:
    """A batch of images and labels, or the first error among them."""
    errors = [item for item in items if isinstance(item, DataError)]
    if errors:
        return errors[0]
    images, labels = default_collate(items)
    return images, labels


def train_batches(
    pixels: PixelSource,
    labels: np.ndarray,
    augmentation: Augmentation,
    plan: Plan,
    *,
    seed: int,
    workers: int = 0,
    pin_memory: bool = False,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the order of `plan`: images (B, 3, H, W) float32 and labels (B,) int64.

    Batches depend on the plan and the seed, not on the number of workers. `size` is (H, W) of a random resized crop;
    otherwise images already have their size. With several processes, each gets its own part of every batch; together
    the parts equal the batch of a single process.

    Raises:
        DataError: an image that can no longer be decoded.
    """
    keys = (
        [(epoch, step * len(batch) + i, index) for i, index in enumerate(batch)][distributed.share(len(batch))]
        for epoch, step, batch in plan
    )
    loader: DataLoader[tuple[Tensor, int] | DataError] = DataLoader(
        _TrainImages(pixels, labels, augmentation, seed, size),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_joined,
        pin_memory=pin_memory,
        worker_init_fn=_quiet if workers else None,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _quiet(worker: int) -> None:
    del worker
    torch.set_num_threads(1)  # workers share the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    os.setpgrp()  # and signals to its process group, which schedulers and torchrun send; a killed worker is an error


def test_batches(pixels: PixelSource, batch_size: int) -> Iterator[Tensor]:
    """All images in order, normalised, (B, 3, H, W) float32 in batches of `batch_size` (the last may be smaller).

    Several processes take batches in turn. In the last turn, processes without a batch get the last one again, so that
    all get the same number of batches; `distributed.gather_batch` joins their results.
    """
    count = -(-len(pixels) // batch_size)
    for turn in range(0, count, distributed.world()):
        start = batch_size * min(turn + distributed.rank(), count - 1)
        stop = min(start + batch_size, len(pixels))
        yield normalize(np.stack([pixels[i] for i in range(start, stop)]))
