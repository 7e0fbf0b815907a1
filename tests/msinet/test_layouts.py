"""The four layouts: what each split holds, what is refused, and with which words."""

import itertools
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.data import layouts
from msinet.data.datasets import Dataset, DatasetCard, Image, register
from msinet.data.layouts import (
    available,
    card_of,
    cards,
    folders_behind,
    is_across,
    load_dataset,
    main_datasets,
    short_name,
)
from msinet.data.layouts.vehicleid import vehicleid_draw
from msinet.errors import DataError, UserError

Copy = Callable[[str], Path]
Row = tuple[str, int, int]  # path within the set, identity, camera
NAMES = ("market1501", "msmt17", "veri776", "vehicleid", "vehicleid_1600", "vehicleid_800")


def rows(dataset: Dataset, split: str) -> list[Row]:
    return [(i.path.relative_to(dataset.root).as_posix(), i.identity, i.camera) for i in dataset.splits()[split]]


def counts(dataset: Dataset) -> dict[str, tuple[int, int, set[int]]]:
    """Identities, images and cameras of each split."""
    return {
        split: (len({i.identity for i in images}), len(images), {i.camera for i in images})
        for split, images in dataset.splits().items()
    }


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def as_msmt17_v2(v1: Path) -> Path:
    """The second version differs in the names of its folders."""
    v2 = v1.with_name("MSMT17_V2")
    shutil.copytree(v1, v2)
    (v2 / "train").rename(v2 / "mask_train_v2")
    (v2 / "test").rename(v2 / "mask_test_v2")
    return v2


# --- What the splits hold ------------------------------------------------------------------------


