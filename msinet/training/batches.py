"""Training batches of a task, on its device."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from msinet import distributed
from msinet.data.loading import PixelSource, train_batches
from msinet.data.resident import ResidentImages, fits
from msinet.data.transforms import draw
from msinet.training.recipe import Recipe


class Batches:
    """Batches whose order and augmentation depend only on the seed; they can start at any step.

    Tasks whose labels change make new batches in each epoch. On a GPU, the decoded images of a small enough set stay
    on the device and are augmented there (`msinet.data.resident`), unless the recipe has a random resized crop or
    there are several processes.

    Args:
        pixels: training images.
        labels: (len(pixels),) in [0, classes).
        recipe: sampler, augmentation, image size and number of epochs.
        seed: derived seed of order and augmentation.
        device: where the batches go.
        workers: processes that prepare batches; the batches do not depend on it.
        resident: whether images stay on the device, or the attribute `resident` of other batches of the same images,
            to share their copy; None: by the rule above.

    Raises:
        UserError: the identities of a batch cannot be shared among the processes.
    """

    def __init__(
        self,
        pixels: PixelSource,
        labels: np.ndarray,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        workers: int = 0,
        *,
        resident: bool | ResidentImages | None = None,
    ) -> None:
        distributed.check_batch(recipe.sampler.identities)
        self.pixels, self.labels, self.recipe = pixels, labels, recipe
        self.seed, self.device, self.workers = seed, device, workers
        self._stream: Iterator[tuple[Tensor, ...]] | None = None
        if resident is None:
            alone = device.type == "cuda" and distributed.world() == 1 and not recipe.augmentation.crop
            resident = alone and fits(pixels, device)
        if resident is True:
            resident = ResidentImages(pixels, recipe.augmentation, device)
        self.resident = resident or None

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in the training set.

        Raises:
            DataError: too few identities or images for a batch.
        """
        return self.recipe.sampler.batches(self.labels, seed=self.seed, epoch=epoch)

    def begin_epoch(self, epoch: int, step: int) -> int:
        """Number of batches of an epoch. The first call sets the step from which `next` starts."""
        if self._stream is None:
            plan = self._plan(epoch, step)
            self._stream = self._loaded(plan) if self.resident is None else self._drawn(plan, self.resident)
        return len(self.of_epoch(epoch))

    def _loaded(self, plan: Iterable[tuple[int, int, list[int]]]) -> Iterator[tuple[Tensor, ...]]:
        return train_batches(
            self.pixels,
            self.labels,
            self.recipe.augmentation,
            plan,
            seed=self.seed,
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
            size=(self.recipe.image.height, self.recipe.image.width),
        )

    def _drawn(
        self, plan: Iterable[tuple[int, int, list[int]]], resident: ResidentImages
    ) -> Iterator[tuple[Tensor, ...]]:
        """The random numbers of batches and their labels: (B, 11), (B, 6), (B,)."""
        size, augmentation = (resident.height, resident.width), self.recipe.augmentation
        for epoch, step, batch in plan:
            seeds = [(self.seed, epoch, step * len(batch) + i, 1) for i in range(len(batch))]  # those of the loader
            drawn = [draw(*size, np.random.default_rng(seed), augmentation) for seed in seeds]
            numbers = resident.packed(batch, drawn), torch.from_numpy(self.labels[batch].astype(np.int64))
            yield tuple(one.pin_memory() if self.device.type == "cuda" else one for one in (*numbers[0], numbers[1]))

    def _plan(self, epoch: int, step: int) -> Iterator[tuple[int, int, list[int]]]:
        for later in range(epoch, self.recipe.schedule.epochs):
            for number, batch in enumerate(self.of_epoch(later)):
                if (later, number) >= (epoch, step):
                    yield later, number, batch

    def next(self) -> tuple[Tensor, Tensor]:
        """The next images (B, 3, H, W) and labels (B,), on the device; each process gets its part of the batch."""
        return self.images(*self.inputs())

    def inputs(self) -> tuple[Tensor, ...]:
        """The next input of `images`, on the device. This is the CPU's part of the work."""
        assert self._stream is not None
        # The loader draws from torch's generator when it starts, and a resumed training starts another one.
        with torch.random.fork_rng(devices=[]):
            found = next(self._stream)
        layouts = (torch.channels_last if one.dim() == 4 else torch.preserve_format for one in found)
        return tuple(
            one.to(self.device, memory_format=layout, non_blocking=True)
            for one, layout in zip(found, layouts, strict=True)
        )

    def images(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) of a batch. This is the device's part, which CUDA graphs can capture."""
        if self.resident is None:
            images, labels = inputs
            return images, labels
        numbers, factors, labels = inputs
        return self.resident.images(numbers, factors), labels
