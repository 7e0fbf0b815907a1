"""How an architecture is searched: every number that can change the outcome (Sec. 3.1; SPEC A.5, A.7, A.10)."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from msinet.data.transforms import Augmentation
from msinet.errors import UserError, unknown_name
from msinet.training.profiles import fit_size
from msinet.training.recipe import Recipe


@dataclass(frozen=True)
class SearchRecipe(Recipe):
    """The defaults are the paper's; where it is silent, the released code's, unless that looks like an oversight.

    What the released code does otherwise is a named option: `split`, `halves`, `memory_init`, `order`, `leak`, `mid`
    and `alpha_milestones`.
    """

    lr: float = 0.025
    """learning rate of the weights after warm-up"""
    label_smoothing: float = 0.0
    """epsilon of the identity loss of mechanism ce"""
    mechanism: Literal["tcm", "ce", "tpe"] = "tcm"
    """tcm: two memories; ce: one linear classifier on both sides; tpe: no supernet, trial trainings chosen by
    Optuna's TPE sampler at the same number of passes"""
    overlap: float = 0.4
    """share of identities on both sides, in [0, 1]"""
    side_ratio: float = 2.0
    """identities in validation only for each one in training only"""
    split: Literal["general", "fifths"] = "general"
    """fifths: block sizes of the released code, n // 5 each; the same at overlap 0.4 but for rounding"""
    halves: Literal["random", "list"] = "random"
    """which images of a shared identity train: a random half, or the first in the list (released code)"""
    temperature: float = 0.05
    """tau of the contrast with the memory"""
    momentum: float = 0.2
    """beta: how much of a memory's row stays when it is updated"""
    memory_init: Literal["centroids", "zeros"] = "centroids"
    """what memories hold at first: class centroids, or zeros (released code)"""
    order: Literal["weights", "alphas"] = "weights"
    """which step comes first in an iteration; alphas (released code) also leaves out each epoch's first alpha step"""
    leak: bool = False
    """the alpha step's gradients of the weights are not cleared but add to the next weight step (released code)"""
    mid: Literal["out", "in"] = "out"
    """branches of the supernet are a quarter as wide as a cell's output, or its input (released code)"""
    alpha_lr: float = 0.002
    """learning rate of the architecture parameters, without warm-up"""
    alpha_weight_decay: float = 1e-3
    """on the architecture parameters"""
    alpha_milestones: tuple[int, ...] = (150, 225, 300)
    """epochs at which their learning rate falls to a tenth; the released code's last one, 350, never acts"""
    trials: int = 8
    """of mechanism tpe: how many genotypes are trained"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "fp32":
            raise UserError("recipe: a search runs in fp32; precision is a setting of trainings")
        for name, known in (
            ("mechanism", ("tcm", "ce", "tpe")),
            ("split", ("general", "fifths")),
            ("halves", ("random", "list")),
            ("memory_init", ("centroids", "zeros")),
            ("order", ("weights", "alphas")),
            ("mid", ("out", "in")),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if not 0 <= self.overlap <= 1:
            raise UserError(f"recipe: overlap must lie in [0, 1], got {self.overlap}")
        if self.mechanism == "ce" and self.overlap != 1:
            raise UserError(
                f"recipe: one classifier serves both sides only if they share all identities; mechanism ce needs "
                f"overlap 1, got {self.overlap:g}"
            )
        for name in ("side_ratio", "temperature", "alpha_lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"recipe: {name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"recipe: momentum must lie in [0, 1), got {self.momentum}")
        if not (self.alpha_weight_decay >= 0 and math.isfinite(self.alpha_weight_decay)):
            raise UserError(f"recipe: alpha_weight_decay must be at least 0, got {self.alpha_weight_decay}")
        if self.trials < 1:
            raise UserError(f"recipe: trials must be at least 1, got {self.trials}")

    @property
    def label(self) -> str:
        """Mechanism, overlap and what differs from the paper's search, in a few words."""
        if self.mechanism == "tpe":
            return f"TPE, {self.trials} trials"
        words = [f"{self.mechanism.upper()} r={self.overlap:g}"]
        for name in ("side_ratio", "temperature", "momentum", "split", "halves", "memory_init", "order", "leak", "mid"):
            default = SearchRecipe.__dataclass_fields__[name].default
            if getattr(self, name) != default:
                value = getattr(self, name)
                words.append(
                    name if value is True else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                )
        return " ".join(words)

    def with_epochs(self, epochs: int) -> Self:
        """The same schedule stretched or shrunk to `epochs`, the architecture's milestones too."""
        changed = super().with_epochs(epochs)
        if not self.epochs:
            return changed
        milestones = tuple(max(1, round(m * epochs / self.epochs)) for m in self.alpha_milestones)
        return replace(changed, alpha_milestones=milestones)

    def alpha_learning_rate(self, epoch: int) -> float:
        """The architecture's learning rate of an epoch, counted from 0: no warm-up (SPEC A.7)."""
        return float(self.alpha_lr * 0.1 ** sum(epoch >= m for m in self.alpha_milestones))


#: Of searches, by the names of the profiles. Mini's few steps need larger ones of the architecture too.
SEARCHES: dict[str, SearchRecipe] = {
    "smoke": SearchRecipe(
        height=32,
        width=16,
        identities=3,
        images=2,
        epochs=2,
        steps_per_epoch=3,
        optimizer="adam",
        lr=1e-3,
        warmup=1,
        milestones=(2,),
        augmentation=Augmentation(pad=1),
        alpha_lr=0.1,
        alpha_milestones=(2,),
        trials=2,
    ),
    "mini": SearchRecipe(
        height=64,
        width=32,
        epochs=12,
        steps_per_epoch=10,
        optimizer="adam",
        lr=4e-3,
        warmup=5,
        milestones=(10, 11),
        augmentation=Augmentation(pad=2, erase=0.0),
        alpha_lr=0.05,
        alpha_milestones=(10, 11),
    ),
    "full": SearchRecipe().with_epochs(120),
    "paper": SearchRecipe(),
}


def search_recipe(profile: str, source: str) -> SearchRecipe:
    """How a profile searches on a data set: vehicles are square.

    Raises:
        UserError: unknown profile.
    """
    if profile not in SEARCHES:
        raise unknown_name("profile", profile, SEARCHES)
    return fit_size(SEARCHES[profile], profile, source)
