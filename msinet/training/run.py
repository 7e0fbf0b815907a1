"""A complete run: train a network on one data set, rank the same or another one, and write all files."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from msinet import distributed
from msinet.data.datasets import Dataset
from msinet.data.factors import query_factors
from msinet.data.loading import PixelSource, open_pixels
from msinet.environment import describe
from msinet.errors import UserError
from msinet.io import stable_hash, write_csv, write_json, write_text
from msinet.models import build_model, load_weights, save_weights
from msinet.models.foreign import weights_hash
from msinet.models.weights import LoadReport
from msinet.precision import use_precision
from msinet.training.batches import Batches
from msinet.training.evaluation import Evaluation, dataset_features, rank, within_family_metrics
from msinet.training.fit import OnStep, Result, Row, Task
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical
from msinet.training.run_folder import RECORD, WEIGHTS, Record, RunFolder, run_folder
from msinet.training.seeds import derived_seed
from msinet.training.supervised import Supervised

#: Losses and metrics of a run by epoch.
HISTORY = "history.csv"


@dataclass(frozen=True)
class Training:
    """Everything that can change the outcome of a training and its evaluation."""

    model: str
    """name of the network"""
    options: Mapping[str, Any]
    """of the network"""
    source: Dataset
    """training set"""
    target: Dataset
    """the set whose test images are ranked"""
    recipe: Recipe
    """size, batches, schedule, losses, augmentation; zero epochs rank the initial weights"""
    seed: int = 0
    """number of the repetition; initial weights, batches and augmentation depend on it"""
    weights: Path | None = None
    """pre-trained weights to start from"""
    trained: Path | None = None
    """folder of a finished run of the same training; its weights are ranked without training again"""

    @property
    def weights_seed(self) -> int:
        """The seed of the initial weights; it differs between networks."""
        return derived_seed(self.source.name, self.model, self.seed)

    @property
    def batches_seed(self) -> int:
        """The seed of batches and augmentation: all networks see the same images in the same order."""
        return derived_seed(self.source.name, "batches", self.seed)

    @property
    def classes(self) -> int:
        """Rows of the network's classifier; 1 for methods without labels, which do not use it."""
        # Its size changes the random numbers of the initial weights, and must not depend on hidden labels.
        return self.source.num_classes if self.recipe.unsupervised is None else 1

    @cached_property
    def weights_hash(self) -> str | None:
        """Hash of the pre-trained weights."""
        return weights_hash(self.weights) if self.weights else None

    @property
    def identity(self) -> str:
        """Hash that identifies the training in its checkpoint, without the evaluation (target)."""
        network = [self.model, dict(self.options)]
        parts = [*network, self.source.fingerprint, canonical(self.recipe), self.seed, self.weights_hash]
        return stable_hash(parts if self.recipe.unsupervised is None else [*parts, self.target.fingerprint])


class Kind(ABC):
    """Interface for the differences between trainings with labels and methods without labels."""

    @abstractmethod
    def load(self, network: nn.Module, path: Path) -> LoadReport:
        """Load the weights to start from.

        Raises:
            WeightsError: the file is damaged or does not fit.
        """

    @abstractmethod
    def task(
        self, here: RunFolder, training: Training, network: nn.Module, evaluate: Callable[[nn.Module], Row]
    ) -> Task:
        """The task that trains a network on the run's device.

        Args:
            here: folder of the run.
            training: data, recipe, seed.
            network: with its initial weights.
            evaluate: metrics of a network on the test set.

        Raises:
            UserError: images or settings that cannot be used.
        """


