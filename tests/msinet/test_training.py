"""Training and runs: they learn, repeat, resume bit for bit, and say what stopped them.

A run of the smoke profile has six steps: two epochs of three. Tests interfere after a step through `on_step`,
or in a process of its own where the end is sudden.
"""

import csv
import hashlib
import io
import json
import math
import multiprocessing
import os
import random
import runpy
import signal
import time
import zipfile
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support import CPU, At, Stopped, at_steps, changed, interrupt, noting, stop, table
from torch import nn

from msinet.cli import run_command
from msinet.data import Dataset, load_dataset, open_pixels
from msinet.errors import DataError, TrainingDiverged, UserError, WeightsError
from msinet.io import stable_hash, write_csv
from msinet.models import Output, build_model
from msinet.models.foreign import weights_hash
from msinet.retrieval import METRICS
from msinet.training import Recipe, evaluate_model, fit, supervised
from msinet.training.batches import Batches
from msinet.training.checkpoint import rng_state, set_rng_state
from msinet.training.evaluation import dataset_features
from msinet.training.options import RunOptions
from msinet.training.recipe import settings
from msinet.training.recipes import resolve
from msinet.training.run import Training, run
from msinet.training.run_folder import Record
from msinet.training.seeds import derived_seed
from msinet.training.supervised import Supervised, build_optimizer, forward, losses

SMOKE = resolve("smoke", "market1501").recipe
STEPS = 6
NETWORK = "msinet_x0_25"
DROPOUT = "cdnet_x0_25"  # draws from torch's generator in every step


def go(
    folder: Path,
    dataset: Dataset,
    *,
    model: str = NETWORK,
    recipe: Recipe = SMOKE,
    seed: int = 0,
    at: At | None = None,
    **run_options: Any,
) -> Record:
    """One run in `folder`; `at` tells what happens after a step, counted from 1."""
    options = RunOptions(**{"device": "cpu", "progress": False, **run_options})
    return run(folder, Training(model, {}, dataset, dataset, recipe, seed), options, at_steps(at, STEPS))


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run determines: weights, curves, per-query results, metrics; nothing of its timings."""
    record = json.loads((folder / "record.json").read_text())
    weights = load_file(folder / "model.safetensors")
    return {
        **{name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in weights.items()},
        **{name: record[name] for name in (*METRICS, "steps")},
        **{name: (folder / name).read_text() for name in ("history.csv", "queries.csv")},
    }


def history(folder: Path) -> list[dict[str, str]]:
    return table(folder / "history.csv")


@pytest.fixture(scope="module")
def whole(market: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What uninterrupted runs come to, by network."""
    folder = tmp_path_factory.mktemp("whole")
    for model in (NETWORK, DROPOUT):
        go(folder / model, market, model=model)
    return {model: outcome(folder / model) for model in (NETWORK, DROPOUT)}


# --- Learning ------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_heads_and_kinds() -> None:
    torch.manual_seed(0)
    logits, embeddings = torch.randn(2, 8, 4), torch.randn(2, 8, 5)
    labels = torch.arange(8) // 2
    both = losses(Output(tuple(logits), tuple(embeddings), torch.empty(0)), labels, SMOKE)
    each = [losses(Output((a,), (b,), torch.empty(0)), labels, SMOKE) for a, b in zip(logits, embeddings, strict=True)]
    for name in ("loss", "identity", "triplet"):
        torch.testing.assert_close(both[name], each[0][name] + each[1][name])
    torch.testing.assert_close(both["loss"], both["identity"] + both["triplet"])
    other = losses(
        Output((logits[0],), (embeddings[0],), torch.empty(0)),
        labels,
        changed(SMOKE, margin=1.0, label_smoothing=0.0, normalize_triplet=False),
    )
    assert other["identity"] != each[0]["identity"]
    assert other["triplet"] != each[0]["triplet"]


