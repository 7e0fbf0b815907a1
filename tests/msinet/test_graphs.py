"""Steps with static memory, tensor learning rates and delayed reading equal plain ones; images on the device equal the
loader's. What a capture adds to that needs a GPU: tests/gpu."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import CPU, Stopped, changed, interrupt, stop
from torch import Tensor, nn

from msinet.data import Augmentation, augment
from msinet.data.resident import ResidentImages
from msinet.data.transforms import draw
from msinet.errors import TrainingDiverged, UserError
from msinet.models import build_model
from msinet.precision import precision_used
from msinet.search import twins
from msinet.search.memory import Memory
from msinet.search.split import split_identities
from msinet.search.twins import Twins, TwinsSearch
from msinet.training import fit, graphs, supervised
from msinet.training.batches import Batches
from msinet.training.graphs import StaticStep, load_optimizer, repeat, set_learning_rate, tensor_rates, use_graphs
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, canonical, from_canonical
from msinet.training.recipes import resolve, resolve_search
from msinet.training.supervised import Supervised, build_optimizer
from msinet.unsupervised.run import WithoutLabels

QUIET = RunOptions(progress=False)
TRAIN = changed(resolve("smoke", "market1501").recipe, epochs=3, steps_per_epoch=4, milestones=(2,))
SEARCH = changed(resolve_search("smoke", "market1501").recipe, epochs=3, steps_per_epoch=4, milestones=(2,))
LABELS = np.repeat(np.arange(8), 5)
PIXELS = np.random.default_rng(0).integers(0, 256, (len(LABELS), 32, 16, 3), dtype=np.uint8)


def training(recipe: Recipe = TRAIN, model: str = "msinet_x0_25", *, static: bool) -> Supervised:
    """A training whose steps are static or plain, from the same weights on the same images."""
    torch.manual_seed(0)
    network = build_model(model, 8, image=(32, 16))
    task = Supervised(network, Batches(PIXELS, LABELS, recipe, 5, CPU, resident=static), graphs=static)
    task.read_every = 3 if static else 1
    return task


def search(recipe: Recipe = SEARCH, *, static: bool) -> TwinsSearch:
    sides = split_identities(LABELS, recipe.search_settings.overlap)
    torch.manual_seed(0)
    network = build_model("supernet_x0_25", 8)
    both = Twins(network, *(Memory(side.classes, 128) for side in sides))
    task = TwinsSearch(both, PIXELS, sides, recipe, 5, graphs=static)
    task.read_every = 3 if static else 1
    return task


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done again where a GPU would replay it, in the same memory."""
    for module in (supervised, twins):
        monkeypatch.setattr(module, "capture", repeat)


def same(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    for (name, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance, msg=name)


# --- Static steps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"optimizer": "sgd", "lr": 0.05}, {"optimizer": "adam"}, {"bias_lr": 2.0}], ids=str
)
def test_static_training_equals_plain_training(tmp_path: Path, monkeypatch, changes: dict[str, Any]) -> None:
    # A rate in a tensor has single precision. Adam divides by small numbers, which turns that into other weights.
    monkeypatch.setattr(supervised, "set_learning_rate", lambda o, rate: set_learning_rate(o, float(np.float32(rate))))
    recipe = changed(TRAIN, erase=0.5, **changes)
    plain, static = training(recipe, static=False), training(recipe, static=True)
    history = fit.fit(plain, tmp_path / "a", "", QUIET).history
    found = fit.fit(static, tmp_path / "b", "", QUIET).history
    assert isinstance(static.train, StaticStep)
    assert static.train.replay is not None
    same(plain.network, static.network, 0.0)
    assert found == history
    assert [row["lr"] for row in found][2] < found[1]["lr"]  # the schedule reached the static steps


@pytest.mark.parametrize("order", ["weights", "alphas"])
def test_a_static_search_equals_a_plain_one(tmp_path: Path, order: str) -> None:
    recipe = changed(SEARCH, order=order, optimizer="sgd", lr=0.01)
    plain, static = search(recipe, static=False), search(recipe, static=True)
    history = fit.fit(plain, tmp_path / "a", "", QUIET).history
    found = fit.fit(static, tmp_path / "b", "", QUIET).history
    assert isinstance(static.take_weight_step, StaticStep)
    assert isinstance(static.take_architecture_step, StaticStep)
    assert static.take_weight_step.replay is not None
    assert static.take_architecture_step.replay is not None
    same(plain.twins, static.twins, 1e-4)
    for row, other in zip(history, found, strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)