class WithLabels(Kind):
    """Training with the identities of the training set."""

    def load(self, network: nn.Module, path: Path) -> LoadReport:
        """Load the whole file."""
        return load_weights(network, path)

    def task(
        self, here: RunFolder, training: Training, network: nn.Module, evaluate: Callable[[nn.Module], Row]
    ) -> Task:
        """Train with the losses of the recipe."""
        labels, recipe = training.source.labels, training.recipe
        recipe.sampler.batches(labels, seed=training.batches_seed, epoch=0)  # too small a set is an error now
        pixels = open_images(here, training.source, "train", recipe)
        batches = Batches(pixels, labels, recipe, training.batches_seed, here.device, here.options.workers)
        every, graphs = here.options.evaluate_every, here.graphs
        return Supervised(network, batches, lambda: evaluate(network), every, graphs=graphs)


def run(
    folder: Path,
    training: Training,
    run_options: RunOptions | None = None,
    on_step: OnStep | None = None,
    kind: Kind | None = None,
) -> Record:
    """Train a network, rank the test images of the target, and write the results into `folder`.

    Files: `record.json` (written last, so that it exists only after a complete run), `model.safetensors`,
    `history.csv` per epoch, `queries.csv` per query and draw, `log.txt`; during training `checkpoint.pt`.

    Args:
        folder: of this run; an unfinished run in it is resumed.
        training: network, data, recipe, seed, weights.
        run_options: device, workers and the like.
        on_step: called with the finished share of the training.
        kind: of training; None: with labels.

    Returns:
        The flat record: metrics in [0, 1] unless the target has no test images, timings in seconds, recipe,
        environment.

    Raises:
        UserError: unusable input; detected before training starts where possible.
    """
    with run_folder(folder, run_options or RunOptions(), "training") as here:
        return _run(here, training, on_step, kind or WithLabels())


def _run(here: RunFolder, training: Training, on_step: OnStep | None, kind: Kind) -> Record:
    source, target, recipe = training.source, training.target, training.recipe
    use_precision(recipe.precision)
    network = _build(here, training, kind)
    network = network.to(here.device).to(memory_format=torch.channels_last)  # the faster layout on CPUs and GPUs
    trains = recipe.schedule.epochs > 0 and any(p.requires_grad for p in network.parameters())
    trains = trains and training.trained is None

    def features(network: nn.Module) -> Tensor:
        return dataset_features(network, target, test_pixels, here.device, progress=here.options.progress)

    # Reading all images first reports a broken one before hours of training.
    task = kind.task(here, training, network, lambda one: rank(features(one), target).metrics) if trains else None
    test_pixels = open_images(here, target, "test", recipe) if target.draws else []
    described = f"{training.model} {dict(training.options)} on {source.name} ({source.fingerprint})"
    here.log(f"{described}, seed {training.seed}, {describe(here.device)}")
    result, steps = Result((), 0.0, 0), 0
    here.set_aside()
    if task is not None:
        result = here.fit(task, training.identity, on_step, f"{training.model} {source.name} seed {training.seed}")
        network, steps = task.trained, result.steps
    elif training.trained is not None:
        here.log(str(load_weights(network, training.trained / WEIGHTS)))
        steps = int(json.loads((training.trained / RECORD).read_text(encoding="utf-8"))["steps"])
    began = time.perf_counter()
    found_features = features(network) if target.draws else None
    final = None if found_features is None else rank(found_features, target)
    seconds_evaluating = time.perf_counter() - began
    if final is not None:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in final.metrics.items())
        here.log(f"{target.name}: {metrics}; {final.counts}")
    found = {
        **({} if final is None or found_features is None else _ranked(final, found_features, target)),
        "source": source.name,
        "target": target.name,
        "same_camera": "removed" if target.remove_same_camera else "kept",
        "source_fingerprint": source.fingerprint,
        "target_fingerprint": target.fingerprint,
        "source_layout": source.layout,
        "target_layout": target.layout,
        "weights": training.weights_hash,
        "identities": source.num_classes,
        "steps": steps,
        "seconds_training": result.seconds,
        **({} if recipe.unsupervised is None else {"seconds_labelling": result.seconds_beginning}),
        "seconds_evaluating": seconds_evaluating,
        **_best_on_test(result),
        **_clusters(result),
        **({"trained_by": training.trained.name} if training.trained else {}),
    }
    record = here.record(found, recipe)
    if distributed.leads():
        save_weights(network, here.path / WEIGHTS, _metadata(training))
        if training.trained is None:
            write_csv(here.path / HISTORY, result.history)
        else:
            write_text(here.path / HISTORY, (training.trained / HISTORY).read_text(encoding="utf-8"))
        if final is not None:
            write_csv(here.path / "queries.csv", _per_query(final, target))
        write_json(here.result, record)
        here.remove_set_aside()
    return record


