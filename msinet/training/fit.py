"""The training loop. A task defines what is trained and what a step does; `fit` is the same for every task.

The loop handles progress, history, checkpoints, interruptions, the progress bar and the check for NaN. The task holds
networks, optimizers, batches and losses, and their state.
"""

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from msinet import distributed
from msinet.errors import TrainingDiverged
from msinet.progress import bar
from msinet.training.checkpoint import NAME, load_checkpoint, save_checkpoint, set_rng_state
from msinet.training.options import RunOptions

Row = dict[str, float]
Values = Mapping[str, Tensor | float]
OnStep = Callable[[float], None]
#: Seconds between checkpoints: the largest loss of a crash.
CHECKPOINT_SECONDS = 30.0


class Task(ABC):
    """A kind of training: re-identification, classification, an architecture search, an unsupervised method.

    `fit` calls `initialize` (unless it resumes), then for each epoch `begin_epoch`, `step` for each batch, and
    `end_epoch`. It may stop after any step. The state must be sufficient to resume with the same result.
    """

    network: nn.Module
    """every trained weight and buffer, possibly of several networks; none may become NaN or infinite"""
    epochs: int
    seed: int
    """derived seed of the training"""
    read_every: int = 1
    """steps between readings of their values; more than one on a GPU, because reading waits for the GPU"""

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.network

    def initialize(self) -> None:  # noqa: B027  (most tasks need nothing)
        """Prepare a new (not resumed) training, for example by filling memories."""

    @abstractmethod
    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Prepare an epoch: learning rates, batches, pseudo-labels.

        Args:
            epoch: counted from 0.
            step: the first step to take; above 0 if an interrupted epoch continues.

        Returns:
            "steps" (steps of the whole epoch) and other values for its row of the history.
        """

    @abstractmethod
    def step(self, epoch: int, step: int) -> Values:
        """Train on one batch.

        Returns:
            Values; their means over the epoch enter its row of the history. The progress bar shows "loss". A step may
            return no values. Tensors are read later (`read_every`) and must not be overwritten by the next steps.
        """

    def end_epoch(self, epoch: int) -> Row:
        """Finish an epoch, for example with an evaluation; returns more values for its row of the history."""
        del epoch
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during the training: tensors, plain numbers, and lists and dictionaries of them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def is_due(epoch: int, every: int) -> bool:
    """True if an evaluation follows an epoch (counted from 0): after each `every` epochs; 0: never."""
    return every > 0 and (epoch + 1) % every == 0


@dataclass
class Progress:
    """Progress of a training; part of its checkpoint."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    seconds_beginning: float = 0.0
    sums: Row = field(default_factory=dict)
    """sums over the steps of the current epoch"""
    counts: Row = field(default_factory=dict)
    """number of steps that returned each value"""
    history: list[Row] = field(default_factory=list)
    """one row per finished epoch"""

    def add(self, values: Row) -> None:
        """Add the values of a step to the sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def end_epoch(self, begun: Row, ended: Row) -> None:
        """Write the epoch's row of the history and move on to the next epoch."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.history.append({"epoch": self.epoch + 1} | begun | means | ended)
        self.epoch, self.step, self.sums, self.counts = self.epoch + 1, 0, {}, {}


@dataclass(frozen=True)
class Result:
    """The outcome of a training, apart from the weights in its task."""

    history: tuple[Row, ...]
    """per epoch: epoch, steps, the means of the steps' values, and the task's own values"""
    seconds: float
    """time of the steps, over all resumptions"""
    steps: int
    seconds_beginning: float = 0.0
    """time of `begin_epoch`, over all resumptions: pseudo-labels of methods that make them"""


def fit(
    task: Task,
    folder: Path,
    identity: str,
    run_options: RunOptions | None = None,
    on_step: OnStep | None = None,
    title: str = "training",
) -> Result:
    """Train a task, from its current state or from the checkpoint in `folder`.

    The state is saved every 30 seconds, on SIGINT and SIGTERM, and at the end. Interruptions do not change the
    final weights; on the CPU they are bit-identical. With several processes (`msinet.distributed`), the first saves.

    Args:
        task: what to train; changed in place.
        folder: for the checkpoint; created if missing.
        identity: hash of this training; a checkpoint with another identity is refused.
        run_options: only `resume` and `progress` are used here.
        on_step: called after each step with the finished share of the training, in [0, 1].
        title: of the progress bar.

    Raises:
        TrainingDiverged: a value of a step or a weight became NaN or infinite; the last good checkpoint is kept.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved first.
        WeightsError: the checkpoint in `folder` is damaged or belongs to another training.
        UserError: the processes disagree about the training.
    """
    run_options = run_options or RunOptions()
    folder.mkdir(parents=True, exist_ok=True)
    loop = _Loop(task, folder, identity, on_step)
    if not (run_options.resume and loop.restore()):
        task.initialize()
    at = loop.at
    distributed.check_agreement((identity, at.epoch, at.step), f"training and its checkpoint in {folder}")
    distributed.share_batch_norms(task.network)
    task.network.train()
    with bar(desc=title, unit="step", disable=not run_options.progress) as meter, _interruptible() as signalled:
        loop.run(meter, signalled)
    return Result(tuple(at.history), at.seconds, sum(int(row["steps"]) for row in at.history), at.seconds_beginning)


