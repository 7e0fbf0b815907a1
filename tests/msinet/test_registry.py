"""Network cards: read from the source, registered once, and labels that follow from them."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import msinet.models
from msinet.errors import UserError
from msinet.models import CARDS, NetworkCard, build_model, card_of, label_of, split_name
from msinet.models.registry import NetworkWeights, all_weights, in_study, register
from msinet.models.weights import load_weights, save_weights

registry = importlib.import_module("msinet.models.registry")

TOY = """
from torch import nn

from msinet.models.registry import NetworkCard, NetworkWeights, WeightLayout, register

LAB = WeightLayout("toy lab", "lonely", (("^lonely", "backbone.only"),))
WEIGHTS = NetworkWeights("Toy", r"backbone\\.only\\.", (LAB,))

@register(NetworkCard(name="toy", label="Toy-Net", order=25, studies=("table2",)), WEIGHTS)
def toy(num_classes, *, width=1.0, depth=2):
    return nn.ModuleDict({"backbone": nn.ModuleDict({"only": nn.Linear(depth, num_classes)})})
"""


@pytest.fixture
def cards() -> Iterator[dict[str, NetworkCard]]:
    """The registry, restored afterwards."""
    registry.all_weights()  # a network file enters its builder only when it is first imported
    known, registered = dict(CARDS), dict(registry._registered)
    yield CARDS
    CARDS.clear()
    CARDS.update(known)
    registry._registered.clear()
    registry._registered.update(registered)
    sys.modules.pop("msinet.models.toy", None)


def refused(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    before = dict(CARDS)
    with pytest.raises(ValueError, match=f"{name}.py:") as caught:
        registry._read_cards(folder)
    assert before == CARDS
    return str(caught.value)


@pytest.mark.parametrize("name", list(CARDS))
def test_every_card_has_a_builder_that_takes_a_width_and_explains_itself(name: str) -> None:
    builder, _ = registry._entry(name)  # raises if the card given at import differs from the one in the source
    assert {"num_classes", "width"} <= set(inspect.signature(builder).parameters)
    assert builder.__doc__
    assert builder.__module__ == f"msinet.models.{CARDS[name].module}"


def test_cards_are_in_the_order_of_tables() -> None:
    orders = [card.order for card in CARDS.values()]
    assert orders == sorted(set(orders))
    assert [card.name for card in in_study("table2")] == ["resnet50", "osnet", "cdnet", "msinet"]
    assert len({card.label for card in CARDS.values()}) == len(CARDS)


def test_a_name_is_registered_once(cards: dict[str, NetworkCard]) -> None:
    before = dict(cards)
    for card in (CARDS["msinet"], replace(CARDS["msinet"], label="other")):
        registry._entry("msinet")
        with pytest.raises(ValueError, match="'msinet' is registered twice"):
            register(card)(lambda _num_classes: nn.Identity())
    registry._registered.pop("osnet", None)
    with pytest.raises(ValueError, match="'osnet' is registered twice"):  # another card than in the source
        register(replace(CARDS["osnet"], order=3))(lambda _num_classes: nn.Identity())
    assert before == cards


def test_a_new_file_is_a_new_network(
    cards: dict[str, NetworkCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    registry._read_cards(tmp_path)
    assert cards["toy"] == NetworkCard("toy", "Toy-Net", 25, studies=("table2",))
    assert [card.name for card in in_study("table2")] == ["resnet50", "osnet", "toy", "cdnet", "msinet"]
    assert "msinet.models.toy" not in sys.modules
    monkeypatch.setattr(msinet.models, "__path__", [*msinet.models.__path__, str(tmp_path)])
    first, second = build_model("toy", 3), build_model("toy", 3, depth=2)
    with pytest.raises(UserError, match=r"unknown option of toy 'deep'. Did you mean 'depth'"):
        build_model("toy", 3, deep=1)
    # Its own weights and those of its layout are read, and are told apart from others.
    save_weights(first, tmp_path / "a.safetensors", {})
    assert load_weights(second, tmp_path / "a.safetensors").matched == 2
    save_weights(nn.ModuleDict({"lonely": nn.Linear(2, 3)}), tmp_path / "b.safetensors", {})
    assert load_weights(second, tmp_path / "b.safetensors").layout == "toy lab"
    with pytest.raises(UserError, match=r"a checkpoint of Toy, not of OSNet: build Toy.*our own, .*torchvision ResNet"):
        load_weights(build_model("osnet_x0_25", 3), tmp_path / "a.safetensors")


def test_a_network_registered_elsewhere_is_built_by_name(cards: dict[str, NetworkCard]) -> None:
    card = NetworkCard("mine", "Mine", 5, widths=(("mini", 0.5),))
    weights = NetworkWeights("Mine", "mine")
    register(card, weights)(lambda num_classes, *, width=1.0: nn.Linear(int(8 * width), num_classes))
    assert list(cards)[:4] == ["colour_histogram", "oracle_colours", "oracle_coarse", "mine"]
    assert build_model("mine_x0_5", 3).weight.shape == (3, 4)  # type: ignore[union-attr]
    assert (card.named("mini"), card.named("full")) == ("mine_x0_5", "mine")
    assert weights in all_weights()


@pytest.mark.parametrize(
    ("card", "part"),
    [
        ('name="toy", label=LABEL, order=1', "label=LABEL"),
        ('name="toy", label="a" + str(3), order=1', "str(3)"),
        ('name="toy", label="Toy", rank=1', "rank"),
        ('name="toy", label="Toy"', "order"),
        ('"toy", "Toy", 1', "expected NetworkCard(name="),
        ("**CARD", "CARD"),
    ],
)
def test_a_card_that_is_not_literal_is_refused_with_file_and_value(tmp_path: Path, card: str, part: str) -> None:
    message = refused(tmp_path, "toy", f"@register(NetworkCard({card}))\ndef toy(num_classes): ...\n")
    assert part in message
    assert "not written out in literals" in message


def test_a_card_in_a_variable_and_a_name_that_is_taken_are_refused(tmp_path: Path) -> None:
    assert "the card CARD is not" in refused(tmp_path, "toy", "@register(CARD)\ndef toy(num_classes): ...\n")
    (tmp_path / "toy.py").unlink()
    text = '@register(NetworkCard(name="osnet", label="Toy", order=1))\ndef toy(num_classes): ...\n'
    assert "'osnet' is registered twice" in refused(tmp_path, "copy", text)


def test_names_carry_their_width() -> None:
    assert split_name("msinet") == ("msinet", 1.0)
    assert split_name("osnet_x0_25") == ("osnet", 0.25)
    assert card_of("osnet_x0_25") is CARDS["osnet"]
    assert CARDS["vit_base"].named("mini") == "vit_base_x0_25"


@pytest.mark.parametrize(
    ("name", "options", "label"),
    [
        ("msinet", "", "MSINet"),
        ("msinet_x0_25", "", "MSINet x0.25"),
        ("msinet", "pam=True", "MSINet-SAM"),
        ("msinet_x0_5", "pam=True", "MSINet-SAM x0.5"),
        ("msinet", "ratio=2", "MSINet ratio=2"),
        ("osnet_x0_25", "pam=True", "OSNet pam=True x0.25"),
    ],
)
def test_labels_say_network_options_and_width(name: str, options: str, label: str) -> None:
    assert label_of(name, options) == label


def test_listing_networks_and_data_sets_does_not_import_torch_or_the_renderer() -> None:
    code = (
        "import sys, msinet.data, msinet.data.layouts, msinet.models\n"
        "assert msinet.models.CARDS and msinet.data.layouts.cards()\n"
        "assert 'torch' not in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('msinet.synthetic')]\n"
        "msinet.models.load_weights; msinet.data.open_pixels\n"
        "assert 'torch' in sys.modules\n"
        "try:\n    msinet.models.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
