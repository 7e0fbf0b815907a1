"""The twins contrastive mechanism: weights and architecture take turns, each against a memory of its own (Sec. 3.1)."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet import distributed
from msinet.data.loading import PixelSource, train_batches
from msinet.data.sampler import epoch_batches
from msinet.data.transforms import normalize
from msinet.errors import DataError
from msinet.models import Output
from msinet.models.genotype import OPERATIONS
from msinet.models.heads import ReIDNet
from msinet.models.supernet import alphas_of, interactions_of
from msinet.search.memory import Memory
from msinet.search.split import Side
from msinet.training.checkpoint import load_checkpoint, save_checkpoint
from msinet.training.loop import (
    Progress,
    Result,
    Row,
    build_optimizer,
    check_loss,
    drive,
    next_batch,
    plan_batches,
    set_learning_rate,
)
from msinet.training.recipe import Recipe


class Subset:
    """Some of the images of another source."""

    def __init__(self, pixels: PixelSource, positions: np.ndarray) -> None:
        self.pixels, self.positions = pixels, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[int(self.positions[index])]


class Twins(nn.Module):
    """A supernet and the memories of its two sides: all that a search learns."""

    def __init__(self, network: ReIDNet, training: Memory, validation: Memory) -> None:
        super().__init__()
        self.network, self.training_memory, self.validation_memory = network, training, validation
        self.alphas = [one.alpha for one in interactions_of(network)]
        own = {id(alpha) for alpha in self.alphas}
        self.weights = [p for p in network.parameters() if p.requires_grad and id(p) not in own]


class Optimizers:
    """Of weights and architecture, and the gradients that wait between two steps if they leak."""

    def __init__(self, twins: Twins, recipe: Recipe) -> None:
        self.twins, self.leak = twins, recipe.search_settings.leak
        _learn(twins.weights, twins.alphas)  # so that the weights' optimizer leaves the architecture out
        self.weights = build_optimizer(twins.network, recipe)
        self.alphas = torch.optim.Adam(
            twins.alphas,
            recipe.search_settings.alpha_lr,
            betas=(0.5, 0.999),
            weight_decay=recipe.search_settings.alpha_weight_decay,
        )

    def state_dict(self) -> dict[str, Any]:
        """Of both, for a checkpoint."""
        leaked = [p.grad for p in self.twins.weights] if self.leak else []
        return {"weights": self.weights.state_dict(), "alphas": self.alphas.state_dict(), "leaked": leaked}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Put both back where `state_dict` found them."""
        self.weights.load_state_dict(state["weights"])
        self.alphas.load_state_dict(state["alphas"])
        for parameter, gradient in zip(self.twins.weights, state["leaked"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)


def search_alphas(
    twins: Twins,
    pixels: PixelSource,
    training: Side,
    validation: Side,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    identity: str,
    device: torch.device,
    resume: bool = True,
    workers: int = 0,
    on_step: Callable[[float], None] | None = None,
    title: str = "search",
    progress: bool = True,
) -> Result:
    """Alternate between the weights on the training side and the architecture on the validation side.

    One iteration, as the paper orders it: loss of a training batch against its memory, step of the weights, update of
    that memory; loss of a validation batch against the other memory, step of the architecture (first order),
    update of that memory. Both batches pass the batch norms in training mode.

    The history has a row per epoch with the architecture parameters after it (`alpha_of_<interaction>_<operation>`).
    Checkpoints, resumption, interruption and errors are those of `msinet.training.loop.train`.

    Args:
        twins: supernet and memories, on `device`; changed in place.
        pixels: training images of the data set.
        training: the side of the weights.
        validation: the side of the architecture.
        recipe: what to do.
        folder: for the checkpoint; made if missing.
        seed: of batches and augmentation.
        identity: names this search.
        device: where the network is.
        resume: go on from a checkpoint in `folder`.
        workers: processes that prepare batches; the result does not depend on it.
        on_step: called after each iteration with the share of the search that is done.
        title: of the progress bar.
        progress: show a bar.

    Raises:
        DataError: a side has too few identities for a batch.
        TrainingDiverged, KeyboardInterrupt, WeightsError: as in training.
    """
    distributed.check_batch(recipe.sampler.identities)
    folder.mkdir(parents=True, exist_ok=True)
    network = twins.network
    optimizers = Optimizers(twins, recipe)
    at = Progress()
    found = load_checkpoint(folder, identity, twins, optimizers) if resume else None
    if found is not None:
        at = Progress(**found)
    elif recipe.search_settings.memory_init == "centroids" and recipe.search_settings.mechanism == "tcm":
        fill_memory(network, twins.training_memory, pixels, training, device)
        fill_memory(network, twins.validation_memory, pixels, validation, device)
    distributed.check_agreement((identity, at.epoch, at.step), f"search and its checkpoint in {folder}")
    distributed.share_batch_norms(network)  # after the memories are filled, which every process does by itself
    network.train()

    def training_batches(epoch: int) -> list[list[int]]:
        return side_batches(recipe, training, "training", seed, epoch, recipe.sampler.steps_per_epoch)

    def validation_batches(epoch: int) -> list[list[int]]:
        # As many as of training, over as many passes as that takes; epochs of its own, so that chance differs.
        return side_batches(recipe, validation, "validation", seed + 1, epoch, len(training_batches(epoch)))

    def stream(
        side: Side, batches_of: Callable[[int], list[list[int]]], own_seed: int, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # One classifier for both sides knows the identities by their labels in the whole set.
        labels = side.identities[side.labels] if recipe.search_settings.mechanism == "ce" else side.labels
        plan = (one for one in plan_batches(at, recipe.schedule.epochs, batches_of) if one[1] >= first)
        return train_batches(
            Subset(pixels, side.positions),
            labels,
            recipe.augmentation,
            plan,
            seed=own_seed,
            workers=workers,
            pin_memory=device.type == "cuda",
        )

    # The released code leaves out the first step of the architecture in each epoch.
    first = 1 if recipe.search_settings.order == "alphas" else 0
    train_stream = stream(training, training_batches, seed)
    val_stream = stream(validation, validation_batches, seed + 1, first)

    def loss_of(batches: Iterator[tuple[Tensor, Tensor]], memory: Memory) -> tuple[Tensor, Tensor, Tensor, float]:
        images, mine = next_batch(batches, device)
        output: Output = network(images)
        labels = distributed.gather(mine)
        features = distributed.gather(output.embeddings[0])  # (B, 512)
        logits = (
            distributed.gather(output.logits[0])
            if recipe.search_settings.mechanism == "ce"
            else memory.logits(features)
        )
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return (
            F.cross_entropy(logits, labels, label_smoothing=recipe.losses.label_smoothing),
            features,
            labels,
            accuracy,
        )

    def step_weights(epoch: int, step: int) -> Row:
        _learn(twins.weights, twins.alphas)
        loss, features, labels, accuracy = loss_of(train_stream, twins.training_memory)
        check_loss(loss.item(), epoch, step, folder)
        loss.backward()  # type: ignore[no-untyped-call]  # adds to what the step of the architecture left, if it leaks
        distributed.sum_gradients(twins.weights)
        optimizers.weights.step()
        optimizers.weights.zero_grad(set_to_none=True)
        if recipe.search_settings.mechanism == "tcm":
            twins.training_memory.update(features, labels)
        return {"loss": loss.item(), "accuracy": accuracy}

    def step_alphas(epoch: int, step: int) -> Row:
        # Unless they leak, gradients of the weights are not even computed, which spares a third of the backward pass.
        _learn(
            twins.alphas + (twins.weights if recipe.search_settings.leak else []),
            [] if recipe.search_settings.leak else twins.weights,
        )
        loss, features, labels, accuracy = loss_of(val_stream, twins.validation_memory)
        check_loss(loss.item(), epoch, step, folder)
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(twins.alphas)
        if recipe.search_settings.leak:
            distributed.average_gradients(twins.weights)
        optimizers.alphas.step()
        optimizers.alphas.zero_grad(set_to_none=True)
        if recipe.search_settings.mechanism == "tcm":
            twins.validation_memory.update(features, labels)
        return {"val_loss": loss.item(), "val_accuracy": accuracy}

    def begin_epoch(epoch: int) -> Row:
        steps = len(training_batches(epoch))
        if steps <= first:
            raise DataError(
                f"an epoch of {steps} iteration(s) leaves no step of the architecture with order alphas, which "
                "leaves out the first; take more data, smaller batches or order weights"
            )
        set_learning_rate(optimizers.weights, recipe.learning_rate(epoch))
        set_learning_rate(optimizers.alphas, recipe.search_settings.alpha_learning_rate(epoch))
        return {
            "steps": steps,
            "lr": recipe.learning_rate(epoch),
            "alpha_lr": recipe.search_settings.alpha_learning_rate(epoch),
        }

    def take_step(epoch: int, step: int) -> Row:
        distributed.reseed(seed, epoch, step)
        if recipe.search_settings.order == "weights":
            return step_weights(epoch, step) | step_alphas(epoch, step)
        before = step_alphas(epoch, step) if step >= first else {}
        return step_weights(epoch, step) | before

    def end_epoch(_epoch: int) -> Row:
        return {
            f"alpha_of_{number}_{operation}": value
            for number, row in enumerate(alphas_of(network).tolist(), 1)
            for operation, value in zip(OPERATIONS, row, strict=True)
        }

    return drive(
        at,
        recipe.schedule.epochs,
        begin_epoch,
        take_step,
        end_epoch,
        lambda: save_checkpoint(folder, identity, twins, optimizers, vars(at)),
        twins,
        folder,
        on_step=on_step,
        title=title,
        progress=progress,
    )


def side_batches(recipe: Recipe, side: Side, name: str, seed: int, epoch: int, steps: int | None) -> list[list[int]]:
    """The batches of an epoch of one side, as positions in it.

    Raises:
        DataError: too few identities for a batch; the message names the side.
    """
    try:
        return epoch_batches(
            side.labels, recipe.sampler.identities, recipe.sampler.images, seed=seed, epoch=epoch, steps=steps
        )
    except DataError as error:
        raise DataError(f"the {name} side of the search is too small: {error}") from error


def _learn(trained: list[nn.Parameter], frozen: list[nn.Parameter]) -> None:
    for parameters, learns in ((trained, True), (frozen, False)):
        for parameter in parameters:
            parameter.requires_grad_(learns)


@torch.no_grad()
def fill_memory(
    network: nn.Module, memory: Memory, pixels: PixelSource, side: Side, device: torch.device, batch_size: int = 64
) -> None:
    """Class centroids of a side's images, without augmentation, as a fresh network sees them (SPEC A.10).

    Batch norms normalise by the batch, since they have no statistics yet, and batches are mixed so that those
    are of the whole side; the network itself is left as it was.
    """
    copied = copy.deepcopy(network).train()
    order = np.random.default_rng(0).permutation(len(side.positions))
    features = []
    for chunk in np.array_split(order, -(-len(order) // batch_size)):
        images = normalize(np.stack([pixels[int(side.positions[i])] for i in chunk]))  # (B, 3, H, W)
        output: Output = copied(images.to(device, memory_format=torch.channels_last))
        features.append(output.embeddings[0].float())
    memory.fill(torch.cat(features), torch.from_numpy(side.labels[order]).to(device))
