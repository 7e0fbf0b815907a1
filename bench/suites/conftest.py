"""Files of `--benchmark-json` describe versions and machine by the names of all other records."""

import torch

from msinet.environment import describe


def pytest_benchmark_generate_machine_info() -> dict[str, str | int]:
    """Versions and machine, without the names of host and user."""
    return describe(torch.device("cpu"))


def pytest_benchmark_update_json(output_json: dict[str, object]) -> None:
    """Leave out the description of the commit, which `machine_info` has as `code`."""
    del output_json["commit_info"]
