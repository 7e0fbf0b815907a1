"""A recipe holds every number that can change the outcome of a training, a search or an unsupervised method.

It is composed of small parts, each of which validates itself. Names are unique over all parts, so a setting has one
short name everywhere: on the command line (`--recipe lr=0.01`), in records and in the hash of a run. The defaults are
the paper's for persons (Sec. 4.2-4.3); `msinet.training.recipes` adapts them to profile, task, network and data set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np

from msinet.checks import above_zero, at_least, choices, shares
from msinet.data.augmentation import Augmentation
from msinet.data.sampler import epoch_batches, shuffled_batches
from msinet.errors import UserError, unknown_name

Value = str | int | float | bool | None | tuple[int, ...]
Variant = Literal["none", "self-pos", "self-neg", "unified", "separated", "pam-self"]


@dataclass(frozen=True)
class ImageSize:
    """Size of the network's input."""

    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels: 128 for persons, 256 for vehicles"""

    def __post_init__(self) -> None:
        at_least(self, {"height": 16, "width": 16})  # 16 pixels are one position of the final map


@dataclass(frozen=True)
class Sampler:
    """Batches of P identities with K images each, or shuffled ones for classifiers."""

    sampler: Literal["identities", "shuffled"] = "identities"
    """identities: P x K batches; shuffled: identities * images images of any class"""
    identities: int = 16
    """P: identities in a batch"""
    images: int = 4
    """K: images of each identity in a batch"""
    steps_per_epoch: int | None = None
    """batches in an epoch; None: one pass over the training set"""

    def __post_init__(self) -> None:
        choices(self)
        at_least(self, {"identities": 2, "images": 1})  # one identity in a batch would have no negatives
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"recipe: steps_per_epoch must be at least 1, got {self.steps_per_epoch}")

    @property
    def batch(self) -> int:
        """Images in a batch: P * K."""
        return self.identities * self.images

    def batches(self, labels: np.ndarray, *, seed: int, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as positions in `labels`; a pure function of its arguments.

        Raises:
            DataError: too few identities or images for a batch.
        """
        if self.sampler == "shuffled":
            return shuffled_batches(len(labels), self.batch, seed=seed, epoch=epoch, steps=self.steps_per_epoch)
        return epoch_batches(labels, self.identities, self.images, seed=seed, epoch=epoch, steps=self.steps_per_epoch)


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of the weights."""

    optimizer: Literal["sgd", "nesterov", "adam", "amsgrad"] = "sgd"
    """sgd (momentum 0.9), nesterov (sgd with Nesterov momentum), adam or amsgrad"""
    lr: float = 0.065
    """learning rate after warm-up"""
    weight_decay: float = 5e-4
    """on every parameter, batch norms and biases included"""
    bias_lr: float = 1.0
    """learning rate of biases, as a multiple of lr"""
    backbone_lr: float = 1.0
    """learning rate of the layers before the head, as a multiple of lr"""

    def __post_init__(self) -> None:
        choices(self)
        above_zero(self, ("lr",))
        at_least(self, {"weight_decay": 0, "bias_lr": 0, "backbone_lr": 0})


@dataclass(frozen=True)
class Schedule:
    """Length of a training, and the factor on the learning rate in each epoch."""

    epochs: int = 350
    """epochs of training"""
    warmup: int = 10
    """epochs of linear warm-up from a hundredth of the learning rate"""
    milestones: tuple[int, ...] = (150, 225, 300)
    """epochs at which the learning rate is multiplied by `decay`"""
    decay: float = 0.1
    """factor of the learning rate at each milestone"""
    cosine_to: float | None = None
    """cosine schedule after the warm-up, down to this share of the learning rate; None: no cosine"""
    epoch_decay: float = 1.0
    """factor of the learning rate from one epoch to the next"""

    def __post_init__(self) -> None:
        at_least(self, {"epochs": 0, "warmup": 0})
        if self.cosine_to is not None:
            at_least(self, {"cosine_to": 0})
        for name in ("decay", "epoch_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"recipe: {name} must lie in (0, 1], got {getattr(self, name)}")

    def learning_rate(self, base: float, epoch: int) -> float:
        """The learning rate of epoch e: base * w(e) * decay^(milestones passed) * epoch_decay^e * cosine(e).

        Epochs count from 0; w rises linearly from 0.01 over the warm-up.
        """
        share = epoch / self.warmup if epoch < self.warmup else 1.0
        warm = 0.01 * (1 - share) + share
        rate = base * warm * self.decay ** sum(epoch >= m for m in self.milestones) * self.epoch_decay**epoch
        if self.cosine_to is not None and epoch >= self.warmup:
            cosine = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            rate *= self.cosine_to + (1 - self.cosine_to) * cosine
        return float(rate)

    def with_epochs(self, epochs: int) -> Self:
        """The schedule scaled to `epochs`: warm-up, milestones and total epoch decay keep their proportions."""
        if not self.epochs:
            return replace(self, epochs=epochs)
        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup=round(self.warmup * share),
            milestones=tuple(max(1, round(m * share)) for m in self.milestones),
            epoch_decay=self.epoch_decay ** (self.epochs / epochs) if epochs else self.epoch_decay,
        )


@dataclass(frozen=True)
class Losses:
    """Identity loss (Eq. 5), triplet loss (Eq. 6) and spatial alignment (Eq. 7-8)."""

    label_smoothing: float = 0.1
    """epsilon of the identity loss"""
    identity_margin: float = 0.0
    """subtracted from the logit of an image's own identity (AM-softmax, for SFT); 0: none"""
    triplet: bool = True
    """whether there is a triplet loss; classifiers have none"""
    margin: float = 0.3
    """margin of the triplet loss"""
    soft_margin: bool = False
    """log(1 + exp(positive - negative)) in place of the margin (transformers)"""
    normalize_triplet: bool = True
    """compare unit vectors in the triplet loss, as the released code does"""
    over_heads: Literal["sum", "mean"] = "sum"
    """how losses of several heads are combined: summed, or each kind averaged (MGN)"""
    alignment: Variant = "none"
    """spatial alignment: none, self-pos, self-neg, unified, separated or pam-self (which needs a network with pam)"""
    alignment_weight: float = 2.0
    """lambda_sa, weight of the spatial alignment loss"""
    alignment_grid: Literal["anchor", "partner"] = "anchor"
    """image on whose grid positions are compared; partner: as in the released code"""
    alignment_self_pairs: bool = True
    """pairs of a partner with itself count and, in pam-self, the anchor is its own partner, as in the released code"""
    alignment_per_pair: bool = True
    """negatives: mean over pairs, as in the released code; False: their sum over the number of negatives (Eq. 8)"""

    def __post_init__(self) -> None:
        choices(self)
        at_least(self, {"alignment_weight": 0, "identity_margin": 0})
        shares(self, ("label_smoothing",))


