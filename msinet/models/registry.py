"""Networks by name. `msinet_x0_25` is `msinet` at a quarter of its width.

A network is one file of this folder: its code, a `NetworkCard` and, if it reads weights of other code bases, a
`NetworkWeights`, both passed to `@register`. Tables, figures, benchmarks and commands read the card. Cards are read
from the source, so that listing networks does not import torch.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

from msinet.errors import UserError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[..., nn.Module]

State = dict[str, Any]  # tensors by name; torch is not imported here
Notes = Mapping[str, str]


@dataclass(frozen=True)
class NetworkCard:
    """Description of a network, apart from its code. All values are literals."""

    name: str
    """as commands spell it"""
    label: str
    """as the paper writes it"""
    order: int
    """position in tables, benchmarks and legends; small numbers come first"""
    colour: str = ""
    """in figures; empty: the next free one"""
    marker: str = ""
    """in figures; empty: the next free one"""
    studies: tuple[str, ...] = ()
    """tables that compare it by default: table2, table3, table6, calibration"""
    variants: tuple[tuple[str, str], ...] = ()
    """options that have a label of their own: (("pam=True", "MSINet-SAM"),)"""
    widths: tuple[tuple[str, float], ...] = (("smoke", 0.25),)
    """profiles in which the width is not 1, and that width"""
    recipe: Literal["light", "transformer"] = "light"
    """kind of its training recipe"""
    settings: tuple[tuple[str, dict[str, Any]], ...] = ()
    """changes to its recipe by profile, or by profile and kind of data: (("mini", {"lr": 1e-3}),)"""
    authors: Mapping[str, Any] = field(default_factory=dict)
    """its authors' own recipe as changes to the paper's, {"optimizer": "adam"}; empty: the paper's is its own"""
    authors_scratch: Mapping[str, Any] = field(default_factory=dict)
    """likewise, for trainings without pre-trained weights; empty: the same recipe"""
    authors_source: str = ""
    """source of that recipe, and its omissions here"""
    rows: int = 1
    """the final map needs a multiple of this number of rows (16 pixels each); recipes raise the image height"""
    heavy: bool = False
    """True: short versions of Table 2 and of the calibration leave it out; --whole and --models include it"""
    learns: bool = True
    """False: it has no parameters and is only evaluated"""
    revision: int = 0
    """increase when results of this network alone change; its old runs then no longer count as results"""
    module: str = field(default="", compare=False)
    """file of this folder that defines it; empty: defined elsewhere"""

    def width(self, profile: str) -> float:
        """The width in a profile."""
        return dict(self.widths).get(profile, 1.0)

    def height(self, least: int) -> int:
        """The smallest image height in pixels, at least `least`, at which the map divides into `rows` parts."""
        return least if self.rows == 1 else -(-least // (16 * self.rows)) * 16 * self.rows

    def named(self, profile: str) -> str:
        """The name with the width of a profile."""
        return with_width(self.name, self.width(profile))


@dataclass(frozen=True)
class WeightLayout:
    """Entry names of a network in another code base, and rules that translate them into ours."""

    name: str
    """as reports and errors call it"""
    marker: str
    """pattern of an entry that only this layout has"""
    rules: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement), applied in order to the name of every entry"""
    extra: str = "(?!)"  # matches nothing
    """pattern of entries of the file that no network here needs"""
    lacks: str = "(?!)"
    """pattern of our entries that the layout does not have"""
    remark: str = ""
    """a difference between the networks that the entries do not show; reports print it"""

    def translate(self, key: str) -> str:
        """Our name of an entry."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True)
class NetworkWeights:
    """Rules to recognise weights files of a network, translate their entries and compare them with it.

    The functions get the network, the file's entries under our names, and the notes saved with them.
    """

    network: str
    """as messages call it"""
    marker: str
    """pattern of an entry, under our names, that no other network has"""
    layouts: tuple[WeightLayout, ...] = ()
    """layouts of files from other code bases"""
    adapt: "Callable[[nn.Module, State, Notes], State] | None" = None
    """adapts or leaves out entries that depend on the image size; raises a WeightsError if it cannot"""
    differences: "Callable[[nn.Module, State, Notes], str] | None" = None
    """describes differences that the names and shapes of entries do not show; empty: none"""
    base: "NetworkWeights | None" = None
    """rules of the network that this one extends, whose files do not count as those of a wrong network"""
    notes: "Callable[[nn.Module], Notes] | None" = None
    """notes saved in a weights file because the weights do not show them"""


#: Every network by name, in the order of tables.
CARDS: dict[str, NetworkCard] = {}
_registered: "dict[str, tuple[Builder, NetworkWeights | None]]" = {}


def _enter(*cards: NetworkCard) -> None:
    known = sorted((*CARDS.values(), *cards), key=lambda card: card.order)
    CARDS.clear()
    CARDS.update((card.name, card) for card in known)


