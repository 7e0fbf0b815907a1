"""The four native data-set layouts (SPEC F): Market-1501, MSMT17 V1/V2, VeRi-776, VehicleID.

Every loader turns a folder into a `Dataset`. Nothing is decoded here; only names, lists and sizes
are read, so a wrong layout is found within a second.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from msinet.data.world import read_world
from msinet.errors import DataError, unknown_name

#: Independent draws of VehicleID's gallery, averaged (SPEC F.4).
DRAWS = 10
SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class Image:
    """One labelled image file."""

    path: Path
    identity: int
    camera: int
    """the set's own camera number; 0 where the set has none"""


@dataclass(frozen=True)
class Draw:
    """One choice of queries and gallery, as positions in `Dataset.test`."""

    query: np.ndarray
    gallery: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A data set as it lies on disk.

    `test` holds every image that is ranked; `draws` says which are queries and which are gallery:
    one draw for M, MS and VR, several for VehicleID.
    """

    name: str
    layout: str
    root: Path
    train: tuple[Image, ...]
    test: tuple[Image, ...]
    draws: tuple[Draw, ...]
    remove_same_camera: bool
    """whether a gallery image of the query's identity and camera is left out of its ranking"""
    junk: int = 0
    """images of identity -1, which no split holds"""
    world: str = ""
    """fingerprint of the rendering; empty for photographs"""

    @cached_property
    def labels(self) -> np.ndarray:
        """Training identities renumbered 0, 1, ... in the order of their numbers; (len(train),) int64."""
        identities = np.array([image.identity for image in self.train], dtype=np.int64)
        return np.unique(identities, return_inverse=True)[1].astype(np.int64)

    @property
    def num_classes(self) -> int:
        """Training identities."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    def splits(self) -> dict[str, list[Image]]:
        """Train, query and gallery (of the first draw) by name."""
        draw = self.draws[0]
        return {
            "train": list(self.train),
            "query": [self.test[i] for i in draw.query],
            "gallery": [self.test[i] for i in draw.gallery],
        }

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any file name, label, split, draw or file size."""
        digest = hashlib.sha256(f"{self.name} {self.layout} {self.remove_same_camera} {self.world}\n".encode())
        for role, images in (("train", self.train), ("test", self.test)):
            for image in images:
                where = image.path.relative_to(self.root).as_posix()
                size = image.path.stat().st_size
                digest.update(f"{role} {where} {image.identity} {image.camera} {size}\n".encode())
        for draw in self.draws:
            digest.update(draw.query.astype(np.int64).tobytes() + b"|" + draw.gallery.astype(np.int64).tobytes())
        return digest.hexdigest()[:12]


def _single_draw(query: Sequence[Image], gallery: Sequence[Image]) -> tuple[tuple[Image, ...], tuple[Draw, ...]]:
    test = (*query, *gallery)
    return test, (Draw(np.arange(len(query)), np.arange(len(query), len(test))),)


def _image_files(folder: Path) -> list[Path]:
    """Image files of a folder by name; anything else (Thumbs.db, ._x.jpg) is not an image."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _parse(name: str, pattern: re.Pattern[str], where: Path, grammar: str) -> re.Match[str]:
    match = pattern.match(name)
    if match is None:
        raise DataError(f"{where}: the file name does not read as {grammar}; rename it or take it out")
    return match


def _number(digits: str, where: str) -> int:
    """Decimal digits as a number that fits in 64 bits."""
    if len(digits) > 18:
        raise DataError(f"{where}: {digits[:20]}... is no number of an identity or a camera")
    return int(digits)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered, stripped, non-empty lines of a list file."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # without the mark that Windows editors put in front
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); fetch the list again") from error
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _inside(folder: Path, name: str, source: Path, line: int) -> Path:
    """`folder / name`, refused if it would leave the folder or does not exist."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{source}:{line}: {name!r} points outside {folder}; the list is not trustworthy")
    path = folder / relative
    if not path.is_file():
        raise DataError(f"{source}:{line}: {path} does not exist; the list and the images do not belong together")
    return path


