"""Layers of a recipe: named changes, and profiles with changes by kind of recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Settings by their short names.
Changes = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Some settings and their source."""

    name: str
    changes: Changes


@dataclass(frozen=True)
class Profile:
    """Size and length of trainings; one file per profile."""

    name: str
    summary: str
    changes: Mapping[str, Changes] = field(default_factory=dict)
    """changes to the published recipe of light, transformer, search, pretraining, unsupervised; then of unsupervised
    methods with a source (adapting), and of single methods"""
    epochs: Mapping[str, int] = field(default_factory=dict)
    """epochs to which the published schedule is scaled, by kind of recipe"""
    vehicle_side: int = 0
    """height and width of vehicles in pixels; 0: the height of persons"""
    cross_domain_training: bool = True
    """whether tables train again for another test set (Sec. 4.3); False: they rank it with the in-domain weights"""
    stretch_cross_domain: bool = False
    """whether the shorter cross-domain training scales its milestones too"""
