"""Weights of other code bases: prefixes, heads, Python 2, and files that hold no weights."""

import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from msinet.errors import WeightsError
from msinet.models import build_model, load_weights
from msinet.models.registry import State

NETWORK = "resnet18_x0_25"


@pytest.fixture(scope="module")
def state() -> State:
    """Of a small ResNet. Shared: do not change it."""
    torch.manual_seed(1)
    return build_model(NETWORK, 5).state_dict()


def bot(state: State, trunk: str = "base.") -> State:
    """The names of the strong baseline: base.*, bottleneck.*, classifier.weight."""
    found = {}
    for key, value in state.items():
        key = (
            key.replace("backbone.", trunk, 1)
            .replace("head.bn.", "bottleneck.")
            .replace("head.classifier.", "classifier.")
        )
        found[key] = value
    return found


def fast_reid(state: State, head: str, classifier: str) -> State:
    found = {k.replace("head.bn.", head).replace("head.classifier.", classifier): v for k, v in state.items()}
    return found | {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}


def loads_all(payload: Any, state: State, path: Path, name: str = NETWORK, classes: int = 5) -> str:
    """Saves, loads into a fresh network, and compares every entry; returns the report."""
    torch.save(payload, path)
    network = build_model(name, classes)
    report = str(load_weights(network, path))
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    return report


@pytest.mark.parametrize(
    ("wrap", "layout"),
    [
        (bot, "strong baseline"),
        (lambda state: bot(state, "backbone."), "strong baseline"),
        (lambda state: {"model": bot(state), "optimizer": {"lr": 0.1}}, "strong baseline"),
        (lambda state: {"state_dict": {f"module.model.{k}": v for k, v in bot(state).items()}, "epoch": 3}, "strong"),
        (lambda state: {"model": fast_reid(state, "heads.bottleneck.0.", "heads."), "iteration": 9}, "fast-reid"),
        (lambda state: {"model": fast_reid(state, "heads.bnneck.", "heads.classifier.")}, "fast-reid"),
        (lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}, "our own"),
        (lambda state: {"net": {f"network.{k}": v for k, v in state.items()}}, "our own"),
    ],
)
def test_prefixes_and_heads_of_other_code_bases(state: State, tmp_path: Path, wrap, layout: str) -> None:
    report = loads_all(wrap(state), state, tmp_path / "x.pth")
    assert layout in report
    assert f"{len(state)} of {len(state)} entries matched" in report
    assert ("no ReLU before its max pooling" in report) == ("strong" in layout)
    assert ("pixel_mean" in report) == (layout == "fast-reid")


@pytest.mark.parametrize("prefix", ["base.", "backbone.", "model.", "model.backbone.", ""])
def test_a_bare_trunk_under_any_known_prefix(state: State, tmp_path: Path, prefix: str) -> None:
    trunk = {prefix + k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    torch.save(trunk, tmp_path / "x.pth")
    network = build_model(NETWORK, 5)
    report = load_weights(network, tmp_path / "x.pth", partial=prefix.endswith("backbone."))
    assert report.matched == len(trunk)
    assert all(key.startswith("head.") for key in report.missing)


@pytest.mark.parametrize("image", [(256, 128), (256, 64)])  # 16 x 4 = 8 x 8 patches: not square all the same
def test_a_transreid_checkpoint(image: tuple[int, int], tmp_path: Path) -> None:
    name = "deit_small_x0_25"
    torch.manual_seed(0)
    state = build_model(name, 5, image=image, depth=1).state_dict()
    renamed = {}
    for key, value in state.items():
        for ours, theirs in (
            ("backbone.class_token", "base.cls_token"),
            ("backbone.pos_embedding", "base.pos_embed"),
            ("backbone.conv_proj.", "base.patch_embed.proj."),
            ("backbone.ln.", "base.norm."),
            ("backbone.layers.", "base.blocks."),
            (".ln_", ".norm"),
            (".self_attention.in_proj_", ".attn.qkv."),
            (".self_attention.out_proj.", ".attn.proj."),
            (".mlp.0.", ".mlp.fc1."),
            (".mlp.3.", ".mlp.fc2."),
            ("head.bn.", "bottleneck."),
            ("head.classifier.", "classifier."),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = value
    renamed["base.fc.weight"], renamed["base.fc.bias"] = torch.zeros(1000, 96), torch.zeros(1000)
    torch.save(renamed, tmp_path / "x.pth")
    network = build_model(name, 5, image=image, depth=1)
    report = load_weights(network, tmp_path / "x.pth")
    assert report.layout == "TransReID"
    assert (report.matched, report.total) == (len(state), len(state))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


class Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes text as Python 2 did: as bytes."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def save_str(self, text: str) -> None:
        data = text.encode("latin1")
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str


def test_a_file_of_python_2_is_read_safely(state: State, tmp_path: Path) -> None:
    module = types.SimpleNamespace(
        Pickler=Python2, dump=lambda obj, file, protocol: Python2(file, protocol).dump(obj), __name__="pickle"
    )
    path = tmp_path / "old.pth.tar"
    payload = {"state_dict": bot(state), "author": "J\xf6rg"}
    torch.save(payload, path, pickle_module=module, pickle_protocol=2, _use_new_zipfile_serialization=False)
    network = build_model(NETWORK, 5)
    assert load_weights(network, path).matched == len(state)


def test_safetensors_are_recognised_by_their_content(state: State, tmp_path: Path) -> None:
    path = tmp_path / "named.pth"
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    assert load_weights(build_model(NETWORK, 5), path).matched == len(state)


def numpy_file(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(2))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def program(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", b"x")
        file.writestr("net/code/__torch__.py", b"x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>Sign in", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "an image"),
        (b"\x1f\x8b\x08" + bytes(64), "a compressed archive"),
        (b'{"weights": 3}', "text that begins with"),
        (numpy_file, "a file of NumPy arrays"),
        (archive, "a ZIP archive"),
        (program, "a TorchScript program"),
    ],
)
def test_a_file_without_weights_is_called_what_it_is(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(WeightsError, match=f"weights.pth is {message}.*expected a dictionary of tensors"):
        load_weights(build_model(NETWORK, 5), path)


def test_a_missing_file_is_answered_with_the_nearest_one(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"does not exist.*Did you mean 'model\.pth'"):
        load_weights(build_model(NETWORK, 5), tmp_path / "modle.pth")


def test_two_entries_never_become_one(tmp_path: Path, state: State) -> None:
    """A file with the trunk twice, as of a student and its teacher, is left with its prefixes."""
    twice: dict[str, Tensor] = {**bot(state), **bot(state, "backbone.")}
    torch.save(twice, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(build_model(NETWORK, 5), tmp_path / "x.pth")
