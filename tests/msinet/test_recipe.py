"""Recipes: schedules, composition, settings by name, canonical form, profiles."""

import re
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support import changed

from msinet.data import Augmentation
from msinet.data.layouts import main_datasets
from msinet.errors import UserError
from msinet.io import stable_hash
from msinet.training import Recipe
from msinet.training.recipe import (
    CANONICAL_PRECISIONS,
    ImageSize,
    Losses,
    Optimizer,
    Sampler,
    Schedule,
    Search,
    canonical,
    from_canonical,
    override,
    settings,
    with_settings,
)
from msinet.training.recipes import (
    PROFILES,
    Resolved,
    describe_recipe,
    idle_changes,
    overridden,
    parse_settings,
    resolve,
    resolve_pretraining,
    resolve_search,
)

SMOKE = resolve("smoke", "market1501").recipe
SEARCH = Recipe(search=Search())
PARTS = (ImageSize, Sampler, Augmentation, Optimizer, Schedule, Losses, Search)

# --- Learning rate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([0], 0.00065),
        ([1], 0.007085),
        ([5], 0.032825),
        ([9], 0.058565),
        (range(10, 150), 0.065),
        (range(150, 225), 0.0065),
        (range(225, 300), 0.00065),
        (range(300, 350), 0.000065),
    ],
)
def test_learning_rate_of_the_paper(epochs: list[int], expected: float) -> None:
    for epoch in epochs:
        assert Recipe().learning_rate(epoch) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_follows_its_base() -> None:
    assert changed(Recipe(), lr=0.025).learning_rate(0) == pytest.approx(0.00025, rel=1e-12)
    assert changed(Recipe(), lr=0.025).learning_rate(200) == pytest.approx(0.0025, rel=1e-12)


def test_without_warm_up_the_first_epoch_has_the_full_rate() -> None:
    assert changed(Recipe(), lr=0.5, warmup=0).learning_rate(0) == 0.5


def test_milestones_act_during_warm_up_as_well() -> None:
    assert changed(Recipe(), lr=1.0, warmup=4, milestones=(2,)).learning_rate(2) == pytest.approx(
        0.1 * (0.01 * 0.5 + 0.5)
    )


# --- Stretching ----------------------------------------------------------------------------------


def test_new_epochs_stretch_warm_up_and_milestones() -> None:
    recipe = Recipe().with_epochs(120)
    assert (recipe.schedule.epochs, recipe.schedule.warmup, recipe.schedule.milestones) == (
        120,
        3,
        (51, 77, 103),
    )  # 10/350, 150/350, ...
    assert Recipe().with_epochs(700).schedule.milestones == (300, 450, 600)
    assert Recipe().with_epochs(350) == Recipe()
    assert changed(recipe, epochs=350, warmup=10, milestones=(150, 225, 300)) == Recipe()  # nothing else moved


def test_no_milestone_falls_before_the_first_epoch_is_over() -> None:
    recipe = Recipe().with_epochs(1)
    assert recipe.schedule.milestones == (1, 1, 1)
    assert recipe.learning_rate(0) == pytest.approx(0.065)


def test_zero_epochs_have_no_share_to_keep() -> None:
    assert changed(Recipe(), epochs=0).with_epochs(5) == changed(Recipe(), epochs=5)
    assert Recipe().with_epochs(0).schedule.epochs == 0


# --- Changes from the command line ---------------------------------------------------------------


def test_settings_are_literals_or_text() -> None:
    words = [
        "ratio=2",
        "lr=1e-3",
        "milestones=(2, 3)",
        "jitter=True",
        "steps_per_epoch=None",
        "genotype=GGEG",
        "a=b=c",
        "x=",
    ]
    assert parse_settings(words) == {
        "ratio": 2,
        "lr": 0.001,
        "milestones": (2, 3),
        "jitter": True,
        "steps_per_epoch": None,
        "genotype": "GGEG",
        "a": "b=c",
        "x": "",
    }
    assert parse_settings([]) == {}
    assert parse_settings(["lr=1", "lr=2"]) == {"lr": 2}  # the last one counts, as in any command line


