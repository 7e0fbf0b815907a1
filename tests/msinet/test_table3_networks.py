"""RGA-SC, IANet, SFT and BAT-Net: counts, released layouts, forward passes written anew, refusals."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from msinet import distributed
from msinet.cli import run_command
from msinet.errors import UserError
from msinet.losses import identity_loss
from msinet.models import Output, build_model, load_weights, save_weights
from msinet.models.batnet import BLOCKS, stripes
from msinet.models.deployment import deploy
from msinet.models.ianet import location_affinity
from msinet.models.sft import spectral_transform
from msinet.training.recipe import Recipe, canonical, with_settings
from msinet.unsupervised.norms import split_norms

State = dict[str, Tensor]
IMAGE = (64, 32)
NAMES = ("rga_sc", "ianet", "sft", "batnet")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def count(network: nn.Module, part: str = "") -> int:
    found = ((name, p) for name, p in network.named_parameters() if name.startswith(part))
    return sum(p.numel() for name, p in found if "classifier" not in name)


def small(name: str, **options: object) -> nn.Module:
    return build_model(f"{name}_x0_25", 7, image=IMAGE, **options)


def stirred(network: nn.Module) -> nn.Module:
    """The network with batch norms that are not at their initial values."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4 of the largest entry, and not trivially so."""
    assert expected.std() > 1e-3 * expected.abs().max()
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


# Parameter counts


@pytest.mark.parametrize(
    ("name", "parts", "total"),
    [
        (
            "rga_sc",
            {
                "backbone.layer1.attention.": 2_673_172,
                "backbone.layer2.attention.": 329_796,
                "backbone.layer3.attention.": 668_908,
                "backbone.layer4.attention.": 2_642_220,
                "head.": 4_096,
            },
            29_826_224,
        ),
        ("ianet", {"backbone.layer2.attention.": 4 * 512, "backbone.layer3.attention.": 4 * 1024}, 23_518_272),
        ("sft", {"backbone.": 23_508_032, "head.": 2048 * 512 + 3 * 512}, 24_558_144),
    ],
)
def test_parameters(name: str, parts: dict[str, int], total: int) -> None:
    with torch.device("meta"):
        network = build_model(name, 751)
    assert {part: count(network, part) for part in parts} == parts
    assert count(network) == total


def test_parameters_of_batnet_follow_from_its_table() -> None:
    def conv(inputs: int, outputs: int, kernel: int = 1) -> int:
        return inputs * outputs * kernel**2 + 3 * outputs  # bias, and scale and bias of the batch norm

    def block(inputs: int, number: int) -> tuple[int, int]:
        total = 0
        for a, b, c, d, e, f in BLOCKS[number]:
            total += conv(inputs, a) + conv(inputs, b) + conv(b, c, 3) + conv(inputs, d) + conv(d, e, 5)
            total += conv(inputs, f)
            inputs = a + c + e + f
        return total, inputs

    stem = conv(3, 64, 7) + conv(64, 64) + conv(64, 192, 3)
    (first, width1), (second, width2), (third, width3) = block(192, 0), block(480, 1), block(832, 2)
    assert (width1, width2, width3) == (480, 832, 1024)
    attention = conv(480, 30) + 2 * conv(30 * 31 // 2, 480)
    heads = (5 * 1024 + 2) * 512 + 4 * 512  # of 1024 and of 4 x 1024 channels
    with torch.device("meta"):
        found = count(build_model("batnet", 751))
    assert found == stem + first + 5 * (second + third) + attention + 2 * 5 * 1024 + heads == 30_619_326


# Forward passes, written anew on the released names


def batch_norm(state: State, key: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


class Values:
    """A state that makes its random entries when a forward pass first asks for them."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, key: str, inputs: int, outputs: int, kernel: int = 1, *, bias: bool = False) -> None:
        shape = (outputs, inputs, kernel, kernel)
        self.state[f"{key}.weight"] = torch.randn(shape) * (2 / math.prod(shape[1:])) ** 0.5
        if bias:
            self.state[f"{key}.bias"] = torch.randn(outputs) * 0.1

    def linear(self, key: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self.state[f"{key}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        if bias:
            self.state[f"{key}.bias"] = torch.randn(outputs) * 0.1

    def norm(self, key: str, channels: int) -> None:
        self.state[f"{key}.weight"] = torch.rand(channels) + 0.5
        self.state[f"{key}.running_var"] = torch.rand(channels) + 0.5
        self.state[f"{key}.bias"] = torch.randn(channels) * 0.3
        self.state[f"{key}.running_mean"] = torch.randn(channels) * 0.3
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    """torchvision's ResNet50 with a last stride of 1."""
    torch.manual_seed(1)
    network = stirred(torchvision.models.resnet50(weights=None))
    network.layer4[0].conv2.stride = network.layer4[0].downsample[0].stride = (1, 1)
    return network


def stem(trunk: nn.Module, x: Tensor) -> Tensor:
    return trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))


