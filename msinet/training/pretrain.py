"""Pre-training: a network learns to classify images, and its weights start a re-identification (SPEC A.7)."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from msinet import distributed
from msinet.data.folders import ClassFolders, FolderImages
from msinet.data.loading import PixelSource, test_batches
from msinet.environment import describe, pick_device
from msinet.errors import UserError
from msinet.io import stable_hash, write_csv, write_json
from msinet.models import Output, build_model, save_weights
from msinet.progress import bar
from msinet.training.loop import Row, train
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical, settings
from msinet.training.run import Log, Record, derived_seed, exclusive_of_all

#: Up to so many images, every one is read before training, so that a broken one is named at once.
VERIFY_LIMIT = 50_000


def pretrain(
    out: Path,
    *,
    model: str,
    options: Mapping[str, Any],
    data: ClassFolders,
    recipe: Recipe,
    seed: int,
    run_options: RunOptions | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Record:
    """Train a network to classify and write its weights as `out`, which `load_weights` and --pretrained take.

    Files: X.safetensors (last, so that its presence means the training is whole), and beside it X.json (the
    record) and X.history.csv; while training, X.partial/ with checkpoint and log. An unfinished training is
    resumed.

    Args:
        out: X.safetensors.
        model: name in the registry.
        options: of the model.
        data: what to classify.
        recipe: size, batches, schedule, augmentation.
        seed: repetition; initial weights, batches and augmentation follow from it.
        run_options: device, workers and the like. Images are decoded each time, so `cache` has no effect.
        on_step: called with the share of the training that is done.

    Returns:
        The flat record: top1 and top5 on the validation images of `data` and chance in [0, 1], timings in
        seconds, environment.

    Raises:
        UserError: `out` exists, or any input that cannot be used, before training starts where it can be known
            then.
    """
    run_options = run_options or RunOptions()
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must be named X.safetensors, by which weights are recognised")
    with exclusive_of_all(out.with_name(f".{out.stem}.lock"), f"a pre-training of {out}"):
        if distributed.leads() and out.exists() and run_options.resume:
            raise UserError(f"{out} is there already; choose another --out, or --no-resume to train it anew")
        return _pretrain(out, model, dict(options), data, recipe, seed, run_options, on_step)


def _pretrain(
    out: Path,
    model: str,
    options: dict[str, Any],
    data: ClassFolders,
    recipe: Recipe,
    seed: int,
    run_options: RunOptions,
    on_step: Callable[[float], None] | None,
) -> Record:
    device = pick_device(run_options.device)
    run_options.prepare()
    mixed = derived_seed(data.fingerprint, model, seed)  # not by name: the folder may be called anything
    torch.manual_seed(mixed)
    network = build_model(model, len(data.classes), image=(recipe.image.height, recipe.image.width), **options)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"{model} learns nothing, so there is nothing to pre-train; evaluate it as it is")
    recipe.sampler.batches(data.train_labels, seed=mixed, epoch=0)  # refuses too small a set before anything is read
    network = network.to(device).to(memory_format=torch.channels_last)  # the faster layout on CPUs and GPUs
    count = len(data.train) + len(data.val)
    if count < VERIFY_LIMIT:
        with distributed.leader_first():
            data.verify(progress=run_options.progress)
    else:
        tqdm.write(
            f"{data.name}: {count:,} images are not all read beforehand, which would take long; a broken one stops "
            "the training when it is met"
        )
    val_pixels = FolderImages(data.root, data.val, (recipe.image.height, recipe.image.width))

    def evaluate(network: nn.Module) -> Row:
        return classify(network, val_pixels, torch.from_numpy(data.val_labels), device, progress=run_options.progress)

    partial = out.with_name(f"{out.stem}.partial")
    partial.mkdir(exist_ok=True)
    log = Log(partial / "log.txt")
    log(f"{model} {options} on {data.name} ({data.fingerprint}), seed {seed}, {describe(device)}")
    # Weights that these replace stand until here, where the inputs are known to be good.
    if distributed.leads():
        out.unlink(missing_ok=True)
    result = train(
        network,
        FolderImages(data.root, data.train),
        data.train_labels,
        recipe,
        partial,
        seed=mixed,
        identity=stable_hash(["pretrain", model, options, data.fingerprint, canonical(recipe), seed]),
        device=device,
        resume=run_options.resume,
        workers=run_options.workers,
        evaluate=evaluate,
        evaluate_every=run_options.evaluate_every,
        on_step=on_step,
        title=f"{model} {data.name} seed {seed}",
        progress=run_options.progress,
    )
    began = time.perf_counter()
    final = evaluate(network)
    seconds_evaluating = time.perf_counter() - began
    log(", ".join(f"{name} {value:.4f}" for name, value in final.items()))

    environment = describe(device)
    provenance: Record = {
        "model": model,
        "options": json.dumps(options),
        "num_classes": len(data.classes),
        "height": recipe.image.height,
        "width": recipe.image.width,
        "pretrained_on": f"{data.name} {data.fingerprint}",
        "recipe": json.dumps(settings(recipe)),
        "seed": seed,
        "top1": final["top1"],
        "steps": result.steps,
        "code": environment["code"],
    }
    record: Record = {
        **provenance,
        **final,
        "chance": 1 / len(data.classes),
        "train_images": len(data.train),
        "val_images": len(data.val),
        "seconds_training": result.seconds,
        "seconds_evaluating": seconds_evaluating,
        **environment,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if distributed.leads():
        write_csv(out.with_suffix(".history.csv"), result.history)
        write_json(out.with_suffix(".json"), record)
        save_weights(network, out, {name: str(value) for name, value in provenance.items()})
        shutil.rmtree(partial)
    distributed.barrier()
    return record


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
    """How often the right class is first (top1) and among the first five (top5), as shares in [0, 1].

    Args:
        network: its classifiers answer; their probabilities are averaged.
        pixels: images of one size.
        labels: (N,) int64, their classes.
        device: where the network is.
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
    """Networks give logits in training mode alone; only batch norms and dropout must not train meanwhile."""
    modes = {module: module.training for module in network.modules()}
    network.train()
    for module in modes:
        if isinstance(module, _BatchNorm | _DropoutNd):
            module.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
