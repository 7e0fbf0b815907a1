"""PCB, PCB+RPP and MGN against computations from weights under the names of their authors' code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import CPU, changed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msinet.cli import run_command
from msinet.errors import UserError, WeightsError
from msinet.models import Output, build_model, load_weights, save_weights
from msinet.models.deployment import deploy
from msinet.models.heads import PartNeck, RefinedPartNeck, pool_stripes
from msinet.training import supervised
from msinet.training.batches import Batches
from msinet.training.graphs import Work
from msinet.training.recipes import resolve
from msinet.training.supervised import Supervised

State = dict[str, Tensor]
IMAGES = torch.randn(2, 3, 96, 32, generator=torch.Generator().manual_seed(0))
NAMES = ("pcb_x0_25", "pcb_rpp_x0_25", "mgn_x0_25")


def filled(name: str, **options: object) -> nn.Module:
    """A network whose batch norms and biases are not at their initial values, in evaluation mode."""
    torch.manual_seed(0)
    network = build_model(name, 5, **options)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    return network.eval()


def logits_of(network: nn.Module) -> Output:
    """The output in training mode without dropout, by running statistics."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm | nn.Dropout):
            module.eval()
    output = network(IMAGES)
    network.eval()
    assert isinstance(output, Output)
    return output


# Computations from named weights


def norm(x: Tensor, s: State, name: str) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance, weight, bias = (
        s[f"{name}.{key}"].view(shape) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def bottleneck(x: Tensor, s: State, name: str, stride: int) -> Tensor:
    y = norm(F.conv2d(x, s[f"{name}.conv1.weight"]), s, f"{name}.bn1").relu()
    y = norm(F.conv2d(y, s[f"{name}.conv2.weight"], stride=stride, padding=1), s, f"{name}.bn2").relu()
    y = norm(F.conv2d(y, s[f"{name}.conv3.weight"]), s, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in s:
        x = norm(F.conv2d(x, s[f"{name}.downsample.0.weight"], stride=stride), s, f"{name}.downsample.1")
    return (x + y).relu()


def blocks(x: Tensor, s: State, name: str, depth: int, stride: int) -> Tensor:
    for i in range(depth):
        x = bottleneck(x, s, f"{name}.{i}", stride if i == 0 else 1)
    return x


def entry(s: State, conv: str, bn: str) -> Tensor:
    return F.max_pool2d(norm(F.conv2d(IMAGES, s[f"{conv}.weight"], stride=2, padding=3), s, bn).relu(), 3, 2, 1)


def trunk(s: State, prefix: str = "") -> Tensor:
    """The map of ResNet50 with a last stride of 1."""
    x = entry(s, f"{prefix}conv1", f"{prefix}bn1")
    for number, (depth, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 1)), 1):
        x = blocks(x, s, f"{prefix}layer{number}", depth, stride)
    return x


