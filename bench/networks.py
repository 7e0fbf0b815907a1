"""What is measured: networks by name and options, in the forms in which they can be run."""

import copy
import csv
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from msinet.errors import UserError, unknown_name
from msinet.models import build_model, split_name
from msinet.models.deploy import deploy
from msinet.training.recipes import parse_settings

#: Every network of the paper's tables that is here; MSINet-SAM differs from MSINet in training alone.
ALL = ("resnet50", "osnet", "cdnet", "msinet", "msinet pam=True", "deit_small", "deit_base", "vit_base")
#: The network that the others are compared with (Table 6).
REFERENCE = "resnet50"
#: As the paper calls them.
LABELS = {
    "resnet50": "ResNet50",
    "osnet": "OSNet",
    "cdnet": "CDNet",
    "msinet": "MSINet",
    "msinet pam=True": "MSINet-SAM",
    "deit_small": "DeiT-S",
    "deit_base": "DeiT-B",
    "vit_base": "ViT-B",
}
#: eager: as trained, in torch's default layout. channels_last: the same in the other layout. deployed: merged, and
#: channels-last. compiled and cuda_graph: that through torch.compile, or captured. onnx: that in ONNX Runtime.
FORMS = ("eager", "channels_last", "deployed", "compiled", "cuda_graph", "onnx")
PRECISIONS = ("fp32", "tf32", "bf16")

Run = Callable[[], object]


@dataclass(frozen=True)
class Spec:
    """A network by its name and options, as `msinet genotype=GGGGGGGGGGGG ratio=2`."""

    text: str

    @property
    def label(self) -> str:
        """As the paper calls it, with a width other than 1 as tables tell it; or the text itself."""
        name, *options = self.text.split()
        family, width = split_name(name)
        label = LABELS.get(" ".join((family, *options)))
        return self.text if label is None else label + ("" if width == 1 else f" x{width:g}")

    def build(self, num_classes: int, image: tuple[int, int]) -> nn.Module:
        """The network with fresh weights.

        Raises:
            UserError: unknown name or option.
        """
        name, *options = self.text.split()
        return build_model(name, num_classes, image=image, **parse_settings(options))


def specs(words: tuple[str, ...], default: tuple[str, ...] = ALL) -> list[Spec]:
    """The networks asked for, each once, or the default ones.

    Raises:
        UserError: a name that is not known, before anything is measured.
    """
    found = [Spec(" ".join(text.split())) for text in dict.fromkeys(words or default)]
    for spec in found:
        if not spec.text:
            raise UserError("a network needs a name, such as msinet")
        split_name(spec.text.split()[0])
    return found


def paper_costs() -> dict[str, dict[str, str]]:
    """The paper's parameter counts and times relative to ResNet50, by method (Tables 2 and 6)."""
    with files("bench").joinpath("paper_cost.csv").open(encoding="utf-8") as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def check_forms(forms: tuple[str, ...], precisions: tuple[str, ...], device: torch.device) -> None:
    """Raise a `UserError` for what does not exist or cannot run here, before anything is measured."""
    for form in forms:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
    if device.type != "cuda" and "cuda_graph" in forms:
        raise UserError("the form cuda_graph needs a GPU; leave it out of --forms")
    if device.type != "cuda" and "tf32" in precisions:
        raise UserError("the precision tf32 is one of GPUs; leave it out of --precisions")
    if "compiled" in forms and device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise UserError("the form compiled needs a C++ compiler (g++ or clang++), which is not here")
    if "onnx" in forms:
        from msinet.export import need_onnx

        need_onnx()
        if device.type != "cpu" or precisions != ("fp32",):
            raise UserError("the form onnx is measured on the CPU in fp32 alone")


def prepare(
    network: nn.Module, form: str, precision: str, batch: int, image: tuple[int, int], device: torch.device
) -> Run:
    """What runs one batch of noise through the network once, without gradients.

    Args:
        network: of `Spec.build`; it stays as it is.
        form: one of `FORMS`.
        precision: one of `PRECISIONS`; tf32 and fp32 share weights and differ by torch's global switch, which the
            call sets each time.
        batch: images at a time.
        image: (height, width).
        device: where to.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images = torch.randn(batch, 3, *image).to(device, dtype)
    if form == "onnx":
        from msinet.export import onnx_session

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
        # Networks share the code of their outermost layers, which torch compiles eight times and no more; a contender
        # beyond that would run as it is without a word. Sizes are fixed: the next batch size is another contender.
        torch._dynamo.config.recompile_limit = 1000
        forward = torch.compile(network, fullgraph=True, dynamic=False)
    if form == "cuda_graph":
        return _captured(network, images, precision)

    def run() -> object:
        allow_tf32(precision)
        with torch.inference_mode(), warnings.catch_warnings():
            # torch.compile reports on its own internals.
            warnings.simplefilter("ignore")
            return forward(images)

    return run


def allow_tf32(precision: str) -> None:
    """Let a GPU round the inputs of matrix products to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _captured(network: nn.Module, images: Tensor, precision: str) -> Run:
    """The network's kernels recorded once and replayed."""
    allow_tf32(precision)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        network(images)
    return graph.replay
