"""Definition of a search: network, images and recipe. Importing this module does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msinet.data.datasets import Dataset
from msinet.errors import DataError, UserError
from msinet.io import stable_hash
from msinet.models.registry import split_name
from msinet.search.split import Side, side_batches, split_identities
from msinet.training.recipe import Recipe, canonical
from msinet.training.seeds import derived_seed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SearchRun:
    """Everything that can change the outcome of a search.

    Raises:
        UserError: the network is not a supernet, or an option is not for a search.
    """

    source: Dataset
    """training set; its test images are not used"""
    recipe: Recipe
    """mechanism, split, batches, schedules"""
    seed: int = 0
    """number of the repetition; initial weights, split, batches and augmentation depend on it"""
    model: str = "supernet"
    """supernet, or a width of it: supernet_x0_25"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the supernet: ratio, fusion"""

    def __post_init__(self) -> None:
        if split_name(self.model)[0] != "supernet":
            raise UserError(f"only a supernet can be searched, such as supernet or supernet_x0_25, not {self.model}")
        for name, reason in (("mid", "a setting of the recipe"), ("genotype", "what the search finds")):
            if name in self.options:
                raise UserError(f"{name} is {reason}, not an option of the network that is searched")

    @property
    def derived_seed(self) -> int:
        """The seed of all random numbers, the same for every width and option."""
        return derived_seed(self.source.name, "supernet", self.seed)

    @property
    def identity(self) -> str:
        """Hash that identifies the search in its checkpoint."""
        network = [self.model, dict(self.options)]
        return stable_hash(["search", *network, self.source.fingerprint, canonical(self.recipe), self.seed])

    @property
    def title(self) -> str:
        """A short name for progress bar and log."""
        return f"search {self.recipe.search_settings.mechanism} {self.source.name} seed {self.seed}"

    def build(self) -> "nn.Module":
        """The network that is searched; for mechanism tpe, the network whose genotypes are tried.

        Raises:
            UserError: an option that does not exist.
        """
        from msinet.models import build_model

        if self.recipe.search_settings.mechanism == "tpe":
            return build_model(self.discrete, self.source.num_classes, **self.options)
        mid = self.recipe.search_settings.mid
        return build_model(self.model, self.source.num_classes, mid=mid, **self.options)

    @property
    def discrete(self) -> str:
        """Name of the network that has the searched genotype."""
        return self.model.replace("supernet", "msinet")

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The training side (weights) and the validation side (architecture).

        Raises:
            DataError: a side is empty.
        """
        search = self.recipe.search_settings
        return split_identities(
            self.source.labels,
            search.overlap,
            side_ratio=search.side_ratio,
            seed=self.derived_seed,
            fifths=search.split == "fifths",
            list_order=search.halves == "list",
        )

    def check_sides(self) -> None:
        """Check that the search can use its sides.

        Raises:
            DataError: a side is empty or too small for a batch, an epoch too short for a step of the architecture, or
                for mechanism tpe the validation side cannot be ranked.
        """
        training, validation = self.sides
        search, wanted = self.recipe.search_settings, self.recipe.sampler.steps_per_epoch
        steps = len(side_batches(self.recipe, training.labels, "training", seed=self.seed, epoch=0, steps=wanted))
        if search.mechanism == "tpe":
            self._check_ranking(validation)
            return
        side_batches(self.recipe, validation.labels, "validation", seed=self.seed, epoch=0, steps=1)
        if steps <= 1 and search.order == "alphas":
            raise DataError(
                f"an epoch of {steps} iteration(s) has no step of the architecture with order alphas, which leaves out "
                "the first; use more data, smaller batches or order weights"
            )

    def _check_ranking(self, side: Side) -> None:
        """Check that an image of the side has a match: the same identity, by another camera if cameras count."""
        cameras = [self.source.train[i].camera if self.source.remove_same_camera else i for i in side.positions]
        pairs = set(zip(side.labels.tolist(), cameras, strict=True))
        if len(pairs) == side.classes:  # one camera for each identity
            raise DataError(
                f"mechanism tpe ranks the validation side of the search, but none of its {side.classes} identities has "
                "images of two cameras; use --keep-same-camera for a data set with one camera"
            )
