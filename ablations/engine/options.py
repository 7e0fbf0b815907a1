"""Options that choose where runs are carried out. Importing this module does not import torch."""

from dataclasses import dataclass, fields
from typing import Literal

from msinet.errors import UserError


@dataclass(frozen=True)
class ClusterOptions:
    """Where runs are carried out. On a CPU, only the number of threads can change their results."""

    on: Literal["here", "ray", "slurm"] = "here"
    """here: this machine; ray: tasks of a Ray cluster; slurm: SLURM jobs"""
    address: str = ""
    """address of a running Ray cluster: HOST:PORT, or auto for this machine's; empty: start one for this command"""
    threads: int = 0
    """CPU cores per run on a cluster; 0: one for small images without a GPU, else four"""
    attempts: int = 3
    """attempts per run on a cluster, if its process or machine is lost"""
    partition: str = ""
    """SLURM partition; empty: the default one"""
    hours: float = 24.0
    """time limit of a SLURM job; a longer run continues in another job"""
    submit: Literal["slurm", "local"] = "slurm"
    """local: jobs are processes on this machine, to test --on slurm without SLURM"""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.hours <= 0 or self.threads < 0:
            raise UserError("--attempts must be at least 1, --hours above 0 and --threads at least 0")
        if not self.remote and any(getattr(self, one.name) != one.default for one in fields(self)):
            raise UserError(
                "cluster options, such as --threads and --partition, have no effect without --on ray or slurm"
            )

    @property
    def remote(self) -> bool:
        """True if runs are submitted to a cluster."""
        return self.on != "here"
