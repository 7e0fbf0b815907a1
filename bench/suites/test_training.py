"""A training step: a plain form (default layout, one update per parameter) against the ones used here.

The floor is the convolutions alone, forward and backward, in the same layout and by the same library.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from msinet.models import build_model
from msinet.training.recipe import ImageSize
from msinet.training.recipes import resolve
from msinet.training.supervised import build_optimizer, forward, losses


@pytest.mark.parametrize(("height", "width"), [(64, 32), (256, 128)])
@pytest.mark.parametrize("model", ["msinet", "osnet", "resnet50"])
@pytest.mark.parametrize("form", ["plain", "ours", "bf16", "floor"])
def test_a_training_step_at_batch_64(
    benchmark: BenchmarkFixture, model: str, height: int, width: int, form: str
) -> None:
    """One group per network and size, with the same initial weights."""
    benchmark.group = f"training step, {model} {height}x{width}"
    torch.manual_seed(0)
    network = build_model(model, 751).train()
    recipe = replace(resolve("paper", "market1501", model).recipe, image=ImageSize(height, width))
    images, labels = torch.randn(64, 3, height, width), torch.arange(16).repeat_interleave(4)
    if form == "plain":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad],
            recipe.optimizer.lr,
            0.9,
            weight_decay=recipe.optimizer.weight_decay,
            foreach=False,
        )
    else:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = build_optimizer(network, recipe)
        recipe = replace(recipe, precision="bf16" if form == "bf16" else "fp32")

    def step() -> None:
        loss = losses(forward(network, images, recipe), labels, recipe)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    work = convolutions(network, images) if form == "floor" else step
    benchmark.pedantic(work, rounds=9 if height == 64 else 3, warmup_rounds=1)


def convolutions(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """Every convolution of a step alone, on maps of the sizes of its own inputs."""
    calls: list[Callable[[], object]] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        first = inputs[0] is images  # needs no gradient
        x = torch.randn_like(inputs[0]).requires_grad_(not first)
        wanted = [module.weight] if first else [x, module.weight]
        calls.append(partial(convolve, module, x, wanted, torch.randn_like(output)))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network(images)
    for hook in hooks:
        hook.remove()

    def every() -> None:
        for call in calls:
            call()

    return every


def convolve(module: nn.Conv2d, x: Tensor, wanted: list[Tensor], gradient: Tensor) -> object:
    """A convolution, and the gradients of the tensors in `wanted`."""
    y = F.conv2d(x, module.weight, module.bias, module.stride, module.padding, groups=module.groups)
    return torch.autograd.grad(y, wanted, gradient)
