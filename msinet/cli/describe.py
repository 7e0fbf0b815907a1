"""Commands that describe without running anything: msinet list | recipe."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class List:
    """List networks, data sets and profiles."""

    def __call__(self) -> int:
        """Print the cards of networks and data sets, and the profiles."""
        from msinet.data.layouts import cards
        from msinet.models import CARDS
        from msinet.training.recipes import PROFILES

        networks = [
            (
                card.name,
                card.label,
                " ".join(card.studies) or "-",
                ", ".join(f"{o}: {label}" for o, label in card.variants),
            )
            for card in CARDS.values()
        ]
        print_columns("networks (NAME_x0_25 is a quarter as wide)", ("name", "label", "tables", "variants"), networks)
        sets = [(card.name, card.short, card.kind, card.folders[0]) for card in cards()]
        print_columns("\ndata sets", ("name", "label", "kind", "folder under the data root"), sets)
        profiles = [(profile.name, profile.summary) for profile in PROFILES.values()]
        print_columns("\nprofiles", ("name", "summary"), profiles)
        return 0


@dataclass(frozen=True)
class ShowRecipe:
    """Print every setting of a recipe, its value and its origin."""

    profile: str = "mini"
    """name of the profile; `msinet list` shows profiles"""
    dataset: str = "market1501"
    """training set; `msinet list` shows data sets"""
    data_root: Path | None = None
    """list of images (CSV), or a folder that holds one, if --dataset is your own data set"""
    model: str = "msinet"
    """name of the network; `msinet list` shows networks"""
    target: str = ""
    """test set; another one than the training set selects the cross-domain recipe, or with --method adaptation to it"""
    search: bool = False
    """print the recipe of the architecture search"""
    pretraining: bool = False
    """print the recipe of pre-training"""
    method: str = ""
    """print the recipe of this method without labels, such as gs (docs/table4.md)"""
    recipe: tuple[str, ...] = ()
    """changes to the recipe, such as lr=0.01 epochs=80"""
    recipe_of: Literal["paper", "authors"] = "paper"
    """recipe of trainings: the paper's for all networks, or the network's own by its authors, if its card has one"""
    scratch: bool = False
    """print the authors' recipe for trainings without pre-trained weights, if it differs"""

    def __call__(self) -> int:
        """Print the recipe.

        Raises:
            UserError: unknown name, a value that a setting cannot have, or several of --search, --pretraining and
                --method.
        """
        from msinet.data.layouts import card_of, is_across
        from msinet.data.own import notice
        from msinet.errors import UserError
        from msinet.io import nearest_existing
        from msinet.training.recipes import (
            describe_recipe,
            overridden,
            resolve,
            resolve_pretraining,
            resolve_search,
            resolve_unsupervised,
        )

        if self.search and self.pretraining:
            raise UserError("give one of --search and --pretraining, not both")
        if self.method and (self.search or self.pretraining):
            raise UserError("give --method alone, or one of --search and --pretraining")
        if (self.search or self.pretraining or self.method) and (self.recipe_of != "paper" or self.scratch):
            raise UserError("--recipe-of and --scratch are for trainings with labels; give them alone")
        for flag, chosen, unused in (
            ("--search", self.search, ("model", "target")),
            ("--pretraining", self.pretraining, ("dataset", "target")),
            ("--method", self.method, ("model",)),
        ):
            given = [f"--{name}" for name in unused if getattr(self, name) != getattr(ShowRecipe, name)]
            if chosen and given:
                raise UserError(f"{', '.join(given)} has no effect with {flag}; leave it out")
        if self.data_root is not None:
            if not self.data_root.exists():
                raise UserError(f"data root {self.data_root} does not exist.{nearest_existing(self.data_root)}")
            notice(self.data_root)
        if self.target:
            card_of(self.target)
        if self.search:
            resolved = resolve_search(self.profile, self.dataset)
        elif self.pretraining:
            resolved = resolve_pretraining(self.profile, self.model)
        elif self.method:
            target = self.target or self.dataset
            resolved = resolve_unsupervised(
                self.profile,
                self.method,  # type: ignore[arg-type]
                target,
                across=target != self.dataset,
            )
        else:
            across = self.target != "" and is_across(self.target, [self.dataset])
            resolved = resolve(
                self.profile,
                self.dataset,
                self.model,
                cross_domain=across,
                recipe_of=self.recipe_of,
                scratch=self.scratch,
            )
        print(describe_recipe(overridden(resolved, self.recipe)))
        return 0


def print_columns(title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows of text in aligned columns."""
    rows = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title)
    for row in rows:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
