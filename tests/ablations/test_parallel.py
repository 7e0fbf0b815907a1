"""Several runs at once: same results, order after searches, Ctrl-C, a process that dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ablations.__main__ import main
from ablations.engine import parallel
from ablations.engine.attempt import Attempts, OnStep
from ablations.engine.engines import Outcome
from ablations.engine.experiment import Experiment
from ablations.engine.parallel import Plan, at_once, choose_jobs, one_by_one
from ablations.engine.resolve import Run
from ablations.engine.runner import _Meter
from ablations.engine.store import Store
from msinet.errors import UserError
from msinet.training.fit import _interruptible
from msinet.training.options import RunOptions
from msinet.training.recipes import resolve, resolve_search

Words = Callable[..., list[str]]
MODELS = ("msinet_x0_25", "osnet_x0_25")
TWO = Plan(2, 1)


def experiment(name: str) -> Experiment:
    return Experiment(name, "market1501", "market1501", resolve("smoke", "market1501").recipe, "smoke")


def test_the_remaining_time_is_not_foretold_from_rankings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with _Meter("table", [1.0, 199.0], visible=True, below=False) as meter:
        meter.end(0, counts=True)
        meter._bar.refresh()
        assert "left" not in capsys.readouterr().err
        meter.step(1, 0.1)
        meter._bar.refresh()
        assert "passed, about" in capsys.readouterr().err


def test_the_bar_does_not_go_back_when_a_process_reports_late() -> None:
    with _Meter("table", [1.0, 3.0], visible=True, below=False) as meter:
        meter.end(0, counts=True)
        meter.step(0, 0.0)  # the share of a run that ranked weights of another one
        meter.step(1, 0.5)
        assert meter._bar.n == 2.5


SEARCH = Run(
    Experiment("supernet", "market1501", "market1501", resolve_search("smoke", "market1501").recipe, "smoke"),
    "search",
    "missing",
)
AFTER = Run(replace(experiment("msinet"), genotype_from=SEARCH.experiment), "", "waiting")


@dataclass(frozen=True)
class Made(Attempts):
    """Runs that write a file in place of training; the name of the network says what happens."""

    def attempt(self, one: Run, on_step: OnStep) -> Outcome:
        name = one.experiment.model
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "killed_later":
            while not (self.root / "began").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "saving":
            with _interruptible() as signalled:
                (self.root / "began").touch()
                while not signalled():
                    time.sleep(0.05)
                for _ in range(20):  # a second signal would end this at once
                    time.sleep(0.05)
                (self.root / "saved").touch()
                raise KeyboardInterrupt
        if name == "failing":
            return "failed", "FAILED"
        if name == "endless":
            while True:
                (self.root / "began").touch()
                time.sleep(0.05)
                on_step(0.5)
        time.sleep(0.2)
        on_step(1.0)
        (self.root / f"{name} {torch.get_num_threads()} threads").touch()
        return "finished", ""

    def ready(self, one: Run) -> Run | None:
        return one if list(self.root.glob("supernet*")) else None


def made(root: Path) -> Made:
    return Made({}, {}, root, RunOptions(progress=False), {})


def ignore(_number: int, _share: float) -> None:
    pass


@pytest.mark.parametrize(
    ("device", "jobs", "height", "expected"),
    [
        ("cpu", 0, 64, Plan(3, 1)),  # 8 cores, but three runs
        ("cpu", 1, 64, Plan(1, 1)),  # the number of threads does not depend on jobs
        ("cpu", 2, 64, Plan(2, 1)),
        ("cpu", 0, 256, Plan(1, 6)),
        ("cpu", 2, 256, Plan(2, 3)),
        ("cuda", 0, 64, Plan(1, 6)),
        ("cuda", 3, 64, Plan(3, 2)),
    ],
)
def test_number_of_runs_and_threads(
    device: str, jobs: int, height: int, expected: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    e = experiment("msinet")
    image = replace(e.recipe.image, height=height, width=height // 2)
    sampler = replace(e.recipe.sampler, identities=16, images=4)
    run = Run(replace(e, recipe=replace(e.recipe, image=image, sampler=sampler)), "one", "missing")
    assert choose_jobs([run] * 3, device, jobs) == expected


def test_jobs_below_zero_are_refused() -> None:
    with pytest.raises(UserError, match="--jobs must be at least 0, got -1"):
        choose_jobs([], "cpu", -1)


@pytest.mark.parametrize("carry_out", [one_by_one, at_once])
def test_a_training_begins_after_its_search(carry_out: Callable[..., parallel.Outcomes], tmp_path: Path) -> None:
    failing = Run(experiment("failing"), "failing", "missing")
    steps: dict[int, float] = {}
    found = list(carry_out(made(tmp_path), [SEARCH, AFTER, failing], TWO, steps.__setitem__))
    assert {(number, outcome) for number, outcome, _ in found} == {(0, "finished"), (1, "finished"), (2, "failed")}
    numbers = [number for number, _, _ in found]
    assert numbers.index(0) < numbers.index(1)
    assert {path.name for path in tmp_path.iterdir()} == {"supernet 1 threads", "msinet 1 threads"}
    assert steps[0] == 1.0


def test_a_training_whose_search_failed_is_blocked(tmp_path: Path) -> None:
    failing = Run(experiment("failing"), "failing", "missing")
    (first, second) = at_once(made(tmp_path), [failing, AFTER], TWO, ignore)
    assert first[:2] == (0, "failed")
    assert second == (1, "blocked", "not run, what it needs is not finished")


def test_a_killed_process_is_one_clear_error(tmp_path: Path) -> None:
    runs = [Run(experiment(name), name, "missing") for name in ("killed", "osnet")]
    with pytest.raises(UserError, match=r"ended unexpectedly.*--jobs 1 needs less memory"):
        list(at_once(made(tmp_path), runs, TWO, ignore))


def test_giving_up_ends_the_processes(tmp_path: Path) -> None:
    runs = [Run(experiment(name), name, "missing") for name in ("osnet", "endless", "resnet50")]
    outcomes = at_once(made(tmp_path), runs, TWO, ignore)
    assert next(outcomes)[:2] == (0, "finished")
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    began = time.monotonic()
    outcomes.close()
    assert time.monotonic() - began < 30
    (tmp_path / "began").unlink()
    time.sleep(0.2)
    assert not (tmp_path / "began").exists()


def test_an_idle_process_does_not_disturb_one_that_saves(tmp_path: Path) -> None:
    runs = [Run(experiment(name), name, "missing") for name in ("osnet", "saving")]
    outcomes = at_once(made(tmp_path), runs, TWO, ignore)
    assert next(outcomes)[:2] == (0, "finished")
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    outcomes.close()
    assert (tmp_path / "saved").exists()


def test_the_others_save_if_a_process_is_killed(tmp_path: Path) -> None:
    # The executor watches a new process only from its next event on, here the end of the first run.
    runs = [Run(experiment(name), name, "missing") for name in ("osnet", "killed_later", "saving")]
    with pytest.raises(UserError, match="ended unexpectedly"):
        list(at_once(made(tmp_path), runs, TWO, ignore))
    assert (tmp_path / "saved").exists()


#: Carries out an endless run and a short one in a process of its own, so that it can be killed.
COMMAND = """
import sys
sys.path[:0] = [folder]
import test_parallel as tests
from pathlib import Path
runs = [tests.Run(tests.experiment(name), name, "missing") for name in ("osnet", "endless")]
list(tests.at_once(tests.made(Path(root)), runs, tests.TWO, tests.ignore))
"""


def test_processes_end_when_the_first_one_is_killed(tmp_path: Path) -> None:
    program = f"folder, root = {str(Path(__file__).parent)!r}, {str(tmp_path)!r}\n{COMMAND}"
    path = os.pathsep.join(filter(None, sys.path))
    end = time.monotonic() + 300  # only a hang takes so long
    first = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path})
    try:
        while not ((tmp_path / "began").exists() and list(tmp_path.glob("osnet*"))):  # one works, one is idle
            assert time.monotonic() < end
            assert first.poll() is None
            time.sleep(0.1)
    finally:
        first.kill()
        first.wait()
    while touched(tmp_path / "began"):
        assert time.monotonic() < end
        time.sleep(0.1)


def touched(path: Path) -> bool:
    """Whether a process still makes the file."""
    path.unlink(missing_ok=True)
    time.sleep(0.5)
    return path.exists()


@pytest.mark.slow
def test_two_at_once_give_the_same_bits_as_one_by_one(data_root: Path, tmp_path: Path, words: Words) -> None:
    for jobs in ("1", "2"):
        assert main([*words("run", tmp_path / jobs, root=data_root, models=MODELS), "--jobs", jobs]) == 0
    weights = [sorted((tmp_path / jobs / "runs").glob("*/model.safetensors")) for jobs in ("1", "2")]
    assert [path.parent.name for path in weights[0]] == [path.parent.name for path in weights[1]]
    assert len(weights[0]) == 3
    for one, other in zip(*map(list, weights), strict=True):
        first, second = load_file(one), load_file(other)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_ctrl_c_saves_all_runs_and_the_same_command_resumes(data_root: Path, tmp_path: Path, words: Words) -> None:
    recipe = ("epochs=1", "steps_per_epoch=60")
    command = [*words("run", tmp_path / "two", root=data_root, models=MODELS, recipe=recipe), "--jobs", "2"]
    environment = {**os.environ, "GLIBC_TUNABLES": ""}
    process = subprocess.Popen([sys.executable, "-m", "ablations", *command], env=environment)
    partial = tmp_path / "two" / "partial"
    while len(list(partial.glob("*/log.txt"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list(partial.glob("*/checkpoint.pt"))
    assert main(command) == 0
    assert main(words("run", tmp_path / "one", root=data_root, models=MODELS, recipe=recipe)) == 0
    two, one = (Store(tmp_path / name).frame()["mAP"].to_dict() for name in ("two", "one"))
    assert two == one
