"""The baseline without a supernet: Optuna's TPE sampler chooses genotypes, each trained for a short while."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from msinet import distributed
from msinet.data.loading import PixelSource
from msinet.errors import WeightsError
from msinet.io import stable_hash, write_json
from msinet.models import build_model
from msinet.models.genotype import OPERATIONS, SEARCHED
from msinet.retrieval import evaluate
from msinet.search.split import Side
from msinet.search.twins import Subset, side_batches
from msinet.training.evaluation import embed
from msinet.training.loop import Result, Row, train
from msinet.training.options import RunOptions
from msinet.training.recipe import Losses, Recipe
from msinet.training.run import Record

TRIALS = "trials.json"


@dataclass(frozen=True)
class Trials:
    """What a search by trial trainings found."""

    genotype: str
    """the best one"""
    result: Result
    """a row per trial: epoch (its number), steps, mAP"""
    record: Record


def trial_recipe(recipe: Recipe, steps: int) -> Recipe:
    """How one of the trials trains: all together pass as many batches as the supernet would, two per iteration.

    Args:
        recipe: of the search.
        steps: iterations of one of the search's epochs.
    """
    assert recipe.search is not None
    per_epoch = max(1, round(2 * steps / recipe.search_settings.trials))
    return replace(recipe, search=None, losses=Losses(), sampler=replace(recipe.sampler, steps_per_epoch=per_epoch))


def search_trials(
    model: str,
    pixels: PixelSource,
    training: Side,
    validation: Side,
    recipe: Recipe,
    folder: Path,
    *,
    identities: np.ndarray,
    cameras: np.ndarray | None,
    options: dict[str, Any],
    seed: int,
    identity: str,
    device: torch.device,
    run_options: RunOptions,
    on_step: Callable[[float], None] | None = None,
    title: str = "search",
) -> Trials:
    """Train genotypes on the training side, rank the validation side with each, and keep the best.

    Finished trials are in `trials.json`, from which an interrupted search goes on to the same end.

    Args:
        model: whose genotype is tried: msinet, or a width of it.
        pixels: training images of the data set.
        training: the side that trains.
        validation: the side that is ranked: every image against all others, those of its identity and camera left out.
        recipe: number of trials and how long they train together.
        folder: for trials and checkpoint.
        identities: (len(pixels),) of the images.
        cameras: (len(pixels),), or None where the set has none; then only the image itself is left out.
        options: of the network: ratio, fusion.
        seed: of sampler, initial weights, batches and augmentation.
        identity: names this search.
        device: where to train.
        how: workers, resume, progress.
        on_step: called with the share of the search that is done.
        title: of the progress bars.

    Raises:
        DataError: the training side is too small for a batch.
        WeightsError: trials of another search in `folder`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    steps = len(side_batches(recipe, training, "training", seed, 0, recipe.sampler.steps_per_epoch))
    plan = trial_recipe(recipe, steps)
    finished: list[dict[str, Any]] = _finished(folder / TRIALS, identity) if run_options.resume else []
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=max(2, recipe.search_settings.trials // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    best: dict[str, Any] = {}
    for number in range(recipe.search_settings.trials):
        # Asked again in the same order, the sampler proposes what it proposed before an interruption.
        trial = study.ask()
        genotype = "".join(
            trial.suggest_categorical(f"interaction{i}", tuple(OPERATIONS)) for i in range(len(SEARCHED))
        )
        if number < len(finished):
            row = finished[number]
        else:
            torch.manual_seed(seed + number)
            network = build_model(model, training.classes, genotype=genotype, **options)
            network = network.to(device).to(memory_format=torch.channels_last)

            def on_part(share: float, number: int = number) -> None:
                if on_step is not None:
                    on_step((number + share) / recipe.search_settings.trials)

            part = folder / f"trial{number}"
            result = train(
                network,
                Subset(pixels, training.positions),
                training.labels,
                plan,
                part,
                seed=seed + number,
                identity=stable_hash([identity, number, genotype]),
                device=device,
                resume=run_options.resume,
                workers=run_options.workers,
                on_step=on_part,
                title=f"{title} {number + 1}/{recipe.search_settings.trials} {genotype}",
                progress=run_options.progress,
            )
            features = embed(network, Subset(pixels, validation.positions), device).numpy()
            ids = identities[validation.positions]
            views = np.arange(len(ids)) if cameras is None else cameras[validation.positions]
            ranked = evaluate(
                features, features, query_ids=ids, gallery_ids=ids, query_cameras=views, gallery_cameras=views
            )
            row = {"genotype": genotype, "mAP": ranked.mAP, "steps": result.steps, "seconds": result.seconds}
            finished.append(row)
            if distributed.leads():
                write_json(folder / TRIALS, {"identity": identity, "trials": finished})
        if distributed.leads():
            shutil.rmtree(folder / f"trial{number}", ignore_errors=True)  # also what an earlier end left of it
        study.tell(trial, row["mAP"])
        best = max(best, row, key=lambda one: float(one.get("mAP", -1.0)))
    history: tuple[Row, ...] = tuple(
        {"epoch": number, "steps": row["steps"], "mAP": row["mAP"]} for number, row in enumerate(finished, 1)
    )
    seconds, total = sum(row["seconds"] for row in finished), sum(row["steps"] for row in finished)
    return Trials(best["genotype"], Result(history, seconds, total), {"validation_mAP": best["mAP"]})


def _finished(path: Path, identity: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, trials = content["identity"], list(content["trials"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); delete it to start again") from error
    if found != identity:
        raise WeightsError(f"{path} belongs to another search; give another output folder, or --no-resume")
    return trials