def stripes(x: Tensor, parts: int, reduce: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The pooled stripes of (B, C, H, W), row by row."""
    height = x.shape[2] // parts
    return [reduce(x[:, :, i * height : (i + 1) * height].flatten(2)) for i in range(parts)]


def average(x: Tensor) -> Tensor:
    return x.sum(2) / x.shape[2]


def largest(x: Tensor) -> Tensor:
    return x.max(2).values


# Names of other code bases


def torchreid(state: State) -> State:
    names = {"head.reduce.conv": "conv5.layers.0", "head.reduce.bn": "conv5.layers.1", "head.classifier": "classifier"}
    return renamed(state, {"backbone.": "", **names})


def official(state: State) -> State:
    names = {"head.reduce.conv": "local_conv", "head.reduce.bn": "feat_bn2d", "head.assign": "local_mask"}
    names |= {f"head.classifier.{i}": f"instance{i}" for i in range(6)}
    found = renamed(state, {"backbone.": "base.", **names})
    return found | {"base.fc.weight": torch.zeros(1000, 512), "base.fc.bias": torch.zeros(1000)}


def mgn_pytorch(state: State) -> State:
    first = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3.0": 6}
    names = {f"backbone.{ours}.": f"backone.{theirs}." for ours, theirs in first.items()}
    names |= {f"backbone.branches.{i}.": f"p{i + 1}." for i in range(3)}
    names |= {f"head.reduce.{i}.conv": f"reduction_{i}.0" for i in range(8)}
    names |= {f"head.reduce.{i}.bn": f"reduction_{i}.1" for i in range(8)}
    classifiers = ["2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2"]
    return renamed(state, names | {f"head.classifier.{i}": f"fc_id_{name}" for i, name in enumerate(classifiers)})


def renamed(state: State, names: dict[str, str]) -> State:
    found = {}
    for key, value in state.items():
        (ours,) = (name for name in names if key.startswith(name))
        found[key.replace(ours, names[ours], 1)] = value
    assert len(found) == len(state)
    return found


def loaded(name: str, state: State, path: Path, layout: str) -> nn.Module:
    """A fresh network with the weights of a file."""
    torch.save({"state_dict": state}, path)
    torch.manual_seed(1)
    network = build_model(name, 5).eval()
    report = load_weights(network, path)
    assert report.layout == layout
    assert report.matched == report.total
    return network


# Forward passes


@pytest.mark.parametrize(("names", "layout"), [(torchreid, "torchreid PCB"), (official, "PCB_RPP_for_reID")])
def test_pcb_is_computed_from_the_weights_of_other_code(names, layout: str, tmp_path: Path) -> None:
    state = names(filled("pcb_x0_25").state_dict())
    network = loaded("pcb_x0_25", state, tmp_path / "a.pth", layout)
    prefix, reduce, bn, classify = (
        ("", "conv5.layers.0", "conv5.layers.1", "classifier.{}")
        if names is torchreid
        else ("base.", "local_conv", "feat_bn2d", "instance{}")
    )
    parts = stripes(trunk(state, prefix), 6, average)
    expected = torch.stack([part / part.norm(dim=1, keepdim=True) for part in parts], 2).flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), expected, rtol=1e-3, atol=1e-5)
        output = logits_of(network)
    torch.testing.assert_close(output.embeddings[0], expected, rtol=1e-3, atol=1e-5)
    for i, part in enumerate(parts):
        reduced = norm(part @ state[f"{reduce}.weight"][:, :, 0, 0].T, state, bn).relu()
        name = classify.format(i)
        logits = reduced @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        torch.testing.assert_close(output.logits[i], logits, rtol=1e-3, atol=1e-4)


def test_refined_parts_are_computed_position_by_position(tmp_path: Path) -> None:
    state = official(filled("pcb_rpp_x0_25").state_dict())
    state["local_mask.weight"] /= 1000  # shares that are neither 0 nor 1
    network = loaded("pcb_rpp_x0_25", state, tmp_path / "a.pth", "PCB_RPP_for_reID")
    x = trunk(state, "base.")
    count = x.shape[2] * x.shape[3]
    groups = torch.stack([x[:, i : i + 8].sum(1) / 8 for i in range(0, x.shape[1], 8)], 1)
    groups = groups - (groups.sum((2, 3)) / count)[:, :, None, None]
    parts = torch.zeros(2, x.shape[1], 6)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            scores = groups[:, :, row, column] @ state["local_mask.weight"][:, :, 0, 0].T + state["local_mask.bias"]
            shares = scores.exp() / scores.exp().sum(1, keepdim=True)  # (B, 6)
            parts += 6 * x[:, :, row, column, None] * shares[:, None] / count
            assert 0.01 < shares.amax(1).mean() < 0.99
    expected = (parts / parts.norm(dim=1, keepdim=True)).flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), expected, rtol=1e-3, atol=1e-5)


def test_mgn_is_computed_from_the_weights_of_other_code(tmp_path: Path) -> None:
    state = mgn_pytorch(filled("mgn_x0_25").state_dict())
    network = loaded("mgn_x0_25", state, tmp_path / "a.pth", "MGN-pytorch")
    x = entry(state, "backone.0", "backone.1")
    x = blocks(blocks(x, state, "backone.4", 3, 1), state, "backone.5", 4, 2)
    x = bottleneck(x, state, "backone.6", 2)
    maps = [
        blocks(blocks(x, state, f"p{i}.0", 5, 1), state, f"p{i}.1", 3, stride) for i, stride in ((1, 2), (2, 1), (3, 1))
    ]
    pooled = [largest(one.flatten(2)) for one in maps] + stripes(maps[1], 2, largest) + stripes(maps[2], 3, largest)
    vectors = [
        norm(one @ state[f"reduction_{i}.0.weight"][:, :, 0, 0].T, state, f"reduction_{i}.1").relu()
        for i, one in enumerate(pooled)
    ]
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), torch.cat(vectors, 1), rtol=1e-3, atol=1e-3)
        output = logits_of(network)
    assert len(output.embeddings) == 3
    names = ["2048_0", "2048_1", "2048_2", "256_1_0", "256_1_1", "256_2_0", "256_2_1", "256_2_2"]
    for i, name in enumerate(names):
        logits = vectors[i] @ state[f"fc_id_{name}.weight"].T + state[f"fc_id_{name}.bias"]
        torch.testing.assert_close(output.logits[i], logits, rtol=1e-3, atol=1e-3)
        if i < 3:
            torch.testing.assert_close(output.embeddings[i], vectors[i], rtol=1e-3, atol=1e-3)


def test_the_branches_of_mgn_start_from_one_resnet(tmp_path: Path) -> None:
    plain = {k.removeprefix("backbone."): v for k, v in build_model("resnet50_x0_25", 5).backbone.state_dict().items()}
    torch.save(plain, tmp_path / "resnet50.pth")
    network = build_model("mgn_x0_25", 5)
    assert load_weights(network, tmp_path / "resnet50.pth").layout == "torchvision ResNet"
    found = network.state_dict()
    for i in range(3):
        assert torch.equal(found[f"backbone.branches.{i}.0.4.conv3.weight"], plain["layer3.5.conv3.weight"])
        assert torch.equal(found[f"backbone.branches.{i}.1.2.bn1.weight"], plain["layer4.2.bn1.weight"])
    assert torch.equal(found["backbone.layer3.0.conv2.weight"], plain["layer3.0.conv2.weight"])
    torch.save(network.state_dict(), tmp_path / "mgn.pth")
    with pytest.raises(WeightsError, match="a checkpoint of MGN"):
        load_weights(build_model("resnet50_x0_25", 5), tmp_path / "mgn.pth")


def test_refined_parts_start_from_a_pcb(tmp_path: Path) -> None:
    state = official(filled("pcb_x0_25").state_dict())
    torch.save(state, tmp_path / "pcb.pth")
    network = build_model("pcb_rpp_x0_25", 5)
    report = load_weights(network, tmp_path / "pcb.pth")
    assert set(report.missing) == {"head.assign.weight", "head.assign.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_deployed_features_are_the_same(name: str) -> None:
    network = filled(name)
    shipped = deploy(network)
    with torch.no_grad():
        torch.testing.assert_close(shipped(IMAGES), network(IMAGES), rtol=1e-3, atol=1e-4)
    assert not any("classifier" in key for key in shipped.state_dict())
    assert any("reduce" in key for key in shipped.state_dict()) == (name == "mgn_x0_25")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    meta = {"model": name, "num_classes": "5", "height": "96", "width": "32"}
    save_weights(filled(name), tmp_path / "a.safetensors", meta)
    assert run_command(["export", "--weights", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "a.onnx")]) == 0
    assert "features equal torch's" in capsys.readouterr().out


# Stages, stripes and wrong input


def test_parts_are_refined_after_two_fifths_of_the_training() -> None:
    head = RefinedPartNeck(8, 16, 3)
    network = build_model("pcb_rpp_x0_25", 3)
    for epochs in (50, 5, 1):
        flags = []
        for epoch in range(epochs):
            head.begin_epoch((epoch + 1) / epochs)
            network.begin_epoch((epoch + 1) / epochs)  # type: ignore[operator]
            assert network.head.refined == head.refined
            flags.append(head.refined)
        assert flags == [False] * (epochs * 2 // 5) + [True] * (epochs - epochs * 2 // 5)
    x = torch.randn(2, 16, 6, 2)
    head.eval()
    assert not torch.equal(head.pool(x), pool_stripes(x, 6))
    head.begin_epoch(0.1)
    assert torch.equal(head.pool(x), pool_stripes(x, 6))


@pytest.mark.parametrize(("first", "recordings"), [(0, [False, True]), (2, [True])])
def test_a_recorded_training_is_recorded_anew_when_parts_are_refined(
    first: int, recordings: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = build_model("pcb_rpp_x0_25", 4)
    head = network.get_submodule("head")
    assert isinstance(head, RefinedPartNeck)
    found: list[bool] = []

    def record(work: Work, _device: torch.device) -> Work:
        """Like a graph: repetitions keep the choice of the recording, whatever the head says."""
        found.append(recorded := head.refined)

        def replay() -> Tensor:
            head.refined = recorded
            return work()

        return replay

    monkeypatch.setattr(supervised, "capture", record)
    recipe = changed(resolve("smoke", "market1501", "pcb_rpp").recipe, width=32, epochs=5, steps_per_epoch=2)
    labels = np.repeat(np.arange(4), 4)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 96, 32, 3), dtype=np.uint8)
    task = Supervised(network, Batches(pixels, labels, recipe, 5, CPU, resident=True), graphs=True)
    network.train()
    before = head.assign.weight.detach().clone()
    for epoch in range(first, 5):  # 0: from the start; 2: resumed after the stripes
        for step in range(int(task.begin_epoch(epoch, 0)["steps"])):
            task.step(epoch, step)
        assert torch.equal(before, head.assign.weight) == (epoch < 2)
    assert found == recordings


def test_stripes_by_hand() -> None:
    x = torch.arange(2 * 1 * 4 * 2, dtype=torch.float32).view(2, 1, 4, 2)
    assert pool_stripes(x, 2).tolist() == [[[1.5, 5.5]], [[9.5, 13.5]]]
    assert pool_stripes(x, 2, "max").tolist() == [[[3.0, 7.0]], [[11.0, 15.0]]]
    assert pool_stripes(x, 1).flatten().tolist() == [3.5, 11.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build_model("pcb_x0_25", 3)(torch.zeros(2, 3, 64, 32)),
            r"a map of 4 rows does not divide into 6 stripes; .* a multiple of 96 pixels, such as 96",
        ),
        (
            lambda: build_model("mgn_x0_25", 3)(torch.zeros(2, 3, 64, 32)),
            "4 rows does not divide into 3 stripes; .* a multiple of 96 pixels, such as 96",
        ),
        (
            lambda: build_model("mgn_x0_25", 3)(torch.zeros(2, 3, 144, 32)),  # nine rows are three stripes, but not two
            "9 rows does not divide into 2 stripes; .* a multiple of 96 pixels, such as 192",
        ),
        (lambda: build_model("pcb_x0_25", 3, parts=1), "at least 2 parts, got 1; the authors use 6"),
        (lambda: build_model("mgn_x0_25", 3, pool="sum"), "unknown pool 'sum'.*avg, max"),
        (lambda: PartNeck(4, 4, 3)(torch.zeros(2, 4), torch.zeros(2, 4)), r"gives \(2, 4\); choose a backbone with a"),
        (lambda: build_model("vit_base_x0_25", 3, neck="pcb"), "unknown option of vit_base 'neck'"),
    ],
)
def test_wrong_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
