"""Helpers of several test files."""

import csv
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msinet.search.memory import Memory
from msinet.training.recipe import Recipe, with_settings

CPU = torch.device("cpu")
#: What happens after a step, counted from 1.
At = Mapping[int, Callable[[], object]]


class Stopped(Exception):
    """Stands for a sudden end: nothing in the code under test expects it."""


def stop() -> None:
    raise Stopped


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def at_steps(at: At | None, steps: int) -> Callable[[float], None]:
    """An `on_step` that acts after some of the `steps` of a run."""

    def on_step(share: float) -> None:
        (at or {}).get(round(share * steps), lambda: None)()

    return on_step


def noting(steps: list[int], count: int) -> dict[int, Callable[[], None]]:
    """Notes which of the first `count` steps are taken."""
    return {n: lambda n=n: steps.append(n) for n in range(1, count + 1)}  # type: ignore[misc]


def changed(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with some settings replaced, by their short names."""
    return with_settings(recipe, settings)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class Exact(nn.Module):
    """A network in float64, whatever the images come in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Any:
        return self.network(images.double())


class ExactMemory(Memory):
    """In float64, though it is filled with features in float32."""

    def fill(self, features: Tensor, labels: Tensor) -> None:
        super().fill(features.to(self.centres.dtype), labels)