@dataclass(frozen=True)
class Search:
    """Settings of an architecture search by the twins contrastive mechanism or a baseline (Sec. 3.1).

    Defaults are the paper's. Where the paper gives no value, they are the released code's, unless that looks like an
    oversight. Other behaviours of the released code are options: split, halves, memory_init, order, leak, mid and
    alpha_milestones.
    """

    mechanism: Literal["tcm", "ce", "tpe"] = "tcm"
    """tcm: two memories; ce: one linear classifier on both sides; tpe: no supernet, but trials chosen by Optuna's TPE
    sampler with the same total number of batches"""
    overlap: float = 0.4
    """share of identities on both sides, in [0, 1]"""
    side_ratio: float = 2.0
    """identities in validation only for each one in training only"""
    split: Literal["general", "fifths"] = "general"
    """fifths: block sizes of the released code (n // 5); equal to general at overlap 0.4 except for rounding"""
    halves: Literal["random", "list"] = "random"
    """which images of a shared identity train: a random half, or the first in the list (released code)"""
    temperature: float = 0.05
    """tau of the contrast with the memory (Eq. 2)"""
    momentum: float = 0.2
    """beta: weight of the old row in an update of the memory (Eq. 3)"""
    memory_init: Literal["centroids", "zeros"] = "centroids"
    """initial memories: class centroids, or zeros (released code)"""
    order: Literal["weights", "alphas"] = "weights"
    """which step comes first in an iteration; alphas (released code) also leaves out each epoch's first alpha step"""
    leak: bool = False
    """add the weights' gradients from the alpha step to the next weight step (released code)"""
    mid: Literal["out", "in"] = "out"
    """channels of a supernet branch: a quarter of the cell's output, or of its input (released code)"""
    alpha_lr: float = 0.002
    """learning rate of the architecture parameters, without warm-up"""
    alpha_weight_decay: float = 1e-3
    """weight decay on the architecture parameters"""
    alpha_milestones: tuple[int, ...] = (150, 225, 300)
    """epochs at which their learning rate falls to a tenth; the released code's last one, 350, is never reached"""
    trials: int = 8
    """tpe: number of genotypes that are trained"""

    def __post_init__(self) -> None:
        choices(self)
        shares(self, ("overlap",))
        if self.mechanism == "ce" and self.overlap != 1:
            raise UserError(
                f"recipe: both sides can use one classifier only if they share all identities; mechanism ce needs "
                f"overlap 1, got {self.overlap:g}"
            )
        if self.split == "fifths" and (self.mechanism == "ce" or (self.overlap, self.side_ratio) != (0.4, 2.0)):
            raise UserError(
                "recipe: split fifths is that of the released code, which shares two fifths of all identities; it "
                "needs mechanism tcm or tpe, overlap 0.4 and side_ratio 2"
            )
        above_zero(self, ("side_ratio", "temperature", "alpha_lr"))
        if not 0 <= self.momentum < 1:
            raise UserError(f"recipe: momentum must lie in [0, 1), got {self.momentum}")
        at_least(self, {"alpha_weight_decay": 0, "trials": 1})

    @property
    def label(self) -> str:
        """Short label: mechanism, overlap and differences from the paper's search."""
        if self.mechanism == "tpe":
            return f"TPE, {self.trials} trials"
        words = [f"{self.mechanism.upper()} r={self.overlap:g}"]
        for name in ("side_ratio", "temperature", "momentum", "split", "halves", "memory_init", "order", "leak", "mid"):
            value = getattr(self, name)
            if value != getattr(Search, name):
                words.append(
                    name if value is True else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                )
        return " ".join(words)

    def alpha_learning_rate(self, epoch: int) -> float:
        """The architecture's learning rate of an epoch, counted from 0: no warm-up."""
        return float(self.alpha_lr * 0.1 ** sum(epoch >= m for m in self.alpha_milestones))


