"""Cross-domain cells that rank with the weights of the in-domain training."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import ablations.engine.attempt
from ablations.__main__ import main
from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.resolve import Resolution, ResolvedCell, resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.data import load_dataset, open_pixels
from msinet.models import build_model, load_weights
from msinet.training import evaluate_model

MODEL = "msinet_x0_25"
RECIPE = ("epochs=1", "steps_per_epoch=2", "identities=4", "images=2")


def resolution(root: Path, store: Path, profile: str = "mini") -> Resolution:
    request = Request(
        profile, root, datasets=("msmt17", "market1501"), models=(MODEL,), seeds=1, recipe=RECIPE, store=store
    )
    return resolve(find_study("table2"), request, Store(store))


def table(root: Path, store: Path) -> pd.DataFrame:
    """The trained rows, by training and test set."""
    frame = results(resolution(root, store), Store(store))
    return frame[frame["group"] == "scratch"].set_index(["train", "test"])


@pytest.fixture(scope="module")
def command(words: Callable[..., list[str]], data_root: Path) -> Callable[..., list[str]]:
    def build(name: str, store: Path) -> list[str]:
        more = ("--profile", "mini", "--seeds", "1")
        return words(name, store, *more, root=data_root, datasets=("msmt17", "market1501"), recipe=RECIPE)

    return build


def test_the_other_set_is_ranked_with_the_weights_of_the_training(
    data_root: Path, tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "results"
    before = table(data_root, store)
    assert before.loc[("msmt17", "msmt17"), "state"] == "missing"
    assert before.loc[("msmt17", "market1501"), "state"] == "waiting"
    assert main(command("run", store)) == 0
    assert "5 finished" in capsys.readouterr().out  # colour histogram on both, M, MS, MS>M
    after = table(data_root, store)
    inside, across = (after.loc[("msmt17", test)] for test in ("msmt17", "market1501"))
    folders = [store / "runs" / run["run_id"] for run in (inside, across)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    histories = [pd.read_csv(folder / "history.csv") for folder in folders]
    pd.testing.assert_frame_equal(*histories)
    assert (across["trained_by"], across["steps"], across["seconds_training"]) == (inside["run_id"], 2, 0)

    network = build_model(MODEL, load_dataset("msmt17", data_root).num_classes, image=(64, 32))
    load_weights(network, folders[0] / "model.safetensors")
    market = load_dataset("market1501", data_root)
    pixels = open_pixels(market, "test", 64, 32, progress=False)
    expected = evaluate_model(network, market, pixels, torch.device("cpu")).metrics
    assert {name: across[name] for name in ("R1", "mAP")} == pytest.approx({n: expected[n] for n in ("R1", "mAP")})


def test_a_failed_training_blocks_what_waits_for_it(
    data_root: Path, tmp_path: Path, command: Callable[..., list[str]], monkeypatch, capsys
) -> None:
    real = ablations.engine.attempt.run

    def fails(folder: Path, training, *more):
        if training.model == MODEL and training.source.name == "msmt17":
            raise RuntimeError("broken")
        return real(folder, training, *more)

    monkeypatch.setattr(ablations.engine.attempt, "run", fails)
    assert main(command("run", tmp_path / "results")) == 1
    out = capsys.readouterr().out
    assert "not run, what it needs is not finished" in out
    assert "1 failed" in out
    assert "1 blocked" in out


def test_a_training_without_weights_blocks_what_ranks_them(data_root: Path, tmp_path: Path) -> None:
    def trained(test: str) -> ResolvedCell:
        cells = resolution(data_root, tmp_path).cells
        (found,) = (
            one for one in cells if (one.cell.group, one.cell.train, one.cell.test) == ("scratch", "msmt17", test)
        )
        return found

    inside = trained("msmt17")
    Store(tmp_path).partial_folder(inside.run_id).mkdir(parents=True)
    Store(tmp_path).publish(inside.run_id, inside.cell.experiment, {"weights": None, "finished": "2026"})
    folder = tmp_path / "runs" / inside.run_id  # as the archive of `bench gpu` restores it
    remedy = (
        f"needs {folder}/model.safetensors, which the archive of `bench gpu` leaves out; delete {folder}, run again"
    )
    across = trained("market1501")
    assert (across.state, across.run.reason) == ("blocked", remedy)
    Store(tmp_path).fail(across.run_id, across.cell.experiment, "an earlier attempt")
    assert trained("market1501").state == "blocked"
    (folder / "model.safetensors").touch()
    assert trained("market1501").state == "failed"  # it runs again
    shutil.rmtree(folder)
    assert trained("msmt17").state == "missing"
    assert trained("market1501").state == "waiting"  # although an earlier attempt failed


def test_the_training_runs_although_no_cell_shows_it(data_root: Path, tmp_path: Path) -> None:
    found = resolution(data_root, tmp_path)
    only = [one for one in found.cells if one.cell.experiment.same_weights and one.cell.group == "scratch"]
    runs = Resolution(found.study, found.request, tuple(only), {}, {}, trainings=found.trainings).runs()
    assert [(run.state, run.experiment.target) for run in runs] == [("missing", "msmt17"), ("waiting", "market1501")]


def test_other_profiles_train_for_the_other_set(data_root: Path, tmp_path: Path) -> None:
    cells = resolution(data_root, tmp_path, "smoke").cells
    assert not any(one.cell.experiment.same_weights for one in cells)


def test_json_keeps_it_and_the_key_differs(data_root: Path, tmp_path: Path) -> None:
    (one, _pretrained) = [e for c in resolution(data_root, tmp_path).cells if (e := c.cell.experiment).same_weights]
    assert Experiment.from_json(one.to_json()) == one
    assert one.key != one.training.key
    assert "same_weights" not in one.training.to_json()
    assert "with the same weights" in str(one)