def _ranked(final: Evaluation, features: Tensor, target: Dataset) -> dict[str, Any]:
    """Metrics of the final evaluation, and its numbers of queries."""
    return {
        **final.metrics,
        **{f"{name}_std_draws": value for name, value in final.std.items()},
        **within_family_metrics(features, target),
        "draws": len(final.draws),
        **final.counts.record(),
    }


def _build(here: RunFolder, training: Training, kind: Kind) -> nn.Module:
    """The network with its initial weights."""
    image = training.recipe.image
    torch.manual_seed(training.weights_seed)
    network = build_model(training.model, training.classes, image=(image.height, image.width), **training.options)
    if training.recipe.losses.alignment == "pam-self" and getattr(network, "pam", None) is None:
        raise UserError(
            f"alignment pam-self needs a network with a position activation module: {training.model} with pam=True"
        )
    if training.weights is not None:
        report = str(kind.load(network, training.weights))
        here.log(report)
        if distributed.leads():
            tqdm.write(report)
    return network


def open_images(here: RunFolder, dataset: Dataset, role: str, recipe: Recipe) -> PixelSource:
    """The images of a role, "train" or "test", at the recipe's size.

    Raises:
        DataError: images that cannot be decoded.
    """
    size, options = recipe.image, here.options
    return open_pixels(dataset, role, size.height, size.width, cache=options.cache, progress=options.progress)


def _metadata(training: Training) -> dict[str, str]:
    """Metadata of the weights file."""
    return {
        "model": training.model,
        "options": json.dumps(dict(training.options)),
        "num_classes": str(training.classes),
        "height": str(training.recipe.image.height),
        "width": str(training.recipe.image.width),
        "source": training.source.name,
    }


def _best_on_test(result: Result) -> dict[str, float]:
    """The best epoch by test mAP: reported as an extra, never as the result."""
    evaluated = [row for row in result.history if "mAP" in row]
    if not evaluated:
        return {}
    best = max(evaluated, key=lambda row: row["mAP"])
    return {"best_on_test_mAP": best["mAP"], "best_on_test_R1": best["R1"], "best_on_test_epoch": best["epoch"]}


#: Values of a history that describe pseudo-labels.
CLUSTER_VALUES = ("clusters", "outliers", "nmi", "ari")


def _clusters(result: Result) -> dict[str, float]:
    """Number and quality of the clusters in the last epoch, for methods with clusters."""
    last = result.history[-1] if result.history else {}
    return {name: last[name] for name in CLUSTER_VALUES if name in last}


def _per_query(evaluation: Evaluation, dataset: Dataset) -> Iterable[dict[str, Any]]:
    for number, (draw, ranked) in enumerate(zip(cycle(dataset.draws), evaluation.draws, strict=False)):
        factors = query_factors(dataset, draw)  # of rendered images
        for row, index in enumerate(draw.query):
            image = dataset.test[index]
            yield {
                "draw": number,
                "query": image.path.relative_to(dataset.root).as_posix(),
                "identity": dataset.identity_name(image),
                "camera": dataset.camera_names.get(image.camera, image.camera),
                "positives": int(ranked.positives[row]),
                "first_rank": int(ranked.first_rank[row]),
                "ap": float(ranked.ap[row]),
                "inp": float(ranked.inp[row]),
                **(factors[row] if factors else {}),
            }
