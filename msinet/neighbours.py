"""Features of image files without labels, and the nearest images of a query (docs/own-images.md).

Features of a collection are computed batch by batch, written to a file and ranked from there, so that a collection may
be larger than the memory.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msinet.data.datasets import SUFFIXES
from msinet.data.decoding import DECODER, decode_or_note
from msinet.data.layouts import files
from msinet.data.transforms import normalize
from msinet.environment import pick_device
from msinet.errors import DataError, UserError, WeightsError, first_few
from msinet.io import StrPath, atomic_path, cache_folder, check_writable, file_hash, nearest_existing, stable_hash
from msinet.models import CARDS, LoadReport, build_model, load_weights
from msinet.models.weights import read_metadata
from msinet.progress import bar
from msinet.retrieval import top_k
from msinet.training.recipe import ImageSize
from msinet.training.recipes import resolve

#: Images that a network embeds at a time.
BATCH = 64
#: Separates paths in a file; no path can contain it.
END = b"\0"


@dataclass(frozen=True)
class Embedder:
    """A trained network with its image size and device."""

    network: nn.Module
    """in evaluation mode"""
    height: int
    width: int
    device: torch.device
    report: LoadReport
    """entries of the weights file that matched the network"""
    name: str
    """of the network, with its options"""
    repeatable: bool = True
    """whether the file gives the same network again; otherwise entries that it lacks are random"""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to features (B, D), float32 on the CPU, as the network gives them."""
        images = images.to(self.device, memory_format=torch.channels_last)
        features: Tensor = self.network(images).float().cpu()
        return features

    def embed(self, images: Iterable[StrPath], *, progress: bool = False) -> NDArray[np.float32]:
        """Features (N, D) of image files, in order.

        Raises:
            DataError: no images, or images that cannot be decoded, by path.
        """
        paths = [Path(image) for image in images]
        if not paths:
            raise DataError("no images to embed")
        problems: list[str] = []
        parts = [features for features, _ in self.batches(paths, problems, progress=progress)]
        if problems:
            raise DataError(f"{len(problems)} image(s) cannot be used: {first_few(problems)}")
        return np.concatenate(parts)

    def batches(
        self, paths: Sequence[Path], problems: list[str], *, progress: bool
    ) -> Iterator[tuple[NDArray[np.float32], list[Path]]]:
        """Yield features and files batch by batch; adds a message to `problems` per file that cannot be decoded."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
            for start in bar(iterable=range(0, len(paths), BATCH), desc="features", disable=not progress):
                some = paths[start : start + BATCH]
                decoded = list(pool.map(lambda path: decode_or_note(path, self.height, self.width, problems), some))
                good = [(path, pixels) for path, pixels in zip(some, decoded, strict=True) if pixels is not None]
                if good:
                    images = normalize(np.stack([pixels for _, pixels in good]))  # (B, 3, H, W)
                    yield self(images).numpy(), [path for path, _ in good]


def load_network(
    weights: StrPath,
    model: str = "",
    options: Mapping[str, Any] | None = None,
    *,
    image: tuple[int, int] = (0, 0),
    dataset: str = "market1501",
    device: str = "auto",
    partial: bool = False,
) -> Embedder:
    """A network with weights from a file, ready to embed images.

    Args:
        weights: a file of `msinet train`, or of another code base (docs/own-images.md lists them).
        model: name of the network, for weights that do not name it.
        options: of the network; None: as the weights were trained.
        image: (height, width); 0: as the weights were trained, else the paper's.
        dataset: its usual image size is used if neither is known.
        device: cpu, cuda, cuda:N or auto.
        partial: accept weights that cover only a part of the network.

    Raises:
        WeightsError: the file cannot be used for the network, or does not name one.
        UserError: unknown network, option or device, or an image size below 16 pixels.
    """
    known = read_metadata(weights)
    name = model or known.get("model", "")
    if not name:
        raise WeightsError(f"{weights} does not say which network it holds; pass --model, one of {', '.join(CARDS)}")
    built = known_options(known, weights) if options is None else dict(options)
    default = resolve("paper", dataset, name).recipe.image
    height, width = (
        given or _number(known.get(side, str(usual)), weights, side)
        for given, side, usual in zip(image, ("height", "width"), (default.height, default.width), strict=True)
    )
    ImageSize(height, width)  # refuses invalid sizes
    network = build_model(
        name, _number(known.get("num_classes", "1"), weights, "num_classes"), image=(height, width), **built
    )
    report = load_weights(network, weights, partial=partial)
    chosen = pick_device(device)
    network = network.eval().to(chosen).to(memory_format=torch.channels_last)
    title = " ".join([name, *(f"{option}={value}" for option, value in built.items())])
    repeatable = not (partial and (report.missing or report.mismatched or report.size_dependent))
    return Embedder(network, height, width, chosen, report, title, repeatable)


def known_options(known: Mapping[str, str], weights: StrPath) -> dict[str, Any]:
    """The options of the network in the metadata of a weights file.

    Raises:
        WeightsError: they are not those of `msinet train`.
    """
    try:
        return dict(json.loads(known.get("options", "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{weights}: its options of the network cannot be read ({error}); pass --options") from error


def _number(text: str, weights: StrPath, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise WeightsError(f"{weights}: its note {name} is {text!r}, not a number; save the weights again") from error


def image_files(folder: StrPath) -> list[Path]:
    """The image files of a folder and of the folders in it, sorted by path; of a file, that file.

    Raises:
        DataError: no such path, or no image in it; the message lists what exists.
    """
    path = Path(os.path.expanduser(folder))
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; pass an image or a folder of images.{nearest_existing(path)}")
    try:
        found = files.image_files(path)
    except OSError as error:
        raise DataError(f"{path}: {error}; check its permissions") from error
    files.print_others(path)
    if not found:
        raise DataError(f"{path} holds no images: no file ends with {', '.join(sorted(SUFFIXES))}")
    return found


class Collection:
    """Features of many images on disk, in their order, and the images' paths; takes eight bytes of memory per image."""

    def __init__(self, features: Path, paths: Path, unreadable: Path) -> None:
        names = np.memmap(paths, np.uint8, "r")
        self._names, self._ends = names, np.flatnonzero(names == END[0])
        length = features.stat().st_size // (4 * len(self._ends))
        self.features: np.memmap[Any, Any] = np.memmap(features, np.float32, "r", shape=(len(self._ends), length))
        self.unreadable = unreadable.read_text(encoding="utf-8").splitlines()

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, index: int) -> Path:
        """The file of a row."""
        start = self._ends[index - 1] + 1 if index else 0
        return Path(os.fsdecode(self._names[start : self._ends[index]].tobytes()))

    def nearest(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows (Q, k) of the images nearest to each query (Q, D), and their distances between unit features in [0, 2].

        If the collection has fewer than k images, the last rows are -1.
        """
        rows, squares = top_k(query, self.features, k)
        return rows, np.sqrt(squares)


def collect(
    embedder: Embedder, weights: StrPath, paths: Sequence[Path], *, cache: bool = True, progress: bool = False
) -> Collection:
    """The features of images: from the cache, or embedded and then kept there.

    They are embedded again when a file, its time or size, the weights, the network's options or the image size changes,
    and always if the network is not repeatable. Images that cannot be decoded are left out; `Collection.unreadable` has
    a message for each.

    Args:
        embedder: of `load_network`.
        weights: its file.
        paths: of the images.
        cache: use and fill the cache; otherwise features are in temporary files.
        progress: show a bar.

    Raises:
        DataError: no image can be decoded.
        UserError: the cache cannot be written.
    """
    if not (cache and embedder.repeatable):
        with TemporaryDirectory() as folder:  # maps of deleted files stay valid
            temporary = _files_of(Path(folder), "features")
            _write(embedder, paths, temporary, progress)
            return Collection(*temporary)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(os.path.abspath(path)) + _state_of(path))
    size = [embedder.height, embedder.width, embedder.device.type, DECODER]
    network = [file_hash(Path(weights)), embedder.name, repr(embedder.network)]
    kept = _files_of(cache_folder() / "features", stable_hash([*network, *size, digest.hexdigest()]))
    if not all(path.is_file() for path in kept):
        try:
            check_writable(kept[0])
        except UserError as error:
            raise UserError(f"{error}; or set MSINET_CACHE to another folder, or pass --cache False") from error
        _write(embedder, paths, kept, progress)
    return Collection(*kept)


def _state_of(path: Path) -> bytes:
    """Size and time of a file; of a broken link, which is reported as an unreadable image, that it is one."""
    try:
        status = path.stat()
    except OSError:
        return b" unreadable\n"
    return f" {status.st_size} {status.st_mtime_ns}\n".encode()


def _files_of(folder: Path, key: str) -> tuple[Path, Path, Path]:
    """The files of a collection: features, paths and messages."""
    return folder / f"{key}.features", folder / f"{key}.paths", folder / f"{key}.unreadable"


def _write(embedder: Embedder, paths: Sequence[Path], kept: Sequence[Path], progress: bool) -> None:
    problems: list[str] = []
    with (
        atomic_path(kept[2]) as unreadable,  # renamed last, because the other blocks end first
        atomic_path(kept[1]) as names,
        atomic_path(kept[0]) as rows,
        rows.open("wb") as features,
        names.open("wb") as listed,
        unreadable.open("w", encoding="utf-8", errors="backslashreplace") as messages,
    ):
        for batch, good in embedder.batches(paths, problems, progress=progress):
            features.write(batch.tobytes())
            listed.write(b"".join(os.fsencode(os.path.abspath(path)) + END for path in good))
        if not listed.tell():
            raise DataError(f"none of {len(paths)} images can be decoded: {first_few(sorted(problems))}")
        messages.write("".join(problem.replace("\n", " ") + "\n" for problem in sorted(problems)))