class _Loop:
    """Steps, history and checkpoints of one call of `fit`."""

    def __init__(self, task: Task, folder: Path, identity: str, on_step: OnStep | None) -> None:
        self.task, self.folder, self.identity, self.on_step = task, folder, identity, on_step
        self.at = Progress()
        self.pending: list[tuple[tuple[int, int], Values]] = []
        """steps whose values are not read yet"""
        self.saved = time.monotonic()

    def restore(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        state = load_checkpoint(self.folder, self.identity)
        if state is None:
            return False
        self.task.load_state_dict(state["task"])
        set_rng_state(state["rng"])
        self.at = Progress(**state["progress"])
        return True

    def run(self, meter: "tqdm[Any]", signalled: Callable[[], bool]) -> None:
        """Train to the end."""
        at, task, where = self.at, self.task, (self.at.epoch, self.at.step)
        self.saved = time.monotonic()
        for epoch in range(at.epoch, task.epochs):
            began = time.perf_counter()
            row = task.begin_epoch(epoch, at.step)
            at.seconds_beginning += time.perf_counter() - began
            steps = int(row["steps"])
            if meter.total is None:  # epochs may differ by a batch
                meter.reset(total=task.epochs * steps)
                meter.initial = meter.n = epoch * steps + at.step
            for step in range(at.step, steps):
                where = (epoch, step)
                values = self.step(epoch, step)
                if "loss" in values:
                    words = f"epoch {epoch + 1}/{task.epochs}, loss {values['loss']:.2f}"
                    meter.set_postfix_str(words, refresh=False)
                meter.update()
                if self.on_step is not None:
                    self.on_step((epoch + at.step / steps) / task.epochs)
                self.save_in_time(where, signalled)
            self.read()
            at.end_epoch(row, task.end_epoch(epoch))
        self.save(where)
        if distributed.any_rank(signalled()):  # during the last evaluation
            raise KeyboardInterrupt

    def step(self, epoch: int, step: int) -> Row:
        """Take one step. Returns its values if they are read now (`read_every`)."""
        began = time.perf_counter()
        distributed.reseed(self.task.seed, epoch, step)
        self.pending.append(((epoch, step), self.task.step(epoch, step)))
        self.at.step += 1
        self.at.seconds += time.perf_counter() - began
        return self.read() if len(self.pending) >= self.task.read_every else {}

    def read(self) -> Row:
        """Add the values of all unread steps to the sums. Returns those of the last step."""
        began = time.perf_counter()
        pending, self.pending = self.pending, []
        values: Row = {}
        for (where, _), values in zip(pending, _numbers([found for _, found in pending]), strict=True):
            for value in values.values():
                if not math.isfinite(value):
                    raise self.diverged(f"the loss became {value} in", where)
            self.at.add(values)
        self.at.seconds += time.perf_counter() - began
        return values

    def save_in_time(self, where: tuple[int, int], signalled: Callable[[], bool]) -> None:
        """Save if the last checkpoint is old or a signal has arrived; then stop on a signal."""
        # All processes stop after the same step, because none can take the next one alone.
        stopping = distributed.any_rank(signalled())
        if stopping or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.save(where)
            self.saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt

    def save(self, where: tuple[int, int]) -> None:
        """Write a checkpoint, unless a loss or the network is not finite: that must not replace a good checkpoint."""
        self.read()
        # This includes running statistics, on which the training loss does not depend.
        if not all(bool(value.isfinite().all()) for value in self.task.network.state_dict().values()):
            raise self.diverged("a weight became NaN or infinite by", where)
        if distributed.leads():
            save_checkpoint(self.folder, self.identity, self.task.state_dict(), vars(self.at))

    def diverged(self, what: str, where: tuple[int, int]) -> TrainingDiverged:
        """The error, with the step where training diverged and a remedy."""
        path = self.folder / NAME
        kept = f"the last good checkpoint is {path}" if path.exists() else "there was no checkpoint yet"
        return TrainingDiverged(
            f"{what} epoch {where[0] + 1}, step {where[1] + 1}; {kept}. "
            "Lower the learning rate or lengthen the warm-up, and start again with --no-resume"
        )


def _numbers(steps: list[Values]) -> list[Row]:
    """The values of steps as numbers, copied from the device at once."""
    tensors = [value.detach() for values in steps for value in values.values() if isinstance(value, Tensor)]
    read = iter(torch.stack([one.double() for one in tensors]).tolist() if tensors else ())
    return [
        {name: next(read) if isinstance(value, Tensor) else value for name, value in values.items()} for values in steps
    ]


class _Signals:
    """Records the first SIGINT or SIGTERM; a second one interrupts at once."""

    arrived = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.arrived:
            raise KeyboardInterrupt
        self.arrived = True


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag, so that a step is always completed."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, signals) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: signals.arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
