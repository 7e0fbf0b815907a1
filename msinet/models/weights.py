"""Weights files: our own, and those of the code bases whose layouts the network files describe.

Files are read without executing code in them. The layout is recognised from the keys, and the keys are translated into
ours. All entries are compared before any weight of the network changes.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from msinet.errors import WeightsError, first_few, first_line
from msinet.io import StrPath, atomic_path, nearest_existing
from msinet.models import foreign
from msinet.models.registry import NetworkWeights, Notes, State, WeightLayout, all_weights

#: Layout of files that `save_weights` wrote.
OWN = WeightLayout("our own", r"backbone\.")
UNRECOGNISED = WeightLayout("unrecognised", "")

#: Classifiers, which are useless on another data set.
CLASSIFIER = re.compile(r"(.*\.)?(local_)?classifier\.(\d+\.)?(weight|bias)")
#: The position activation module, which is only for training with spatial alignment.
ALIGNMENT = "pam."
#: Batch counters, which evaluation never reads and old files do not have.
COUNTER = re.compile(r".*\.num_batches_tracked")

EXPECTED = "expected a dictionary of tensors, or one under 'state_dict'"

_scalar = cast(tuple[Any, ...], np.float64(0).__reduce__())[0]
#: Globals that build NumPy numbers; torchreid stores NumPy numbers with the weights (rank1).
NUMPY_NUMBERS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")),
]


@dataclass(frozen=True)
class LoadReport:
    """Entries that matched when a file was loaded, and those that did not.

    Keys are ours; those in `unexpected` may be the file's own.

    Attributes:
        path: the file.
        layout: name of the layout of the file's entries.
        matched: entries that were loaded, out of `total` entries of the network.
        missing: entries of the network that the file lacks; they keep their values.
        unexpected: entries of the file that the network lacks; they were left out.
        mismatched: entries of both whose shapes differ; they were left out too.
        size_dependent: entries of both that only fit images of the file's size; they were left out too.
        remark: a difference between the networks that the entries do not show.
        differences: interactions in which the file and the network differ.
    """

    path: Path
    layout: str
    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    size_dependent: tuple[str, ...] = ()
    remark: str = ""
    differences: str = ""

    def __str__(self) -> str:
        parts = [f"{self.path} ({self.layout} layout): {self.matched} of {self.total} entries matched"]
        for words, keys in (
            ("not in the file", self.missing),
            ("not in the network, left out", self.unexpected),
            ("of another shape, left out", self.mismatched),
            ("for another image size, left out", self.size_dependent),
        ):
            if keys:
                parts.append(f"{len(keys)} {words} ({first_few(keys, 4)})")
        return "; ".join(filter(None, [*parts, self.differences, self.remark]))


def load_weights(model: nn.Module, path: StrPath, *, partial: bool = False) -> LoadReport:
    """Load a weights file into `model`, all or nothing.

    The layout (our own, or one of the network files) is recognised from the keys. A transformer's position embedding
    is resized to the network's image size. Wrapping entries and prefixes of other code bases (`msinet.models.foreign`)
    are removed. A classifier for another number of classes, SAM's alignment module and the neck that torchvision files
    lack are not errors: the report names them.

    Args:
        model: on any device; weights take its type and device.
        path: a `.safetensors` file, or any other name for a file of `torch.save`.
        partial: load the entries that fit and report the others, instead of raising an error.

    Raises:
        WeightsError: the file is missing, damaged, holds anything but tensors, holds NaN or
            infinite values, or does not fit. The model is then unchanged.
    """
    path = Path(path)
    raw, notes = _read(path)
    layouts = [*(layout for weights in all_weights() for layout in weights.layouts), OWN]
    model = _uncompiled(model)
    own: State = model.state_dict()
    layout, state = _translated(raw, layouts, own)
    weights = _recognised(own)
    size_dependent: tuple[str, ...] = ()
    if weights and weights.adapt:
        try:
            adapted = weights.adapt(model, state, notes)
            size_dependent = tuple(key for key in own if key in state and key not in adapted)
            state = adapted
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error

    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    report = LoadReport(
        path,
        layout.name,
        len(fitting),
        len(own),
        missing=tuple(key for key in own if key not in state and key not in size_dependent),
        unexpected=tuple(key for key in state if key not in own),
        mismatched=tuple(key for key in state if key in own and key not in fitting),
        size_dependent=size_dependent,
        remark=layout.remark,
        differences=weights.differences(model, state, notes)
        if weights and weights.differences and _recognised(state) is weights
        else "",
    )
    if not fitting:
        raise WeightsError(
            f"nothing in {path} ({layout.name} layout; {first_few(raw, 4)}) fits the network; "
            f"{_likeness(_recognised(state), weights) or 'build the network that it belongs to'}. "
            f"Known layouts: {', '.join(one.name for one in (OWN, *layouts))}"
        )
    if not partial and (problems := _problems(report, layout, own, state)):
        raise WeightsError(
            f"{path} ({layout.name} layout) does not fit the network, which is unchanged: "
            f"{'; '.join(problems)}. {report.matched} of {report.total} entries match; "
            "to load only those, pass partial=True (msinet evaluate, embed, find and export: --partial)"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _translated(raw: State, layouts: Sequence[WeightLayout], own: State) -> tuple[WeightLayout, State]:
    """The best layout and the entries translated by it.

    Among layouts whose marker is in the file, the best one fits most entries of the network. Both names with and
    without the backbone prefix of other code bases are tried.
    """
    best: tuple[int, WeightLayout, State] | None = None
    for found in (raw, foreign.without_prefixes(raw)):
        for layout in layouts:
            if any(re.match(layout.marker, key) for key in found):
                state = {layout.translate(key): tensor for key, tensor in found.items()}
                fits = sum(key in own and tensor.shape == own[key].shape for key, tensor in state.items())
                if best is None or fits > best[0]:
                    best = fits, layout, state
    return (UNRECOGNISED, raw) if best is None else best[1:]


def save_weights(model: nn.Module, path: StrPath, notes: Notes) -> None:
    """Write the weights and `notes` atomically as a safetensors file.

    For MSINet the interactions are noted too (key `interactions`), because exchanges have no weights.

    Raises:
        UserError: the file cannot be written.
    """
    model = _uncompiled(model)
    state = model.state_dict()
    weights = _recognised(state)
    noted = {**notes, **(weights.notes(model) if weights and weights.notes else {})}
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_in_order(safetensors.torch.save(tensors, noted)))


def _uncompiled(model: nn.Module) -> nn.Module:
    """The network inside one that `torch.compile` returned; others unchanged."""
    inside = getattr(model, "_orig_mod", model)
    assert isinstance(inside, nn.Module)
    return inside


def _in_order(file: bytes) -> bytes:
    """Sort the notes of a safetensors file: the library's order is random, and equal trainings write equal files."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    if notes := header.get("__metadata__"):
        header["__metadata__"] = dict(sorted(notes.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[start:]


def read_metadata(path: StrPath) -> dict[str, str]:
    """The notes that `save_weights` wrote into a file; files of `torch.save` have none.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[State, dict[str, str]]:
    """The checked tensors of a file under its own keys, and its metadata."""
    if not os.path.isfile(path):  # unlike Path.is_file, raises nothing without permission
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise WeightsError(
            f"weights file {path} {kind}; give the path of a .safetensors, .pth or .tar file.{nearest_existing(path)}"
        )
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes): an interrupted download or save; fetch it again")
    payload, metadata = _safetensors(path) if foreign.is_safetensors(path) else (_torch(path), {})
    return _check(path, foreign.unwrapped(payload)), metadata


def _safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            try:
                return torch.load(path, weights_only=True, map_location="cpu")
            except UnicodeDecodeError:  # Python 2 wrote bytes where Python 3 writes text
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "pickle_load_args only works")  # the encoding does work
                    return torch.load(path, weights_only=True, map_location="cpu", encoding="latin1")
    except Exception as error:  # damaged bytes raise anything from IndexError to UnicodeDecodeError
        if forbidden := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"{path} holds more than tensors ({forbidden[1]}) and was not loaded, because that could run "
                "code; if you trust its origin, save its weights alone with "
                "torch.save(network.state_dict(), ...) in the code base that wrote it"
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, PermissionError):
        return WeightsError(f"{path} cannot be read: {error.strerror}; change its permissions")
    if kind := foreign.kind_of(path):
        return WeightsError(f"{path} is {kind}, not a weights file; {EXPECTED}")
    return WeightsError(f"{path} is damaged or not a weights file: fetch or save it again ({first_line(error)})")


def _check(path: Path, state: Any) -> State:
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path} holds no weights; {EXPECTED}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: entry {key!r} is no tensor but {type(value).__name__}; {EXPECTED}")
        small = value.dtype in (torch.int8, torch.uint8) or value.is_quantized
        if value.layout != torch.strided or value.is_meta or value.is_complex() or small:
            raise WeightsError(f"{path}: {key} is not a plain tensor of real numbers; save float32 weights")
        if not value.isfinite().all():
            raise WeightsError(
                f"{path}: {key} has NaN or infinite values, as after a diverged run; use an earlier checkpoint"
            )
    return dict(state)


def _harmless(key: str, layout: WeightLayout) -> bool:
    """True if an entry may be missing in a file."""
    optional = CLASSIFIER.fullmatch(key) or COUNTER.fullmatch(key) or re.match(layout.lacks, key)
    return bool(optional) or key.startswith(ALIGNMENT)


def _problems(report: LoadReport, layout: WeightLayout, own: State, state: State) -> list[str]:
    """Reasons why the file does not fit; empty if it does."""
    missing = [key for key in report.missing if not _harmless(key, layout)]
    unexpected = [
        key
        for key in report.unexpected
        if not (CLASSIFIER.fullmatch(key) or key.startswith(ALIGNMENT) or re.match(layout.extra, key))
    ]
    shapes = [
        f"{key}: {_size(state[key])} in the file but {_size(own[key])} here"
        for key in report.mismatched
        if not (CLASSIFIER.fullmatch(key) and state[key].shape[1:] == own[key].shape[1:])
    ]
    problems = [_likeness(_recognised(state), _recognised(own)), report.differences]
    for words, items in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if items:
            problems.append(f"{len(items)} {words} ({first_few(items, 4)})")
    return [problem for problem in problems if problem]


def _recognised(state: State) -> NetworkWeights | None:
    """The network whose weights these are, under our names; None for a network without a marker."""
    return next((one for one in all_weights() if any(re.match(one.marker, key) for key in state)), None)


def _likeness(of_file: NetworkWeights | None, of_model: NetworkWeights | None) -> str:
    """A message if the file belongs to another network, otherwise empty."""
    if of_file is None or of_file is of_model or (of_model and of_file is of_model.base):
        return ""
    model = of_model.network if of_model else "this network"
    return f"it looks like a checkpoint of {of_file.network}, not of {model}: build {of_file.network} for it"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
