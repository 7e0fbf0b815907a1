"""Training steps as CUDA graphs: a step of 5,000 kernels is launched at once.

A step is a function of the tensors of a batch that returns values such as the loss. `StaticStep` calls it as it is for
the first batches, which train like all others and are the warm-up that a capture needs. Then it captures the step once
and replays it for every further batch of the same shape, which is copied to the memory that the graph reads. Learning
rates are tensors, so a schedule needs no new capture. What a step does on the CPU happens only when it is captured: a
step must not wait for the GPU, nor depend on values.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from msinet import distributed
from msinet.errors import UserError
from msinet.training.options import RunOptions

Values = dict[str, Tensor]
Work = Callable[[], Tensor]
#: Records work on a device and returns its repetition.
Record = Callable[[Work, torch.device], Work]
#: Batches before the capture.
WARM_UP = 3
#: Steps after which the losses on a GPU are read: reading waits for the GPU.
READ_EVERY = 16


def use_graphs(options: RunOptions, device: torch.device) -> bool:
    """Return whether training steps are captured: on a GPU, in one process, unless `deterministic` or `graphs` say no.

    Raises:
        UserError: graphs are asked for where there are none.
    """
    possible = device.type == "cuda" and distributed.world() == 1 and not options.deterministic
    if options.graphs and not possible:
        raise UserError(
            f"--graphs True needs one process on a GPU without --deterministic, not {distributed.world()} on {device}; "
            "leave it out"
        )
    return possible and options.graphs is not False


def read_every(device: torch.device) -> int:
    """Steps after which a task's losses are read from a device."""
    return READ_EVERY if device.type == "cuda" else 1


class StaticStep:
    """A step whose batches have one shape, recorded after a warm-up and repeated for the batches that follow.

    Args:
        work: the step. It takes tensors on the device and returns scalars without gradients. Gradients must not pass
            from one call to the next.
        record: `capture`; tests on a CPU take `repeat`.
        warm_up: calls before the recording, at least 1: optimizers make their state in the first.
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
        """Take the step on a batch. The values are not overwritten later."""
        if not self.inputs:
            self.inputs = tuple(one.clone() for one in inputs)
        if self.failed or any(a.shape != b.shape for a, b in zip(inputs, self.inputs, strict=True)):
            return self.work(*inputs)  # for example a last, smaller batch
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        if self.left:
            self.left -= 1
            return _beside(self.work, self.inputs)
        if self.replay is None and not self._recorded():
            return self.work(*self.inputs)
        assert self.replay is not None
        values = self.replay().clone()
        return dict(zip(self.names, values.unbind(), strict=True))

    def _recorded(self) -> bool:
        """Record the work; False if that fails, and then steps are taken as they are."""
        try:
            self.replay = self.record(self._packed, self.inputs[0].device)
        except RuntimeError as error:
            self.failed = True
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            tqdm.write(f"the training step cannot be captured as a CUDA graph ({reason}); training without")
        return not self.failed

    def _packed(self) -> Tensor:
        values = self.work(*self.inputs)
        self.names = tuple(values)
        return torch.stack([value.double() for value in values.values()])  # (values,)


def _beside(work: Callable[..., Values], inputs: tuple[Tensor, ...]) -> Values:
    """The work on the stream of the later capture, so that no memory or node of autograd belongs to another one."""
    if inputs[0].device.type != "cuda":
        return work(*inputs)
    device = inputs[0].device
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        values = work(*inputs)
    current.wait_stream(stream)
    return values


def repeat(work: Work, _device: torch.device) -> Work:
    """Record nothing: the work is done anew each time, in the memory that a graph would read."""
    return work


def capture(work: Work, device: torch.device) -> Work:
    """Capture work as a CUDA graph, without executing it. The repetition returns the same memory each time.

    The graph keeps its memory for itself as long as it lives. The GPU's generator goes on with each replay.
    """
    graph = torch.cuda.CUDAGraph()
    stream, current = _side_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with (
        torch.cuda.stream(stream),  # put back even if the capture fails
        # Not global: a thread that pins the loader's batches may allocate memory meanwhile.
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        values = work()
    current.wait_stream(stream)
    return partial(_replay, graph, values)


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
    """Restore momenta and the like. Settings stay the optimizer's own: they follow from recipe and device."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
