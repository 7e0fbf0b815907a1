"""Counts of parameters and multiply-adds: published figures, closed forms, the command."""

import functools
import re
import runpy
import sys

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.__main__ import main
from bench.cost import CountError, count, executed_macs, parameters_without_classifier
from msinet.models import CARDS, build_model

HEIGHT, WIDTH = 8, 4  # of the hand-made networks
PIXELS = HEIGHT * WIDTH


@functools.cache
def cost(name, height=256, width=128, num_classes=751):
    return count(build_model(name, num_classes), height, width)


class Net(nn.Module):
    """A function of the image as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


# Published figures


@pytest.mark.parametrize(
    ("name", "person", "vehicle"), [("osnet", 0.979, 1.957), ("cdnet", 0.955, 1.910), ("resnet50", 4.053, 8.107)]
)
def test_macs_are_the_published_ones(name, person, vehicle):
    assert round(cost(name).macs / 1e9, 3) == person
    with torch.device("meta"), torch.no_grad():  # torch counts from shapes alone, tracing does not
        model = build_model(name, 751).eval()
        assert round(executed_macs(model, torch.empty(1, 3, 256, 256)) / 1e9, 3) == vehicle


@pytest.mark.parametrize(("width", "published"), [(128, 1.129), (256, 2.258)])
def test_macs_of_msinet_are_the_published_ones_but_for_one_shared_energy(width, published):
    # The published count has four matrix products per cross attention. E2 is the transpose of E1, so
    # that three are enough.
    by_operator = cost("msinet", 256, width).macs_by_operator
    assert by_operator.keys() == {"conv", "matmul"}
    assert round((by_operator["conv"] + by_operator["matmul"] * 4 / 3) / 1e9, 3) == published


def test_attention_of_msinet_in_closed_form():
    # Cell 3 has 96 channels on 32x16 pixels, cells 5 and 6 have 128 on 16x8: three products each.
    assert cost("msinet").macs_by_operator["matmul"] == 3 * (96**2 * 512 + 2 * 128**2 * 128)


@pytest.mark.parametrize(
    ("name", "everything", "no_classifier", "inference"),
    [
        ("msinet", 2_328_035 + 770 * 751, 2_328_035, 1_998_819),
        ("osnet", 2_169_508 + 513 * 751, 2_169_508, 2_169_508),
        ("cdnet", 1_796_600 + 396_288 + 1026 * 751, 1_796_600 + 396_288, 1_796_600),
        ("resnet50", 23_512_128 + 2048 * 751, 23_512_128, 23_512_128),
        ("pcb", 24_032_832 + 6 * 257 * 751, 24_032_832, 23_508_032),
        ("pcb_rpp", 24_034_374 + 6 * 257 * 751, 24_034_374, 23_508_032 + 1_542),
        ("mgn", 68_807_744 + 8 * 257 * 751, 68_807_744, 68_807_744),
        ("colour_histogram", 0, 0, 0),
    ],
)
def test_parameters_three_ways(name, everything, no_classifier, inference):
    found = cost(name, CARDS[name].height(256))
    assert found.parameters == everything
    assert found.parameters_without_classifier == no_classifier
    assert found.parameters_at_inference == inference


def test_the_colour_histogram_multiplies_no_matrices():
    assert cost("colour_histogram").macs == 0
    assert cost("colour_histogram").macs_by_operator == {}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_registered_network_is_counted_in_full(name):
    found = cost(name, CARDS[name].height(256))
    assert found.uncounted == ()
    assert sum(found.macs_by_operator.values()) == found.macs
    assert found.parameters_at_inference <= found.parameters_without_classifier <= found.parameters


@pytest.mark.parametrize("name", sorted(CARDS))
def test_only_classifiers_depend_on_the_number_of_identities(name):
    with torch.device("meta"):
        few, many = build_model(name, 2), build_model(name, 1000)
    assert parameters_without_classifier(few) == parameters_without_classifier(many)


def test_macs_depend_neither_on_identities_nor_on_the_batch():
    assert cost("msinet_x0_25", 64, 32, 2).macs == cost("msinet_x0_25", 64, 32, 1000).macs
    model = build_model("msinet_x0_25", 2).eval()
    with torch.no_grad():
        assert executed_macs(model, torch.zeros(3, 3, 64, 32)) == 3 * cost("msinet_x0_25", 64, 32, 2).macs


# Closed forms


def tokens(images):  # (1, 3, H, W) -> (1, H*W, 3)
    return images.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("network", "operator", "macs"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), "conv", 8 * 3 * 9 * PIXELS // 4),
        (nn.Conv2d(3, 8, 1, bias=False), "conv", 8 * 3 * PIXELS),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), "conv", 6 * 9 * PIXELS),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), "conv", 3 * 5 * 4 * PIXELS),
        (nn.Linear(WIDTH, 7), "linear", 3 * PIXELS * 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * PIXELS, 7)), "linear", 3 * PIXELS * 7),
        (Net(lambda x: x.flatten(2) @ tokens(x)), "matmul", 3 * 3 * PIXELS),
        (Net(lambda x: torch.bmm(tokens(x), x.flatten(2))), "bmm", 3 * PIXELS**2),
        (Net(lambda x: torch.mm(tokens(x)[0], x.flatten(2)[0])), "mm", 3 * PIXELS**2),
        (Net(lambda x: torch.addmm(x.new_zeros(1), tokens(x)[0], x.flatten(2)[0])), "addmm", 3 * PIXELS**2),
        (Net(lambda x: torch.baddbmm(x.new_zeros(1, 1, 1), tokens(x), x.flatten(2))), "baddbmm", 3 * PIXELS**2),
        (Net(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)), "einsum", 3 * 3 * PIXELS),
        (
            Net(lambda x: F.scaled_dot_product_attention(tokens(x)[:, :5], tokens(x), tokens(x)[..., :2])),
            "scaled_dot_product_attention",
            5 * PIXELS * 3 + 5 * PIXELS * 2,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_closed_forms(network, operator, macs):
    found = count(network, HEIGHT, WIDTH)
    assert found.macs_by_operator == {operator: macs}
    assert found.macs == macs
    assert found.uncounted == ()


def test_attention_by_heads():
    heads = Net(lambda x: F.scaled_dot_product_attention(*[tokens(x).unsqueeze(1).expand(-1, 6, -1, -1)] * 3))
    assert count(heads, HEIGHT, WIDTH).macs == 6 * 2 * 3 * PIXELS**2


def test_norms_activations_and_pools_are_free():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Sigmoid(), nn.MaxPool2d(2), nn.AvgPool2d(2))
    found = count(network, HEIGHT, WIDTH)
    assert (found.macs, found.uncounted) == (0, ())


# What cannot be counted


def test_an_operator_without_a_rule_is_reported():
    assert count(Net(lambda x: x.sin().cumprod(1)), HEIGHT, WIDTH).uncounted == ("aten::cumprod", "aten::sin")


def test_work_that_is_thrown_away_is_a_mismatch():
    class Wasteful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.wasted = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

        def forward(self, images):
            feature = self.used(images)
            self.wasted(feature)
            return feature.mean((2, 3))

    with pytest.raises(CountError, match=f"{12 * PIXELS} MACs .* torch {32 * PIXELS:,} for Wasteful at 8x4"):
        count(Wasteful(), HEIGHT, WIDTH)


def test_a_product_without_a_rule_is_a_mismatch_that_names_it():
    with pytest.raises(CountError, match="without a rule: aten::_convolution_mode"):
        count(nn.Conv2d(3, 4, 3, padding="same"), HEIGHT, WIDTH)


# Parameters at inference


def test_a_parameter_that_has_no_effect_yet_is_in_use():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    nn.init.zeros_(network[1].weight)
    network.requires_grad_(False)
    assert count(network, HEIGHT, WIDTH).parameters_at_inference == 6 + 16


def test_a_shared_parameter_counts_once():
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False))
    network[1].weight = network[0].weight
    found = count(network, HEIGHT, WIDTH)
    assert found.parameters == found.parameters_at_inference == WIDTH**2
    assert found.macs == 2 * 3 * PIXELS * WIDTH


# The model is left as it was


def test_counting_leaves_no_trace():
    model = build_model("msinet_x0_25", 4).train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    random_state = torch.get_rng_state()

    count(model, 32, 16)

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert sum(parameter.grad is not None for parameter in model.parameters()) == 1
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_modes_come_back_after_an_error():
    model = nn.Conv2d(3, 4, 3, padding="same").train()
    with pytest.raises(CountError):
        count(model, HEIGHT, WIDTH)
    assert model.training


def test_type_of_the_parameters_is_respected():
    assert count(nn.Conv2d(3, 4, 1).double(), HEIGHT, WIDTH).macs == 12 * PIXELS


# Command line

SMALL = ["--height", "64", "--width", "32", "--num-classes", "2"]


def test_cost_prints_a_table_and_writes_exact_counts(tmp_path, capsys):
    path = tmp_path / "cost.csv"
    assert main(["cost", "--models", "msinet_x0_25", "colour_histogram", *SMALL, "--csv", str(path)]) == 0
    expected, reference = cost("msinet_x0_25", 64, 32, 2), cost("resnet50", 64, 32, 2)
    printed = capsys.readouterr().out
    assert "64x32" in printed
    parameters = f"{expected.parameters} +{expected.parameters_without_classifier} +139130"
    assert re.search(f"^msinet_x0_25 +{parameters} ", printed, re.MULTILINE)
    assert not re.search("^resnet50", printed, re.MULTILINE)  # the reference, but nobody asked for its row

    table = pd.read_csv(path).set_index("model")
    assert list(table.index) == ["msinet_x0_25", "colour_histogram"]
    row = table.loc["msinet_x0_25"]
    assert row["parameters_at_inference"] == 139_130
    assert row["macs"] == row["macs_conv"] + row["macs_matmul"] == expected.macs
    assert row["macs_to_resnet50"] == pytest.approx(expected.macs / reference.macs, rel=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "msinte"], "unknown network 'msinte'. Did you mean 'msinet'?"),
        (["--models", "osnet_x0_3"], "multiples of four"),
        (["--height", "8"], "images of 8x128 are too small"),
        (["--num-classes", "0"], "at least one training identity"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments, message, capsys):
    assert main(["cost", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_table_that_cannot_be_written_is_an_error(tmp_path, capsys):
    assert main(["cost", "--models", "colour_histogram", *SMALL, "--csv", str(tmp_path)]) == 2
    assert f"cannot write {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["cost", "--help"], 0), ([], 2)])
def test_the_module_runs_and_lists_its_commands(arguments, status, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # or the module would restart the process that runs the tests
    monkeypatch.delitem(sys.modules, "bench.__main__")  # runpy warns of a module that is imported already
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("bench", run_name="__main__")
    assert stopped.value.code == status
    captured = capsys.readouterr()
    assert "cost" in captured.out + captured.err
