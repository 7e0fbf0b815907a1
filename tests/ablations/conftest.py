"""Commands in processes of their own, which can be interrupted and killed, without importing torch for each."""

import hashlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ablations.__main__
from ablations.engine.store import Store
from msinet.synthetic import SETS, SIZES, Size

#: Runs in a fork of a process that has imported everything. The state is saved after every step, so that a kill finds
#: it at any age.
CHILD = """
import os, signal, sys
import ablations.__main__ as commands
import ablations.engine.attempt as runner
from msinet.training import fit
signal.signal(signal.SIGINT, signal.default_int_handler)  # where pytest runs in the background it is ignored
sys.stdout = sys.stderr = open(log, "a", buffering=1)
fit.CHECKPOINT_SECONDS = 0
commands.show = lambda *_, **__: 0
exec(prelude)
sys.exit(commands.main(words))
"""
Start = Callable[..., BaseProcess]
#: Images of the rendered world in these tests.
TINY = dict.fromkeys(SETS, Size(4, 3, 4, 4, 16))


@pytest.fixture(autouse=True, scope="module")  # a folder without __init__.py is no package to pytest
def _tiny_worlds() -> Iterator[None]:
    """A command without --data-root renders in a moment, whatever the profile."""
    with pytest.MonkeyPatch.context() as patch:
        for profile in SIZES:
            patch.setitem(SIZES, profile, TINY)
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_tables() -> Iterator[None]:
    """`show` starts `reports` in another process; the tests of that package look at tables."""

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        assert command[:4] == [sys.executable, "-m", "reports", "table"]
        return SimpleNamespace(returncode=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations.__main__, "subprocess", SimpleNamespace(run=run))
        yield


@pytest.fixture(scope="session")
def words() -> Callable[..., list[str]]:
    """The words after `python -m ablations` for a short table of one small network, by default on Market-1501."""

    def build(
        command: str,
        store: Path,
        *more: str,
        root: Path | None = None,
        study: str = "table2",
        datasets: tuple[str, ...] = ("market1501",),
        models: tuple[str, ...] = ("msinet_x0_25",),
        recipe: tuple[str, ...] = ("epochs=1", "steps_per_epoch=2"),
    ) -> list[str]:
        lists = {"--datasets": datasets, "--models": models, "--recipe": recipe}
        found = [command, study, "--profile", "smoke", "--store", str(store)]
        found += ["--data-root", str(root)] if root is not None else []
        found += [word for name, values in lists.items() if values for word in (name, *values)]
        return [*found, *(["--no-progress", "--device", "cpu", "--jobs", "1"] if command == "run" else []), *more]

    return build


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, Any]]:
    """Outcomes of the finished runs of a store by run id: record, and hashes of weights and queries."""
    names = ("model", "seed", "mAP", "R1", "mINP", "steps", "macs", "genotype")
    files = ("model.safetensors", "queries.csv", "experiment.json")

    def written(folder: Path) -> list[Path]:
        return [folder / file for file in files if (folder / file).exists()]

    def read(store: Path) -> dict[str, Any]:
        frame = Store(store).frame()
        return {
            run_id: (
                *(repr(frame.loc[run_id, name]) for name in names if name in frame),
                *(
                    (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
                    for path in written(store / "runs" / run_id)
                ),
            )
            for run_id in frame.index
        }

    return read


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Wait until a condition holds."""

    def wait(condition: Callable[[], Any], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.01)

    return wait


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -m ablations WORDS` with its output in a file; `prelude` is code that runs before it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.__main__", "ablations.engine.attempt", "pytest"])
    started: list[BaseProcess] = []

    def begin(words: list[str], log: Path, prelude: str = "") -> BaseProcess:
        # A built-in as target: the child needs no module of the tests.
        process = context.Process(target=exec, args=(CHILD, {"words": words, "log": str(log), "prelude": prelude}))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def finish(start: Start) -> Callable[..., int]:
    """Run such a command to its end and return its exit status; negative: the signal that ended it."""

    def run(words: list[str], log: Path, prelude: str = "") -> int:
        process = start(words, log, prelude)
        process.join(timeout=300)  # only a hang takes so long
        assert process.exitcode is not None, log.read_text()
        return process.exitcode

    return run
