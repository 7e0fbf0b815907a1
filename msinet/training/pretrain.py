"""Pre-training: a network is trained as a classifier; its weights initialise re-identification (Sec. 4.3)."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth
from tqdm import tqdm

from msinet import distributed
from msinet.data.folders import ClassFolders, FolderImages
from msinet.data.loading import PixelSource, test_batches
from msinet.environment import describe
from msinet.errors import UserError
from msinet.io import stable_hash, write_csv, write_json
from msinet.models import Output, build_model, save_weights
from msinet.precision import use_precision
from msinet.progress import bar
from msinet.training.batches import Batches
from msinet.training.fit import OnStep, Row
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical, settings
from msinet.training.run_folder import Record, RunFolder, run_folder
from msinet.training.seeds import derived_seed
from msinet.training.supervised import Supervised

#: Sets with fewer images are read before training, so that a broken image is named at once.
VERIFY_LIMIT = 50_000


@dataclass(frozen=True)
class Pretraining:
    """Everything that can change the outcome of a pre-training.

    Raises:
        UserError: the recipe has no random resized crop, which gives all images one size.
    """

    model: str
    """name of the network"""
    options: Mapping[str, Any]
    """of the network"""
    data: ClassFolders
    """images to classify"""
    recipe: Recipe
    """size, batches, schedule, augmentation"""
    seed: int = 0
    """number of the repetition; initial weights, batches and augmentation depend on it"""

    def __post_init__(self) -> None:
        if not self.recipe.augmentation.crop:
            raise UserError("recipe: crop must lie in (0, 1] in pre-training, got 0.0")

    @property
    def weights_seed(self) -> int:
        """The seed of the initial weights. It depends on the data's fingerprint, not on the folder's name."""
        return derived_seed(self.data.fingerprint, self.model, self.seed)

    @property
    def batches_seed(self) -> int:
        """The seed of batches and augmentation: all networks see the same images in the same order."""
        return derived_seed(self.data.fingerprint, "batches", self.seed)

    @property
    def identity(self) -> str:
        """Hash that identifies the training in its checkpoint."""
        network = [self.model, dict(self.options)]
        return stable_hash(["pretrain", *network, self.data.fingerprint, canonical(self.recipe), self.seed])


def pretrain(
    out: Path, pretraining: Pretraining, run_options: RunOptions | None = None, on_step: OnStep | None = None
) -> Record:
    """Train a network to classify and write its weights as `out`, which `load_weights` and --pretrained take.

    Files: X.safetensors (written last, so that it exists only after a complete training), X.json (the record) and
    X.history.csv in the same folder; during training, X.partial/ with checkpoint and log. An unfinished training
    is resumed.

    Args:
        out: X.safetensors.
        pretraining: network, data, recipe, seed.
        run_options: device, workers and the like. Images are decoded each time, so `cache` has no effect.
        on_step: called with the finished share of the training.

    Returns:
        The flat record: top1 and top5 on the validation images and chance in [0, 1], timings in seconds, recipe,
        environment.

    Raises:
        UserError: `out` exists, or unusable input; detected before training starts where possible.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must be named X.safetensors, which marks weights files")
    partial = out.with_name(f"{out.stem}.partial")
    with run_folder(partial, run_options or RunOptions(), "pre-training", out) as here:
        return _pretrain(here, pretraining, on_step)


