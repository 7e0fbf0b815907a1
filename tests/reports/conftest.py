"""A store with a few finished trainings of the smallest kind."""

from pathlib import Path

import pytest

from ablations.__main__ import main
from ablations.catalogue import Request

#: Networks of that store, and its sets: one with cameras and a single draw, one without cameras and with ten.
MODELS = ("msinet_x0_25", "osnet_x0_25")
DATASETS = ("market1501", "vehicleid")


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """Table 2 on two of the small data sets, a step of training each. Shared by all tests: do not change its runs."""
    request = Request(
        profile="smoke",
        data_root=data_root,
        datasets=DATASETS,
        models=MODELS,
        recipe=("epochs=1", "steps_per_epoch=2"),
        store=tmp_path_factory.mktemp("trained"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.__main__.show", lambda *_, **__: 0)  # starts a process of its own
        words = ["run", "table2", *request.as_args(), "--device", "cpu", "--no-progress"]
        assert main(words) == 0
    return request
