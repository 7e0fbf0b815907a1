"""Parameters and multiply-adds of a network.

The only module that imports fvcore. One multiply-add is one MAC, which fvcore calls a FLOP; torch's counter counts two.
Only convolutions, linear layers and matrix products are counted.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.networks import REFERENCE
from msinet.models.oracle import Oracle

with warnings.catch_warnings():
    # fvcore scripts a focal loss when it is imported, and torch warns of that.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script`")
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, jit_handles

#: Tracing changes filters of warnings, which all threads of a process share. Trials of a sweep may count at once.
TRACING = threading.Lock()
#: Column with MACs as a fraction of the reference's.
RELATIVE = f"macs_to_{REFERENCE}"


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """MACs of softmax(QK^T)V: two products per head. A causal mask is not subtracted.

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
#: Left out on purpose: operators with a few operations per element and no matrix product. fvcore itself skips ReLU and
#: operators that only move data (views, slices, concatenation), except view_as.
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
    "aten::clamp_min",
    "aten::expand_as",
    "aten::cumsum",
    "aten::new_ones",
    "aten::linalg_vector_norm",
    "aten::upsample_bilinear2d",
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
    """Cost of one image in evaluation mode.

    Attributes:
        parameters: number of all parameters.
        parameters_without_classifier: those outside modules whose name ends in "classifier".
        parameters_at_inference: those that the feature depends on.
        macs: multiply-adds of convolutions, linear layers and matrix products, without biases.
        activations: output elements of convolutions, linear layers and matrix products.
        macs_by_operator: multiply-adds by torch operator: conv, linear, matmul, scaled_dot_product_attention.
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
        CountError: fvcore and torch count different MACs; both are exact, so there is no tolerance.
    """
    if isinstance(model, Oracle):  # it sees no pixels
        return Cost(0, 0, 0, 0, 0, {}, ())
    image = example(model, height, width)
    with TRACING, evaluating(model), torch.no_grad(), attention_in_steps():
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
    """Set evaluation mode for the block; afterwards every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def attention_in_steps() -> Iterator[None]:
    """Run torch's attention layers as separate products, because the counters see nothing in the fused kernel."""
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
    """Output elements of the counted operators in `model(image)`, as fvcore counts them."""
    analysis = ActivationCountAnalysis(model, image)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())


def executed_macs(model: nn.Module, image: Tensor) -> int:
    """MACs that torch executes in `model(image)`, whether the output needs them or not."""
    # Fused attention kernels are unknown to some versions of the counter; the plain one is two products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(image)
    flops: int = counter.get_total_flops()
    return flops // 2


def parameters_in_use(model: nn.Module, image: Tensor) -> int:
    """Number of parameters that the output of `model(image)` depends on, by following gradients.

    A parameter counts when a gradient exists, even if it is zero: the scale of an attention starts at 0, for example.
    Copies that require gradients include frozen parameters, such as the bias of a batch norm, and leave the model's
    gradients unchanged. Operations that a network runs under no_grad cannot be followed.
    """
    copies = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    with torch.enable_grad():
        features: Tensor = functional_call(model, copies, (image,))
        if not features.requires_grad:
            return 0
        gradients = torch.autograd.grad(features.sum(), list(copies.values()), allow_unused=True)
    return sum(p.numel() for p, g in zip(copies.values(), gradients, strict=True) if g is not None)


def parameters_without_classifier(model: nn.Module) -> int:
    """Number of parameters outside the classifiers, which heads name `classifier` or `..._classifier`."""
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
    """The table of `frame` as text, MACs in units of 10^9."""
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
