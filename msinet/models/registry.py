"""Networks by name. `msinet_x0_25` is `msinet` at a quarter of its width, and its label says so.

A network is one file of this folder: its code, and a `NetworkCard` given to `@register`. Tables, figures, benchmarks
and commands learn of it from its card. Cards are read from the source, so that listing networks does not import torch.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msinet.errors import UserError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class NetworkCard:
    """What the suite knows of a network besides its code. All values are literals."""

    name: str
    """as commands spell it"""
    label: str
    """as the paper writes it"""
    order: int
    """place in tables, benchmarks and legends; small numbers come first"""
    colour: str = ""
    """in figures; empty: the next free one"""
    marker: str = ""
    """in figures; empty: the next free one"""
    studies: tuple[str, ...] = ()
    """tables that compare it by default: table2, table3, table6, calibration"""
    variants: tuple[tuple[str, str], ...] = ()
    """options that the paper names as a network of its own, and that name: (("pam=True", "MSINet-SAM"),)"""
    widths: tuple[tuple[str, float], ...] = (("smoke", 0.25),)
    """profiles that build it narrower, and the width there"""
    recipe: Literal["light", "transformer"] = "light"
    """family of its training recipe"""
    settings: tuple[tuple[str, dict[str, Any]], ...] = ()
    """changes to its recipe by profile, or by profile and kind of data: (("mini", {"lr": 1e-3}),)"""
    cross_domain: bool = True
    """whether tables train it for other data sets too"""
    learns: bool = True
    """whether it has anything to train"""
    module: str = field(default="", compare=False)
    """file of this folder that defines it; empty: defined elsewhere"""

    def width(self, profile: str) -> float:
        """Its width in a profile."""
        return dict(self.widths).get(profile, 1.0)

    def named(self, profile: str) -> str:
        """Its name at the width that it has in a profile."""
        return with_width(self.name, self.width(profile))


#: Every network by name, in the order of tables.
CARDS: dict[str, NetworkCard] = {}
_builders: "dict[str, Builder]" = {}


def _read_cards(folder: Path) -> None:
    """Enter the cards of all files of a folder from their `@register(NetworkCard(...))`, without importing them."""
    found = []
    for path in sorted(folder.glob("*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "register":
                    card = call.args[0]
                    assert isinstance(card, ast.Call)
                    values = {str(word.arg): ast.literal_eval(word.value) for word in card.keywords}
                    found.append(NetworkCard(**values, module=path.stem))
    CARDS.update({card.name: card for card in sorted(found, key=lambda card: card.order)})


_read_cards(Path(__file__).parent)


def register(card: NetworkCard) -> "Callable[[Builder], Builder]":
    """Decorator: enter a builder `(num_classes, *, width, **options)` under the name of its card.

    Raises:
        ValueError: the name is taken.
    """

    def enter(builder: "Builder") -> "Builder":
        if card.name in _builders or CARDS.get(card.name, card) != card:
            raise ValueError(f"network {card.name!r} is registered twice")
        CARDS.setdefault(card.name, card)
        _builders[card.name] = builder
        return builder

    return enter


def with_width(name: str, width: float) -> str:
    """A network's name at a width: ("msinet", 0.25) is `msinet_x0_25`, ("osnet", 1) is `osnet`."""
    digits = f"{width:g}" if width % 1 else f"{width:.1f}"
    return name if width == 1 else f"{name}_x{digits.replace('.', '_')}"


def split_name(name: str) -> tuple[str, float]:
    """Card name and width of a network's name: `msinet_x0_25` is ("msinet", 0.25), `osnet` ("osnet", 1).

    Raises:
        UserError: the network is not known; the message lists those that are.
    """
    match = re.fullmatch(r"(.+)_x(\d+)_(\d+)", name)
    base, width = (match[1], float(f"{match[2]}.{match[3]}")) if match else (name, 1.0)
    if base not in CARDS:
        raise unknown_name("network", name, CARDS)
    return base, width


def card_of(name: str) -> NetworkCard:
    """The card of a network, whatever its width.

    Raises:
        UserError: unknown network.
    """
    return CARDS[split_name(name)[0]]


def label_of(name: str, options: str = "") -> str:
    """How tables write a network: the paper's name, with a width other than 1.

    Args:
        name: of the network, with its width.
        options: as NAME=VALUE words; those of a variant choose its label, others are written out.
    """
    card, (_, width) = card_of(name), split_name(name)
    label = dict(card.variants).get(options) or f"{card.label} {options}".strip()
    return label + ("" if width == 1 else f" x{width:g}")


def in_study(study: str) -> tuple[NetworkCard, ...]:
    """The networks that a table compares by default, in their order."""
    return tuple(sorted((card for card in CARDS.values() if study in card.studies), key=lambda card: card.order))


def _builder(name: str) -> "Builder":
    if name not in _builders and CARDS[name].module:
        importlib.import_module(f"msinet.models.{CARDS[name].module}")
    return _builders[name]


def build_model(name: str, num_classes: int, *, image: tuple[int, int] = (256, 128), **options: Any) -> "nn.Module":
    """A network by name, with fresh weights from torch's global random state.

    Args:
        name: one of the registered names, optionally with a width: `msinet`, `osnet_x0_25`.
        num_classes: identities the classifiers tell apart in training, at least 1.
        image: (height, width) of the images; only transformers are built for one size.
        options: what the network's builder takes, for example `genotype="GGEGAGGNGAEA"`.

    Raises:
        UserError: unknown name or option, or a value the network refuses.
    """
    base, width = split_name(name)
    builder = _builder(base)
    parameters = inspect.signature(builder).parameters
    allowed = set(parameters) - {"num_classes", "width", "image"}
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of {base}", option, allowed)
    if num_classes < 1:
        raise UserError(f"{name} needs at least one training identity, got {num_classes}")
    if "image" in parameters:
        options["image"] = image
    return builder(num_classes, width=width, **options)
