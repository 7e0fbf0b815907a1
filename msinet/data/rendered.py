"""Files that mark a folder as rendered: `world.json`, and `factors.csv` with the factors of every image."""

import json
from pathlib import Path
from typing import Any

from msinet.errors import UserError

FACTORS = "factors.csv"
WORLD = "world.json"


def read_world(folder: Path) -> dict[str, Any] | None:
    """The contents of `world.json` of a rendered set; None for a folder without one.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / WORLD
    if not path.is_file():
        return None
    try:
        world: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return world | {"fingerprint": str(world["fingerprint"]), "seed": int(world["seed"])}
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {folder} and render it again") from error
