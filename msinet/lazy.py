"""Attributes that a package imports only when they are used, because importing torch takes seconds."""

import importlib
from typing import Any


def lazy(package: str, name: str, **modules: str) -> Any:
    """The value of an attribute, from the module that defines it; for a package's `__getattr__`.

    Args:
        package: `__name__` of the package.
        name: of the attribute.
        modules: attributes by module of the package, separated by spaces.

    Raises:
        AttributeError: no module is listed with that name.
    """
    for module, names in modules.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{package}.{module}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
