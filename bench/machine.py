"""Arithmetic rate and memory bandwidth of the machine, which bound the speed of every network."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
    """Bytes that the layers of `network(image)` read and write for their maps, and bytes of their weights.

    Counted at modules without children: each map once for every layer that reads it and once when it is written, as in
    a network without fused layers.
    """
    seen: dict[nn.Module, int] = {}
    moved = 0

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal moved
        seen[module] = sum(p.numel() * p.element_size() for p in module.parameters())
        moved += sum(t.numel() * t.element_size() for t in (*inputs, output) if isinstance(t, Tensor))

    with _hooks(network, note), torch.no_grad():
        network(image)
    return moved, sum(seen.values())


@contextmanager
def _hooks(network: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves if not isinstance(leaf, nn.Identity)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
