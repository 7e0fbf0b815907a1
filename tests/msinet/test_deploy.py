"""The deployed form gives the features of the trained one, holds less, and leaves the trained one alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.cost import count
from msinet.cli import run_command
from msinet.errors import UserError
from msinet.export import export
from msinet.models import build_model, save_weights
from msinet.models.deployment import MergedBlock, MergedCell, deploy

IMAGE = (64, 32)
NETWORKS = [
    ("msinet_x0_25", {}),
    ("msinet_x0_25", {"fusion": "minus"}),
    ("msinet_x0_25", {"fusion": "mul"}),
    ("msinet_x0_25", {"genotype": "NEGANEGANEGA", "ratio": 2}),
    ("msinet_x0_25", {"pam": True, "neck": "cdnet"}),
    ("msinet_x0_25", {"neck": "bn"}),
    ("msinet_x0_25", {"neck": "transfer"}),
    ("osnet_x0_25", {}),
    ("osnet_x0_25", {"neck": "fbl"}),
    ("cdnet_x0_25", {}),
    ("resnet18_x0_25", {}),
    ("resnet50_x0_25", {"neck": "fc"}),
    ("deit_small_x0_25", {"depth": 2}),
    ("colour_histogram", {}),
]


def trained(name: str, options: dict[str, object]) -> nn.Module:
    """A network whose batch norms, biases and attentions are not at their initial values."""
    torch.manual_seed(0)
    network = build_model(name, 11, image=IMAGE, **options)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if hasattr(module, "gamma"):
            nn.init.constant_(module.gamma, 0.5)
    return network


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_features_stay(name: str, options: dict[str, object]) -> None:
    network = trained(name, options).double()
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    shipped = deploy(network)
    images = torch.randn(3, 3, *IMAGE, dtype=torch.double)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with torch.inference_mode():
        expected = network.eval()(images)
        found = shipped(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_nothing_is_left_that_only_training_needs(name: str, options: dict[str, object]) -> None:
    network = trained(name, options)
    shipped = deploy(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in shipped.modules())
    assert not any(p.requires_grad for p in shipped.parameters())
    cost = count(network, *IMAGE)
    small = count(shipped, *IMAGE)
    assert small.macs == cost.macs
    assert small.parameters == small.parameters_at_inference <= cost.parameters_at_inference
    assert small.activations <= cost.activations


@pytest.mark.parametrize("name", ["ianet_x0_25", "pcb_x0_25", "batnet_x0_25", "supernet_x0_25"])
def test_networks_keep_their_features_in_half_precision(name: str) -> None:
    network = trained(name, {}).eval()
    images = torch.randn(2, 3, 96, 32)
    with torch.inference_mode():
        expected = network(images)
        found = deploy(network).to(torch.bfloat16)(images.bfloat16())
    assert (found.float() - expected).norm() <= 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["msinet_x0_25", "osnet_x0_25"])
def test_batch_norms_that_processes_share_are_folded(name: str) -> None:
    network = trained(name, {})
    expected = deploy(network)
    shared = deploy(nn.SyncBatchNorm.convert_sync_batchnorm(network))
    for ours, theirs in zip(shared.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_cells_and_blocks_are_merged() -> None:
    kinds = {
        name: sum(isinstance(module, MergedCell | MergedBlock) for module in deploy(build_model(name, 3)).modules())
        for name in ("msinet_x0_25", "osnet_x0_25", "cdnet_x0_25")
    }
    assert kinds == {"msinet_x0_25": 6, "osnet_x0_25": 6, "cdnet_x0_25": 9}


# --- Other runtimes ------------------------------------------------------------------------------


def test_export_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("msinet.export.find_spec", lambda _: None)
    from msinet.export import export_onnx

    with pytest.raises(UserError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install 'msinet-bench\[onnx"):
        export_onnx(build_model("msinet_x0_25", 3), tmp_path / "a.onnx", IMAGE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [NETWORKS[0], NETWORKS[6], NETWORKS[9], NETWORKS[11]])
def test_onnx_gives_the_same_features_for_any_batch(
    name: str, options: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = trained(name, options)
    meta = {"model": name, "options": str(options).replace("'", '"').replace("True", "true"), "num_classes": "11"}
    save_weights(network, tmp_path / "a.safetensors", meta | {"height": "64", "width": "32"})
    words = ["export", "--weights", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "a.onnx")]
    assert run_command(words) == 0
    assert "features equal torch's" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randn(batch, 3, *IMAGE)
        with torch.inference_mode():
            expected = network.eval()(images).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_a_file_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    for out in ("a.pt", "a.onnx"):
        words = ["export", "--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "file" / out)]
        assert run_command(words) == 2
        assert f"{tmp_path}/file" in capsys.readouterr().err


class Early(nn.Module):
    """A norm before the convolution that is registered first, which `fold` takes for the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        nn.init.uniform_(self.bn.bias, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.bn(x).relu()).mean((2, 3))


def test_a_network_that_deployment_changes_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not written: TorchScript's features differ"):
        export(Early(), tmp_path / "a.pt", IMAGE)
    assert not list(tmp_path.iterdir())


def test_features_that_differ_are_never_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from msinet import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="was not written"):
        export.export_onnx(build_model("msinet_x0_25", 3), tmp_path / "a.onnx", IMAGE)
    assert not list(tmp_path.iterdir())
