"""Options of a run that do not change its results. Importing this module does not import torch."""

import os
from dataclasses import dataclass

from msinet.errors import UserError


@dataclass(frozen=True)
class RankingOptions:
    """Options of the execution. None of them changes the results on the CPU."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""
    cache: bool | None = None
    """keep decoded images on disk; None: if they take less than 4 GiB"""
    progress: bool = True
    """show progress bars"""


@dataclass(frozen=True)
class RunOptions(RankingOptions):
    """Options of the execution. None of them changes the results on the CPU."""

    workers: int = 0
    """processes that prepare training batches"""
    resume: bool = True
    """go on from where an earlier run of the same command stopped"""
    evaluate_every: int = 0
    """epochs between evaluations on the test set, for curves; 0: only after the last epoch"""
    deterministic: bool = False
    """on a GPU, only algorithms that give the same bits every time, which may be slower; on the CPU it is always so"""
    graphs: bool | None = None
    """on a GPU, capture the steps of a training as CUDA graphs; None: unless deterministic or with several processes"""

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
