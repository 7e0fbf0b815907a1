"""The forms in which networks are measured: eager, deployed, compiled, captured, in ONNX Runtime."""

import copy
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from msinet.errors import UserError, unknown_name
from msinet.export import need_onnx, onnx_session
from msinet.models.deployment import deploy
from msinet.precision import PRECISIONS, use_precision

#: eager: in torch's default layout (NCHW). channels_last: eager, in the layout in which networks are trained and
#: evaluated. deployed: channels_last with merged layers. compiled: deployed, with torch.compile. cuda_graph: deployed,
#: captured. onnx: deployed, in ONNX Runtime.
FORMS = ("eager", "channels_last", "deployed", "compiled", "cuda_graph", "onnx")

Run = Callable[[], object]


def check_forms(forms: tuple[str, ...], precisions: tuple[str, ...], device: torch.device) -> None:
    """Check that these forms and precisions can be measured on a device.

    Raises:
        UserError: an unknown name, or a form or precision that cannot run there.
    """
    for form in forms:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
    if device.type != "cuda" and "cuda_graph" in forms:
        raise UserError("the form cuda_graph needs a GPU; leave it out of --forms")
    if device.type != "cuda" and "tf32" in precisions:
        raise UserError("the precision tf32 needs a GPU; leave it out of --precisions")
    if "compiled" in forms and device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise UserError("the form compiled needs a C++ compiler (g++ or clang++), which is not installed")
    if "onnx" in forms:
        need_onnx()
        if device.type != "cpu" or precisions != ("fp32",):
            raise UserError("the form onnx is measured only on the CPU in fp32")


def prepare(
    network: nn.Module, form: str, precision: str, batch: int, image: tuple[int, int], device: torch.device
) -> Run:
    """A call that runs one batch of noise through the network, without gradients.

    Args:
        network: the network; it is not changed.
        form: one of `FORMS`.
        precision: one of `PRECISIONS`; tf32 and fp32 share weights and differ by torch's global switch, which the
            call sets each time.
        batch: number of images.
        image: (height, width).
        device: where the network runs.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images = torch.randn(batch, 3, *image).to(device, dtype)
    if form == "onnx":
        session = onnx_session(network, image)
        feed = {"images": images.numpy()}
        return lambda: session.run(None, feed)
    # A copy: contenders of one race must not change each other's weights.
    network = copy.deepcopy(network).eval() if form in ("eager", "channels_last") else deploy(network)
    network = network.to(device, dtype)
    if form != "eager":
        images = images.contiguous(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
    forward: Callable[[Tensor], Any] = network
    if form == "compiled":
        # Networks share the code of their outermost layers, which torch compiles eight times at most; further
        # contenders would silently run uncompiled. Sizes are fixed: another batch size is another contender.
        torch._dynamo.config.recompile_limit = 1000
        forward = torch.compile(network, fullgraph=True, dynamic=False)
    if form == "cuda_graph":
        return _captured(network, images, precision)

    def run() -> object:
        use_precision(precision)
        with torch.inference_mode(), warnings.catch_warnings():
            # torch.compile reports on its own internals.
            warnings.simplefilter("ignore")
            return forward(images)

    return run


def _captured(network: nn.Module, images: Tensor, precision: str) -> Run:
    """Record the network's kernels once. The returned call replays them and returns the same memory each time."""
    use_precision(precision)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream), torch.inference_mode():
        features = network(images)
    return partial(_replay, graph, features, network, images)


def _replay(graph: torch.cuda.CUDAGraph, features: object, *_alive: object) -> object:
    """Run a captured graph, which reads the memory of the network and the images: the caller keeps them alive.

    Returns:
        The memory to which the graph writes the features.
    """
    graph.replay()
    return features
