"""MSMT17, versions 1 and 2 (Wei et al., CVPR 2018): list files name images and identities."""

from pathlib import Path

from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts.files import inside, list_lines, number_of, single_draw
from msinet.errors import DataError


@register(
    DatasetCard(
        name="msmt17",
        short="MS",
        order=20,
        kind="person",
        folders=("MSMT17_V1", "MSMT17_V2", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2", "msmt17", "MSMT17"),
        needs=("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"),
        expected={"train": (1041, 32621, 15), "query": (3060, 11659, 15), "gallery": (3060, 82161, 15)},
        across=("market1501",),
        numbers_restart=True,
    )
)
def msmt17(root: Path) -> Dataset:
    """Lists of `<path> <identity>`; train is list_train + list_val. Test identities restart at 0."""
    version, train_folder, test_folder = (
        ("V2", "mask_train_v2", "mask_test_v2") if (root / "mask_train_v2").is_dir() else ("V1", "train", "test")
    )
    train = [image for name in ("train", "val") for image in _read(root / train_folder, root / f"list_{name}.txt")]
    query, gallery = (_read(root / test_folder, root / f"list_{name}.txt") for name in ("query", "gallery"))
    test, draws = single_draw(query, gallery)
    return Dataset("msmt17", f"MSMT17_{version}", root, tuple(train), test, draws, remove_same_camera=True)


def _read(folder: Path, source: Path) -> list[Image]:
    images = []
    for number, line in list_lines(source):
        where = f"{source}:{number}"
        parts = line.rsplit(maxsplit=1)
        if len(parts) != 2 or not parts[1].isdecimal():
            raise DataError(f"{where}: {line!r} does not read as '<path> <identity>'")
        path = inside(folder, parts[0], source, number)
        fields = path.stem.split("_")
        if len(fields) < 3 or not fields[2].isdecimal():
            raise DataError(f"{where}: no camera in the third field of {path.name!r}")
        images.append(Image(path, number_of(parts[1], where), number_of(fields[2], where)))
    return images