def test_the_loss_falls_to_what_smoothing_leaves(market: Dataset, tmp_path: Path) -> None:
    recipe = changed(
        SMOKE,
        identities=8,
        images=4,
        epochs=6,
        steps_per_epoch=5,
        optimizer="sgd",
        lr=0.1,
        warmup=0,
        milestones=(),
        erase=0.0,
    )
    torch.manual_seed(0)
    network = build_model(NETWORK, market.num_classes)
    before = {name: value.clone() for name, value in network.named_parameters()}
    pixels = open_pixels(market, "train", recipe.image.height, recipe.image.width, progress=False)
    task = Supervised(network, Batches(pixels, market.labels, recipe, 0, CPU))
    result = fit.fit(task, tmp_path, "", RunOptions(progress=False))
    first, last = result.history[0], result.history[-1]
    likely, rest = 0.9 + 0.1 / 8, 0.1 / 8
    floor = -2 * (likely * math.log(likely) + 7 * rest * math.log(rest))  # of two heads that know all eight identities
    assert first["loss"] > 3 * floor
    assert floor < last["loss"] < 1.5 * floor
    assert last["accuracy"] > 0.9
    assert result.steps == 30
    still = [n for n, p in network.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not still, f"never moved: {still}"


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_optimiser_is_the_recipe_s(name: str, kind: type[torch.optim.Optimizer]) -> None:
    network = build_model(NETWORK, 8)
    optimizer = build_optimizer(network, changed(SMOKE, optimizer=name, weight_decay=3e-4))
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert group["weight_decay"] == 3e-4
    assert group.get("momentum", 0.9) == 0.9
    assert not group.get("nesterov", False)
    # Batch norms and biases as well; only the biases that are frozen at 0 are left out.
    left_out = {id(p) for p in network.parameters()} - {id(p) for p in group["params"]}
    assert left_out == {id(network.head.bn.bias), id(network.head.local_bn.bias)}


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_a_parameter_may_have_its_first_gradient_late(name: str) -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(2, 3, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    found = []
    for plain in (False, True):
        network = nn.ParameterDict({"early": start[0].clone(), "late": start[1].clone()})
        recipe = changed(SMOKE, optimizer=name, lr=0.1, weight_decay=0.01)
        optimizer = build_optimizer(network, recipe)
        if plain:  # not fused: torch takes each parameter by itself
            nesterov = name == "nesterov"
            optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=nesterov)
        for number, (early, late) in enumerate(grads):
            network["early"].grad, network["late"].grad = early, late if number > 2 else None
            optimizer.step()
        found.append(torch.stack(list(network.values())).detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_pcb_with_refined_parts_trains_with_sgd(tmp_path: Path) -> None:
    recipe = changed(SMOKE, height=96, width=32, epochs=3, steps_per_epoch=2, optimizer="sgd", identities=2, images=2)
    labels = np.repeat(np.arange(4), 2)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 96, 32, 3), dtype=np.uint8)
    torch.manual_seed(0)
    network = build_model("pcb_rpp_x0_25", 4)
    before = network.head.assign.weight.detach().clone()
    fit.fit(Supervised(network, Batches(pixels, labels, recipe, 0, CPU)), tmp_path, "", RunOptions(progress=False))
    assert not torch.equal(network.head.assign.weight, before)  # they learn from the second epoch on


