"""Compares the data sets under a data root with the published counts (docs/protocol.md)."""

from pathlib import Path

import numpy as np

from msinet.data.datasets import Dataset
from msinet.data.layouts import available, card_of, cards, load_dataset
from msinet.data.loading import undecodable
from msinet.errors import DataError


def check(root: Path, *, datasets: tuple[str, ...] = (), decode: bool = True, progress: bool = True) -> bool:
    """Print the splits of every data set under `root`, and its images that cannot be decoded.

    Args:
        root: a data root, or the folder of one set.
        datasets: names to look for; empty: all that are recognised.
        decode: read every image; otherwise only names, lists and sizes.
        progress: show a bar.

    Returns:
        Whether every set can be used. Counts that differ from the published ones are shown but are no error.

    Raises:
        UserError: unknown data set.
        DataError: no such root, or no known layout in it.
    """
    names = recognised(root, datasets)
    usable = [_check_one(name, root, decode, progress) for name in names]
    return all(usable)


def recognised(root: Path, datasets: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The requested data sets, or else those found under `root`, without further test lists of one of them.

    Raises:
        DataError: no such root, or no known layout in it.
    """
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist")
    names = datasets or tuple(name for name in available(root) if not card_of(name).part_of)
    if not names:
        wanted = "; ".join(f"{card.name}: {', '.join(card.needs)}" for card in cards() if not card.part_of)
        raise DataError(f"no known layout under {root}. A set is recognised by these entries of its folder: {wanted}")
    return names


def _check_one(name: str, root: Path, decode: bool, progress: bool) -> bool:
    card = card_of(name)
    try:
        dataset = load_dataset(name, root)
    except DataError as error:
        print(f"{name}\n  UNUSABLE: {error}\n")
        return False
    print(f"{name}: {dataset.layout} in {dataset.root}")
    print(f"  {'split':<8} {'identities':>10} {'images':>8} {'cameras':>7}   published")
    for split, images in dataset.splits().items():
        found = (len({i.identity for i in images}), len(images), len({i.camera for i in images}))
        expected = card.expected.get(split)
        same = "-" if expected is None else "the same" if found == expected else "{} {} {}".format(*expected)
        print(f"  {split:<8} {found[0]:>10} {found[1]:>8} {found[2]:>7}   {same}")
    for line in _remarks(dataset):
        print(f"  {line}")
    problems = undecodable((*dataset.train, *dataset.test), progress=progress) if decode else []
    for problem in problems:
        print(f"  UNREADABLE {problem}")
    if decode and not problems:
        print(f"  all {len(dataset.train) + len(dataset.test)} images decode")
    print(f"  fingerprint {dataset.fingerprint}\n")
    return not problems


def _remarks(dataset: Dataset) -> list[str]:
    """Properties of a data set that may surprise."""
    card = card_of(dataset.name)
    remarks = []
    if dataset.junk:
        remarks.append(f"{dataset.junk} junk images of identity -1 left out")
    single = int((np.bincount(dataset.labels) == 1).sum())
    if single:
        remarks.append(f"{single} training identities with a single image (it is repeated within a batch)")
    if len(dataset.draws) > 1:
        remarks.append(f"{len(dataset.draws)} seeded draws of one gallery image per identity, metrics are averaged")
    distractors = sum(image.identity == card.distractor for image in dataset.splits()["gallery"])
    if distractors:
        remarks.append(f"{distractors} distractors of identity {card.distractor} kept in the gallery")
    return remarks