@pytest.mark.parametrize("word", ["lr", "=3", ""])
def test_a_word_that_sets_nothing_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"NAME=VALUE, such as lr=0\.01"):
        parse_settings([word])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Recipe()),
        ({"lr": 1}, changed(Recipe(), lr=1.0)),
        ({"optimizer": "adam", "images": 8}, changed(Recipe(), optimizer="adam", images=8)),
        ({"milestones": [100, 200]}, changed(Recipe(), milestones=(100, 200))),
        ({"milestones": 100}, changed(Recipe(), milestones=(100,))),
        ({"steps_per_epoch": 7}, changed(Recipe(), steps_per_epoch=7)),
        ({"normalize_triplet": False}, changed(Recipe(), normalize_triplet=False)),
        ({"pad": 2, "erase": 0}, changed(Recipe(), pad=2, erase=0.0)),
        ({"jitter": True, "flip": 0.25}, changed(Recipe(), jitter=True, flip=0.25)),
        ({"epochs": 70}, changed(Recipe(), epochs=70, warmup=2, milestones=(30, 45, 60))),
        ({"epochs": 70, "milestones": (50,)}, changed(Recipe(), epochs=70, warmup=2, milestones=(50,))),
        ({"warmup": 0, "epochs": 70}, changed(Recipe(), epochs=70, warmup=0, milestones=(30, 45, 60))),
    ],
)
def test_override_changes_what_is_named(changes: dict[str, Any], expected: Recipe) -> None:
    before = dict(changes)
    found = override(Recipe(), changes)
    assert found == expected
    assert isinstance(found.optimizer.lr, float)  # 1 and 1.0 must give the same run id
    assert changes == before


def test_a_step_count_can_be_taken_back() -> None:
    assert override(changed(Recipe(), steps_per_epoch=3), {"steps_per_epoch": None}) == Recipe()


def test_an_unknown_setting_is_named_beside_all_known_ones() -> None:
    with pytest.raises(UserError, match="unknown setting of the recipe 'epoch'") as caught:
        override(Recipe(), {"epoch": 3})
    assert "Did you mean 'epochs'?" in str(caught.value)
    known = {"precision"} | {setting.name for part in PARTS[:-1] for setting in fields(part)}
    assert str(caught.value).endswith("Known: " + ", ".join(sorted(known)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", "fast"),
        ("lr", None),
        ("lr", True),
        ("epochs", 2.5),
        ("epochs", "many"),
        ("images", False),
        ("normalize_triplet", 1),
        ("jitter", 0),
        ("milestones", 3.0),
        ("milestones", (1.5,)),
        ("optimizer", 3),
        ("steps_per_epoch", 1.5),
        ("steps_per_epoch", True),
        ("pad", 1.0),
        ("erase", "no"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"recipe: {name} is a .*, not {re.escape(repr(value))}"):
        override(SMOKE, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 15),
        ("width", 0),
        ("identities", 1),
        ("images", 0),
        ("epochs", -1),
        ("warmup", -1),
        ("steps_per_epoch", 0),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("weight_decay", -1e-4),
        ("weight_decay", float("nan")),
        ("label_smoothing", -0.1),
        ("label_smoothing", 1.1),
        ("label_smoothing", float("nan")),
        ("pad", -1),
        ("flip", 1.5),
        ("erase", -0.5),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"recipe: {name} must .*{value!r}"):
        override(Recipe(), {name: value})


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (Recipe(), {"optimizer": "lion"}, "unknown optimizer 'lion'.* Known: adam, amsgrad, nesterov, sgd"),
        (Recipe(), {"sampler": "random"}, "unknown sampler 'random'.* Known: identities, shuffled"),
        (Recipe(), {"precision": "fp16"}, "unknown precision 'fp16'.*bf16"),
        (Recipe(), {"alignment": "pam"}, "unknown alignment 'pam'"),
        (Recipe(), {"alignment_grid": "ancor"}, "unknown alignment_grid 'ancor'. Did you mean 'anchor'"),
        (Recipe(), {"alignment_weight": -1.0}, "recipe: alignment_weight must be at least 0, got -1.0"),
        (Recipe(), {"bias_lr": -1.0}, "recipe: bias_lr must be at least 0, got -1.0"),
        (Recipe(), {"cosine_to": -0.1}, "recipe: cosine_to must be at least 0, got -0.1"),
        (Recipe(), {"erase_fill": "black"}, "unknown erase_fill 'black'"),
        (Recipe(), {"crop": 0.5}, "recipe: pad must be 0 with a random resized crop, got 10"),
        (SEARCH, {"precision": "bf16"}, "a search runs in fp32"),
        (SEARCH, {"sampler": "shuffled"}, "a search draws batches of identities"),
    ],
)
def test_parts_that_do_not_fit_are_refused(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(recipe, changes)


def test_the_smallest_recipe_is_allowed() -> None:
    smallest = {"height": 16, "width": 16, "identities": 2, "images": 1, "epochs": 0, "warmup": 0}
    changed(Recipe(), **smallest, steps_per_epoch=1, weight_decay=0.0)


# --- Composition ---------------------------------------------------------------------------------

SHARE = st.floats(0, 1)
MILESTONES = st.lists(st.integers(0, 400), max_size=3).map(tuple)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "height": st.integers(16, 512),
    "width": st.integers(16, 512),
    "identities": st.integers(2, 64),
    "steps_per_epoch": st.none() | st.integers(1, 99),
    "flip": SHARE,
    "jitter": st.booleans(),
    "optimizer": st.sampled_from(["sgd", "adam"]),
    "lr": st.floats(1e-6, 1),
    "epochs": st.integers(0, 400),
    "warmup": st.integers(0, 20),
    "milestones": MILESTONES,
    "cosine_to": st.none() | SHARE,
    "epoch_decay": st.floats(0.1, 1),
    "triplet": st.booleans(),
    "alignment": st.sampled_from(["none", "unified", "pam-self"]),
}
OF_SEARCHES = {"overlap": SHARE, "leak": st.booleans(), "alpha_milestones": MILESTONES, "trials": st.integers(1, 9)}
some = given_settings(max_examples=100, deadline=None)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Recipe, dict[str, Any], Recipe]:
    """A recipe of a training or a search, settings, and another recipe of the same kind."""
    base = draw(st.sampled_from([Recipe(), SEARCH, resolve_pretraining("mini").recipe]))
    values = VALUES | (OF_SEARCHES if base.search else {})
    one, other = (draw(st.fixed_dictionaries({}, optional=values)) for _ in range(2))
    return with_settings(base, one), one, with_settings(base, other)


