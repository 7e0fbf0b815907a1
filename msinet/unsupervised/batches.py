"""Training batches of one epoch's plan; images come with their positions instead of labels."""

from collections.abc import Iterator

import numpy as np
import torch

from msinet import distributed
from msinet.data.loading import PixelSource
from msinet.errors import UserError
from msinet.training.batches import Batches
from msinet.training.recipe import Recipe


class PlannedBatches(Batches):
    """Batches that a method plans at the start of each epoch.

    `next` gives images (B, 3, H, W) and their positions (B,) in `pixels`.

    Raises:
        UserError: several processes.
    """

    def __init__(self, pixels: PixelSource, recipe: Recipe, seed: int, device: torch.device, workers: int = 0) -> None:
        if distributed.world() > 1:
            raise UserError("methods without labels train in one process; start them without torchrun")
        super().__init__(pixels, np.arange(len(pixels)), recipe, seed, device, workers)
        self.plan: list[list[int]] = []

    def begin(self, plan: list[list[int]], epoch: int, step: int) -> int:
        """Take the plan of an epoch, continue it from a step, and return its number of batches."""
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
