"""Classification sets for pre-training: one folder of images per class, as in ImageNet."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from msinet.data.datasets import SUFFIXES, Image
from msinet.data.decoding import Pixels, decode
from msinet.data.loading import verify
from msinet.data.rendered import check_samples, read_world
from msinet.data.transforms import centre_crop
from msinet.errors import DataError, first_few

EXPECTED = "expected <root>/train/<class>/*.jpg and <root>/val/<class>/*.jpg"


@dataclass(frozen=True)
class ClassFolders:
    """A classification set on disk. Images are stored as paths below the root: there may be more than a million."""

    name: str
    root: Path
    classes: tuple[str, ...]
    """names of the class folders, sorted; a label is a position in it"""
    train: tuple[str, ...]
    train_labels: np.ndarray
    """(len(train),) int64"""
    val: tuple[str, ...]
    val_labels: np.ndarray
    """(len(val),) int64"""
    world: str = ""
    """fingerprint of the rendering; empty for photographs"""

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any file name, class or split, but not with the root.

        For photographs they also change with any file size, for rendered sets with the fingerprint of the rendering.
        """
        digest = hashlib.sha256(self.world.encode())
        for image in (*self.train, *self.val):
            size = 0 if self.world else (self.root / image).stat().st_size
            digest.update(f"{image} {size}\n".encode())
        return digest.hexdigest()[:12]

    def verify(self, *, progress: bool = True) -> None:
        """Read every image once; later calls skip verified images.

        Raises:
            DataError: images that cannot be decoded, by path.
        """
        images = [Image(self.root / image, 0, 0) for image in (*self.train, *self.val)]
        verify(self.name, f"{self.name}-{self.fingerprint}-folders", images, progress=progress)


class FolderImages:
    """Decodes an image on every access: at its own size, or its centre crop as (height, width, 3) uint8."""

    def __init__(self, root: Path, images: Sequence[str], size: tuple[int, int] | None = None) -> None:
        self.root, self.size = root, size
        self.images = np.array(images)  # one block of memory, shared by worker processes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pixels:
        pixels = decode(self.root / str(self.images[index]))
        return pixels if self.size is None else centre_crop(pixels, *self.size)


def load_class_folders(root: Path | str, name: str = "") -> ClassFolders:
    """Load the set under `root`: `train/<class>/*` and `val/<class>/*`, classes numbered by sorted name.

    Args:
        root: the folder that holds train/ and val/.
        name: of the set, for records; by default `rendered` for a rendered set, else the name of the folder.

    Raises:
        DataError: no such root, no train/ or val/, fewer than two classes, a class without training images,
            a class in val/ that train/ lacks, or no images in val/.
    """
    root = Path(os.path.expanduser(root))  # unlike Path.expanduser, raises nothing for an unknown user
    if not root.is_dir():
        raise DataError(f"{root} does not exist or is not a folder; {EXPECTED}")
    root = root.resolve()
    try:
        train, val = (_split(root, split) for split in ("train", "val"))
    except OSError as error:  # no permission, a broken link
        raise DataError(f"{root}: {error}; repair or remove it") from error
    classes = tuple(sorted(train))
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} holds {len(classes)} class folder(s) and needs at least two; {EXPECTED}")
    if empty := [one for one in classes if not train[one]]:
        raise DataError(f"{root / 'train'}: no images in {first_few(empty)}; fill or remove the folders")
    if strange := sorted(set(val) - set(classes)):
        raise DataError(
            f"{root / 'val'}: {first_few(strange)} not in {root / 'train'}; both must have the same class folders"
        )
    if not any(val.values()):
        raise DataError(f"{root / 'val'}: no images in its class folders; {EXPECTED}")
    if (world := read_world(root)) is not None:
        check_samples(root, world)
    name = name or ("rendered" if world else root.name)
    fingerprint = world["fingerprint"] if world else ""
    return ClassFolders(name, root, classes, *_labelled(train, classes), *_labelled(val, classes), fingerprint)


def _labelled(split: dict[str, list[str]], classes: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """The images of all class folders of a split, and their labels."""
    labels = np.repeat([classes.index(one) for one in split], [len(images) for images in split.values()])
    return tuple(image for images in split.values() for image in images), labels.astype(np.int64)


def _split(root: Path, split: str) -> dict[str, list[str]]:
    """The images of every class folder, both sorted by name, as paths below the root."""
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{root} has no folder {split}/; {EXPECTED}")
    names = sorted(os.listdir(folder))
    classes = [name for name in names if not name.startswith(".") and (folder / name).is_dir()]
    if not classes and any(map(_is_image, names)):  # as ImageNet's validation images are distributed
        raise DataError(f"{folder} holds images but no class folders; sort them into one folder per class; {EXPECTED}")
    return {
        one: [f"{split}/{one}/{image}" for image in sorted(os.listdir(folder / one)) if _is_image(image)]
        for one in classes
    }


def _is_image(name: str) -> bool:
    return name.lower().endswith(tuple(SUFFIXES)) and not name.startswith(".")
