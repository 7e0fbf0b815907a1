"""Recipes of the networks' authors: values, scaling by profile, and the optimizers and losses that they need."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import changed
from torch import Tensor, nn

from ablations.engine.experiment import Init
from ablations.engine.request import Request
from msinet.cli import run_command
from msinet.errors import UserError
from msinet.losses import identity_loss, triplet_loss
from msinet.models import CARDS, Output
from msinet.training import Recipe
from msinet.training.recipe import canonical, settings
from msinet.training.recipes import PROFILES, resolve, resolve_pretraining
from msinet.training.supervised import build_optimizer, losses, set_learning_rate

NAMES = ("height", "width", "optimizer", "lr", "epochs", "warmup", "milestones", "pad", "erase", "triplet")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("paper resnet50", "256 128 adam 0.00035 120 10 (40, 70) 10 0.5 True"),
        ("full resnet50", "256 128 adam 0.00035 41 3 (14, 24) 10 0.5 True"),
        ("paper osnet", "256 128 amsgrad 0.0015 150 0 (60, 120) 0 0.0 False"),
        ("paper osnet scratch", "256 128 sgd 0.065 350 0 (150, 225, 300) 10 0.0 False"),
        ("paper cdnet scratch", "256 128 sgd 0.065 350 0 (150, 225, 300) 10 0.0 True"),
        ("paper msinet scratch", "256 128 sgd 0.065 350 10 (150, 225, 300) 10 0.5 True"),
        ("paper cdnet", "256 128 sgd 0.065 350 0 (150, 225, 300) 10 0.0 True"),
        ("paper pcb", "384 128 nesterov 0.1 60 0 (40,) 0 0.0 False"),
        ("paper pcb_rpp", "384 128 nesterov 0.1 50 0 (20, 40) 0 0.0 False"),
        ("paper mgn", "384 128 sgd 0.01 80 0 (40, 60) 0 0.0 True"),
        ("paper rga_sc", "256 128 adam 0.0008 600 20 (80, 120, 160, 200, 240, 280, 320, 360) 10 0.5 True"),
        ("mini rga_sc", "64 32 adam 0.0008 90 3 (12, 18, 24, 30, 36, 42, 48, 54) 2 0.5 True"),
        ("paper ianet", "256 128 adam 0.00035 60 0 (20, 40) 0 0.5 True"),
        ("paper sft", "256 128 sgd 0.1 140 20 (80, 100) 0 0.5 False"),
        ("paper batnet", "256 128 adam 0.0005 300 0 (50, 100, 150) 10 0.5 True"),
        ("smoke mgn_x0_25", "96 16 sgd 0.01 2 0 (1, 2) 0 0.0 True"),  # 48 pixels are three rows, not six
    ],
)
def test_the_authors_recipes_are_the_published_ones(words: str, expected: str) -> None:
    profile, model, *scratch = words.split()
    found = settings(resolve(profile, "market1501", model, recipe_of="authors", scratch=bool(scratch)).recipe)
    assert " ".join(str(found[name]) for name in NAMES) == expected


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.authors])
def test_a_profile_changes_size_and_length_alone(profile: str, name: str) -> None:
    card = CARDS[name]
    plain = resolve(profile, "market1501").recipe
    found = resolve(profile, "market1501", name, recipe_of="authors")
    whole = settings(resolve("paper", "market1501", name, recipe_of="authors").recipe)
    values = settings(found.recipe)
    sizes = {"height", "width", "pad", "identities", "images", "steps_per_epoch", "epochs", "warmup", "milestones"}
    assert {n: v for n, v in values.items() if n not in sizes} == {n: v for n, v in whole.items() if n not in sizes}
    assert found.recipe.image.height % (16 * card.rows) == 0
    if plain.sampler.steps_per_epoch:
        assert found.recipe.schedule.epochs == plain.schedule.epochs
        assert found.recipe.sampler.steps_per_epoch == plain.sampler.steps_per_epoch
    else:
        shares = found.recipe.schedule.epochs / int(whole["epochs"]), plain.schedule.epochs / 350  # type: ignore[arg-type]
        assert shares[0] == pytest.approx(shares[1], abs=0.01)
    if not {"identities", "images"} & card.authors.keys() or profile == "smoke":
        assert found.recipe.sampler.batch == plain.sampler.batch
    assert list(found.origins) == list(values)
    assert {found.origins[setting] for setting in card.authors} <= {
        origin for origin in found.origins.values() if card.label in origin or origin == f"profile {profile}"
    } | {"the paper, Sec. 4.2-4.3, or its released code"}


def test_without_a_recipe_of_its_own_a_network_has_the_papers() -> None:
    for name in ("msinet", "vit_base", "resnet18"):
        for profile in PROFILES:
            assert resolve(profile, "veri776", name, recipe_of="authors") == resolve(profile, "veri776", name)
    with pytest.raises(UserError, match=r"unknown recipe_of 'author'\. Did you mean 'authors'"):
        resolve("mini", "market1501", recipe_of="author")  # type: ignore[arg-type]


def test_vehicles_are_square_and_divide_into_parts() -> None:
    for profile in PROFILES:
        for whose in ("paper", "authors"):
            image = resolve(profile, "veri776", "mgn", recipe_of=whose).recipe.image  # type: ignore[arg-type]
            assert image.height == image.width
            assert image.height % 96 == 0
    assert resolve("mini", "veri776", "resnet50", recipe_of="authors").recipe.image.height == 48


def test_the_papers_recipe_makes_images_just_high_enough_for_parts() -> None:
    for profile, height in (("paper", 288), ("mini", 96), ("smoke", 96)):
        plain, parts = (resolve(profile, "market1501", name).recipe for name in ("resnet101", "pcb"))
        assert parts == changed(plain, height=height)
    for profile, side in (("paper", 288), ("mini", 96), ("smoke", 96)):
        image = resolve_pretraining(profile, "mgn").recipe.image
        assert (image.height, image.width) == (side, side)
        assert resolve_pretraining(profile, "msinet") == resolve_pretraining(profile)


def test_across_data_sets_a_training_is_shorter() -> None:
    recipe = resolve("paper", "msmt17", "resnet50", cross_domain=True, recipe_of="authors").recipe
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (round(120 * 250 / 350), (40, 70))
    assert (recipe.augmentation.jitter, recipe.augmentation.erase) == (True, 0.0)


def test_neutral_settings_do_not_name_a_run() -> None:
    assert not {"backbone_lr", "over_heads"} & canonical(Recipe()).keys()
    assert {"backbone_lr", "over_heads"} <= canonical(changed(Recipe(), backbone_lr=0.1, over_heads="mean")).keys()
    with pytest.raises(UserError, match="recipe: backbone_lr must be at least 0"):
        changed(Recipe(), backbone_lr=-1.0)
    with pytest.raises(UserError, match="unknown over_heads 'max'"):
        changed(Recipe(), over_heads="max")


# Optimizers


def nesterov(p: float, grads: list[float], lr: float, decay: float) -> float:
    velocity = 0.0
    for grad in grads:
        step = grad + decay * p
        velocity = 0.9 * velocity + step
        p -= lr * (step + 0.9 * velocity)
    return p


def amsgrad(p: float, grads: list[float], lr: float, decay: float) -> float:
    first = second = largest = 0.0
    for i, grad in enumerate(grads, 1):
        step = grad + decay * p
        first, second = 0.9 * first + 0.1 * step, 0.999 * second + 0.001 * step**2
        largest = max(largest, second)
        p -= lr * first / (1 - 0.9**i) / ((largest / (1 - 0.999**i)) ** 0.5 + 1e-8)
    return p


@pytest.mark.parametrize(("name", "formula"), [("nesterov", nesterov), ("amsgrad", amsgrad)])
def test_optimizers_against_their_formulas(name: str, formula: Callable[..., float]) -> None:
    grads = [3.0, -0.5, 0.1, 0.2, *[0.01] * 300]
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 1.5)
    optimizer = build_optimizer(network, changed(Recipe(), optimizer=name, lr=0.02, weight_decay=0.1))
    for grad in grads:
        network.weight.grad = torch.full((1, 1), grad, dtype=torch.float64)
        optimizer.step()
    assert network.weight.item() == pytest.approx(formula(1.5, grads, 0.02, 0.1), rel=1e-9)
    plain = {"nesterov": "sgd", "amsgrad": "adam"}[name]
    assert network.weight.item() != pytest.approx(_trained(plain, grads), rel=1e-4)


def _trained(name: str, grads: list[float]) -> float:
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 1.5)
    optimizer = build_optimizer(network, changed(Recipe(), optimizer=name, lr=0.02, weight_decay=0.1))
    for grad in grads:
        network.weight.grad = torch.full((1, 1), grad, dtype=torch.float64)
        optimizer.step()
    return network.weight.item()


def test_the_backbone_and_biases_have_rates_of_their_own() -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(network, changed(Recipe(), backbone_lr=0.1, bias_lr=2.0))
    set_learning_rate(optimizer, 0.5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[p] for name, p in network.named_parameters()}
    expected = {"backbone.weight": 0.05, "backbone.bias": 0.1, "head.weight": 0.5, "head.bias": 1.0}
    assert found == pytest.approx(expected)


# Losses


def test_losses_of_heads_are_summed_or_averaged_by_kind() -> None:
    chance = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    logits = tuple(torch.randn(6, 3, generator=chance) for _ in range(8))
    embeddings = tuple(torch.randn(6, 4, generator=chance) for _ in range(3))
    output = Output(logits, embeddings, torch.zeros(6, 1, 1, 1))
    recipe = resolve("paper", "market1501", "mgn", recipe_of="authors").recipe
    identity = np.mean([identity_loss(one, labels, 0.0).item() for one in logits])
    triplet = np.mean([triplet_loss(one, labels, 1.2, normalize=False).item() for one in embeddings])
    found = losses(output, labels, recipe)
    assert found["identity"].item() == pytest.approx(identity)
    assert found["triplet"].item() == pytest.approx(triplet)
    assert found["loss"].item() == pytest.approx(identity + triplet)
    summed = losses(output, labels, changed(recipe, over_heads="sum"))
    assert summed["loss"].item() == pytest.approx(8 * identity + 3 * triplet)


def test_pcb_learns_from_six_identity_losses_alone() -> None:
    labels = torch.tensor([0, 1])
    logits = tuple(torch.randn(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(6))
    recipe = resolve("paper", "market1501", "pcb", recipe_of="authors").recipe
    found = losses(Output(logits, (torch.ones(2, 4),), torch.zeros(2, 1, 1, 1)), labels, recipe)
    by_hand: list[Tensor] = [-one.log_softmax(1)[[0, 1], labels].mean() for one in logits]
    assert found["loss"].item() == pytest.approx(sum(loss.item() for loss in by_hand))
    assert found.keys() == {"loss", "identity"}


def test_commands_take_the_authors_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipe", "--model", "pcb", "--profile", "paper", "--recipe-of", "authors"]) == 0
    out = capsys.readouterr().out
    assert "nesterov" in out
    assert "PCB's authors" in out
    assert run_command(["recipe", "--model", "pcb", "--profile", "paper"]) == 0
    assert "nesterov" not in capsys.readouterr().out
    for words, optimizer in (((), "amsgrad"), (("--scratch",), "sgd")):
        assert run_command(["recipe", "--model", "osnet", "--recipe-of", "authors", *words]) == 0
        assert re.search(r"optimizer +(\w+) ", capsys.readouterr().out)[1] == optimizer  # type: ignore[index]


def test_a_request_takes_the_authors_recipe_for_its_initial_weights() -> None:
    asked = Request(profile="paper", data_root=Path("none"), recipe_of="authors")
    ways: tuple[Init, ...] = ("scratch", "pretrained")
    found = [asked.experiment("osnet", "market1501", "market1501", 0, init).recipe.optimizer.optimizer for init in ways]
    assert found == ["sgd", "amsgrad"]