def trunk_state(trunk: nn.Module, prefix: str = "") -> State:
    return {f"{prefix}{key}": value for key, value in trunk.state_dict().items() if not key.startswith("fc.")}


def rga(values: Values, key: str, x: Tensor) -> Tensor:
    """The module of RGA-SC, image by image and node by node, and its random weights."""
    channels, places = x.shape[1], x.shape[2] * x.shape[3]
    for kind, features, nodes in (("spatial", channels, places), ("channel", places, channels)):
        for name in ("theta", "phi", "gx"):
            values.conv(f"{key}.{name}_{kind}.0", features, max(1, features // 8))
            values.norm(f"{key}.{name}_{kind}.1", max(1, features // 8))
        embedded, joint = max(1, nodes // 8), 1 + max(1, nodes // 8)
        values.conv(f"{key}.gg_{kind}.0", 2 * nodes, embedded)
        values.norm(f"{key}.gg_{kind}.1", embedded)
        values.conv(f"{key}.W_{kind}.0", joint, max(1, joint // 8))
        values.norm(f"{key}.W_{kind}.1", max(1, joint // 8))
        values.conv(f"{key}.W_{kind}.3", max(1, joint // 8), 1)
        values.norm(f"{key}.W_{kind}.4", 1)
    state = values.state

    def weights(kind: str, nodes: Tensor) -> Tensor:  # (n, F) -> (n,)
        def embed(name: str, rows: Tensor) -> Tensor:
            linear = rows @ state[f"{key}.{name}_{kind}.0.weight"][:, :, 0, 0].T
            return batch_norm(state, f"{key}.{name}_{kind}.1", linear).relu()

        theta, phi, own = embed("theta", nodes), embed("phi", nodes), embed("gx", nodes).mean(1, keepdim=True)
        relation = torch.stack([torch.stack([a @ b for b in phi]) for a in theta]) if len(nodes) < 9 else theta @ phi.T
        stacked = torch.stack([torch.cat([relation[i], relation[:, i]]) for i in range(len(nodes))])  # (n, 2n)
        joint = torch.cat([own, embed("gg", stacked)], 1)
        hidden = joint @ state[f"{key}.W_{kind}.0.weight"][:, :, 0, 0].T
        hidden = batch_norm(state, f"{key}.W_{kind}.1", hidden).relu()
        out = hidden @ state[f"{key}.W_{kind}.3.weight"][:, :, 0, 0].T
        return batch_norm(state, f"{key}.W_{kind}.4", out)[:, 0].sigmoid()

    results = []
    for image in x.flatten(2):  # (C, N)
        image = image * weights("spatial", image.T)
        results.append(image * weights("channel", image)[:, None])
    return torch.stack(results).view_as(x)


@torch.inference_mode()
def test_rga_sc_gives_the_features_of_its_released_names(trunk: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 3, *IMAGE)
    values = Values(trunk_state(trunk, "backbone."))
    x = stem(trunk, images)
    for number in range(1, 5):
        x = rga(values, f"backbone.rga_att{number}", getattr(trunk, f"layer{number}")(x))
    values.norm("feat_bn", 2048)
    values.linear("cls", 2048, 9, bias=False)
    torch.save({"state_dict": values.state, "epoch": 600}, tmp_path / "a.pth.tar")
    network = build_model("rga_sc", 5, image=IMAGE).eval()
    report = load_weights(network, tmp_path / "a.pth.tar")
    assert (report.layout, report.unexpected, report.missing) == ("released RGA-SC", (), ())
    assert report.mismatched == ("head.classifier.weight",)
    assert_close(network(images), batch_norm(values.state, "feat_bn", x.mean((2, 3))))


def ia(values: Values, key: str, x: Tensor, spread_x: float, spread_y: float) -> Tensor:
    """The module of IANet, image by image; the location's affinity place by place."""
    for name in ("W1", "W2"):
        values.norm(f"{key}.{name}", x.shape[1])
    x = x + batch_norm(values.state, f"{key}.W1", torch.stack([spatial(image, spread_x, spread_y) for image in x]))
    channel = torch.stack([((one := image.flatten(1)) @ one.T).softmax(1) @ one for image in x]).view_as(x)
    return x + batch_norm(values.state, f"{key}.W2", channel)


def gaussian(height: int, width: int, spread_x: float, spread_y: float) -> Tensor:
    """Affinity of all places, row by row of the map."""
    places = [(row, column) for row in range(height) for column in range(width)]
    exponents = [
        [-((c - d) ** 2) / (2 * spread_x**2) - (r - s) ** 2 / (2 * spread_y**2) for s, d in places] for r, c in places
    ]
    return torch.tensor(exponents).softmax(1)


def spatial(image: Tensor, spread_x: float, spread_y: float) -> Tensor:
    flat = image.flatten(1)  # (C, N)
    alike = (flat.T @ flat / math.sqrt(len(flat))).softmax(1)
    weights = (alike * gaussian(*image.shape[1:], spread_x, spread_y)).softmax(1)
    return (weights @ flat.T).T.reshape(image.shape)


def test_the_location_affinity_has_the_published_deviations() -> None:
    torch.testing.assert_close(location_affinity(16, 8, torch.zeros(())), gaussian(16, 8, 5, 10))
    some = location_affinity(32, 16, torch.zeros(()))[[0, 100, 511]]
    torch.testing.assert_close(some, gaussian(32, 16, 10, 20)[[0, 100, 511]])


@torch.inference_mode()
def test_ianet_gives_the_features_of_its_released_names(trunk: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 3, *IMAGE)
    values = Values(trunk_state(trunk))
    x = trunk.layer2(trunk.layer1(stem(trunk, images)))
    x = trunk.layer3(ia(values, "layer2.4", x, 2.5, 5))  # a quarter of the size, a quarter of the deviations
    x = trunk.layer4(ia(values, "layer3.6", x, 1.25, 2.5))
    values.norm("bn", 2048)
    values.linear("classifier", 2048, 5)
    torch.save({"state_dict": values.state}, tmp_path / "a.pth.tar")
    network = build_model("ianet", 5).eval()
    report = load_weights(network, tmp_path / "a.pth.tar")
    assert (report.layout, report.matched) == ("released IANet", report.total)
    assert_close(network(images), batch_norm(values.state, "bn", x.mean((2, 3))))


def bat_conv(values: Values, key: str, x: Tensor, outputs: int, kernel: int = 1, stride: int = 1) -> Tensor:
    """Convolution, batch norm and ReLU; the weights are made if they are not there."""
    names = (f"{key}.conv", f"{key}.bn") if "dimReduce" in key else (f"{key}.0", f"{key}.1")
    values.conv(names[0], x.shape[1], outputs, kernel, bias=True)
    values.norm(names[1], outputs)
    weight, bias = values.state[f"{names[0]}.weight"], values.state[f"{names[0]}.bias"]
    return batch_norm(values.state, names[1], F.conv2d(x, weight, bias, stride, kernel // 2)).relu()


def bat_block(values: Values, key: str, number: int, x: Tensor) -> Tensor:
    for letter, (a, b, c, d, e, f) in zip("abcde", BLOCKS[number]):  # noqa: B905
        one = f"{key}.inception_{number + 3}{letter}"
        three = bat_conv(values, f"{one}.conv3_3", bat_conv(values, f"{one}.conv3_1", x, b), c, 3)
        five = bat_conv(values, f"{one}.conv5_5", bat_conv(values, f"{one}.conv5_1", x, d), e, 5)
        pooled = bat_conv(values, f"{one}.conv_max_1", F.max_pool2d(x, 3, 1, 1), f)
        x = torch.cat([bat_conv(values, f"{one}.conv1", x, a), three, five, pooled], 1)
    if number == 2:
        return x
    return F.max_pool2d(x, 3, 2, ceil_mode=True) if number == 0 else F.max_pool2d(x, 3, 2, 1)


def bat_attention(values: Values, key: str, x: Tensor) -> Tensor:
    y = bat_conv(values, f"{key}.dimReduceLayer1.conv", x, x.shape[1] // 16)
    outer = torch.einsum("bihw,bjhw->bijhw", y, y)
    pairs = torch.cat([torch.diagonal(outer, -i, 1, 2).movedim(3, 1) for i in range(y.shape[1])], 1)
    whole = bat_conv(values, f"{key}.dimReduceLayer3.conv", F.adaptive_avg_pool2d(pairs, 1), x.shape[1])
    return (whole * bat_conv(values, f"{key}.dimReduceLayer2.conv", pairs, x.shape[1])).sigmoid() * x


def sampled(x: Tensor, count: int) -> list[Tensor]:
    """The stripes by affine sampling of a quarter of the height, as a spatial transformer does it."""
    parts = []
    for shift in torch.linspace(-1, 1, 2 * count + 1)[1::2]:
        theta = torch.tensor([[1.0, 0, 0], [0, 1 / count, shift]]).expand(len(x), 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=True)
        parts.append(F.grid_sample(x, grid, align_corners=True))
    return parts


@pytest.mark.parametrize(("height", "count"), [(16, 4), (7, 4), (4, 2), (2, 3)])
def test_stripes_are_sampled_quarters(height: int, count: int) -> None:
    x = torch.randn(2, 3, height, 5)
    for found, expected in zip(stripes(x, count), sampled(x, count), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_map_of_one_row_is_every_stripe() -> None:
    x = torch.randn(2, 3, 1, 5)
    assert all(torch.equal(part, x) for part in stripes(x, 4))


@torch.inference_mode()
@pytest.mark.parametrize("attentions", [1, 3])
def test_batnet_gives_the_features_of_its_released_names(attentions: int, tmp_path: Path) -> None:
    images, values = torch.randn(2, 3, *IMAGE), Values({})
    x = F.max_pool2d(bat_conv(values, "features.conv.conv1", images, 64, 7, 2), 3, 2, 1)
    x = bat_conv(values, "features.conv.conv3", bat_conv(values, "features.conv.conv2", x, 64), 192, 3)
    x = bat_block(values, "features.inception1", 0, F.max_pool2d(x, 3, 2, 1))
    first = "features.bilinearatt_global" + ("1" if attentions == 3 else "")
    x = bat_attention(values, first, x)
    local = [
        bat_block(
            values, f"features.inception3_local.{i}", 2, bat_block(values, f"features.inception2_local.{i}", 1, part)
        )
        for i, part in enumerate(sampled(x, 4))
    ]
    for number in (1, 2):
        x = bat_block(values, f"features.inception{number + 1}", number, x)
        x = bat_attention(values, f"features.bilinearatt_global{number + 1}", x) if attentions == 3 else x
    features = []
    for name, norm, one in (("global", "norm1_1", x), ("local", "norm1_2", torch.cat(local, 1))):
        values.norm(f"features.{norm}", one.shape[1])
        normed = batch_norm(values.state, f"features.{norm}", one)
        pooled = (normed.relu() if name == "global" else normed).mean((2, 3))
        values.linear(f"fc_{name}.1", one.shape[1], 512)
        values.norm(f"fc_{name}.2", 512)
        values.linear(f"classifier_{name}.1", 512, 5)
        feature = F.linear(pooled, values.state[f"fc_{name}.1.weight"], values.state[f"fc_{name}.1.bias"])
        feature = batch_norm(values.state, f"fc_{name}.2", feature).relu()
        features.append(feature / feature.norm(dim=1, keepdim=True))
    values.linear("features.part_predictor1.fc", 480, 8)  # in released files, but without effect
    torch.save({"state_dict": values.state}, tmp_path / "a.pth.tar")
    network = build_model("batnet", 5, attentions=attentions).eval()
    report = load_weights(network, tmp_path / "a.pth.tar")
    assert (report.layout, report.matched) == ("released BAT-Net", report.total)
    assert_close(network(images), torch.cat(features, 1))


def test_the_spectral_transform_is_the_loop_over_rows() -> None:
    rows = torch.randn(6, 5, dtype=torch.float64)
    found = spectral_transform(rows, 0.1)
    for i in range(6):
        cosines = [float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())) for j in range(6)]
        weights = [math.exp(cosine / 0.1) for cosine in cosines]
        expected = sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)
        torch.testing.assert_close(found[i], expected)
    torch.testing.assert_close(spectral_transform(3 * rows, 0.1), 3 * found)
    torch.testing.assert_close(spectral_transform(rows, 1e-3), rows)  # each row is most similar to itself


@torch.no_grad()
def test_sft_classifies_features_and_their_transform_alike() -> None:
    network = small("sft", scale=9.0, temperature=0.5).double()
    images = torch.randn(6, 3, *IMAGE, dtype=torch.double)
    output = network(images)
    assert isinstance(output, Output)
    head, v = network.get_submodule("head"), output.feature_map.mean((2, 3))
    both = torch.cat([v, spectral_transform(v, 0.5)]) @ head.fc.weight.T
    normed = (both - both.mean(0)) / (both.var(0, correction=0) + head.bn.eps).sqrt()
    active = torch.where(normed > 0, normed, 0.25 * normed)
    for row, logits in zip(active, torch.cat(output.logits), strict=True):
        cosines = [float(row @ w / (row.norm() * w.norm())) for w in head.classifier.weight]
        torch.testing.assert_close(logits, 9 * torch.tensor(cosines, dtype=torch.double))
    assert torch.equal(output.embeddings[0], v)
    assert network.eval()(images).shape == (6, 512)


def test_sft_needs_the_whole_batch_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 2)
    network = small("sft")
    with pytest.raises(UserError, match="whole batch: train it in one process"):
        network(torch.randn(4, 3, *IMAGE))
    assert network.eval()(torch.randn(4, 3, *IMAGE)).shape == (4, 512)


# AM-softmax


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_identity_loss_with_a_margin_is_am_softmax(smoothing: float) -> None:
    cosines, labels = torch.rand(4, 6, dtype=torch.double) * 2 - 1, torch.tensor([0, 5, 2, 2])
    expected = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        scores = [15 * (cosine - 0.3 * (i == label)) for i, cosine in enumerate(row)]
        total = math.log(sum(math.exp(score) for score in scores))
        target = [smoothing / 6 + (1 - smoothing) * (i == label) for i in range(6)]
        expected += sum(t * (total - score) for t, score in zip(target, scores, strict=True)) / 4
    assert float(identity_loss(15 * cosines, labels, smoothing, 15 * 0.3)) == pytest.approx(expected, rel=1e-12)


def test_runs_that_do_not_use_the_new_settings_keep_their_names() -> None:
    assert {"identity_margin", "decay"}.isdisjoint(canonical(Recipe()))
    assert canonical(with_settings(Recipe(), {"decay": 0.5}))["decay"] == 0.5
    assert canonical(with_settings(Recipe(), {"identity_margin": 4.5}))["identity_margin"] == 4.5
    with pytest.raises(UserError, match="identity_margin must be at least 0"):
        with_settings(Recipe(), {"identity_margin": -1.0})


def test_rga_sc_s_schedule_halves_the_learning_rate_eight_times() -> None:
    steps = {"milestones": tuple(range(80, 361, 40)), "decay": 0.5, "epochs": 600, "warmup": 20}
    schedule = with_settings(Recipe(), steps).schedule
    rates = {epoch: schedule.learning_rate(8e-4, epoch) for epoch in (0, 20, 79, 80, 199, 359, 360, 599)}
    expected = {0: 8e-6, 20: 8e-4, 79: 8e-4, 80: 4e-4, 199: 1e-4, 359: 8e-4 / 2**7, 360: 8e-4 / 2**8, 599: 8e-4 / 2**8}
    assert rates == pytest.approx(expected, rel=1e-12)


# Attention on other backbones


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name: str) -> None:
    network = small(name)
    output = network(torch.randn(4, 3, *IMAGE))
    (sum(logits.square().sum() for logits in output.logits) + output.embeddings[0].sum()).backward()
    assert not [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("backbone", ["msinet", "osnet", "resnet18"])
@pytest.mark.parametrize("name", ["rga_sc", "ianet", "sft"])
def test_other_backbones(name: str, backbone: str) -> None:
    network = small(name, backbone=backbone)
    attached = sorted(key for key in network.state_dict() if ".attention." in key)
    assert bool(attached) == (name != "sft")
    output = network(torch.randn(3, 3, *IMAGE))
    assert output.feature_map.shape[2:] == (4, 2)
    assert network.eval()(torch.randn(3, 3, *IMAGE)).shape == (3, 128)


def test_rga_on_msinet_with_its_own_neck_has_msinet_s_features() -> None:
    assert small("rga_sc", backbone="msinet", neck="fbl").eval()(torch.randn(2, 3, *IMAGE)).shape == (2, 192)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_a_traced_ianet_can_move_to_another_device() -> None:
    network = build_model("ianet_x0_25", 3).eval()
    graph = str(torch.jit.trace(network, torch.randn(1, 3, 64, 32)).inlined_graph)
    assert 'value="cpu"' not in graph


def test_ianet_starts_as_the_plain_network() -> None:
    network, plain = small("ianet"), small("resnet50", neck="bn")
    plain.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(3, 3, *IMAGE)
    maps = [one.eval().get_submodule("backbone")(images) for one in (network, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))


# Weights


@pytest.mark.parametrize("name", ["rga_sc", "ianet", "sft"])
def test_training_starts_from_torchvision_s_weights(name: str, trunk: nn.Module, tmp_path: Path) -> None:
    torch.save(trunk.state_dict(), tmp_path / "resnet50.pth")
    network = build_model(name, 5, image=IMAGE)
    report = load_weights(network, tmp_path / "resnet50.pth")
    assert report.layout == "torchvision ResNet"
    assert report.matched == len(trunk_state(trunk))
    assert all(".attention." in key or key.startswith("head.") for key in report.missing)


@pytest.mark.parametrize("name", NAMES)
def test_our_files_are_read_again(name: str, tmp_path: Path) -> None:
    first, second = small(name), small(name)
    save_weights(first, tmp_path / "a.safetensors", {})
    report = load_weights(second, tmp_path / "a.safetensors")
    assert (report.layout, report.matched) == ("our own", report.total)


def test_attention_of_another_image_size_is_replaced_after_pretraining_alone(tmp_path: Path) -> None:
    square = build_model("rga_sc_x0_25", 7, image=(32, 32))
    notes = {"height": "32", "width": "32"}
    save_weights(square, tmp_path / "trained.safetensors", notes)
    save_weights(square, tmp_path / "start.safetensors", {**notes, "pretrained_on": "pretext"})
    network = small("rga_sc")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=r"weights are for images of 32x32, but the network was built for 64x32"):
        load_weights(network, tmp_path / "trained.safetensors")
    report = load_weights(network, tmp_path / "start.safetensors")
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if ".attention." in key else square.state_dict()[key]), key
    assert report.size_dependent == tuple(key for key in before if ".attention." in key)
    assert report.matched == report.total - len(report.size_dependent)
    assert not report.missing
    assert f"{len(report.size_dependent)} for another image size, left out" in str(report)


def test_weights_of_one_are_not_taken_for_another_s(tmp_path: Path) -> None:
    save_weights(small("rga_sc"), tmp_path / "a.safetensors", {})
    with pytest.raises(UserError, match="looks like a checkpoint of RGA-SC, not of IANet"):
        load_weights(small("ianet"), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="looks like a checkpoint of RGA-SC, not of ResNet"):
        load_weights(small("resnet50"), tmp_path / "a.safetensors")


# Methods without labels


@torch.no_grad()
@pytest.mark.parametrize("name", ["rga_sc", "ianet"])
def test_batch_norms_of_each_domain_are_those_of_the_network(name: str) -> None:
    network = stirred(small(name, neck="bn")).eval()
    images, before = torch.randn(4, 3, *IMAGE), None
    before = network.embed(images).feature
    split_norms(network, 2)
    torch.testing.assert_close(network.embed(images).feature, before)


# Deployment


@pytest.mark.parametrize("name", NAMES)
def test_the_deployed_form_has_the_same_features(name: str) -> None:
    network = stirred(small(name)).double()
    shipped = deploy(network)
    images = torch.randn(2, 3, *IMAGE, dtype=torch.double)
    with torch.inference_mode():
        torch.testing.assert_close(shipped(images), network(images), rtol=1e-9, atol=1e-9)
    assert not any("classifier" in key for key in shipped.state_dict())
    assert sum(p.numel() for p in shipped.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    meta = {"model": f"{name}_x0_25", "num_classes": "7", "height": str(IMAGE[0]), "width": str(IMAGE[1])}
    save_weights(stirred(small(name)), tmp_path / "a.safetensors", meta)
    assert run_command(["export", "--weights", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "a.onnx")]) == 0
    assert "features equal torch's" in capsys.readouterr().out


# Refusals


@pytest.mark.parametrize("size", [(128, 64), (32, 64), (65, 32)])
def test_rga_sc_names_the_size_that_it_was_built_for(size: tuple[int, int]) -> None:
    network = small("rga_sc").eval()
    assert network(torch.zeros(1, 3, *IMAGE)).shape == (1, 512)
    with pytest.raises(UserError, match=rf"built for images of 64x32, not {size[0]}x{size[1]}"):
        network(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rga_sc", {"backbone": "deit_small"}, "backbone 'deit_small' has no plain stages of feature maps"),
        ("ianet", {"backbone": "vit_base"}, "backbone 'vit_base' has no plain stages"),
        *(
            (name, {"backbone": other}, f"backbone '{other}' has no plain stages of feature maps; use a ResNet")
            for name in ("rga_sc", "ianet", "sft")
            for other in ("rga_sc", "ianet", "mgn", "batnet")
        ),
        ("sft", {"backbone": "resnet51"}, "unknown network 'resnet51.*Did you mean 'resnet50'"),
        ("sft", {"temperature": "low"}, "option temperature of sft must be a number, got 'low'"),
        ("sft", {"temperature": 0.0}, "temperature and a scale above 0, got 0 and 15"),
        ("batnet", {"parts": 0}, "at least one part, got 0"),
        ("batnet", {"attentions": 2}, "1 or 3 bilinear attentions, got 2"),
    ],
)
def test_refusals(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(name, **options)
