"""An experiment: everything that can change an outcome, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from msinet.errors import UserError
from msinet.io import stable_hash
from msinet.models.registry import card_of
from msinet.training.recipe import Recipe, Variant, canonical, from_canonical, with_settings

#: Increase when numerics change, so that old records no longer count as results of the new code. For a change of one
#: network there is `revision` in its card.
RESULTS_VERSION = 3

Init = Literal["scratch", "pretrained"]
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Experiment:
    """One training and its evaluation; with a search recipe, one search."""

    model: str
    source: str
    target: str
    recipe: Recipe
    profile: str
    seed: int = 0
    init: Init = "scratch"
    options: tuple[tuple[str, Scalar], ...] = ()
    """options of the network, sorted by name"""
    genotype_from: "Experiment | None" = None
    """search whose genotype is trained; `known` replaces it by the genotype"""
    same_weights: bool = False
    """rank the target with the weights of `training`, which is another run"""

    @property
    def is_search(self) -> bool:
        """True for the search of an architecture, False for the training of a network."""
        return self.recipe.search is not None

    @property
    def is_unsupervised(self) -> bool:
        """True for a method without labels of the target, whose training images it clusters."""
        return self.recipe.unsupervised is not None

    def with_options(self, **options: Scalar) -> "Experiment":
        """The same experiment with these network options added."""
        return replace(self, options=tuple(sorted((dict(self.options) | options).items())))

    def known(self, genotype: str) -> "Experiment":
        """The training of a known genotype, without the search that found it."""
        return replace(self, genotype_from=None).with_options(genotype=genotype)

    @property
    def training(self) -> "Experiment":
        """The in-domain experiment that trains the weights of this one; itself if it trains its own."""
        return replace(self, target=self.source, same_weights=False) if self.same_weights else self

    @property
    def cross_domain(self) -> bool:
        """True if the test set is not the training set."""
        return self.source != self.target

    def aligned(self, variant: Variant, **changes: Any) -> "Experiment":
        """The same experiment with spatial alignment; pam-self adds the position activation module to the network.

        Args:
            variant: variant of the alignment; none returns the experiment unchanged.
            changes: other settings of the alignment in the recipe.
        """
        if variant == "none":
            return self
        aligned = replace(self, recipe=with_settings(self.recipe, {"alignment": variant, **changes}))
        return aligned.with_options(pam=True) if variant == "pam-self" else aligned

    def to_json(self) -> dict[str, Any]:
        """The experiment as nested dictionaries and lists; settings of the recipe that have no effect are left out."""
        left_out = {"genotype_from"} if self.same_weights else {"genotype_from", "same_weights"}
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in left_out}
        settings = canonical(self.recipe).items()
        found["recipe"] = {name: list(value) if isinstance(value, tuple) else value for name, value in settings}
        found["options"] = [list(option) for option in self.options]
        return found if self.genotype_from is None else found | {"genotype_from": self.genotype_from.to_json()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Experiment":
        """The experiment that `to_json` wrote; it has the same key.

        Raises:
            UserError: it is not an experiment of this version.
        """
        try:
            settings = dict(found["recipe"])
            settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
            recipe = from_canonical(settings)
            search = found.get("genotype_from")
            return cls(
                **dict(found)
                | {
                    "recipe": recipe,
                    "options": tuple((str(name), value) for name, value in found["options"]),
                    "genotype_from": None if search is None else cls.from_json(search),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"not an experiment of this version of the code ({error!r:.200})") from error

    @property
    def key(self) -> str:
        """Hash of the experiment and the revision of its network.

        The profile's name is not part of it: two profiles with equal settings share a run. A training that waits for
        a search has a key that no run has. Otherwise it would have the key of the default genotype's training.
        """
        settings = {name: value for name, value in self.to_json().items() if name != "profile"}
        if self.genotype_from is not None:
            settings["genotype_from"] = self.genotype_from.key
        if revision := card_of(self.model).revision:
            settings["revision"] = revision
        return stable_hash(settings)

    def run_id(self, fingerprints: Mapping[str, str], weights: str | None) -> str:
        """Hash of the experiment, of its data and of the weights it starts from.

        Args:
            fingerprints: by data set, source and target included.
            weights: hash of the pre-trained weights, None from scratch.
        """
        return stable_hash([RESULTS_VERSION, self.key, fingerprints[self.source], fingerprints[self.target], weights])

    def __str__(self) -> str:
        options = "".join(f" {name}={value}" for name, value in self.options)
        if self.recipe.search is not None:
            return f"search {self.recipe.search.label}{options} {self.source} seed {self.seed}"
        if self.recipe.unsupervised is not None:
            options += f" {self.recipe.unsupervised.method}"
        if self.recipe.losses.alignment != "none":
            options += f" {self.recipe.losses.alignment} x{self.recipe.losses.alignment_weight:g}"
        if self.genotype_from is not None:
            options += f" of {self.genotype_from}"
        data = f"{self.source}->{self.target}" if self.cross_domain else self.source
        weights = " with the same weights" if self.same_weights else ""
        return f"{self.model}{options} {self.init} {data}{weights} seed {self.seed}"
