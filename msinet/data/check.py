"""Comparison of the data sets under a data root with the published counts (docs/protocol.md)."""

from pathlib import Path

import numpy as np

from msinet.data.datasets import Dataset
from msinet.data.layouts import ALL, available, card_of, cards, load_dataset, missing_root, nearly
from msinet.data.loading import undecodable
from msinet.data.matches import count_queries
from msinet.errors import DataError, first_few
from msinet.io import file_hash


def check(
    root: Path,
    *,
    datasets: tuple[str, ...] = (),
    decode: bool = True,
    progress: bool = True,
    keep_same_camera: bool = False,
) -> bool:
    """Print the splits of every data set under `root`, and its images that cannot be decoded.

    Args:
        root: a data root, or the folder of one set.
        datasets: names to look for; empty: all that are recognised.
        decode: decode every image; otherwise only names, lists and sizes are read.
        progress: show a bar.
        keep_same_camera: as for `load_dataset`.

    Returns:
        Whether every set can be used. Counts that differ from the published ones are shown but are no error.

    Raises:
        UserError: unknown data set.
        DataError: no such root, or no known layout in it.
    """
    names = recognised(root, datasets)
    usable = [_check_one(name, root, decode, progress, keep_same_camera) for name in names]
    return all(usable)


def recognised(root: Path, datasets: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The requested data sets, or else those found under `root`, without their additional test lists.

    Raises:
        DataError: no such root, or no known layout in it.
    """
    if not root.exists():
        raise missing_root(root, "the folder of the data sets, or a list of images")
    names = datasets or tuple(name for name in available(root) if not card_of(name).part_of)
    if not names:
        wanted = "; ".join(f"{card.name}: {', '.join(card.needs)}" for card in cards() if not card.part_of)
        raise DataError(
            f"no known layout under {root}.{nearly(root)} A set is recognised by these entries of its folder: {wanted}."
            " Or give a list: a CSV file with the columns path, identity and split (msinet data split makes one)"
        )
    return names


def _check_one(name: str, root: Path, decode: bool, progress: bool, keep_same_camera: bool) -> bool:
    card = card_of(name)
    try:
        dataset = load_dataset(name, root, keep_same_camera=keep_same_camera, needs=())
        parts: tuple[str, ...] = ALL
        if dataset.layout == "list":  # one with training images alone can be trained on, one without can be ranked
            parts = ALL[:1] * bool(dataset.train) + ALL[1:] * bool(dataset.test)
        dataset = load_dataset(name, root, keep_same_camera=keep_same_camera, needs=parts)
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
    for line in [*_remarks(dataset), *(_copies(dataset) if decode else ())]:
        print(f"  {line}")
    problems = undecodable((*dataset.train, *dataset.test), progress=progress) if decode else []
    for problem in problems:
        print(f"  UNREADABLE {problem}")
    if decode and not problems:
        print(f"  all {len(dataset.train) + len(dataset.test)} images decode")
    print(f"  fingerprint {dataset.fingerprint}\n")
    return not problems


def _remarks(dataset: Dataset) -> list[str]:
    """Remarks on unexpected properties of a data set."""
    card = card_of(dataset.name)
    remarks = (
        [str(count_queries(dataset))] if dataset.test else ["no test images: train on it and rank another --target"]
    )
    if not dataset.train:
        remarks.append("no training images: it can only be ranked")
    if not dataset.remove_same_camera:
        remarks.append("no gallery image is left out because of its camera")
    if dataset.layout == "list":
        remarks.append(f"{card.kind} images, judged by their shape")
    if dataset.skipped:
        remarks.append(f"{len(dataset.skipped)} files without an image suffix: {first_few(dataset.skipped)}")
    remarks += _shared_identities(dataset)
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


def leaks(dataset: Dataset) -> list[str]:
    """Remarks on test images that make results too good, found by names alone."""
    found = _shared_identities(dataset)
    if dataset.test and not dataset.remove_same_camera:
        draw = dataset.draws[0]
        gallery = {dataset.test[i].path for i in draw.gallery}
        same = sum(dataset.test[i].path in gallery for i in draw.query)
        if same:
            found.append(f"{same} queries are in the gallery as well and match themselves, as no camera is left out")
    return found


def _shared_identities(dataset: Dataset) -> list[str]:
    tested = {image.identity for image in dataset.test}
    both = [image for image in dataset.train if image.identity in tested]
    if not both or card_of(dataset.name).numbers_restart:
        return []
    names = sorted({dataset.identity_name(image) for image in both})
    return [f"{len(names)} identities are in both training and test: {first_few(names)}"]


def _copies(dataset: Dataset) -> list[str]:
    """Remarks on identical files in query and gallery, which any network matches.

    In sets with cameras, copies with the query's identity and camera are left out of the ranking.
    """
    if not dataset.test:
        return []
    draw = dataset.draws[0]
    gallery: dict[int, list[int]] = {}
    for i in draw.gallery:
        gallery.setdefault(dataset.test[i].path.stat().st_size, []).append(i)
    hashes: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in hashes:
            hashes[path] = file_hash(path)
        return hashes[path]

    found, counted = [], 0
    for q in draw.query:
        query = dataset.test[q]
        same = [dataset.test[g] for g in gallery.get(query.path.stat().st_size, ())]
        copies = [one for one in same if one.path == query.path or digest(one.path) == digest(query.path)]
        if copies:
            found.append(query.path)
        removed = (query.identity, query.camera) if dataset.remove_same_camera else None
        counted += any((one.identity, one.camera) != removed for one in copies)
    if not found:
        return []
    ranked = f"{counted} of them are ranked" if counted else "none is ranked: same camera"
    return [f"{len(found)} queries are in the gallery as the same file or a copy ({ranked}): {first_few(found)}"]