def test_settings_have_one_name_over_all_parts_and_a_default() -> None:
    names = [setting.name for part in PARTS for setting in fields(part)]
    assert len(set(names)) == len(names)
    assert list(settings(SEARCH)) == [*names[: -len(fields(Search))], "precision", *names[-len(fields(Search)) :]]
    assert settings(Recipe()).keys() == settings(SEARCH).keys() - {setting.name for setting in fields(Search)}


@some
@given(recipes())
def test_settings_come_back(case: tuple[Recipe, dict[str, Any], Recipe]) -> None:
    recipe, changes, other = case
    assert settings(recipe) | changes == settings(recipe)
    assert with_settings(other, settings(recipe)) == recipe
    assert override(other, settings(recipe)) == recipe  # the end of a stretched schedule is given as well
    words = [f"{name}={value!r}" for name, value in settings(recipe).items() if not isinstance(value, str)]
    words += [f"{name}={value}" for name, value in settings(recipe).items() if isinstance(value, str)]
    resolved = overridden(Resolved(other, dict.fromkeys(settings(other), "base")), words)
    assert resolved.recipe == recipe
    moved = {name for name, value in settings(other).items() if settings(recipe)[name] != value}
    assert {name for name, origin in resolved.origins.items() if origin == "--recipe"} == moved


@some
@given(recipes())
def test_equal_recipes_have_equal_names(case: tuple[Recipe, dict[str, Any], Recipe]) -> None:
    recipe, _, other = case
    assert (recipe == other) <= (canonical(recipe) == canonical(other))
    named = {"version": 1, "precision": CANONICAL_PRECISIONS[recipe.precision]}
    assert canonical(recipe).items() <= (settings(recipe) | named).items()
    assert canonical(from_canonical(canonical(recipe))) == canonical(recipe)
    assert stable_hash(canonical(with_settings(other, settings(recipe)))) == stable_hash(canonical(recipe))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (Recipe(), {"alignment_weight": 5.0, "alignment_grid": "partner", "alignment_per_pair": False}),
        (changed(Recipe(), triplet=False), {"margin": 1.0, "soft_margin": True, "normalize_triplet": False}),
        (changed(Recipe(), soft_margin=True), {"margin": 1.0}),
        (changed(Recipe(), erase=0.0), {"erase_fill": "noise"}),
        (SEARCH, {"margin": 1.0, "alignment": "unified", "triplet": False}),
    ],
)
def test_settings_without_effect_do_not_name_a_run(recipe: Recipe, changes: dict[str, Any]) -> None:
    assert canonical(changed(recipe, **changes)) == canonical(recipe)
    assert not canonical(recipe).keys() & changes.keys()


