"""Runs on many machines: as tasks of a Ray cluster, or as jobs of SLURM through submitit (docs/cluster.md).

The store's files are the truth: a run is done when one rename has published its folder. The engine only decides where
and when an attempt at a run takes place. If a process or machine is lost, another attempt continues from the last
checkpoint in the store. All machines see the checkout, the store and the data under the same paths. Importing this
module does not import torch.
"""

import os
import re
import socket
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ablations.engine.engines import POLL, Engine, Outcome, Outcomes, are_small, drive
from ablations.engine.options import ClusterOptions
from ablations.engine.resolve import Run
from msinet.errors import UserError

if TYPE_CHECKING:
    from ablations.engine.attempt import Attempts

#: Seconds that an attempt waits for the lock of a lost process, and Ctrl-C for Ray's tasks.
GRACE = 60.0
#: Seconds within which a cluster must answer.
CONNECT = 10.0
#: CPU cores of a run that is not small.
THREADS = 4


def on_cluster(options: ClusterOptions, attempts: "Attempts", runs: Sequence[Run], jobs: int) -> Outcomes:
    """Carry out runs on a cluster; yields the number, outcome and message of each as it ends.

    Args:
        options: the cluster.
        attempts: shared data of the runs. Device "auto" takes a GPU if the Ray cluster has one, and none with SLURM.
        runs: the runs to carry out.
        jobs: runs at once; 0: as many as fit on the cluster.

    Raises:
        UserError: the cluster cannot be used, or its library is not installed.
        KeyboardInterrupt: the runs were stopped; the same command resumes.
    """
    # Progress bars of several machines would mix.
    attempts = replace(attempts, run_options=replace(attempts.run_options, progress=False))
    device = attempts.run_options.device.partition(":")[0]
    with connection(options):
        gpu = device == "cuda" or (device == "auto" and options.on == "ray" and _largest("GPU") > 0)
        threads = options.threads or (1 if not gpu and are_small(runs) else THREADS)
        if options.on == "ray" and not options.threads:
            threads = max(1, min(threads, int(_largest("CPU"))))
        engine = (RayTasks if options.on == "ray" else SlurmJobs)(options, CarryOut(attempts, threads), gpu=gpu)
        engine.limit = jobs
        yield from drive(engine, attempts, runs)


@dataclass(frozen=True)
class CarryOut:
    """An attempt at a run, on the machine that the cluster chose."""

    attempts: "Attempts"
    threads: int
    folder: str = field(default_factory=os.getcwd)
    """working folder, for relative paths"""

    def __call__(self, run: Run) -> Outcome:
        """Carry out a run. Wait up to `GRACE` seconds for the lock of a lost earlier attempt."""
        os.chdir(self.folder)
        self.attempts.use_threads(self.threads)
        end = time.monotonic() + GRACE
        while True:
            outcome = self.attempts.attempt(run, lambda _share: None)
            if outcome[0] != "running" or time.monotonic() > end:
                return outcome
            time.sleep(POLL)

    def checkpoint(self, run: Run) -> Any:
        """The job that submitit submits again after a time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


class ClusterEngine(Engine):
    """Base class of both cluster engines."""

    def __init__(self, options: ClusterOptions, carry_out: CarryOut, *, gpu: bool) -> None:
        self.options, self.carry_out, self.gpu = options, carry_out, gpu
        self.start()

    @abstractmethod
    def start(self) -> None:
        """Prepare for runs.

        Raises:
            UserError: the cluster lacks what a run needs.
        """

    def lost(self, run: Run, error: Exception) -> Outcome:
        """The outcome of a run whose attempts were all lost."""
        path = self.carry_out.attempts.store.fail(run.run_id, run.experiment, f"{error}\n")
        return "failed", f"LOST: {_reason(error):.200} -> {path}"


def _reason(error: Exception) -> str:
    """One line about an error: the last exception in the traceback that it quotes, or its own first line."""
    text = str(error).strip() or type(error).__name__
    quoted: list[str] = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", text, re.MULTILINE)
    return quoted[-1] if quoted else text.splitlines()[0]


# --- Ray -----------------------------------------------------------------------------------------


class RayTasks(ClusterEngine):
    """Ray tasks, each with one CPU core per thread and, if runs use GPUs, one GPU."""

    def start(self) -> None:
        """Put the shared data of the runs into Ray's object store."""
        import ray

        if self.gpu and not _largest("GPU"):
            raise UserError("no node of the Ray cluster has a GPU; pass --device cpu")
        if self.carry_out.threads > _largest("CPU"):  # Ray would wait for such a node
            raise UserError(f"no node of the Ray cluster has {self.carry_out.threads} CPU cores; lower --threads")
        needs = {"num_cpus": self.carry_out.threads, "num_gpus": int(self.gpu)}
        self._shared = ray.put(self.carry_out)
        self._task = ray.remote(max_retries=self.options.attempts - 1, **needs)(_carry_out)

    def submit(self, runs: Mapping[int, Run]) -> list[Any]:
        """Start a task for each run."""
        return [self._task.remote(self._shared, run) for run in runs.values()]

    def finished(self, handles: Sequence[Any]) -> Iterable[Any]:
        """Tasks that have ended."""
        import ray

        done: list[Any] = ray.wait(list(handles), num_returns=1, timeout=POLL)[0]
        return done

    def outcome(self, handle: Any, run: Run) -> Outcome:
        """The result of a task."""
        import ray

        try:
            found: Outcome = ray.get(handle)
            return found
        except ray.exceptions.RayError as error:
            return self.lost(run, error)

    def stop(self, handles: Sequence[Any]) -> None:
        """Interrupt the tasks, which then save their states."""
        import ray

        for handle in handles:
            ray.cancel(handle, force=False)
        if handles:
            ray.wait(list(handles), num_returns=len(handles), timeout=GRACE)


