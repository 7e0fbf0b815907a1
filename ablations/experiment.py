"""An experiment: everything that can change an outcome, and nothing else."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from msinet.io import stable_hash
from msinet.training.recipe import Recipe, Variant, canonical, with_settings

#: Raise by hand when numerics change, so that old records stop counting as results of the new code.
RESULTS_VERSION = 2

Init = Literal["scratch", "pretrained"]


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
    options: tuple[tuple[str, str | int | float | bool], ...] = field(default=())
    """of the model, sorted by name"""
    genotype_from: "Experiment | None" = None
    """the search whose result is trained; `known` puts the genotype among the options once it is there"""

    @property
    def is_search(self) -> bool:
        """Whether an architecture is searched rather than a network trained."""
        return self.recipe.search is not None

    def known(self, genotype: str) -> "Experiment":
        """The same with the genotype that its search found. What found it is no part of what is trained."""
        return replace(self, genotype_from=None, options=tuple(sorted((*self.options, ("genotype", genotype)))))

    @property
    def cross_domain(self) -> bool:
        """Whether it is tested on a set other than the one it was trained on."""
        return self.source != self.target

    def aligned(self, variant: Variant, **changes: Any) -> "Experiment":
        """The same with spatial alignment; the network gets the module that pam-self needs.

        Args:
            variant: of the alignment; none is the experiment itself.
            changes: to the recipe's other settings of the alignment.
        """
        if variant == "none":
            return self
        options = (("pam", True),) if variant == "pam-self" else ()
        recipe = with_settings(self.recipe, {"alignment": variant, **changes})
        return replace(self, recipe=recipe, options=tuple(sorted((*self.options, *options))))

    def as_dict(self) -> dict[str, Any]:
        """Nested dictionary for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "genotype_from"} | {
            "recipe": canonical(self.recipe)
        }

    @property
    def key(self) -> str:
        """Hash of the experiment alone.

        The profile's name is not part of it: two profiles that come to the same settings share a run. What waits for
        a search has a key that no run has, or it would be taken for the network with the default genotype.
        """
        settings = {name: value for name, value in self.as_dict().items() if name != "profile"}
        if self.genotype_from is not None:
            settings["genotype_from"] = self.genotype_from.key
        return stable_hash(settings)

    def run_id(self, fingerprints: dict[str, str], weights: str | None) -> str:
        """Hash of the experiment, of the data it reads and of the weights it starts from.

        Args:
            fingerprints: by data set; source and target must be there.
            weights: hash of the pre-trained weights, None from scratch.
        """
        return stable_hash([RESULTS_VERSION, self.key, fingerprints[self.source], fingerprints[self.target], weights])

    def __str__(self) -> str:
        options = "".join(f" {name}={value}" for name, value in self.options)
        if self.recipe.search is not None:
            return f"search {self.recipe.search_settings.label}{options} {self.source} seed {self.seed}"
        if self.recipe.losses.alignment != "none":
            options += f" {self.recipe.losses.alignment} x{self.recipe.losses.alignment_weight:g}"
        if self.genotype_from is not None:
            options += f" of {self.genotype_from}"
        where = self.source if not self.cross_domain else f"{self.source}->{self.target}"
        return f"{self.model}{options} {self.init} {where} seed {self.seed}"
