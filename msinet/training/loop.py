"""One training loop for every network (SPEC A.4, A.7)."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msinet import distributed
from msinet.data.loading import PixelSource, train_batches
from msinet.errors import TrainingDiverged
from msinet.losses import alignment_loss, identity_loss, triplet_loss
from msinet.models import Output
from msinet.models.sam import at_least_float
from msinet.progress import bar
from msinet.training.checkpoint import NAME, load_checkpoint, save_checkpoint
from msinet.training.recipe import Recipe

Row = dict[str, float]
#: Seconds between checkpoints: what an unexpected end can cost at most.
CHECKPOINT_SECONDS = 30.0


@dataclass
class Progress:
    """Where a training stands; part of its checkpoint."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: Row = field(default_factory=dict)
    """running sums over the steps of the current epoch"""
    counts: Row = field(default_factory=dict)
    """how many steps gave each of them"""
    history: list[Row] = field(default_factory=list)
    """one row per finished epoch"""


@dataclass(frozen=True)
class Result:
    """What a finished training leaves beside the weights in the model."""

    history: tuple[Row, ...]
    """per epoch: epoch, steps, lr, loss, identity, triplet, accuracy, and the metrics where evaluated"""
    seconds: float
    """spent training, over all resumptions"""
    steps: int


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or Adam; weight decay on every trained parameter, biases faster where the recipe says."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters: Any = list(trained.values())
    if recipe.optimizer.bias_lr != 1:
        biases = [p for name, p in trained.items() if name.endswith("bias")]
        others = [p for name, p in trained.items() if not name.endswith("bias")]
        parameters = [{"params": others, "times": 1.0}, {"params": biases, "times": recipe.optimizer.bias_lr}]
    if recipe.optimizer.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, recipe.optimizer.lr, momentum=0.9, weight_decay=recipe.optimizer.weight_decay, fused=True
    )


