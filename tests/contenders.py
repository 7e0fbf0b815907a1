"""Contenders for tests of measurements in processes of their own. Imports no torch: processes start fast."""

import os
import signal
import time
from collections.abc import Sequence

from bench.isolation import Report


def measured(items: Sequence[str], report: Report) -> None:
    """Report each item with its length; some behave badly."""
    for number, item in enumerate(items):
        report.at(number)
        if item == "raises":
            raise ValueError("this one\nis broken")
        if item == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "exits":
            os._exit(3)
        if item == "hangs":
            time.sleep(60)
        if item != "silent":
            report.row(number, {"length": len(item), "process": os.getpid()})


def raced(items: Sequence[str], report: Report) -> None:
    """Prepare all items, then report on all: a bad one costs a new start without it."""
    for number, item in enumerate(items):
        report.at(number)
        if item.startswith("bad"):
            raise RuntimeError(f"{item} cannot be prepared")
    for number in range(len(items)):
        report.row(number, {"together": len(items)})


def breaks_the_gpu(items: Sequence[str], report: Report) -> None:
    """Report each item; "bad" makes an error after which its process cannot use the GPU."""
    import torch

    for number, item in enumerate(items):
        report.at(number)
        values = torch.zeros(2, device="cuda")
        if item == "bad":
            values[torch.tensor([5], device="cuda")] += 1
        torch.cuda.synchronize()
        report.row(number, {"sum": float(values.sum())})
