"""Small data sets in the four native layouts, drawn in a second, and isolation from the user's machine.

Property tests draw the same examples in each run, so that a run tells about the change and not about chance.
MSINET_FUZZ=20 draws others, twenty times as many.
"""

import os
from pathlib import Path

import hypothesis
import numpy as np
import PIL.Image
import pytest
import torch

from msinet.synthetic import Size, render

hypothesis.settings.register_profile("same", derandomize=True)
if "MSINET_FUZZ" not in os.environ:
    hypothesis.settings.load_profile("same")

TRAIN_IDENTITIES = 8
TEST_IDENTITIES = 5


@pytest.fixture(autouse=True, scope="session")
def _isolated(tmp_path_factory: pytest.TempPathFactory):
    """Decoded images go to a folder of the test run; no reference results; one thread and one run at once."""
    patch = pytest.MonkeyPatch()
    patch.setattr("ablations.engine.parallel.cores", lambda: 1)
    patch.setenv("MSINET_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("MSINET_REFERENCE", str(tmp_path_factory.mktemp("reference")))
    patch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    patch.undo()


def draw(path: Path, kind: int, identity: int, camera: int, shot: int, height: int = 48, width: int = 24) -> None:
    """A two-coloured figure whose colours tell its identity, on a background of its camera."""
    rng = np.random.default_rng((kind, identity + 2, camera, shot))
    colours = np.random.default_rng((kind, identity + 2)).integers(40, 216, (2, 3))
    pixels = np.full((height, width, 3), 60 + 30 * (camera % 5), dtype=np.float64)
    left = int(rng.integers(2, width // 3))
    pixels[height // 6 : height // 2, left : left + width // 2] = colours[0]
    pixels[height // 2 : height - 4, left : left + width // 2] = colours[1]
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path, quality=92)


def make_market1501(root: Path) -> Path:
    """Training identities with 1, 2, 3 and more images; junk -1; distractors 0000; a file that is no image."""
    folder = root / "Market-1501-v15.09.15"

    def add(split: str, identity: int, camera: int, shot: int) -> None:
        number = "-1" if identity < 0 else f"{identity:04d}"
        draw(folder / split / f"{number}_c{camera}s1_{shot:06d}_01.jpg", 1, identity, camera, shot)

    for i in range(TRAIN_IDENTITIES):
        for shot in range((1, 2, 3)[i] if i < 3 else 5):
            add("bounding_box_train", 2 * i + 2, 1 + shot % 3, shot)
    for i in range(TEST_IDENTITIES):
        for camera in (1, 2, 3):
            add("bounding_box_test", 2 * i + 1, camera, 10)
            add("bounding_box_test", 2 * i + 1, camera, 11)
        add("query", 2 * i + 1, 1, 20)
        add("query", 2 * i + 1, 2, 21)
    for shot in range(3):
        add("bounding_box_test", -1, 1 + shot, shot)
        add("bounding_box_test", 0, 1 + shot, shot)
    (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"not an image")
    return folder


def make_msmt17(root: Path, version: str = "V1") -> Path:
    """Identities of the test part start at 0 again."""
    folder = root / f"MSMT17_{version}"
    train, test = ("train", "test") if version == "V1" else ("mask_train_v2", "mask_test_v2")
    lists: dict[str, list[str]] = {name: [] for name in ("train", "val", "query", "gallery")}

    def add(split: str, part: str, identity: int, camera: int, shot: int) -> None:
        name = f"{identity:04d}/{identity:04d}_{shot:03d}_{camera:02d}_0303morning_0015_0.jpg"
        draw(folder / part / name, 2 if part == train else 3, identity, camera, shot)
        lists[split].append(f"{name} {identity}")

    for identity in range(TRAIN_IDENTITIES):
        for shot in range(5):
            add("val" if shot == 4 else "train", train, identity, 1 + shot % 4, shot)
    for identity in range(TEST_IDENTITIES):
        for shot in range(6):
            add("query" if shot < 2 else "gallery", test, identity, 1 + shot % 3, shot)
    for name, lines in lists.items():
        (folder / f"list_{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_veri776(root: Path, *, lists: bool = True) -> Path:
    """Query images lie in the gallery as well, as in the real set."""
    folder = root / "VeRi"
    names: dict[str, list[str]] = {split: [] for split in ("train", "query", "test")}

    def add(split: str, identity: int, camera: int, shot: int) -> None:
        name = f"{identity:04d}_c{camera:03d}_{shot:08d}_0.jpg"
        draw(folder / f"image_{split}" / name, 4, identity, camera, shot, 32, 32)
        names[split].append(name)

    for i in range(TRAIN_IDENTITIES):
        for shot in range(4):
            add("train", 10 + i, 1 + shot % 3, shot)
    for i in range(TEST_IDENTITIES):
        for shot in range(4):
            add("test", 30 + i, 1 + shot, shot)
        add("query", 30 + i, 1, 0)
    if lists:
        for split, entries in names.items():
            (folder / f"name_{split}.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folder


def make_vehicleid(root: Path) -> Path:
    """Three test lists; one vehicle of the lists has a single image, which is then always gallery."""
    folder = root / "VehicleID"
    number = 0

    def add(identity: int, shot: int) -> str:
        nonlocal number
        number += 1
        draw(folder / "image" / f"{number:07d}.jpg", 5, identity, 0, shot, 32, 32)
        return f"{number:07d} {identity}"

    (folder / "train_test_split").mkdir(parents=True)
    train = [add(100 + i, shot) for i in range(TRAIN_IDENTITIES) for shot in range(4)]
    test = [add(200 + i, shot) for i in range(TEST_IDENTITIES) for shot in range(1 if i == 4 else 4)]
    for name, lines in {
        "train_list": train,
        "test_list_800": test[:8],
        "test_list_1600": test[:12],
        "test_list_2400": test,
    }.items():
        (folder / "train_test_split" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the four sets. Shared by all tests: do not change it."""
    root = tmp_path_factory.mktemp("data")
    make_market1501(root)
    make_msmt17(root)
    make_veri776(root)
    make_vehicleid(root)
    return root


@pytest.fixture(scope="session")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the rendered sets, at their smallest. Shared by all tests: do not change it."""
    root = tmp_path_factory.mktemp("world")
    render(root, Size(8, 6, 5, 5, 32), processes=1, progress=False)
    return root