def _read_cards(folder: Path) -> None:
    """Enter the cards of all files of a folder from their `@register(NetworkCard(...))`, without importing them.

    Raises:
        ValueError: a card that is not written out in literals, or a name that is taken, with file and line.
    """
    for path in sorted(folder.glob("*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "register":
                    card = _literal_card(call.args[0], path)
                    if card.name in CARDS:
                        raise ValueError(f"{path}:{call.lineno}: network {card.name!r} is registered twice")
                    _enter(card)


def _literal_card(node: ast.expr, path: Path) -> NetworkCard:
    try:
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError("expected NetworkCard(name=..., label=..., ...)")
        return NetworkCard(**{str(word.arg): ast.literal_eval(word.value) for word in node.keywords}, module=path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}:{node.lineno}: the card {ast.unparse(node)} is not written out in literals ({error}); "
            "cards are read without running the file"
        ) from error


_read_cards(Path(__file__).parent)


def register(card: NetworkCard, weights: NetworkWeights | None = None) -> "Callable[[Builder], Builder]":
    """Decorator: enter a builder `(num_classes, *, width, **options)` under the name of its card.

    Args:
        card: of the network, all literals.
        weights: rules for its weights files; None: only files saved by this package are read.

    Raises:
        ValueError: the name is taken.
    """

    def enter(builder: "Builder") -> "Builder":
        if card.name in _registered or CARDS.get(card.name, card) != card:
            raise ValueError(f"network {card.name!r} is registered twice")
        if card.name not in CARDS:
            _enter(card)
        _registered[card.name] = builder, weights
        return builder

    return enter


def _entry(name: str) -> "tuple[Builder, NetworkWeights | None]":
    if name not in _registered and CARDS[name].module:
        importlib.import_module(f"msinet.models.{CARDS[name].module}")
    return _registered[name]


def all_weights() -> list[NetworkWeights]:
    """The rules for weights files of all networks, those that extend others first. Imports every network file."""
    found = list(dict.fromkeys(weights for name in CARDS if (weights := _entry(name)[1])))
    return sorted(found, key=lambda weights: weights.base is None)


def with_width(name: str, width: float) -> str:
    """A network's name at a width: ("msinet", 0.25) is `msinet_x0_25`, ("osnet", 1) is `osnet`."""
    digits = f"{width:g}" if width % 1 else f"{width:.1f}"
    return name if width == 1 else f"{name}_x{digits.replace('.', '_')}"


def split_name(name: str) -> tuple[str, float]:
    """Split a network's name into card name and width: `msinet_x0_25` is ("msinet", 0.25), `osnet` is ("osnet", 1).

    Raises:
        UserError: unknown network; the message lists the known ones.
    """
    match = re.fullmatch(r"(.+)_x(\d+)_(\d+)", name)
    base, width = (match[1], float(f"{match[2]}.{match[3]}")) if match else (name, 1.0)
    if base not in CARDS:
        raise unknown_name("network", name, CARDS)
    return base, width


def card_of(name: str) -> NetworkCard:
    """The card of a network; the name may have a width.

    Raises:
        UserError: unknown network.
    """
    return CARDS[split_name(name)[0]]


def label_of(name: str, options: str = "") -> str:
    """The name of a network in tables: the paper's, with its options and a width other than 1.

    Args:
        name: of the network, with its width.
        options: NAME=VALUE words; those of a variant select its label, others are appended.

    Raises:
        UserError: unknown network.
    """
    card, (_, width) = card_of(name), split_name(name)
    label = dict(card.variants).get(options) or f"{card.label} {options}".strip()
    return label + ("" if width == 1 else f" x{width:g}")


def in_study(study: str) -> tuple[NetworkCard, ...]:
    """The cards of the networks that a table compares by default, in table order."""
    return tuple(card for card in CARDS.values() if study in card.studies)


#: Names of option types in error messages.
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}


def _check_type(what: str, value: Any, annotation: Any) -> None:
    """Check the type of an option's value; annotations that are not in `TYPES` are not checked.

    Raises:
        UserError: the type differs.
    """
    expected = str if get_origin(annotation) is Literal else annotation
    if expected in TYPES and type(value) is not expected and not (expected is str and callable(value)):
        if expected is float and type(value) is int:
            return
        raise UserError(f"{what} must be {TYPES[expected]}, got {value!r}")


def options_of(name: str) -> set[str]:
    """The options that a network's builder takes. Imports its file.

    Raises:
        UserError: unknown network.
    """
    return set(inspect.signature(_entry(split_name(name)[0])[0]).parameters) - {"num_classes", "width", "image"}


def build_model(name: str, num_classes: int, *, image: tuple[int, int] = (256, 128), **options: Any) -> "nn.Module":
    """Build a network by name, with fresh weights from torch's global random state.

    Args:
        name: one of the registered names, optionally with a width: `msinet`, `osnet_x0_25`.
        num_classes: training identities, at least 1.
        image: (height, width) of the images; used by networks that are built for one size (transformers, RGA-SC).
        options: keyword arguments of the network's builder, for example `genotype="GGEGAGGNGAEA"`.

    Raises:
        UserError: unknown name or option, or an invalid value.
    """
    base, width = split_name(name)
    builder, _ = _entry(base)
    parameters, allowed = inspect.signature(builder).parameters, options_of(name)
    for option, value in options.items():
        if option not in allowed:
            raise unknown_name(f"option of {base}", option, allowed)
        _check_type(f"option {option} of {base}", value, parameters[option].annotation)
    if num_classes < 1:
        raise UserError(f"{name} needs at least one training identity, got {num_classes}")
    if "image" in parameters:
        options["image"] = tuple(image)
    return builder(num_classes, width=width, **options)
