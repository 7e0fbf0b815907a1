"""Finds and loads data sets in their native layouts.

Each file of this folder is one data set: its parser, which turns a folder into a `Dataset`, and its card. Images are
not decoded here. Only names, lists and file sizes are read, so a wrong layout is reported within a second.
"""

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from msinet.data.datasets import HELD_OUT, REGISTERED, Dataset, DatasetCard, Draw
from msinet.data.rendered import check_samples, read_world
from msinet.errors import DataError, first_few, unknown_name


def _discover() -> None:
    """Import every file of this folder, so that its data sets are registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


_discover()


def cards() -> list[DatasetCard]:
    """The card of every data set, in the order of tables."""
    return sorted((card for card, _ in REGISTERED.values()), key=lambda card: card.order)


def main_datasets() -> list[str]:
    """Data sets that tables use by default: all that are not another test list of one."""
    return [card.name for card in cards() if not card.part_of]


def card_of(name: str) -> DatasetCard:
    """The card of a data set; that of NAME for NAME-heldout.

    Raises:
        UserError: unknown data set; the message lists the known ones.
    """
    base = name.removesuffix(HELD_OUT)
    if base not in REGISTERED:
        raise unknown_name("data set", name, (card.name for card in cards()))
    return REGISTERED[base][0]


def short_name(name: str) -> str:
    """The name in tables: M for market1501, M-heldout for market1501-heldout.

    Raises:
        UserError: unknown data set.
    """
    return card_of(name).short + (HELD_OUT if name.endswith(HELD_OUT) else "")


def find_dataset(name: str, root: Path) -> Path | None:
    """The folder of a data set under `root` (or `root` itself); None if its layout is not found.

    Raises:
        UserError: unknown data set.
    """
    card = card_of(name)
    for folder in (*card.folders, "."):
        if all((root / folder / need).exists() for need in card.needs):
            return (root / folder).resolve()
    return None


def available(root: Path) -> dict[str, Path]:
    """The data sets whose layout is recognised under `root`, and their folders."""
    found = {card.name: find_dataset(card.name, root) for card in cards()}
    return {name: folder for name, folder in found.items() if folder is not None}


#: One training identity in four is held out.
HELD_OUT_EVERY = 4


def hold_out(dataset: Dataset) -> Dataset:
    """Split a training set in two, for choices that must not use test images.

    Every fourth training identity, in ascending order, is ranked; the others are for training. Each held-out image is
    query and gallery, without matches of its own camera. In a set without cameras, the first image of each identity is
    gallery.

    Raises:
        DataError: too few identities or cameras.
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
    """Load a data set from a data root.

    Args:
        name: of a card; NAME-heldout: only its training identities, some of which are ranked (`hold_out`).
        root: the folder that holds the set's own folder, or that folder itself.

    Raises:
        UserError: unknown name.
        DataError: no such root, layout not recognised, names or lists that do not parse, an empty
            split, a zero-byte image, or no query with a match in the gallery.
    """
    if name.endswith(HELD_OUT):
        return hold_out(load_dataset(name.removesuffix(HELD_OUT), root))
    card = card_of(name)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"data root {root} does not exist; pass the folder that holds {card.folders[0]}/")
    folder = find_dataset(name, root)
    if folder is None:
        others = ", ".join(f"{other} in {where}" for other, where in available(root).items())
        raise DataError(
            f"no {name} under {root}: looked for {', '.join(card.needs)} in "
            f"{', '.join(card.folders)} and {root} itself. Recognised there: {others or 'no known layout'}"
        )
    try:
        dataset = REGISTERED[name][1](folder)
        if (world := read_world(folder)) is not None:
            check_samples(folder, world)
            dataset = replace(dataset, layout=f"{dataset.layout}, rendered", world=world["fingerprint"])
        _check_usable(dataset)
    except OSError as error:  # no permission, a broken link, a file instead of a folder
        raise DataError(f"{name} in {folder}: {error}; repair it or remove it") from error
    return dataset


def _check_usable(dataset: Dataset) -> None:
    for split, images in dataset.splits().items():
        if not images:
            raise DataError(f"{dataset.name} in {dataset.root}: the {split} split holds no images")
    empty = [i.path for i in (*dataset.train, *dataset.test) if i.path.stat().st_size == 0]
    if empty:
        raise DataError(
            f"{dataset.name}: {len(empty)} zero-byte image(s): {first_few(empty)}; fetch them again or remove them"
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
