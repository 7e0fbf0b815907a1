"""Training batches planned per epoch: of the target (with positions instead of labels) and of a source."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from msinet import distributed
from msinet.data.loading import PixelSource
from msinet.data.resident import ResidentImages
from msinet.errors import UserError
from msinet.training.batches import Batches
from msinet.training.recipe import Recipe
from msinet.unsupervised.samplers import gallery_batches


@dataclass(frozen=True)
class Labelled:
    """A source set: images with identities."""

    pixels: PixelSource
    labels: np.ndarray
    """(N,) in [0, identities)"""
    cameras: np.ndarray
    """(N,)"""

    @property
    def identities(self) -> int:
        """Number of identities."""
        return int(self.labels.max()) + 1


class PlannedBatches(Batches):
    """Batches that a method plans at the start of each epoch.

    `next` gives images (B, 3, H, W) and their positions (B,) in `pixels`. Arguments are those of `Batches`.

    Raises:
        UserError: several processes.
    """

    def __init__(
        self,
        pixels: PixelSource,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        workers: int = 0,
        *,
        resident: ResidentImages | None = None,
    ) -> None:
        if distributed.world() > 1:
            raise UserError("methods without labels train in one process; start them without torchrun")
        super().__init__(pixels, np.arange(len(pixels)), recipe, seed, device, workers, resident=resident)
        self.plan: list[list[int]] = []

    def begin(self, plan: list[list[int]], epoch: int, step: int) -> int:
        """Set the plan of an epoch, continue it from a step, and return its number of batches."""
        self.plan, self._stream = plan, None
        return self.begin_epoch(epoch, step)

    def of_epoch(self, epoch: int) -> list[list[int]]:
        """The batches of the current epoch, as positions."""
        del epoch
        return self.plan

    def _plan(self, epoch: int, step: int) -> Iterator[tuple[int, int, list[int]]]:
        for number, batch in enumerate(self.plan):
            if number >= step:
                yield epoch, number, batch


class SourceBatches(PlannedBatches):
    """Batches of P identities of a source with K images each; `next` gives images (B, 3, H, W) and labels (B,)."""

    def __init__(
        self,
        source: Labelled,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        workers: int = 0,
        *,
        resident: ResidentImages | None = None,
    ) -> None:
        super().__init__(source.pixels, recipe, seed, device, workers, resident=resident)
        self.labels, self.cameras = source.labels, source.cameras

    def draw(self, epoch: int, step: int, steps: int | None) -> int:
        """Plan an epoch of that many batches (None: one pass), continue it from a step, and return their number."""
        sampler = self.recipe.sampler
        shape = (sampler.identities, sampler.images)
        plan = gallery_batches(self.labels, self.cameras, shape, seed=self.seed, epoch=epoch, steps=steps)
        return self.begin(plan, epoch, step)
