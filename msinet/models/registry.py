"""Names of networks. `msinet_x0_25` is `msinet` at a quarter of its width, and says so."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from msinet.errors import UserError, unknown_name

Builder = Callable[..., nn.Module]
MODELS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: enter a builder `(num_classes, *, width, **options)` under `name`."""

    def enter(builder: Builder) -> Builder:
        if name in MODELS:
            raise ValueError(f"model {name!r} is registered twice")
        MODELS[name] = builder
        return builder

    return enter


def split_name(name: str) -> tuple[str, float]:
    """Family and width of a model name: `msinet_x0_25` is ("msinet", 0.25), `osnet` ("osnet", 1).

    Raises:
        UserError: the family is not known; the message lists those that are.
    """
    match = re.fullmatch(r"(.+)_x(\d+)_(\d+)", name)
    family, width = (match[1], float(f"{match[2]}.{match[3]}")) if match else (name, 1.0)
    if family not in MODELS:
        raise unknown_name("model", name, MODELS)
    return family, width


def build_model(name: str, num_classes: int, *, image: tuple[int, int] = (256, 128), **options: Any) -> nn.Module:
    """A network by name, with fresh weights from torch's global random state.

    Args:
        name: one of the registered names, optionally with a width: `msinet`, `osnet_x0_25`.
        num_classes: identities the classifiers tell apart in training, at least 1.
        image: (height, width) of the images; only transformers are built for one size.
        options: what the family's builder takes, for example `genotype="GGEGAGGNGAEA"`.

    Raises:
        UserError: unknown name or option, or a value the family refuses.
    """
    family, width = split_name(name)
    builder = MODELS[family]
    allowed = set(inspect.signature(builder).parameters) - {"num_classes", "width", "image"}
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of {family}", option, allowed)
    if num_classes < 1:
        raise UserError(f"{name} needs at least one training identity, got {num_classes}")
    if "image" in inspect.signature(builder).parameters:
        options["image"] = image
    return builder(num_classes, width=width, **options)