def _pretrain(here: RunFolder, pretraining: Pretraining, on_step: OnStep | None) -> Record:
    model, options, data, recipe = pretraining.model, dict(pretraining.options), pretraining.data, pretraining.recipe
    size, seed = (recipe.image.height, recipe.image.width), pretraining.batches_seed
    use_precision(recipe.precision)
    torch.manual_seed(pretraining.weights_seed)
    network = build_model(model, len(data.classes), image=size, **options)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"{model} has nothing to train; evaluate it without training")
    recipe.sampler.batches(data.train_labels, seed=seed, epoch=0)  # refuses too small a set before anything is read
    network = network.to(here.device).to(memory_format=torch.channels_last)  # the faster layout on CPUs and GPUs
    _verify(data, here.options.progress)
    val_pixels, val_labels = FolderImages(data.root, data.val, size), torch.from_numpy(data.val_labels)

    def evaluate() -> Row:
        return classify(network, val_pixels, val_labels, here.device, progress=here.options.progress)

    here.log(f"{model} {options} on {data.name} ({data.fingerprint}), seed {pretraining.seed}, {describe(here.device)}")
    pixels = FolderImages(data.root, data.train)
    batches = Batches(pixels, data.train_labels, recipe, seed, here.device, here.options.workers)
    task = Supervised(network, batches, evaluate, here.options.evaluate_every, graphs=here.graphs)
    here.set_aside(here.result.with_suffix(".json"))
    result = here.fit(task, pretraining.identity, on_step, f"{model} {data.name} seed {pretraining.seed}")
    began = time.perf_counter()
    final = evaluate()
    seconds_evaluating = time.perf_counter() - began
    here.log(", ".join(f"{name} {value:.4f}" for name, value in final.items()))
    provenance = {
        "model": model,
        "options": json.dumps(options),
        "num_classes": len(data.classes),
        "height": recipe.image.height,
        "width": recipe.image.width,
        "pretrained_on": f"{data.name} {data.fingerprint}",
        "seed": pretraining.seed,
        "top1": final["top1"],
        "steps": result.steps,
        "code": describe(here.device)["code"],
    }
    found = {
        **provenance,
        **final,
        "chance": 1 / len(data.classes),
        "train_images": len(data.train),
        "val_images": len(data.val),
        "seconds_training": result.seconds,
        "seconds_evaluating": seconds_evaluating,
    }
    record = here.record(found, recipe)
    if distributed.leads():
        write_csv(here.result.with_suffix(".history.csv"), result.history)
        write_json(here.result.with_suffix(".json"), record)
        metadata = {"recipe": json.dumps(settings(recipe)), **provenance}
        save_weights(network, here.result, {name: str(value) for name, value in metadata.items()})
        here.remove_set_aside(here.result.with_suffix(".json"))
    return record


def _verify(data: ClassFolders, progress: bool) -> None:
    """Read every image of a small set once."""
    count = len(data.train) + len(data.val)
    if count < VERIFY_LIMIT:
        with distributed.leader_first():
            data.verify(progress=progress)
    else:
        tqdm.write(
            f"{data.name}: {count:,} images are not all read beforehand, to save time; a broken image stops the "
            "training when it is read"
        )


@torch.inference_mode()
def classify(
    network: nn.Module,
    pixels: PixelSource,
    labels: Tensor,
    device: torch.device,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> Row:
    """Shares of images, in [0, 1], whose class is first (top1) and among the first five (top5).

    Args:
        network: the probabilities of its classifiers are averaged.
        pixels: images of one size.
        labels: (N,) int64, their classes.
        device: device of the network.
        batch_size: images at a time.
        progress: show a bar.
    """
    ranked = []
    batches = bar(
        iterable=test_batches(pixels, batch_size),
        desc="validation",
        total=-(-len(pixels) // (batch_size * distributed.world())),
        disable=not progress,
    )
    with _classifying(network):
        for images in batches:
            output: Output = network(images.to(device, memory_format=torch.channels_last))
            likely = torch.stack([logits.float().softmax(1) for logits in output.logits]).mean(0)  # (B, classes)
            best = likely.topk(min(5, likely.shape[1])).indices  # (B, 5)
            ranked.append(distributed.gather_batch(best, batch_size).cpu())
    hits = torch.cat(ranked)[: len(pixels)] == labels[:, None]  # (N, 5)
    return {"top1": hits[:, 0].float().mean().item(), "top5": hits.any(1).float().mean().item()}


@contextmanager
def _classifying(network: nn.Module) -> Iterator[None]:
    """Put a network in training mode, in which it returns logits, but batch norms and dropout in evaluation mode."""
    modes = {module: module.training for module in network.modules()}
    network.train()
    for module in modes:
        if isinstance(module, _BatchNorm | _DropoutNd | StochasticDepth):
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
