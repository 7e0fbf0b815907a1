"""Files that mark a folder as rendered: `world.json`, and `factors.csv` with the factors of every image."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from msinet.errors import DataError, UserError

FACTORS = "factors.csv"
WORLD = "world.json"
#: Images of a set whose colours are recorded and compared.
SAMPLES = 8
#: Largest difference of mean colours, on a scale of 0 to 255. JPEG decoders differ by less than 0.1.
TOLERANCE = 1.0


def read_world(folder: Path) -> dict[str, Any] | None:
    """The contents of `world.json` of a rendered set; None for a folder without one.

    Raises:
        UserError: the file is damaged, or was written before version 2.
    """
    path = folder / WORLD
    if not path.is_file():
        return None
    try:
        world: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        samples = {str(name): [float(value) for value in colour] for name, colour in world["samples"].items()}
        return world | {"fingerprint": str(world["fingerprint"]), "seed": int(world["seed"]), "samples": samples}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {folder} and render it again") from error


def statistics(data: bytes) -> list[float]:
    """Mean and standard deviation of red, green and blue of an encoded image: six numbers in [0, 255]."""
    with PIL.Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3)
    return [*pixels.mean(0).round(2).tolist(), *pixels.std(0).round(2).tolist()]


def check_samples(folder: Path, world: dict[str, Any]) -> None:
    """Compare sample images of a rendered set with the colours they had when it was rendered.

    Raises:
        DataError: a sample is missing, cannot be decoded or has other colours, by path.
    """
    for name, expected in world["samples"].items():
        path = folder / name
        try:
            found = statistics(path.read_bytes())[:3]
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise DataError(f"{path}: cannot be decoded ({error}); delete {folder} and render it again") from error
        if len(expected) != 3 or max(abs(a - b) for a, b in zip(found, expected, strict=True)) > TOLERANCE:
            raise DataError(
                f"{path} has mean colour {found} instead of {expected} as rendered (tolerance {TOLERANCE:g}); "
                f"delete {folder} and render it again"
            )