# --- Market-1501 ---------------------------------------------------------------------------------

MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)")


def market1501(root: Path) -> Dataset:
    """`PPPP_cCsS_FFFFFF_BB.jpg`; identity -1 is junk and left out, identity 0 a distractor and kept."""

    def read(folder: str) -> tuple[list[Image], int]:
        images, junk = [], 0
        for path in _image_files(root / folder):
            match = _parse(path.name, MARKET_NAME, path, "<identity>_c<camera>..., as 0002_c1s1_000451_03.jpg")
            if match[1] == "-1":
                junk += 1
            else:
                images.append(Image(path, _number(match[1], str(path)), _number(match[2], str(path))))
        return images, junk

    (train, junk1), (query, junk2), (gallery, junk3) = (
        read(folder) for folder in ("bounding_box_train", "query", "bounding_box_test")
    )
    test, draws = _single_draw(query, gallery)
    return Dataset("market1501", "Market-1501", root, tuple(train), test, draws, True, junk1 + junk2 + junk3)


# --- MSMT17 --------------------------------------------------------------------------------------


def msmt17(root: Path) -> Dataset:
    """Lists of `<path> <identity>`; train is list_train + list_val. Test identities restart at 0."""
    version, train_folder, test_folder = (
        ("V2", "mask_train_v2", "mask_test_v2") if (root / "mask_train_v2").is_dir() else ("V1", "train", "test")
    )

    def read(folder: str, name: str) -> list[Image]:
        source, images = root / name, []
        for number, line in _lines(source):
            parts = line.rsplit(maxsplit=1)
            if len(parts) != 2 or not parts[1].isdecimal():
                raise DataError(f"{source}:{number}: {line!r} does not read as '<path> <identity>'")
            path = _inside(root / folder, parts[0], source, number)
            fields = path.stem.split("_")
            if len(fields) < 3 or not fields[2].isdecimal():
                raise DataError(f"{source}:{number}: no camera in the third field of {path.name!r}")
            place = f"{source}:{number}"
            images.append(Image(path, _number(parts[1], place), _number(fields[2], place)))
        return images

    train = read(train_folder, "list_train.txt") + read(train_folder, "list_val.txt")
    test, draws = _single_draw(read(test_folder, "list_query.txt"), read(test_folder, "list_gallery.txt"))
    return Dataset("msmt17", f"MSMT17_{version}", root, tuple(train), test, draws, True)


# --- VeRi-776 ------------------------------------------------------------------------------------

VERI_NAME = re.compile(r"(\d+)_c(\d+)_")


def veri776(root: Path) -> Dataset:
    """`VVVV_cCCC_TTTTTTTT_I.jpg` by the name lists where present. The gallery holds the queries too."""

    def read(split: str) -> list[Image]:
        folder, source = root / f"image_{split}", root / f"name_{split}.txt"
        if source.is_file():
            paths = [_inside(folder, line, source, number) for number, line in _lines(source)]
        else:
            paths = _image_files(folder)
        matches = [_parse(p.name, VERI_NAME, p, "<vehicle>_c<camera>_..., as 0001_c001_00016450_0.jpg") for p in paths]
        return [
            Image(path, _number(m[1], str(path)), _number(m[2], str(path)))
            for path, m in zip(paths, matches, strict=True)
        ]

    test, draws = _single_draw(read("query"), read("test"))
    return Dataset("veri776", "VeRi-776", root, tuple(read("train")), test, draws, True)


# --- VehicleID -----------------------------------------------------------------------------------


