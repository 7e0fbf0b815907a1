"""Schedules, profiles and the words that change them."""

import re
from dataclasses import fields, replace
from typing import Any

import pytest
from msinet.training.profiles import PROFILES, override, parse_settings, recipe_for

from msinet.data import Augmentation
from msinet.errors import UserError
from msinet.training import Recipe

# --- Learning rate (SPEC A.12) -------------------------------------------------------------------


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
    assert Recipe(lr=0.025).learning_rate(0) == pytest.approx(0.00025, rel=1e-12)
    assert Recipe(lr=0.025).learning_rate(200) == pytest.approx(0.0025, rel=1e-12)


def test_without_warm_up_the_first_epoch_has_the_full_rate() -> None:
    assert Recipe(lr=0.5, warmup=0).learning_rate(0) == 0.5


def test_milestones_act_during_warm_up_as_well() -> None:
    assert Recipe(lr=1.0, warmup=4, milestones=(2,)).learning_rate(2) == pytest.approx(0.1 * (0.01 * 0.5 + 0.5))


# --- Stretching ----------------------------------------------------------------------------------


def test_new_epochs_stretch_warm_up_and_milestones() -> None:
    recipe = Recipe().with_epochs(120)
    assert (recipe.schedule.epochs, recipe.schedule.warmup, recipe.schedule.milestones) == (
        120,
        3,
        (51, 77, 103),
    )  # 10/350, 150/350, ...
    assert Recipe().with_epochs(700).milestones == (300, 450, 600)
    assert Recipe().with_epochs(350) == Recipe()
    assert replace(recipe, epochs=350, warmup=10, milestones=(150, 225, 300)) == Recipe()  # nothing else moved


def test_no_milestone_falls_before_the_first_epoch_is_over() -> None:
    recipe = Recipe().with_epochs(1)
    assert recipe.schedule.milestones == (1, 1, 1)
    assert recipe.learning_rate(0) == pytest.approx(0.065)


def test_zero_epochs_have_no_share_to_keep() -> None:
    assert Recipe(epochs=0).with_epochs(5) == Recipe(epochs=5)
    assert Recipe().with_epochs(0).epochs == 0


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
    ("settings", "expected"),
    [
        ({}, Recipe()),
        ({"lr": 1}, Recipe(lr=1.0)),
        ({"optimizer": "adam", "images": 8}, Recipe(optimizer="adam", images=8)),
        ({"milestones": [100, 200]}, Recipe(milestones=(100, 200))),
        ({"steps_per_epoch": 7}, Recipe(steps_per_epoch=7)),
        ({"normalize_triplet": False}, Recipe(normalize_triplet=False)),
        ({"pad": 2, "erase": 0}, Recipe(augmentation=Augmentation(pad=2, erase=0.0))),
        ({"jitter": True, "flip": 0.25}, Recipe(augmentation=Augmentation(jitter=True, flip=0.25))),
        ({"epochs": 70}, Recipe(epochs=70, warmup=2, milestones=(30, 45, 60))),
        ({"epochs": 70, "milestones": (50,)}, Recipe(epochs=70, warmup=2, milestones=(50,))),
        ({"warmup": 0, "epochs": 70}, Recipe(epochs=70, warmup=0, milestones=(30, 45, 60))),
    ],
)
def test_override_changes_what_is_named(settings: dict[str, Any], expected: Recipe) -> None:
    before = dict(settings)
    changed = override(Recipe(), settings)
    assert changed == expected
    assert isinstance(changed.lr, float)  # 1 and 1.0 must give the same run id
    assert settings == before


def test_a_step_count_can_be_taken_back() -> None:
    assert override(Recipe(steps_per_epoch=3), {"steps_per_epoch": None}) == Recipe()


def test_an_unknown_setting_is_named_beside_all_known_ones() -> None:
    with pytest.raises(UserError, match="unknown setting of the recipe 'epoch'") as caught:
        override(Recipe(), {"epoch": 3})
    assert "Did you mean 'epochs'?" in str(caught.value)
    known = {f.name for f in fields(Recipe)} | {f.name for f in fields(Augmentation)}
    assert str(caught.value).endswith("Known: " + ", ".join(sorted(known - {"augmentation"})))


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
        ("milestones", 3),
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
        override(PROFILES["smoke"], {name: value})


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
        ("optimizer", "lion"),
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


