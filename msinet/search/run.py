"""A complete search: from a training set to a genotype, with all files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msinet import distributed
from msinet.data.loading import PixelSource, open_pixels
from msinet.environment import describe
from msinet.io import write_csv, write_json
from msinet.models.genotype import GENOTYPE, OPERATIONS, SEARCHED
from msinet.models.heads import ReIDNet
from msinet.models.supernet import alphas_of, genotype_of
from msinet.precision import use_precision
from msinet.search.definition import SearchRun
from msinet.search.memory import Memory
from msinet.search.tpe import search_trials
from msinet.search.twins import SEARCHES, Twins
from msinet.training.fit import OnStep, Result, Row
from msinet.training.options import RunOptions
from msinet.training.run_folder import Record, RunFolder, run_folder


def search(
    folder: Path, search_run: SearchRun, run_options: RunOptions | None = None, on_step: OnStep | None = None
) -> Record:
    """Search an architecture on a training set; its test images are not used.

    Files in `folder`: `record.json` (written last), `genotype.json` with its provenance, `history.csv` per epoch,
    `alphas.csv` with architecture parameters, their softmax and its entropy per epoch and interaction, `log.txt`, and
    `checkpoint.pt` during the search.

    Args:
        folder: of this search; an unfinished one in it is resumed.
        search_run: network, data, recipe, seed.
        run_options: device, workers and the like.
        on_step: called with the finished share of the search.

    Returns:
        The flat record: genotype, number of its interactions that equal the paper's (if the lengths agree), mean
        entropy of the mixtures in [0, 1] (1: equal weights), share of N interactions, whether all are N (collapse),
        sizes of the sides, timings in seconds, recipe, environment.

    Raises:
        UserError: unusable input; detected before the search starts where possible.
    """
    search_run.check_sides()
    with run_folder(folder, run_options or RunOptions(), "search") as here:
        return _search(here, search_run, on_step)


def _search(here: RunFolder, search_run: SearchRun, on_step: OnStep | None) -> Record:
    source, recipe, size, options = search_run.source, search_run.recipe, search_run.recipe.image, here.options
    use_precision(recipe.precision)
    torch.manual_seed(search_run.derived_seed)
    network = search_run.build()
    for name, side in zip(("training", "validation"), search_run.sides, strict=True):
        here.log(f"{name} side: {side.classes} identities, {len(side.positions)} images")
    pixels = open_pixels(source, "train", size.height, size.width, cache=options.cache, progress=options.progress)
    here.log(f"{search_run.title} ({source.fingerprint}), {describe(here.device)}")
    if recipe.search_settings.mechanism == "tpe":
        here.set_aside()
        genotype, result, found = search_trials(here, search_run, pixels, on_step)
    else:
        result = _search_supernet(here, search_run, network, pixels, on_step)
        alphas = alphas_of(network)
        genotype, found = genotype_of(alphas), {"entropy": float(entropy(alphas).mean())}
    record = here.record(
        _summary(search_run, genotype) | found | {"steps": result.steps, "seconds_training": result.seconds}, recipe
    )
    here.log(search_line(record))
    if distributed.leads():
        history, trajectory = _apart(result.history)
        write_csv(here.path / "history.csv", history)
        if trajectory:
            write_csv(here.path / "alphas.csv", trajectory)
        provenance = {"model": search_run.model, "source": source.name, "seed": search_run.seed}
        write_json(here.path / GENOTYPE, {**provenance, "options": dict(search_run.options), **record})
        write_json(here.result, record)
        here.remove_set_aside()
    return record


def _search_supernet(
    here: RunFolder, search_run: SearchRun, network: nn.Module, pixels: PixelSource, on_step: OnStep | None
) -> Result:
    assert isinstance(network, ReIDNet)
    search = search_run.recipe.search_settings
    memories = (
        Memory(side.classes, network.channels, search.temperature, search.momentum) for side in search_run.sides
    )
    twins = Twins(network, *memories).to(here.device).to(memory_format=torch.channels_last)
    task = SEARCHES[search.mechanism](
        twins,
        pixels,
        search_run.sides,
        search_run.recipe,
        search_run.derived_seed,
        here.options.workers,
        graphs=here.graphs,
    )
    here.set_aside()
    return here.fit(task, search_run.identity, on_step, search_run.title)


def _summary(search_run: SearchRun, genotype: str) -> dict[str, Any]:
    """The genotype, and the images it was found on."""
    source, (training, validation) = search_run.source, search_run.sides
    skipped = genotype.count("N") / len(genotype)
    return {
        "genotype": genotype,
        "agreement": sum(a == b for a, b in zip(genotype, SEARCHED, strict=True)) if len(genotype) == 12 else None,
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
    }


def _apart(history: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Split the history: without architecture parameters, and these parameters by epoch and interaction."""
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
    """The outcome of a search on one line."""
    words = [f"genotype {record['genotype']}"]
    if record["agreement"] is not None:
        words.append(f"{record['agreement']} of {len(SEARCHED)} interactions as in the paper")
    if "entropy" in record:
        words.append(f"mean entropy of the mixtures {record['entropy']:.2f} of 1")
    if record["collapsed"]:
        words.append("collapsed: every interaction is N (none)")
    return ", ".join(words)


def entropy(alphas: Tensor) -> Tensor:
    """Entropy of each mixture in [0, 1]: (interactions, 4) to (interactions,); 1 if all operations weigh the same."""
    logs = alphas.double().log_softmax(1)
    return -(logs.exp() * logs).sum(1) / torch.log(torch.tensor(float(len(OPERATIONS)), dtype=torch.float64))
