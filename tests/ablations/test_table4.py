"""Table 4 end to end: starting weights, direct transfer and every method, on the small data sets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ablations.__main__ import main
from ablations.engine.request import Request
from ablations.engine.store import Store
from ablations.studies import find_study
from ablations.studies.table4 import METHODS, START, TRANSFER
from msinet.models import build_model, load_weights, save_weights
from msinet.training.recipe import ADAPTING, ALONE, Unsupervised
from msinet.training.recipes import resolve


@pytest.mark.slow
def test_the_whole_table_runs_once(data_root: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    weights.mkdir()
    save_weights(build_model("msinet_x0_25", 3), weights / "msinet_x0_25.safetensors", {})
    store = tmp_path / "store"
    words = ["run", "table4", "--profile", "smoke", "--store", str(store), "--data-root", str(data_root)]
    words += ["--datasets", "market1501", "msmt17", "--models", "msinet_x0_25", "--pretrained", str(weights)]
    words += ["--recipe", "epochs=1", "steps_per_epoch=1", "--unsupervised-recipe", "epochs=1", "steps_per_epoch=1"]
    words += ["--device", "cpu", "--no-progress", "--jobs", "1"]
    assert main(words) == 0, capsys.readouterr().err
    frame = Store(store).frame()
    methods = {}
    for run_id, row in frame.iterrows():
        experiment = json.loads((store / "runs" / str(run_id) / "experiment.json").read_text())
        recipe = experiment["recipe"]
        name = TRANSFER if "method" not in recipe else START if not recipe["epochs"] else recipe["method"]
        if name == TRANSFER and row["source"] == row["target"]:
            continue  # the training whose weights are ranked across sets
        methods.setdefault(name, []).append((row["source"], row["target"], row["steps"], row["weights"]))
    counts = {name: len(found) for name, found in methods.items()}
    assert counts == dict.fromkeys(METHODS.values(), 1) | {"spcl": 2, START: 2, TRANSFER: 1}
    for method in METHODS.values():
        ways = [across for across in (False, True) if Unsupervised(method).runs(across=across)]
        assert {(source, target) for source, target, *_ in methods[method]} == {
            ("market1501", "msmt17" if across else "market1501") for across in ways
        }
        for *_, steps, start in methods[method]:
            assert steps == 1
            assert start == methods[START][0][3]
    clustered = frame[frame["clusters"].notna()]
    assert len(clustered) == len(METHODS)  # spcl twice, mmcl never
    assert clustered["ari"].notna().all()
    network = build_model("msinet_x0_25", 1, neck="bn")
    for run_id in clustered.index:  # the mixer and the norms of other domains are left out
        load_weights(network, store / "runs" / str(run_id) / "model.safetensors")
    capsys.readouterr()
    assert main(words) == 0
    assert len(Store(store).frame()) == len(frame)


def test_networks_asked_for_have_the_width_of_the_profile_and_one_row_each(tmp_path: Path) -> None:
    sets = ("market1501", "msmt17")
    default = Request(profile="smoke", store=tmp_path)
    asked = replace(default, models=("resnet50", "msinet", "msinet", "msinet_x0_25"))
    assert find_study("table4").cells(asked, sets) == find_study("table4").cells(default, sets)


def test_in_mini_methods_with_a_source_take_the_labelled_steps_of_direct_transfer(data_root: Path) -> None:
    plain = resolve("mini", "market1501", "msinet").recipe
    assert plain.schedule.epochs * (plain.sampler.steps_per_epoch or 0) == 900
    asked = Request(data_root=data_root)
    for method in ADAPTING:
        recipe = asked.unsupervised(method, "msinet", "market1501", "msmt17", 0).recipe
        share = recipe.method_settings.source_share if method == "mmt" else 1
        with_labels = int(share * recipe.schedule.epochs)
        assert with_labels * (recipe.sampler.steps_per_epoch or 0) == 900
        assert recipe.schedule.epochs - with_labels == (24 if method == "mmt" else 0)
        assert max(recipe.schedule.milestones) < with_labels
    for method in ALONE:
        recipe = asked.unsupervised(method, "msinet", "market1501", "market1501", 0).recipe
        assert (recipe.schedule.epochs, recipe.schedule.milestones) == (24, (18,))