Method = Literal["clustercontrast", "gs", "spcl", "hdcrl", "mmcl", "idm", "mmt"]
#: Methods that learn only from unlabelled images (USL), and those that adapt from a labelled source set (UDA).
ALONE: tuple[Method, ...] = ("clustercontrast", "gs", "spcl", "hdcrl", "mmcl")
ADAPTING: tuple[Method, ...] = ("spcl", "idm", "mmt")
#: Settings of the clusters, and of the memory that features are compared with.
CLUSTERS = ("k1", "k2", "neighbour_lists", "jaccard_scaled", "min_samples")
MEMORY = ("memory_temperature", "memory_momentum")
#: Settings of `Unsupervised` that only some methods have.
OWN_SETTINGS: dict[Method, tuple[str, ...]] = {
    "clustercontrast": (*CLUSTERS, "eps", *MEMORY, "hard_update"),
    "gs": (*CLUSTERS, "eps", *MEMORY, "group"),
    "spcl": (*CLUSTERS, "eps", *MEMORY, "eps_gap", "reliable"),
    "hdcrl": (*CLUSTERS, "eps", *MEMORY, "distillation", "teacher_decay", "teacher_warmup"),
    "mmcl": ("memory_momentum", "similarity", "positive_weight", "hardest", "single_share"),
    "idm": (*CLUSTERS, "eps", "identity_weight", "bridge_prob", "bridge_feat", "diversity", "cross_batch"),
    "mmt": (*CLUSTERS, "teacher_decay", "source_share", "closest", "soft_identity", "soft_triplet"),
}
#: Settings of `Losses` that methods use.
OWN_LOSSES: dict[Method, tuple[str, ...]] = {"idm": ("label_smoothing", "margin"), "mmt": ("label_smoothing",)}


