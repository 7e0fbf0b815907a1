"""Export to ONNX: the deployed form of a network, compared with torch."""

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from msinet.errors import UserError
from msinet.io import StrPath, atomic_path
from msinet.models.deploy import deploy

if TYPE_CHECKING:
    import onnxruntime

#: Largest difference of features, relative to the largest feature, that an export may show.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def need_onnx() -> None:
    """Raise a `UserError` with the command to install packages if any is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'msinet-bench[onnx]'")


def export_onnx(network: nn.Module, path: StrPath, image: tuple[int, int]) -> float:
    """Write the deployed form of a network as an ONNX file, and compare its features with torch's.

    Its input is `images`, (B, 3, H, W) for any B, normalised with ImageNet's statistics. Its output is `features`,
    (B, D), not of unit length.

    Args:
        network: with the weights to export.
        path: of the file, which appears after the comparison.
        image: (height, width).

    Returns:
        The largest difference between ONNX Runtime's and torch's features of random images, relative to the largest.

    Raises:
        UserError: packages are missing, or the features differ by more than `TOLERANCE`.
    """
    need_onnx()
    shipped = deploy(network).cpu().float()
    example = torch.randn(2, 3, *image)
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's internals
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
        difference = _difference(shipped, temporary, image)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path} was not written: ONNX Runtime's features differ from torch's by {difference:.1e} of the "
                f"largest, more than {TOLERANCE:g}"
            )
    return difference


def _difference(network: nn.Module, path: Path, image: tuple[int, int]) -> float:
    images = torch.randn(3, 3, *image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = network(images.contiguous(memory_format=torch.channels_last)).numpy()
    theirs = open_session(path).run(None, {"images": images.numpy()})[0]
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def open_session(path: Path) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session on the CPU with as many threads as torch."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_session(network: nn.Module, image: tuple[int, int]) -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session of the network, without a file that remains."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(network, path, image)
        return open_session(path)
