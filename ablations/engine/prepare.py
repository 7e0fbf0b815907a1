"""Renders the world and pre-trains networks on its pretext set, as far as a study needs them."""

from dataclasses import replace

from tqdm import tqdm

from ablations.engine.request import PRETEXT, Request
from ablations.engine.study import Study
from msinet.data.folders import load_class_folders
from msinet.data.layouts import card_of
from msinet.synthetic import SIZES, render
from msinet.training.options import RunOptions
from msinet.training.pretrain import Pretraining, pretrain
from msinet.training.recipes import resolve_pretraining


def prepare(study: Study, request: Request, run_options: RunOptions) -> None:
    """Render the sets that a request on the rendered world needs and pre-train its networks, unless they exist.

    Raises:
        UserError: an unknown name, a full disk and the like.
    """
    request.check()
    if not request.rendered:
        return
    experiments = [cell.experiment for cell in study.cells(request, request.default_datasets())]
    models = dict.fromkeys(one.model for one in experiments if one.init == "pretrained")
    pretexts = ("pretext",) if models and request.pretrained is None else ()
    tqdm.write(f"images: the rendered world in {request.root}")
    cards = [card_of(name) for one in experiments for name in (one.source, one.target)]
    sets = dict.fromkeys(card.part_of or card.name for card in cards)
    render(request.root, SIZES[request.profile], names=(*sets, *pretexts), progress=run_options.progress)
    for model in models if pretexts else ():
        if not (request.pretext_folder / f"{model}.safetensors").exists():
            _pretrain(model, request, run_options)


def _pretrain(model: str, request: Request, run_options: RunOptions) -> None:
    out = request.pretext_folder / f"{model}.safetensors"
    data = load_class_folders(request.root / PRETEXT)
    pretraining = Pretraining(model, {}, data, resolve_pretraining(request.profile).recipe)
    # Validation during the training would take too long.
    record = pretrain(out, pretraining, replace(run_options, evaluate_every=0))
    tqdm.write(
        f"{model}: pre-trained on the rendered pretext set, {100 * float(record['top1'] or 0):.1f} % of "
        f"{record['val_images']} images right (chance {100 * float(record['chance'] or 0):.1f} %) -> {out}"
    )