@dataclass(frozen=True)
class Unsupervised:
    """Settings of the methods without labels (Sec. 4.4, Table 4).

    The defaults are those of GS on Market-1501; `msinet.training.recipes.paper` has those of the other methods.
    """

    method: Method = "gs"
    """clustercontrast, gs, spcl, hdcrl, mmcl, idm or mmt (docs/table4.md)"""
    feature: Literal["global", "transfer"] = "global"
    """global: pooled final map after a batch norm; transfer: both branches after theirs (released MSINet code)"""
    k1: int = 30
    """neighbours of the Jaccard distance"""
    k2: int = 6
    """neighbours whose encodings are averaged"""
    neighbour_lists: Literal["k1", "k1+1"] = "k1"
    """length of the neighbour lists, the image itself included; k1: as in code that uses faiss"""
    jaccard_scaled: bool = False
    """divide distances by the largest in their row before encoding, as in re-ranking"""
    eps: float = 0.6
    """radius of DBSCAN; mmt computes its own"""
    min_samples: int = 4
    """images within the radius that make a core point of DBSCAN"""
    memory_temperature: float = 0.05
    """tau of the contrast with the memory"""
    memory_momentum: float = 0.2
    """weight of the old row in an update of the memory; mmcl: this times epoch / epochs"""
    hard_update: bool = False
    """of clustercontrast: only the least similar image of a cluster in a batch updates its centre"""
    group: int = 256
    """of gs: largest number of consecutive images of a cluster; 0: all images in random order"""
    eps_gap: float = 0.02
    """of spcl: difference between eps and the smaller or larger radius"""
    reliable: float = 0.9
    """of spcl: quantile of the clusters' independence in the first epoch, used as threshold in all epochs"""
    distillation: bool = True
    """of hdcrl: probability distillation, as in its paper, and the teacher is the result; False: as in its released USL
    code, whose result is the student"""
    teacher_decay: float = 0.999
    """of hdcrl and mmt: largest decay of the teacher's moving average"""
    teacher_warmup: int = 49
    """of hdcrl: step that copies the student to the teacher; from then on its decay rises"""
    identity_weight: float = 0.3
    """of idm: weight of the identity loss"""
    bridge_prob: float = 0.7
    """of idm: mu_1, weight of the identity loss of mixed images"""
    bridge_feat: float = 0.1
    """of idm: mu_2, weight of the distance of mixed features to both domains"""
    diversity: float = 1.0
    """of idm: mu_3, weight of the diversity of the mixtures"""
    cross_batch: bool = True
    """of idm: triplets with a memory of earlier batches (the strong baseline)"""
    similarity: float = 0.6
    """of mmcl: least cosine of an image's positives"""
    positive_weight: float = 5.0
    """of mmcl: delta, weight of the positives"""
    hardest: float = 0.01
    """of mmcl: share of the negatives (the most similar ones) in the loss"""
    single_share: float = 1 / 12
    """of mmcl: share of the epochs, from the start, in which an image is its only positive"""
    source_share: float = 0.5
    """of mmt: share of the epochs, from the start, that train on the source"""
    closest: float = 0.0016
    """of mmt: share of the closest pairs, whose mean distance is the radius of DBSCAN"""
    soft_identity: float = 0.5
    """of mmt: weight of the identity loss with the other teacher; the loss with clusters has 1 - this weight"""
    soft_triplet: float = 0.8
    """of mmt: weight of the triplet loss with the other teacher; the loss with clusters has 1 - this weight"""

    def __post_init__(self) -> None:
        choices(self)
        above_zero(self, ("eps", "memory_temperature"))
        at_least(self, {"k1": 1, "k2": 1, "min_samples": 1, "group": 0, "eps_gap": 0, "teacher_warmup": 1})
        at_least(self, dict.fromkeys(("identity_weight", "bridge_prob", "bridge_feat", "diversity"), 0))
        above_zero(self, ("positive_weight", "closest"))
        shares(self, ("memory_momentum", "reliable", "teacher_decay", "similarity", "hardest", "single_share"))
        shares(self, ("source_share", "closest", "soft_identity", "soft_triplet"))
        if self.eps + self.eps_gap >= 1:
            raise UserError(
                f"recipe: eps + eps_gap must be below 1, the largest distance, got {self.eps + self.eps_gap:g}"
            )
        if self.k2 > self.k1:
            raise UserError(f"recipe: k2 must be at most k1, got k1 {self.k1} and k2 {self.k2}")

    def runs(self, *, across: bool) -> bool:
        """True if the method adapts from a labelled source set (across), or learns from images alone (not across)."""
        return self.method in (ADAPTING if across else ALONE)

    @property
    def neck(self) -> str:
        """Name of the neck with this feature."""
        return {"global": "bn", "transfer": "transfer"}[self.feature]


