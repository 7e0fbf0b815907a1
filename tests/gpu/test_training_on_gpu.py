"""Trainings and searches on a GPU: against the CPU, and captured against eager.

Rounding in fp32 changes the first gradient of a network with batch norms by about 5 per cent, and each step multiplies
differences. So steps are compared in float64, in which they agree to many digits, and in other precisions only by their
losses. Learning rates are small.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import ExactMemory, changed, interrupt
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from bench.networks import build, choose
from msinet.data import load_dataset
from msinet.errors import TrainingDiverged
from msinet.losses import alignment_loss
from msinet.models import build_model, load_weights, save_weights
from msinet.models.heads import ReIDNet
from msinet.precision import use_precision
from msinet.search.definition import SearchRun
from msinet.search.run import search
from msinet.search.split import split_identities
from msinet.search.twins import SEARCHES, Twins, TwinsSearch
from msinet.training import fit
from msinet.training.batches import Batches
from msinet.training.evaluation import embed
from msinet.training.graphs import WARM_UP, StaticStep
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe
from msinet.training.recipes import resolve, resolve_search
from msinet.training.run import Training, run
from msinet.training.supervised import Supervised

CPU = torch.device("cpu")
SIZE = (96, 32)  # six rows of the map, for networks of six parts
CLASSES = 12
LABELS = np.repeat(np.arange(CLASSES), 6)
PIXELS = np.random.default_rng(0).integers(0, 256, (len(LABELS), *SIZE, 3), dtype=np.uint8)
NETWORKS = choose(())
STEPS = 8
#: Largest relative difference of values and moves in float64.
EXACT = 1e-5
QUIET = RunOptions(progress=False)


def recipe_of(network: str, **settings: Any) -> Recipe:
    recipe = changed(
        resolve("mini", "market1501").recipe,
        height=SIZE[0],
        width=SIZE[1],
        precision="fp32",
        identities=8,
        images=4,
        epochs=4,  # in the second one PCB+RPP refines its parts
        steps_per_epoch=STEPS // 2,
        optimizer="sgd",
        lr=1e-6,
        warmup=0,
        milestones=(1,),
        erase=0.5,
    )
    if network.endswith("pam=True"):
        recipe = changed(recipe, alignment="pam-self")
    return changed(recipe, **settings)


def still(network: nn.Module) -> None:
    """Take the randomness out of a network: each device has its own."""
    for module in network.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


def exact(network: nn.Module) -> None:
    """Convert a network to float64. Its images are rounded, because devices may normalise them to other last bits."""

    def rounded(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return ((inputs[0].double() * 4096).round() / 4096,)

    network.double().register_forward_pre_hook(rounded)  # type: ignore[arg-type]


def training(
    name: str, where: torch.device, recipe: Recipe, *, graphs: bool = False, random: bool = False, double: bool = False
) -> Supervised:
    QUIET.prepare()
    use_precision(recipe.precision)
    torch.manual_seed(0)
    model, *options = name.split()
    network = build(" ".join([f"{model}_x0_25", *options]), CLASSES, SIZE)
    if not random:
        still(network)
    if double:
        exact(network)
    network = network.to(where).to(memory_format=torch.channels_last)
    return Supervised(network, Batches(PIXELS, LABELS, recipe, 3, where), graphs=graphs)


def searching(where: torch.device, recipe: Recipe, *, graphs: bool = False) -> TwinsSearch:
    """A search in float64."""
    QUIET.prepare()
    use_precision(recipe.precision)
    sides = split_identities(LABELS, recipe.search_settings.overlap)
    torch.manual_seed(0)
    network = build_model("supernet_x0_25", CLASSES)
    assert isinstance(network, ReIDNet)
    exact(network)
    both = Twins(network, *(ExactMemory(side.classes, network.channels).double() for side in sides))
    both = both.to(where).to(memory_format=torch.channels_last)
    task = SEARCHES[recipe.search_settings.mechanism](both, PIXELS, sides, recipe, 3, graphs=graphs)
    task.initialize()
    return task


def follow(task: Any, epochs: int, steps: int) -> list[dict[str, float]]:
    """Take the first steps of a task; their values."""
    found = []
    task.network.train()
    for epoch in range(epochs):
        task.begin_epoch(epoch, 0)
        found += [task.step(epoch, step) for step in range(steps)]
    return [{name: float(value) for name, value in values.items()} for values in found]


def state(network: nn.Module) -> dict[str, Tensor]:
    """Weights, and each kind of other values, as one vector; without counters of batches, which are far larger."""
    kinds: dict[str, list[Tensor]] = {}
    for name, value in network.state_dict().items():
        last = name.rpartition(".")[2]
        if last != "num_batches_tracked":
            kind = last if last in ("running_mean", "running_var", "alpha", "centres") else "weights"
            kinds.setdefault(kind, []).append(value.detach().cpu().double().flatten())
    return {kind: torch.cat(values) for kind, values in kinds.items()}


def check_moves(before: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Each kind of values went the same way: it differs by a small share of the distance that it moved."""
    for kind, values in one.items():
        moved, apart = (float((values - theirs[kind]).norm()) for theirs in (before, other))
        # Adam's bias corrections of the architecture are in float32 in a graph, else in Python's float64.
        share = 10 * EXACT if kind == "alpha" else EXACT
        assert apart <= share * moved, f"{kind} apart by {apart}, moved by {moved}"
    assert not torch.equal(one["weights"], before["weights"])


