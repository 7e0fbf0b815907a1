"""Arithmetic rate and memory bandwidth of the machine, which bound the speed of every network."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def rates(device: torch.device) -> tuple[float, float]:
    """Multiply-adds per second of a large product or convolution in float32; bytes per second of a large copy.

    Of a matrix product and a 3x3 convolution the faster one counts. Each is the best of five calls, to exclude
    disturbances by other processes. A copy reads and writes its bytes.
    """
    side, count, batch = (8192, 2**28, 64) if device.type == "cuda" else (2048, 2**26, 8)
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    source = torch.zeros(count, device=device)  # far larger than any cache
    target = torch.empty_like(source)
    maps = torch.randn(batch, 256, 32, 32, device=device).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device).to(memory_format=torch.channels_last)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            _finish(device)
            began = time.perf_counter()
            work()
            _finish(device)
            times.append(time.perf_counter() - began)
        return min(times[1:])  # the first touches the pages

    product = side**3 / best(lambda: torch.mm(left, right))
    convolution = maps.numel() * weight[0].numel() / best(lambda: F.conv2d(maps, weight, padding=1))
    return max(product, convolution), 2 * count * source.element_size() / best(lambda: target.copy_(source))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def traffic(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Bytes that the operators of `network(image)` read and write for their maps, and bytes of its weights.

    Each map counts once for every operator that reads it and once when it is written, as without fused operators.
    Views move nothing.
    """
    weights = [*network.parameters(), *network.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which would hide its maps
    try:
        with torch.no_grad(), _Traffic(weights) as counted:
            network(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counted.moved, sum(map(_bytes, weights))


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of maps that operators move."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0
        self._weights = {one.untyped_storage().data_ptr() for one in weights}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        aliases = [one.alias_info for one in func._schema.returns]
        if not any(one is not None and not one.is_write for one in aliases):  # not a view
            tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
            self.moved += sum(_bytes(one) for one in tensors if self._is_map(one))
        return result

    def _is_map(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() not in self._weights


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
