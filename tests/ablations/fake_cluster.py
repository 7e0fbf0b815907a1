"""Short runs that train nothing, on a real cluster; store, processes and publication are the real ones.

Nothing here imports torch, so that a killed process is replaced in a moment.

`python fake_cluster.py ROOT NUMBER WORDS...` hands that many over. WORDS are options of `ClusterOptions`, as on=ray.
"""

import fcntl
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from ablations.engine.cluster import on_cluster
from ablations.engine.experiment import Experiment
from ablations.engine.options import ClusterOptions
from ablations.engine.resolve import Run
from ablations.engine.store import Store
from msinet.errors import Busy
from msinet.io import write_json
from msinet.training.options import RunOptions
from msinet.training.recipe import ImageSize, Recipe, Schedule

STEPS = 4
RECIPE = Recipe(ImageSize(32, 16), schedule=Schedule(epochs=STEPS))
EXPERIMENT = Experiment("osnet", "market1501", "market1501", RECIPE, "smoke")


def append(path: Path, line: str) -> None:
    """One line in one call, whole even if several processes write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@dataclass(frozen=True)
class Fake:
    """What `Attempts` is to a cluster, with runs whose steps are hashes and have a checkpoint each."""

    root: Path
    run_options: RunOptions

    @property
    def store(self) -> Store:
        return Store(self.root)

    def ready(self, one: Run) -> Run | None:
        del one
        return None

    def use_threads(self, threads: int) -> None:
        assert threads == 1

    def attempt(self, one: Run, on_step: Callable[[float], None]) -> tuple[str, str]:
        """As `Attempts.attempt` does it."""
        try:
            with self.store.lock(one.run_id):
                if self.store.done(one.run_id):
                    return "done", ""
                self.publish(one, on_step)
        except Busy:
            return "running", ""
        return "finished", one.run_id

    def publish(self, one: Run, on_step: Callable[[float], None]) -> None:
        store, run_id = self.store, one.run_id
        append(self.root / "pids", str(os.getpid()))
        witness = os.open(self.root / "witness" / run_id, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            append(self.root / "violations", f"{run_id} is worked on twice")
        folder = store.partial_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoint.json"
        at = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "value": run_id}
        while at["step"] < STEPS:
            time.sleep(0.05)
            at = {"step": at["step"] + 1, "value": hashlib.sha256(at["value"].encode()).hexdigest()}
            append(self.root / "steps", run_id)
            write_json(checkpoint, at)
            on_step(at["step"] / STEPS)
        nonce = secrets.token_hex(8)
        (folder / "weights").write_text(nonce * 8192)
        store.publish(run_id, one.experiment, {"value": at["value"], "nonce": nonce, "seconds_training": 0.1})
        append(self.root / "published", f"{run_id} {nonce}")
        os.close(witness)


def runs(number: int) -> list[Run]:
    """The runs."""
    return [Run(EXPERIMENT, f"{one:012x}", "missing") for one in range(number)]


def options(words: list[str]) -> ClusterOptions:
    """Options from NAME=VALUE."""
    kinds = {one.name: type(one.default) for one in fields(ClusterOptions)}
    found = dict(word.split("=", 1) for word in words)
    return ClusterOptions(**{name: kinds[name](value) for name, value in found.items()})  # type: ignore[arg-type]


def main(root: Path, number: int, words: list[str]) -> int:
    """Hand over what the store lacks, and print the outcomes."""
    (root / "witness").mkdir(parents=True, exist_ok=True)
    fake = Fake(root, RunOptions(progress=False, device="cpu"))
    todo = [one for one in runs(number) if not fake.store.done(one.run_id)]
    bad = 0
    for place, outcome, message in on_cluster(options(words), fake, todo, 0):  # type: ignore[arg-type]
        print(todo[place].run_id, outcome, message, flush=True)
        bad += outcome not in ("finished", "done")
    return int(bad > 0)


if __name__ == "__main__":
    assert "torch" not in sys.modules
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
