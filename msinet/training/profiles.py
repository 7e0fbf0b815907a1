"""Profiles scale size and length of a training; every other setting is the paper's (SPEC A.7, A.8)."""

import ast
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from msinet.data.layouts import HELD_OUT
from msinet.data.transforms import Augmentation, NoiseErasing, ResizedCrop
from msinet.errors import UserError, unknown_name
from msinet.models import split_name
from msinet.training.recipe import Pretraining, Recipe, TransformerRecipe

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)

#: The short profiles have an optimiser of their own: the paper's SGD at 0.065 needs tens of thousands of steps.
PROFILES: dict[str, Recipe] = {
    "smoke": Recipe(
        height=32,
        width=16,
        identities=4,
        images=2,
        epochs=2,
        steps_per_epoch=3,
        optimizer="adam",
        lr=1e-3,
        warmup=1,
        milestones=(2,),
        augmentation=Augmentation(pad=1),
    ),
    # 16 epochs of 10 steps on any data set. With so few steps a long warm-up gets over the first plateau sooner, and
    # the learning rate must stay high to near the end; erasing, which guards long trainings against learning the
    # images by heart, only slows so short a one (docs/tuning.md).
    "mini": Recipe(
        height=64,
        width=32,
        epochs=16,
        steps_per_epoch=10,
        optimizer="adam",
        lr=4e-3,
        warmup=6,
        milestones=(13, 15),
        augmentation=Augmentation(pad=2, erase=0.0),
    ),
    "full": Recipe().with_epochs(120),
    "paper": Recipe(),
}

#: Networks with the recipe of `TRANSFORMERS`.
TRANSFORMER_FAMILIES = ("vit_base", "deit_base", "deit_small")
#: Data sets of vehicles are square; those of persons twice as high as wide.
VEHICLES = ("veri776", "vehicleid", "vehicleid_1600", "vehicleid_800")


def fit_size(recipe: AnyRecipe, profile: str, source: str) -> AnyRecipe:
    """The recipe with the image size of a data set: vehicles are square, and smaller in mini."""
    if source.removesuffix(HELD_OUT) not in VEHICLES:
        return recipe
    side = VEHICLE_SIDE.get(profile, recipe.height)
    return replace(recipe, height=side, width=side)


#: Height and width of vehicles where they are not the height of persons: about as many pixels as a person has.
VEHICLE_SIDE = {"mini": 48}
#: Learning rates of the mini profile where they are not that of `PROFILES`: Adam is not equally patient with all.
#: Chosen among 1, 2 and 4 thousandths on a world of another seed, whose identities no table reports (docs/tuning.md).
MINI_LR = {"resnet50": 1e-3, "cdnet": 2e-3}


#: Transformers have a recipe of their own. In mini they get the optimiser and the warm-up of the others, and no erasing
#: either: with a tenth of this learning rate their features fall together and stay so (docs/tuning.md).
TRANSFORMERS: dict[str, TransformerRecipe] = {
    "smoke": TransformerRecipe(
        height=32,
        width=16,
        identities=4,
        images=2,
        epochs=2,
        steps_per_epoch=3,
        optimizer="adam",
        lr=1e-3,
        warmup=1,
        augmentation=NoiseErasing(pad=1),
    ),
    "mini": TransformerRecipe(
        height=64,
        width=32,
        epochs=16,
        steps_per_epoch=10,
        optimizer="adam",
        lr=4e-3,
        warmup=6,
        augmentation=NoiseErasing(pad=2, erase=0.0),
    ),
    "full": TransformerRecipe().with_epochs(60),
    "paper": TransformerRecipe(),
}


def transformer_recipe(profile: str, source: str, family: str) -> TransformerRecipe:
    """How a profile trains a transformer: DeiT erases more often and has learning rates of its own (SPEC B.4)."""
    recipe = TRANSFORMERS[profile]
    if family == "vit_base" or profile not in ("full", "paper"):
        return recipe
    fast = family == "deit_base" and source.removesuffix(HELD_OUT) in VEHICLES
    return replace(recipe, lr=0.01 if fast else 0.005, augmentation=replace(recipe.augmentation, erase=0.8))


