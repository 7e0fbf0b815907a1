"""Export to ONNX or TorchScript: the deployed form of a network, compared with the network itself."""

import copy
import io
import tempfile
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msinet.data.transforms import MEAN, STD
from msinet.environment import code_version
from msinet.errors import UserError
from msinet.io import StrPath, atomic_path
from msinet.models.deployment import deploy

if TYPE_CHECKING:
    import onnxruntime

    from msinet.neighbours import Embedder

#: Largest difference of features, relative to the largest feature, that an export may show.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


#: Formats by the suffix of the file.
FORMATS = {".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript", ".torchscript": "torchscript"}


def need_format(path: Path) -> str:
    """The format that a file's suffix chooses, onnx or torchscript, after a check that it can be written.

    Raises:
        UserError: another suffix, or packages for ONNX are missing.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UserError(f"--out {path}: the suffix chooses the format: .onnx, or {', '.join(list(FORMATS)[1:])}")
    if found == "onnx":
        need_onnx()
    return found


def describe_export(embedder: "Embedder") -> dict[str, str]:
    """The metadata of an export: network, image size, normalisation of pixels, length of features."""
    with torch.inference_mode():
        length = embedder(torch.zeros(1, 3, embedder.height, embedder.width)).shape[1]
    return {
        "network": embedder.name,
        "height": str(embedder.height),
        "width": str(embedder.width),
        "channels": "RGB",
        "mean": " ".join(f"{value:g}" for value in MEAN.flatten().tolist()),
        "std": " ".join(f"{value:g}" for value in STD.flatten().tolist()),
        "scale": "pixels are divided by 255, then the mean is subtracted and the result divided by std",
        "features": str(length),
        "msinet": code_version(),
    }


def export(network: nn.Module, path: Path, image: tuple[int, int], notes: Mapping[str, str] | None = None) -> float:
    """Write the deployed form of a network in the format that the suffix chooses; otherwise as `export_onnx`."""
    if need_format(path) == "onnx":
        return export_onnx(network, path, image, notes)
    shipped = deploy(network).cpu().float()
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but read by older programs
            traced = torch.jit.trace(shipped, torch.randn(2, 3, *image))  # type: ignore[no-untyped-call]
            extra = {name: value.encode() for name, value in (notes or {}).items()}
            held = io.BytesIO()  # torch's own writer ends the process on a full disk
            torch.jit.save(traced, held, _extra_files=extra)
        temporary.write_bytes(held.getvalue())
        images = _examples(image)
        with torch.inference_mode():
            return _compared(path, _features(network, images), traced(images).numpy(), "TorchScript")


def need_onnx() -> None:
    """Raise a `UserError` with the command to install packages if any is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'msinet-bench[onnx]'")


def export_onnx(
    network: nn.Module, path: StrPath, image: tuple[int, int], notes: Mapping[str, str] | None = None
) -> float:
    """Write the deployed form of a network as an ONNX file, and compare its features with torch's.

    Its input is `images`, (B, 3, H, W) for any B, normalised with ImageNet's statistics. Its output is `features`,
    (B, D), not of unit length.

    Args:
        network: with the weights to export.
        path: of the file, which is created only if the comparison succeeds.
        image: (height, width).
        notes: metadata of the file.

    Returns:
        The largest difference between ONNX Runtime's features of random images and those of `network` in evaluation
        mode, relative to the largest feature.

    Raises:
        UserError: packages are missing, or the features differ by more than `TOLERANCE`.
    """
    need_onnx()
    shipped = deploy(network).cpu().float()
    example = torch.randn(2, 3, *image)
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings from inside the exporter
            torch.onnx.export(
                shipped,
                (example,),
                str(temporary),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        if notes:
            _write_notes(temporary, notes)
        images = _examples(image)
        theirs = open_session(temporary).run(None, {"images": images.numpy()})[0]
        return _compared(path, _features(network, images), theirs, "ONNX Runtime")


def _write_notes(path: Path, notes: Mapping[str, str]) -> None:
    """Add metadata to an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(notes))
    onnx.save(model, path)


def _examples(image: tuple[int, int]) -> torch.Tensor:
    """Three random images (3, 3, H, W)."""
    return torch.randn(3, 3, *image, generator=torch.Generator().manual_seed(0))


def _features(network: nn.Module, images: torch.Tensor) -> NDArray[Any]:
    """The features (B, D) of a copy of the network in evaluation mode, before layers are removed or merged."""
    with torch.inference_mode():
        features: torch.Tensor = copy.deepcopy(network).cpu().float().eval()(images)
        return features.numpy()


def _compared(path: StrPath, ours: NDArray[Any], theirs: NDArray[Any], runtime: str) -> float:
    """The largest difference of two sets of features, relative to the largest feature.

    Raises:
        UserError: it is above `TOLERANCE`.
    """
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} was not written: {runtime}'s features differ from torch's by {difference:.1e} of the "
            f"largest, more than {TOLERANCE:g}"
        )
    return difference


def open_session(path: Path) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session on the CPU with as many threads as torch."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_session(network: nn.Module, image: tuple[int, int]) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session of the network, which leaves no file behind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(network, path, image)
        return open_session(path)