#: Precisions, and their names in `canonical`. There "fp32" means tf32, torch's default, so that run ids of older runs
#: stay valid. On CPUs both are the same.
CANONICAL_PRECISIONS = {"fp32": "ieee", "tf32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Recipe:
    """All settings of a training, a search (with `search`) or a method without labels (with `unsupervised`)."""

    image: ImageSize = field(default_factory=ImageSize)
    sampler: Sampler = field(default_factory=Sampler)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    losses: Losses = field(default_factory=Losses)
    precision: Literal["fp32", "tf32", "bf16"] = "tf32"
    """fp32: IEEE arithmetic; tf32: GPUs round inputs of matrix products and convolutions to TF32, CPUs compute in fp32;
    bf16: autocast in training; weights, losses and ranking stay fp32"""
    search: Search | None = None
    """None: a training"""
    unsupervised: Unsupervised | None = None
    """None: a training with labels, or a search"""

    def __post_init__(self) -> None:
        if self.search is not None and self.unsupervised is not None:
            raise UserError("recipe: an architecture search needs labels; unsupervised methods train a given network")
        if self.unsupervised is not None and (self.precision == "bf16" or self.sampler.sampler != "identities"):
            raise UserError("recipe: unsupervised methods run in fp32 or tf32 and draw batches of identities")
        choices(self)
        if self.search is not None and self.precision == "bf16":
            raise UserError("recipe: a search runs in fp32 or tf32; bf16 is for trainings")
        if self.search is not None and self.sampler.sampler != "identities":
            raise UserError("recipe: a search draws batches of identities; sampler is a setting of trainings")

    @property
    def search_settings(self) -> Search:
        """The settings of a search's recipe.

        Raises:
            ValueError: the recipe is a training's.
        """
        if self.search is None:
            raise ValueError("the recipe of a training has no settings of a search")
        return self.search

    @property
    def method_settings(self) -> Unsupervised:
        """The settings of an unsupervised method's recipe.

        Raises:
            ValueError: the recipe is not that of an unsupervised method.
        """
        if self.unsupervised is None:
            raise ValueError("the recipe of a training has no settings of an unsupervised method")
        return self.unsupervised

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.schedule.learning_rate(self.optimizer.lr, epoch)

    def with_epochs(self, epochs: int) -> Self:
        """The recipe with its schedule and the architecture's milestones scaled to `epochs`."""
        search = self.search
        if search is not None and self.schedule.epochs:
            share = epochs / self.schedule.epochs
            milestones = tuple(max(1, round(m * share)) for m in search.alpha_milestones)
            search = replace(search, alpha_milestones=milestones)
        return replace(self, schedule=self.schedule.with_epochs(epochs), search=search)


# --- Settings by their short names ---------------------------------------------------------------


def settings(recipe: Recipe) -> dict[str, Value]:
    """Every setting by its short name, part by part: {"height": 256, "width": 128, ...}."""
    found: dict[str, Value] = {}
    for part in fields(recipe):
        value = getattr(recipe, part.name)
        if part.name == "precision":
            found["precision"] = value
        elif value is not None:
            found |= {setting.name: getattr(value, setting.name) for setting in fields(value)}
    return found


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some settings replaced, by their short names.

    A new number of epochs also scales warm-up and milestones, unless these are given too.

    Raises:
        UserError: unknown name, or a value of another type.
    """
    present = settings(recipe)
    typed = {}
    for name, value in changes.items():
        if name not in present:
            raise unknown_name("setting of the recipe", name, present)
        typed[name] = _like(name, value, present[name])
    if "epochs" in typed:
        recipe = recipe.with_epochs(typed.pop("epochs"))
    return with_settings(recipe, typed)


def with_settings(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with these settings. Unlike `override`, it does not convert values or scale the schedule."""
    parts: dict[str, Any] = {}
    for part in fields(recipe):
        value = getattr(recipe, part.name)
        if part.name == "precision":
            parts["precision"] = changes.get("precision", value)
        elif value is not None:
            own = {setting.name for setting in fields(value)} & changes.keys()
            if own:
                parts[part.name] = replace(value, **{name: changes[name] for name in own})
    return replace(recipe, **parts)


#: Settings whose value may also be None.
OPTIONAL: dict[str, type] = {"steps_per_epoch": int, "cosine_to": float}


def _like(name: str, value: Any, present: Value) -> Any:
    """Convert `value` to the type of the setting that it replaces."""
    if name in OPTIONAL:
        if value is None or type(value) is OPTIONAL[name]:
            return value
        if OPTIONAL[name] is float and type(value) is int:
            return float(value)
    elif isinstance(present, float) and type(value) is int:
        return float(value)
    elif isinstance(present, tuple):
        several = value if isinstance(value, tuple | list) else (value,)
        if all(type(one) is int for one in several):
            return tuple(several)
    elif type(value) is type(present):
        return value
    raise UserError(f"recipe: {name} is a {type(present).__name__} such as {present!r}, not {value!r}")


#: Version of `canonical`. Raise it only if a setting is represented in another way.
CANONICAL_VERSION = 1


def canonical(recipe: Recipe) -> dict[str, Any]:
    """The settings that identify a run, by short names.

    Settings without effect are left out, so that equal trainings have equal hashes. A setting that is added later must
    be left out where it is neutral, so that finished runs keep their ids.
    """
    idle = _idle_losses(recipe)
    if recipe.schedule.decay == 0.1:
        idle |= {"decay"}
    if not recipe.augmentation.erase:
        idle |= {"erase_fill"}
    if recipe.optimizer.backbone_lr == 1:
        idle |= {"backbone_lr"}
    if recipe.unsupervised is not None:
        own = OWN_SETTINGS[recipe.unsupervised.method]
        idle |= {name for names in OWN_SETTINGS.values() for name in names} - set(own)
    found = {name: value for name, value in settings(recipe).items() if name not in idle}
    return {"version": CANONICAL_VERSION, **found, "precision": CANONICAL_PRECISIONS[recipe.precision]}


def _idle_losses(recipe: Recipe) -> set[str]:
    """Settings of `Losses` without effect."""
    losses = recipe.losses
    names = {loss.name for loss in fields(losses)}
    if recipe.search is not None:  # a search has its own loss, which uses only label_smoothing
        return names - {"label_smoothing"}
    if recipe.unsupervised is not None:  # a method's triplets depend neither on `triplet` nor on `soft_margin`
        return names - set(OWN_LOSSES.get(recipe.unsupervised.method, ()))
    idle = set[str]()
    if losses.alignment == "none":
        idle |= {name for name in names if name.startswith("alignment_")}
    if not losses.identity_margin:
        idle |= {"identity_margin"}
    if losses.soft_margin or not losses.triplet:
        idle |= {"margin"}
    if not losses.triplet:
        idle |= {"soft_margin", "normalize_triplet"}
    if losses.over_heads == "sum":
        idle |= {"over_heads"}
    return idle


def from_canonical(found: Mapping[str, Any]) -> Recipe:
    """The recipe that `canonical` describes; settings that are left out have their defaults.

    Raises:
        ValueError: `found` is from another version.
    """
    names = {name: precision for precision, name in CANONICAL_PRECISIONS.items()}
    default = Recipe(
        search=Search() if "mechanism" in found else None, unsupervised=Unsupervised() if "method" in found else None
    )
    recipe = with_settings(default, {**found, "precision": names.get(found.get("precision", ""))})
    if canonical(recipe) != found:
        raise ValueError("its recipe has other settings")
    return recipe