def test_steps_of_sgd_are_torch_s_own_to_the_last_bit() -> None:
    labels = np.repeat(np.arange(8), 4)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 16, 3), dtype=np.uint8)
    recipe = changed(SMOKE, optimizer="sgd", lr=0.05)
    found = []
    for plain in (False, True):
        torch.manual_seed(0)
        task = Supervised(build_model(NETWORK, 8), Batches(pixels, labels, recipe, 0, CPU))
        if plain:
            groups, settings = task.optimizer.param_groups, {"momentum": 0.9, "fused": True}
            task.optimizer = torch.optim.SGD(groups[0]["params"], weight_decay=groups[0]["weight_decay"], **settings)
            assert len(groups) == 1
        task.network.train()
        task.begin_epoch(0, 0)
        for step in range(3):
            task.step(0, step)
        found.append(task.network.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_optimiser_follows_the_schedule(market: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, rates = [], []
    monkeypatch.setattr(supervised, "build_optimizer", lambda *a: (built.append(build_optimizer(*a)), built[-1])[1])

    def note() -> None:
        rates.append(built[-1].param_groups[0]["lr"])
        interrupt()  # what a checkpoint holds of the rate must not matter either

    recipe = changed(SMOKE, epochs=3, steps_per_epoch=2, milestones=(2,))
    for _ in range(STEPS):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, market, recipe=recipe, at=dict.fromkeys(range(1, STEPS + 1), note))
    assert rates == pytest.approx([1e-5, 1e-5, 1e-3, 1e-3, 1e-4, 1e-4])


def test_history_has_a_row_per_epoch(market: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def noted(*args: Any) -> dict[str, torch.Tensor]:
        parts = losses(*args)
        seen.append(parts["loss"].item())
        return parts

    monkeypatch.setattr(supervised, "losses", noted)
    recipe = changed(SMOKE, epochs=3, steps_per_epoch=None, milestones=(2,))
    record = go(tmp_path, market, recipe=recipe)
    rows = history(tmp_path)
    assert list(rows[0]) == ["epoch", "steps", "lr", "loss", "identity", "triplet", "accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-5, 1e-3, 1e-4])
    assert record["steps"] == sum(int(row["steps"]) for row in rows)
    # One pass: an identity of n images has max(1, n // 2) chunks; four identities make a batch.
    chunks = np.maximum(1, np.bincount(market.labels) // SMOKE.sampler.images)
    assert all(1 <= int(row["steps"]) <= chunks.sum() // SMOKE.sampler.identities for row in rows)
    for row in rows:
        own, seen = seen[: int(row["steps"])], seen[int(row["steps"]) :]
        assert float(row["loss"]) == pytest.approx(np.mean(own), rel=1e-9)
        assert float(row["loss"]) == pytest.approx(float(row["identity"]) + float(row["triplet"]), rel=1e-5)
        assert 0 <= float(row["accuracy"]) <= 1


# --- Repeating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [NETWORK, DROPOUT])
def test_a_repeated_run_is_the_same_to_the_last_bit(market, whole, tmp_path: Path, model: str) -> None:
    torch.rand(7)  # what the process drew before must not matter
    go(tmp_path, market, model=model)
    assert outcome(tmp_path) == whole[model]


def test_another_seed_gives_another_run(market, whole, tmp_path: Path) -> None:
    go(tmp_path, market, seed=1)
    assert outcome(tmp_path)["history.csv"] != whole[NETWORK]["history.csv"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of forked workers
@pytest.mark.parametrize("run_options", [{"workers": 2}, {"cache": False}])
def test_how_a_run_is_carried_out_changes_nothing(market, whole, tmp_path: Path, run_options: dict[str, Any]) -> None:
    go(tmp_path, market, model=DROPOUT, **run_options)
    assert outcome(tmp_path) == whole[DROPOUT]


def test_seeds_follow_from_what_is_trained() -> None:
    one = derived_seed("market1501", "msinet", 0)
    assert one == derived_seed("market1501", "msinet", 0)
    others = {("msmt17", "msinet", 0), ("market1501", "osnet", 0), ("market1501", "msinet", 1)}
    assert len({one, *(derived_seed(*other) for other in others)}) == 4


def test_the_hash_of_a_value_knows_no_order_of_keys() -> None:
    assert stable_hash({"a": 1, "b": [2.5, None]}) == stable_hash({"b": [2.5, None], "a": 1})
    assert stable_hash({"a": 1}) != stable_hash({"a": 2})


def test_the_state_of_the_generators_can_be_put_back() -> None:
    def draw() -> tuple[float, ...]:
        return torch.rand(1).item(), np.random.rand(), np.random.standard_normal(), random.random()  # noqa: NPY002

    draw()
    state = rng_state()
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


# --- Stopping and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_first(market, whole, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, model=DROPOUT, at={4: lambda: interrupt(number), 5: stop})
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "record.json").exists()
    steps: list[int] = []
    go(tmp_path, market, model=DROPOUT, at=noting(steps, STEPS))
    assert steps == [5, 6]  # nothing was done twice
    assert outcome(tmp_path) == whole[DROPOUT]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_signal_to_the_process_group_does_not_reach_workers(market: Dataset, tmp_path: Path) -> None:
    groups: list[int] = []
    others = {one.pid for one in multiprocessing.active_children()}  # of earlier tests

    def look() -> None:
        workers = {one.pid for one in multiprocessing.active_children()} - others
        groups.extend(os.getpgid(pid) for pid in workers if pid is not None)

    go(tmp_path, market, at={2: look}, workers=2)
    assert len(groups) == 2
    assert os.getpgrp() not in groups


def test_a_checkpoint_that_was_half_written_is_removed(market: Dataset, tmp_path: Path) -> None:
    left = tmp_path / ".checkpoint.0123abcd.tmp.pt"
    left.write_bytes(b"half")
    go(tmp_path, market)
    assert not left.exists()


def test_a_second_signal_interrupts_at_once(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, at={2: lambda: (interrupt(), interrupt())})
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_signal_during_the_last_evaluation_is_not_lost(market, whole, tmp_path: Path, monkeypatch) -> None:
    evaluate, calls = dataset_features, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:  # of the second epoch
            interrupt()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("msinet.training.run.dataset_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, evaluate_every=1)
    assert len(calls) == 2
    go(tmp_path, market)
    assert all(row["mAP"] for row in history(tmp_path))  # both rows were kept
    assert outcome(tmp_path)["head.fc.weight"] == whole[NETWORK]["head.fc.weight"]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_sudden_end_after_any_step_leaves_no_trace(market, whole, tmp_path: Path, monkeypatch, step: int) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # after every step
    with pytest.raises(Stopped):
        go(tmp_path, market, model=DROPOUT, at={step: stop})
    assert (tmp_path / "checkpoint.pt").exists() == (step > 1)
    go(tmp_path, market, model=DROPOUT)
    assert outcome(tmp_path) == whole[DROPOUT]


def test_a_run_that_is_interrupted_at_every_step_leaves_no_trace(market, whole, tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, market, model=DROPOUT, at={step: interrupt})
    record = go(tmp_path, market, model=DROPOUT)
    assert outcome(tmp_path) == whole[DROPOUT]
    assert record["seconds_training"] > 0  # the time before the interruptions counts


def test_an_old_checkpoint_is_good_enough(market, whole, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, model=DROPOUT, at={2: interrupt})
    for _ in range(2):  # ends before the next checkpoint
        with pytest.raises(Stopped):
            go(tmp_path, market, model=DROPOUT, at={5: stop})
    go(tmp_path, market, model=DROPOUT)
    assert outcome(tmp_path) == whole[DROPOUT]


def test_no_resume_starts_again(market, whole, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, at={4: interrupt})
    steps: list[int] = []
    go(tmp_path, market, resume=False, at=noting(steps, STEPS))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert outcome(tmp_path) == whole[NETWORK]


def test_a_run_that_is_being_replaced_no_longer_looks_finished(market, whole, tmp_path: Path) -> None:
    go(tmp_path, market, seed=1)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, resume=False, at={2: interrupt})
    assert not (tmp_path / "record.json").exists()
    assert json.loads((tmp_path / "record.before.json").read_text())["mAP"] > 0  # nothing is lost until then
    go(tmp_path, market)
    assert not (tmp_path / "record.before.json").exists()
    assert outcome(tmp_path) == whole[NETWORK]


# --- Checkpoints that do not fit -----------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(market: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a run that was interrupted after the fourth step."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        go(folder, market, at={4: interrupt})
    return (folder / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"recipe": changed(SMOKE, lr=2e-3)}, {"model": "msinet_x0_50"}, {"model": DROPOUT}]
)
def test_a_checkpoint_of_another_training_is_refused(market, checkpoint, tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(checkpoint)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt belongs to another training; .*--no-resume"):
        go(tmp_path, market, **other)
    assert path.read_bytes() == checkpoint
    assert not (tmp_path / "record.json").exists()


def test_a_checkpoint_of_other_data_is_refused(market, checkpoint, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    with pytest.raises(WeightsError, match="belongs to another training"):
        go(tmp_path, replace(market, train=market.train[:-1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[: len(good) // 2],
        lambda _: b"",
        lambda _: b"<html>404</html>",
        lambda good: good[:1000] + bytes(len(good) - 1000),
    ],
    ids=["cut", "empty", "no checkpoint at all", "zeros"],
)
def test_a_damaged_checkpoint_is_named_with_the_remedy(market, checkpoint, tmp_path: Path, damage) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(damage(checkpoint))
    with pytest.raises(WeightsError, match=r"checkpoint\.pt cannot be read \(.+\); delete it to start again"):
        go(tmp_path, market)
    go(tmp_path, market, resume=False)
    assert not (tmp_path / "checkpoint.pt").exists()


def flipped(good: bytes) -> bytes:
    """A checkpoint with another bit in its largest tensor. Between the tensors there are bytes without a meaning."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        tensor = archive.read(max(archive.infolist(), key=lambda one: one.file_size))
    place = good.index(tensor) + len(tensor) // 2
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda good: good[: len(good) // 2], lambda _: b"", flipped, None],
    ids=["cut", "empty", "one bit", "gone"],
)
def test_the_checkpoint_before_stands_in_for_a_damaged_one(
    market, whole, tmp_path: Path, monkeypatch, capsys, damage
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # one after every step
    with pytest.raises(Stopped):
        go(tmp_path, market, at={4: stop})
    newest = tmp_path / "checkpoint.pt"
    if damage is None:
        newest.unlink()
    else:
        newest.write_bytes(damage(newest.read_bytes()))
    steps: list[int] = []
    go(tmp_path, market, at=noting(steps, STEPS))
    assert steps == [3, 4, 5, 6]  # saved after the second and, damaged, after the third
    assert ("checkpoint.pt is damaged; resuming from the previous" in capsys.readouterr().out) == bool(damage)
    assert outcome(tmp_path) == whole[NETWORK]
    assert not list(tmp_path.glob("checkpoint*"))


def test_two_damaged_checkpoints_are_an_error_that_names_the_newer(market, checkpoint, tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (tmp_path / name).write_bytes(checkpoint[:5000])
    with pytest.raises(WeightsError, match=r"checkpoint\.pt cannot be read \(.+\); delete it to start again"):
        go(tmp_path, market)


# --- Divergence ----------------------------------------------------------------------------------


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that runs build, newest last, for tests that poison one."""
    built: list[nn.Module] = []
    monkeypatch.setattr(
        "msinet.training.run.build_model", lambda *a, **k: (built.append(build_model(*a, **k)), built[-1])[1]
    )
    return built


def poison(network: nn.Module, name: str, value: float) -> None:
    with torch.no_grad():
        network.state_dict()[name].fill_(value)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(market, whole, networks, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, at={2: interrupt})
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingDiverged, match=r"loss became nan in epoch 2, step 2; the last good .*checkpoint\.pt"):
        go(tmp_path, market, at={4: lambda: poison(networks[-1], "head.fc.weight", math.nan)})
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert not (tmp_path / "record.json").exists()
    go(tmp_path, market)
    assert outcome(tmp_path) == whole[NETWORK]


@pytest.mark.parametrize(
    ("name", "value"), [("head.fc.weight", math.nan), ("head.fc.weight", math.inf), ("head.bn.running_var", math.inf)]
)  # in training the loss does not see running statistics, so only the checkpoint can
def test_a_spoilt_state_is_never_saved(market, whole, networks, tmp_path: Path, monkeypatch, name, value) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(TrainingDiverged, match=r"a weight became NaN or infinite by epoch 2, step 1; the last good"):
        go(tmp_path, market, at={4: lambda: poison(networks[-1], name, value)})
    go(tmp_path, market)  # from the third step
    assert outcome(tmp_path) == whole[NETWORK]


def test_a_state_that_the_last_step_spoilt_is_never_saved(market, networks, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"by epoch 2, step 3; there was no checkpoint yet\. Lower the learning"):
        go(tmp_path, market, at={6: lambda: poison(networks[-1], "head.fc.weight", math.nan)})
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "record.json").exists()


def test_a_huge_learning_rate_diverges_in_words(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"the loss became \w+ in epoch 1, step 2; there was no checkpoint"):
        go(tmp_path, market, recipe=changed(SMOKE, lr=1e30, warmup=0))


# --- Ends that no code can catch -----------------------------------------------------------------

DRIVER = """
import os, resource, signal, sys, time
from pathlib import Path

log = os.open(LOG, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
os.dup2(log, 1)
os.dup2(log, 2)

from msinet.cli import run_command
from msinet.training import fit, run, supervised

fit.CHECKPOINT_SECONDS = -1.0


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, call, act=die):
    original, calls = getattr(owner, name), 0

    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            act(original, *args)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def half(write, path, data):
    write(path, data[: len(data) // 2])
    die()


def wait(*_):
    Path(LOG).with_suffix(".waiting").touch()
    time.sleep(600)

"""


@pytest.fixture
def start(context: ForkServerContext, data_root: Path, tmp_path: Path):
    """Starts `msinet train` in a process of its own, changed by a line of code; its words go to `log`."""
    script, started = tmp_path / "driver.py", []

    def launch(folder: Path, change: str) -> ForkServerProcess:
        end = f"sys.exit(run_command({words(folder, data_root)}))"
        script.write_text(f"LOG = {str(tmp_path / 'log')!r}\n{DRIVER}\n{change}\n{end}\n")
        process = context.Process(target=runpy.run_path, args=(str(script),), kwargs={"run_name": "__main__"})
        process.start()
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.join()


def words(folder: Path, data_root: Path) -> list[str]:
    return [
        "train",
        "--data-root",
        str(data_root),
        "--out",
        str(folder),
        "--model",
        DROPOUT,
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--no-progress",
    ]


def wait_for(path: Path, process: ForkServerProcess) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.is_alive(), f"ended with {process.exitcode} before it wrote {path.name}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "before(supervised, 'losses', 1)",
        "before(Path, 'write_bytes', 1, half)",
        "before(supervised, 'losses', 5)",
        "before(Path, 'write_bytes', 4, half)",
        "before(os, 'replace', 4)",
        "before(os, 'fsync', 8)",
        "before(run, 'rank', 1)",
        "before(run, 'write_csv', 2)",
        "before(run, 'write_json', 1)",
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(start, data_root, whole, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "run"
    process = start(folder, change)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not (folder / "record.json").exists()
    assert run_command(words(folder, data_root)) == 0
    assert outcome(folder) == whole[DROPOUT]


@pytest.mark.slow
def test_a_run_killed_from_outside_goes_on_as_if_nothing_had_happened(start, data_root, whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, "")
    wait_for(folder / "checkpoint.pt", process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert run_command(words(folder, data_root)) == 0
    assert outcome(folder) == whole[DROPOUT]


@pytest.mark.slow
def test_a_full_disk_is_told_in_words_and_keeps_the_checkpoint(start, data_root, whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(folder, "before(supervised, 'losses', 3)").join(300)
    kept = (folder / "checkpoint.pt").read_bytes()  # of the second step
    process = start(folder, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))")
    process.join(300)
    told = (tmp_path / "log").read_text()
    assert process.exitcode == 2, told
    assert told.startswith("error: cannot write ")
    assert "checkpoint.pt: File too large" in told
    assert told.count("\n") == 1
    assert (folder / "checkpoint.pt").read_bytes() == kept
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".lock", "checkpoint-before.pt", "checkpoint.pt", "log.txt"]
    assert run_command(words(folder, data_root)) == 0
    assert outcome(folder) == whole[DROPOUT]


@pytest.mark.slow
def test_the_second_of_two_processes_fails_at_once(start, data_root, whole, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    process = start(folder, "before(supervised, 'losses', 3, wait)")
    wait_for(tmp_path / "log.waiting", process)
    kept = (folder / "checkpoint.pt").read_bytes()
    began = time.monotonic()
    assert run_command(words(folder, data_root)) == 2
    assert time.monotonic() - began < 30  # waits for nothing, even on a busy machine
    message = f"error: a training in {folder} is in progress in another process; wait for it or stop it\n"
    assert capsys.readouterr() == ("", message)
    assert (folder / "checkpoint.pt").read_bytes() == kept
    process.kill()
    process.join()
    assert run_command(words(folder, data_root)) == 0  # the lock went with its holder
    assert outcome(folder) == whole[DROPOUT]


# --- Inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["bounding_box_train", "bounding_box_test"])
@pytest.mark.parametrize("cache", [True, False])
def test_a_broken_image_is_named_before_training_starts(own_copy, tmp_path: Path, split: str, cache: bool) -> None:
    folder = own_copy("market1501")
    path = sorted((folder / split).glob("0*.jpg"))[-1]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"1 image\(s\) cannot be used: .*{path.name}"):
        go(tmp_path / "run", load_dataset("market1501", folder), cache=cache, at={1: stop})
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_too_few_identities_for_a_batch_are_told(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a batch needs 9 identities, but the training set has 8"):
        go(tmp_path, market, recipe=changed(SMOKE, identities=9))


@pytest.mark.parametrize("name", ["workers", "evaluate_every"])
def test_negative_counts_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least 0, got -1"):
        RunOptions(**{name: -1})


# --- What comes out ------------------------------------------------------------------------------


def strict(path: Path) -> Record:
    """JSON as others read it: NaN and infinities are not part of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}")

    record: Record = json.loads(path.read_text(), parse_constant=refuse)
    return record


def test_the_record_says_what_came_out_and_on_what(market: Dataset, tmp_path: Path) -> None:
    returned = go(tmp_path, market)
    record = strict(tmp_path / "record.json")
    assert record == returned
    own = {name.removeprefix("recipe."): value for name, value in record.items() if name.startswith("recipe.")}
    assert own == {n: str(v) if isinstance(v, tuple) else v for n, v in settings(SMOKE).items()}
    assert {name for name in record if not name.startswith("recipe.")} == {
        "mAP",
        "R1",
        "R5",
        "R10",
        "mINP",
        "mAP_std_draws",
        "R1_std_draws",
        "R5_std_draws",
        "R10_std_draws",
        "mINP_std_draws",
        "draws",
        "queries",
        "queries_ranked",
        "queries_without_match",
        "queries_not_in_gallery",
        "queries_own_camera_only",
        "source",
        "target",
        "same_camera",
        "source_fingerprint",
        "target_fingerprint",
        "source_layout",
        "target_layout",
        "weights",
        "identities",
        "steps",
        "seconds_training",
        "seconds_evaluating",
        "precision_used",
        "code",
        "python",
        "torch",
        "torchvision",
        "numpy",
        "platform",
        "cpu",
        "threads",
        "device",
        "allocator",
        "finished",
    }
    assert all(0 <= float(record[name] or 0) <= 1 for name in METRICS)
    assert (record["draws"], record["queries"], record["queries_without_match"]) == (1, 10, 0)
    assert (record["identities"], record["steps"], record["device"], record["weights"]) == (8, STEPS, "cpu", None)
    assert record["source_fingerprint"] == record["target_fingerprint"] == market.fingerprint
    assert float(record["seconds_training"] or 0) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "history.csv",
        "log.txt",
        "model.safetensors",
        "queries.csv",
        "record.json",
    ]


def test_the_per_query_results_come_to_the_record(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market)
    rows = table(tmp_path / "queries.csv")
    assert [market.root / row["query"] for row in rows] == [market.test[i].path for i in market.draws[0].query]
    assert np.mean([float(row["ap"]) for row in rows]) == pytest.approx(float(record["mAP"] or 0), rel=1e-12)
    assert np.mean([int(row["first_rank"]) == 1 for row in rows]) == record["R1"]
    # Four images in other cameras: two each.
    assert {row["positives"] for row in rows} == {"4"}


def test_a_query_without_a_match_does_not_spoil_the_record(own_copy, tmp_path: Path) -> None:
    folder = own_copy("market1501")
    PIL.Image.new("RGB", (24, 48), "red").save(folder / "query" / "0099_c1s1_000001_01.jpg")
    go(tmp_path / "run", load_dataset("market1501", folder), recipe=changed(SMOKE, epochs=0))
    record = strict(tmp_path / "run" / "record.json")
    assert (record["queries"], record["queries_without_match"]) == (11, 1)
    assert 0 < float(record["mAP"] or 0) <= 1
    (row,) = (row for row in table(tmp_path / "run" / "queries.csv") if row["identity"] == "99")
    assert (row["positives"], row["first_rank"], row["ap"]) == ("0", "0", "nan")


def test_evaluating_on_the_way_changes_nothing_but_the_history(market, whole, tmp_path: Path) -> None:
    record = go(tmp_path, market, model=DROPOUT, evaluate_every=1)
    found = outcome(tmp_path)
    rows = history(tmp_path)
    assert [float(row["mAP"]) for row in rows][-1] == record["mAP"]
    best = max(rows, key=lambda row: float(row["mAP"]))
    assert record["best_on_test_mAP"] == float(best["mAP"])
    assert record["best_on_test_R1"] == float(best["R1"])
    assert record["best_on_test_epoch"] == int(best["epoch"])
    del found["history.csv"]
    assert found == {name: value for name, value in whole[DROPOUT].items() if name != "history.csv"}


def test_evaluating_every_other_epoch_leaves_the_rest_empty(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, evaluate_every=2, recipe=changed(SMOKE, epochs=3, steps_per_epoch=1))
    assert [bool(row["mAP"]) for row in history(tmp_path)] == [False, True, False]
    assert record["best_on_test_epoch"] == 2


def test_zero_epochs_rank_the_initial_weights(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, recipe=changed(SMOKE, epochs=0), at=dict.fromkeys(range(STEPS + 1), stop))
    torch.manual_seed(derived_seed("market1501", NETWORK, 0))
    network = build_model(NETWORK, market.num_classes)
    weights = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    pixels = open_pixels(market, "test", SMOKE.image.height, SMOKE.image.width, progress=False)
    expected = evaluate_model(network, market, pixels, CPU).metrics
    assert {name: record[name] for name in METRICS} == pytest.approx(expected)
    assert (record["steps"], record["seconds_training"]) == (0, 0.0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_network_that_learns_nothing_is_ranked_as_it_is(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, model="colour_histogram", at=dict.fromkeys(range(STEPS + 1), stop))
    assert strict(tmp_path / "record.json") == record
    assert record["steps"] == 0
    again = go(tmp_path / "again", market, model="colour_histogram", seed=1)
    assert again["mAP"] == record["mAP"]  # no chance in it


def test_evaluating_leaves_the_network_in_the_mode_it_was_in(market: Dataset) -> None:
    network = build_model(DROPOUT, market.num_classes)
    pixels = open_pixels(market, "test", SMOKE.image.height, SMOKE.image.width, progress=False)
    for training in (True, False):
        network.train(training)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        evaluate_model(network, market, pixels, CPU)
        assert network.training == training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_pretrained_weights_are_where_training_starts(market: Dataset, tmp_path: Path) -> None:
    go(tmp_path / "a", market)
    weights = tmp_path / "a" / "model.safetensors"
    training = Training(NETWORK, {}, market, market, changed(SMOKE, epochs=0), 5, weights)
    record = run(tmp_path / "b", training, RunOptions(device="cpu", progress=False))
    expected = strict(tmp_path / "a" / "record.json")
    assert {name: record[name] for name in METRICS} == {name: expected[name] for name in METRICS}
    assert record["weights"] == weights_hash(weights)
    assert "entries matched" in (tmp_path / "b" / "log.txt").read_text()


def test_rows_of_unlike_keys_share_one_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"a": 1, "b": 2}, {"b": 3, "c": "x,y"}])
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["a", "b", "c"], ["1", "2", ""], ["", "3", "x,y"]]


@pytest.mark.parametrize("model", ["msinet_x0_25", "osnet_x0_25", "resnet50_x0_25", "vit_base_x0_25"])
def test_half_precision_stays_near_single(model: str) -> None:
    """Loss within 2 %, embeddings within 25 degrees (batch norms of untrained networks magnify); all stored in fp32."""
    torch.manual_seed(0)
    network = build_model(model, 8, image=(64, 32)).train()
    images = F.interpolate(2 * torch.randn(64, 3, 4, 2), (64, 32), mode="bilinear")
    labels = torch.arange(8).repeat_interleave(8)
    recipe = resolve("smoke", "market1501", model).recipe
    found = []
    for name in ("fp32", "bf16"):
        torch.manual_seed(1)  # drop-path
        found.append(forward(network, images, changed(recipe, precision=name)))
    single, half = found
    for part in (*half.logits, *half.embeddings, half.feature_map):
        assert part.dtype == torch.float32
    ours, theirs = (losses(output, labels, recipe)["loss"] for output in (half, single))
    assert ours.item() == pytest.approx(theirs.item(), rel=0.02)
    assert ours.item() != theirs.item()
    for a, b in zip(half.embeddings, single.embeddings, strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > np.cos(np.radians(25))
    ours.backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


def test_a_training_in_half_precision_learns_and_keeps_weights_in_single(market: Dataset, tmp_path: Path) -> None:
    record = go(tmp_path, market, recipe=changed(SMOKE, precision="bf16", epochs=6))
    assert record["mAP"] > 0
    losses_of_epochs = [float(row["loss"]) for row in history(tmp_path)]
    assert losses_of_epochs[-1] < losses_of_epochs[0]
    dtypes = {value.dtype for value in load_file(tmp_path / "model.safetensors").values()}
    assert dtypes <= {torch.float32, torch.int64}
