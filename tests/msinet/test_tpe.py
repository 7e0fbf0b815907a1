"""The search without a supernet: trials, their budget, their ranking, and going on after an interruption.

Here a search has three trials of two steps: six batches, as twice the three iterations of an epoch of smoke.
"""

import gc
import json
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import At, Stopped, at_steps, changed, interrupt, noting, stop
from torch import nn

from msinet.cli import run_command
from msinet.data import Dataset, load_dataset, open_pixels
from msinet.data.transforms import normalize
from msinet.errors import DataError, UserError, WeightsError
from msinet.models import build_model
from msinet.search import SearchRun, read_genotype, search, search_line, split_identities
from msinet.search.tpe import trial_recipe
from msinet.training import fit
from msinet.training.options import RunOptions
from msinet.training.recipe import Losses, Recipe
from msinet.training.recipes import resolve_search
from msinet.training.run_folder import Record
from msinet.training.seeds import derived_seed
from msinet.training.supervised import Supervised

TRIALS = 3
TPE = changed(resolve_search("smoke", "market1501").recipe, mechanism="tpe", epochs=1, trials=TRIALS)
STEPS = 6
EACH = STEPS // TRIALS


def go(
    folder: Path,
    dataset: Dataset,
    *,
    recipe: Recipe = TPE,
    seed: int = 0,
    model: str = "supernet_x0_25",
    options: Mapping[str, Any] | None = None,
    at: At | None = None,
    **run_options: Any,
) -> Record:
    """One search in `folder`; `at` tells what happens after a step of any trial, counted from 1."""
    search_run = SearchRun(dataset, recipe, seed, model, options or {})
    return search(
        folder, search_run, RunOptions(**{"device": "cpu", "progress": False, **run_options}), at_steps(at, STEPS)
    )


