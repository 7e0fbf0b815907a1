"""What test_distributed.py has done in processes of their own: `runpy` runs this file in each with the names below.

A case does the same with one process and with several, and returns what must then be equal.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from support import CPU, Exact, ExactMemory, changed
from torch import nn

from msinet import distributed
from msinet.data import load_dataset
from msinet.data.loading import _TrainImages
from msinet.losses import alignment_loss, triplet_loss
from msinet.models import build_model
from msinet.models.supernet import alphas_of
from msinet.search.split import split_identities
from msinet.search.twins import SEARCHES, Twins
from msinet.training import embed
from msinet.training.batches import Batches
from msinet.training.fit import fit
from msinet.training.options import RunOptions
from msinet.training.recipes import resolve, resolve_search
from msinet.training.run import Training, run
from msinet.training.supervised import Supervised

CASE: str = globals()["CASE"]
RANK: int = globals()["RANK"]
WORLD: int = globals()["WORLD"]
FOLDER: Path = globals()["FOLDER"]
ARGUMENTS: dict[str, Any] = globals()["ARGUMENTS"]

SMOKE = resolve("smoke", "market1501").recipe
QUIET = RunOptions(progress=False)
LABELS = np.repeat(np.arange(8), 6)
PIXELS = np.random.default_rng(0).integers(0, 256, (len(LABELS), 64, 32, 3), np.uint8)


def shared_losses() -> dict[str, Any]:
    """Gradients of losses of the whole batch with respect to all rows."""
    torch.manual_seed(0)
    embeddings, maps = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 6, 4, 2, dtype=torch.float64)
    labels = torch.arange(8) // 2
    own = [one[distributed.share(8)].clone().requires_grad_() for one in (embeddings, maps)]
    rows, whole = (distributed.gather(one) for one in own)
    targets = distributed.gather(labels[distributed.share(8)])
    loss = triplet_loss(rows, targets) + alignment_loss(whole, targets, "separated")
    loss.backward()
    gradients = {str(i): distributed.gather(one.grad) for i, one in enumerate(own)}
    return {"loss": loss.detach(), "labels": targets, **gradients}


def batch_norms(dtype: str, offset: float) -> dict[str, Any]:
    """Outputs, gradients and statistics of batch norms on maps and on rows, twice in training and once at test."""
    torch.manual_seed(0)
    network = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm1d(4, momentum=0.3)]).to(getattr(torch, dtype))
    inputs = [[torch.randn(6, 3, 4, 2), torch.randn(6, 4)] for _ in range(3)]
    targets = [torch.randn(6, 3, 4, 2), torch.randn(6, 4)]
    with torch.no_grad():
        for norm in network:
            norm.weight.normal_()
            norm.bias.normal_()
    before = [*network.parameters(), *network.buffers()]
    distributed.share_batch_norms(network)
    assert all(one is other for one, other in zip(before, [*network.parameters(), *network.buffers()], strict=True))
    result: dict[str, Any] = {}
    for turn, batch in enumerate(inputs):
        network.train(turn < 2)
        for norm, x, target in zip(network, batch, targets, strict=True):
            mine = (x.to(norm.weight.dtype) + offset)[distributed.share(6)].requires_grad_()
            output = norm(mine)
            (output * target.to(output.dtype)[distributed.share(6)]).sum().backward()
            name = f"{turn} {x.dim()}"
            result[name] = distributed.gather(output.detach())
            result[f"{name} gradient"] = distributed.gather(mine.grad)
    distributed.sum_gradients(network.parameters())
    return result | dict(network.state_dict()) | {f"{n} gradient": p.grad for n, p in network.named_parameters()}


def training(model: str = "msinet_x0_25", exact: bool = True, settings: Any = None, **options: Any) -> dict[str, Any]:
    """Losses of the steps and the weights after them."""
    own = {"epochs": 3, "steps_per_epoch": 1, "height": 64, "width": 32, "images": 4, "optimizer": "sgd", "lr": 1e-5}
    recipe = changed(SMOKE, **(own | (settings or {})))
    torch.manual_seed(0)
    network = build_model(model, 8, image=(64, 32), **options)
    network = Exact(network) if exact else network
    result = fit(Supervised(network, Batches(PIXELS, LABELS, recipe, 1, CPU)), FOLDER, "", QUIET)
    return {"history": [dict(row) for row in result.history], **network.state_dict()}


def searching(**way: Any) -> dict[str, Any]:
    """History, architecture, memories and weights of a search of four iterations, in float64."""
    own = {"height": 64, "width": 32, "identities": 4, "images": 4, "epochs": 2, "steps_per_epoch": 2}
    own |= {"optimizer": "sgd", "lr": 0.01, "overlap": 1.0}
    recipe = changed(resolve_search("smoke", "msmt17").recipe, **(own | way))
    search = recipe.search_settings
    sides = split_identities(LABELS, search.overlap, seed=0)
    torch.manual_seed(0)
    network = Exact(build_model("supernet_x0_25", 8, interactions=6))
    memories = (ExactMemory(side.classes, 128, search.temperature, search.momentum) for side in sides)
    twins = Twins(network, *memories).double()
    result = fit(SEARCHES[search.mechanism](twins, PIXELS, sides, recipe, 3), FOLDER, "", QUIET)
    return {"history": [dict(row) for row in result.history], "alphas": alphas_of(network), **twins.state_dict()}


def evaluation(cases: list[tuple[int, int]]) -> dict[str, Any]:
    """Features of so many images, in batches of so many."""
    torch.manual_seed(0)
    network = build_model("msinet_x0_25", 8)
    return {f"{count} by {size}": embed(network, PIXELS[:count], CPU, batch_size=size) for count, size in cases}


def complete(root: Path, stop: int = 0, model: str = "cdnet_x0_25", **run_options: Any) -> dict[str, Any]:
    """A run with dropout; the last rank alone is interrupted after step `stop`."""
    dataset = load_dataset("market1501", root)

    def on_step(share: float) -> None:
        if round(6 * share) == stop and distributed.rank() == WORLD - 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        training = Training(model, {}, dataset, dataset, SMOKE)
        run(FOLDER, training, RunOptions(device="cpu", progress=False, **run_options), on_step)
    except KeyboardInterrupt:
        return {"interrupted": True}
    return {"interrupted": False}


def refused(damage: str) -> dict[str, Any]:
    """The error that each rank has, and who is to tell it."""
    recipe = changed(SMOKE, identities=3 if damage == "shares" else 4)
    network = build_model("msinet_x0_25", 8)
    with torch.no_grad():
        if damage == "nan":
            network.head.fc.weight.fill_(torch.nan)
    if damage == "fails" and distributed.rank() == 1:
        _TrainImages.__getitem__ = None  # type: ignore[method-assign,assignment]
    try:
        task = Supervised(network, Batches(PIXELS, LABELS, recipe, 1, CPU))
        fit(task, FOLDER, f"{RANK}" if damage == "identity" else "", QUIET)
    except Exception as error:
        return {"kind": type(error).__name__, "message": str(error), "tells": distributed.first_to_fail()}
    return {}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = FOLDER / f"{CASE}-{WORLD}-{RANK}.pt"
    try:
        if WORLD > 1:
            distributed.join(dist.FileStore(str(FOLDER / "store"), WORLD), RANK, WORLD)
        found = globals()[CASE](**ARGUMENTS)
        torch.save(found, out)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    if found.get("kind") is None:
        distributed.barrier()
        distributed.stop()