def test_market1501(data_root: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    for split, folder in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        files = sorted(f.name for f in (data_root / "Market-1501-v15.09.15" / folder).glob("*.jpg"))
        # read by position, not by pattern: 0002_c1s1_000000_01.jpg
        expected = [(f"{folder}/{f}", int(f[:4]), int(f[6])) for f in files if not f.startswith("-1")]
        assert rows(dataset, split) == expected
    assert counts(dataset) == {"train": (8, 31, {1, 2, 3}), "query": (5, 10, {1, 2}), "gallery": (6, 33, {1, 2, 3})}
    assert (dataset.name, dataset.layout, dataset.remove_same_camera) == ("market1501", "Market-1501", True)
    assert Counter(i.identity for i in dataset.train) == {2: 1, 4: 2, 6: 3, 8: 5, 10: 5, 12: 5, 14: 5, 16: 5}


def test_junk_is_counted_in_every_folder(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    for split in ("query", "bounding_box_train"):
        shutil.copy(folder / "bounding_box_test" / "-1_c1s1_000000_01.jpg", folder / split)
    dataset = load_dataset("market1501", folder)
    assert dataset.junk == 5
    assert counts(dataset)["train"][1] == 31
    assert counts(dataset)["query"][1] == 10


def test_only_images_are_read_whatever_the_case_of_their_suffix(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    image = folder / "query" / "0001_c1s1_000020_01.jpg"
    image.rename(image.with_suffix(".JPG"))
    (folder / "query" / "._0001_c1s1_000020_01.jpg").write_bytes(b"left by macOS")
    (folder / "query" / "readme.txt").write_text("no image")
    assert [i[0] for i in rows(load_dataset("market1501", folder), "query")][:2] == [
        "query/0001_c1s1_000020_01.JPG",
        "query/0001_c2s1_000021_01.jpg",
    ]


@pytest.mark.parametrize(
    ("version", "train", "test"), [("V1", "train", "test"), ("V2", "mask_train_v2", "mask_test_v2")]
)
def test_msmt17(own_copy: Copy, version: str, train: str, test: str) -> None:
    folder = own_copy("msmt17")
    if version == "V2":
        v1, folder = folder, as_msmt17_v2(folder)
        shutil.rmtree(v1)
    dataset = load_dataset("msmt17", folder.parent)
    for split, part, lists in (
        ("train", train, ("train", "val")),
        ("query", test, ("query",)),
        ("gallery", test, ("gallery",)),
    ):
        expected = []
        for line in itertools.chain(*(lines(folder / f"list_{name}.txt") for name in lists)):
            path, identity = line.split()
            expected.append((f"{part}/{path}", int(identity), int(path[14:16])))  # 0000/0000_000_01_0303morning...
        assert rows(dataset, split) == expected
    assert counts(dataset) == {"train": (8, 40, {1, 2, 3, 4}), "query": (5, 10, {1, 2}), "gallery": (5, 20, {1, 2, 3})}
    assert (dataset.layout, dataset.root) == (f"MSMT17_{version}", folder.resolve())
    assert (dataset.remove_same_camera, dataset.junk) == (True, 0)


def test_msmt17_versions_side_by_side(own_copy: Copy) -> None:
    v1 = own_copy("msmt17")
    v2 = as_msmt17_v2(v1)
    assert load_dataset("msmt17", v1.parent).root == v1.resolve()  # the paper's version goes first
    assert load_dataset("msmt17", v2).layout == "MSMT17_V2"
    assert load_dataset("msmt17", v1).fingerprint != load_dataset("msmt17", v2).fingerprint


@pytest.mark.parametrize("with_lists", [True, False])
def test_veri776(own_copy: Copy, with_lists: bool) -> None:
    folder = own_copy("veri776")
    expected = {part: lines(folder / f"name_{part}.txt") for part in ("train", "query", "test")}
    if not with_lists:
        for part, names in expected.items():
            names.sort()
            (folder / f"name_{part}.txt").unlink()
    dataset = load_dataset("veri776", folder)
    for split, part in (("train", "train"), ("query", "query"), ("gallery", "test")):
        # read by position: 0010_c001_00000000_0.jpg
        assert rows(dataset, split) == [(f"image_{part}/{f}", int(f[:4]), int(f[6:9])) for f in expected[part]]
    assert counts(dataset) == {"train": (8, 32, {1, 2, 3}), "query": (5, 5, {1}), "gallery": (5, 20, {1, 2, 3, 4})}
    assert (dataset.layout, dataset.remove_same_camera) == ("VeRi-776", True)
    gallery = {i.path.name for i in dataset.splits()["gallery"]}
    assert all(i.path.name in gallery for i in dataset.splits()["query"])


def test_veri776_lists_choose_and_order(own_copy: Copy) -> None:
    folder = own_copy("veri776")
    chosen = [*reversed(lines(folder / "name_train.txt"))][3:]
    (folder / "name_train.txt").write_text("\r\n".join(chosen) + "\r\n\r\n")  # as written on Windows
    assert [i.path.name for i in load_dataset("veri776", folder).train] == chosen


@pytest.mark.parametrize(
    ("name", "size", "query", "gallery"),
    [
        ("vehicleid", 2400, (4, 12, {0}), (5, 5, {0})),  # the fifth vehicle has one image, which is no query
        ("vehicleid_1600", 1600, (3, 9, {0}), (3, 3, {0})),
        ("vehicleid_800", 800, (2, 6, {0}), (2, 2, {0})),
    ],
)
def test_vehicleid(
    data_root: Path, name: str, size: int, query: tuple[int, int, set[int]], gallery: tuple[int, int, set[int]]
) -> None:
    dataset = load_dataset(name, data_root)
    assert counts(dataset) == {"train": (8, 32, {0}), "query": query, "gallery": gallery}
    for split, file in ((dataset.train, "train_list"), (dataset.test, f"test_list_{size}")):
        expected = []
        for line in lines(data_root / "VehicleID" / "train_test_split" / f"{file}.txt"):
            number, identity = line.split()
            expected.append((dataset.root / "image" / f"{number}.jpg", int(identity)))
        assert [(i.path, i.identity) for i in split] == expected
    assert (dataset.name, dataset.layout, dataset.remove_same_camera) == (name, "VehicleID", False)
    assert len(dataset.draws) == 10
    for draw in dataset.draws:
        assert len({dataset.test[i].identity for i in draw.gallery}) == len(draw.gallery) == gallery[0]
        assert sorted([*draw.query, *draw.gallery]) == list(range(query[1] + gallery[1]))
    assert len({tuple(draw.gallery) for draw in dataset.draws}) > 5  # 16 possible galleries at the least


def test_labels_do_not_depend_on_the_order_of_images(data_root: Path) -> None:
    images = tuple(Image(data_root / f"{i}.jpg", identity, 1) for i, identity in enumerate((70, 3, 70, 11)))
    dataset = Dataset("a", "b", data_root, images, (), (), True)
    assert dataset.labels.tolist() == [2, 0, 2, 1]
    assert dataset.num_classes == 3


# --- VehicleID's draws ---------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 20))
def test_a_draw_takes_one_image_of_each_identity(identities: list[int], seed: int) -> None:
    draw = vehicleid_draw(identities, seed)
    assert sorted(identities[i] for i in draw.gallery) == sorted(set(identities))
    assert sorted([*draw.query, *draw.gallery]) == list(range(len(identities)))
    single = {i for i, identity in enumerate(identities) if identities.count(identity) == 1}
    assert single <= set(draw.gallery.tolist())


def test_a_draw_follows_from_its_seed_alone() -> None:
    identities = [1, 2, 3] * 20
    draws = []
    for outside in (0, 1):
        np.random.seed(outside)  # noqa: NPY002 - the point is that it has no say
        random.seed(outside)
        torch.manual_seed(outside)
        draws.append([vehicleid_draw(identities, seed) for seed in range(10)])
    for first, second in zip(*draws, strict=True):
        np.testing.assert_array_equal(first.query, second.query)
        np.testing.assert_array_equal(first.gallery, second.gallery)
    assert len({tuple(draw.gallery) for draw in draws[0]}) == 10


def test_large_numbers_of_vehicles_are_drawn_apart() -> None:
    """As 64-bit floats, these numbers are equal."""
    assert len(vehicleid_draw([10**17 + 1, 10**17 + 1, 10**17 + 2, 10**17 + 2], 0).gallery) == 2


def test_each_image_is_as_likely_to_be_drawn() -> None:
    drawn = Counter(int(i) for seed in range(2000) for i in vehicleid_draw([5, 5, 5, 5, 9, 9], seed).gallery)
    for i, expected in enumerate((500, 500, 500, 500, 1000, 1000)):
        assert drawn[i] == pytest.approx(expected, abs=100)  # five standard deviations


# --- Where sets are found ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "placement"),
    [
        ("market1501", "Market-1501-v15.09.15", "Market-1501-v15.09.15"),
        ("market1501", "Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"),
        ("market1501", "Market-1501-v15.09.15", "market1501"),
        ("market1501", "Market-1501-v15.09.15", "."),
        ("msmt17", "MSMT17_V1", "MSMT17_V1"),
        ("msmt17", "MSMT17_V1", "msmt17/MSMT17_V1"),
        ("msmt17", "MSMT17_V1", "."),
        ("veri776", "VeRi", "VeRi"),
        ("veri776", "VeRi", "veri/VeRi"),
        ("veri776", "VeRi", "."),
        ("vehicleid", "VehicleID", "VehicleID"),
        ("vehicleid_800", "VehicleID", "VehicleID_V1.0"),
        ("vehicleid", "VehicleID", "."),
    ],
)
def test_placements(data_root: Path, tmp_path: Path, name: str, folder: str, placement: str) -> None:
    place = tmp_path / "root" / placement
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(data_root / folder, target_is_directory=True)
    dataset = load_dataset(name, str(tmp_path / "root"))
    assert dataset.root == (data_root / folder).resolve()
    assert dataset.fingerprint == load_dataset(name, data_root).fingerprint


def test_a_tilde_is_the_home_folder(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data_root))
    assert load_dataset("veri776", "~").root == data_root.resolve() / "VeRi"


def test_available_names_what_is_there(data_root: Path) -> None:
    assert set(available(data_root)) == set(NAMES)
    assert available(data_root / "VeRi") == {"veri776": (data_root / "VeRi").resolve()}
    assert available(data_root / "VeRi" / "image_train") == {}


def test_published_counts_are_those_of_the_papers() -> None:
    """Checked against sums that are stated elsewhere: all images, and test images per list."""
    images = {card.name: {split: n[1] for split, n in card.expected.items()} for card in cards()}
    assert sum(images["msmt17"].values()) == 126_441
    assert [sum(images[name][s] for s in ("query", "gallery")) for name in NAMES[3:]] == [19_777, 13_377, 6_493]
    assert sum(images["market1501"].values()) == 32_217


# --- Registration --------------------------------------------------------------------------------

TOY = DatasetCard("toy_set", "T", 15, "person", folders=("Toy",), needs=("list.txt",))


def nothing(root: Path) -> Dataset:
    raise AssertionError(root)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "market1501"}, r"data set 'market1501' \(T\) is registered twice"),
        ({"short": "VR"}, r"data set 'toy_set' \(VR\) is registered twice"),
        ({"name": "toy-heldout"}, "'-heldout' at the end of 'toy-heldout' is reserved"),
    ],
)
def test_names_are_registered_once_and_the_suffix_is_reserved(change: dict[str, str], message: str) -> None:
    before = cards()
    with pytest.raises(ValueError, match=message):
        register(replace(TOY, **change))(nothing)
    assert cards() == before


