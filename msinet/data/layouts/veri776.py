"""VeRi-776 (Liu et al., ECCV 2016): file names state vehicle and camera; list files, if present, give the splits."""

import re
from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import image_files, inside, list_lines, number_of, other_files, parse_name, single_draw

VERI_NAME = re.compile(r"(\d+)_c(\d+)_")


@register(
    DatasetCard(
        name="veri776",
        short="VR",
        order=30,
        kind="vehicle",
        folders=("VeRi", "veri/VeRi", "veri776", "veri"),
        needs=("image_train", "image_query", "image_test"),
        expected={"train": (576, 37778, 20), "query": (200, 1678, 19), "gallery": (200, 11579, 19)},
        across=("vehicleid",),
    )
)
def veri776(root: Path) -> Dataset:
    """Names `VVVV_cCCC_TTTTTTTT_I.jpg`, from the name lists if present. The gallery also holds the queries."""
    test, draws = single_draw(_read(root, "query"), _read(root, "test"))
    train = tuple(_read(root, "train"))
    read = [root / f"image_{split}" for split in ("train", "query", "test") if not _list_of(root, split).is_file()]
    return Dataset("veri776", "VeRi-776", root, train, test, draws, remove_same_camera=True, skipped=other_files(*read))


def _list_of(root: Path, split: str) -> Path:
    return root / f"name_{split}.txt"


def _read(root: Path, split: str) -> list[Image]:
    folder, source = root / f"image_{split}", _list_of(root, split)
    if source.is_file():
        paths = [inside(folder, line, source, number) for number, line in list_lines(source)]
    else:
        paths = image_files(folder)
    images = []
    for path in paths:
        match = parse_name(path, VERI_NAME, "<vehicle>_c<camera>_..., as 0001_c001_00016450_0.jpg")
        images.append(Image(path, number_of(match[1], str(path)), number_of(match[2], str(path))))
    return images