def losses(output: Output, labels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """The total loss and its parts: identity and triplet loss, each summed over the heads, and spatial alignment.

    SPEC A.4, A.6. Pre-training has the identity loss alone.

    Raises:
        UserError: alignment pam-self and a network without the module that it needs.
    """
    identity = torch.stack([identity_loss(one, labels, recipe.losses.label_smoothing) for one in output.logits]).sum()
    if not recipe.losses.triplet:
        return {"loss": identity, "identity": identity}
    margin = None if recipe.losses.soft_margin else recipe.losses.margin
    triplet = torch.stack(
        [triplet_loss(one, labels, margin, normalize=recipe.losses.normalize_triplet) for one in output.embeddings]
    ).sum()
    if recipe.losses.alignment == "none":
        return {"loss": identity + triplet, "identity": identity, "triplet": triplet}
    alignment = alignment_loss(
        output.feature_map,
        labels,
        recipe.losses.alignment,
        activation=output.activation,
        partner_grid=recipe.losses.alignment_grid == "partner",
        self_pairs=recipe.losses.alignment_self_pairs,
        per_pair=recipe.losses.alignment_per_pair,
    )
    total = identity + triplet + recipe.losses.alignment_weight * alignment
    return {"loss": total, "identity": identity, "triplet": triplet, "alignment": alignment}


def forward(model: nn.Module, images: Tensor, recipe: Recipe) -> Output:
    """What the losses see, in fp32 at least; the network's maps are in the recipe's precision, by autocast."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output: Output = model(images)
    activation = None if output.activation is None else at_least_float(output.activation)
    return Output(
        tuple(at_least_float(one) for one in output.logits),
        tuple(at_least_float(one) for one in output.embeddings),
        at_least_float(output.feature_map),
        activation,
    )


def gather(output: Output, *, feature_map: bool) -> Output:
    """The outputs of all processes for the whole batch; the feature map, which is large, only where it is wanted."""
    return Output(
        tuple(distributed.gather(one) for one in output.logits),
        tuple(distributed.gather(one) for one in output.embeddings),
        distributed.gather(output.feature_map) if feature_map else output.feature_map,
        None if output.activation is None else distributed.gather(output.activation),
    )


def train(
    model: nn.Module,
    pixels: PixelSource,
    labels: np.ndarray,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    identity: str,
    device: torch.device,
    resume: bool = True,
    workers: int = 0,
    evaluate: Callable[[nn.Module], Row] | None = None,
    evaluate_every: int = 0,
    on_step: Callable[[float], None] | None = None,
    title: str = "training",
    progress: bool = True,
) -> Result:
    """Train `model` in place, from its current weights or from the checkpoint in `folder`.

    The state is saved every 30 seconds, on SIGINT and SIGTERM, and at the end; a training
    that is resumed any number of times ends in the same weights, bit for bit on the CPU.

    Of several processes (`msinet.distributed`) each takes its identities of every batch, and the first one saves.

    Args:
        model: on `device`; in training mode its forward gives an `Output`.
        pixels: training images.
        labels: (len(pixels),) their identities in [0, classes).
        recipe: what to do.
        folder: for the checkpoint; made if missing.
        seed: of batches and augmentation.
        identity: names this training; a checkpoint with another identity is refused.
        device: where the model is.
        resume: go on from a checkpoint in `folder`; otherwise start again.
        workers: processes that prepare batches; the result does not depend on it.
        evaluate: called with the model every `evaluate_every` epochs and after the last; its row joins the history.
        evaluate_every: 0 for never.
        on_step: called after each step with the share of the training that is done, in [0, 1].
        title: of the progress bar.
        progress: show a bar.

    Raises:
        TrainingDiverged: the loss or a weight became NaN or infinite; the last good checkpoint stays.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved first.
        WeightsError: the checkpoint in `folder` is damaged or belongs to another training.
        UserError: the identities of a batch cannot be shared among the processes.
    """
    distributed.check_batch(recipe.sampler.identities)
    folder.mkdir(parents=True, exist_ok=True)
    distributed.share_batch_norms(model)
    optimizer = build_optimizer(model, recipe)
    at = Progress()
    if resume and (found := load_checkpoint(folder, identity, model, optimizer)) is not None:
        at = Progress(**found)
    distributed.check_agreement((identity, at.epoch, at.step), f"training and its checkpoint in {folder}")

    def batches_of(epoch: int) -> list[list[int]]:
        return recipe.sampler.batches(labels, seed=seed, epoch=epoch)

    batches = train_batches(
        pixels,
        labels,
        recipe.augmentation,
        plan_batches(at, recipe.schedule.epochs, batches_of),
        seed=seed,
        workers=workers,
        pin_memory=device.type == "cuda",
        size=(recipe.image.height, recipe.image.width),
    )
    model.train()

    def begin_epoch(epoch: int) -> Row:
        learning_rate = recipe.learning_rate(epoch)
        set_learning_rate(optimizer, learning_rate)
        return {"steps": len(batches_of(epoch)), "lr": learning_rate}

    def take_step(epoch: int, step: int) -> Row:
        distributed.reseed(seed, epoch, step)
        images, mine = next_batch(batches, device)
        output = gather(forward(model, images, recipe), feature_map=recipe.losses.alignment != "none")
        targets = distributed.gather(mine)
        parts = losses(output, targets, recipe)
        values = {name: value.item() for name, value in parts.items()}
        check_loss(values["loss"], epoch, step, folder)
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(model.parameters())
        optimizer.step()
        values["accuracy"] = (output.logits[0].argmax(1) == targets).float().mean().item()
        return values

    def end_epoch(epoch: int) -> Row:
        if evaluate is not None and evaluate_every and (epoch + 1) % evaluate_every == 0:
            return evaluate(model)
        return {}

    return drive(
        at,
        recipe.schedule.epochs,
        begin_epoch,
        take_step,
        end_epoch,
        lambda: save_checkpoint(folder, identity, model, optimizer, vars(at)),
        model,
        folder,
        on_step=on_step,
        title=title,
        progress=progress,
    )


def plan_batches(
    at: Progress, epochs: int, batches_of: Callable[[int], list[list[int]]]
) -> Iterator[tuple[int, int, list[int]]]:
    """Every batch (epoch, step, positions) from where `at` stands now to the end."""
    start = at.epoch, at.step
    return (
        (epoch, step, batch)
        for epoch in range(start[0], epochs)
        for step, batch in enumerate(batches_of(epoch))
        if (epoch, step) >= start
    )


def next_batch(batches: Iterator[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The next images (B, 3, H, W) and labels (B,), on the device."""
    # The loader draws from torch's generator when it starts, and a resumed training starts another one.
    with torch.random.fork_rng(devices=[]):
        images, targets = next(batches)
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return images, targets.to(device, non_blocking=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """For all parameters, times what their group says."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("times", 1.0)


def drive(
    at: Progress,
    epochs: int,
    begin_epoch: Callable[[int], Row],
    take_step: Callable[[int, int], Row],
    end_epoch: Callable[[int], Row],
    save: Callable[[], None],
    model: nn.Module,
    folder: Path,
    *,
    on_step: Callable[[float], None] | None,
    title: str,
    progress: bool,
) -> Result:
    """Epochs and steps from where `at` stands, with bar, history, checkpoints and interruption.

    Args:
        at: moves on with every step; part of the checkpoint that `save` writes.
        epochs: of the whole training.
        begin_epoch: prepares an epoch and tells "steps", their number, and with what else its row of the history
            begins.
        take_step: takes a step and tells values whose means enter the history; "loss" is shown.
        end_epoch: tells what else the epoch's row of the history holds.
        save: writes a checkpoint.
        model: looked over before each checkpoint: one with a NaN must not replace a good one.
        folder: of the checkpoint, for messages.
        on_step: called after each step with the share of the training that is done.
        title: of the bar.
        progress: show it.

    Raises:
        TrainingDiverged: a weight became NaN or infinite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved first.
    """
    epoch, step = at.epoch, at.step

    def save_if_finite() -> None:
        # Running statistics too: in training the loss does not see them.
        if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
            raise _diverged("a weight became NaN or infinite by", epoch, step, folder)
        if distributed.leads():
            save()

    # Passes differ by a batch or so: the length of the first is the estimate that the bar shows.
    per_epoch = int(begin_epoch(at.epoch)["steps"]) if at.epoch < epochs else 0
    meter = bar(
        desc=title, total=epochs * per_epoch, initial=at.epoch * per_epoch + at.step, unit="step", disable=not progress
    )
    saved = time.monotonic()
    with meter, _interruptible() as signalled:

        def interrupted() -> bool:
            # All processes stop after the same step, for none can take the next one alone.
            return distributed.any_rank(signalled())

        for epoch in range(at.epoch, epochs):
            row = begin_epoch(epoch)
            steps = int(row["steps"])
            for step in range(at.step, steps):
                began = time.perf_counter()
                values = take_step(epoch, step)
                for name, value in values.items():
                    at.sums[name] = at.sums.get(name, 0.0) + value
                    at.counts[name] = at.counts.get(name, 0) + 1
                at.step = step + 1
                at.seconds += time.perf_counter() - began
                meter.set_postfix_str(f"epoch {epoch + 1}/{epochs}, loss {values['loss']:.2f}", refresh=False)
                meter.update()
                if on_step is not None:
                    on_step((epoch + at.step / steps) / epochs)
                stopping = interrupted()
                if stopping or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    save_if_finite()
                    saved = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
            means = {name: total / at.counts[name] for name, total in at.sums.items()}
            at.history.append({"epoch": epoch + 1} | row | means | end_epoch(epoch))
            at.epoch, at.step, at.sums, at.counts = epoch + 1, 0, {}, {}
        save_if_finite()
        if interrupted():  # during the last evaluation
            raise KeyboardInterrupt
    return Result(tuple(at.history), at.seconds, sum(int(row["steps"]) for row in at.history))


def check_loss(loss: float, epoch: int, step: int, folder: Path) -> None:
    """Raise `TrainingDiverged` unless the loss is finite; before the weights are touched."""
    if not math.isfinite(loss):
        raise _diverged(f"the loss became {loss} in", epoch, step, folder)


def _diverged(what: str, epoch: int, step: int, folder: Path) -> TrainingDiverged:
    path = folder / NAME
    kept = f"the last good checkpoint is {path}" if path.exists() else "there was no checkpoint yet"
    return TrainingDiverged(
        f"{what} epoch {epoch + 1}, step {step + 1}; {kept}. "
        "Lower the learning rate or lengthen the warm-up, and start again with --no-resume"
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT or SIGTERM into a flag, so that a step is never cut in half.

    A second one interrupts at once.
    """
    arrived = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal arrived
        if arrived:
            raise KeyboardInterrupt
        arrived = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