def test_the_smallest_recipe_is_allowed() -> None:
    Recipe(height=16, width=16, identities=2, images=1, epochs=0, warmup=0, steps_per_epoch=1, weight_decay=0.0)


# --- Profiles ------------------------------------------------------------------------------------


def test_the_paper_s_recipe_for_persons_and_vehicles() -> None:
    persons = recipe_for("paper", "market1501")
    assert persons == Recipe(
        height=256,
        width=128,
        identities=16,
        images=4,
        epochs=350,
        steps_per_epoch=None,
        optimizer="sgd",
        lr=0.065,
        weight_decay=5e-4,
        warmup=10,
        milestones=(150, 225, 300),
        label_smoothing=0.1,
        margin=0.3,
        normalize_triplet=True,
        augmentation=Augmentation(flip=0.5, pad=10, jitter=False, erase=0.5),
    )
    assert recipe_for("paper", "veri776") == replace(persons, width=256)


@pytest.mark.parametrize("profile", ["smoke", "mini", "full", "paper"])
def test_vehicles_are_square_and_persons_twice_as_high_as_wide(profile: str) -> None:
    for name in ("market1501", "msmt17"):
        recipe = recipe_for(profile, name)
        assert recipe.image.height == 2 * recipe.image.width
    for name in ("veri776", "vehicleid", "vehicleid_1600", "vehicleid_800"):
        square = recipe_for(profile, name)
        assert square == replace(recipe, height=square.height, width=square.height)
        assert square.height == (48 if profile == "mini" else recipe.image.height)


def test_mini_has_learning_rates_by_network_and_nothing_else_does() -> None:
    rates = {name: recipe_for("mini", "market1501", name).lr for name in ("resnet50", "cdnet", "osnet", "msinet")}
    assert rates == {"resnet50": 1e-3, "cdnet": 2e-3, "osnet": 4e-3, "msinet": 4e-3}
    assert recipe_for("mini", "market1501", "resnet50_x0_25").lr == 1e-3  # of the family, whatever its width
    for profile in ("smoke", "full", "paper"):
        assert recipe_for(profile, "market1501", "resnet50") == recipe_for(profile, "market1501", "msinet")


def test_across_domains_the_paper_trains_shorter_with_jitter_instead_of_erasing() -> None:
    recipe = recipe_for("paper", "msmt17", cross_domain=True)
    assert recipe == replace(Recipe(), epochs=250, augmentation=Augmentation(jitter=True, erase=0.0))
    assert recipe.schedule.milestones == (150, 225, 300)  # the last one is never reached
    assert recipe_for("paper", "veri776", cross_domain=True).width == 256


def test_across_domains_mini_s_late_milestones_move_with_the_end() -> None:
    across = recipe_for("mini", "msmt17", "msinet", cross_domain=True)
    assert (across.epochs, across.milestones, across.warmup) == (11, (9, 10), 4)
    assert across.augmentation == replace(recipe_for("mini", "msmt17").augmentation, jitter=True, erase=0.0)


@pytest.mark.parametrize("profile", ["smoke", "full"])
def test_across_domains_a_profile_keeps_its_milestones_and_250_of_350_epochs(profile: str) -> None:
    inside, across = recipe_for(profile, "msmt17"), recipe_for(profile, "msmt17", cross_domain=True)
    assert across.epochs == max(1, round(inside.epochs * 250 / 350)) < inside.epochs
    assert (across.milestones, across.warmup, across.lr) == (inside.milestones, inside.warmup, inside.lr)
    assert across.augmentation == replace(inside.augmentation, jitter=True, erase=0.0)


def test_an_unknown_profile_is_named_beside_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown profile 'papr'\. Did you mean 'paper'\? Known: full, mini, paper, smoke"
    ):
        recipe_for("papr", "market1501")