@pytest.mark.parametrize(
    "changes", [{"alignment": "unified"}, {"margin": 1.0}, {"precision": "bf16"}, {"erase_fill": "noise"}]
)
def test_settings_with_effect_do(changes: dict[str, Any]) -> None:
    assert canonical(changed(Recipe(), **changes)) != canonical(Recipe())


def test_the_names_of_recipes_are_pinned() -> None:
    """A change here orphans every finished run: raise the results version, too, or leave new settings out."""
    assert stable_hash(canonical(resolve("paper", "market1501", "msinet").recipe)) == "375df9860555"
    assert stable_hash(canonical(resolve_search("paper", "msmt17").recipe)) == "21ace1b1b761"


# --- Profiles ------------------------------------------------------------------------------------


def test_the_paper_s_recipe_for_persons_and_vehicles() -> None:
    persons = resolve("paper", "market1501").recipe
    assert persons == Recipe(
        image=ImageSize(256, 128),
        sampler=Sampler("identities", 16, 4, None),
        augmentation=Augmentation(flip=0.5, pad=10, crop=0.0, jitter=False, erase=0.5, erase_fill="mean"),
        optimizer=Optimizer("sgd", 0.065, 5e-4, 1.0),
        schedule=Schedule(350, 10, (150, 225, 300), 0.1, None, 1.0),
        losses=Losses(label_smoothing=0.1, triplet=True, margin=0.3, soft_margin=False, normalize_triplet=True),
    )
    assert resolve("paper", "veri776").recipe == changed(persons, width=256)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("paper market1501 msinet", "256x128 sgd 0.065 350 10 (150, 225, 300) None 0.5 mean"),
        ("full market1501 msinet", "256x128 sgd 0.065 120 3 (51, 77, 103) None 0.5 mean"),
        ("mini market1501 msinet", "64x32 sgd 0.065 90 15 (58, 70) None 0.0 mean"),
        ("mini veri776 msinet", "48x48 sgd 0.065 90 15 (58, 70) None 0.0 mean"),
        ("mini market1501 resnet50_x0_25", "64x32 sgd 0.065 90 15 (58, 70) None 0.0 mean"),
        ("mini market1501 cdnet", "64x32 sgd 0.065 90 15 (58, 70) None 0.0 mean"),
        ("smoke market1501 msinet", "32x16 adam 0.001 2 1 (2,) None 0.5 mean"),
        ("paper market1501 vit_base", "256x128 sgd 0.008 120 5 () 0.002 0.5 noise"),
        ("paper market1501 deit_base", "256x128 sgd 0.005 120 5 () 0.002 0.8 noise"),
        ("paper veri776 deit_base", "256x256 sgd 0.01 120 5 () 0.002 0.8 noise"),
        ("full msmt17 deit_small", "256x128 sgd 0.005 60 2 () 0.002 0.8 noise"),
        ("mini market1501 vit_base", "64x32 adam 0.004 90 36 () 0.002 0.0 noise"),
        ("paper msmt17 msinet across", "256x128 sgd 0.065 250 10 (150, 225, 300) None 0.0 mean"),
        ("full msmt17 msinet across", "256x128 sgd 0.065 86 3 (51, 77, 103) None 0.0 mean"),
        ("mini msmt17 msinet across", "64x32 sgd 0.065 64 11 (41, 50) None 0.0 mean"),
        ("smoke veri776 osnet across", "32x32 adam 0.001 1 1 (2,) None 0.0 mean"),
        ("paper veri776-heldout msinet", "256x256 sgd 0.065 350 10 (150, 225, 300) None 0.5 mean"),
    ],
)
def test_profiles_resolve_to_these_values(words: str, expected: str) -> None:
    """Size, optimizer, learning rate, epochs, warm-up, milestones, cosine, erasing."""
    profile, dataset, model, *across = words.split()
    recipe = resolve(profile, dataset, model, cross_domain=bool(across)).recipe
    names = ("optimizer", "lr", "epochs", "warmup", "milestones", "cosine_to", "erase", "erase_fill")
    values = " ".join(str(settings(recipe)[name]) for name in names)
    assert f"{recipe.image.height}x{recipe.image.width} {values}" == expected
    assert recipe.augmentation.jitter == bool(across)


