"""Baseline tpe, without a supernet: Optuna's TPE sampler chooses genotypes, and each is trained briefly."""

import gc
import json
import shutil
from dataclasses import replace
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
from msinet.search.definition import SearchRun
from msinet.search.split import side_batches
from msinet.search.twins import Subset
from msinet.training.batches import Batches
from msinet.training.evaluation import embed
from msinet.training.fit import OnStep, Result, Row, fit
from msinet.training.recipe import Losses, Recipe
from msinet.training.run_folder import RunFolder
from msinet.training.supervised import Supervised

TRIALS = "trials.json"


def trial_recipe(recipe: Recipe, steps: int) -> Recipe:
    """Recipe of one trial. All trials together use as many batches as a supernet search (two per iteration).

    Args:
        recipe: of the search.
        steps: iterations of one of the search's epochs.
    """
    per_epoch = max(1, round(2 * steps / recipe.search_settings.trials))
    return replace(recipe, search=None, losses=Losses(), sampler=replace(recipe.sampler, steps_per_epoch=per_epoch))


def search_trials(
    here: RunFolder, search_run: SearchRun, pixels: PixelSource, on_step: OnStep | None
) -> tuple[str, Result, dict[str, float]]:
    """Train genotypes on the training side, rank the validation side with each, and keep the best.

    Finished trials are stored in `trials.json`; an interrupted search continues from there with the same result.

    Args:
        here: folder of the search.
        search_run: network, data, recipe, seed.
        pixels: training images of the data set.
        on_step: called with the finished share of the search.

    Returns:
        The best genotype, a history with one row per trial (epoch = number of the trial, steps, mAP), and values for
        the record.

    Raises:
        DataError: the training side is too small for a batch.
        WeightsError: trials of another search in the folder.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = search_run.recipe.search_settings.trials
    seed, path = search_run.derived_seed, here.path / TRIALS
    finished = _finished(path, search_run.identity) if here.options.resume else []
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=max(2, trials // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(trials):
        # With the same order of calls, the sampler repeats its proposals from before an interruption.
        trial = study.ask()
        letters = (trial.suggest_categorical(f"interaction{i}", tuple(OPERATIONS)) for i in range(len(SEARCHED)))
        genotype = "".join(letters)
        if number == len(finished):
            part = None if on_step is None else _Part(on_step, number, trials)
            finished.append(_try(here, search_run, pixels, (number, genotype), part))
            gc.collect()  # a training and its step refer to each other, and a CUDA graph keeps its memory
            if distributed.leads():
                write_json(path, {"identity": search_run.identity, "trials": finished})
        if distributed.leads():
            shutil.rmtree(here.path / f"trial{number}", ignore_errors=True)  # also if an earlier process left it
        study.tell(trial, finished[number]["mAP"])
    best = max(finished[:trials], key=lambda row: float(row["mAP"]))
    history: tuple[Row, ...] = tuple(
        {"epoch": number, "steps": row["steps"], "mAP": row["mAP"]} for number, row in enumerate(finished, 1)
    )
    seconds, total = sum(row["seconds"] for row in finished), sum(row["steps"] for row in finished)
    return best["genotype"], Result(history, seconds, total), {"validation_mAP": best["mAP"]}


class _Part:
    """Converts the progress of one trial to that of the whole search."""

    def __init__(self, on_step: OnStep, number: int, trials: int) -> None:
        self.on_step, self.number, self.trials = on_step, number, trials

    def __call__(self, share: float) -> None:
        self.on_step((self.number + share) / self.trials)


def _try(
    here: RunFolder, search_run: SearchRun, pixels: PixelSource, trial: tuple[int, str], on_step: OnStep | None
) -> dict[str, Any]:
    """Train one genotype on the training side and rank the validation side."""
    (number, genotype), recipe, side = trial, search_run.recipe, search_run.sides[0]
    steps = len(
        side_batches(
            recipe, side.labels, "training", seed=search_run.derived_seed, epoch=0, steps=recipe.sampler.steps_per_epoch
        )
    )
    seed = search_run.derived_seed + number
    torch.manual_seed(seed)
    network = build_model(search_run.discrete, side.classes, genotype=genotype, **search_run.options)
    network = network.to(here.device).to(memory_format=torch.channels_last)
    own = Subset(pixels, side.positions)
    batches = Batches(own, side.labels, trial_recipe(recipe, steps), seed, here.device, here.options.workers)
    result = fit(
        Supervised(network, batches, graphs=here.graphs),
        here.path / f"trial{number}",
        stable_hash([search_run.identity, number, genotype]),
        here.options,
        on_step,
        f"{search_run.title} {number + 1}/{recipe.search_settings.trials} {genotype}",
    )
    positions = search_run.sides[1].positions
    features = embed(network, Subset(pixels, positions), here.device).numpy()
    mean = _rank(features, search_run, positions)
    return {"genotype": genotype, "mAP": mean, "steps": result.steps, "seconds": result.seconds}


def _rank(features: np.ndarray, search_run: SearchRun, positions: np.ndarray) -> float:
    """mAP with every image as query and all as gallery, except images of the query's identity and camera."""
    source = search_run.source
    identities = source.labels[positions]
    if source.remove_same_camera:
        cameras = np.array([source.train[i].camera for i in positions])
    else:  # there are no cameras, and only the image itself is left out
        cameras = np.arange(len(identities))
    return evaluate(
        features, features, query_ids=identities, gallery_ids=identities, query_cameras=cameras, gallery_cameras=cameras
    ).mAP


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