def _carry_out(carry_out: CarryOut, run: Run) -> Outcome:
    return carry_out(run)


@contextmanager
def connection(options: ClusterOptions) -> Iterator[None]:
    """Connect to the Ray cluster for the block, or without an address start one. No effect with other engines.

    Contexts may be nested; only the outermost one connects.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    if options.on != "ray":
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without a GPU sees the node's GPUs
    try:
        import ray
    except ImportError:
        raise UserError("--on ray needs Ray; pip install -e '.[ray]'") from None
    if ray.is_initialized():
        yield
        return
    # Tasks import this checkout, wherever the node was started.
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": _paths()}},
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    try:
        host, colon, port = options.address.rpartition(":")
        if colon and port.isdigit() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT).close()
        ray.init(address=options.address or "local", **common)
    except (OSError, RuntimeError, ValueError) as error:
        where = options.address or "this machine"
        raise UserError(
            f"no Ray cluster can be used at {where} ({_reason(error)}); ray start --head starts one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _largest(resource: str) -> float:
    """The largest amount of a resource on one node of the Ray cluster."""
    import ray

    return max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def _paths() -> str:
    return os.pathsep.join(os.path.abspath(path) for path in sys.path)


def ray_line(options: ClusterOptions) -> str:
    """The state of a running Ray cluster: nodes and resources in use."""
    with connection(replace(options, address=options.address or "auto")):
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"]]
        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = [kind for kind in ("CPU", "GPU") if kind in total]
        used = ", ".join(f"{total[kind] - free.get(kind, 0):g} of {total[kind]:g} {kind}" for kind in kinds)
        return f"Ray: {len(nodes)} node(s), in use: {used}"


# --- SLURM ---------------------------------------------------------------------------------------


class SlurmJobs(ClusterEngine):
    """SLURM jobs, one per run. Runs that are submitted together form a job array."""

    def start(self) -> None:
        """Create submitit's executor. Its files are in STORE/slurm/."""
        try:
            import submitit
        except ImportError:
            raise UserError("--on slurm needs submitit; pip install -e '.[slurm]'") from None
        folder = self.carry_out.attempts.root.resolve() / "slurm" / "%j"
        try:
            self._executor = submitit.AutoExecutor(folder, self.options.submit)
        except RuntimeError as error:
            raise UserError(f"SLURM cannot be used here ({error}); run this command where sbatch works") from error
        settings: dict[str, Any] = {
            "name": "msinet",
            "timeout_min": max(1, round(60 * self.options.hours)),
            "cpus_per_task": self.carry_out.threads,
        }
        if self.gpu:  # a request for 0 GPUs names a resource that a cluster may not have
            settings["gpus_per_node"] = 1
        if self.options.partition:
            settings["slurm_partition"] = self.options.partition
        self._executor.update_parameters(**settings)
        self._lost = Counter[str]()  # by run id

    def submit(self, runs: Mapping[int, Run]) -> list[Any]:
        """Submit a job for each run.

        Raises:
            UserError: sbatch refuses the jobs.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError, environment_variables

        try:
            with environment_variables(PYTHONPATH=_paths()), self._executor.batch():
                return [self._executor.submit(self.carry_out, run) for run in runs.values()]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(
                f"SLURM refuses the jobs ({_reason(error)}); check --partition, --hours, --threads and --device"
            ) from error

    def finished(self, handles: Sequence[Any]) -> Iterable[Any]:
        """Jobs that have ended."""
        done = [handle for handle in handles if handle.done()]
        if not done:
            time.sleep(POLL)
        return done

    def outcome(self, handle: Any, run: Run) -> Outcome | None:
        """The result of a job; None if it was lost and can be tried again."""
        from submitit.core.utils import UncompletedJobError

        try:
            found: Outcome = handle.result()
            return found
        except UncompletedJobError as error:
            self._lost[run.run_id] += 1
            return None if self._lost[run.run_id] < self.options.attempts else self.lost(run, error)

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel the jobs. Their last checkpoints are at most half a minute old."""
        for handle in handles:
            handle.cancel(check=False)
