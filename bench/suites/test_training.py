"""A training step of MSINet: the plain form (default layout, an update per parameter) against the one used here."""

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from msinet.models import build_model
from msinet.training.loop import build_optimizer, losses
from msinet.training.profiles import recipe_for


@pytest.mark.parametrize("form", ["plain", "ours"])
@pytest.mark.parametrize(("height", "width"), [(64, 32), (256, 128)])
@pytest.mark.parametrize("model", ["msinet", "osnet", "resnet50"])
def test_a_training_step_at_batch_64(
    benchmark: BenchmarkFixture, model: str, height: int, width: int, form: str
) -> None:
    """One group per network and size; same weights, same arithmetic, other order of it in memory."""
    benchmark.group = f"training step, {model} {height}x{width}"
    torch.manual_seed(0)
    network = build_model(model, 751).train()
    recipe = replace(recipe_for("paper", "market1501", model), height=height, width=width)
    images, labels = torch.randn(64, 3, height, width), torch.arange(16).repeat_interleave(4)
    if form == "ours":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = build_optimizer(network, recipe)
    else:
        optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad], recipe.lr, 0.9,
            weight_decay=recipe.weight_decay, foreach=False,
        )  # fmt: skip

    def step() -> None:
        loss = losses(network(images), labels, recipe)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    benchmark.pedantic(step, rounds=7 if height == 64 else 3, warmup_rounds=1)
