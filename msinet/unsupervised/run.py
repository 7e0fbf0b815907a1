"""Runs of methods without labels: `msinet.training.run` with the tasks of this package."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from msinet.data.datasets import SUFFIXES, Dataset, Image
from msinet.data.layouts.files import image_files
from msinet.data.loading import PixelSource
from msinet.errors import DataError, UserError, WeightsError
from msinet.io import nearest_existing
from msinet.models import load_weights
from msinet.models.heads import ReIDNet
from msinet.models.registry import options_of
from msinet.models.weights import LoadReport
from msinet.training.fit import OnStep, Row, Task
from msinet.training.options import RunOptions
from msinet.training.recipe import ADAPTING, ALONE, Method
from msinet.training.run import Kind, Training, open_images, run
from msinet.training.run_folder import Record, RunFolder
from msinet.unsupervised.batches import Labelled
from msinet.unsupervised.clustercontrast import ClusterContrast
from msinet.unsupervised.gs import GroupSampling
from msinet.unsupervised.hdcrl import HybridContrast
from msinet.unsupervised.idm import IntermediateDomains
from msinet.unsupervised.mmcl import MultiLabels
from msinet.unsupervised.mmt import MutualMeanTeaching
from msinet.unsupervised.spcl import SelfPaced, SelfPacedAdaptation
from msinet.unsupervised.task import Conditions, PseudoLabelTask, Unlabelled

#: Methods that learn from images alone, by name.
USL: dict[Method, type[PseudoLabelTask]] = {
    "clustercontrast": ClusterContrast,
    "gs": GroupSampling,
    "spcl": SelfPaced,
    "hdcrl": HybridContrast,
    "mmcl": MultiLabels,
}
#: Methods that adapt from a labelled source, by name.
UDA: dict[Method, Callable[[ReIDNet, Unlabelled, Conditions, Labelled], PseudoLabelTask]] = {
    "spcl": SelfPacedAdaptation,
    "idm": IntermediateDomains,
    "mmt": MutualMeanTeaching,
}


def learn(
    folder: Path, training: Training, run_options: RunOptions | None = None, on_step: OnStep | None = None
) -> Record:
    """Train a network by a method without labels, rank the test images of the target, and write the results.

    The target's training images are clustered; their identities are compared with the clusters and not used otherwise.
    Files are those of `msinet.training.run.run`; the history has the clusters' number and quality in each epoch.

    Args:
        folder: of this run; an unfinished run in it is resumed.
        training: network, data, recipe, seed, weights. The source is the target, or for UDA methods a labelled set.
        run_options: device, workers and the like.
        on_step: called with the finished share of the training.

    Returns:
        The flat record.

    Raises:
        UserError: source and target do not suit the method, or other unusable input.
    """
    check(training)
    return run(folder, training, run_options, on_step, WithoutLabels())


def check(training: Training) -> None:
    """Raise a `UserError` unless source and target suit the method."""
    settings, source, target = training.recipe.method_settings, training.source, training.target
    across = source.fingerprint != target.fingerprint
    if not across and source is not target:
        raise UserError(
            f"source and target are both {target.name}; give a --source of another data set, or leave it out and use a "
            f"method without a source: {', '.join(ALONE)}"
        )
    if not across and not settings.runs(across=False):
        raise UserError(
            f"{settings.method} adapts from a labelled source to another target, but no other --source is given; give "
            f"a --source of another data set under --data-root, or use a method without a source: {', '.join(ALONE)}"
        )
    if across and not settings.runs(across=True):
        raise UserError(
            f"{settings.method} learns from the target alone, but the source is {source.name} and the target "
            f"{target.name}; leave the source out, or take one of {', '.join(ADAPTING)}"
        )
    if "neck" not in options_of(training.model):
        raise UserError(
            f"{training.model} has no option neck, which methods without labels need for their feature; choose another "
            "network, such as msinet or resnet50"
        )
    if (neck := training.options.get("neck")) != settings.neck:
        raise UserError(
            f"the network has the option neck={neck}, but recipe setting feature={settings.feature} needs "
            f"neck={settings.neck}; change feature instead"
        )
    if across and source.train[0].identity < 0:
        raise UserError(f"{settings.method} needs a source with identities, which {source.name} does not have")
    if across and (shared := len(_files(source) & _files(target))):
        raise UserError(
            f"source {source.name} and target {target.name} share {shared} training image(s), whose identities would "
            "not be hidden; give a --source of other images"
        )


def _files(dataset: Dataset) -> set[str]:
    """The training images, without symbolic links."""
    return {os.path.realpath(image.path) for image in dataset.train}


class WithoutLabels(Kind):
    """Training with pseudo-labels."""

    def load(self, network: nn.Module, path: Path) -> LoadReport:
        """Load the whole file, or its backbone if the file's neck is another one."""
        return load_start(network, path)

    def task(
        self, here: RunFolder, training: Training, network: nn.Module, evaluate: Callable[[nn.Module], Row]
    ) -> Task:
        """The method of the recipe."""
        if here.options.graphs:
            raise UserError(
                "--graphs True is for trainings with labels and for searches; methods without labels run without CUDA "
                "graphs; remove the option"
            )
        recipe, options, target = training.recipe, here.options, training.target
        if not isinstance(network, ReIDNet):
            raise UserError(f"{training.model} learns no features; choose another network")
        if not hasattr(network.head, "embed"):
            raise UserError(
                f"{training.model}: its head {type(network.head).__name__} has no method embed, which methods without "
                "labels need (docs/extending.md)"
            )
        conditions = Conditions(
            recipe,
            training.batches_seed,
            here.device,
            options.workers,
            evaluate if target.draws else None,
            options.evaluate_every,
            options.progress,
        )
        images = unlabelled(target, open_images(here, target, "train", recipe))
        method, source = recipe.method_settings.method, training.source
        if source.fingerprint == target.fingerprint:
            return USL[method](network, images, conditions)
        labelled = Labelled(open_images(here, source, "train", recipe), source.labels, cameras_of(source))
        return UDA[method](network, images, conditions, labelled)


