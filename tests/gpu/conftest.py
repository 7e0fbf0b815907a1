"""Everything in this folder needs a CUDA device and is skipped without one.

Warnings are not errors here: what a driver or a library warns of depends on the machine.
"""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# torch reads it in the first matrix product of the process, and refuses deterministic algorithms without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.filterwarnings("default"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def device() -> torch.device:
    """The GPU, in use: without it, memory statistics are an error."""
    device = torch.device("cuda", 0)
    torch.empty(1, device=device)
    return device
