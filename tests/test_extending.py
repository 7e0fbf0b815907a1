"""A network and a data set of one file each go through tables, benchmarks, report and export."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("msinet", "bench", "ablations", "reports")
NETWORK = '''
"""A toy network: one convolution."""

from torch import Tensor, nn

from msinet.models.heads import ReIDNet, assemble
from msinet.models.registry import NetworkCard, register


class Convolution(nn.Module):
    """Both maps are those of one convolution of stride 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 16, 16)
        self.local_channels = self.channels = channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(images)  # (B, C, H/16, W/16)
        return x, x


@register(NetworkCard(name="toynet", label="ToyNet", order=35, studies=("table2",)))
def toynet(num_classes: int, *, width: float = 1.0, neck: str = "bn", pam: bool = False) -> ReIDNet:
    """A convolution and a neck."""
    return assemble(Convolution(int(64 * width)), neck, num_classes, pam=pam)
'''
DATASET = '''
"""A toy data set: `<identity>_<camera>_<shot>.jpg` in the folders train, query and gallery."""

from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import image_files, single_draw


@register(
    DatasetCard(
        name="toy_set", short="TOY", order=90, kind="person", folders=("Toy",), needs=("train", "query", "gallery")
    )
)
def toy_set(root: Path) -> Dataset:
    """Identity and camera are in the file name."""
    splits = [
        [Image(path, *map(int, path.stem.split("_")[:2])) for path in image_files(root / split)]
        for split in ("train", "query", "gallery")
    ]
    test, draws = single_draw(*splits[1:])
    return Dataset("toy_set", "Toy", root, tuple(splits[0]), test, draws, remove_same_camera=True)
'''


def contents(folder: Path) -> dict[str, str]:
    """The hash of every source file of the packages."""
    paths = [path for package in PACKAGES for path in (folder / package).rglob("*") if path.is_file()]
    kept = [path for path in paths if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the two new files, and images of the new data set in `images`."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "msinet" / "models" / "toynet.py").write_text(NETWORK.lstrip(), encoding="utf-8")
    (folder / "msinet" / "data" / "layouts" / "toyset.py").write_text(DATASET.lstrip(), encoding="utf-8")
    chance = np.random.default_rng(0)
    for split, identities, cameras in (("train", 8, (1, 2)), ("query", 4, (1,)), ("gallery", 4, (2, 3))):
        (folder / "images" / "Toy" / split).mkdir(parents=True)
        for identity, camera, shot in product(range(identities), cameras, range(2)):
            pixels = chance.integers(0, 256, (32, 16, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "images" / "Toy" / split / f"{identity}_{camera}_{shot}.jpg")
    return folder


@pytest.fixture(scope="module")
def command(checkout: Path) -> Callable[..., str]:
    """Runs a command of the copy and returns what it prints."""

    def run(*words: object, status: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(checkout), "GLIBC_TUNABLES": ""}
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)], cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_a_network_and_a_data_set_of_one_file_each_go_through_everything(checkout: Path, command) -> None:
    before = contents(checkout)
    assert before.keys() - contents(ROOT).keys() == {"msinet/models/toynet.py", "msinet/data/layouts/toyset.py"}
    images = checkout / "images"
    asked = ("--profile", "smoke", "--data-root", images, "--datasets", "toy_set")
    small = ("--height", 32, "--width", 16)

    listed = command("msinet", "list")
    assert "ToyNet" in listed
    assert "TOY" in listed
    checked = command("msinet", "data", "check", images)
    assert "toy_set: Toy in" in checked
    assert "all 56 images decode" in checked
    assert "height" in command("msinet", "recipe", "--profile", "smoke", "--dataset", "toy_set", "--model", "toynet")

    # The default networks of Table 2.
    command("ablations", "run", "table2", *asked, "--device", "cpu", "--no-progress")
    table = command("reports", "table", "table2", *asked)
    assert "ToyNet" in table
    assert "TOY" in table
    assert "MSINet" in table

    assert "toynet" in command("bench", "cost", *small)
    timed = ("--batches", 1, "--rounds", 1, "--seconds", 0.01, "--device", "cpu", *small)
    latency = checkout / "latency.csv"
    assert "ToyNet" in command("bench", "latency", "--models", "toynet", "toynet_x0_25", *timed, "--out", latency)

    command("reports", "build", *asked, "--latency", latency, "--out", checkout / "report")
    page = (checkout / "report" / "index.html").read_text(encoding="utf-8")
    assert "ToyNet" in page
    assert "TOY" in page

    experiments = (checkout / "results" / "runs").glob("*/experiment.json")
    folders = {json.loads(path.read_text(encoding="utf-8"))["model"]: path.parent for path in experiments}
    toy = folders["toynet_x0_25"] / "model.safetensors"
    found = command(
        "msinet", "evaluate", "--weights", toy, "--data-root", images, "--dataset", "toy_set", "--device", "cpu"
    )
    assert "toy_set: mAP" in found
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert "features equal torch's" in command("msinet", "export", "--weights", toy, "--out", checkout / "toynet.onnx")
    assert contents(checkout) == before