def recipe_for(profile: str, source: str, model: str = "", *, cross_domain: bool = False) -> Recipe:
    """How a profile trains a network on a data set.

    Args:
        profile: smoke, mini, full or paper.
        source: the training set: vehicles are square.
        model: name of the network; in mini each has a learning rate of its own.
        cross_domain: 250 of 350 epochs, milestones unchanged, colour jitter instead of erasing.

    Raises:
        UserError: unknown profile.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    recipe = PROFILES[profile]
    family = split_name(model)[0] if model else ""
    if family in TRANSFORMER_FAMILIES:
        recipe = transformer_recipe(profile, source, family)
    elif profile == "mini":
        recipe = replace(recipe, lr=MINI_LR.get(family, recipe.lr))
    recipe = fit_size(recipe, profile, source)
    if cross_domain:
        epochs = max(1, round(recipe.epochs * 250 / 350))
        # Milestones stay where they are, but mini's late ones would be beyond the end.
        recipe = recipe.with_epochs(epochs) if profile == "mini" else replace(recipe, epochs=epochs)
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, jitter=True, erase=0.0))
    return recipe


#: Of pre-training, by the same names. In 200 steps a twelfth of an image is too hard a view of it.
PRETRAINING: dict[str, Pretraining] = {
    "smoke": Pretraining(
        height=32,
        width=32,
        identities=4,
        images=2,
        epochs=2,
        steps_per_epoch=3,
        optimizer="adam",
        lr=1e-3,
        weight_decay=5e-4,
        warmup=1,
        epoch_decay=1.0,
        augmentation=ResizedCrop(crop=0.25),
    ),
    "mini": Pretraining(
        height=64,
        width=64,
        identities=16,
        images=4,
        epochs=20,
        steps_per_epoch=10,
        optimizer="adam",
        lr=2e-3,
        weight_decay=5e-4,
        warmup=8,
        milestones=(16, 19),
        epoch_decay=1.0,
        augmentation=ResizedCrop(crop=0.25),
    ),
    "full": Pretraining().with_epochs(60),
    "paper": Pretraining(),
}


def pretrain_recipe(profile: str) -> Pretraining:
    """How a profile pre-trains.

    Args:
        profile: smoke, mini, full or paper.

    Raises:
        UserError: unknown profile.
    """
    if profile not in PRETRAINING:
        raise unknown_name("profile", profile, PRETRAINING)
    return PRETRAINING[profile]


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """`["ratio=2", "fusion=mul"]` as a dictionary; values are Python literals, or else text.

    Raises:
        UserError: a word without `=`.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not NAME=VALUE, such as lr=0.01")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
            settings[name] = text
    return settings


def override(recipe: AnyRecipe, settings: dict[str, Any]) -> AnyRecipe:
    """The recipe with some of its numbers replaced; those of its augmentation go by their own names.

    A new number of epochs stretches warm-up and milestones with it, unless they are given as well.

    Raises:
        UserError: unknown name, or a value of another type.
    """
    settings = dict(settings)
    own = {f.name for f in fields(recipe)} - {"augmentation"}
    augmentations = {f.name for f in fields(recipe.augmentation)}
    for name, value in settings.items():
        if name not in own | augmentations:
            raise unknown_name("setting of the recipe", name, own | augmentations)
        present = getattr(recipe if name in own else recipe.augmentation, name)
        settings[name] = _like(name, value, present)
    if "epochs" in settings:
        recipe = recipe.with_epochs(settings.pop("epochs"))
    augmentation = replace(recipe.augmentation, **{k: v for k, v in settings.items() if k in augmentations})
    return replace(recipe, augmentation=augmentation, **{k: v for k, v in settings.items() if k in own})


def _like(name: str, value: Any, present: Any) -> Any:
    """`value` in the type of the setting it replaces."""
    if name == "steps_per_epoch" and (value is None or type(value) is int):
        return value
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if isinstance(present, tuple):
        if isinstance(value, tuple | list) and all(type(v) is int for v in value):
            return tuple(value)
    elif type(value) is type(present):
        return value
    raise UserError(f"recipe: {name} is a {type(present).__name__} such as {present!r}, not {value!r}")
