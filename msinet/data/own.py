"""The user's own data sets: lists of images (CSV), and sets in a known layout under another name.

docs/own-images.md describes both.
"""

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from msinet.data.datasets import HELD_OUT, REGISTERED, Dataset, DatasetCard, Image, Parser
from msinet.data.decoding import size_of
from msinet.data.layouts.files import single_draw
from msinet.data.rendered import FACTORS
from msinet.errors import DataError, did_you_mean, first_few
from msinet.io import nearest_existing

#: Columns of a list. Cameras may be missing; other columns, such as view and time, are not used.
NEEDED, CAMERA = ("path", "identity", "split"), "camera"
SPLITS = ("train", "query", "gallery")
#: First feature column of the CSV files that `msinet embed` writes.
FEATURE = "f0"
#: A list with this file name is named after its folder.
PLAIN_NAME = "list"
#: Number of images, from the start of a list, whose shapes decide between persons and vehicles.
SHAPES = 32
#: Median height / width from which images are assumed to show persons.
UPRIGHT = 1.25
#: Position in tables of the user's first own set.
ORDER = 1000


@dataclass(frozen=True)
class OwnSet:
    """A data set of the user: its card, location and parser."""

    card: DatasetCard
    root: Path
    """data root in which it was found"""
    path: Path
    """its list, or its folder"""
    parser: Parser


#: The user's own sets by name; `notice` fills it.
OWN: dict[str, OwnSet] = {}


def notice(root: Path, name: str = "") -> list[str]:
    """Register the user's own data sets under a data root, so that they can be used by name.

    Args:
        root: a list, a folder that holds lists, or, with a name, a folder in a known layout.
        name: for the only set under `root`; empty: the list's name without `.csv`, or the folder's for `list.csv`

    Returns:
        The names of the sets found; none if the root does not exist.

    Raises:
        DataError: a list without the needed columns, a name that is taken, or a name for several sets.
    """
    lists = lists_in(root)
    if name and len(lists) > 1:
        raise DataError(f"--name {name} names one data set, but {root} holds {len(lists)} lists: {first_few(lists)}")
    names = [name or name_of(path) for path in lists]
    for one in names:
        if names.count(one) > 1:
            raise DataError(f"{root} holds two lists named {one!r}; rename one of them")
    for number, (one, path) in enumerate(zip(names, lists, strict=True)):
        _enter(one, DatasetCard(one, one, ORDER + number, kind_of(path), (str(path),), ()), root, path, read_list)
    if name and not lists:
        _enter_renamed(name, root)
        names = [name]
    return names


#: Longest name of a data set, in bytes.
LONGEST = 100


def lists_in(root: Path) -> list[Path]:
    """The lists of images at a path: the file itself, or the CSV files with the needed columns in a folder.

    In a folder, files of `msinet embed` are no lists.

    Raises:
        DataError: the file is not a list.
    """
    if root.is_file():
        columns = _columns(root)
        if not columns and not _is_text(root):
            raise DataError(f"{root} is not UTF-8 text; save it as CSV in UTF-8")
        missing = [column for column in NEEDED if column not in columns]
        if missing:
            hints = [did_you_mean(column, columns) for column in missing]
            raise DataError(
                f"{root} is not a list of images: its first line lacks {', '.join(missing)}. "
                f"Found: {first_few(columns) or 'nothing'}.{''.join(hints)} Expected a CSV file with the columns "
                f"{', '.join(NEEDED)} and, if known, {CAMERA}"
            )
        return [root.resolve()]
    if not root.is_dir():
        return []
    lists = (path for path in root.glob("*") if path.suffix.lower() == ".csv")
    found = (path for path in lists if path.name != FACTORS and path.is_file())
    headers = {path.resolve(): set(_columns(path)) for path in found}
    return sorted(path for path, names in headers.items() if set(NEEDED) <= names and FEATURE not in names)


def name_of(path: Path) -> str:
    """The name of a list: the file's without suffix, or the folder's if the file is called `list.csv`."""
    stem = path.parent.name if path.stem.lower() == PLAIN_NAME else path.stem
    return re.sub(r"[^\w.-]+", "_", stem).strip("_") or PLAIN_NAME


