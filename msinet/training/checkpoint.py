"""Checkpoints: the full state of a training, so that an interruption does not change its result."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from msinet.errors import WeightsError, first_line
from msinet.io import atomic_path

NAME = "checkpoint.pt"
#: The previous checkpoint, used if the newest is damaged.
BEFORE = "checkpoint-before.pt"


def rng_state() -> dict[str, Any]:
    """The state of every global random generator, as tensors and plain numbers."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  (third-party code may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the state of every global random generator."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    kind, numbers, gauss_next = state["python"]
    random.setstate((kind, tuple(numbers), gauss_next))


def save_checkpoint(folder: Path, identity: str, task: dict[str, Any], progress: dict[str, Any]) -> None:
    """Write `checkpoint.pt` atomically, and keep the previous one as `checkpoint-before.pt`.

    Args:
        folder: of the run.
        identity: hash of the training; a checkpoint of another training is refused.
        task: state of the task.
        progress: progress of the training, as plain numbers and lists.
    """
    state = {"identity": identity, "task": task, "progress": progress, "rng": rng_state()}
    for path in _half_written(folder):
        path.unlink(missing_ok=True)
    buffer = io.BytesIO()  # Python reports a full disk as such; torch.save to a file does not
    torch.save(state, buffer)
    if (folder / NAME).exists():
        (folder / BEFORE).unlink(missing_ok=True)
        try:
            os.link(folder / NAME, folder / BEFORE)  # no copy, and always one checkpoint on disk
        except OSError:  # a file system without links
            os.replace(folder / NAME, folder / BEFORE)
    with atomic_path(folder / NAME) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """The folder's checkpoint with the keys "task", "progress" and "rng"; None without one.

    A damaged checkpoint (truncated, a wrong byte) is skipped with a warning if the previous one is intact.

    Raises:
        WeightsError: no intact checkpoint, or one of another training.
    """
    paths = [path for name in (NAME, BEFORE) if (path := folder / name).exists()]
    if not paths:
        return None
    try:
        return _read(paths[0], identity)
    except WeightsError as error:
        if len(paths) == 1 or isinstance(error, _Another):
            raise
        try:
            state = _read(paths[1], identity)
        except WeightsError:  # report the newer one
            raise error from None
        tqdm.write(f"{paths[0]} is damaged; resuming from the previous checkpoint")
        return state


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished training, also those that a kill left half-written."""
    for path in (folder / NAME, folder / BEFORE, *_half_written(folder)):
        path.unlink(missing_ok=True)


def _half_written(folder: Path) -> Iterator[Path]:
    """Temporary files of `atomic_path`; another process cannot be writing them, because it would hold the lock."""
    return folder.glob(f".{Path(NAME).stem}.*.tmp.pt")


class _Another(WeightsError):
    """A checkpoint of another training."""


def _read(path: Path, identity: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at checksums
            if (member := archive.testzip()) is not None:
                raise ValueError(f"wrong checksum of {member}")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        found, _ = state["identity"], [state[part] for part in ("task", "progress", "rng")]
    except Exception as error:  # whatever a damaged file makes zipfile and torch raise
        raise WeightsError(f"{path} cannot be read ({first_line(error)}); delete it to start again") from error
    if found != identity:
        raise _Another(f"{path} belongs to another training; give another output folder, or --no-resume to start again")
    return state
