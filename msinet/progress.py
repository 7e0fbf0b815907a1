"""Progress bars: one look everywhere, quiet where nobody watches."""

import sys
from typing import Any

from tqdm import tqdm

#: Seconds between updates; a log file wants few lines.
INTERVAL = 0.5 if sys.stderr.isatty() else 20.0


def bar(**settings: Any) -> "tqdm[Any]":
    """A tqdm bar that disappears when it is done; the arguments are tqdm's. Of several processes one shows it."""
    from msinet.distributed import leads  # it imports torch

    if not leads():
        settings["disable"] = True
    return tqdm(**{"leave": False, "dynamic_ncols": True, "mininterval": INTERVAL, **settings})