def _enter(name: str, card: DatasetCard, root: Path, path: Path, parser: Parser) -> None:
    if name in REGISTERED or any(name == card.short for card, _ in REGISTERED.values()):
        raise DataError(f"{path}: {name!r} is the name of a known data set; choose another with --name, or rename it")
    if not re.fullmatch(r"[\w.-]+", name) or name.endswith(HELD_OUT):
        raise DataError(
            f"{path}: {name!r} cannot name a data set; use letters, digits, '_', '-' and '.', not {HELD_OUT} at the end"
        )
    if len(name.encode()) > LONGEST:  # names of cache files contain it
        raise DataError(
            f"{path}: the name of the data set has more than {LONGEST} bytes; choose a shorter one with --name"
        )
    OWN[name] = OwnSet(card, root.resolve(), path, parser)


def _enter_renamed(name: str, root: Path) -> None:
    """Register the only set in a known layout under `root` under another name, without its published counts."""
    from msinet.data.layouts import cards, find_dataset

    known_cards = [card for card in cards() if not card.part_of]
    found = {card.name: folder for card in known_cards if (folder := find_dataset(card.name, root))}
    if len(found) != 1:
        raise DataError(
            f"--name {name} names the only data set under {root}, but there are {len(found)}"
            + (f": {', '.join(found)}" if found else "; msinet data check lists what is recognised")
        )
    ((known, folder),) = found.items()
    card, parser = REGISTERED[known]
    card = replace(card, name=name, short=name, order=ORDER, expected={}, distractor=None, across=(), extra=False)
    _enter(name, card, root, folder, lambda path: replace(parser(path), name=name))


