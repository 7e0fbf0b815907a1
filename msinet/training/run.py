"""One complete run: a network trained on one data set, ranked on another or the same, with its files."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from msinet.io import file_hash, stable_hash, write_csv, write_json, write_text
from msinet.models import build_model, load_weights, save_weights
from msinet.precision import use_precision
from msinet.training.batches import Batches
from msinet.training.evaluation import Evaluation, dataset_features, rank, within_family_metrics
from msinet.training.fit import OnStep, Result
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical
from msinet.training.run_folder import RECORD, WEIGHTS, Record, RunFolder, run_folder
from msinet.training.seeds import derived_seed
from msinet.training.supervised import Supervised

#: Losses and metrics of a run by epoch.
HISTORY = "history.csv"


@dataclass(frozen=True)
class Training:
    """A training and its evaluation: everything that can change the outcome."""

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
    """repetition; initial weights, batches and augmentation follow from it"""
    weights: Path | None = None
    """pre-trained weights to start from"""
    trained: Path | None = None
    """folder of a finished run of the same training, whose weights are ranked in place of training again"""

    @property
    def weights_seed(self) -> int:
        """The seed of the initial weights, which differ from network to network."""
        return derived_seed(self.source.name, self.model, self.seed)

    @property
    def batches_seed(self) -> int:
        """The seed of batches and augmentation: all networks see the same images in the same order."""
        return derived_seed(self.source.name, "batches", self.seed)

    @cached_property
    def weights_hash(self) -> str | None:
        """Hash of the pre-trained weights."""
        return file_hash(self.weights) if self.weights else None

    @property
    def identity(self) -> str:
        """Names the training in its checkpoint; the evaluation is no part of it."""
        network = [self.model, dict(self.options)]
        return stable_hash([*network, self.source.fingerprint, canonical(self.recipe), self.seed, self.weights_hash])


def run(
    folder: Path, training: Training, run_options: RunOptions | None = None, on_step: OnStep | None = None
) -> Record:
    """Train a network, rank the test images of the target, and write the results into `folder`.

    Files: `record.json` (last, so that its presence means the run is whole), `model.safetensors`,
    `history.csv` per epoch, `queries.csv` per query and draw, `log.txt`; `checkpoint.pt` while training.

    Args:
        folder: of this run; an unfinished run in it is resumed.
        training: network, data, recipe, seed, weights.
        run_options: device, workers and the like.
        on_step: called with the finished share of the training.

    Returns:
        The flat record: metrics in [0, 1], timings in seconds, recipe, environment.

    Raises:
        UserError: any input that cannot be used, before training starts where it can be known then.
    """
    with run_folder(folder, run_options or RunOptions(), "training") as here:
        return _run(here, training, on_step)


def _run(here: RunFolder, training: Training, on_step: OnStep | None) -> Record:
    source, target, recipe = training.source, training.target, training.recipe
    use_precision(recipe.precision)
    network = _build(here, training)
    trains = recipe.schedule.epochs > 0 and any(p.requires_grad for p in network.parameters())
    trains = trains and training.trained is None
    # Reading all images first names a broken one before hours are spent.
    pixels = _open(here, source, "train", recipe) if trains else None
    test_pixels = _open(here, target, "test", recipe)
    network = network.to(here.device).to(memory_format=torch.channels_last)  # the faster layout on CPUs and GPUs

    def features() -> Tensor:
        return dataset_features(network, target, test_pixels, here.device, progress=here.options.progress)

    described = f"{training.model} {dict(training.options)} on {source.name} ({source.fingerprint})"
    here.log(f"{described}, seed {training.seed}, {describe(here.device)}")
    result, steps = Result((), 0.0, 0), 0
    if pixels is None:
        here.replace_result()
        if training.trained is not None:
            here.log(str(load_weights(network, training.trained / WEIGHTS)))
            steps = int(json.loads((training.trained / RECORD).read_text(encoding="utf-8"))["steps"])
    else:
        batches = Batches(pixels, source.labels, recipe, training.batches_seed, here.device, here.options.workers)
        task = Supervised(
            network, batches, lambda: rank(features(), target).metrics, here.options.evaluate_every, graphs=here.graphs
        )
        here.replace_result()
        result = here.fit(task, training.identity, on_step, f"{training.model} {source.name} seed {training.seed}")
        steps = result.steps
    began = time.perf_counter()
    found_features = features()
    final = rank(found_features, target)
    seconds_evaluating = time.perf_counter() - began
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in final.metrics.items())
    here.log(f"{target.name}: {metrics}; {final.counts}")
    found = {
        **final.metrics,
        **{f"{name}_std_draws": value for name, value in final.std.items()},
        **within_family_metrics(found_features, target),
        "draws": len(final.draws),
        **final.counts.record(),
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
        "seconds_evaluating": seconds_evaluating,
        **_best_on_test(result),
        **({"trained_by": training.trained.name} if training.trained else {}),
    }
    record = here.record(found, recipe)
    if distributed.leads():
        save_weights(network, here.path / WEIGHTS, _metadata(training))
        if training.trained is None:
            write_csv(here.path / HISTORY, result.history)
        else:
            write_text(here.path / HISTORY, (training.trained / HISTORY).read_text(encoding="utf-8"))
        write_csv(here.path / "queries.csv", _per_query(final, target))
        write_json(here.result, record)
    return record


def _build(here: RunFolder, training: Training) -> nn.Module:
    """The network with its initial weights."""
    image = training.recipe.image
    torch.manual_seed(training.weights_seed)
    network = build_model(
        training.model, training.source.num_classes, image=(image.height, image.width), **training.options
    )
    if training.recipe.losses.alignment == "pam-self" and getattr(network, "pam", None) is None:
        raise UserError(
            f"alignment pam-self needs a network with a position activation module: {training.model} with pam=True"
        )
    if training.weights is not None:
        report = str(load_weights(network, training.weights))
        here.log(report)
        if distributed.leads():
            tqdm.write(report)
    return network


def _open(here: RunFolder, dataset: Dataset, role: str, recipe: Recipe) -> PixelSource:
    size, options = recipe.image, here.options
    return open_pixels(dataset, role, size.height, size.width, cache=options.cache, progress=options.progress)


def _metadata(training: Training) -> dict[str, str]:
    """Metadata of the weights file."""
    return {
        "model": training.model,
        "options": json.dumps(dict(training.options)),
        "num_classes": str(training.source.num_classes),
        "height": str(training.recipe.image.height),
        "width": str(training.recipe.image.width),
        "source": training.source.name,
    }


def _best_on_test(result: Result) -> dict[str, float]:
    """The best epoch by test mAP: a labelled extra, never the result."""
    evaluated = [row for row in result.history if "mAP" in row]
    if not evaluated:
        return {}
    best = max(evaluated, key=lambda row: row["mAP"])
    return {"best_on_test_mAP": best["mAP"], "best_on_test_R1": best["R1"], "best_on_test_epoch": best["epoch"]}


def _per_query(evaluation: Evaluation, dataset: Dataset) -> Iterable[dict[str, Any]]:
    for number, (draw, ranked) in enumerate(zip(dataset.draws, evaluation.draws, strict=True)):
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