def trials(folder: Path) -> list[dict[str, Any]]:
    """What is written of each trial but its time."""
    found = json.loads((folder / "trials.json").read_text())["trials"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a search determines; nothing of its timings."""
    record = json.loads((folder / "record.json").read_text())
    own = {name: value for name, value in record.items() if name not in ("seconds_training", "finished", "code")}
    return {**own, "trials": trials(folder), "history": (folder / "history.csv").read_text()}


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that trials train, newest last."""
    built: list[nn.Module] = []
    monkeypatch.setattr(
        "msinet.search.tpe.build_model", lambda *a, **k: (built.append(build_model(*a, **k)), built[-1])[1]
    )
    return built


@pytest.fixture(scope="module")
def done(market: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted search. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    go(folder, market)
    return folder


@pytest.fixture(scope="module")
def whole(done: Path) -> dict[str, Any]:
    """What it comes to."""
    return outcome(done)


# --- What is found -------------------------------------------------------------------------------


def test_the_best_trial_is_found(done: Path, whole: dict[str, Any]) -> None:
    rows = whole["trials"]
    assert len(rows) == TRIALS
    best = sorted(rows, key=lambda row: row["mAP"])[-1]
    assert whole["genotype"] == best["genotype"]
    assert whole["validation_mAP"] == best["mAP"]
    assert len({row["genotype"] for row in rows}) == TRIALS
    assert all(len(row["genotype"]) == 12 and set(row["genotype"]) <= set("NGAE") for row in rows)
    assert all(0 < row["mAP"] <= 1 for row in rows)
    assert read_genotype(done / "genotype.json") == best["genotype"]


def test_the_first_of_equal_trials_and_not_the_last_trial_is_found(market, done, tmp_path: Path) -> None:
    content = json.loads((done / "trials.json").read_text())
    for row, mean in zip(content["trials"], (0.5, 0.5, 0.25), strict=True):
        row["mAP"] = mean
    (tmp_path / "trials.json").write_text(json.dumps(content))
    assert go(tmp_path, market)["genotype"] == content["trials"][0]["genotype"]


def test_its_files_have_no_supernet(done: Path, whole: dict[str, Any]) -> None:
    found = {path.name for path in done.iterdir()}
    assert found == {"record.json", "genotype.json", "history.csv", "trials.json", "log.txt"}
    assert "entropy" not in whole
    assert "entropy" not in search_line(whole)
    assert whole["steps"] == STEPS
    assert whole["skip_ratio"] == whole["genotype"].count("N") / 12
    lines = whole["history"].splitlines()
    assert lines[0] == "epoch,steps,mAP"
    assert lines[1:] == [f"{n},{EACH},{row['mAP']}" for n, row in enumerate(whole["trials"], 1)]


def brute_force(features: np.ndarray, identities: np.ndarray, cameras: np.ndarray) -> float:
    """mAP of every image against all others, those of its identity and camera left out."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    precisions = []
    for query in range(len(features)):
        kept = [i for i in range(len(features)) if (identities[i], cameras[i]) != (identities[query], cameras[query])]
        kept.sort(key=lambda i: -float(features[i] @ features[query]))
        hits = [place for place, i in enumerate(kept, 1) if identities[i] == identities[query]]
        if hits:
            precisions.append(np.mean([number / place for number, place in enumerate(hits, 1)]))
    return float(np.mean(precisions))


@pytest.mark.parametrize("name", ["market1501", "vehicleid"])
def test_a_trial_is_ranked_on_the_validation_side(data_root: Path, networks, tmp_path: Path, name: str) -> None:
    dataset = load_dataset(name, data_root)
    recipe = changed(resolve_search("smoke", name).recipe, mechanism="tpe", trials=2, epochs=1)
    go(tmp_path, dataset, recipe=recipe)
    _, validation = split_identities(dataset.labels, 0.4, seed=derived_seed(name, "supernet", 0))
    pixels = open_pixels(dataset, "train", recipe.image.height, recipe.image.width, progress=False)
    images = normalize(np.stack([pixels[int(i)] for i in validation.positions]))
    cameras = np.array([image.camera for image in dataset.train])[validation.positions]
    if name == "vehicleid":  # has no cameras, so that only the image itself is left out
        cameras = np.arange(len(cameras))
    for network, row in zip(networks, trials(tmp_path), strict=True):
        with torch.inference_mode():
            features = network.eval()(images.to(memory_format=torch.channels_last)).double().numpy()
        assert row["mAP"] == pytest.approx(brute_force(features, validation.labels, cameras), abs=1e-6)


def test_a_trial_trains_its_genotype_on_the_training_side(market, networks, done, whole, tmp_path: Path) -> None:
    go(tmp_path, market)
    assert outcome(tmp_path) == whole
    for network, row in zip(networks, whole["trials"], strict=True):
        plain = build_model("msinet_x0_25", 5, genotype=row["genotype"]).state_dict()  # 5 identities train
        trained = network.state_dict()
        assert {name: value.shape for name, value in plain.items()} == {n: v.shape for n, v in trained.items()}
        assert int(trained["backbone.stem.0.bn.num_batches_tracked"]) == EACH


def test_options_and_width_are_the_network_s(market: Dataset, networks, tmp_path: Path) -> None:
    recipe = changed(TPE, trials=1, epochs=1, steps_per_epoch=1)
    go(tmp_path, market, recipe=recipe, model="supernet_x0_50", options={"ratio": 1, "fusion": "mul"})
    (network,), (row,) = networks, trials(tmp_path)
    plain = build_model("msinet_x0_50", 5, genotype=row["genotype"], ratio=1, fusion="mul")
    assert {n: v.shape for n, v in plain.state_dict().items()} == {n: v.shape for n, v in network.state_dict().items()}
    assert network.backbone.stage1[0].fusion == "mul"


def test_another_seed_is_another_search(market: Dataset, whole, tmp_path: Path) -> None:
    go(tmp_path, market, seed=1)
    assert [row["genotype"] for row in trials(tmp_path)] != [row["genotype"] for row in whole["trials"]]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 warns of forked workers
def test_workers_change_nothing(market: Dataset, whole, tmp_path: Path) -> None:
    go(tmp_path, market, workers=1)
    assert outcome(tmp_path) == whole


def test_no_trial_s_training_is_kept(market: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    made: list[weakref.ref[Supervised]] = []

    def note(*words: Any, **settings: Any) -> Supervised:
        alive.append(sum(one() is not None for one in made))
        task = Supervised(*words, **settings)
        made.append(weakref.ref(task))
        return task

    monkeypatch.setattr("msinet.search.tpe.Supervised", note)
    gc.disable()  # or it may happen to run in between
    try:
        go(tmp_path, market)
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


# --- The budget ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400), st.integers(0, 50))
def test_all_trials_together_pass_as_many_batches_as_the_supernet(trials: int, steps: int, epochs: int) -> None:
    recipe = changed(resolve_search("paper", "msmt17").recipe, mechanism="tpe", trials=trials, epochs=epochs)
    trial = trial_recipe(recipe, steps)
    assert trial.schedule.epochs == epochs
    per_epoch = trial.sampler.steps_per_epoch
    assert per_epoch is not None
    together = trials * epochs * per_epoch
    # Two batches per iteration; each trial rounds its epochs to whole steps, and has at least one.
    assert per_epoch >= 1
    assert together - 2 * steps * epochs >= -trials * epochs / 2
    if 2 * steps >= trials:
        assert together - 2 * steps * epochs <= trials * epochs / 2
    if 2 * steps % trials == 0:
        assert together == 2 * steps * epochs


def test_a_trial_trains_as_the_search_does() -> None:
    trial = trial_recipe(TPE, 3)
    assert trial == replace(changed(TPE, steps_per_epoch=2), search=None, losses=Losses())
    assert (trial.losses.label_smoothing, trial.losses.margin) == (0.1, 0.3)  # of an ordinary training


def test_without_a_number_of_steps_an_epoch_is_a_pass(market: Dataset, tmp_path: Path) -> None:
    recipe = changed(TPE, steps_per_epoch=None, trials=2)
    record = go(tmp_path, market, recipe=recipe)
    # The training side has images of 1, 2, 1, 2, 2: five chunks of two, so one batch of three identities in a pass.
    assert record["steps"] == 2 * 1


# --- Stopping and going on -----------------------------------------------------------------------


def test_a_search_that_is_interrupted_at_every_step_leaves_no_trace(market, whole, tmp_path: Path) -> None:
    done: list[int] = []
    for step in range(1, STEPS + 1):
        at = {n: lambda n=n: done.append(n) for n in range(1, step)}
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, market, at={**at, step: interrupt})
        assert len(list(tmp_path.glob("trial*/checkpoint.pt"))) == 1
        assert not (tmp_path / "record.json").exists()
    go(tmp_path, market)
    assert not done  # nothing was done twice
    assert outcome(tmp_path) == whole
    assert not list(tmp_path.glob("trial[0-9]*"))


@pytest.mark.parametrize("step", [1, EACH, EACH + 1])
def test_a_sudden_end_leaves_no_trace(market, whole, tmp_path: Path, monkeypatch, step: int) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)  # after every step
    with pytest.raises(Stopped):
        go(tmp_path, market, at={step: stop})
    finished = (step - 1) // EACH
    assert (trials(tmp_path) if finished else []) == whole["trials"][:finished]
    steps: list[int] = []
    go(tmp_path, market, at=noting(steps, STEPS))
    assert steps == list(range(step, STEPS + 1))  # the step that ended it was not saved
    assert outcome(tmp_path) == whole


def test_an_end_before_a_trial_is_ranked_leaves_no_trace(market, whole, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("msinet.search.tpe.embed", lambda *_a, **_k: stop())
        with pytest.raises(Stopped):
            go(tmp_path, market)
    steps: list[int] = []
    go(tmp_path, market, at=noting(steps, STEPS))
    assert steps == list(range(EACH + 1, STEPS + 1))  # the first trial was only ranked
    assert outcome(tmp_path) == whole


def test_an_end_after_a_trial_is_written_leaves_no_trace(market, whole, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_a, **_k: stop())
        with pytest.raises(Stopped):
            go(tmp_path, market)
    assert trials(tmp_path) == whole["trials"][:1]
    go(tmp_path, market)
    assert outcome(tmp_path) == whole


def test_no_resume_starts_again(market, whole, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, market, at={EACH + 2: interrupt})
    steps: list[int] = []
    go(tmp_path, market, resume=False, at=noting(steps, STEPS))
    assert steps == list(range(1, STEPS + 1))
    assert outcome(tmp_path) == whole


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"recipe": changed(TPE, lr=2e-3)},
        {"recipe": changed(TPE, trials=4)},
        {"options": {"fusion": "mul"}},
        {"model": "supernet_x0_50"},
    ],
    ids=["seed", "recipe", "trials", "options", "width"],
)
def test_trials_of_another_search_are_refused(market, done, tmp_path: Path, other: dict[str, Any]) -> None:
    before = (done / "trials.json").read_text()
    (tmp_path / "trials.json").write_text(before)
    with pytest.raises(WeightsError, match=r"trials\.json belongs to another search; .*--no-resume"):
        go(tmp_path, market, **other)
    assert (tmp_path / "trials.json").read_text() == before
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"identity": "0"}', '{"identity": "0", "trials": 7}', "7"])
def test_trials_that_cannot_be_read_are_named_with_the_remedy(market, tmp_path: Path, text: str) -> None:
    (tmp_path / "trials.json").write_text(text)
    with pytest.raises(WeightsError, match=r"trials\.json cannot be read \(.+\); delete it to start again"):
        go(tmp_path, market)


# --- Refusals and the command --------------------------------------------------------------------


def test_too_few_identities_are_told(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a batch needs 6 identities"):
        go(tmp_path, market, recipe=changed(TPE, identities=6))


def test_the_validation_side_need_not_fill_a_batch(market: Dataset, tmp_path: Path) -> None:
    recipe = changed(TPE, trials=1, epochs=1, steps_per_epoch=1, identities=5, overlap=0.0, side_ratio=0.4)
    record = go(tmp_path, market, recipe=recipe)
    assert (record["training_identities"], record["validation_identities"]) == (6, 2)


def test_a_validation_side_of_one_camera_cannot_be_ranked(market: Dataset, tmp_path: Path) -> None:
    one_camera = replace(market, train=tuple(replace(image, camera=0) for image in market.train))
    with pytest.raises(DataError, match="has images of two cameras; use --keep-same-camera"):
        go(tmp_path, one_camera)
    go(tmp_path, replace(one_camera, remove_same_camera=False), recipe=changed(TPE, trials=1, steps_per_epoch=1))


def test_interactions_are_always_twelve(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown option of msinet 'interactions'"):
        go(tmp_path, market, options={"interactions": 18})


def test_a_genotype_cannot_be_given(market: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="genotype"):
        go(tmp_path, market, options={"genotype": "N" * 12})


def test_the_command_finds_the_same(data_root: Path, whole, tmp_path: Path, capsys) -> None:
    words = (
        "search",
        "--data-root",
        data_root,
        "--out",
        tmp_path,
        "--dataset",
        "market1501",
        "--profile",
        "smoke",
        "--model",
        "supernet_x0_25",
        "--recipe",
        "mechanism=tpe",
        f"trials={TRIALS}",
        "epochs=1",
        "warmup=1",
        "milestones=2,",
        "alpha_milestones=2,",
        "--device",
        "cpu",
        "--no-progress",
    )
    assert run_command([str(word) for word in words]) == 0
    assert outcome(tmp_path) == whole
    assert f"genotype {whole['genotype']}" in capsys.readouterr().out
