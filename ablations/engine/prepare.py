"""What the default needs before anything can run: the rendered world, and weights from its pretext set."""

from dataclasses import replace

from tqdm import tqdm

from ablations.catalogue import MAIN_DATASETS, PRETEXT, Catalogue, Request
from msinet.data.datasets import HELD_OUT
from msinet.data.folders import load_class_folders
from msinet.synthetic import SIZES, render
from msinet.training.options import RunOptions
from msinet.training.pretrain import pretrain
from msinet.training.recipes import resolve_pretraining


def prepare(catalogue: Catalogue, request: Request, run_options: RunOptions) -> None:
    """Render what a request on the rendered world needs and pre-train its networks, unless they are there.

    Raises:
        UserError: an unknown name, a full disk and the like.
    """
    request.check()
    if not request.rendered:
        return
    names = request.datasets or tuple(MAIN_DATASETS)
    cells = catalogue.cells(request, names)
    models = dict.fromkeys(c.experiment.model for c in cells if c.experiment.init == "pretrained")
    pretexts = ("pretext",) if models and request.pretrained is None else ()
    tqdm.write(f"images: the rendered world in {request.root}")
    used = [name for cell in cells for name in (cell.experiment.source, cell.experiment.target)]
    # VehicleID's short lists are part of its set, held-out identities part of theirs.
    sets = dict.fromkeys(name.removesuffix(HELD_OUT).split("_")[0] for name in used)
    render(request.root, SIZES[request.profile], names=(*sets, *pretexts), progress=run_options.progress)
    if not pretexts:
        return
    data = load_class_folders(request.root / PRETEXT)
    for model in models:
        out = request.pretext_folder / f"{model}.safetensors"
        if not out.exists():
            # Validation along the way would cost more than it tells here.
            record = pretrain(
                out,
                model=model,
                options={},
                data=data,
                recipe=resolve_pretraining(request.profile).recipe,
                seed=0,
                run_options=replace(run_options, evaluate_every=0),
            )
            tqdm.write(
                f"{model}: pre-trained on the rendered pretext set, {100 * float(record['top1'] or 0):.1f} % of "
                f"{record['val_images']} images right (chance {100 * float(record['chance'] or 0):.1f} %) -> {out}"
            )
