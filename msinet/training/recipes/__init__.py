"""Recipes by profile, task, network and data set: `resolve` composes one and records the origin of each value."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args

from msinet.data.layouts import card_of as dataset_card
from msinet.errors import UserError, unknown_name
from msinet.models.registry import NetworkCard
from msinet.models.registry import card_of as network_card
from msinet.training.recipe import (
    ALONE,
    Method,
    Recipe,
    Search,
    Unsupervised,
    canonical,
    override,
    settings,
    with_settings,
)
from msinet.training.recipes import full, mini, paper, smoke
from msinet.training.recipes.layers import Profile

#: Source of a network's recipe: the paper's, which is the same for all networks of a kind, or its own authors'.
RecipeOf = Literal["paper", "authors"]
PROFILES: dict[str, Profile] = {one.PROFILE.name: one.PROFILE for one in (smoke, mini, full, paper)}


@dataclass(frozen=True)
class Resolved:
    """A recipe, and the origin of each setting by its short name."""

    recipe: Recipe
    origins: Mapping[str, str]

    def changed(self, recipe: Recipe, origin: str) -> "Resolved":
        """The recipe after another layer; settings that differ get the layer's name as their origin."""
        before, after = settings(self.recipe), settings(recipe)
        moved = {name: origin for name, value in after.items() if name not in before or before[name] != value}
        return Resolved(recipe, {name: self.origins.get(name, origin) for name in after} | moved)


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        UserError: unknown profile.
    """
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def published(profile: str, kind: str) -> Resolved:
    """The published recipe of a kind (light, transformer, search, pretraining, unsupervised), scaled by a profile.

    Raises:
        UserError: unknown profile.
    """
    chosen = find_profile(profile)
    default = Recipe(
        search=Search() if kind == "search" else None, unsupervised=Unsupervised() if kind == "unsupervised" else None
    )
    base = paper.BASES[kind]
    origins = dict.fromkeys(settings(Recipe()), paper.BASES["light"].name) | {"precision": "this suite"}
    resolved = Resolved(default, dict.fromkeys(settings(default), base.name) | origins)
    resolved = resolved.changed(with_settings(resolved.recipe, base.changes), base.name)
    origin = f"profile {profile}"
    if kind in chosen.epochs:
        resolved = resolved.changed(resolved.recipe.with_epochs(chosen.epochs[kind]), origin)
    return resolved.changed(with_settings(resolved.recipe, chosen.changes.get(kind, {})), origin)


def of_authors(profile: str, network: NetworkCard, *, scratch: bool = False) -> Resolved:
    """The recipe of a network's authors at the size and length of a profile.

    Optimizer, losses and augmentation stay the authors'. Sizes in pixels are scaled like those of the paper's recipe. A
    profile with a fixed number of steps trains all networks for that number; other profiles scale the epochs. Warm-up
    and milestones are scaled too.

    Raises:
        UserError: unknown profile.
    """
    full, short = (published(name, network.recipe) for name in ("paper", profile))
    source = f"{network.label}'s authors"
    changes = (network.authors_scratch if scratch else {}) or network.authors
    resolved = full.changed(with_settings(full.recipe, changes), source)
    whole, part, own = settings(full.recipe), settings(short.recipe), settings(resolved.recipe)
    epochs = short.recipe.schedule.epochs
    if part["steps_per_epoch"] is None:
        epochs = max(1, round(resolved.recipe.schedule.epochs * epochs / full.recipe.schedule.epochs))
    sizes = {name: round(own[name] * part[name] / whole[name]) for name in ("height", "width", "pad")}  # type: ignore[operator]
    batches = {n: part[n] for n in ("identities", "images", "steps_per_epoch") if part[n] != whole[n]}
    shortened = with_settings(resolved.recipe.with_epochs(epochs), sizes | batches)
    return resolved.changed(shortened, f"{source}, in profile {profile}")


def _sized(resolved: Resolved, profile: Profile, dataset: str) -> Resolved:
    """The recipe with the image size of a data set: vehicles are square."""
    card = dataset_card(dataset)
    if card.kind != "vehicle":
        return resolved
    side = resolved.recipe.image.height
    if profile.vehicle_side:  # instead of the paper's height, of which authors may have a multiple
        side = round(profile.vehicle_side * side / published(profile.name, "light").recipe.image.height)
    return resolved.changed(with_settings(resolved.recipe, {"height": side, "width": side}), "vehicles are square")


def _with_whole_parts(resolved: Resolved, network: NetworkCard) -> Resolved:
    """The recipe with an image height at which the network's map divides into its parts; squares stay square."""
    image = resolved.recipe.image
    height = network.height(image.height)
    width = height if image.width == image.height else image.width
    origin = f"{network.label} divides its map into {network.rows} parts"
    return resolved.changed(with_settings(resolved.recipe, {"height": height, "width": width}), origin)


