"""Execution options, which do not change results on the CPU. Importing this module does not import torch."""

import os
from dataclasses import dataclass

from msinet.errors import UserError


@dataclass(frozen=True)
class RankingOptions:
    """Options of the execution. On the CPU they do not change the results."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""
    cache: bool | None = None
    """keep decoded images and features of folders on disk; None: features always, images if they take at most 4 GiB and
    fit on the disk"""
    progress: bool = True
    """show progress bars"""


@dataclass(frozen=True)
class RunOptions(RankingOptions):
    """Options of the execution. On the CPU they do not change the results."""

    workers: int = 0
    """processes that prepare training batches"""
    resume: bool = True
    """continue an interrupted run of the same command"""
    evaluate_every: int = 0
    """epochs between evaluations on the test set, for curves; 0: only after the last epoch"""
    deterministic: bool = False
    """on a GPU, use only bit-for-bit deterministic algorithms, which may be slower; CPUs are always deterministic"""
    graphs: bool | None = None
    """on a GPU, capture training steps as CUDA graphs; None: yes, except with --deterministic, several processes,
    searches with leak=True and methods without labels, which do not support them"""

    def __post_init__(self) -> None:
        for name in ("workers", "evaluate_every"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")

    def prepare(self) -> None:
        """Choose torch's algorithms. Call this before anything is computed on a GPU."""
        import torch

        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
            torch.use_deterministic_algorithms(True)
