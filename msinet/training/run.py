"""One complete run: a network trained on one data set, ranked on another or the same, with its files."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from msinet import distributed
from msinet.data.datasets import Dataset
from msinet.data.factors import query_factors
from msinet.data.loading import PixelSource, open_pixels
from msinet.environment import describe, pick_device
from msinet.errors import UserError
from msinet.io import exclusive, file_hash, stable_hash, write_csv, write_json
from msinet.models import build_model, load_weights, save_weights
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.evaluation import Evaluation, evaluate_model
from msinet.training.loop import Result, train
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical

Record = dict[str, str | int | float | bool | None]
RECORD = "record.json"


def derived_seed(dataset: str, model: str, seed: int) -> int:
    """A seed that depends on what is trained, never on the order in which things are trained."""
    return int.from_bytes(hashlib.sha256(f"{dataset} {model} {seed}".encode()).digest()[:4], "big")


def run(
    folder: Path,
    *,
    model: str,
    options: Mapping[str, Any],
    source: Dataset,
    target: Dataset,
    recipe: Recipe,
    seed: int,
    weights: Path | None = None,
    run_options: RunOptions | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Record:
    """Train a network on `source`, rank it on `target`, and write what came out into `folder`.

    Files: `record.json` (last, so that its presence means the run is whole), `model.safetensors`,
    `history.csv` per epoch, `queries.csv` per query and draw, `log.txt`; `checkpoint.pt` while training.

    Args:
        folder: of this run; an unfinished run in it is resumed.
        model: name in the registry.
        options: of the model.
        source: training set.
        target: the set whose test images are ranked.
        recipe: size, batches, schedule, losses, augmentation. Zero epochs rank the initial weights.
        seed: repetition; initial weights, batches and augmentation follow from it.
        weights: pre-trained weights to start from.
        run_options: device, workers and the like.
        on_step: called with the share of the training that is done.

    Returns:
        The flat record: metrics in [0, 1], timings in seconds, environment.

    Raises:
        UserError: any input that cannot be used, before training starts where it can be known then.
    """
    run_options = run_options or RunOptions()
    run_options.prepare()
    device = pick_device(run_options.device)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / "log.txt")
    mixed = derived_seed(source.name, model, seed)
    torch.manual_seed(mixed)
    network = build_model(model, source.num_classes, image=(recipe.image.height, recipe.image.width), **options)
    if recipe.losses.alignment == "pam-self" and getattr(network, "pam", None) is None:
        raise UserError(f"alignment pam-self needs a network with a position activation module: {model} with pam=True")
    if weights is not None:
        log(str(load_weights(network, weights)))
    trains = recipe.schedule.epochs > 0 and any(p.requires_grad for p in network.parameters())
    # Reading all images first names a broken one before hours are spent.

    def opened(dataset: Dataset, role: str) -> PixelSource:
        return open_pixels(
            dataset,
            role,
            recipe.image.height,
            recipe.image.width,
            cache=run_options.cache,
            progress=run_options.progress,
        )

    pixels = opened(source, "train") if trains else None
    test_pixels = opened(target, "test")
    network = network.to(device).to(memory_format=torch.channels_last)  # the faster layout on CPUs and GPUs

    def evaluation() -> Evaluation:
        return evaluate_model(network, target, test_pixels, device, progress=run_options.progress)

    identity = stable_hash(
        [model, dict(options), source.fingerprint, canonical(recipe), seed, file_hash(weights) if weights else None]
    )
    log(f"{model} {dict(options)} on {source.name} ({source.fingerprint}), seed {seed}, {describe(device)}")
    # A run that this one replaces stands until here, where the inputs are known to be good.
    if distributed.leads():
        (folder / RECORD).unlink(missing_ok=True)
    result = Result((), 0.0, 0)
    if pixels is not None:
        result = train(
            network,
            pixels,
            source.labels,
            recipe,
            folder,
            seed=mixed,
            identity=identity,
            device=device,
            resume=run_options.resume,
            workers=run_options.workers,
            evaluate=lambda _: evaluation().metrics,
            evaluate_every=run_options.evaluate_every,
            on_step=on_step,
            title=f"{model} {source.name} seed {seed}",
            progress=run_options.progress,
        )
    began = time.perf_counter()
    final = evaluation()
    seconds_evaluating = time.perf_counter() - began
    log(f"{target.name}: " + ", ".join(f"{name} {value:.4f}" for name, value in final.metrics.items()))

    record: Record = {
        **final.metrics,
        **{f"{name}_std_draws": value for name, value in final.std.items()},
        "draws": len(final.draws),
        "queries": len(final.draws[0].valid),
        "queries_without_match": int((~final.draws[0].valid).sum()),
        "source_fingerprint": source.fingerprint,
        "target_fingerprint": target.fingerprint,
        "source_layout": source.layout,
        "target_layout": target.layout,
        "weights": file_hash(weights) if weights else None,
        "identities": source.num_classes,
        "steps": result.steps,
        "seconds_training": result.seconds,
        "seconds_evaluating": seconds_evaluating,
        **_best_on_test(result),
        **describe(device),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if distributed.leads():
        save_weights(
            network,
            folder / "model.safetensors",
            {
                "model": model,
                "options": json.dumps(dict(options)),
                "num_classes": str(source.num_classes),
                "height": str(recipe.image.height),
                "width": str(recipe.image.width),
                "source": source.name,
            },
        )
        write_csv(folder / "history.csv", result.history)
        write_csv(folder / "queries.csv", _per_query(final, target))
        write_json(folder / RECORD, record)
        remove_checkpoints(folder)
    distributed.barrier()
    return record


@contextmanager
def exclusive_of_all(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, once for all processes of a training.

    Raises:
        Busy: another training holds it.
    """
    with exclusive(path, what) if distributed.leads() else nullcontext():
        distributed.barrier()
        yield


def _best_on_test(result: Result) -> Record:
    """The best epoch by test mAP: a labelled extra, never the result."""
    evaluated = [row for row in result.history if "mAP" in row]
    if not evaluated:
        return {}
    best = max(evaluated, key=lambda row: row["mAP"])
    return {"best_on_test_mAP": best["mAP"], "best_on_test_R1": best["R1"], "best_on_test_epoch": best["epoch"]}


def _per_query(evaluation: Evaluation, dataset: Dataset) -> Iterable[dict[str, Any]]:
    for number, (draw, ranked) in enumerate(zip(dataset.draws, evaluation.draws, strict=True)):
        factors = query_factors(dataset, draw)  # of rendered images
        for place, index in enumerate(draw.query):
            image = dataset.test[index]
            yield {
                "draw": number,
                "query": image.path.relative_to(dataset.root).as_posix(),
                "identity": image.identity,
                "camera": image.camera,
                "positives": int(ranked.positives[place]),
                "first_rank": int(ranked.first_rank[place]),
                "ap": float(ranked.ap[place]),
                "inp": float(ranked.inp[place]),
                **(factors[place] if factors else {}),
            }


class Log:
    """Appends time-stamped lines to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, message: str) -> None:
        """Append one line; of several processes one writes."""
        if not distributed.leads():
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {message}\n")
