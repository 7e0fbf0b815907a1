"""Splits labelled images into training images, queries and gallery, and writes the list (docs/own-images.md)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msinet.data.layouts.files import image_files, print_others
from msinet.data.own import SPLITS, checked_files, read_entries
from msinet.errors import DataError, UserError, first_few
from msinet.io import nearest_existing, write_csv

EXPECTED = (
    "expected <folder>/<identity>/*.jpg, or <folder>/<identity>/<camera>/*.jpg, or a CSV file with path and identity"
)


@dataclass(frozen=True)
class Labelled:
    """An image before the split."""

    path: Path
    identity: str
    camera: str


def split(source: Path, out: Path, *, test: float = 0.5, queries: int = 1, seed: int = 0) -> dict[str, int]:
    """Split images by identity and write the list.

    A random share of the identities is for testing; the others are for training. Of each test identity, `queries`
    random images are queries and the others are gallery; at least one image is gallery. The split depends only on the
    seed and on the names of identities and files.

    Args:
        source: folder with a folder per identity, or a CSV file with the columns path and identity.
        out: list to write.
        test: share of the identities for testing, in (0, 1).
        queries: of each test identity, at least 1.
        seed: not negative.

    Returns:
        The number of images by split.

    Raises:
        DataError: no such source, no images, no test identity, fewer than two training identities, images both inside
            and outside camera folders, a name that a list cannot hold, or a list with a missing image, an image twice,
            or cameras for some images only.
        UserError: an argument out of range, or an output that is not X.csv or exists.
    """
    if not 0 < test < 1:
        raise UserError(f"--test must be above 0 and below 1, got {test:g}")
    if queries < 1 or seed < 0:
        raise UserError(f"--queries must be at least 1 and --seed at least 0, got {queries} and {seed}")
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} must end with .csv")
    if out.exists():  # it may be the source, or hold labels that are nowhere else
        raise UserError(f"{out} exists; choose another --out, or remove it")
    images = _of_list(source) if source.is_file() else _of_folders(source)
    cameras = any(image.camera for image in images)
    rows = [
        {
            "path": _written(image.path, out),
            "identity": image.identity,
            **({"camera": image.camera} if cameras else {}),
            "split": role,
        }
        for image, role in zip(images, roles(images, test, queries, seed), strict=True)
    ]
    for row in rows:
        for name, text in row.items():
            if text != text.strip() or not _is_text(text):
                raise DataError(f"{text!r} cannot stand in a list ({name}: blanks at an end, or not UTF-8); rename it")
    tested = sorted({row["identity"] for row in rows if row["split"] == "gallery"})
    if not any(row["split"] == "query" for row in rows):
        raise DataError(
            f"no test identity has two images, so there is no query: {first_few(tested)}; add images, or change --test "
            "or --seed"
        )
    write_csv(out, rows)
    return {name: sum(row["split"] == name for row in rows) for name in SPLITS}


def roles(images: Sequence[Labelled], test: float, queries: int, seed: int) -> list[str]:
    """The split of each image; see `split`."""
    identities = sorted({image.identity for image in images})
    number = round(test * len(identities))
    if number < 1 or len(identities) - number < 2:
        raise DataError(
            f"{len(identities)} identities give {number} for testing and {len(identities) - number} for training; "
            "training needs at least two and testing one. Add identities or change --test"
        )
    rng = np.random.default_rng(seed)
    tested = {identities[i] for i in rng.permutation(len(identities))[:number]}
    found = ["gallery" if image.identity in tested else "train" for image in images]
    positions: dict[str, list[int]] = {identity: [] for identity in sorted(tested)}
    for i, image in enumerate(images):
        if image.identity in tested:
            positions[image.identity].append(i)
    for mine in positions.values():
        for i in rng.permutation(mine)[: min(queries, len(mine) - 1)]:
            found[i] = "query"
    return found


def _is_text(name: str) -> bool:
    """False for a file name whose bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(path: Path, out: Path) -> str:
    """An image's path relative to the list."""
    return Path(os.path.relpath(path, out.resolve().parent)).as_posix()


def _of_folders(source: Path) -> list[Labelled]:
    if not source.is_dir():
        raise DataError(f"{source} does not exist; {EXPECTED}.{nearest_existing(source)}")
    source = source.resolve()
    found = [(path, path.relative_to(source).parts) for path in image_files(source)]
    print_others(source)
    loose = [path for path, parts in found if len(parts) == 1]
    if loose:
        raise DataError(f"{source}: {len(loose)} image(s) outside an identity folder: {first_few(loose)}; {EXPECTED}")
    if not found:
        raise DataError(f"{source} holds no images; {EXPECTED}")
    nested = [path for path, parts in found if len(parts) > 2]
    flat = [path for path, parts in found if len(parts) == 2]
    if nested and flat:
        fewer, where = min((nested, "inside"), (flat, "outside"), key=lambda one: len(one[0]))
        raise DataError(
            f"{source}: {len(fewer)} image(s) {where} a camera folder, unlike the other {len(found) - len(fewer)}: "
            f"{first_few(fewer)}; move or remove them, or fold all cameras into one folder per identity; {EXPECTED}"
        )
    return [Labelled(path, parts[0], parts[1] if nested else "") for path, parts in found]


def _of_list(source: Path) -> list[Labelled]:
    entries = read_entries(source, ("path", "identity"))
    if not entries:
        raise DataError(f"{source} lists no images; {EXPECTED}")
    entries = [replace(entry, split="") for entry in entries]  # a former split has no effect
    files = checked_files(Path(os.path.abspath(source)), entries)
    images = [Labelled(file, one.identity, one.camera) for file, one in zip(files, entries, strict=True)]
    return sorted(images, key=lambda image: str(image.path))