def vehicleid(root: Path, size: int = 2400) -> Dataset:
    """Lists of `<image name> <vehicle>`, no cameras. Per draw one random image of each vehicle is gallery."""

    def read(name: str) -> list[Image]:
        source, images = root / "train_test_split" / name, []
        if not source.is_file():
            raise DataError(f"{source} is missing; VehicleID's test lists are test_list_800, _1600 and _2400")
        for number, line in _lines(source):
            parts = line.split()
            if len(parts) != 2 or not parts[1].isdecimal():
                raise DataError(f"{source}:{number}: {line!r} does not read as '<image name> <vehicle>'")
            path = _inside(root / "image", f"{parts[0]}.jpg", source, number)
            images.append(Image(path, _number(parts[1], f"{source}:{number}"), 0))
        return images

    test = tuple(read(f"test_list_{size}.txt"))
    name = "vehicleid" if size == 2400 else f"vehicleid_{size}"
    draws = tuple(vehicleid_draw([image.identity for image in test], seed) for seed in range(DRAWS))
    return Dataset(name, "VehicleID", root, tuple(read("train_list.txt")), test, draws, False)


def vehicleid_draw(identities: Sequence[int], seed: int) -> Draw:
    """One image of each identity as gallery, chosen by `seed` alone; all others are queries."""
    if not len(identities):  # an empty list; the caller tells
        return Draw(np.zeros(0, np.int64), np.zeros(0, np.int64))
    rng = np.random.default_rng(seed)
    order = np.argsort(np.asarray(identities), kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(identities)[order], prepend=np.nan))
    gallery = np.sort(np.array([rng.choice(group) for group in np.split(order, starts[1:])], dtype=np.int64))
    return Draw(np.setdiff1d(np.arange(len(order)), gallery), gallery)


# --- Finding them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a set may lie under a data root, and what its folder must hold."""

    folders: tuple[str, ...]
    needs: tuple[str, ...]
    load: Callable[[Path], Dataset]
    expected: dict[str, tuple[int, int, int]]
    """identities, images and cameras per split, as published (SPEC F)"""


_MSMT_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
_VEHICLEID = (("VehicleID", "VehicleID_V1.0", "vehicleid"), ("image", "train_test_split/train_list.txt"))

