"""A budget of time for runs, and the list of priorities."""

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest

from ablations import __main__ as command_line
from ablations.__main__ import Fill, main
from ablations.engine import budget as budgets
from ablations.engine.attempt import Attempts, OnStep
from ablations.engine.budget import MARGIN, OVERHEAD, UNKNOWN_ON_CPU, UNKNOWN_ON_GPU, Budget, key_of, steps_of
from ablations.engine.experiment import Experiment
from ablations.engine.priorities import PRIORITIES
from ablations.engine.request import Request
from ablations.engine.resolve import Run
from ablations.studies import find_study
from msinet.errors import UserError
from msinet.search.split import split_identities
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, Search, Unsupervised, with_settings

RECIPE = with_settings(Recipe(), {"height": 64, "width": 32, "epochs": 10, "steps_per_epoch": 30})
MSINET = Experiment("msinet", "market1501", "market1501", RECIPE, "mini")
OSNET = replace(MSINET, model="osnet")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may change."""
    clock = [1000.0]
    for name in ("time", "monotonic"):
        monkeypatch.setattr(budgets.time, name, lambda: clock[0])
    return clock


def test_the_deadline_is_the_same_on_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget.of(5.0, "cpu")
    monkeypatch.setattr(budgets.time, "monotonic", lambda: 1e9)  # time since another machine was started
    assert 290 < pickle.loads(pickle.dumps(budget)).left() <= 300


def test_a_run_is_begun_only_if_it_can_end(now: list[float]) -> None:
    msinet, osnet = key_of(MSINET), key_of(OSNET)
    budget = Budget.of(5.0, "cpu")
    now[0] += 60
    budget.note(msinet, {"steps": 300, "seconds_training": 60.0})
    assert budget.estimate(msinet, 300) == pytest.approx(MARGIN * (OVERHEAD + 60))
    assert budget.estimate(msinet, 600) == pytest.approx(MARGIN * (OVERHEAD + 120))
    assert budget.estimate(osnet, 300) == budget.estimate(msinet, 300)  # the slowest that is known
    assert budget.estimate(osnet, 0) == OVERHEAD
    assert budget.left() == 240
    assert budget.admits(osnet, 600)
    now[0] += 100
    assert not budget.admits(osnet, 600)
    assert budget.admits(osnet, 300)
    now[0] += 150
    assert not budget.admits(msinet, 0)


class Quick(Attempts):
    """A training that an earlier attempt has almost finished."""

    def _publish(self, one: Run, on_step: OnStep) -> dict[str, Any]:
        del one, on_step
        return {"steps": 300, "seconds_training": 60.0, "R1": 0.5, "mAP": 0.5}


def test_the_time_of_a_step_includes_earlier_attempts(tmp_path: Path) -> None:
    budget, data = Budget.of(10.0, "cpu"), SimpleNamespace(train=range(640))
    attempts = Quick({"market1501": data}, {}, tmp_path, RunOptions(), {}, budget)  # type: ignore[dict-item]
    (tmp_path / "locks").mkdir()
    lock = filelock.FileLock(tmp_path / "locks" / "one", thread_local=False)
    lock.acquire()  # as `status` does for a moment
    threading.Timer(0.3, lock.release, (True,)).start()
    assert attempts.attempt(Run(MSINET, "one", "missing"), lambda _: None)[0] == "finished"
    assert budget.rates == {key_of(MSINET): 0.2}


def test_without_known_step_times_they_are_assumed(now: list[float]) -> None:
    large = ("msinet", "train", 256, 128)
    for device, at_64, at_256 in (("cpu", UNKNOWN_ON_CPU, 16 * UNKNOWN_ON_CPU), ("H200", *(2 * [UNKNOWN_ON_GPU]))):
        budget = Budget.of(5.0, device)
        assert budget.estimate(key_of(MSINET), 100) == pytest.approx(MARGIN * (OVERHEAD + 100 * at_64))
        assert budget.estimate(large, 100) == pytest.approx(MARGIN * (OVERHEAD + 100 * at_256))
        assert not budget.admits(large, 10_000)
        budget.rates["msinet", "pretrain", 64, 32] = 9.0
        assert budget.rate(key_of(MSINET)) == at_64  # another task tells nothing


def test_steps_of_larger_images_take_longer(now: list[float]) -> None:
    budget = Budget.of(5.0, "H200")
    budget.rates["osnet", "train", 64, 32] = 0.5
    assert budget.rate(("msinet", "train", 256, 128)) == 16 * 0.5
    assert budget.rate(("msinet", "train", 32, 16)) == 0.5
    budget.rates["resnet50", "train", 256, 128] = 6.0
    assert budget.rate(("resnet50", "train", 64, 32)) == 6.0  # at most as long as at the larger size
    assert budget.rate(("osnet", "train", 64, 48)) == 1.5 * 0.5
    budget.rates["osnet", "train", 256, 128] = 0.6
    assert budget.rate(("osnet", "train", 128, 64)) == 0.6
    assert budget.rate(("msinet", "train", 64, 32)) == 6.0  # the slowest network


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", "network,task,height,width\nmsinet,train,high,32\n"])
def test_unusable_step_times_are_one_clear_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "steps.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"--step-times .*steps.csv is not a steps.csv of `bench gpu`"):
        Budget.of(1.0, "cpu", path)


def test_times_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--minutes must be at least 0"):
        Budget.of(-1.0, "cpu")
    assert main(["fill", "--minutes", "0"]) == 2
    assert main(["fill", "--profile", "paper"]) == 2
    error = capsys.readouterr().err
    assert "--minutes must be above 0" in error
    assert "fill runs on the rendered world, in profile smoke, mini, full, not paper" in error


SIZE = {"recipe.height": 64, "recipe.width": 32}


def test_times_come_from_finished_runs_and_from_the_table_of_steps(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(
        "network,task,height,width,batch,precision,mode,device,loop_ms\n"
        "msinet,train,64,32,64,tf32,graph,H200,8\nmsinet,train,64,32,64,tf32,eager,H200,60\n"
        "supernet,search,64,32,64,tf32,graph,H200,40\nosnet,train,64,32,64,fp32,graph,H200,3\n"
        "msinet,train,64,32,64,tf32,graph,A100,16\ncdnet,train,64,32,64,tf32,graph,A100,12\n"
    )
    missing = float("nan")
    records: list[dict[str, Any]] = [
        {"device": "H200", "model": "osnet", **SIZE, "steps": 100, "seconds_training": 2.0, "recipe.method": missing},
        {"device": "H200", "model": "cdnet", **SIZE, "steps": 0, "seconds_training": 0.0},
        {"device": "cpu", "model": "cdnet", **SIZE, "steps": 10, "seconds_training": 9.0},
        {
            "device": "H200",
            "model": "msinet",
            "option.pam": True,
            **SIZE,
            "steps": 10,
            "seconds_training": 1.0,
            "genotype": missing,
        },
        *(
            {
                "device": "H200",
                "model": model,
                **SIZE,
                "steps": 10,
                "seconds_training": 1.0,
                "recipe.method": "gs",
                "seconds_labelling": seconds,
            }
            for model, seconds in (("msinet", 4.0), ("osnet", missing))
        ),
    ]
    searches = {"device": "H200", "model": "supernet", "genotype": "G", **SIZE, "steps": 10}
    records += [searches | {"recipe.mechanism": "ce", "seconds_training": 3.0}]
    records += [searches | {"recipe.mechanism": "tpe", "seconds_training": 0.5}]
    budget = Budget.of(1.0, "H200", path, records, graphs=True)
    search = replace(MSINET, model="supernet", recipe=replace(RECIPE, search=Search()))
    trials = replace(search, recipe=replace(RECIPE, search=Search(mechanism="tpe")))
    assert budget.rates == {
        ("msinet", "train", 64, 32): 0.008,
        ("supernet", "search", 64, 32): 0.3,
        ("supernet", "train", 64, 32): 0.05,
        ("osnet", "train", 64, 32): 0.02,
        ("msinet pam=True", "train", 64, 32): 0.1,
        ("msinet", "gs", 64, 32): 0.5,
        ("osnet", "gs", 64, 32): 0.1,
    }
    assert key_of(search) == ("supernet", "search", 64, 32)
    assert key_of(trials) == ("supernet", "train", 64, 32)
    assert key_of(MSINET.with_options(pam=True, ratio=2)) == ("msinet pam=True", "train", 64, 32)
    assert key_of(replace(MSINET, recipe=replace(RECIPE, unsupervised=Unsupervised()))) == ("msinet", "gs", 64, 32)
    assert Budget.of(1.0, "H200", path).rates == {key_of(MSINET): 0.06}  # without graphs
    assert Budget.of(1.0, "A100", path, graphs=True, jobs=3).rates[key_of(MSINET)] == pytest.approx(0.048)  # shared GPU


def test_steps_of_an_experiment() -> None:
    dataset: Any = SimpleNamespace(train=range(640))
    assert steps_of(MSINET, dataset) == 300
    assert steps_of(replace(MSINET, recipe=with_settings(RECIPE, {"steps_per_epoch": None})), dataset) == 100
    assert steps_of(replace(MSINET, recipe=with_settings(RECIPE, {"epochs": 0})), dataset) == 0


@pytest.mark.parametrize(
    "search", [Search(), Search(overlap=0.0), Search("ce", 1.0), Search(overlap=0.2, side_ratio=0.5)]
)
def test_iterations_of_a_search_are_those_of_its_training_side(search: Search) -> None:
    labels = np.repeat(np.arange(120), 16)
    training, _ = split_identities(labels, search.overlap, side_ratio=search.side_ratio)
    dataset: Any = SimpleNamespace(train=labels)
    recipe = replace(with_settings(RECIPE, {"epochs": 1, "steps_per_epoch": None}), search=search)
    steps = len(training.labels) // recipe.sampler.batch
    assert steps_of(replace(MSINET, recipe=recipe), dataset) == pytest.approx(steps, abs=1)
    tpe = replace(recipe, search=replace(search, mechanism="tpe"))
    assert steps_of(replace(MSINET, recipe=tpe), dataset) == pytest.approx(2 * steps, abs=2)


def test_runs_that_would_not_end_are_postponed(tmp_path: Path, data_root: Path, capsys) -> None:
    words = ["run", "table2", "--profile", "smoke", "--data-root", str(data_root), "--datasets", "market1501"]
    words += ["--models", "msinet_x0_25", "--store", str(tmp_path), "--device", "cpu", "--no-progress", "--no-table"]
    steps = tmp_path / "steps.csv"
    steps.write_text(
        "network,task,height,width,precision,mode,device,loop_ms\nmsinet_x0_25,train,32,16,tf32,eager,cpu,1e6\n"
    )
    assert main([*words, "--minutes", "0.5", "--step-times", str(steps)]) == 0
    assert "postponed" in capsys.readouterr().out
    records = [json.loads((path / "record.json").read_text()) for path in tmp_path.glob("runs/*")]
    assert not any(record["steps"] for record in records)


def test_the_studies_of_the_list_exist_and_the_main_table_is_first() -> None:
    assert PRIORITIES[0].study == "table2"
    assert len(set(PRIORITIES)) == len(PRIORITIES)
    for wanted in PRIORITIES:
        request = Request(profile=wanted.profile, seeds=wanted.seeds)
        assert find_study(wanted.study).cells(request, request.default_datasets())


def test_filling_runs_the_list_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    ran: list[command_line.Run] = []

    def run(one: command_line.Run) -> int:
        ran.append(one)
        now[0] += 120
        if len(ran) == 2:
            raise UserError("this study cannot run")
        return 0

    monkeypatch.setattr(command_line.Run, "__call__", run)
    options = RunOptions(device="cuda", progress=False, graphs=False)
    fill = Fill(minutes=5.0, store=Path("s"), jobs=4, step_times=Path("steps.csv"), run_options=options)
    assert fill() == 1
    assert [one.name for one in ran] == [wanted.study for wanted in PRIORITIES[:3]]
    assert [one.minutes for one in ran] == [5.0, 3.0, 1.0]
    request = Request(profile="mini", seeds=1, store=Path("s"))
    steps = Path("steps.csv")
    assert ran[0] == command_line.Run("table2", request, 4, options, minutes=5.0, step_times=steps, table=False)


def test_ctrl_c_ends_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[str] = []

    def stop(run: command_line.Run) -> int:
        begun.append(run.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.Run, "__call__", stop)
    assert command_line.main(["fill", "--minutes", "5"]) == 130
    assert begun == [PRIORITIES[0].study]
    assert "the same command resumes" in capsys.readouterr().err
