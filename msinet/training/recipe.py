"""How a network is trained: every number that can change the outcome (SPEC A.4, A.7, A.8)."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from msinet.data.sampler import epoch_batches, shuffled_batches
from msinet.data.transforms import Augmentation, NoiseErasing, ResizedCrop
from msinet.errors import UserError, unknown_name
from msinet.losses import Variant


@dataclass(frozen=True)
class Recipe:
    """The defaults are the paper's for persons; profiles shorten them, tasks adapt them."""

    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels: 128 for persons, 256 for vehicles"""
    identities: int = 16
    """P: identities in a batch"""
    images: int = 4
    """K: images of each identity in a batch"""
    epochs: int = 350
    """epochs of training"""
    steps_per_epoch: int | None = None
    """batches in an epoch; None: one pass over the training set"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd (momentum 0.9) or adam"""
    lr: float = 0.065
    """learning rate after warm-up"""
    weight_decay: float = 5e-4
    """on every parameter, batch norms and biases included"""
    warmup: int = 10
    """epochs of linear warm-up from a hundredth of the learning rate"""
    milestones: tuple[int, ...] = (150, 225, 300)
    """epochs at which the learning rate falls to a tenth"""
    label_smoothing: float = 0.1
    """epsilon of the identity loss"""
    margin: float = 0.3
    """margin of the triplet loss"""
    normalize_triplet: bool = True
    """compare unit vectors in the triplet loss, as the released code does"""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """flip, pad and crop, jitter, erase"""
    alignment: Variant = "none"
    """spatial alignment: none, self-pos, self-neg, unified, separated or pam-self (which needs a network with pam)"""
    alignment_weight: float = 2.0
    """lambda_sa"""
    alignment_grid: Literal["anchor", "partner"] = "anchor"
    """whose positions are compared; partner is what the released code does"""
    alignment_self_pairs: bool = True
    """whether an image is its own partner, as in the released code"""
    alignment_per_pair: bool = True
    """negatives: mean over pairs, as in the released code; False: their sum over the number of negatives (Eq. 8)"""

    precision: Literal["fp32", "bf16"] = "fp32"
    """of the network's maps in training: bf16 halves their memory traffic; weights, losses and ranking stay fp32"""

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise unknown_name("precision", self.precision, ("fp32", "bf16"))
        if self.alignment not in get_args(Variant):
            raise unknown_name("variant of spatial alignment", self.alignment, get_args(Variant))
        if self.alignment_grid not in ("anchor", "partner"):
            raise unknown_name("alignment_grid", self.alignment_grid, ("anchor", "partner"))
        if not (self.alignment_weight >= 0 and math.isfinite(self.alignment_weight)):
            raise UserError(f"recipe: alignment_weight must be at least 0, got {self.alignment_weight}")
        # 16 pixels are one place of the final map; one identity in a batch would have no negatives.
        least = {"height": 16, "width": 16, "identities": 2, "images": 1, "epochs": 0, "warmup": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"recipe: {name} must be at least {bound}, got {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"recipe: steps_per_epoch must be at least 1, got {self.steps_per_epoch}")
        if self.optimizer not in ("sgd", "adam"):
            raise UserError(f"recipe: optimizer must be sgd or adam, got {self.optimizer!r}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"recipe: lr must be above 0, got {self.lr}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise UserError(f"recipe: weight_decay must be at least 0, got {self.weight_decay}")
        if self.augmentation.pad < 0:
            raise UserError(f"recipe: pad must be at least 0, got {self.augmentation.pad}")
        shares = {
            "label_smoothing": self.label_smoothing,
            "flip": self.augmentation.flip,
            "erase": self.augmentation.erase,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UserError(f"recipe: {name} must lie in [0, 1], got {value}")

    def named(self) -> dict[str, Any]:
        """What names runs: every setting, nested, but for those that came later and are at their default.

        So a run keeps its name when the code learns something that it does not use.
        """
        settings = asdict(self)
        if self.alignment == "none":
            settings = {name: value for name, value in settings.items() if not name.startswith("alignment")}
        if self.precision == "fp32":
            del settings["precision"]
        return settings

    def with_epochs(self, epochs: int) -> Self:
        """The same schedule stretched or shrunk to `epochs`: warm-up and milestones keep their share."""
        if self.epochs == 0:
            return replace(self, epochs=epochs)
        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup=round(self.warmup * share),
            milestones=tuple(max(1, round(m * share)) for m in self.milestones),
        )

    def batches(self, labels: np.ndarray, *, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in `labels`; a pure function of its arguments.

        Raises:
            DataError: too few identities for a batch.
        """
        return epoch_batches(labels, self.identities, self.images, seed=seed, epoch=epoch, steps=self.steps_per_epoch)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0 (SPEC A.7).

        base * w(e) * 0.1^(milestones passed), with w rising linearly from 0.01 over the warm-up.
        """
        share = epoch / self.warmup if epoch < self.warmup else 1.0
        warm = 0.01 * (1 - share) + share
        decay = 0.1 ** sum(epoch >= m for m in self.milestones)
        return float(self.lr * warm * decay)


@dataclass(frozen=True)
class TransformerRecipe(Recipe):
    """How transformers are trained: TransReID's baseline (SPEC B.4), whose defaults are those of ViT-B.

    Cosine in place of milestones. What TransReID does besides: half precision, which is `precision` here, and bicubic
    resizing of training images, which is left out (bilinear, as at test).
    """

    epochs: int = 120
    """epochs of training"""
    lr: float = 0.008
    """learning rate after warm-up"""
    weight_decay: float = 1e-4
    """on every parameter, batch norms and biases included"""
    warmup: int = 5
    """epochs of linear warm-up from a hundredth of the learning rate"""
    milestones: tuple[int, ...] = ()
    """epochs at which the learning rate falls to a tenth, besides the cosine"""
    label_smoothing: float = 0.0
    """epsilon of the identity loss"""
    normalize_triplet: bool = False
    """compare unit vectors in the triplet loss"""
    augmentation: NoiseErasing = field(default_factory=NoiseErasing)
    """flip, pad and crop, jitter, erase"""
    soft_margin: bool = True
    """log(1 + exp(positive - negative)) in place of the margin"""
    bias_lr: float = 2.0
    """learning rate of biases, as a multiple"""
    last_lr: float = 0.002
    """what the cosine comes down to, as a share of the learning rate"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("bias_lr", self.bias_lr), ("last_lr", self.last_lr)):
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"recipe: {name} must be at least 0, got {value}")

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: after the warm-up a cosine over all epochs."""
        if epoch < self.warmup:
            return super().learning_rate(epoch)
        cosine = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return super().learning_rate(epoch) * (self.last_lr + (1 - self.last_lr) * cosine)


@dataclass(frozen=True)
class Pretraining(Recipe):
    """Classification: the identity loss alone, on shuffled batches of identities * images images.

    The defaults are the ImageNet recipe of CDNet, the nearest to MSINet's own, which is not published
    (SPEC A.7). Of label smoothing that says nothing: it is 0.1, as everywhere here. A class of its own, because
    what `Recipe` holds names the finished runs of re-identification.
    """

    height: int = 224
    """image height in pixels"""
    width: int = 224
    """image width in pixels"""
    identities: int = 32
    """a batch has identities * images images, of any class"""
    epochs: int = 240
    """epochs of training"""
    lr: float = 0.1
    """learning rate after warm-up"""
    weight_decay: float = 3e-5
    """on every parameter, batch norms and biases included"""
    warmup: int = 0
    """epochs of linear warm-up from a hundredth of the learning rate"""
    milestones: tuple[int, ...] = ()
    """epochs at which the learning rate falls to a tenth"""
    augmentation: ResizedCrop = field(default_factory=ResizedCrop)
    """flip, random resized crop, jitter, erase"""
    epoch_decay: float = 0.97
    """factor of the learning rate from one epoch to the next"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("epoch_decay", self.epoch_decay), ("crop", self.augmentation.crop)):
            if not 0 < value <= 1:
                raise UserError(f"recipe: {name} must lie in (0, 1], got {value}")
        if self.augmentation.pad:
            raise UserError(
                f"recipe: pad must be 0 in pre-training, where a random resized crop takes its place, "
                f"got {self.augmentation.pad}"
            )

    def with_epochs(self, epochs: int) -> Self:
        """The same schedule stretched or shrunk to `epochs`: it ends at the same learning rate."""
        changed = super().with_epochs(epochs)
        if not (self.epochs and epochs):
            return changed
        return replace(changed, epoch_decay=self.epoch_decay ** (self.epochs / epochs))

    def batches(self, labels: np.ndarray, *, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in `labels`; a pure function of its arguments.

        Raises:
            DataError: too few images for a batch.
        """
        size = self.identities * self.images
        return shuffled_batches(len(labels), size, seed=seed, epoch=epoch, steps=self.steps_per_epoch)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0: that of `Recipe` times epoch_decay^epoch."""
        return super().learning_rate(epoch) * self.epoch_decay**epoch
