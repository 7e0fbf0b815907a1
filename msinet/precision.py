"""Precision of a GPU's arithmetic on fp32 numbers.

By default torch lets cuDNN round the inputs of convolutions to TF32 (10 bits of mantissa). Here convolutions and matrix
products use TF32 only in precision tf32. CPUs have no TF32: there tf32 is fp32.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS = ("fp32", "tf32", "bf16")


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which operations keep the precision of `x`; for sums and exponents that half precision spoils."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def outside_autocast(function: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Decorator: a function of a tensor, and others, that runs in `no_autocast`."""

    @wraps(function)
    def inside(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with no_autocast(x):
            return function(x, *args, **kwargs)

    return inside


def use_precision(precision: str) -> None:
    """Let a GPU round the inputs of matrix products and convolutions to TF32 in precision tf32, else forbid it.

    This is a global switch of torch; every run sets it when it starts. These are torch's older names: `torch.compile`
    fails if the newer ones (`fp32_precision`) are set (torch 2.9 to 2.15).
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def precision_used(precision: str, device: torch.device) -> str:
    """The precision that a device really computes in: tf32 is fp32 on CPUs, and on GPUs older than Ampere."""
    if precision != "tf32" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        return precision
    return "fp32"
