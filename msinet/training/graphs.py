"""Training steps as CUDA graphs: a step of 5,000 kernels is launched at once.

A step is a function of the tensors of a batch that returns values such as the loss. `StaticStep` calls it directly for
the first batches, which train normally and are the warm-up that a capture needs. Then it captures the step once and
replays it for every further batch of the same shape, which is copied to the memory that the graph reads. Learning rates
are tensors, so a schedule needs no new capture. The CPU's part of a step runs only during the capture: a step must not
wait for the GPU or branch on values.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from msinet import distributed
from msinet.errors import UserError, first_line
from msinet.training.options import RunOptions

Values = dict[str, Tensor]
Work = Callable[[], Tensor]
#: Records work on a device and returns a function that repeats it.
Record = Callable[[Work, torch.device], Work]
#: Batches before the capture.
WARM_UP = 3
#: Steps between readings of the losses on a GPU: reading waits for the GPU.
READ_EVERY = 16


def use_graphs(options: RunOptions, device: torch.device) -> bool:
    """Return whether training steps are captured: on one GPU in one process, unless `deterministic` or graphs=False.

    Raises:
        UserError: graphs=True where steps cannot be captured.
    """
    possible = device.type == "cuda" and distributed.world() == 1 and not options.deterministic
    if options.graphs and not possible:
        raise UserError(
            f"--graphs True needs one process on a GPU without --deterministic, not {distributed.world()} on {device}; "
            "remove the option"
        )
    return possible and options.graphs is not False


def read_every(device: torch.device) -> int:
    """Number of steps between readings of a task's losses from a device."""
    return READ_EVERY if device.type == "cuda" else 1


class StaticStep:
    """A step that is recorded after a warm-up and repeated for all later batches of the same shape.

    Args:
        work: the step. It takes tensors on the device and returns scalars without gradients. Gradients must not pass
            from one call to the next.
        record: `capture`; tests on a CPU use `repeat`.
        warm_up: calls before the recording, at least 1: optimizers create their state in the first call.
    """

    def __init__(self, work: Callable[..., Values], record: "Record", warm_up: int = WARM_UP) -> None:
        assert warm_up >= 1
        self.work, self.left, self.record = work, warm_up, record
        self.inputs: tuple[Tensor, ...] = ()
        """memory that the recorded work reads"""
        self.names: tuple[str, ...] = ()
        self.replay: Work | None = None
        self.failed = False

    def __call__(self, *inputs: Tensor) -> Values:
        """Take the step on a batch. The values are not overwritten later.

        Raises:
            UserError: the recording failed, and so does the step without it.
        """
        if not self.inputs:
            self.inputs = tuple(one.clone() for one in inputs)
        if self.failed or any(a.shape != b.shape for a, b in zip(inputs, self.inputs, strict=True)):
            return self.work(*inputs)  # for example a last, smaller batch
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        if self.left:
            self.left -= 1
            return self._named(_beside(self._packed, self.inputs[0].device))
        if self.replay is None and not self._recorded():
            return self._after_failure()
        assert self.replay is not None
        return self._named(self.replay().clone())

    def _recorded(self) -> bool:
        """Record the work. Returns False if that fails; then steps run without a graph."""
        try:
            self.replay = self.record(self._packed, self.inputs[0].device)
        except RuntimeError as error:
            self.failed = True
            reason = first_line(_cause(error))
            tqdm.write(f"the training step cannot be captured as a CUDA graph ({reason}); training without graphs")
        return not self.failed

    def _after_failure(self) -> Values:
        try:
            return self.work(*self.inputs)
        except RuntimeError as error:  # a capture that was broken off can leave torch's generator unusable
            raise UserError(
                f"after a CUDA graph could not be captured, the training step fails ({first_line(error)}); "
                "the same command with --graphs False continues without graphs"
            ) from error

    def _packed(self) -> Tensor:
        values = self.work(*self.inputs)
        self.names = tuple(values)
        return torch.stack([value.double() for value in values.values()])  # (values,)

    def _named(self, values: Tensor) -> Values:
        return dict(zip(self.names, values.unbind(), strict=True))


def _cause(error: BaseException) -> BaseException:
    """The first of the errors of a failed capture. The end of the capture raises another one, which hides it."""
    cause, before = error, error.__context__
    while before is not None:
        cause, before = before if isinstance(before, RuntimeError) else cause, before.__context__
    return cause


def _beside(work: Work, device: torch.device) -> Tensor:
    """Run the work on the stream of the later capture, so that its memory and autograd nodes belong to that stream."""
    if device.type != "cuda":
        return work()
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream), warnings.catch_warnings():
        # Adam warns of steps before a capture, for users who never capture one.
        warnings.filterwarnings("ignore", message=".*capturable=True")
        values = work()
    current.wait_stream(stream)
    return values


def repeat(work: Work, _device: torch.device) -> Work:
    """Record nothing: repeat the work each time, on the memory that a graph would read."""
    return work


def capture(work: Work, device: torch.device) -> Work:
    """Capture work as a CUDA graph, without executing it. The repetition returns the same memory each time.

    The graph holds its memory as long as it exists. Each replay advances the GPU's random generator.
    """
    graph = torch.cuda.CUDAGraph()
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with (
        _without_collection(),
        torch.cuda.stream(stream),  # restored even if the capture fails
        # Not global: a thread that pins the loader's batches may allocate memory at the same time.
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        values = work()
    current.wait_stream(stream)
    return partial(_replay, graph, values)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect garbage now and not in the block: a collected graph would break off the capture of another one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _replay(graph: torch.cuda.CUDAGraph, values: Tensor) -> Tensor:
    graph.replay()
    return values


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU's captures."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]


# --- Optimizers ----------------------------------------------------------------------------------


def tensor_rates(optimizer: torch.optim.Optimizer) -> None:
    """Turn the learning rates of an optimizer into tensors on the device of its parameters, which a graph reads."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        if "capturable" in group:
            group["capturable"] = group["params"][0].is_cuda


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameters, times the factor of their group."""
    for group in optimizer.param_groups:
        rate = learning_rate * group.get("times", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the optimizer's state (momenta), but not its settings, which depend on recipe and device."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
