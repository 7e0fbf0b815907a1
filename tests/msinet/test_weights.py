"""Weights files of every layout, and the files that have to be refused."""

import csv
import hashlib
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from msinet.errors import UserError, WeightsError
from msinet.models import build_model, load_weights, save_weights
from msinet.models.foreign import weights_hash
from msinet.models.genotype import SEARCHED
from msinet.models.weights import read_metadata

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def released(name: str, num_classes: int = 10) -> State:
    """A state of random values with the keys and shapes of a released file."""
    with (Path(__file__).parents[1] / "data" / f"{name}.csv").open() as file:
        rows = [(row["key"], [int(n) for n in row["shape"].split("x") if n]) for row in csv.DictReader(file)]
    state = {}
    for key, shape in rows:
        if "classifier" in key:
            shape = [num_classes, *shape[1:]]
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(100)
        elif key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            state[key] = torch.rand(shape) + 0.5  # batch norms: scales around 1
        elif key.endswith("weight"):
            state[key] = torch.randn(shape) * (2 / math.prod(shape[1:])) ** 0.5
        else:
            state[key] = torch.randn(shape) * 0.3  # biases, means and gamma
    return state


def values(network: nn.Module) -> State:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4 of the largest entry, and not trivially so."""
    assert expected.std() > 1e-3 * expected.abs().max()
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


# The released networks, written anew from their papers (MSINet Sec. 3.2, OSNet Sec. 3) on the released keys


def batch_norm(state: State, key: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def conv(state: State, key: str, x: Tensor, stride: int = 1, padding: int = 0, *, linear: bool = False) -> Tensor:
    x = batch_norm(state, f"{key}.bn", F.conv2d(x, state[f"{key}.conv.weight"], None, stride, padding))
    return x if linear else x.relu()


def light(state: State, key: str, x: Tensor) -> Tensor:
    x = F.conv2d(x, state[f"{key}.conv1.weight"])
    x = F.conv2d(x, state[f"{key}.conv2.weight"], padding=1, groups=x.shape[1])
    return batch_norm(state, f"{key}.bn", x).relu()


def gated(state: State, key: str, x: Tensor) -> Tensor:
    g = F.adaptive_avg_pool2d(x, 1)
    g = F.conv2d(g, state[f"{key}.fc1.weight"], state[f"{key}.fc1.bias"]).relu()
    return x * F.conv2d(g, state[f"{key}.fc2.weight"], state[f"{key}.fc2.bias"]).sigmoid()


def attended(gamma: Tensor, own: Tensor, other: Tensor) -> Tensor:
    energy = torch.einsum("bchw,bdhw->bcd", own, other)
    mask = (energy.max(2, keepdim=True).values - energy).softmax(2)
    return gamma * torch.einsum("bcd,bdhw->bchw", mask, own) + own


def interact(state: State, key: str, letter: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if letter == "E":
        return b, a
    if letter == "G":
        return gated(state, key, a), gated(state, key, b)
    if letter == "A":
        return attended(state[f"{key}.gamma"], a, b), attended(state[f"{key}.gamma"], b, a)
    return a, b


def trunk_start(state: State, x: Tensor) -> Tensor:
    return F.max_pool2d(conv(state, "conv1", x, 2, 3), 3, 2, 1)


def residual(state: State, key: str, x: Tensor) -> Tensor:
    return conv(state, f"{key}.downsample", x, linear=True) if f"{key}.downsample.conv.weight" in state else x


def msinet_features(state: State, x: Tensor) -> Tensor:
    x = trunk_start(state, x)
    letters = iter(["GG", "EG", "AG", "GN", "GA", "EA"])
    local = x
    for block in range(8):
        key = f"cells.{block}"
        if block in (2, 5):
            x = local = F.avg_pool2d(conv(state, f"{key}.0", x), 2, 2)
            continue
        first, second = next(letters)
        a, b = conv(state, f"{key}.conv1a", x), conv(state, f"{key}.conv1b", x)
        for half, letter in ((2, first), (3, second)):
            a = light(state, f"{key}.conv{half}a", a)
            for i in range(3):
                b = light(state, f"{key}.conv{half}b.{i}", b)
            a, b = interact(state, f"{key}._op{half}", letter, a, b)
        fused = conv(state, f"{key}.conv4a", a, linear=True) + conv(state, f"{key}.conv4b", b, linear=True)
        x = (fused + residual(state, key, x)).relu()
    local = F.conv2d(local, state["f_conv.weight"], state["f_conv.bias"])
    top, bottom = local.split(local.shape[2] // 2, dim=2)
    return torch.cat([part.mean((2, 3)) for part in (x, top, bottom)], 1)


def osnet_features(state: State, x: Tensor) -> Tensor:
    x = trunk_start(state, x)
    for stage in (2, 3, 4):
        for block in (0, 1):
            key = f"conv{stage}.{block}"
            start, total = conv(state, f"{key}.conv1", x), torch.zeros(())
            for depth, stream in enumerate("abcd", start=1):
                y = start
                for i in range(depth):
                    y = light(state, f"{key}.conv2{stream}" + (f".{i}" if depth > 1 else ""), y)
                total = total + gated(state, f"{key}.gate", y)
            x = (conv(state, f"{key}.conv3", total, linear=True) + residual(state, key, x)).relu()
        if stage < 4:
            x = F.avg_pool2d(conv(state, f"conv{stage}.2.0", x), 2, 2)
    x = conv(state, "conv5", x).mean((2, 3))
    return batch_norm(state, "fc.1", F.linear(x, state["fc.0.weight"], state["fc.0.bias"])).relu()


@torch.no_grad()
def test_released_msinet_gives_the_features_of_its_network(tmp_path: Path) -> None:
    state = released("msinet_official")
    torch.save({"state_dict": state}, tmp_path / "msinet.pth.tar")
    network = build_model("msinet", 10).eval()
    report = load_weights(network, tmp_path / "msinet.pth.tar")
    assert (report.layout, report.matched, report.total) == ("released MSINet", 561, 561)
    assert report.unexpected == tuple(f"pam.{name}.{kind}" for name in ("query", "key") for kind in ("weight", "bias"))
    assert (len(report.unexpected), report.missing, report.mismatched) == (4, (), ())
    images = torch.randn(2, 3, 64, 32)
    assert_close(network(images), msinet_features(state, images))
    aligned = build_model("msinet", 10, pam=True)
    assert load_weights(aligned, tmp_path / "msinet.pth.tar").matched == 565
    assert torch.equal(aligned.pam.key.weight, state["align_module.pos_pam.key_conv.weight"])  # type: ignore[union-attr]
    # what only training uses is not in the features
    own = network.state_dict()
    for ours, theirs in (
        ("head.fc.weight", "fc.weight"),
        ("head.bn.running_mean", "head.running_mean"),
        ("head.local_fc.weight", "f_fc.weight"),
        ("head.local_bn.running_var", "f_head.running_var"),
        ("head.classifier.bias", "classifier.bias"),
        ("head.local_classifier.weight", "f_classifier.weight"),
    ):
        assert torch.equal(own[ours], state[theirs])


@pytest.mark.parametrize("spoil", [lambda one: one.to("meta"), Tensor.char, lambda one: one * 1j])
def test_entries_that_are_no_plain_numbers_are_refused(tmp_path: Path, spoil: Callable[[Tensor], Tensor]) -> None:
    state = released("msinet_official")
    torch.save({**state, "fc.weight": spoil(state["fc.weight"])}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a.pth: fc.weight is not a plain tensor of real numbers"):
        load_weights(build_model("msinet", 10), tmp_path / "a.pth")


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_osnet_gives_the_features_of_its_network(tmp_path: Path, prefix: str) -> None:
    state = released("osnet_torchreid", num_classes=1000)
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "osnet.pth")
    network = build_model("osnet", 10).eval()
    report = load_weights(network, tmp_path / "osnet.pth")
    assert (report.layout, report.matched, report.total) == ("torchreid OSNet", 565, 567)
    assert report.mismatched == ("head.classifier.weight", "head.classifier.bias")
    images = torch.randn(2, 3, 64, 32)
    assert_close(network(images), osnet_features(state, images))


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_imagenet_resnet_gives_the_features_of_torchvision(tmp_path: Path, num_classes: int) -> None:
    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    network = build_model("resnet50", num_classes).eval()
    report = load_weights(network, tmp_path / "resnet50.pth")
    assert report.layout == "torchvision ResNet"
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert report.missing == tuple(key for key in network.state_dict() if key.startswith("head."))
    assert report.matched == 318

    theirs.layer4[0].conv2.stride = (1, 1)
    theirs.layer4[0].downsample[0].stride = (1, 1)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 32)
    nn.init.constant_(network.get_buffer("head.bn.running_mean"), 0.3)  # the neck's features, not the trunk's
    assert_close(network(images), theirs(images) - 0.3)


def test_files_from_before_batches_were_counted(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    network = build_model("resnet18", 5)
    report = load_weights(network, tmp_path / "old.pth")
    assert report.matched == len(old) - 2
    assert torch.equal(network.state_dict()["backbone.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


# Our own files


def small(name: str = "msinet", num_classes: int = 5, **options: object) -> nn.Module:
    return build_model(f"{name}_x0_25", num_classes, **options)


@pytest.mark.parametrize("name", ["msinet", "osnet", "cdnet", "resnet18"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    first, second = small(name).to(memory_format=torch.channels_last), small(name)
    assert not same(values(first), values(second))
    save_weights(first, tmp_path / "a.safetensors", {"model": name, "note": "ü"})
    report = load_weights(second, tmp_path / "a.safetensors")
    assert report.matched == report.total == len(first.state_dict())
    assert report.layout == "our own"
    assert same(values(first), values(second))
    assert {"model": name, "note": "ü"}.items() <= read_metadata(tmp_path / "a.safetensors").items()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_weights_and_notes_are_the_same_bytes(tmp_path: Path) -> None:
    # Runs that start from a file are named by its hash. Nine notes have a third of a million orders.
    network, notes = small(), {f"note {number}": str(number) for number in range(9)}
    for name in ("a", "b", "c"):
        save_weights(network, tmp_path / f"{name}.safetensors", notes)
    first, *others = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("a", "b", "c"))
    assert others == [first, first]
    save_weights(network, tmp_path / "d.safetensors", dict(reversed(notes.items())))
    assert (tmp_path / "d.safetensors").read_bytes() == first
    assert read_metadata(tmp_path / "d.safetensors").items() >= notes.items()
    start = 8 + int.from_bytes(first[:8], "little")
    assert start % 8 == 0  # aligned for readers that map the file


def test_the_hash_of_weights_ignores_notes_and_sees_every_value(tmp_path: Path) -> None:
    network, path = build_model("resnet18_x0_25", 3), tmp_path / "a.safetensors"
    save_weights(network, path, {"code": "a"})
    before = weights_hash(path)
    save_weights(network, path, {"code": "another version", "seed": "0"})
    assert weights_hash(path) == before
    with torch.no_grad():
        list(network.parameters())[-1].view(-1)[-1] += 1e-3
    save_weights(network, path, {"code": "a"})
    assert weights_hash(path) != before


def test_the_hash_of_weights_sees_names_and_shapes(tmp_path: Path) -> None:
    hashes = set()
    for number, (name, shape) in enumerate([("a", (6,)), ("b", (6,)), ("a", (2, 3)), ("a", (3, 2))]):
        path = tmp_path / f"{number}.safetensors"
        save_file({name: torch.arange(6.0).view(shape)}, path)
        hashes.add(weights_hash(path))
    assert len(hashes) == 4


@pytest.mark.parametrize("content", [b"", b"\x05", b"\x03" + bytes(7) + b"[1]", b"\x08" + bytes(7) + b"{" + bytes(7)])
def test_the_hash_of_a_damaged_file_is_that_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert weights_hash(path) == hashlib.sha256(content).hexdigest()[:12]


def test_another_number_of_identities_keeps_fresh_classifiers(tmp_path: Path) -> None:
    first, second = small(num_classes=5), small(num_classes=8)
    before = values(second)
    save_weights(first, tmp_path / "a.safetensors", {})
    report = load_weights(second, tmp_path / "a.safetensors")
    assert len(report.mismatched) == 4
    assert same(values(second), values(first) | {key: before[key] for key in report.mismatched})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrapped_files_of_torch(tmp_path: Path, wrapper: str | None) -> None:
    first, second = small(), small()
    state = {f"module.{key}": value for key, value in first.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pth")
    load_weights(second, tmp_path / "a.pth")
    assert same(values(first), values(second))
    assert read_metadata(tmp_path / "a.pth") == {}


def test_a_checkpoint_with_numbers_of_numpy(tmp_path: Path) -> None:
    first, second = small("osnet"), small("osnet")
    extras = {"rank1": np.float32(0.9), "mAP": np.float64(0.8), "epoch": np.int64(3)}
    torch.save({"state_dict": first.state_dict(), **extras}, tmp_path / "a.pth.tar-3")
    load_weights(second, tmp_path / "a.pth.tar-3")
    assert same(values(first), values(second))


def test_a_report_says_what_matched(tmp_path: Path) -> None:
    torch.save(released("osnet_torchreid", 1000), tmp_path / "osnet.pth")
    text = str(load_weights(build_model("osnet", 10), tmp_path / "osnet.pth"))
    assert text == (
        f"{tmp_path / 'osnet.pth'} (torchreid OSNet layout): 565 of 567 entries matched; "
        "2 of another shape, left out (head.classifier.weight, head.classifier.bias)"
    )


# Refusals: each names the file, says what is wrong, and leaves the network as it was


def refused(network: nn.Module, path: Path, message: str, *, partial: bool = False) -> str:
    before = values(network)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(network, path, partial=partial)
    assert str(path) in str(caught.value)
    assert same(values(network), before)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "layout", "name", "message"),
    [
        ("msinet_official", "released MSINet", "osnet", "a checkpoint of MSINet, not of OSNet: build MSINet"),
        ("osnet_torchreid", "torchreid OSNet", "msinet", "a checkpoint of OSNet, not of MSINet: build OSNet"),
        ("osnet_torchreid", "torchreid OSNet", "resnet18", "a checkpoint of OSNet, not of ResNet"),
    ],
)
def test_a_released_file_of_another_network(tmp_path: Path, file: str, layout: str, name: str, message: str) -> None:
    torch.save(released(file), tmp_path / "a.pth")
    refused(build_model(name, 10), tmp_path / "a.pth", rf"\({layout} layout\).*looks like {message}")


def test_our_file_of_another_network(tmp_path: Path) -> None:
    save_weights(small("cdnet"), tmp_path / "a.safetensors", {})
    refused(small("osnet"), tmp_path / "a.safetensors", "looks like a checkpoint of CDNet, not of OSNet")
    refused(
        build_model("colour_histogram", 5), tmp_path / "a.safetensors", "nothing in .* fits.*like a checkpoint of CDNet"
    )


def test_another_depth_and_another_width(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    refused(build_model("resnet18_x0_5", 5), tmp_path / "a.pth", "64x3x7x7 in the file but 32x3x7x7 here")
    refused(small("resnet50"), tmp_path / "a.pth", r"missing \(backbone\.layer1\.0\.conv3\.weight")


def test_a_genotype_of_other_operations(tmp_path: Path) -> None:
    torch.save({"state_dict": released("msinet_official")}, tmp_path / "a.pth")
    network = build_model("msinet", 10, genotype="AGEGGGGNGAEA")
    text = refused(network, tmp_path / "a.pth", "2 interactions differ")
    assert "stage1.0.interaction1 is G in the file and A here" in text
    assert "stage2.0.interaction1 is A in the file and G here" in text
    network = build_model("msinet", 10, genotype=SEARCHED[:-1] + "N")
    refused(network, tmp_path / "a.pth", "stage3.1.interaction2 is A in the file and N here")


def test_a_genotype_that_only_the_notes_tell_apart(tmp_path: Path) -> None:
    save_weights(small(genotype=SEARCHED), tmp_path / "a.safetensors", {})
    other = small(genotype=SEARCHED.replace("N", "E"))
    refused(other, tmp_path / "a.safetensors", "1 interactions differ .stage2.1.interaction2 is N in the file and E")
    load_weights(small(genotype=SEARCHED), tmp_path / "a.safetensors")


def test_a_genotype_of_another_depth(tmp_path: Path) -> None:
    save_weights(small(genotype="GA" * 9), tmp_path / "a.safetensors", {})
    refused(small(genotype="GA" * 6), tmp_path / "a.safetensors", r"unexpected \(backbone\.stage1\.2\.")


def test_partial_reports_other_interactions(tmp_path: Path) -> None:
    save_weights(small(genotype="GGEGAGGNGAEA"), tmp_path / "a.safetensors", {})
    report = load_weights(small(genotype="GGNGAGGNGANA"), tmp_path / "a.safetensors", partial=True)
    assert "2 interactions differ (stage1.1.interaction1 is E in the file and N here" in str(report)


@pytest.mark.parametrize(("of_file", "of_network"), [(True, False), (False, True)])
def test_the_alignment_module_may_be_in_one_of_both_only(of_file: bool, of_network: bool, tmp_path: Path) -> None:
    save_weights(small(pam=of_file), tmp_path / "a.safetensors", {})
    report = load_weights(small(pam=of_network), tmp_path / "a.safetensors")
    named = report.unexpected if of_file else report.missing
    assert len(named) == 4
    assert all(key.startswith("pam.") for key in named)


def test_compiled_networks_are_saved_and_loaded_like_others(tmp_path: Path) -> None:
    network = small()
    save_weights(torch.compile(network), tmp_path / "compiled.safetensors", {})  # type: ignore[arg-type]
    save_weights(network, tmp_path / "plain.safetensors", {})
    assert (tmp_path / "compiled.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    other = small()
    report = load_weights(torch.compile(other), tmp_path / "plain.safetensors")  # type: ignore[arg-type]
    assert report.matched == report.total
    assert same(values(other), values(network))


def test_partial_loads_what_fits_and_reports_the_rest(tmp_path: Path) -> None:
    first, second = small(neck="fbl"), small(neck="bn")
    before = values(second)
    save_weights(first, tmp_path / "a.safetensors", {})
    text = refused(second, tmp_path / "a.safetensors", "unexpected")
    assert "partial=True (msinet evaluate, embed, find and export: --partial)" in text
    report = load_weights(second, tmp_path / "a.safetensors", partial=True)
    assert "head.squeeze.weight" in report.unexpected
    assert report.missing == ()
    loaded = {key: value for key, value in values(first).items() if key in before}
    assert same(values(second), loaded | {key: before[key] for key in report.mismatched})
    assert "left out" in str(report)


def test_partial_does_not_accept_a_file_of_which_nothing_fits(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "a.pth")
    refused(small(), tmp_path / "a.pth", "unrecognised layout; encoder.weight.*Known layouts: our own", partial=True)


KEY = "backbone.stage1.0.fuse_a.conv.weight"  # (64, 16, 1, 1) at a quarter of the width
SPOILS: list[tuple[str, Callable[[State], object], str]] = [
    ("lacking", lambda s: {k: v for k, v in s.items() if k != KEY}, rf"1 missing \({KEY}\)"),
    ("surplus", lambda s: {**s, "backbone.more": torch.zeros(2)}, r"1 unexpected \(backbone\.more\)"),
    (
        "shape",
        lambda s: {**s, KEY: torch.zeros(64, 8, 1, 1)},
        "1 of another shape.*64x8x1x1 in the file but 64x16x1x1 here",
    ),
    ("width of a classifier", lambda s: {**s, "head.classifier.weight": torch.zeros(5, 3)}, "5x3 in the file"),
    ("nan", lambda s: {**s, KEY: s[KEY] * float("nan")}, f"{KEY} has NaN or infinite values.*earlier checkpoint"),
    ("infinite", lambda s: {**s, "head.bn.running_var": torch.full((128,), torch.inf)}, "running_var has NaN or inf"),
    ("no tensor", lambda s: {**s, KEY: 3}, f"'{KEY}' is no tensor but int"),
    ("nested", lambda s: {"best": s}, "'best' is no tensor but dict; expected a dictionary of tensors"),
    ("numbered", lambda s: {3: s[KEY]}, "entry 3 is no tensor"),
    ("empty", lambda _: {}, "holds no weights"),
    ("list", lambda s: list(s.values()), "holds no weights"),
    ("tensor", lambda s: s[KEY], "holds no weights"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in SPOILS], ids=[case[0] for case in SPOILS])
def test_a_spoilt_state(tmp_path: Path, spoil: Callable[[State], object], message: str) -> None:
    network = small()
    torch.save(spoil({key: value + 1 for key, value in network.state_dict().items()}), tmp_path / "a.pth")
    refused(network, tmp_path / "a.pth", message)


def test_nan_in_safetensors(tmp_path: Path) -> None:
    network = small()
    bad = {key: value.float().mul(float("nan")) for key, value in network.state_dict().items()}
    save_file(bad, tmp_path / "a.safetensors")
    refused(network, tmp_path / "a.safetensors", "NaN", partial=True)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    path, network = tmp_path / f"a{suffix}", small("osnet")
    refused(network, path, "does not exist")
    path.mkdir()
    refused(network, path, "is a folder")
    path.rmdir()
    path.write_bytes(b"")
    refused(network, path, r"empty \(0 bytes\)")
    state = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[:3], b"\x80\x02}q"):
        path.write_bytes(damaged)
        refused(network, path, "damaged or not a weights file: fetch or save it again")
    path.write_bytes(whole)
    load_weights(network, path)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "plain"])
def test_a_file_that_holds_code_is_not_run(tmp_path: Path, protocol: str) -> None:
    marker, path = tmp_path / "exploded", tmp_path / "a.pth"
    if protocol == "plain":
        path.write_bytes(pickle.dumps({"args": Bomb(marker)}, protocol=2))
    else:
        content = {"state_dict": small("osnet").state_dict(), "args": Bomb(marker)}
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "zip")
    text = refused(small("osnet"), path, r"more than tensors \(posix\.mkdir\)", partial=True)
    assert "save its weights alone" in text
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))  # it is a live one
    assert marker.exists()


def test_an_object_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    torch.save(small("osnet"), tmp_path / "a.pth")
    refused(small("osnet"), tmp_path / "a.pth", r"more than tensors \(msinet\.models\.heads\.ReIDNet\)")


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=re.escape("folder.safetensors: it exists and is not a regular file")):
        save_weights(small(), tmp_path / "folder.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]
