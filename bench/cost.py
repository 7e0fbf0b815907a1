"""Parameters and multiply-adds of a network.

The only module that imports fvcore. One multiply-add is one MAC, what fvcore calls a FLOP; torch's own
counter says two. Only convolutions, linear layers and matrix products are counted.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.networks import REFERENCE, Spec, specs
from msinet.errors import UserError
from msinet.io import atomic_path
from msinet.models import CARDS

with warnings.catch_warnings():
    # fvcore scripts a focal loss when it is imported, and torch warns of that.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script`", FutureWarning)
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, jit_handles

#: The column of that comparison: MACs as a fraction of the reference's.
RELATIVE = f"macs_to_{REFERENCE}"
#: Total stride of the networks: a smaller image has no pixel left in the final map.
SMALLEST = 16


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """MACs of softmax(QK^T)V: two products per head. A causal mask is not taken off.

    Args:
        inputs: traced values; Q (..., L, E), K (..., S, E) and V (..., S, D) come first.
        outputs: the traced result, (..., L, D).
    """
    query, key, out = (jit_handles.get_shape(value) for value in (*inputs[:2], outputs[0]))
    macs: int = (prod(query) + prod(out)) * key[-2]
    return macs


COUNTED = {
    "aten::_convolution": jit_handles.conv_flop_jit,
    "aten::linear": jit_handles.linear_flop_jit,
    "aten::addmm": jit_handles.addmm_flop_jit,
    "aten::mm": jit_handles.matmul_flop_jit,
    "aten::bmm": jit_handles.bmm_flop_jit,
    "aten::baddbmm": lambda inputs, outputs: jit_handles.bmm_flop_jit(inputs[1:3], outputs),
    "aten::matmul": jit_handles.matmul_flop_jit,
    "aten::einsum": jit_handles.einsum_flop_jit,
    "aten::scaled_dot_product_attention": attention_macs,
}
#: Left out on purpose: a few operations per element at most, no product of matrices. ReLU and what only
#: moves data (views, slices, concatenation) fvcore skips by itself, but for view_as.
NOT_COUNTED = (
    "aten::batch_norm",
    "aten::layer_norm",
    "aten::instance_norm",
    "aten::group_norm",
    "aten::add",
    "aten::add_",
    "aten::neg",
    "aten::sub",
    "aten::rsub",
    "aten::mul",
    "aten::mul_",
    "aten::div",
    "aten::div_",
    "aten::sqrt",
    "aten::reciprocal",
    "aten::round",
    "aten::mean",
    "aten::sum",
    "aten::amax",
    "aten::max_pool2d",
    "aten::avg_pool2d",
    "aten::adaptive_avg_pool2d",
    "aten::adaptive_max_pool2d",
    "aten::softmax",
    "aten::sigmoid",
    "aten::gelu",
    "aten::silu",
    "aten::silu_",
    "aten::scatter_add_",
    "aten::view_as",
    "aten::unflatten",
)


class CountError(RuntimeError):
    """fvcore and torch disagree about a network, so neither count can be trusted."""


@dataclass(frozen=True)
class Cost:
    """What one image costs in evaluation mode.

    Attributes:
        parameters: all of them.
        parameters_without_classifier: those outside modules whose name ends in "classifier".
        parameters_at_inference: those that the feature depends on.
        macs: multiply-adds of convolutions, linear layers and matrix products, biases left out.
        activations: numbers that convolutions, linear layers and matrix products put out.
        macs_by_operator: the same by torch operator: conv, linear, matmul, scaled_dot_product_attention.
        uncounted: operators that are neither counted nor left out on purpose; should be empty.
    """

    parameters: int
    parameters_without_classifier: int
    parameters_at_inference: int
    macs: int
    activations: int
    macs_by_operator: dict[str, int]
    uncounted: tuple[str, ...]


def count(model: nn.Module, height: int, width: int) -> Cost:
    """The cost of `model` for one RGB image of `height` x `width` pixels.

    The model keeps its mode, its gradients and its device.

    Raises:
        CountError: fvcore and torch count different MACs; both are exact, so no tolerance is given.
    """
    image = example(model, height, width)
    with evaluating(model), torch.no_grad(), attention_in_steps():
        by_operator, uncounted = traced_macs(model, image)
        executed = executed_macs(model, image)
        activations = traced_activations(model, image)
        at_inference = parameters_in_use(model, image)
    macs = sum(by_operator.values())
    if macs != executed:
        raise CountError(
            f"fvcore counts {macs:,} MACs {by_operator}, torch {executed:,} for {type(model).__name__} "
            f"at {height}x{width}. Either the forward pass computes something it throws away, or an operator "
            f"is missing in bench.cost.COUNTED; operators without a rule: {', '.join(uncounted) or 'none'}"
        )
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        parameters_without_classifier=parameters_without_classifier(model),
        parameters_at_inference=at_inference,
        macs=macs,
        activations=activations,
        macs_by_operator=by_operator,
        uncounted=uncounted,
    )


def example(model: nn.Module, height: int, width: int) -> Tensor:
    """A black image, (1, 3, height, width), of the type and on the device of the model's parameters."""
    first = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, 3, height, width, dtype=first.dtype, device=first.device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is back in its own mode, as a frozen part may differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def attention_in_steps() -> Iterator[None]:
    """torch's attention layers as the products that they consist of; the counters see nothing in the fused one."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def traced_macs(model: nn.Module, image: Tensor) -> tuple[dict[str, int], tuple[str, ...]]:
    """MACs by operator of the work that the output of `model(image)` needs, and operators without a rule."""
    # Cleared first: a handle of None does not replace one of fvcore's own, such as that for batch norm.
    analysis = FlopCountAnalysis(model, image).clear_op_handles()
    analysis.set_op_handle(**COUNTED, **dict.fromkeys(NOT_COUNTED))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)  # the caller gets the list
    by_operator = {name: int(macs) for name, macs in sorted(analysis.by_operator().items())}
    return by_operator, tuple(sorted(analysis.unsupported_ops()))


def traced_activations(model: nn.Module, image: Tensor) -> int:
    """Numbers that the counted operators put out in `model(image)`, as fvcore counts them."""
    analysis = ActivationCountAnalysis(model, image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())


def executed_macs(model: nn.Module, image: Tensor) -> int:
    """MACs that torch sees executed in `model(image)`, whether the output needs them or not."""
    # Fused attention kernels are unknown to some versions of the counter; the plain one is two products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(image)
    flops: int = counter.get_total_flops()
    return flops // 2


def parameters_in_use(model: nn.Module, image: Tensor) -> int:
    """Number of parameters that the output of `model(image)` depends on, by following gradients.

    A parameter counts when a gradient exists, be it zero: the scale of an attention that starts at 0
    gets a part in the feature all the same. Work on copies that require gradients sees frozen
    parameters too, such as the bias of a batch norm, and leaves the model's gradients alone. What a
    network does under no_grad of its own cannot be followed.
    """
    copies = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    with torch.enable_grad():
        features: Tensor = functional_call(model, copies, (image,))
        if not features.requires_grad:
            return 0
        gradients = torch.autograd.grad(features.sum(), list(copies.values()), allow_unused=True)
    return sum(p.numel() for p, g in zip(copies.values(), gradients, strict=True) if g is not None)


def parameters_without_classifier(model: nn.Module) -> int:
    """Number of parameters outside the classifiers, which have one row per training identity.

    Heads name them `classifier` or `..._classifier`.
    """
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not any(part.endswith("classifier") for part in name.split("."))
    )


def frame(costs: dict[str, Cost]) -> pd.DataFrame:
    """One row per network, MACs also by operator and relative to `REFERENCE`, which must be among them."""
    operators = sorted({operator for cost in costs.values() for operator in cost.macs_by_operator})
    return pd.DataFrame(
        {
            "model": name,
            "parameters": cost.parameters,
            "parameters_without_classifier": cost.parameters_without_classifier,
            "parameters_at_inference": cost.parameters_at_inference,
            "macs": cost.macs,
            "activations": cost.activations,
            **{f"macs_{operator}": cost.macs_by_operator.get(operator, 0) for operator in operators},
            RELATIVE: cost.macs / costs[REFERENCE].macs,
            "uncounted": " ".join(cost.uncounted),
        }
        for name, cost in costs.items()
    )


def render(table: pd.DataFrame) -> str:
    """The rows of `frame` for a terminal, MACs in units of 10^9."""
    operators = [c for c in table if str(c).startswith("macs_") and c != RELATIVE]
    columns = {
        "parameters": table["parameters"],
        "no classifier": table["parameters_without_classifier"],
        "inference": table["parameters_at_inference"],
        "GMAC": table["macs"] / 1e9,
        "M activations": table["activations"] / 1e6,
        **{str(c).removeprefix("macs_"): table[c] / 1e9 for c in operators},
        f"of {REFERENCE}": table[RELATIVE].map("{:.1%}".format),
    }
    shown = pd.DataFrame(columns).set_axis(table["model"].rename(None))
    return shown.to_string(float_format="{:.3f}".format)


@dataclass(frozen=True)
class Table:
    """Parameters three ways, multiply-adds and activations of networks."""

    models: tuple[str, ...] = ()
    """names, with options in quotes: "msinet genotype=GGGGGGGGGGGG"; empty: every registered network"""
    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels"""
    num_classes: int = 751
    """training identities, which set the size of the classifiers"""
    csv: Path | None = None
    """file to write the table to, with exact counts"""

    def __call__(self) -> None:
        """Count and print.

        Raises:
            UserError: unknown model, an image that is too small, or a file that cannot be written.
        """
        chosen = specs(self.models, tuple(CARDS))  # a wrong name fails now, not after the networks before it
        names = [spec.text for spec in chosen]
        height, width = self.height, self.width
        if min(height, width) < SMALLEST:
            raise UserError(f"images of {height}x{width} are too small; the networks need {SMALLEST}x{SMALLEST}")
        costs = {
            name: count(Spec(name).build(self.num_classes, (height, width)), height, width)
            for name in dict.fromkeys([*names, REFERENCE])
        }
        table = frame(costs)
        table = table[table["model"].isin(names)]
        print(f"one image of {height}x{width}, {self.num_classes} identities; one MAC is one multiply-add")
        print(render(table))
        for name in names:
            if costs[name].uncounted:
                print(f"not counted in {name}: {', '.join(costs[name].uncounted)}")
        if self.csv:
            with atomic_path(self.csv) as temporary:
                table.to_csv(temporary, index=False)