def resolve(
    profile: str,
    dataset: str,
    model: str = "",
    *,
    cross_domain: bool = False,
    recipe_of: RecipeOf = "paper",
    scratch: bool = False,
) -> Resolved:
    """The recipe by which a profile trains a network on a data set.

    Args:
        profile: smoke, mini, full or paper.
        dataset: the training set.
        model: name of the network, whose card may change settings; empty: a light network in general.
        cross_domain: 250 of 350 epochs, milestones unchanged, colour jitter instead of erasing (Sec. 4.3).
        recipe_of: paper: one recipe for all networks of a kind; authors: that of the network's card, if it has one.
        scratch: whether the training has no pre-trained weights; authors may have another recipe for that.

    Raises:
        UserError: unknown profile, network, data set or kind of recipe.
    """
    if recipe_of not in get_args(RecipeOf):
        raise unknown_name("recipe_of", recipe_of, get_args(RecipeOf))
    chosen = find_profile(profile)
    network = network_card(model) if model else None
    if network is not None and network.authors and recipe_of == "authors":
        resolved = of_authors(profile, network, scratch=scratch)
    else:
        resolved = published(profile, network.recipe if network else "light")
        resolved = _adapted(resolved, profile, dataset, network)
    resolved = _sized(resolved, chosen, dataset)
    if network is not None:
        resolved = _with_whole_parts(resolved, network)
    if not cross_domain:
        return resolved
    recipe = resolved.recipe
    epochs = max(1, round(recipe.schedule.epochs * 250 / 350))
    if chosen.stretch_cross_domain:
        recipe = recipe.with_epochs(epochs)
    recipe = replace(recipe, schedule=replace(recipe.schedule, epochs=epochs))
    return resolved.changed(with_settings(recipe, {"jitter": True, "erase": 0.0}), "across data sets, Sec. 4.3")


def _adapted(resolved: Resolved, profile: str, dataset: str, network: NetworkCard | None) -> Resolved:
    """The paper's recipe with the changes of a network's card."""
    if network is not None:
        for when in (profile, f"{profile} {dataset_card(dataset).kind}"):
            changes = dict(network.settings).get(when, {})
            origin = f"{network.label} in profile {when}"
            resolved = resolved.changed(with_settings(resolved.recipe, changes), origin)
    return resolved


def resolve_search(profile: str, dataset: str) -> Resolved:
    """The recipe with which a profile searches an architecture on a data set.

    Raises:
        UserError: unknown profile or data set.
    """
    return _sized(published(profile, "search"), find_profile(profile), dataset)


def resolve_unsupervised(profile: str, method: Method, dataset: str, *, across: bool = False) -> Resolved:
    """The recipe by which a profile trains with a method without labels on a data set.

    Args:
        profile: smoke, mini, full or paper.
        method: one of `Method`.
        dataset: the target, whose labels are not used.
        across: whether spcl adapts from a labelled source; the other methods have one recipe.

    Raises:
        UserError: unknown profile, method or data set.
    """
    if method not in paper.METHODS:
        raise unknown_name("method", method, paper.METHODS)
    chosen = find_profile(profile)
    resolved = published("paper", "unsupervised")
    changed = with_settings(resolved.recipe, {"method": method, **paper.METHODS[method]})
    resolved = resolved.changed(changed, f"released code of {method}")
    changed = with_settings(resolved.recipe, paper.TARGETS.get((method, dataset), {}))
    resolved = resolved.changed(changed, f"released code of {method} for {dataset}")
    origin = f"profile {profile}"
    if "unsupervised" in chosen.epochs:
        resolved = resolved.changed(resolved.recipe.with_epochs(chosen.epochs["unsupervised"]), origin)
    resolved = resolved.changed(with_settings(resolved.recipe, chosen.changes.get("unsupervised", {})), origin)
    adapts = across or method not in ALONE
    own = (chosen.changes.get("adapting", {}) if adapts else {}) | chosen.changes.get(method, {})
    return _sized(resolved.changed(with_settings(resolved.recipe, own), f"{method} in {origin}"), chosen, dataset)


def resolve_pretraining(profile: str, model: str = "") -> Resolved:
    """The recipe by which a profile pre-trains a network; empty: one whose map is not divided into parts.

    Raises:
        UserError: unknown profile or network.
    """
    resolved = published(profile, "pretraining")
    return _with_whole_parts(resolved, network_card(model)) if model else resolved


def overridden(resolved: Resolved, words: Iterable[str]) -> Resolved:
    """The recipe with the settings of `--recipe`.

    Raises:
        UserError: a word that is not NAME=VALUE, an unknown name, or an invalid value.
    """
    return resolved.changed(override(resolved.recipe, parse_settings(words)), "--recipe")


def idle_changes(resolved: Resolved, words: Iterable[str]) -> list[str]:
    """The settings of `--recipe` that change a value, but not the training: they need another setting to have effect.

    Raises:
        UserError: as `overridden`.
    """
    words, before = list(words), settings(resolved.recipe)
    recipe = overridden(resolved, words).recipe
    return [
        f"{name}={value}"
        for name, value in parse_settings(words).items()
        if settings(recipe)[name] != before[name] and _is_idle(recipe, name, before[name])
    ]


def _is_idle(recipe: Recipe, name: str, other: Any) -> bool:
    """True if a recipe trains in the same way with another value of a setting."""
    try:
        return canonical(with_settings(recipe, {name: other})) == canonical(recipe)
    except UserError:  # the other value does not go with the rest
        return False


def describe_recipe(resolved: Resolved) -> str:
    """A table of every setting, its value and its origin, grouped by the parts of the recipe."""
    values = settings(resolved.recipe)
    widths = max(map(len, values)), max(len(f"{value}") for value in values.values())
    lines = []
    for part in fields(resolved.recipe):
        value = getattr(resolved.recipe, part.name)
        names = [setting.name for setting in fields(value)] if is_dataclass(value) else [part.name]
        if value is not None:
            lines.append(part.name)
            lines += [f"  {n:<{widths[0]}}  {values[n]!s:<{widths[1]}}  {resolved.origins[n]}" for n in names]
    return "\n".join(lines)


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """`["ratio=2", "fusion=mul"]` as a dictionary; values are Python literals, or else text.

    Raises:
        UserError: a word without `=`.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not NAME=VALUE, such as lr=0.01")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
            found[name] = text
    return found
