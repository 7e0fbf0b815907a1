"""Finds and loads data sets in their native layouts.

Each file of this folder holds one data set: its parser, which turns a folder into a `Dataset`, and its card. The user's
own sets have no file here (`msinet.data.own`). Images are not decoded here. Only names, lists and file sizes are read,
so a wrong layout is reported within a second.
"""

import importlib
import os
import pkgutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from msinet.data.datasets import HELD_OUT, JOIN, REGISTERED, Dataset, DatasetCard, Draw, Image
from msinet.data.matches import queries_with_match
from msinet.data.own import OWN, OwnSet, notice
from msinet.data.rendered import check_samples, read_world
from msinet.errors import DataError, UserError, first_few, unknown_name
from msinet.io import nearest_existing


def _discover() -> None:
    """Import every file of this folder, so that its data sets are registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


_discover()


def cards() -> list[DatasetCard]:
    """The card of every data set, in the order of tables."""
    return sorted((card for card, _ in REGISTERED.values()), key=lambda card: card.order)


def main_datasets() -> list[str]:
    """Data sets that tables use by default: all but additional test lists."""
    return [card.name for card in cards() if not card.part_of]


def card_of(name: str) -> DatasetCard:
    """The card of a data set; that of NAME for NAME-heldout, and for A+B that of A with the names of both.

    Raises:
        UserError: unknown data set; the message lists the known ones.
    """
    base = name.removesuffix(HELD_OUT)
    if JOIN in base:
        joined = [card_of(one) for one in base.split(JOIN)]
        return replace(joined[0], name=base, short=JOIN.join(card.short for card in joined), expected={}, across=())
    if base in REGISTERED:
        return REGISTERED[base][0]
    if base in OWN:
        return OWN[base].card
    raise unknown_name("data set", name, (*(card.name for card in cards()), *OWN))


def folders_behind(name: str) -> tuple[str, ...]:
    """The data sets with folders of their own that a name needs.

    Those of both for A+B, that of NAME for NAME-heldout, the whole set for an additional test list.

    Raises:
        UserError: unknown data set.
    """
    cards = [card_of(one) for one in name.removesuffix(HELD_OUT).split(JOIN)]
    return tuple(card.part_of or card.name for card in cards)


def is_across(tested: str, trained: Iterable[str]) -> bool:
    """True if a network trained on some sets is tested on another one, and not on another test list of one of them.

    Raises:
        UserError: unknown data set.
    """
    return not {*folders_behind(tested)} & {one for name in trained for one in folders_behind(name)}


def short_name(name: str) -> str:
    """The name in tables: M for market1501, M-heldout for market1501-heldout, M+MS for market1501+msmt17.

    Raises:
        UserError: unknown data set.
    """
    return card_of(name).short + (HELD_OUT if name.endswith(HELD_OUT) else "")


def find_dataset(name: str, root: Path) -> Path | None:
    """The folder of a data set under `root` (or `root` itself), or its list; None if it is not found.

    Its usual folder names are searched in `root`, then one level below.

    Raises:
        UserError: unknown data set.
        DataError: several folders one level below hold it.
    """
    found = _folders_of(name, root)
    if len(found) > 1:
        raise DataError(f"several folders under {root} hold {name}: {first_few(found)}; give one of them")
    return found[0] if found else None


def _folders_of(name: str, root: Path) -> list[Path]:
    """The folder or list of a data set; several if more than one folder one level below holds it."""
    card = card_of(name)
    if own := _own(name, root):
        return [own.path]
    if folder := _first_complete(root, (*card.folders, "."), card.needs):
        return [folder]
    return sorted({found for one in folders_in(root) if (found := _first_complete(one, card.folders, card.needs))})


def _first_complete(parent: Path, folders: Sequence[str], needs: Sequence[str]) -> Path | None:
    """The first of some folders that has all entries of a layout; None for a layout without entries."""
    complete = (parent / folder for folder in folders if all((parent / folder / need).exists() for need in needs))
    found = next(complete, None) if needs else None
    return found and found.resolve()


#: Number of subfolders of a data root that are searched. A folder of identities has more, and holds no data sets.
MOST_FOLDERS = 100


def folders_in(root: Path) -> list[Path]:
    """The first `MOST_FOLDERS` subfolders by name; none if the folder cannot be read."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        return [root / name for name in names[:MOST_FOLDERS]]
    except OSError:
        return []