def check_values(one: list[dict[str, float]], other: list[dict[str, float]], rel: float) -> None:
    for number, (values, theirs) in enumerate(zip(one, other, strict=True)):
        for name in values:
            allowed = 0.13 if name.endswith("accuracy") else rel * max(1.0, abs(values[name]))
            assert theirs[name] == pytest.approx(values[name], abs=allowed), f"step {number}, {name}"


# --- Against the CPU -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_three_steps_equal_those_of_the_cpu(device: torch.device, name: str) -> None:
    recipe = recipe_of(name, identities=4, images=2)
    check_values(*(follow(training(name, where, recipe), 1, 1) for where in (CPU, device)), rel=1e-3)
    tasks = [training(name, where, recipe, double=True) for where in (CPU, device)]
    before = state(tasks[0].network)
    values = [follow(task, 1, 3) for task in tasks]
    check_values(*values, rel=EXACT)
    check_moves(before, *(state(task.network) for task in tasks))


def test_three_iterations_of_a_search_equal_those_of_the_cpu(device: torch.device) -> None:
    recipe = search_recipe()
    tasks = [searching(where, recipe) for where in (CPU, device)]
    before = state(tasks[0].twins)
    values = [follow(task, 1, 3) for task in tasks]
    check_values(*values, rel=EXACT)
    check_moves(before, *(state(task.twins) for task in tasks))


def search_recipe(**settings: Any) -> Recipe:
    recipe = changed(
        resolve_search("mini", "market1501").recipe,
        height=SIZE[0],
        width=SIZE[1],
        precision="fp32",
        identities=4,
        images=3,
        epochs=3,
        steps_per_epoch=STEPS // 2,
        optimizer="sgd",
        lr=1e-6,
        alpha_lr=1e-5,
        warmup=0,
        milestones=(1,),
    )
    return changed(recipe, **settings)


VARIANTS = ("self-pos", "self-neg", "unified", "separated", "pam-self")


