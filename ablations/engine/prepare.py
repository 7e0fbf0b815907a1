"""Renders the world and pre-trains networks on its pretext set, if a study needs them."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ablations.engine.budget import Budget, steps_in
from ablations.engine.request import PRETEXT, Request
from ablations.engine.study import Study
from msinet.data.folders import load_class_folders
from msinet.data.layouts import folders_behind
from msinet.errors import Busy
from msinet.synthetic import SIZES, render
from msinet.training.options import RunOptions
from msinet.training.pretrain import Pretraining, pretrain
from msinet.training.recipes import resolve_pretraining


def prepare(study: Study, request: Request, run_options: RunOptions, budget: Budget | None = None) -> None:
    """Render the missing data sets of a request on the rendered world, and pre-train its missing networks.

    Each seed has its own pre-training. With a budget, one starts only if it should end in time.

    Raises:
        UserError: an unknown name or a full disk, for example.
    """
    request.check()
    if not request.rendered:
        return
    experiments = [cell.experiment for cell in study.cells(request, request.default_datasets())]
    networks = dict.fromkeys((one.model, one.seed) for one in experiments if one.init == "pretrained")
    pretexts = ("pretext",) if networks and request.pretrained is None else ()
    tqdm.write(f"images: the rendered world in {request.root}")
    names = dict.fromkeys(name for one in experiments for name in (one.source, one.target))
    sets = dict.fromkeys(one for name in names for one in folders_behind(name))
    render(request.root, SIZES[request.profile], names=(*sets, *pretexts), progress=run_options.progress)
    for model, seed in networks if pretexts else ():
        out = request.pretext_folder / f"{request.weights_name(model, seed)}.safetensors"
        if not out.exists():
            _pretrain(model, seed, out, request, run_options, budget)


def _pretrain(
    model: str, seed: int, out: Path, request: Request, run_options: RunOptions, budget: Budget | None
) -> None:
    data, recipe = load_class_folders(request.root / PRETEXT), resolve_pretraining(request.profile, model).recipe
    key, steps = (model, "pretrain", recipe.image.height, recipe.image.width), steps_in(recipe, len(data.train))
    if budget is not None and not budget.admits(key, steps):
        tqdm.write(f"{model}, seed {seed}: pre-training postponed for lack of time")
        return
    pretraining = Pretraining(model, {}, data, recipe, seed)
    try:
        # Validation during the training would take too long.
        record = pretrain(out, pretraining, replace(run_options, evaluate_every=0))
    except Busy as error:  # runs that need no pre-training can begin
        tqdm.write(f"{model}, seed {seed}: {error}")
        return
    if budget is not None:
        budget.note(key, record)
    tqdm.write(
        f"{model}, seed {seed}: pre-trained on the rendered pretext set, {100 * record['top1']:.1f} % of "
        f"{record['val_images']} images right (chance {100 * record['chance']:.1f} %) -> {out}"
    )