def _own(name: str, root: Path) -> OwnSet | None:
    """The user's own set of that name, if it was registered for this root."""
    return own if (own := OWN.get(name)) and own.root == root.resolve() else None


def available(root: Path) -> dict[str, Path]:
    """The data sets that are recognised under `root`, and their folders or lists."""
    if not _any_own(root):
        notice(root)
    own = {name: one.path for name, one in OWN.items() if one.root == root.resolve()}
    known = {card.name: _folders_of(card.name, root) for card in cards()}
    found = {name: folders[0] for name, folders in known.items() if folders and folders[0] not in own.values()}
    return found | own


def _any_own(root: Path) -> bool:
    return any(one.root == root.resolve() for one in OWN.values())


def nearly(root: Path) -> str:
    """Message: the folder under `root` that lacks the fewest entries of a known layout; empty if none has any.

    A folder with all entries but an unusual name can be given as the data root itself, with --name.
    """
    best: tuple[int, str] | None = None
    for card in cards():
        for folder in dict.fromkeys((root, *(root / one for one in card.folders), *folders_in(root))):
            lacking = [need for need in card.needs if not (folder / need).exists()]
            if len(lacking) == len(card.needs):
                continue
            words = f" {folder} has the layout of {card.name}: give it as the data root, and its name with --name."
            if lacking:
                words = f" Nearest is {folder}, which lacks {', '.join(lacking)} of the layout of {card.name}."
            if best is None or len(lacking) < best[0]:
                best = len(lacking), words
    return best[1] if best else ""


def missing_root(root: Path, wanted: str) -> DataError:
    """The error for a data root that does not exist; it lists what exists instead."""
    return DataError(f"data root {root} does not exist; pass {wanted}.{nearest_existing(root)}")


def default_dataset(root: Path, usual: str) -> str:
    """The data set that a command uses if none is named: the usual one, or the only one under the data root.

    Raises:
        DataError: the root holds several sets, but not the usual one.
    """
    names = [name for name in available(root) if not card_of(name).part_of] if root.exists() else [usual]
    if usual in names or not names:
        return usual
    if len(names) > 1:
        raise DataError(f"{root} holds {', '.join(names)}; choose one with --dataset")
    return names[0]


#: One training identity in four is held out.
HELD_OUT_EVERY = 4