def _columns(path: Path) -> list[str]:
    """The first line of a CSV file as lower-case column names; empty if it is not text."""
    try:
        with path.open("rb") as stream:
            line = (stream.readline(1 << 16).decode("utf-8-sig").splitlines() or [""])[0]  # also of old Macs
        row = next(csv.reader([line], delimiter=delimiter_of(line), skipinitialspace=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [column.strip().lower() for column in row]


def _is_text(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def delimiter_of(line: str) -> str:
    """The character between the columns of a CSV file, by its first line: comma, semicolon or tab."""
    return max(",;\t", key=line.count)


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    line: int
    path: str
    identity: str
    camera: str
    split: str


def read_entries(path: Path, needed: Sequence[str] = NEEDED) -> list[Entry]:
    """The lines of a list; blanks around values are removed.

    Raises:
        DataError: not UTF-8 text, or a line without one of the needed values; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as CSV in UTF-8") from error
    columns, entries = _columns(path), []
    if twice := [column for column in (*NEEDED, CAMERA) if columns.count(column) > 1]:
        raise DataError(f"{path}:1: column {twice[0]} occurs twice; rename or remove one")
    delimiter = delimiter_of(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        next(reader, None)
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if len(values) > len(columns) and any(values[len(columns) :]):
                raise DataError(
                    f"{path}:{reader.line_num}: {len(values)} values for {len(columns)} columns; "
                    "put values that hold the separator in double quotes"
                )
            found = dict(zip(columns, values, strict=False))
            if lacking := [column for column in needed if not found.get(column)]:
                raise DataError(
                    f"{path}:{reader.line_num}: no {' and no '.join(lacking)}; fill it in or remove the line"
                )
            entries.append(
                Entry(reader.line_num, *(found.get(column, "") for column in ("path", "identity", CAMERA, "split")))
            )
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); save the list again") from error
    return entries


def read_list(path: Path) -> Dataset:
    """A data set from a CSV file with the columns path, identity, split and, if known, camera.

    Paths are relative to the file's folder. Without cameras, no gallery image is left out.

    Raises:
        DataError: the file is not a list, a missing image, an unknown split, an image listed twice in a split, or
            cameras for some images only; the message names the line.
    """
    entries = read_entries(path)
    _check_splits(path, entries)
    files = checked_files(path, entries)
    root = Path(os.path.commonpath([path.parent, *(file.parent for file in files)])) if files else path.parent
    identities, identity_names = numbered([entry.identity for entry in entries], first=0)
    with_cameras = any(entry.camera for entry in entries)
    cameras, camera_names = numbered([entry.camera for entry in entries], first=1) if with_cameras else ({"": 0}, {})
    images: dict[str, list[Image]] = {split: [] for split in SPLITS}
    for entry, file in zip(entries, files, strict=True):
        images[entry.split.lower()].append(Image(file, identities[entry.identity], cameras[entry.camera]))
    test, draws = single_draw(images["query"], images["gallery"])
    return Dataset(
        PLAIN_NAME,
        "list",
        root,
        tuple(images["train"]),
        test,
        draws,
        remove_same_camera=with_cameras,
        identity_names=identity_names,
        camera_names=camera_names,
    )


def _absolute(folder: Path, name: str) -> Path:
    """The absolute path of a list entry; `..` is resolved without following symbolic links."""
    return Path(os.path.normpath(folder / os.path.expanduser(name.replace("\0", ""))))


def _check_splits(path: Path, entries: Sequence[Entry]) -> None:
    unknown = next((entry for entry in entries if entry.split.lower() not in SPLITS), None)
    if unknown is not None:
        hint = " msinet data split divides test images into queries and gallery." if unknown.split == "test" else ""
        raise DataError(
            f"{path}:{unknown.line}: split {unknown.split!r} is not one of {', '.join(SPLITS)}."
            + (hint or did_you_mean(unknown.split, SPLITS))
        )


def checked_files(path: Path, entries: Sequence[Entry]) -> list[Path]:
    """The absolute paths of the images of a list, in order.

    Raises:
        DataError: a missing image, an image listed twice in a split, or cameras for some images only; the message names
            the line.
    """
    blank = next((entry for entry in entries if not entry.camera), None)
    if blank is not None and any(entry.camera for entry in entries):
        raise DataError(
            f"{path}:{blank.line}: no camera, but other lines have one; fill it in, or remove the column {CAMERA}"
        )
    files = [_absolute(path.parent, entry.path) for entry in entries]
    seen: dict[tuple[Path, str], int] = {}
    for entry, file in zip(entries, files, strict=True):
        first = seen.setdefault((file, entry.split.lower()), entry.line)
        if first != entry.line:
            where = f"in {entry.split}" if entry.split else "listed"
            raise DataError(f"{path}:{entry.line}: {entry.path} is {where} already (line {first}); remove one of them")
    missing = [i for i, file in enumerate(files) if not os.path.isfile(file)]
    if missing:
        first = missing[0]
        raise DataError(
            f"{path}:{entries[first].line}: {files[first]} does not exist, {len(missing)} of {len(files)} images are "
            f"missing; paths are relative to {path.parent}"
            + ("; write / in place of \\" if "\\" in entries[first].path else f".{nearest_existing(files[first])}")
        )
    return files


def numbered(words: Sequence[str], first: int) -> tuple[dict[str, int], Mapping[int, str]]:
    """A number for every word, and by number the words that are not written as their number.

    If all words are different decimal numbers of at least `first`, they keep these numbers.
    Otherwise words are numbered from `first` in sorted order.
    """
    different = sorted(set(words))
    plain = [word for word in different if word.isascii() and word.isdigit() and len(word) <= 18]
    numbers = {word: int(word) for word in plain}
    if len(plain) == len(different) == len(set(numbers.values())) and min(numbers.values(), default=first) >= first:
        return numbers, {number: word for word, number in numbers.items() if word != str(number)}
    found = {word: number for number, word in enumerate(different, first)}
    return found, {number: word for word, number in found.items()}


def kind_of(path: Path) -> Literal["person", "vehicle"]:
    """Persons or vehicles, by the shape of a list's first images. It only sets the default image size."""
    status = path.stat()
    return _kind_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _kind_of(path: Path, _time: int, _size: int) -> Literal["person", "vehicle"]:
    shapes: list[float] = []
    try:
        entries = read_entries(path)
    except DataError:  # reported when the set is loaded
        return "person"
    for entry in entries[:SHAPES]:
        try:
            height, width = size_of(_absolute(path.parent, entry.path))
        except DataError:  # reported when the images are decoded
            continue
        shapes.append(height / width)
    return "vehicle" if shapes and float(np.median(shapes)) < UPRIGHT else "person"