@pytest.mark.parametrize("variant", VARIANTS)
def test_alignment_and_its_gradient_equal_those_of_the_cpu(device: torch.device, variant: Any) -> None:
    use_precision("fp32")
    generator = torch.Generator().manual_seed(0)
    maps, activation = (torch.randn(*shape, generator=generator) for shape in ((16, 24, 8, 4), (16, 32)))
    labels = torch.arange(16) // 4
    found = []
    for where in (CPU, device):
        own = maps.to(where).requires_grad_()
        loss = alignment_loss(own, labels.to(where), variant, activation=activation.to(where))
        loss.backward()
        assert own.grad is not None
        found.append((loss.item(), own.grad.cpu()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    apart = float((found[1][1] - found[0][1]).norm() / found[0][1].norm())
    assert apart < 1e-2  # a maximum between two equal scores may go either way


@pytest.mark.parametrize("name", ["msinet", "deit_small"])
def test_features_equal_those_of_the_cpu(device: torch.device, name: str) -> None:
    use_precision("fp32")
    torch.manual_seed(0)
    network = build_model(f"{name}_x0_25", CLASSES, image=SIZE).to(memory_format=torch.channels_last)
    expected = embed(network, PIXELS, CPU)
    found = embed(network.to(device), PIXELS, device)
    assert found.device == CPU
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_images_on_the_gpu_are_those_of_the_loader(device: torch.device) -> None:
    recipe = recipe_of("msinet", jitter=True)
    loaded, resident = (Batches(PIXELS, LABELS, recipe, 3, device, resident=there) for there in (False, True))
    assert Batches(PIXELS, LABELS, recipe, 3, device).resident is not None  # the default
    for batches in (loaded, resident):
        batches.begin_epoch(0, 0)
    for _ in range(4):
        (images, labels), (found, own) = loaded.next(), resident.next()
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(own, labels)
        apart = (found - images).abs() * 255 * 0.229  # levels
        assert float(apart.max()) < 4
        assert float(apart.mean()) < 0.05


# --- Captured against eager ----------------------------------------------------------------------


def captured(task: Any) -> list[StaticStep]:
    found = [step for step in vars(task).values() if isinstance(step, StaticStep)]
    assert found
    for step in found:
        assert not step.failed
        assert step.replay is not None
    return found


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, precision) for name in NETWORKS for precision in ("float64", "tf32")]
    + [(name, "bf16") for name in ("msinet", "msinet pam=True", "deit_small")],
)
def test_a_captured_training_equals_an_eager_one(device: torch.device, name: str, precision: str) -> None:
    double = precision == "float64"
    recipe = recipe_of(name, precision="fp32" if double else precision)
    tasks = [training(name, device, recipe, graphs=graphs, double=double) for graphs in (False, True)]
    before = state(tasks[0].network)
    values = [follow(task, 2, STEPS // 2) for task in tasks]
    captured(tasks[1])
    check_values(*values, rel=EXACT if double else 0.1)
    if double:
        check_moves(before, *(state(task.network) for task in tasks))
    for key, count in tasks[1].network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert int(count) == STEPS, key


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_schedule_reaches_the_captured_step(device: torch.device, optimizer: str) -> None:
    task = training("msinet", device, recipe_of("msinet", optimizer=optimizer, lr=1e-3), graphs=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*capturable=True")  # torch's note about steps without a capture
        follow(task, 1, STEPS // 2)
    (step,) = captured(task)
    task.begin_epoch(1, 0)
    for group in task.optimizer.param_groups:
        group["lr"].zero_()
    before = {name: p.detach().clone() for name, p in task.network.named_parameters()}
    task.step(1, 0)
    for name, parameter in task.network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert captured(task) == [step]


def test_a_captured_step_draws_anew(device: torch.device) -> None:
    task = training("cdnet", device, recipe_of("cdnet", lr=1e-30, weight_decay=0.0), graphs=True, random=True)
    task.network.train()
    task.begin_epoch(0, 0)
    inputs = task.batches.inputs()
    losses = [float(task.train(*inputs)["loss"]) for _ in range(WARM_UP + 6)]
    assert len(set(losses[WARM_UP:])) == 6  # dropout differs while batch and weights stay


def test_another_batch_size_is_trained_without_the_graph(device: torch.device) -> None:
    task = training("msinet", device, recipe_of("msinet"), graphs=True)
    follow(task, 1, STEPS // 2)
    inputs = task.batches.inputs()
    before = state(task.network)
    small = task.train(*(one[:16] for one in inputs))
    assert np.isfinite(float(small["loss"]))
    middle = state(task.network)
    large = task.train(*inputs)
    assert np.isfinite(float(large["loss"]))
    assert any(not torch.equal(before[name], middle[name]) for name in before)
    assert any(not torch.equal(state(task.network)[name], middle[name]) for name in before)


@pytest.mark.parametrize("way", [{}, {"order": "alphas"}, {"mechanism": "ce", "overlap": 1.0}], ids=str)
def test_a_captured_search_equals_an_eager_one(device: torch.device, way: dict[str, Any]) -> None:
    recipe = search_recipe(**way)
    tasks = [searching(device, recipe, graphs=graphs) for graphs in (False, True)]
    before = state(tasks[0].twins)
    values = [follow(task, 3, STEPS // 2) for task in tasks]
    captured(tasks[1])
    check_values(*values, rel=EXACT)
    check_moves(before, *(state(task.twins) for task in tasks))


def test_the_loader_s_batches_can_be_captured(device: torch.device) -> None:
    recipe = recipe_of("msinet")
    task, other = (training("msinet", device, recipe, graphs=graphs, double=True) for graphs in (True, False))
    task.batches = Batches(PIXELS, LABELS, recipe, 3, device, workers=2, resident=False)
    check_values(follow(other, 2, STEPS // 2), follow(task, 2, STEPS // 2), rel=EXACT)
    captured(task)


# --- Whole runs ----------------------------------------------------------------------------------


def go(folder: Path, data_root: Path, on_step: Callable[[float], None] | None = None, **options: Any) -> dict[str, Any]:
    dataset = load_dataset("market1501", data_root)
    recipe = changed(resolve("smoke", "market1501").recipe, epochs=4, steps_per_epoch=4, milestones=(3,))
    run_options = RunOptions(**{"device": "cuda", "progress": False, **options})
    return dict(run(folder, Training("msinet_x0_25", {}, dataset, dataset, recipe), run_options, on_step))


def test_a_run_and_its_record(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    record = go(tmp_path / "a", data_root)
    plain = go(tmp_path / "b", data_root, graphs=False)
    assert record["precision_used"] == plain["precision_used"] == "tf32"
    assert record["steps"] == plain["steps"] == 16
    assert abs(float(record["mAP"]) - float(plain["mAP"])) < 0.25  # a handful of images


def test_a_run_on_the_gpu_resumes(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    for share in (2 / 16, 9 / 16):  # before and after the capture

        def at(now: float, share: float = share) -> None:
            if now >= share:
                interrupt()

        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, data_root, at)
    seen: list[float] = []
    record = go(tmp_path, data_root, seen.append)
    assert record["steps"] == 16
    assert min(seen) > 9 / 16


def test_a_deterministic_run_repeats(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    try:
        records = [go(tmp_path / name, data_root, deterministic=True) for name in "ab"]
    finally:
        torch.use_deterministic_algorithms(False)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert records[0]["deterministic"] == "yes"


def test_a_nan_is_found_before_it_is_saved(device: torch.device, tmp_path: Path) -> None:
    task = training("msinet", device, recipe_of("msinet", epochs=2), graphs=True)

    def spoil(share: float) -> None:
        if share >= 5 / STEPS:
            with torch.no_grad():
                next(task.network.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match="became nan in epoch 2, step 2"):
        fit.fit(task, tmp_path, "", QUIET, spoil)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_whole_search(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    recipe = changed(resolve_search("smoke", "market1501").recipe, epochs=2, steps_per_epoch=4)
    options = RunOptions(device="cuda", progress=False)
    record = search(tmp_path, SearchRun(dataset, recipe, model="supernet_x0_25"), options)
    assert len(str(record["genotype"])) == 12
    assert record["steps"] == 8
    assert 0.5 < float(record["entropy"] or 0) <= 1


def test_weights_of_a_gpu_are_read_on_a_cpu(device: torch.device, tmp_path: Path) -> None:
    task = training("msinet", device, recipe_of("msinet"), graphs=True)
    follow(task, 1, STEPS // 2)
    save_weights(task.network, tmp_path / "a.safetensors", {})
    own = build_model("msinet_x0_25", CLASSES)
    load_weights(own, tmp_path / "a.safetensors")
    for name, value in own.state_dict().items():
        torch.testing.assert_close(value, task.network.state_dict()[name].cpu())


def test_precision_is_what_it_says(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 1024, generator=generator) for _ in range(2))
    images, kernel = torch.randn(4, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    exact = left.double() @ right.double().T, torch.conv2d(images.double(), kernel.double())
    errors = {}
    for precision in ("fp32", "tf32"):
        use_precision(precision)
        found = left.to(device) @ right.to(device).T, torch.conv2d(images.to(device), kernel.to(device))
        errors[precision] = [
            float((one.cpu().double() - true).norm() / true.norm()) for one, true in zip(found, exact, strict=True)
        ]
    assert max(errors["fp32"]) < 2e-5  # TF32 rounds inputs to eleven bits, which is an error of about 3e-4
    if torch.cuda.get_device_capability(device) >= (8, 0):
        assert errors["tf32"][0] > 1e-4  # convolutions of this size may still be computed in fp32
    assert max(errors["tf32"]) < 1e-3


def test_the_recipe_s_precision_reaches_the_gpu(device: torch.device, data_root: Path, tmp_path: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    recipe = replace(resolve("smoke", "market1501").recipe, precision="fp32")
    record = run(
        tmp_path, Training("msinet_x0_25", {}, dataset, dataset, recipe), RunOptions(device="cuda", progress=False)
    )
    assert record["precision_used"] == "fp32"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
