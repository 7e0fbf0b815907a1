"""MSINet (CVPR 2023): light networks for object re-identification, trained and ranked."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("msinet-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
