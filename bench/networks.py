"""The networks to measure, as names with options such as "msinet pam=True". Does not import torch."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from msinet.errors import UserError, unknown_name
from msinet.models import CARDS, build_model, label_of, split_name
from msinet.models.registry import card_of, in_study
from msinet.training.recipes import find_profile, parse_settings

if TYPE_CHECKING:
    from torch import nn

#: The network that the others are compared with (Table 6).
REFERENCE = "resnet50"


def label(text: str) -> str:
    """The name of a network in tables."""
    name, *options = text.split()
    return label_of(name, " ".join(options))


def build(text: str, num_classes: int, image: tuple[int, int]) -> "nn.Module":
    """The network with random weights.

    Raises:
        UserError: unknown name or option.
    """
    name, *options = text.split()
    return build_model(name, num_classes, image=image, **parse_settings(options))


def choose(models: tuple[str, ...], study: str = "", profile: str = "") -> list[str]:
    """The networks to measure, each once.

    Args:
        models: names with options; empty: the networks of `study`.
        study: a table of the paper; empty: all of them.
        profile: adds the networks of `study` at the widths of this profile.

    Raises:
        UserError: unknown network, table or profile.
    """
    chosen = [" ".join(text.split()) for text in models] or _compared(study, profile)
    for text in chosen:
        if not text:
            raise UserError("a network needs a name, such as msinet")
        split_name(text.split()[0])
    return list(dict.fromkeys(chosen))


def fitting(names: Sequence[str], height: int) -> tuple[list[str], list[str]]:
    """The networks whose maps divide into their parts at an image height, and a message for each other one."""
    cards = {name: card_of(name.split()[0]) for name in names}
    lines = [
        f"{name} left out: its image height must be a multiple of {16 * card.rows}, not {height}"
        for name, card in cards.items()
        if card.height(height) != height
    ]
    return [name for name, card in cards.items() if card.height(height) == height], lines


def to_measure(models: tuple[str, ...], height: int, study: str = "", profile: str = "") -> list[str]:
    """The networks of `choose`. Without `models`, those that an image height does not fit are left out and printed.

    Raises:
        UserError: as `choose`.
    """
    chosen = choose(models, study, profile)
    names, left_out = (chosen, []) if models else fitting(chosen, height)
    print("\n".join(left_out), end="\n" * bool(left_out))
    return names


def _compared(study: str, profile: str) -> list[str]:
    tables = {table for card in CARDS.values() for table in card.studies if table.startswith("table")}
    if study and study not in tables:
        raise unknown_name("table that compares networks", study, tables)
    found = {card.name: card for table in ([study] if study else sorted(tables)) for card in in_study(table)}
    cards = sorted(found.values(), key=lambda card: card.order)
    names = [(card, card.name) for card in cards]
    if profile:
        find_profile(profile)
        names += [(card, card.named(profile)) for card in cards]
    return [f"{name} {options}".strip() for card, name in names for options in ("", *dict(card.variants))]


def paper_costs() -> dict[str, dict[str, str]]:
    """The paper's parameter counts and times relative to ResNet50, by network (Tables 2 and 6)."""
    with files("bench").joinpath("paper_cost.csv").open(encoding="utf-8") as stream:
        return {row["network"]: row for row in csv.DictReader(stream)}