@pytest.mark.usefixtures("registered")
def test_a_new_file_is_a_new_data_set(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(
        "from msinet.data.datasets import DatasetCard, register\n"
        "from msinet.data.layouts.market1501 import market1501\n"
        "register(DatasetCard('toy_set', 'T', 15, 'person', ('Toy',), ('query',)))(market1501)\n"
    )
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path)])
    layouts._discover()
    monkeypatch.delitem(sys.modules, "msinet.data.layouts.toy")
    assert [card.name for card in cards()] == ["market1501", "toy_set", *NAMES[1:]]
    assert main_datasets() == ["market1501", "toy_set", *NAMES[1:4]]
    assert short_name("toy_set-heldout") == "T-heldout"
    assert card_of("toy_set").expected == {}
    (tmp_path / "Toy").symlink_to(data_root / "Market-1501-v15.09.15", target_is_directory=True)
    assert available(tmp_path) == {"toy_set": (data_root / "Market-1501-v15.09.15").resolve()}
    assert len(load_dataset("toy_set", tmp_path).train) == 31
    with pytest.raises(UserError, match=r"unknown data set 'toy'.*toy_set"):
        card_of("toy")


def test_cards_refer_to_data_sets_that_exist() -> None:
    names = {card.name for card in cards()}
    for card in cards():
        assert {*card.across, *filter(None, [card.part_of])} <= names
        assert {"train", "query", "gallery"} == set(card.expected)


