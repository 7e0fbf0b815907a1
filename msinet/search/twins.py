"""The twins contrastive mechanism: alternate steps of weights and architecture, each with a memory (Sec. 3.1)."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet import distributed
from msinet.data.loading import PixelSource
from msinet.data.transforms import normalize
from msinet.models import Output
from msinet.models.genotype import OPERATIONS
from msinet.models.heads import ReIDNet
from msinet.models.supernet import alphas_of, interactions_of
from msinet.search.memory import Memory
from msinet.search.split import Side, side_batches
from msinet.training.batches import Batches
from msinet.training.fit import Row, Task, Values
from msinet.training.graphs import StaticStep, capture, load_optimizer, read_every, set_learning_rate, tensor_rates
from msinet.training.recipe import Recipe
from msinet.training.supervised import build_optimizer


class Twins(nn.Module):
    """A supernet and the memories of both sides: the trained state of a search."""

    def __init__(self, network: ReIDNet, training: Memory, validation: Memory) -> None:
        super().__init__()
        self.network, self.training_memory, self.validation_memory = network, training, validation
        self.alphas = [one.alpha for one in interactions_of(network)]
        own = {id(alpha) for alpha in self.alphas}
        self.weights = [p for p in network.parameters() if p.requires_grad and id(p) not in own]


class Subset:
    """Some of the images of another source."""

    def __init__(self, pixels: PixelSource, positions: np.ndarray) -> None:
        self.pixels, self.positions = pixels, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[int(self.positions[index])]


class SideBatches(Batches):
    """Batches of one side of the search.

    Args:
        pixels: training images of the data set.
        side: positions and labels of the side's images.
        recipe: of the search.
        seed: derived seed of order and augmentation.
        device: where the batches go.
        workers: processes that prepare batches.
        training: for the validation side, the batches of the training side; both have the same number of batches, from
            as many passes as needed.
    """

    def __init__(
        self,
        pixels: PixelSource,
        side: Side,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        workers: int = 0,
        training: "SideBatches | None" = None,
    ) -> None:
        # The classifier of both sides uses labels of the whole training set.
        labels = side.identities[side.labels] if recipe.search_settings.mechanism == "ce" else side.labels
        super().__init__(Subset(pixels, side.positions), labels, recipe, seed, device, workers)
        self.training = training

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in the side."""
        if self.training is None:
            steps, name = self.recipe.sampler.steps_per_epoch, "training"
        else:
            steps, name = len(self.training.of_epoch(epoch)), "validation"
        return side_batches(self.recipe, self.labels, name, seed=self.seed, epoch=epoch, steps=steps)


class Comparison(NamedTuple):
    """A batch compared with a memory."""

    loss: Tensor
    accuracy: Tensor
    features: Tensor
    """(B, D) of all processes"""
    labels: Tensor
    """(B,)"""