def hold_out(dataset: Dataset) -> Dataset:
    """Split a training set in two, for choices that must not use test images.

    Every fourth training identity, in ascending order, is ranked; the others are for training. Each held-out image is
    both query and gallery; its own camera gives no matches. In a set without cameras, the first image of each identity
    is gallery and the others are queries.

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


#: Parts of a data set that a caller may need: its splits, and a query with a match.
ALL = ("train", "query", "gallery", "match")


def load_dataset(
    name: str, root: Path | str, *, keep_same_camera: bool = False, needs: Collection[str] = ALL
) -> Dataset:
    """Load a data set from a data root.

    Args:
        name: of a card; NAME-heldout: only its training identities, some of which are ranked (`hold_out`);
            A+B: the training images of both (`join`).
        root: the folder that holds the set's own folder, that folder itself, or a list of images.
        keep_same_camera: rank gallery images of the query's identity and camera as well, for sets with one camera.
        needs: parts out of `ALL` that must not be empty; with none, one image of any part is enough.

    Raises:
        UserError: unknown name.
        DataError: no such root, layout not recognised, names or lists that do not parse, an empty
            split, a zero-byte image, or no query with a match in the gallery.
    """
    root = Path(os.path.expanduser(root))  # unlike Path.expanduser, raises nothing for an unknown user
    if root.exists() and not _any_own(root):
        notice(root)
    base = name.removesuffix(HELD_OUT)
    if base != name:
        needs = ("train",)
    if JOIN in base:
        parts = [
            load_dataset(one, root, keep_same_camera=keep_same_camera, needs=("train",) if i else needs)
            for i, one in enumerate(base.split(JOIN))
        ]
        if base != name and len({part.remove_same_camera for part in parts}) > 1:
            raise UserError(f"{name}: one of the sets has no cameras; hold out identities of a single set")
        return hold_out(join(parts)) if base != name else join(parts)
    if base != name:
        return hold_out(load_dataset(base, root, keep_same_camera=keep_same_camera, needs=needs))
    dataset = _parse(name, root)
    if keep_same_camera:
        dataset = replace(dataset, remove_same_camera=False)
    try:
        _check_usable(dataset, needs)
    except OSError as error:
        raise DataError(f"{name} in {dataset.root}: {error}; repair it or remove it") from error
    return dataset


def _parse(name: str, root: Path) -> Dataset:
    """The data set under a root, not yet checked."""
    card = card_of(name)
    if not root.exists():
        raise missing_root(root, f"the folder that holds {card.folders[0]}/, or a list of images")
    folder = find_dataset(name, root)
    if folder is None:
        others = ", ".join(f"{other} in {where}" for other, where in available(root).items())
        raise DataError(
            f"no {name} under {root}: looked for {', '.join(card.needs)} in {', '.join(card.folders)} and {root} itself"
            f". Recognised there: {others or 'no known layout'}.{nearly(root)}"
        )
    own = _own(name, root)
    try:
        dataset = replace((own.parser if own else REGISTERED[name][1])(folder), name=name)
        if folder.is_dir() and (world := read_world(folder)) is not None:
            check_samples(folder, world)
            dataset = replace(dataset, layout=f"{dataset.layout}, rendered", world=world["fingerprint"])
    except OSError as error:  # no permission, a broken link, a file instead of a folder
        raise DataError(f"{name} in {folder}: {error}; repair it or remove it") from error
    return dataset


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Join data sets: training images of all, with separate identities and cameras, and the test images of the first.

    Raises:
        UserError: a set occurs twice, also with two of its test lists.
    """
    names = [dataset.name for dataset in datasets]
    behind = [one for name in names for one in folders_behind(name)]
    if len(set(behind)) < len(behind):
        raise UserError(f"{JOIN.join(names)}: the training images of a data set occur twice")
    train: list[Image] = []
    for dataset in datasets:
        identity = max((image.identity for image in train), default=-1) + 1
        camera = max((image.camera for image in train), default=-1) + 1
        train += [replace(i, identity=identity + i.identity, camera=camera + i.camera) for i in dataset.train]
    return replace(
        datasets[0],
        name=JOIN.join(names),
        layout=JOIN.join(dataset.layout for dataset in datasets),
        root=Path(os.path.commonpath([dataset.root for dataset in datasets])),
        train=tuple(train),
        world="",
        skipped=tuple(path for dataset in datasets for path in dataset.skipped),
        identity_names={},
        camera_names={},
        parts=tuple(dataset.fingerprint for dataset in datasets),
    )


def _check_usable(dataset: Dataset, needs: Collection[str] = ALL) -> None:
    for split, images in dataset.splits().items():
        if split in needs and not images:
            raise DataError(f"{dataset.name} in {dataset.root}: the {split} split holds no images")
    if not dataset.train and not dataset.test:
        raise DataError(f"{dataset.name} in {dataset.root}: no images")
    empty = [i.path for i in (*dataset.train, *dataset.test) if i.path.stat().st_size == 0]
    if empty:
        raise DataError(
            f"{dataset.name}: {len(empty)} zero-byte image(s): {first_few(empty)}; fetch them again or remove them"
        )
    if "match" in needs and not queries_with_match(dataset).any():
        same = dataset.remove_same_camera and queries_with_match(replace(dataset, remove_same_camera=False)).any()
        raise DataError(
            f"{dataset.name} in {dataset.root}: no query has a match in the gallery"
            + (
                " from another camera; --keep-same-camera ranks those of the query's own camera as well"
                if same
                else "; query and gallery do not belong together"
            )
        )
