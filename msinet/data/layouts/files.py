"""Readers of file names and list files, shared by layouts. Errors name the file and the line."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from msinet.data.datasets import SUFFIXES, SYSTEM_FILES, Draw, Image
from msinet.errors import DataError, first_few


def single_draw(query: Sequence[Image], gallery: Sequence[Image]) -> tuple[tuple[Image, ...], tuple[Draw, ...]]:
    """The test images, queries first, and a single draw of queries and gallery."""
    test = (*query, *gallery)
    return test, (Draw(np.arange(len(query)), np.arange(len(query), len(test))),)


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder and the folders in it, by name; anything else (Thumbs.db, ._x.jpg) is not an image."""
    return sorted(path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES)


def other_files(*folders: Path) -> tuple[Path, ...]:
    """Files without an image suffix in some folders and their subfolders, by name."""
    return tuple(
        sorted(
            path
            for folder in folders
            for path in visible_files(folder)
            if path.suffix.lower() not in SUFFIXES and path.name.lower() not in SYSTEM_FILES
        )
    )


def print_others(folder: Path) -> None:
    """Print the files of a folder that are left out because they have no image suffix to standard error."""
    if others := other_files(folder):
        print(f"{len(others)} files without an image suffix are not used: {first_few(others)}", file=sys.stderr)


def visible_files(folder: Path) -> Iterator[Path]:
    """Files of a folder and the folders in it; names that start with a dot are left out.

    Raises:
        OSError: a folder that cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                if entry.is_dir():
                    yield from visible_files(folder / entry.name)
                else:
                    yield folder / entry.name


def parse_name(path: Path, pattern: re.Pattern[str], grammar: str) -> re.Match[str]:
    """The match of a file name.

    Raises:
        DataError: the name does not follow the grammar; the message names file and grammar.
    """
    match = pattern.match(path.name)
    if match is None:
        raise DataError(f"{path}: the file name does not read as {grammar}; rename or remove it")
    return match


def number_of(digits: str, where: str) -> int:
    """Decimal digits as a number that fits in 64 bits.

    Raises:
        DataError: too many digits; the message starts with `where`.
    """
    if len(digits) > 18:
        raise DataError(f"{where}: {digits[:20]}... is not a number of an identity or a camera")
    return int(digits)


def list_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered, stripped, non-empty lines of a list file.

    Raises:
        DataError: the file is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # drops the byte order mark that Windows editors add
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); fetch the list again") from error
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def inside(folder: Path, name: str, source: Path, line: int) -> Path:
    """`folder / name`.

    Raises:
        DataError: the name leaves the folder, or no such file exists; the message names the list and its line.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{source}:{line}: {name!r} points outside {folder}; the list is not trustworthy")
    path = folder / relative
    if not path.is_file():
        raise DataError(f"{source}:{line}: {path} does not exist; the list and the images do not belong together")
    return path
