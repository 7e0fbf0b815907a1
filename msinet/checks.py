"""Checks of settings in frozen dataclasses. They raise `UserError`."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args, get_origin

from msinet.errors import UserError, unknown_name


def choices(part: object) -> None:
    """Every field whose type is a `Literal` has one of its values."""
    for name, kind in type(part).__annotations__.items():
        literal: object = get_origin(kind)
        if literal is Literal and getattr(part, name) not in get_args(kind):
            raise unknown_name(name, getattr(part, name), get_args(kind))


def at_least(part: object, bounds: Mapping[str, float]) -> None:
    """Fields are finite and not below their bounds."""
    for name, bound in bounds.items():
        value = getattr(part, name)
        if not (value >= bound and math.isfinite(value)):
            raise UserError(f"recipe: {name} must be at least {bound}, got {value}")


def above_zero(part: object, names: Iterable[str]) -> None:
    """Fields are finite and above 0."""
    for name in names:
        if not (getattr(part, name) > 0 and math.isfinite(getattr(part, name))):
            raise UserError(f"recipe: {name} must be above 0, got {getattr(part, name)}")


def shares(part: object, names: Iterable[str]) -> None:
    """Fields lie in [0, 1]."""
    for name in names:
        if not 0 <= getattr(part, name) <= 1:
            raise UserError(f"recipe: {name} must lie in [0, 1], got {getattr(part, name)}")