# --- The fingerprint -----------------------------------------------------------------------------


def add_image(folder: Path) -> None:
    shutil.copy(folder / "query" / "0001_c1s1_000020_01.jpg", folder / "query" / "0001_c1s1_000099_01.jpg")


def rename_image(folder: Path) -> None:
    image = folder / "query" / "0001_c1s1_000020_01.jpg"
    image.rename(image.with_name("0001_c1s1_000021_01.jpg"))


def relabel_image(folder: Path) -> None:
    image = folder / "query" / "0001_c1s1_000020_01.jpg"
    image.rename(image.with_name("0003_c1s1_000020_01.jpg"))


def grow_image(folder: Path) -> None:
    with (folder / "bounding_box_train" / "0002_c1s1_000000_01.jpg").open("ab") as stream:
        stream.write(b"\0")


def change_line(folder: Path) -> None:
    """One image of the gallery is said to show another vehicle."""
    file = folder / "train_test_split" / "test_list_2400.txt"
    text = lines(file)
    file.write_text("\n".join([text[0].replace(" 200", " 201"), *text[1:]]))


def drop_line(folder: Path) -> None:
    file = folder / "train_test_split" / "train_list.txt"
    file.write_text("\n".join(lines(file)[1:]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("market1501", add_image),
        ("market1501", rename_image),
        ("market1501", relabel_image),
        ("market1501", grow_image),
        ("vehicleid", change_line),
        ("vehicleid", drop_line),
    ],
)
def test_a_change_changes_the_fingerprint(own_copy: Copy, name: str, change: Callable[[Path], None]) -> None:
    folder = own_copy(name)
    before = load_dataset(name, folder).fingerprint
    change(folder)
    assert load_dataset(name, folder).fingerprint != before


def test_every_part_of_a_set_is_in_the_fingerprint(data_root: Path) -> None:
    dataset = load_dataset("vehicleid", data_root)
    first, *others = dataset.train
    variants = [
        replace(dataset, name="other"),
        replace(dataset, layout="other"),
        replace(dataset, remove_same_camera=True),
        replace(dataset, draws=dataset.draws[:9]),
        replace(dataset, draws=dataset.draws[::-1]),
        replace(dataset, train=(replace(first, identity=101), *others)),
        replace(dataset, train=(replace(first, camera=1), *others)),
        replace(dataset, train=(*others, first)),
        replace(dataset, train=tuple(others), test=(*dataset.test, first)),
    ]
    assert len({variant.fingerprint for variant in (dataset, *variants)}) == 10