def test_leaked_gradients_are_not_left_to_a_graph() -> None:
    task = search(changed(SEARCH, leak=True), static=True)
    assert task.take_weight_step == task.weight_step
    assert not isinstance(task.weight_optimizer.param_groups[0]["lr"], Tensor)


@pytest.mark.parametrize("make", [training, search])
def test_a_static_training_resumes(tmp_path: Path, make: Callable[..., Any]) -> None:
    whole = make(static=True)
    fit.fit(whole, tmp_path / "a", "", QUIET)
    for share in (2 / 12, 7 / 12):  # before and after the recording

        def at(now: float, share: float = share) -> None:
            if abs(now - share) < 1e-9:
                interrupt()

        with pytest.raises(KeyboardInterrupt):
            fit.fit(make(static=True), tmp_path / "b", "", QUIET, at)
    resumed = make(static=True)
    fit.fit(resumed, tmp_path / "b", "", QUIET)
    same(whole.network, resumed.network, 0.0)


def test_a_checkpoint_of_a_plain_training_continues_in_a_static_one(tmp_path: Path) -> None:
    def at(now: float) -> None:
        if now > 0.4:
            interrupt()

    recipe = changed(TRAIN, optimizer="sgd", lr=0.05)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(training(recipe, static=False), tmp_path, "", QUIET, at)
    static, whole = training(recipe, static=True), training(recipe, static=False)
    fit.fit(static, tmp_path, "", QUIET)
    fit.fit(whole, tmp_path / "whole", "", QUIET)
    same(whole.network, static.network, 1e-6)
    assert isinstance(static.optimizer.param_groups[0]["lr"], Tensor)


class Counting:
    """A step that notes its calls and whose value is a sum of all batches so far."""

    def __init__(self) -> None:
        self.total, self.shapes = torch.zeros(()), list[tuple[int, ...]]()

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        self.shapes.append(tuple(batch.shape))
        self.total += batch.sum()
        return {"loss": self.total, "size": torch.tensor(float(len(batch)))}