def load_start(network: nn.Module, path: Path) -> LoadReport:
    """Load weights to start from: all of them, or the backbone's if the file belongs to another neck.

    Raises:
        WeightsError: the file is damaged, or its backbone does not fit.
    """
    try:
        return load_weights(network, path)
    except WeightsError:
        backbone = nn.ModuleDict({"backbone": cast(nn.Module, network.backbone)})
        report = load_weights(backbone, path, partial=True)
        if report.missing or report.mismatched or report.differences:
            raise  # report the error for the whole file
        return report


def unlabelled(dataset: Dataset, pixels: PixelSource) -> Unlabelled:
    """The training images of a data set without their identities."""
    known = all(image.identity >= 0 for image in dataset.train)
    return Unlabelled(pixels, cameras_of(dataset), dataset.labels if known else None)


def cameras_of(dataset: Dataset) -> np.ndarray:
    """Cameras of the training images, (N,)."""
    return np.array([image.camera for image in dataset.train])


def image_folder(root: Path) -> Dataset:
    """All images of a folder and its subfolders as an unlabelled training set without test images.

    The set has the folder's name, also if the folder is given as `.` or starts with `~`.

    Raises:
        DataError: no such folder, no image in it, or a folder that cannot be read.
    """
    folder = root.expanduser().resolve()
    if folder.is_file():
        raise DataError(f"{folder} is a file; pass a folder of images (msinet learn --data-root takes a list)")
    if not folder.is_dir():
        raise DataError(f"folder of images {folder} does not exist; pass a folder.{nearest_existing(folder)}")
    try:
        paths = image_files(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error}; check its permissions") from error
    if not paths:
        raise DataError(f"no image in {folder}: no file ends with {', '.join(sorted(SUFFIXES))}; pass another folder")
    images = tuple(Image(path, -1, 0) for path in paths)
    name = folder.name.encode(errors="replace").decode()  # its bytes may not be UTF-8
    return Dataset(name, "folder of images", folder, images, (), (), remove_same_camera=False)
