"""One complete search with its files: from a training set to a genotype."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msinet import distributed
from msinet.data.datasets import Dataset
from msinet.data.loading import PixelSource, open_pixels
from msinet.environment import describe, pick_device
from msinet.errors import UserError
from msinet.io import stable_hash, write_csv, write_json
from msinet.models import build_model, split_name
from msinet.models.genotype import GENOTYPE, OPERATIONS, SEARCHED
from msinet.models.heads import ReIDNet
from msinet.models.supernet import alphas_of, genotype_of
from msinet.search.memory import Memory
from msinet.search.split import Side, split_identities
from msinet.search.tpe import search_trials
from msinet.search.twins import Twins, search_alphas, side_batches
from msinet.training.checkpoint import remove_checkpoints
from msinet.training.loop import Result, Row
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical, settings
from msinet.training.run import RECORD, Log, Record, derived_seed


def search(
    folder: Path,
    *,
    source: Dataset,
    recipe: Recipe,
    seed: int,
    model: str = "supernet",
    options: Mapping[str, Any] | None = None,
    run_options: RunOptions | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Record:
    """Search an architecture on a training set; its test images are not looked at.

    Files in `folder`: `record.json` (last), `genotype.json` with its provenance, `history.csv` per epoch, `alphas.csv`
    with the architecture parameters, the weights they give and their entropy per epoch and interaction, `log.txt`;
    `checkpoint.pt` meanwhile.

    Args:
        folder: of this search; an unfinished one in it is resumed.
        source: training set.
        recipe: mechanism, split, batches, schedules.
        seed: repetition; initial weights, split, batches and augmentation follow from it.
        model: supernet, or a width of it: supernet_x0_25.
        options: of the supernet: ratio, fusion.
        run_options: device, workers and the like.
        on_step: called with the share of the search that is done.

    Returns:
        The flat record: genotype, how many of its interactions are the paper's (if it has as many), mean entropy of
        the mixtures in [0, 1] (1: all operations weigh the same), share of interactions without operation, whether the
        search collapsed to those alone, sizes of the sides, timings in seconds, environment.

    Raises:
        UserError: any input that cannot be used, before the search starts where it can be known then.
    """
    run_options, options = run_options or RunOptions(), dict(options or {})
    if split_name(model)[0] != "supernet":
        raise UserError(f"only a supernet can be searched, such as supernet or supernet_x0_25, not {model}")
    for name, place in (("mid", "a setting of the recipe"), ("genotype", "what the search finds")):
        if name in options:
            raise UserError(f"{name} is {place}, no option of the network that is searched")
    check_sides(source, recipe, seed)
    run_options.prepare()
    device = pick_device(run_options.device)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / "log.txt")
    mixed = _mixed(source, seed)
    torch.manual_seed(mixed)
    if recipe.search_settings.mechanism == "tpe":
        discrete = model.replace("supernet", "msinet")
        build_model(discrete, source.num_classes, **options)  # refuses options that do not exist
    else:
        network = build_model(model, source.num_classes, mid=recipe.search_settings.mid, **options)
    training, validation = _sides(source, recipe, mixed)
    for name, side in (("training", training), ("validation", validation)):
        log(f"{name} side: {side.classes} identities, {len(side.positions)} images")
    pixels = open_pixels(
        source, "train", recipe.image.height, recipe.image.width, cache=run_options.cache, progress=run_options.progress
    )
    log(
        f"search {recipe.search_settings.mechanism} on {source.name} ({source.fingerprint}), seed {seed}, {describe(device)}"
    )
    identity = stable_hash(["search", model, options, source.fingerprint, canonical(recipe), seed])
    if distributed.leads():
        (folder / RECORD).unlink(missing_ok=True)
    arguments = (pixels, training, validation, recipe, folder)
    title = f"search {recipe.search_settings.mechanism} {source.name} seed {seed}"
    if recipe.search_settings.mechanism == "tpe":
        cameras = np.array([image.camera for image in source.train])
        trials = search_trials(
            discrete,
            *arguments,
            identities=source.labels,
            cameras=cameras if source.remove_same_camera else None,
            options=options,
            seed=mixed,
            identity=identity,
            device=device,
            run_options=run_options,
            on_step=on_step,
            title=title,
        )
        genotype, result, found = trials.genotype, trials.result, trials.record
    else:
        result, alphas = _search_supernet(
            network,
            *arguments,
            seed=mixed,
            identity=identity,
            device=device,
            run_options=run_options,
            on_step=on_step,
            title=title,
        )
        genotype, found = genotype_of(alphas), {"entropy": float(entropy(alphas).mean())}
    skipped = genotype.count("N") / len(genotype)
    record: Record = {
        "genotype": genotype,
        "agreement": sum(a == b for a, b in zip(genotype, SEARCHED, strict=True)) if len(genotype) == 12 else None,
        **found,
        "skip_ratio": skipped,
        "collapsed": skipped == 1,
        "training_identities": training.classes,
        "training_images": len(training.positions),
        "validation_identities": validation.classes,
        "validation_images": len(validation.positions),
        "source_fingerprint": source.fingerprint,
        "target_fingerprint": source.fingerprint,
        "source_layout": source.layout,
        "target_layout": source.layout,
        "weights": None,
        "steps": result.steps,
        "seconds_training": result.seconds,
        **describe(device),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    log(search_line(record))
    if distributed.leads():
        history, trajectory = _apart(result.history)
        write_csv(folder / "history.csv", history)
        if trajectory:
            write_csv(folder / "alphas.csv", trajectory)
        provenance = {
            "model": model,
            "source": source.name,
            "seed": seed,
            "recipe": settings(recipe),
            "options": options,
        }
        write_json(folder / GENOTYPE, {"genotype": genotype, **provenance, **record})
        write_json(folder / RECORD, record)
        remove_checkpoints(folder)
    distributed.barrier()
    return record


def _sides(source: Dataset, recipe: Recipe, mixed: int) -> tuple[Side, Side]:
    return split_identities(
        source.labels,
        recipe.search_settings.overlap,
        side_ratio=recipe.search_settings.side_ratio,
        seed=mixed,
        fifths=recipe.search_settings.split == "fifths",
        list_order=recipe.search_settings.halves == "list",
    )


def check_sides(source: Dataset, recipe: Recipe, seed: int) -> None:
    """Raise a `DataError` if a side is empty, or too small for the batches that are drawn from it."""
    training, validation = _sides(source, recipe, _mixed(source, seed))
    side_batches(recipe, training, "training", seed, 0, 1)
    if recipe.search_settings.mechanism != "tpe":  # which only ranks the validation side
        side_batches(recipe, validation, "validation", seed, 0, 1)


def _mixed(source: Dataset, seed: int) -> int:
    return derived_seed(source.name, "supernet", seed)


def _search_supernet(
    network: nn.Module,
    pixels: PixelSource,
    training: Side,
    validation: Side,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    identity: str,
    device: torch.device,
    run_options: RunOptions,
    on_step: Callable[[float], None] | None,
    title: str,
) -> tuple[Result, Tensor]:
    assert isinstance(network, ReIDNet)
    training_memory, validation_memory = (
        Memory(side.classes, network.channels, recipe.search_settings.temperature, recipe.search_settings.momentum)
        for side in (training, validation)
    )
    twins = Twins(network, training_memory, validation_memory).to(device).to(memory_format=torch.channels_last)
    result = search_alphas(
        twins,
        pixels,
        training,
        validation,
        recipe,
        folder,
        seed=seed,
        identity=identity,
        device=device,
        resume=run_options.resume,
        workers=run_options.workers,
        on_step=on_step,
        title=title,
        progress=run_options.progress,
    )
    return result, alphas_of(network)


def _apart(history: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The history without its architecture parameters, and those by epoch and interaction."""
    plain = [{name: value for name, value in row.items() if not name.startswith("alpha_of_")} for row in history]
    trajectory = []
    for row in history:
        found = {name: value for name, value in row.items() if name.startswith("alpha_of_")}
        alphas = torch.tensor(list(found.values())).view(-1, len(OPERATIONS))
        for number, (alpha, weight, spread) in enumerate(
            zip(alphas.tolist(), alphas.softmax(1).tolist(), entropy(alphas).tolist(), strict=True), 1
        ):
            trajectory.append(
                {
                    "epoch": row["epoch"],
                    "interaction": number,
                    **{f"alpha_{name}": value for name, value in zip(OPERATIONS, alpha, strict=True)},
                    **{f"weight_{name}": value for name, value in zip(OPERATIONS, weight, strict=True)},
                    "entropy": spread,
                }
            )
    return plain, trajectory


def search_line(record: Record) -> str:
    """What a search found, on one line."""
    words = [f"genotype {record['genotype']}"]
    if record["agreement"] is not None:
        words.append(f"{record['agreement']} of {len(SEARCHED)} interactions as in the paper")
    if "entropy" in record:
        words.append(f"mean entropy of the mixtures {record['entropy']:.2f} of 1")
    if record["collapsed"]:
        words.append("collapsed: every interaction is N (none)")
    return ", ".join(words)


def entropy(alphas: Tensor) -> Tensor:
    """Of each mixture, in [0, 1]: (interactions, 4) to (interactions,); 1 where all operations weigh the same."""
    logs = alphas.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1) / torch.log(torch.tensor(float(len(OPERATIONS)), dtype=torch.float64))
