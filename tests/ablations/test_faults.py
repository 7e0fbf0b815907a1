"""Two hundred short runs, eight workers, and a killer: in the end each run is published once and whole.

`pytest -m slow tests/ablations/test_faults.py`. MSINET_FAULTS repeats each test so many times.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import runpy
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from ablations.engine.job import Job
from ablations.engine.queue import Queue, enqueue
from ablations.engine.store import Store

FAKE = Path(__file__).with_name("fake_worker.py")
RUNS, WORKERS, KILLS = 200, 8, 60
#: Long enough that a worker that waits for a core is not taken for dead, short enough for a test.
LEASE = 9.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.engine.worker"])
    return context


@pytest.fixture
def workers(context: Any) -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(params=["journal", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "journal") if request.param == "journal" else request.getfixturevalue("postgres")


def start(context: Any, where: str, store: Store, **settings: Any) -> BaseProcess:
    arguments = {"where": where, "root": str(store.root), "settings": {"method": "fork", "lease": LEASE} | settings}
    process = context.Process(target=runpy.run_path, args=(str(FAKE), arguments, "__main__"))
    process.start()
    return process


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("repetition", range(int(os.environ.get("MSINET_FAULTS", "1"))))
def test_every_run_is_published_once_whatever_is_killed(
    repetition: int, where: str, context: Any, workers: list[BaseProcess], tmp_path: Path
) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the processes of the runs in /proc")
    seed = random.randrange(2**32)  # other moments every time: each of them must do
    chance = random.Random(seed)
    store = Store(tmp_path / "results")
    (store.root / "witness").mkdir(parents=True)
    wanted = [f"{number:012x}" for number in range(RUNS)]
    queue = Queue(where, store, create=True)
    assert enqueue(queue, [Job(run_id, "fake", {}) for run_id in wanted]) == {"added": RUNS}
    settings = {"attempts": 1000}
    workers += [start(context, where, store, **settings) for _ in range(WORKERS)]
    killed: Counter[str] = Counter()
    end = time.monotonic() + 900  # only a hang takes so long
    while any(process.is_alive() for process in workers):
        assert time.monotonic() < end, (seed, Counter(t.state.name for t in queue.trials()))
        time.sleep(chance.uniform(0, 0.1))
        published = len(list((store.root / "runs").glob("*")))
        if sum(killed.values()) >= min(KILLS, 4 + KILLS * published / RUNS):  # all along, on a slow machine as well
            continue
        kind = "run" if killed["run"] < killed["worker"] else "worker"
        number = chance.randrange(WORKERS)
        pid = workers[number].pid
        assert pid is not None
        runs = children(pid)
        if kind == "run" and runs:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(runs[0], signal.SIGKILL)
                killed[kind] += 1
        elif kind == "worker" and workers[number].is_alive() and (runs or chance.random() < 0.1):  # idle ones as well
            workers[number].kill()
            workers[number].join()
            workers[number] = start(context, where, store, **settings)
            killed[kind] += 1
    assert all(process.exitcode in (0, 1) for process in workers), seed  # 1: a run was killed under it
    assert killed["run"] > KILLS / 3, seed
    assert killed["worker"] > KILLS / 3, seed
    # Exactly the runs that were wanted, each whole and right.
    assert sorted(path.name for path in (store.root / "runs").iterdir()) == wanted
    assert not list((store.root / "partial").iterdir())
    assert not (store.root / "failed").exists()
    nonces = {}
    for run_id in wanted:
        folder = store.run_folder(run_id)
        names = {"checkpoint.json", "experiment.json", "record.json", "weights"}
        assert {path.name for path in folder.iterdir()} == names
        record = json.loads((folder / "record.json").read_text())
        value = run_id
        for _ in range(4):
            value = hashlib.sha256(value.encode()).hexdigest()
        assert (record["run_id"], record["value"]) == (run_id, value)
        assert (folder / "weights").read_text() == record["nonce"] * 8192  # of one process, not torn
        nonces[run_id] = record["nonce"]
    assert len(store.frame()) == RUNS
    # Nobody else believed to have published, and no run had two processes at once.
    told = dict(line.split() for line in lines(store.root / "published"))
    assert len(lines(store.root / "published")) == len(told)
    assert all(nonces[run_id] == nonce for run_id, nonce in told.items())
    assert not lines(store.root / "violations")
    # The queue has come to the same end.
    states = Counter(trial.state for trial in queue.trials())
    assert states[TrialState.COMPLETE] >= RUNS
    assert not states[TrialState.WAITING]
    assert not states[TrialState.RUNNING]
    # What a run had saved before it was stopped was not done again: at most a step for each attempt that ended so.
    assert RUNS * 4 <= len(lines(store.root / "steps")) <= RUNS * 4 + states[TrialState.FAIL]