def test_what_no_split_holds_leaves_the_fingerprint(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    before = load_dataset("market1501", folder).fingerprint
    (folder / "query" / "notes.txt").write_text("no image")
    assert load_dataset("market1501", folder).fingerprint == before


# --- What is refused -----------------------------------------------------------------------------


def refusal(name: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(name, root)
    return str(caught.value)


def test_an_unknown_name_lists_the_known_ones(data_root: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset("market", data_root)
    assert not isinstance(caught.value, DataError)
    assert "unknown data set 'market'. Did you mean 'market1501'?" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_a_missing_root(tmp_path: Path) -> None:
    message = refusal("veri776", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist" in message
    assert "pass the folder that holds VeRi/" in message
    (tmp_path / "file").write_text("")
    assert "is not a list of images" in refusal("veri776", tmp_path / "file")


def test_another_layout_is_named(data_root: Path) -> None:
    message = refusal("market1501", data_root / "VeRi")
    assert message.startswith(f"no market1501 under {data_root / 'VeRi'}: looked for bounding_box_train, query,")
    assert f"Recognised there: veri776 in {(data_root / 'VeRi').resolve()}" in message


def test_no_layout_at_all(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    shutil.rmtree(folder / "query")
    message = refusal("market1501", folder.parent)
    assert f"Recognised there: no known layout. Nearest is {folder}, which lacks query" in message


def replace_line(file: Path, number: int, line: str) -> None:
    text = lines(file)
    text[number - 1] = line
    file.write_text("\n".join(text), encoding="utf-8")


def odd_market_name(folder: Path) -> None:
    (folder / "query" / "0001_c1s1_000020_01.jpg").rename(folder / "query" / "person_c1.jpg")


def odd_veri_name(folder: Path) -> None:
    (folder / "image_test" / "0030.jpg").write_bytes(b"x")
    replace_line(folder / "name_test.txt", 3, "0030.jpg")


def no_msmt_identity(folder: Path) -> None:
    replace_line(folder / "list_val.txt", 2, "0001/0001_004_01_0303morning_0015_0.jpg")


def odd_msmt_identity(folder: Path) -> None:
    replace_line(folder / "list_query.txt", 4, "0001/0001_001_02_0303morning_0015_0.jpg -1")


def odd_msmt_name(folder: Path) -> None:
    (folder / "train" / "0000" / "a_b.jpg").write_bytes(b"x")
    replace_line(folder / "list_train.txt", 1, "0000/a_b.jpg 0")


def odd_vehicleid_line(folder: Path) -> None:
    replace_line(folder / "train_test_split" / "train_list.txt", 7, "0000007 100 100")


def missing_msmt_file(folder: Path) -> None:
    (folder / "test" / "0002" / "0002_003_01_0303morning_0015_0.jpg").unlink()


def missing_veri_file(folder: Path) -> None:
    (folder / "image_test" / "0030_c001_00000000_0.jpg").unlink()


def missing_vehicleid_file(folder: Path) -> None:
    (folder / "image" / "0000033.jpg").unlink()


def missing_vehicleid_list(folder: Path) -> None:
    (folder / "train_test_split" / "test_list_2400.txt").unlink()


def parent_folder(folder: Path) -> None:
    replace_line(folder / "list_train.txt", 5, "../test/0000/0000_000_01_0303morning_0015_0.jpg 0")


def absolute_path(folder: Path) -> None:
    replace_line(folder / "name_query.txt", 2, str(folder / "image_query" / "0031_c001_00000000_0.jpg"))


def parent_of_images(folder: Path) -> None:
    shutil.copy(folder / "image" / "0000001.jpg", folder / "secret.jpg")
    replace_line(folder / "train_test_split" / "test_list_2400.txt", 1, "../secret 200")


def binary_list(folder: Path) -> None:
    (folder / "list_gallery.txt").write_bytes("0000/ä.jpg 0\n".encode("latin-1"))


def empty_market_query(folder: Path) -> None:
    for file in (folder / "query").iterdir():
        file.unlink()


def empty_msmt_lists(folder: Path) -> None:
    (folder / "list_train.txt").write_text("")
    (folder / "list_val.txt").write_text("\n\n")


def empty_veri_list(folder: Path) -> None:
    (folder / "name_test.txt").write_text("")


def empty_vehicleid_list(folder: Path) -> None:
    (folder / "train_test_split" / "test_list_2400.txt").write_text("")


def no_vehicleid_queries(folder: Path) -> None:
    (folder / "train_test_split" / "test_list_2400.txt").write_text("0000033 200\n0000037 201\n")


def zero_bytes(folder: Path) -> None:
    for name in ("bounding_box_train/0002_c1s1_000000_01.jpg", "query/0001_c1s1_000020_01.jpg"):
        (folder / name).write_bytes(b"")


def one_camera(folder: Path) -> None:
    for split in ("query", "bounding_box_test"):
        for file in (folder / split).glob("*.jpg"):
            if "_c1s1_" not in file.name:
                file.unlink()


def other_vehicles(folder: Path) -> None:
    gallery = [name for name in lines(folder / "name_test.txt") if not name.startswith("0030")]
    (folder / "name_test.txt").write_text("\n".join(gallery))
    (folder / "name_query.txt").write_text("0030_c001_00000000_0.jpg")


def link_to_nothing(folder: Path) -> None:
    (folder / "query" / "0001_c1s1_000099_01.jpg").symlink_to(folder / "moved.jpg")


def file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder / "query")
    (folder / "query").write_text("")


def endless_line(folder: Path) -> None:
    replace_line(folder / "name_train.txt", 1, "x" * 5000)


BAD = [
    ("market1501", odd_market_name, ("query/person_c1.jpg", "does not read as", "0002_c1s1_000451_03.jpg", "rename")),
    ("veri776", odd_veri_name, ("image_test/0030.jpg", "does not read as", "0001_c001_00016450_0.jpg", "remove it")),
    ("msmt17", no_msmt_identity, ("list_val.txt:2:", "0001_004", "'<path> <identity>'")),
    ("msmt17", odd_msmt_identity, ("list_query.txt:4:", "-1", "'<path> <identity>'")),
    ("msmt17", odd_msmt_name, ("list_train.txt:1:", "no camera in the third field", "'a_b.jpg'")),
    ("vehicleid", odd_vehicleid_line, ("train_list.txt:7:", "'0000007 100 100'", "'<image name> <vehicle>'")),
    ("msmt17", missing_msmt_file, ("list_gallery.txt:10:", "test/0002/0002_003_01", "does not exist")),
    ("veri776", missing_veri_file, ("name_test.txt:1:", "image_test/0030_c001", "do not belong together")),
    ("vehicleid", missing_vehicleid_file, ("test_list_2400.txt:1:", "image/0000033.jpg", "does not exist")),
    ("vehicleid", missing_vehicleid_list, ("test_list_2400.txt is missing", "test_list_800")),
    ("msmt17", parent_folder, ("list_train.txt:5:", "../test/0000", "points outside", "not trustworthy")),
    ("veri776", absolute_path, ("name_query.txt:2:", "points outside", "not trustworthy")),
    ("vehicleid", parent_of_images, ("test_list_2400.txt:1:", "'../secret.jpg'", "points outside")),
    ("msmt17", binary_list, ("list_gallery.txt: not a text file", "utf-8", "fetch the list again")),
    ("market1501", empty_market_query, ("market1501 in", "the query split holds no images")),
    ("msmt17", empty_msmt_lists, ("msmt17 in", "the train split holds no images")),
    ("veri776", empty_veri_list, ("veri776 in", "the gallery split holds no images")),
    ("vehicleid", empty_vehicleid_list, ("vehicleid in", "the query split holds no images")),
    ("vehicleid", no_vehicleid_queries, ("vehicleid in", "the query split holds no images")),
    ("market1501", zero_bytes, ("2 zero-byte", "0002_c1s1_000000_01.jpg", "0001_c1s1_000020_01.jpg", "fetch them")),
    ("market1501", one_camera, ("no query has a match in the gallery from another camera", "--keep-same-camera")),
    ("veri776", other_vehicles, ("veri776 in", "no query has a match in the gallery")),
    ("market1501", link_to_nothing, ("market1501 in", "0001_c1s1_000099_01.jpg", "No such file", "repair it")),
    ("market1501", file_for_folder, ("market1501 in", "query", "Not a directory", "repair it")),
    ("veri776", endless_line, ("veri776 in", "File name too long")),
]


@pytest.mark.parametrize(("name", "damage", "parts"), BAD, ids=[damage.__name__ for _, damage, _ in BAD])
def test_bad_data_are_refused_by_name_place_and_remedy(
    own_copy: Copy, name: str, damage: Callable[[Path], None], parts: tuple[str, ...]
) -> None:
    folder = own_copy(name)
    load_dataset(name, folder)  # nothing else is wrong with it
    damage(folder)
    message = refusal(name, folder)
    assert folder.name in message
    for part in parts:
        assert part in message


def test_a_folder_without_permission(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    (folder / "query").chmod(0)
    try:
        if os.access(folder / "query", os.R_OK):
            pytest.skip("this user may read everything")
        assert "Permission denied" in refusal("market1501", folder)
    finally:
        (folder / "query").chmod(0o700)


def test_many_bad_files_are_counted_and_the_first_named(own_copy: Copy) -> None:
    folder = own_copy("market1501")
    for file in (folder / "bounding_box_test").glob("*.jpg"):
        file.write_bytes(b"")
    message = refusal("market1501", folder)
    assert "33 zero-byte image(s)" in message  # junk is not looked at
    assert message.count(".jpg") == 5
    assert "and 28 more" in message


def test_identity_with_other_camera_only_among_the_distractors_is_no_match(own_copy: Copy) -> None:
    """Another identity's cameras do not make a match."""
    folder = own_copy("market1501")
    for file in (folder / "bounding_box_test").glob("*.jpg"):
        if not file.name.startswith(("0000", "0001_c1")):
            file.unlink()
    for file in (folder / "query").glob("*.jpg"):
        if not file.name.startswith("0001_c1"):
            file.unlink()
    assert "no query has a match" in refusal("market1501", folder)
    shutil.copy(folder / "query" / "0001_c1s1_000020_01.jpg", folder / "query" / "0001_c4s1_000020_01.jpg")
    assert len(load_dataset("market1501", folder).splits()["query"]) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_name(own_copy: Copy) -> None:
    folder = own_copy("veri776")
    names = (folder / "name_train.txt").read_bytes()
    before = load_dataset("veri776", folder).fingerprint
    (folder / "name_train.txt").write_bytes(b"\xef\xbb\xbf" + names)
    assert load_dataset("veri776", folder).fingerprint == before


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_any_list_line_is_read_or_refused(data_root: Path, tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    folder = tmp_path_factory.mktemp("set")
    for entry in (data_root / "VehicleID").iterdir():
        (folder / entry.name).symlink_to(entry, target_is_directory=True)
    (folder / "train_test_split").unlink()
    shutil.copytree(data_root / "VehicleID" / "train_test_split", folder / "train_test_split")
    with (folder / "train_test_split" / "train_list.txt").open("a", encoding="utf-8", newline="") as stream:
        stream.write(line)
    try:
        dataset = load_dataset("vehicleid", folder)
    except DataError as error:
        assert re.search(r"train_list\.txt:\d+: ", str(error))  # noqa: PT017 - or it is read
    else:
        assert len(dataset.train) >= 32


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("msmt17", ("msmt17",)),
        ("msmt17-heldout", ("msmt17",)),
        ("market1501+msmt17", ("market1501", "msmt17")),
        ("market1501+msmt17-heldout", ("market1501", "msmt17")),
        ("vehicleid_1600", ("vehicleid",)),
    ],
)
def test_folders_behind_a_name(name: str, folders: tuple[str, ...]) -> None:
    assert folders_behind(name) == folders


@pytest.mark.parametrize(
    ("tested", "trained", "across"),
    [
        ("market1501", ["market1501"], False),
        ("market1501", ["msmt17"], True),
        ("market1501", ["msmt17", "market1501"], False),
        ("market1501", ["msmt17+market1501"], False),
        ("vehicleid_800", ["vehicleid"], False),  # another test list of the same images
        ("vehicleid_800", ["veri776"], True),
        ("market1501-heldout", ["market1501"], False),
    ],
)
def test_another_set_is_another_domain(tested: str, trained: list[str], across: bool) -> None:
    assert is_across(tested, trained) is across
