"""A worker whose runs are short and train nothing. Queue, store, processes and publication are the real ones.

Executed by test_faults.py in processes of their own, with `where`, `root` and `settings` among the globals.
"""

import fcntl
import hashlib
import json
import os
import secrets
import signal
import time
from pathlib import Path

from ablations.engine.experiment import Experiment
from ablations.engine.job import Job
from ablations.engine.queue import Queue
from ablations.engine.store import Store
from ablations.engine.worker import PUBLISHED, Worker
from msinet.io import write_json
from msinet.training.recipe import Recipe, Schedule

STEPS = 4
EXPERIMENT = Experiment("osnet", "market1501", "market1501", Recipe(schedule=Schedule(epochs=STEPS)), "smoke")


def outcome(run_id: str, steps: int = STEPS) -> str:
    """The result of a run: each step is a hash of the one before."""
    value = run_id
    for _ in range(steps):
        value = hashlib.sha256(value.encode()).hexdigest()
    return value


def append(path: Path, line: str) -> None:
    """One line in one call, whole even if several processes write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def work(job: Job, store: Store) -> int:
    """Steps with a checkpoint after each, then some files, then publication."""
    with store.lock(job.run_id):
        witness = os.open(store.root / "witness" / job.run_id, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            append(store.root / "violations", f"{job.run_id} is worked on twice")
        if store.done(job.run_id):
            return PUBLISHED
        folder = store.partial_folder(job.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoint.json"
        at = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "value": job.run_id}
        while at["step"] < STEPS:
            time.sleep(0.03)
            at = {"step": at["step"] + 1, "value": hashlib.sha256(at["value"].encode()).hexdigest()}
            append(store.root / "steps", job.run_id)
            write_json(checkpoint, at)
        nonce = secrets.token_hex(8)
        (folder / "weights").write_text(nonce * 8192)
        append(store.root / "publishing", f"{job.run_id} {nonce}")
        store.publish(job.run_id, EXPERIMENT, {"value": at["value"], "nonce": nonce, "seconds_training": 0.1})
        append(store.root / "published", f"{job.run_id} {nonce}")
    return PUBLISHED


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    queue = Queue(where, Store(Path(root)))  # type: ignore[name-defined]  # noqa: F821
    Worker(queue, work, **settings)()  # type: ignore[name-defined]  # noqa: F821
