"""Runs on a cluster: the real Ray and submitit's local executor, with processes and nodes that are killed.

`pytest -m slow tests/ablations/test_cluster.py` has the 200 runs; MSINET_FAULTS repeats them so many times.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ablations.__main__ import main
from ablations.engine.attempt import Attempts, Outcome
from ablations.engine.budget import UNKNOWN_ON_GPU, Budget
from ablations.engine.cluster import CarryOut, ClusterEngine, connection, on_cluster
from ablations.engine.options import ClusterOptions
from ablations.engine.parallel import Engine, drive
from ablations.engine.request import Request
from ablations.engine.resolve import Run
from ablations.engine.store import Store
from msinet.errors import UserError
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, Schedule

FAKE = Path(__file__).with_name("fake_cluster.py")
RUNS, KILLS = 200, 30
STEPS = 4
Words = Callable[..., list[str]]


# --- The loop that all engines share ---


@dataclass
class Script(Engine):
    """An engine that ends runs in the order of handing over; `answers` says how, by number and attempt."""

    answers: Mapping[tuple[int, int], Outcome | None] = field(default_factory=dict)
    limit: int = 0
    most: int = 0
    stopped: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        self.order: list[int] = []
        self.tried = Counter[int]()

    def submit(self, runs: Mapping[int, Run]) -> list[Any]:
        for number in runs:
            self.tried[number] += 1
        self.order += runs
        return [(number, self.tried[number]) for number in runs]

    def finished(self, handles: Sequence[Any]) -> Iterable[Any]:
        self.most = max(self.most, len(handles))
        return handles[:1]

    def outcome(self, handle: Any, run: Run) -> Outcome | None:
        del run
        return self.answers.get(handle, ("finished", ""))

    def stop(self, handles: Sequence[Any]) -> None:
        self.stopped = tuple(handles)


@dataclass(frozen=True)
class After(Attempts):
    """Runs that wait for the first one."""

    finished: list[int] = field(default_factory=list)

    def ready(self, one: Run) -> Run | None:
        return one if 0 in self.finished else None


def runs(*states: str) -> list[Run]:
    from ablations.engine.experiment import Experiment

    e = Experiment("osnet", "market1501", "market1501", Recipe(schedule=Schedule(epochs=1)), "smoke")
    return [Run(e, f"{n:012x}", state) for n, state in enumerate(states)]  # type: ignore[arg-type]


def after(root: Path) -> After:
    return After({}, {}, root, RunOptions(), {})


def test_waiting_runs_follow_and_lost_ones_go_again(tmp_path: Path) -> None:
    attempts = after(tmp_path)
    engine = Script({(1, 1): None, (3, 1): ("failed", "why")}, limit=2)
    found = []
    for number, outcome, _ in drive(engine, attempts, runs("missing", "missing", "waiting", "interrupted")):
        found.append((number, outcome))
        attempts.finished.append(number)
    assert sorted(found) == [(0, "finished"), (1, "finished"), (2, "finished"), (3, "failed")]
    assert engine.order.index(2) > engine.order.index(0)
    assert engine.tried[1] == 2
    assert engine.most == 2


@dataclass(frozen=True)
class Found(After):
    """The searches of all waiting runs find the same genotype."""

    def ready(self, one: Run) -> Run | None:
        return replace(one, run_id="found", state="missing") if self.finished else None


def waiting(number: int) -> list[Run]:
    """A search and trainings that wait for it."""
    search, *trainings = runs("missing", *(number * ["waiting"]))
    return [search, *(replace(one, run_id="") for one in trainings)]


@pytest.mark.parametrize(("outcome", "others"), [("finished", "done"), ("failed", "failed")])
def test_searches_that_find_the_same_genotype_share_a_run(tmp_path: Path, outcome: str, others: str) -> None:
    attempts = Found({}, {}, tmp_path, RunOptions(), {})
    engine = Script({(1, 1): None, (1, 2): (outcome, "")})  # lost once
    found = []
    for number, what, _ in drive(engine, attempts, waiting(3)):
        found.append((number, what))
        attempts.finished.append(number)
    assert found == [(0, "finished"), (1, outcome), (2, others), (3, others)]
    assert engine.order == [0, 1, 1]


def test_a_lost_run_has_the_id_that_its_search_gave_it(tmp_path: Path) -> None:
    # As submitit and Ray quote the traceback of a job.
    quoted = "Job (task=0) failed\n---\nTraceback:\n  File x\nModuleNotFoundError: No module named 'msinet'\n---\nLogs"

    class Losing(ClusterEngine):
        def start(self) -> None: ...

        def submit(self, runs: Mapping[int, Run]) -> list[Any]:
            return list(runs)

        def finished(self, handles: Sequence[Any]) -> Iterable[Any]:
            return handles

        def outcome(self, handle: Any, run: Run) -> Outcome | None:
            return ("finished", "") if handle == 0 else self.lost(run, RuntimeError(quoted))

        def stop(self, handles: Sequence[Any]) -> None: ...

    attempts = Found({}, {}, tmp_path, RunOptions(), {})
    engine = Losing(ClusterOptions("slurm"), CarryOut(attempts, 1), gpu=False)
    messages = []
    for number, _, message in drive(engine, attempts, waiting(1)):
        attempts.finished.append(number)
        messages.append(message)
    error = tmp_path / "failed" / "found" / "error.txt"
    assert messages[-1] == f"LOST: ModuleNotFoundError: No module named 'msinet' -> {error}"
    assert error.read_text() == f"{quoted}\n"
    assert [path.name for path in (tmp_path / "failed").iterdir()] == ["found"]


def test_what_never_becomes_ready_is_blocked(tmp_path: Path) -> None:
    attempts = after(tmp_path)
    assert [outcome for _, outcome, _ in drive(Script(), attempts, runs("waiting", "missing"))] == [
        "finished",
        "blocked",
    ]


def test_runs_are_stopped_if_the_caller_gives_up(tmp_path: Path) -> None:
    engine = Script()
    outcomes = drive(engine, after(tmp_path), runs("missing", "missing", "missing"))
    next(outcomes)
    outcomes.close()
    assert engine.stopped == ((1, 1), (2, 1))


# --- Options ---


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"hours": 0.0}, {"threads": -1}])
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        ClusterOptions("ray", **wrong)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for on, module, extra in (("ray", "ray", "ray"), ("slurm", "submitit", "slurm")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"--on {on} needs .*pip install -e '.\[{extra}\]'"):
            list(on_cluster(ClusterOptions(on), after(tmp_path), runs("missing"), 0))  # type: ignore[arg-type]


def test_slurm_is_named_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="SLURM cannot be used here"):
        list(on_cluster(ClusterOptions("slurm"), after(tmp_path), runs("missing"), 0))


def test_a_command_for_gpus_of_a_cluster_needs_none_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = []

    def stop(_study: Any, request: Request, run_options: RunOptions, budget: Budget) -> None:
        prepared.append((request.whole, run_options.device, budget.rate(("msinet", "train", 64, 32))))
        raise UserError("far enough")

    monkeypatch.setattr("ablations.engine.prepare.prepare", stop)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["run", "table2", "--on", "slurm", "--device", "cuda", "--minutes", "5", "--store", str(tmp_path)]
    assert main([*words, "--no-table"]) == 2
    assert capsys.readouterr().err == "error: far enough\n"
    assert prepared == [(False, "auto", UNKNOWN_ON_GPU)]


def test_jobs_that_slurm_refuses_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    refuse = f"cp $1 {tmp_path}/job; echo sbatch: error: invalid partition specified: gqu >&2; exit 1"
    for name, line in (("srun", ""), ("sbatch", refuse)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = ClusterOptions("slurm", partition="gqu")
    with pytest.raises(UserError, match=r"SLURM refuses the jobs \(sbatch: .* gqu\); check --partition"):
        list(on_cluster(options, after(tmp_path), runs("missing"), 0))
    assert "gpu" not in (tmp_path / "job").read_text()  # none is asked for


# --- The real engines ---


def fake(root: Path, number: int, *words: str) -> subprocess.Popen[bytes]:
    """A command that hands over short runs; its output goes to the file log."""
    command = [sys.executable, str(FAKE), str(root), str(number), *words]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    root.mkdir(exist_ok=True)
    with (root / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=env)


def log(root: Path) -> str:
    return (root / "log").read_text(errors="replace")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def check_published(root: Path, number: int, killed: int) -> None:
    """Exactly the wanted runs, each whole and right, and none worked on by two processes at once."""
    store, wanted = Store(root), [f"{one:012x}" for one in range(number)]
    assert sorted(path.name for path in (root / "runs").iterdir()) == wanted
    assert not list((root / "partial").iterdir())
    assert not (root / "failed").exists() or not list((root / "failed").iterdir())
    nonces = {}
    for run_id in wanted:
        folder, value = store.run_folder(run_id), run_id
        assert {path.name for path in folder.iterdir()} == {
            "checkpoint.json",
            "experiment.json",
            "record.json",
            "weights",
        }
        record = json.loads((folder / "record.json").read_text())
        for _ in range(STEPS):
            value = hashlib.sha256(value.encode()).hexdigest()
        assert (record["run_id"], record["value"]) == (run_id, value)
        assert (folder / "weights").read_text() == record["nonce"] * 8192  # of one process, not torn
        nonces[run_id] = record["nonce"]
    assert len(store.frame()) == number
    told = dict(line.split() for line in lines(root / "published"))
    assert len(lines(root / "published")) == len(told)
    assert all(nonces[run_id] == nonce for run_id, nonce in told.items())
    assert not lines(root / "violations")
    # What a run had saved before it was killed was not done again: at most a step for each attempt that ended so.
    assert number * STEPS <= len(lines(root / "steps")) <= number * STEPS + killed


def test_ray_carries_out_runs_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert fake(tmp_path, 4, "on=ray").wait(300) == 0, log(tmp_path)
    assert log(tmp_path).count("finished") == 4
    check_published(tmp_path, 4, 0)


def test_submitit_carries_out_runs_and_tries_lost_ones_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    process = fake(tmp_path, 2, "on=slurm", "submit=local", "attempts=5")
    end, killed = time.monotonic() + 300, 0
    while process.poll() is None:
        assert time.monotonic() < end
        if not killed and (pids := lines(tmp_path / "pids")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pids[0]), signal.SIGKILL)
                killed = 1
        time.sleep(0.02)
    assert process.returncode == 0, log(tmp_path)
    check_published(tmp_path, 2, killed)


@pytest.mark.slow
def test_a_run_that_is_lost_too_often_has_failed(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    process = fake(tmp_path, 1, "on=slurm", "submit=local", "attempts=1")
    while process.poll() is None:
        for pid in lines(tmp_path / "pids"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)
    assert process.returncode == 1
    assert "LOST" in log(tmp_path)
    store = Store(tmp_path)
    assert store.state("0" * 12) == "failed"
    assert not store.has_runs
    assert fake(tmp_path, 1, "on=slurm", "submit=local").wait() == 0  # never a result: it is tried again
    assert store.state("0" * 12) == "done"


@pytest.mark.slow
def test_a_table_on_submitit_is_that_of_this_machine(
    words: Words, outcome: Callable[[Path], Any], data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    for store, more in (("here", ()), ("there", ("--on", "slurm", "--submit", "local"))):
        assert main([*words("run", tmp_path / store, root=data_root), *more]) == 0, capfd.readouterr().err
    assert outcome(tmp_path / "here") == outcome(tmp_path / "there")


@pytest.mark.slow
def test_a_table_and_a_sweep_on_ray_are_those_of_this_machine(
    words: Words, outcome: Callable[[Path], Any], data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    for store, more in (("here", ()), ("there", ("--on", "ray"))):
        assert main([*words("run", tmp_path / store, root=data_root), *more]) == 0, capfd.readouterr().err
    assert outcome(tmp_path / "here") == outcome(tmp_path / "there")
    sweep = ["sweep", "overlap", "--profile", "smoke", "--data-root", str(data_root), "--datasets", "market1501"]
    sweep += ["--grid", "0.2", "0.4", "--seeds", "1", "--no-progress", "--device", "cpu", "--models", "msinet_x0_25"]
    assert main([*sweep, "--store", str(tmp_path / "a")]) == 0, capfd.readouterr().err
    more = ["--on", "ray", "--trials-at-once", "2"]
    assert main([*sweep, "--store", str(tmp_path / "b"), *more]) == 0, capfd.readouterr().err
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


# --- What is killed ---


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # What Ray's own processes leave open is no fault of these tests.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        cluster.add_node(num_cpus=4)
        yield cluster
        cluster.shutdown()


def ray_workers() -> list[int]:
    """Process numbers of Ray's workers that carry out a task."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::_carry_out"):
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("repetition", range(int(os.environ.get("MSINET_FAULTS", "1"))))
def test_every_run_is_published_once_whatever_is_killed(repetition: int, nodes: Any, tmp_path: Path) -> None:
    """Workers at random, a node, and the command that hands the runs over."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("finds the workers in /proc")
    seed = random.randrange(2**32)  # other moments every time: each of them must do
    chance = random.Random(seed)
    words = ["on=ray", f"address={nodes.address}", "attempts=1000"]
    process = fake(tmp_path, RUNS, *words)
    killed = Counter[str]()
    second = nodes.list_all_nodes()[-1]
    end = time.monotonic() + 900  # only a hang takes so long
    while process.poll() is None:
        assert time.monotonic() < end, (seed, killed)
        time.sleep(chance.uniform(0, 0.1))
        published = len(list((tmp_path / "runs").glob("*")))
        if not killed["node"] and published > RUNS / 4:
            nodes.remove_node(second, allow_graceful=False)  # SIGKILL
            second = nodes.add_node(num_cpus=4)
            killed["node"] += 1
        elif not killed["command"] and published > RUNS / 2:
            process.kill()
            process.wait()
            process = fake(tmp_path, RUNS, *words)
            killed["command"] += 1
        elif killed["worker"] < min(KILLS, 4 + KILLS * published / RUNS) and (pids := ray_workers()):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(chance.choice(pids), signal.SIGKILL)
                killed["worker"] += 1
    assert process.returncode == 0, (seed, log(tmp_path))
    assert killed["node"] == killed["command"] == 1, seed
    assert killed["worker"] > KILLS / 2, seed
    check_published(tmp_path, RUNS, killed["worker"] + 16)  # a node and a command end up to eight runs each


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ctrl_c_saves_the_states_of_tasks(nodes: Any, tmp_path: Path) -> None:
    process = fake(tmp_path, 40, "on=ray", f"address={nodes.address}")
    while len(list((tmp_path / "runs").glob("*"))) < 8:
        assert process.poll() is None, log(tmp_path)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    assert not ray_workers()
    assert fake(tmp_path, 40, "on=ray", f"address={nodes.address}").wait(300) == 0
    check_published(tmp_path, 40, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_cluster_at_an_address_is_one_error() -> None:
    pytest.importorskip("ray")
    options = ClusterOptions("ray", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster can be used at 127.0.0.1:1"), connection(options):
        pass
