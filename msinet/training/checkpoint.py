"""The full state of a training, so that stopping and going on leaves no trace in the result."""

import io
import random
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from msinet.errors import WeightsError
from msinet.io import atomic_path

NAME = "checkpoint.pt"


class Stateful(Protocol):
    """What a checkpoint holds beside the model: an optimizer, or several in one."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to put it back as it is now."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Put it back."""


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
    """Put every global random generator back where `rng_state` found it."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    kind, numbers, gauss_next = state["python"]
    random.setstate((kind, tuple(numbers), gauss_next))


def save_checkpoint(
    folder: Path, identity: str, model: nn.Module, optimizer: Stateful, progress: dict[str, Any]
) -> None:
    """Write `checkpoint.pt` atomically; the one before stays until the new one is complete.

    Args:
        folder: of the run.
        identity: what the training is; a checkpoint of another training is refused.
        model: its weights and buffers are stored.
        optimizer: its state is stored.
        progress: where the run stands, as plain numbers and lists.
    """
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": progress,
        "rng": rng_state(),
    }
    buffer = io.BytesIO()  # written by Python, which tells a full disk from other failures
    torch.save(state, buffer)
    with atomic_path(folder / NAME) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(folder: Path, identity: str, model: nn.Module, optimizer: Stateful) -> dict[str, Any] | None:
    """Restore everything from the folder's checkpoint and return its progress; None without one.

    Raises:
        WeightsError: the file is damaged, or belongs to another training.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        found = state["identity"]
    except Exception as error:  # whatever a damaged file makes torch raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(f"{path} cannot be read ({reason}); delete it to start again") from error
    if found != identity:
        raise WeightsError(
            f"{path} belongs to another training; give another output folder, or --no-resume to start again"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    set_rng_state(state["rng"])
    progress: dict[str, Any] = state["progress"]
    return progress
