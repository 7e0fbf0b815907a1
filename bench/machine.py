"""Arithmetic rate and memory bandwidth of the machine, which bound the speed of every network."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def rates(device: torch.device) -> tuple[float, float]:
    """Multiply-adds per second of a large matrix product in float32; bytes read and written per second by a large copy.

    Each is the best of five, to exclude disturbances by other processes.
    """
    side, count = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    left, right = (torch.randn(side, side, device=device) for _ in range(2))
    source = torch.zeros(count, device=device)  # far larger than any cache
    target = torch.empty_like(source)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            _finish(device)
            began = time.perf_counter()
            work()
            _finish(device)
            times.append(time.perf_counter() - began)
        return min(times[1:])  # the first touches the pages

    product = best(lambda: torch.mm(left, right))
    copy = best(lambda: target.copy_(source))
    return side**3 / product, 2 * count * source.element_size() / copy


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
