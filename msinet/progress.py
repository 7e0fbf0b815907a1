"""Progress bars: one style everywhere, few lines in log files."""

import sys
from typing import Any

from tqdm import tqdm

#: Seconds between updates; log files get fewer lines.
INTERVAL = 0.5 if sys.stderr.isatty() else 20.0


def bar(**settings: Any) -> "tqdm[Any]":
    """A tqdm bar that disappears at its end. Of several processes only the first shows it.

    Args:
        settings: arguments of tqdm.
    """
    distributed = sys.modules.get("msinet.distributed")  # not imported here: it imports torch
    if distributed is not None and not distributed.leads():
        settings["disable"] = True
    return tqdm(**{"leave": False, "dynamic_ncols": True, "mininterval": INTERVAL, **settings})