LAYOUTS: dict[str, Layout] = {
    "market1501": Layout(
        ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", "Market-1501"),
        ("bounding_box_train", "query", "bounding_box_test"),
        market1501,
        {"train": (751, 12936, 6), "query": (750, 3368, 6), "gallery": (751, 15913, 6)},
    ),
    "msmt17": Layout(
        ("MSMT17_V1", "MSMT17_V2", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2", "msmt17", "MSMT17"),
        _MSMT_LISTS,
        msmt17,
        {"train": (1041, 32621, 15), "query": (3060, 11659, 15), "gallery": (3060, 82161, 15)},
    ),
    "veri776": Layout(
        ("VeRi", "veri/VeRi", "veri776", "veri"),
        ("image_train", "image_query", "image_test"),
        veri776,
        {"train": (576, 37778, 20), "query": (200, 1678, 19), "gallery": (200, 11579, 19)},
    ),
    "vehicleid": Layout(
        *_VEHICLEID, vehicleid, {"train": (13164, 113346, 1), "query": (2400, 17377, 1), "gallery": (2400, 2400, 1)}
    ),
    "vehicleid_1600": Layout(
        *_VEHICLEID,
        lambda root: vehicleid(root, 1600),
        {"train": (13164, 113346, 1), "query": (1600, 11777, 1), "gallery": (1600, 1600, 1)},
    ),
    "vehicleid_800": Layout(
        *_VEHICLEID,
        lambda root: vehicleid(root, 800),
        {"train": (13164, 113346, 1), "query": (800, 5693, 1), "gallery": (800, 800, 1)},
    ),
}


def find_dataset(name: str, root: Path) -> Path | None:
    """The folder of a set under `root` (or `root` itself), or None."""
    layout = LAYOUTS[name]
    for folder in (*layout.folders, "."):
        if all((root / folder / need).exists() for need in layout.needs):
            return (root / folder).resolve()
    return None


def available(root: Path) -> dict[str, Path]:
    """The sets whose layout is recognised under `root`."""
    found = {name: find_dataset(name, root) for name in LAYOUTS}
    return {name: folder for name, folder in found.items() if folder is not None}


#: `market1501-heldout`: some training identities of market1501 are ranked, the others train.
HELD_OUT = "-heldout"
#: One training identity in so many is held out.
HELD_OUT_EVERY = 4


def hold_out(dataset: Dataset) -> Dataset:
    """A data set within the training set, for choices that must not look at test images.

    Every fourth training identity, in ascending order, is ranked, the others train. Each held-out image is query
    and gallery, its own identity and camera left out; of a set without cameras the first image of each identity
    is gallery.

    Raises:
        DataError: too few identities or cameras for that.
    """
    identities = sorted({image.identity for image in dataset.train})
    held = set(identities[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    train = tuple(image for image in dataset.train if image.identity not in held)
    test = tuple(image for image in dataset.train if image.identity in held)
    query = gallery = np.arange(len(test))
    if not dataset.remove_same_camera:
        _, gallery = np.unique([image.identity for image in test], return_index=True)
        query = np.setdiff1d(query, gallery)
    result = replace(dataset, name=dataset.name + HELD_OUT, train=train, test=test, draws=(Draw(query, gallery),))
    _check_usable(result)
    return result


def load_dataset(name: str, root: Path | str) -> Dataset:
    """The named data set under a data root.

    Args:
        name: market1501, msmt17, veri776, vehicleid (test list 2400), vehicleid_1600 or vehicleid_800; NAME-heldout
            for its training identities alone, some of which are then ranked (`hold_out`).
        root: the folder that holds the set's own folder, or that folder itself.

    Raises:
        UserError: unknown name.
        DataError: no such root, layout not recognised, names or lists that do not parse, an empty
            split, a zero-byte image, or no query with a match in the gallery.
    """
    if name.endswith(HELD_OUT):
        return hold_out(load_dataset(name.removesuffix(HELD_OUT), root))
    if name not in LAYOUTS:
        raise unknown_name("data set", name, LAYOUTS)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist; pass the folder that holds {LAYOUTS[name].folders[0]}/")
    folder = find_dataset(name, root)
    if folder is None:
        others = ", ".join(f"{other} in {where}" for other, where in available(root).items())
        raise DataError(
            f"no {name} under {root}: looked for {', '.join(LAYOUTS[name].needs)} in "
            f"{', '.join(LAYOUTS[name].folders)} and {root} itself. Recognised there: {others or 'no known layout'}"
        )
    try:
        dataset = LAYOUTS[name].load(folder)
        if (world := read_world(folder)) is not None:
            dataset = replace(dataset, layout=f"{dataset.layout}, rendered", world=world["fingerprint"])
        _check_usable(dataset)
    except OSError as error:  # no permission, a link to nothing, a file in the place of a folder
        raise DataError(f"{name} in {folder}: {error}; mend it or take it out") from error
    return dataset


def _check_usable(dataset: Dataset) -> None:
    for split, images in dataset.splits().items():
        if not images:
            raise DataError(f"{dataset.name} in {dataset.root}: the {split} split holds no images")
    empty = [i.path for i in (*dataset.train, *dataset.test) if i.path.stat().st_size == 0]
    if empty:
        raise DataError(
            f"{dataset.name}: {len(empty)} zero-byte image(s): {some(empty)}; fetch them again or take them out"
        )
    draw = dataset.draws[0]
    if not _any_match(dataset, draw):
        raise DataError(
            f"{dataset.name} in {dataset.root}: no query has a match in the gallery"
            + (" from another camera" if dataset.remove_same_camera else "")
            + "; query and gallery do not belong together"
        )


def _any_match(dataset: Dataset, draw: Draw) -> bool:
    cameras: dict[int, set[int]] = {}
    for i in draw.gallery:
        cameras.setdefault(dataset.test[i].identity, set()).add(dataset.test[i].camera)
    for i in draw.query:
        seen = cameras.get(dataset.test[i].identity, set())
        if seen and (not dataset.remove_same_camera or seen != {dataset.test[i].camera}):
            return True
    return False


def some(items: Iterable[object], limit: int = 5) -> str:
    """The first few of many, for a message."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