@pytest.mark.parametrize("profile", ["smoke", "mini", "full", "paper"])
def test_vehicles_are_square_and_persons_twice_as_high_as_wide(profile: str) -> None:
    for name in ("market1501", "msmt17"):
        recipe = resolve(profile, name).recipe
        assert recipe.image.height == 2 * recipe.image.width
    for name in ("veri776", "vehicleid", "vehicleid_1600", "vehicleid_800"):
        square = resolve(profile, name).recipe
        assert square == replace(recipe, image=ImageSize(square.image.height, square.image.height))
        assert square.image.height == (48 if profile == "mini" else recipe.image.height)


def test_only_mini_has_learning_rates_by_light_network() -> None:
    for profile in ("smoke", "full", "paper"):
        assert resolve(profile, "market1501", "resnet50").recipe == resolve(profile, "market1501", "msinet").recipe


@pytest.mark.parametrize("profile", ["smoke", "mini", "full", "paper"])
@pytest.mark.parametrize("dataset", main_datasets())
def test_across_domains_a_training_is_shorter_with_jitter_instead_of_erasing(profile: str, dataset: str) -> None:
    inside, across = (resolve(profile, dataset, cross_domain=way).recipe for way in (False, True))
    epochs = max(1, round(inside.schedule.epochs * 250 / 350))
    assert epochs < inside.schedule.epochs
    expected = inside.with_epochs(epochs) if profile == "mini" else changed(inside, epochs=epochs)
    assert across == changed(expected, jitter=True, erase=0.0)


def test_an_unknown_profile_is_named_beside_the_known_ones() -> None:
    message = r"unknown profile 'papr'\. Did you mean 'paper'\? Known: full, mini, paper, smoke"
    for ask in (resolve, resolve_search):
        with pytest.raises(UserError, match=message):
            ask("papr", "market1501")


# --- Origins -------------------------------------------------------------------------------------


def test_every_setting_has_an_origin() -> None:
    for profile in PROFILES:
        for resolved in (
            resolve(profile, "veri776", "deit_base", cross_domain=True),
            resolve_search(profile, "veri776"),
            resolve_pretraining(profile),
        ):
            assert list(resolved.origins) == list(settings(resolved.recipe))


def test_the_last_layer_that_changes_a_setting_is_its_origin() -> None:
    resolved = resolve("mini", "veri776", "resnet50", cross_domain=True)
    origins = overridden(resolved, ["images=8", "jitter=True"]).origins
    expected = {
        "images": "--recipe",
        "jitter": "across data sets, Sec. 4.3",  # the command line gave the same value
        "epochs": "across data sets, Sec. 4.3",
        "height": "vehicles are square",
        "lr": "the paper, Sec. 4.2-4.3, or its released code",
        "optimizer": "the paper, Sec. 4.2-4.3, or its released code",
        "margin": "the paper, Sec. 4.2-4.3, or its released code",
    }
    assert dict(origins) | expected == origins
    search = resolve_search("mini", "msmt17").origins
    assert (search["overlap"], search["alpha_lr"]) == (
        "the paper, Sec. 3.1 and 4.2, or its released code",
        "profile mini",
    )


def test_a_description_has_a_line_for_every_setting_under_its_part() -> None:
    resolved = overridden(resolve_search("mini", "msmt17"), ["overlap=0.6"])
    lines = describe_recipe(resolved).splitlines()
    parts = [line for line in lines if not line.startswith(" ")]
    assert parts == [part.name for part in fields(Recipe) if part.name != "unsupervised"]
    rows = {line.split()[0]: re.split(r" {2,}", line.strip())[1:] for line in lines if line.startswith(" ")}
    values = settings(resolved.recipe)
    assert rows == {name: [str(value), resolved.origins[name]] for name, value in values.items()}
    assert rows["overlap"] == ["0.6", "--recipe"]
    assert "search" not in describe_recipe(resolve("mini", "msmt17")).splitlines()


def test_changes_without_effect_are_found() -> None:
    train, search = resolve("smoke", "market1501", "msinet"), resolve_search("smoke", "market1501")
    assert idle_changes(train, ["alignment_weight=5", "lr=0.01"]) == ["alignment_weight=5"]
    assert idle_changes(train, ["alignment_weight=5", "alignment=self-neg"]) == []
    assert idle_changes(search, ["margin=1.0", "mechanism=ce", "overlap=1"]) == ["margin=1.0"]
    assert idle_changes(train, [f"lr={train.recipe.optimizer.lr}"]) == []  # no change at all
