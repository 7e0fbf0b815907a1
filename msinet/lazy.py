"""Names that a package offers but imports only when they are asked for, because torch takes seconds to import."""

import importlib
from typing import Any


def lazy(package: str, name: str, **modules: str) -> Any:
    """The value of a package's name from the module that defines it; for the package's `__getattr__`.

    Args:
        package: its `__name__`.
        name: that was asked for.
        modules: names by module of the package, separated by spaces.

    Raises:
        AttributeError: no module has the name.
    """
    for module, names in modules.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{package}.{module}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
