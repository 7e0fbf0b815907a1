"""MSINet (CVPR 2023): light networks for object re-identification, trained and ranked.

The functions of `__all__` are the interface for programs (docs/own-images.md); importing the package does not import
torch.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msinet.data.decoding import decode
    from msinet.data.transforms import normalize
    from msinet.neighbours import image_files, load_network
    from msinet.retrieval import top_k

__all__ = ["decode", "image_files", "load_network", "normalize", "top_k"]

try:
    __version__ = version("msinet-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    from msinet.lazy import lazy

    modules = {"data.decoding": "decode", "data.transforms": "normalize", "retrieval": "top_k"}
    return lazy(__name__, name, neighbours="image_files load_network", **modules)
