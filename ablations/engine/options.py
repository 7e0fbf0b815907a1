"""Options of commands that carry out runs. Importing this module does not import torch."""

from dataclasses import dataclass
from typing import Literal

from msinet.errors import UserError


@dataclass(frozen=True)
class ClusterOptions:
    """Where runs are carried out. None of this changes their results on a CPU, unless the number of threads does."""

    on: Literal["here", "ray", "slurm"] = "here"
    """here: on this machine; ray: as tasks of a Ray cluster; slurm: as jobs of SLURM"""
    address: str = ""
    """of a running Ray cluster: HOST:PORT, or auto for that of this machine; empty: one is started for this command"""
    threads: int = 0
    """CPU cores of a run on a cluster; 0: one if its images are small and it has no GPU, else four"""
    attempts: int = 3
    """on a cluster: attempts at a run whose process or machine is lost"""
    partition: str = ""
    """of SLURM; empty: its default"""
    hours: float = 24.0
    """time limit of a job of SLURM; a run that needs longer goes on in another job"""
    submit: Literal["slurm", "local"] = "slurm"
    """local: jobs are processes of this machine, to try --on slurm without SLURM"""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.hours <= 0 or self.threads < 0:
            raise UserError("--attempts must be at least 1, --hours above 0 and --threads at least 0")

    @property
    def remote(self) -> bool:
        """True if runs are handed over to a cluster."""
        return self.on != "here"
