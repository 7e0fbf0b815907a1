"""Market-1501 (Zheng et al., ICCV 2015): file names state identity and camera."""

import re
from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import image_files, number_of, other_files, parse_name, single_draw

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
        distractor=0,
    )
)
def market1501(root: Path) -> Dataset:
    """Names `PPPP_cCsS_FFFFFF_BB.jpg`. Identity -1 (junk) is left out, identity 0 (distractors) is kept."""
    folders = [root / name for name in ("bounding_box_train", "query", "bounding_box_test")]
    splits = [_read(folder) for folder in folders]
    train, query, gallery = ([image for image in images if image.identity >= 0] for images in splits)
    junk = sum(map(len, splits)) - len(train) - len(query) - len(gallery)
    test, draws = single_draw(query, gallery)
    return Dataset(
        "market1501",
        "Market-1501",
        root,
        tuple(train),
        test,
        draws,
        remove_same_camera=True,
        junk=junk,
        skipped=other_files(*folders),
    )


def _read(folder: Path) -> list[Image]:
    images = []
    for path in image_files(folder):
        match = parse_name(path, MARKET_NAME, "<identity>_c<camera>..., as 0002_c1s1_000451_03.jpg")
        identity = -1 if match[1] == "-1" else number_of(match[1], str(path))
        images.append(Image(path, identity, number_of(match[2], str(path))))
    return images