def test_values_are_not_overwritten_and_other_shapes_pass() -> None:
    work = Counting()
    step = StaticStep(work, repeat, warm_up=1)
    found = [step(torch.ones(4)) for _ in range(2)]
    kept = [{name: value.item() for name, value in values.items()} for values in found[1:]]
    small = step(torch.ones(3))
    found += [step(torch.full((4,), 2.0))]
    assert [{name: value.item() for name, value in values.items()} for values in found[1:2]] == kept
    assert small["size"].item() == 3
    assert found[-1]["loss"].item() == 4 + 4 + 3 + 8
    assert work.shapes == [(4,), (4,), (3,), (4,)]


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(work: object, device: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    work = Counting()
    step = StaticStep(work, refuse, warm_up=1)
    losses = [step(torch.ones(2))["loss"].item() for _ in range(3)]
    assert losses == [2, 4, 6]
    assert step.failed
    assert capsys.readouterr().out.count("not permitted when stream is capturing") == 1


def test_the_reason_is_the_first_error_of_the_capture(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(work: object, device: object) -> Any:
        try:
            try:
                raise KeyError("of a cache")
            except KeyError:
                raise RuntimeError("operation not permitted\nwhen capturing")  # noqa: B904  (as torch does)
        finally:
            raise RuntimeError("operation failed due to a previous error")

    step = StaticStep(Counting(), fail, warm_up=1)
    for _ in range(2):
        step(torch.ones(2))
    assert "(operation not permitted); training without graphs" in capsys.readouterr().out


def test_a_step_that_fails_after_its_recording_names_the_remedy() -> None:
    def refuse(work: object, device: object) -> Any:
        step.work = broken
        raise RuntimeError("not permitted")

    def broken(*_: Tensor) -> Any:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    step = StaticStep(Counting(), refuse, warm_up=1)
    step(torch.ones(2))
    with pytest.raises(UserError, match=r"\(Offset increment .*--graphs False continues without graphs"):
        step(torch.ones(2))


@pytest.mark.parametrize("order", ["weights", "alphas"])
def test_a_capture_that_is_broken_off_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    """Its gradients lie in memory that was never written."""

    def break_off(work: Any, device: object) -> Any:
        trains_weights = work.__self__ is static.take_weight_step
        for parameter in static.twins.weights if trains_weights else static.twins.alphas:
            parameter.grad = torch.full_like(parameter, math.nan)
        raise RuntimeError("not permitted")

    monkeypatch.setattr(twins, "capture", break_off)
    recipe = changed(SEARCH, order=order, optimizer="sgd", lr=0.01)
    plain, static = search(recipe, static=False), search(recipe, static=True)
    for task in (plain, static):
        task.network.train()
        task.initialize()
        task.begin_epoch(0, 0)
        for number in range(1, 5):
            task.step(0, number)
    assert isinstance(static.take_weight_step, StaticStep)
    assert static.take_weight_step.failed
    same(plain.twins, static.twins, 1e-4)


def test_methods_without_labels_refuse_graphs() -> None:
    here: Any = SimpleNamespace(options=RunOptions(graphs=True))
    nothing: Any = None
    with pytest.raises(UserError, match="--graphs True is for trainings with labels"):
        WithoutLabels().task(here, nothing, nothing, nothing)


def test_where_steps_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert use_graphs(RunOptions(), gpu)
    assert not use_graphs(RunOptions(), CPU)
    assert not use_graphs(RunOptions(graphs=False), gpu)
    assert not use_graphs(RunOptions(deterministic=True), gpu)
    with pytest.raises(UserError, match="--graphs True needs one process on a GPU"):
        use_graphs(RunOptions(graphs=True), CPU)
    monkeypatch.setattr(graphs.distributed, "world", lambda: 2)
    assert not use_graphs(RunOptions(), gpu)


def test_learning_rates_are_tensors_that_keep_their_memory() -> None:
    network = build_model("msinet_x0_25", 4)
    optimizer = build_optimizer(network, changed(TRAIN, bias_lr=2.0))
    tensor_rates(optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.25)
    assert [rate.item() for rate in rates] == [0.25, 0.5]
    assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))
    state = build_optimizer(network, changed(TRAIN, bias_lr=2.0)).state_dict()
    load_optimizer(optimizer, state)  # of a training without graphs
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"].item() for group in optimizer.param_groups] == [0.5, 1.0]


# --- Reading losses later ------------------------------------------------------------------------


class Failing(fit.Task):
    """Four steps an epoch; the value of one step is not finite."""

    def __init__(self, bad: int, read_every: int) -> None:
        self.network, self.epochs, self.seed, self.read_every = nn.Linear(1, 1), 3, 0, read_every
        self.bad, self.taken = bad, 0

    def begin_epoch(self, epoch: int, step: int) -> fit.Row:
        del epoch, step
        return {"steps": 4}

    def step(self, epoch: int, step: int) -> fit.Values:
        del epoch, step
        self.taken += 1
        return {"loss": torch.tensor(math.nan if self.taken == self.bad else 1.0), "plain": 2.0}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]


@pytest.mark.parametrize("read_every", [1, 3, 100])
def test_a_nan_is_found_with_its_step_before_it_is_saved(tmp_path: Path, monkeypatch, read_every: int) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # after every step
    with pytest.raises(TrainingDiverged, match="the loss became nan in epoch 2, step 3"):
        fit.fit(Failing(7, read_every), tmp_path, "", QUIET)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["task"]["taken"] == 6


def test_the_epoch_ends_with_all_its_values(tmp_path: Path) -> None:
    result = fit.fit(Failing(-1, 100), tmp_path, "", QUIET)
    assert [row["plain"] for row in result.history] == [2.0] * 3
    assert result.steps == 12


def test_values_that_are_not_read_yet_survive_an_end(tmp_path: Path) -> None:
    def at(share: float) -> None:
        if share > 0.5:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        fit.fit(Failing(-1, 100), tmp_path, "", QUIET, at)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["counts"]["loss"] == 3
    with pytest.raises(Stopped):
        fit.fit(Failing(-1, 100), tmp_path, "", QUIET, lambda _: stop())
    result = fit.fit(Failing(-1, 100), tmp_path, "", QUIET)
    assert [row["loss"] for row in result.history] == [1.0] * 3


