"""Names that packages import lazily."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import msinet

PACKAGES = [
    "msinet",
    *(f"msinet.{one.name}" for one in pkgutil.iter_modules(msinet.__path__) if one.ispkg and one.name != "cli"),
]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_submodule_hides_a_public_name(name: str) -> None:
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"{name}.{module.name}")
    public = {word: getattr(package, word) for word in getattr(package, "__all__", ())}
    assert not [word for word, value in public.items() if isinstance(value, ModuleType)]
