"""Random draws used for both persons and vehicles."""

from collections.abc import Mapping, Sequence

import numpy as np

from msinet.synthetic.solids import Colour

#: Least distance in display RGB of two colours that are distinguishable in small and dark images.
CONTRAST = 0.45


def first_or_other(rng: np.random.Generator, values: Sequence[str], share: float) -> str:
    """The first value with probability `share`, otherwise one of the others."""
    return values[0] if rng.random() < share else values[1 + int(rng.integers(len(values) - 1))]


def draw_colour(
    rng: np.random.Generator, weights: Mapping[str, float], table: Mapping[str, Colour], *apart_from: str
) -> str:
    """Draw the name of a colour that contrasts with others; without such a colour, the one that contrasts most.

    Args:
        rng: source of all random numbers.
        weights: of each colour in the set's palette.
        table: colours by name.
        apart_from: names of colours to contrast with; they are not drawn.

    Raises:
        ValueError: the palette has no other colour.
    """
    names = [name for name, weight in weights.items() if weight > 0 and name not in apart_from]
    if not names:
        raise ValueError(f"the palette has no colour apart from {', '.join(apart_from)}; give more colours a weight")
    if apart_from:
        others = np.array([table[name] for name in apart_from])
        distance = np.array([np.sqrt(((others - table[name]) ** 2).sum(1)).min() for name in names])
        least = min(CONTRAST, distance.max())
        names = [name for name, d in zip(names, distance, strict=True) if d >= least]
    shares = np.array([weights[name] for name in names])
    return str(rng.choice(names, p=shares / shares.sum()))