# --- Images on the device ------------------------------------------------------------------------


def both_ways(recipe: Augmentation, height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """Images augmented one by one on the CPU, and at once by the device's code."""
    pixels = np.random.default_rng(1).integers(0, 256, (7, height, width, 3), dtype=np.uint8)
    rows = [int(row) for row in np.random.default_rng(2).integers(0, 7, count)]
    one = torch.stack([augment(pixels[row], np.random.default_rng(n), recipe) for n, row in enumerate(rows)])
    resident = ResidentImages(pixels, recipe, CPU)
    drawn = [draw(height, width, np.random.default_rng(n), recipe) for n in range(count)]
    return one, resident.images(*resident.packed(rows, drawn))


@pytest.mark.parametrize(
    "recipe",
    [
        Augmentation(),
        Augmentation(flip=0.0, pad=0, erase=0.0),
        Augmentation(flip=1.0, pad=3, erase=0.0),
        Augmentation(pad=0, erase=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(("height", "width"), [(32, 16), (16, 16), (9, 21)])
def test_images_on_the_device_are_those_of_the_loader(recipe: Augmentation, height: int, width: int) -> None:
    expected, found = both_ways(recipe, height, width, 40)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_jitter_on_the_device_is_within_a_level() -> None:
    expected, found = both_ways(Augmentation(pad=2, jitter=True, erase=0.3), 24, 16, 60)
    level = 1 / 255 / 0.224
    assert float((found - expected).abs().max()) < 3.1 * level  # a level before the last changes of up to 1.4 each
    assert float((found - expected).abs().mean()) < 0.02 * level


def test_noise_on_the_device_has_the_moments_of_the_loader_s() -> None:
    torch.manual_seed(0)
    recipe = Augmentation(flip=0.0, pad=0, erase=1.0, erase_fill="noise")
    plain, _ = both_ways(Augmentation(flip=0.0, pad=0, erase=0.0), 32, 16, 200)
    expected, found = both_ways(recipe, 32, 16, 200)
    boxes = [(images != plain).any(1) for images in (expected, found)]  # (B, H, W)
    assert torch.equal(*boxes)
    for channel in range(3):
        one, other = (images[:, channel][box] for images, box in zip((expected, found), boxes, strict=True))
        assert float(other.mean()) == pytest.approx(float(one.mean()), abs=0.1)
        assert float(other.std()) == pytest.approx(float(one.std()), rel=0.03)


@pytest.mark.parametrize("start", [(0, 0), (1, 2)])
def test_batches_on_the_device_are_those_of_the_loader(start: tuple[int, int]) -> None:
    recipe = changed(TRAIN, erase=0.5)
    loaded, first = (Batches(PIXELS, LABELS, recipe, 3, CPU, resident=there) for there in (False, True))
    resident = Batches(PIXELS, LABELS, recipe, 3, CPU, resident=first.resident)
    assert resident.resident is first.resident
    assert loaded.begin_epoch(*start) == resident.begin_epoch(*start) == 4
    for _ in range(5):
        (images, labels), (found, own) = loaded.next(), resident.next()
        assert torch.equal(found, images)
        assert torch.equal(own, labels)


# --- Memories and precision ----------------------------------------------------------------------


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_an_update_with_known_turns_is_the_same(classes: int, images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(images)[torch.randperm(classes * images, generator=generator)]
    features = torch.randn(len(labels), 6, generator=generator)
    one, other = Memory(7, 6), Memory(7, 6)
    one.update(features, labels)
    other.update(features, labels, turns=images)
    assert torch.equal(one.centres, other.centres)
    assert not one.centres[classes:].any()


def test_precisions_and_the_names_of_runs() -> None:
    assert Recipe().precision == "tf32"
    assert canonical(Recipe())["precision"] == "fp32"  # runs of a CPU, and of torch's default on a GPU, keep their ids
    names = {canonical(changed(Recipe(), precision=name))["precision"] for name in ("fp32", "tf32", "bf16")}
    assert len(names) == 3
    for name in ("fp32", "tf32", "bf16"):
        recipe = changed(Recipe(), precision=name)
        assert from_canonical(canonical(recipe)) == recipe
    assert [precision_used(name, CPU) for name in ("fp32", "tf32", "bf16")] == ["fp32", "fp32", "bf16"]
