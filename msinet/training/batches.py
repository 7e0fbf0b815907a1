"""Training batches of a task, on its device."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from msinet import distributed
from msinet.data.loading import PixelSource, train_batches
from msinet.training.recipe import Recipe


class Batches:
    """Batches whose order and augmentation follow from the seed alone, from any step on.

    A task whose labels change makes new batches in each epoch.

    Args:
        pixels: training images.
        labels: (len(pixels),) in [0, classes).
        recipe: sampler, augmentation, image size and number of epochs.
        seed: derived seed of order and augmentation.
        device: where the batches go.
        workers: processes that prepare batches; the batches do not depend on it.

    Raises:
        UserError: the identities of a batch cannot be shared among the processes.
    """

    def __init__(
        self, pixels: PixelSource, labels: np.ndarray, recipe: Recipe, seed: int, device: torch.device, workers: int = 0
    ) -> None:
        distributed.check_batch(recipe.sampler.identities)
        self.pixels, self.labels, self.recipe = pixels, labels, recipe
        self.seed, self.device, self.workers = seed, device, workers
        self._stream: Iterator[tuple[Tensor, Tensor]] | None = None

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in the training set.

        Raises:
            DataError: too few identities or images for a batch.
        """
        return self.recipe.sampler.batches(self.labels, seed=self.seed, epoch=epoch)

    def begin_epoch(self, epoch: int, step: int) -> int:
        """Number of batches of an epoch. The first call decides with which step `next` starts."""
        if self._stream is None:
            self._stream = train_batches(
                self.pixels,
                self.labels,
                self.recipe.augmentation,
                self._plan(epoch, step),
                seed=self.seed,
                workers=self.workers,
                pin_memory=self.device.type == "cuda",
                size=(self.recipe.image.height, self.recipe.image.width),
            )
        return len(self.of_epoch(epoch))

    def _plan(self, epoch: int, step: int) -> Iterator[tuple[int, int, list[int]]]:
        for later in range(epoch, self.recipe.schedule.epochs):
            for number, batch in enumerate(self.of_epoch(later)):
                if (later, number) >= (epoch, step):
                    yield later, number, batch

    def next(self) -> tuple[Tensor, Tensor]:
        """The next images (B, 3, H, W) and labels (B,), on the device; a process gets its own part of the batch."""
        assert self._stream is not None
        # The loader draws from torch's generator when it starts, and a resumed training starts another one.
        with torch.random.fork_rng(devices=[]):
            images, labels = next(self._stream)
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return images, labels.to(self.device, non_blocking=True)
