"""VeRi-776 (Liu et al., ECCV 2016): vehicle and camera stand in the file name, splits in lists where there are any."""

import re
from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import image_files, inside, list_lines, number_of, parse_name, single_draw

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
    """`VVVV_cCCC_TTTTTTTT_I.jpg` by the name lists where present. The gallery holds the queries too."""

    def read(split: str) -> list[Image]:
        folder, source = root / f"image_{split}", root / f"name_{split}.txt"
        if source.is_file():
            paths = [inside(folder, line, source, number) for number, line in list_lines(source)]
        else:
            paths = image_files(folder)
        matches = [
            parse_name(p.name, VERI_NAME, p, "<vehicle>_c<camera>_..., as 0001_c001_00016450_0.jpg") for p in paths
        ]
        return [
            Image(path, number_of(m[1], str(path)), number_of(m[2], str(path)))
            for path, m in zip(paths, matches, strict=True)
        ]

    test, draws = single_draw(read("query"), read("test"))
    return Dataset("veri776", "VeRi-776", root, tuple(read("train")), test, draws, True)