class TwinsSearch(Task):
    """Search an architecture: in each iteration a step of the weights, then one of the architecture.

    Batch norms are in training mode for both batches. The history has the architecture parameters of each epoch
    (`alpha_of_<interaction>_<operation>`). Behaviours of the released code are options: order=alphas reverses the
    steps; leak adds the weights' gradients from the architecture's loss to the next step of the weights.

    Args:
        twins: supernet and memories on their device; changed in place.
        pixels: training images of the data set.
        sides: the training side, of the weights, and the validation side, of the architecture.
        recipe: of the search.
        seed: derived seed of batches and augmentation.
        workers: processes that prepare batches; the result does not depend on it.
        graphs: capture both steps as CUDA graphs (`msinet.training.graphs`); ignored with leak, which passes gradients
            from one step to the other.
    """

    def __init__(
        self,
        twins: Twins,
        pixels: PixelSource,
        sides: tuple[Side, Side],
        recipe: Recipe,
        seed: int,
        workers: int = 0,
        *,
        graphs: bool = False,
    ) -> None:
        self.network = self.twins = twins
        self.recipe, self.options = recipe, recipe.search_settings
        self.epochs, self.seed = recipe.schedule.epochs, seed
        device = twins.training_memory.centres.device
        self.training = SideBatches(pixels, sides[0], recipe, seed, device, workers)
        self.validation = SideBatches(pixels, sides[1], recipe, seed + 1, device, workers, self.training)
        learn(twins.weights, twins.alphas)  # so that the weights' optimizer leaves the architecture out
        self.weight_optimizer = build_optimizer(twins.network, recipe)
        self.alpha_optimizer = torch.optim.Adam(
            twins.alphas, self.options.alpha_lr, betas=(0.5, 0.999), weight_decay=self.options.alpha_weight_decay
        )
        self.read_every = read_every(device)
        self.take_weight_step: Callable[..., dict[str, Tensor]] = self.weight_step
        self.take_architecture_step: Callable[..., dict[str, Tensor]] = self.architecture_step
        if graphs and not self.options.leak:
            tensor_rates(self.weight_optimizer)
            tensor_rates(self.alpha_optimizer)
            self.take_weight_step = StaticStep(self.weight_step, capture)
            self.take_architecture_step = StaticStep(self.architecture_step, capture)

    def step(self, epoch: int, step: int) -> Values:
        """One iteration of Sec. 3.1: the weights on a training batch, the architecture on a validation batch."""
        del epoch
        if self.options.order == "alphas":
            return self._alphas_first(step)
        weights = self.take_weight_step(*self.training.inputs())
        return weights | self.take_architecture_step(*self.validation.inputs())

    def weight_step(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a training batch, take a step of the weights and update the training memory."""
        learn(self.twins.weights, self.twins.alphas)
        if not self.options.leak:
            self.weight_optimizer.zero_grad(set_to_none=True)  # of a capture that was broken off
        batch = self.compare(*self.training.images(*inputs), self.twins.training_memory)  # Eq. 2
        batch.loss.backward()  # type: ignore[no-untyped-call]  # adds to the leaked gradients, if there are any
        distributed.sum_gradients(self.twins.weights)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad(set_to_none=True)
        self.update(self.twins.training_memory, batch)  # Eq. 3
        return {"loss": batch.loss.detach(), "accuracy": batch.accuracy}

    def architecture_step(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a validation batch, take a step of the architecture (first order), update its memory."""
        if self.options.leak:
            learn([*self.twins.alphas, *self.twins.weights], [])
        else:  # no gradients of the weights: saves a third of the backward pass
            learn(self.twins.alphas, self.twins.weights)
        self.alpha_optimizer.zero_grad(set_to_none=True)  # of a capture that was broken off
        batch = self.compare(*self.validation.images(*inputs), self.twins.validation_memory)  # Eq. 2
        batch.loss.backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(self.twins.alphas)
        if self.options.leak:
            distributed.average_gradients(self.twins.weights)
        self.alpha_optimizer.step()
        self.alpha_optimizer.zero_grad(set_to_none=True)
        self.update(self.twins.validation_memory, batch)  # Eq. 3
        return {"val_loss": batch.loss.detach(), "val_accuracy": batch.accuracy}

    def compare(self, images: Tensor, own: Tensor, memory: Memory) -> Comparison:
        """Classify images (B, 3, H, W) with labels (B,) of a side by its memory (Eq. 2)."""
        output: Output = self.twins.network(images)
        labels, features = distributed.gather(own), distributed.gather(output.embeddings[0])  # (B,), (B, D)
        logits = self.logits(output, features, memory)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.losses.label_smoothing)
        return Comparison(loss, (logits.argmax(1) == labels).float().mean(), features, labels)

    def logits(self, output: Output, features: Tensor, memory: Memory) -> Tensor:
        """(B, identities of the side): cosines with the memory over the temperature."""
        del output
        return memory.logits(features)

    def update(self, memory: Memory, batch: Comparison) -> None:
        """Move the memory towards the batch (Eq. 3)."""
        memory.update(batch.features, batch.labels, turns=self.recipe.sampler.images)

    def _alphas_first(self, step: int) -> dict[str, Tensor]:
        """An iteration in the released code's order, which leaves out each epoch's first step of the architecture."""
        before = self.validation.inputs()  # unused in the first step of an epoch
        values = self.take_architecture_step(*before) if step else {}
        return self.take_weight_step(*self.training.inputs()) | values

    def initialize(self) -> None:
        """Fill the memories with class centroids, unless they start empty as in the released code."""
        if self.options.memory_init == "centroids":
            fill_memory(self.twins.network, self.twins.training_memory, self.training)
            fill_memory(self.twins.network, self.twins.validation_memory, self.validation)

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Set both learning rates.

        Raises:
            DataError: a side is too small for a batch.
        """
        steps = self.training.begin_epoch(epoch, step)
        self.validation.begin_epoch(epoch, step)
        rates = {"lr": self.recipe.learning_rate(epoch), "alpha_lr": self.options.alpha_learning_rate(epoch)}
        set_learning_rate(self.weight_optimizer, rates["lr"])
        set_learning_rate(self.alpha_optimizer, rates["alpha_lr"])
        return {"steps": steps, **rates}

    def end_epoch(self, epoch: int) -> Row:
        """The architecture parameters, for the history."""
        del epoch
        return {
            f"alpha_of_{number}_{operation}": value
            for number, row in enumerate(alphas_of(self.twins.network).tolist(), 1)
            for operation, value in zip(OPERATIONS, row, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """State of supernet, memories, both optimizers and leaked gradients."""
        return {
            "twins": self.twins.state_dict(),
            "weights": self.weight_optimizer.state_dict(),
            "alphas": self.alpha_optimizer.state_dict(),
            "leaked": [p.grad for p in self.twins.weights] if self.options.leak else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.twins.load_state_dict(state["twins"])
        load_optimizer(self.weight_optimizer, state["weights"])
        load_optimizer(self.alpha_optimizer, state["alphas"])
        for parameter, gradient in zip(self.twins.weights, state["leaked"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)


class ClassifierSearch(TwinsSearch):
    """Baseline ce: one linear classifier on both sides, trained with the weights, instead of the memories."""

    def logits(self, output: Output, features: Tensor, memory: Memory) -> Tensor:
        """(B, identities of the training set) of the classifier."""
        del features, memory
        return distributed.gather(output.logits[0])

    def update(self, memory: Memory, batch: Comparison) -> None:
        """Leave the memories empty."""

    def initialize(self) -> None:
        """Leave the memories empty."""


#: Searches of a supernet by mechanism.
SEARCHES: dict[str, type[TwinsSearch]] = {"tcm": TwinsSearch, "ce": ClassifierSearch}


def learn(trained: list[nn.Parameter], frozen: list[nn.Parameter]) -> None:
    """Choose the parameters for which the next backward pass computes gradients."""
    for parameters, learns in ((trained, True), (frozen, False)):
        for parameter in parameters:
            parameter.requires_grad_(learns)


@torch.no_grad()
def fill_memory(network: nn.Module, memory: Memory, batches: SideBatches, batch_size: int = 64) -> None:
    """Fill a memory with the class centroids of a side, from images without augmentation.

    Batch norms of a fresh network have no statistics and normalise by the batch. Batches are shuffled, so that each
    represents the whole side. The network itself does not change.
    """
    copied = copy.deepcopy(network).train()
    order = np.random.default_rng(0).permutation(len(batches.labels))
    features = []
    for chunk in np.array_split(order, -(-len(order) // batch_size)):
        images = normalize(np.stack([batches.pixels[int(i)] for i in chunk]))  # (B, 3, H, W)
        output: Output = copied(images.to(batches.device, memory_format=torch.channels_last))
        features.append(output.embeddings[0].float())
    memory.fill(torch.cat(features), torch.from_numpy(batches.labels[order]).to(batches.device))
