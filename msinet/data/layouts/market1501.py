"""Market-1501 (Zheng et al., ICCV 2015): identity and camera stand in the file name."""

import re
from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import image_files, number_of, parse_name, single_draw

MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)")


@register(
    DatasetCard(
        name="market1501",
        short="M",
        order=10,
        kind="person",
        folders=("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", "Market-1501"),
        needs=("bounding_box_train", "query", "bounding_box_test"),
        expected={"train": (751, 12936, 6), "query": (750, 3368, 6), "gallery": (751, 15913, 6)},
    )
)
def market1501(root: Path) -> Dataset:
    """`PPPP_cCsS_FFFFFF_BB.jpg`; identity -1 is junk and left out, identity 0 a distractor and kept."""

    def read(folder: str) -> tuple[list[Image], int]:
        images, junk = [], 0
        for path in image_files(root / folder):
            match = parse_name(path.name, MARKET_NAME, path, "<identity>_c<camera>..., as 0002_c1s1_000451_03.jpg")
            if match[1] == "-1":
                junk += 1
            else:
                images.append(Image(path, number_of(match[1], str(path)), number_of(match[2], str(path))))
        return images, junk

    (train, junk1), (query, junk2), (gallery, junk3) = (
        read(folder) for folder in ("bounding_box_train", "query", "bounding_box_test")
    )
    test, draws = single_draw(query, gallery)
    return Dataset("market1501", "Market-1501", root, tuple(train), test, draws, True, junk1 + junk2 + junk3)
