"""VehicleID (Liu et al., CVPR 2016): lists of images and vehicles, no cameras, three test lists."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msinet.data.datasets import Dataset, DatasetCard, Draw, Image, positions_by_identity, register
from msinet.data.layouts.files import inside, list_lines, number_of
from msinet.errors import DataError

#: Independent draws of the gallery, over which metrics are averaged.
DRAWS = 10
FOLDERS = ("VehicleID", "VehicleID_V1.0", "vehicleid")
NEEDS = ("image", "train_test_split/train_list.txt")


@register(
    DatasetCard(
        name="vehicleid",
        short="VID",
        order=40,
        kind="vehicle",
        metrics=("R1", "R5"),
        folders=FOLDERS,
        needs=NEEDS,
        expected={"train": (13164, 113346, 1), "query": (2400, 17377, 1), "gallery": (2400, 2400, 1)},
        extra=True,
    )
)
def vehicleid(root: Path) -> Dataset:
    """The test list of 2400 vehicles."""
    return _load("vehicleid", root, 2400)


@register(
    DatasetCard(
        name="vehicleid_1600",
        short="VID1600",
        order=41,
        kind="vehicle",
        metrics=("R1", "R5"),
        folders=FOLDERS,
        needs=NEEDS,
        expected={"train": (13164, 113346, 1), "query": (1600, 11777, 1), "gallery": (1600, 1600, 1)},
        part_of="vehicleid",
    )
)
def vehicleid_1600(root: Path) -> Dataset:
    """The test list of 1600 vehicles."""
    return _load("vehicleid_1600", root, 1600)


@register(
    DatasetCard(
        name="vehicleid_800",
        short="VID800",
        order=42,
        kind="vehicle",
        metrics=("R1", "R5"),
        folders=FOLDERS,
        needs=NEEDS,
        expected={"train": (13164, 113346, 1), "query": (800, 5693, 1), "gallery": (800, 800, 1)},
        part_of="vehicleid",
    )
)
def vehicleid_800(root: Path) -> Dataset:
    """The test list of 800 vehicles."""
    return _load("vehicleid_800", root, 800)


def _load(name: str, root: Path, size: int) -> Dataset:
    """Lists of `<image name> <vehicle>`, no cameras. In each draw, one random image of each vehicle is gallery."""
    test = tuple(_read(root, f"test_list_{size}.txt"))
    draws = tuple(vehicleid_draw([image.identity for image in test], seed) for seed in range(DRAWS))
    train = tuple(_read(root, "train_list.txt"))
    return Dataset(name, "VehicleID", root, train, test, draws, remove_same_camera=False)


def _read(root: Path, name: str) -> list[Image]:
    source, images = root / "train_test_split" / name, []
    if not source.is_file():
        raise DataError(f"{source} is missing; VehicleID's test lists are test_list_800, _1600 and _2400")
    for number, line in list_lines(source):
        parts = line.split()
        if len(parts) != 2 or not parts[1].isdecimal():
            raise DataError(f"{source}:{number}: {line!r} does not read as '<image name> <vehicle>'")
        path = inside(root / "image", f"{parts[0]}.jpg", source, number)
        images.append(Image(path, number_of(parts[1], f"{source}:{number}"), 0))
    return images


def vehicleid_draw(identities: Sequence[int], seed: int) -> Draw:
    """One image of each identity as gallery, chosen by `seed` alone; all others are queries."""
    rng = np.random.default_rng(seed)
    gallery = np.sort(np.array([rng.choice(group) for group in positions_by_identity(identities)], dtype=np.int64))
    return Draw(np.setdiff1d(np.arange(len(identities)), gallery), gallery)
