"""The loaders on the rendered sets: what holds for any set in its layout holds for these."""

import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from msinet.cli import run_command
from msinet.data.datasets import Dataset
from msinet.data.factors import query_factors
from msinet.data.folders import load_class_folders
from msinet.data.layouts import available, load_dataset
from msinet.data.rendered import read_world
from msinet.data.sampler import pk_batches
from msinet.synthetic import folder_of, vehicle

NAMES = ("market1501", "msmt17", "veri776", "vehicleid", "vehicleid_1600", "vehicleid_800")
ROOTS = ("data_root", "world_root")


@pytest.fixture(params=ROOTS)
def root(request: pytest.FixtureRequest) -> Path:
    """Drawn sets and rendered ones in turn."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def of(dataset: Dataset, places: np.ndarray) -> list[tuple[str, int, int]]:
    return [(dataset.test[i].path.name, dataset.test[i].identity, dataset.test[i].camera) for i in places]


# --- Any set -------------------------------------------------------------------------------------


def test_all_sets_are_recognised(root: Path) -> None:
    assert set(available(root)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_different_images(root: Path, name: str) -> None:
    dataset = load_dataset(name, root)
    paths = [i.path for i in (*dataset.train, *dataset.test)]
    assert len(set(paths)) == len(paths)
    for draw in dataset.draws:
        assert sorted([*draw.query, *draw.gallery]) == list(range(len(dataset.test)))
    if not name.startswith("msmt17"):  # its numbers start again
        assert not {i.identity for i in dataset.train} & {i.identity for i in dataset.test}


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_contiguous(root: Path, name: str) -> None:
    dataset = load_dataset(name, root)
    numbers = sorted({i.identity for i in dataset.train})
    assert dataset.num_classes == len(numbers) == 8
    assert dataset.labels.dtype == np.int64
    assert [numbers[label] for label in dataset.labels] == [i.identity for i in dataset.train]


@pytest.mark.parametrize("name", NAMES)
def test_every_query_has_a_match_that_counts(root: Path, name: str) -> None:
    dataset = load_dataset(name, root)
    for draw in dataset.draws:
        gallery = of(dataset, draw.gallery)
        for _, identity, camera in of(dataset, draw.query):
            assert any(i == identity and (c != camera or not dataset.remove_same_camera) for _, i, c in gallery)


@pytest.mark.parametrize("name", NAMES)
def test_a_fingerprint_is_of_the_data_alone(root: Path, tmp_path: Path, name: str) -> None:
    here = load_dataset(name, root)
    copy = Path(shutil.copytree(here.root, tmp_path / "elsewhere" / here.root.name))
    assert load_dataset(name, root).fingerprint == here.fingerprint == load_dataset(name, copy).fingerprint
    assert re.fullmatch(r"[0-9a-f]{12}", here.fingerprint)


def test_fingerprints_tell_the_sets_apart(data_root: Path, world_root: Path) -> None:
    assert len({load_dataset(name, root).fingerprint for root in (data_root, world_root) for name in NAMES}) == 12


def test_market1501_leaves_junk_out_and_keeps_distractors(root: Path) -> None:
    dataset = load_dataset("market1501", root)
    files = [p.name for p in (dataset.root / "bounding_box_test").glob("*.jpg")]
    assert dataset.junk == sum(name.startswith("-1") for name in files) > 2
    assert not any("-1_c" in i.path.name for i in (*dataset.train, *dataset.test))
    gallery = Counter(i.identity for i in dataset.splits()["gallery"])
    assert gallery[0] == sum(name.startswith("0000") for name in files) > 2
    assert sum(gallery.values()) == len(files) - dataset.junk
    assert 0 not in {i.identity for i in (*dataset.train, *dataset.splits()["query"])}


def test_msmt17_counts_its_test_identities_from_0(root: Path) -> None:
    dataset = load_dataset("msmt17", root)
    for images, part in ((dataset.train, "train"), (dataset.test, "test")):
        numbers = {i.identity for i in images}
        assert numbers == set(range(len(numbers)))  # of different persons: both parts count from 0
        assert {i.path.relative_to(dataset.root).parts[:2] for i in images} == {(part, f"{n:04d}") for n in numbers}
    listed = [len(lines(dataset.root / f"list_{name}.txt")) for name in ("train", "val", "query", "gallery")]
    assert listed[0] + listed[1] == len(dataset.train)
    assert listed[2:] == [len(dataset.splits()[split]) for split in ("query", "gallery")]
    assert min(listed) > 0


def test_veri776_queries_are_in_its_gallery(root: Path) -> None:
    splits = load_dataset("veri776", root).splits()
    gallery = {(i.path.name, i.identity, i.camera): i.path.read_bytes() for i in splits["gallery"]}
    for query in splits["query"]:
        assert gallery[query.path.name, query.identity, query.camera] == query.path.read_bytes()


def test_vehicleid_lists_nest_and_draws_take_one_image_of_each(root: Path) -> None:
    small, middle, large = (load_dataset(name, root) for name in ("vehicleid_800", "vehicleid_1600", "vehicleid"))
    tests = [{(i.path.name, i.identity) for i in dataset.test} for dataset in (small, middle, large)]
    assert tests[0] < tests[1] < tests[2]
    for dataset in (small, middle, large):
        identities = sorted({i.identity for i in dataset.test})
        assert len(dataset.draws) == 10
        for draw in dataset.draws:
            assert sorted(i for _, i, _ in of(dataset, draw.gallery)) == identities
        assert len({tuple(draw.gallery) for draw in dataset.draws}) > 1
    assert {i.camera for i in (*large.train, *large.test)} == {0}


def test_everything_passes_the_check(root: Path, capsys) -> None:
    assert run_command(["data", "check", str(root)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("images decode") == 4  # VehicleID by its longest list
    assert printed.count(", rendered in") == (4 if read_world(root / "VeRi") else 0)
    assert "junk images of identity -1 left out" in printed
    assert "distractors of identity 0 kept in the gallery" in printed


# --- Rendered sets -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_set_says_so(world_root: Path, data_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    world = read_world(dataset.root)
    assert world is not None
    assert dataset.layout == f"{load_dataset(name, data_root).layout}, rendered"
    assert dataset.world == world["fingerprint"]
    assert load_dataset(name, data_root).world == ""


def test_another_rendering_is_another_fingerprint(world_root: Path, tmp_path: Path) -> None:
    """Even where names and file sizes agree."""
    folder = Path(shutil.copytree(world_root / "VeRi", tmp_path / "VeRi"))
    before = load_dataset("veri776", folder)
    (folder / "world.json").write_text((folder / "world.json").read_text().replace(before.world, "0123456789ab"))
    after = load_dataset("veri776", folder)
    assert after.world == "0123456789ab" != before.world
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(("name", "images"), [("market1501", 40), ("msmt17", 40), ("veri776", 40), ("vehicleid", 40)])
def test_a_rendered_set_has_the_numbers_that_were_asked_for(world_root: Path, name: str, images: int) -> None:
    dataset = load_dataset(name, world_root)
    assert len(dataset.train) == images
    known = {i.identity for i in dataset.test if i.identity or name == "msmt17"}
    assert len(known) == 6
    images_of = Counter(i.path.name for i in dataset.test if i.identity in known)
    assert len(images_of) == 30  # VeRi's queries are there twice
    assert {i.identity for i in dataset.splits()["query"]} == known


def test_the_index_files_of_veri776_are_the_rule_of_the_camera(world_root: Path) -> None:
    """Matches of each query that count, and those that do not: places in name_test, from 1."""
    folder = world_root / "VeRi"
    query, test = lines(folder / "name_query.txt"), lines(folder / "name_test.txt")
    good, junk = lines(folder / "gt_index.txt"), lines(folder / "jk_index.txt")
    assert len(query) == len(good) == len(junk) > 6
    dataset = load_dataset("veri776", world_root)
    assert [i.path.name for i in dataset.splits()["query"]] == query
    assert [i.path.name for i in dataset.splits()["gallery"]] == test
    for name, right, wrong in zip(query, good, junk, strict=True):
        mine, place = name[:4], name[5:9]
        same = [(number, other) for number, other in enumerate(test, 1) if other[:4] == mine]
        assert right.split() == [str(number) for number, other in same if other[5:9] != place]
        assert wrong.split() == [str(number) for number, other in same if other[5:9] == place]
        assert name in [test[int(number) - 1] for number in wrong.split()]
        assert right


@pytest.mark.parametrize(("part", "title"), [("train", "TrainingImages"), ("test", "TestImages")])
def test_the_labels_of_veri776_are_xml_that_agrees_with_the_names(world_root: Path, part: str, title: str) -> None:
    folder = world_root / "VeRi"
    data = (folder / f"{part}_label.xml").read_bytes()
    assert data.startswith(b'<?xml version="1.0" encoding="gb2312"?>')
    tree = ET.fromstring(data.decode("gb2312").split("?>", 1)[1])
    assert tree.tag == title
    (items,) = tree
    assert (items.tag, items.attrib["number"]) == ("Items", str(len(items)))
    names = [item.attrib["imageName"] for item in items]
    assert names == lines(folder / f"name_{part}.txt")
    assert sorted(names) == sorted(p.name for p in (folder / f"image_{part}").iterdir())
    kinds: dict[str, set[tuple[str, str]]] = {}
    for item in items:
        assert item.attrib["imageName"].startswith(f"{item.attrib['vehicleID']}_{item.attrib['cameraID']}_")
        kinds.setdefault(item.attrib["vehicleID"], set()).add((item.attrib["colorID"], item.attrib["typeID"]))
    assert all(len(found) == 1 for found in kinds.values())
    for column, file, known in ((0, "list_color.txt", vehicle.PAINTS), (1, "list_type.txt", vehicle.SHAPES)):
        listed = dict(line.split() for line in lines(folder / file))
        assert set(listed.values()) == set(known)
        assert {next(iter(found))[column] for found in kinds.values()} <= set(listed)


def test_vehicleid_attributes_name_every_vehicle(world_root: Path) -> None:
    dataset = load_dataset("vehicleid", world_root)
    identities = {i.identity for i in (*dataset.train, *dataset.test)}
    for file, known in (("color_attr", vehicle.PAINTS), ("model_attr", vehicle.SHAPES)):
        rows = [tuple(map(int, line.split())) for line in lines(dataset.root / "attribute" / f"{file}.txt")]
        assert sorted(number for number, _ in rows) == sorted(identities)
        assert {value for _, value in rows} <= set(range(len(known)))


def test_the_pretext_set_is_one_of_class_folders(world_root: Path) -> None:
    folders = load_class_folders(world_root / folder_of("pretext"))
    assert folders.name == "rendered"
    assert len(folders.classes) == 8
    assert Counter(name[:-4] for name in folders.classes) == {"person": 4, "vehicle": 4}
    assert len(folders.train) + len(folders.val) == 40
    assert len(folders.val) >= 8  # an image of each class, at the least
    assert set(folders.val_labels.tolist()) == set(folders.train_labels.tolist()) == set(range(8))
    assert len(set(folders.train) | set(folders.val)) == 40


# --- Use -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES[:4])
def test_batches_hold_identities_side_by_side(world_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    batches = pk_batches(dataset.labels, 4, 4, (0,))
    assert len(batches) >= 2
    for batch in batches:
        labels = dataset.labels[batch].reshape(4, 4)
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == 4


@pytest.mark.parametrize("name", ["market1501", "vehicleid"])
def test_a_rendered_set_can_be_trained_and_ranked(world_root: Path, tmp_path: Path, capsys, name: str) -> None:
    words = [f"--data-root={world_root}", f"--out={tmp_path}", "--model=msinet_x0_25", f"--dataset={name}"]
    assert run_command(["train", *words, "--profile=smoke", "--device=cpu", "--no-progress"]) == 0
    assert f"{name}: " in capsys.readouterr().out
    assert (tmp_path / "record.json").exists()


@pytest.mark.parametrize("name", ["market1501", "veri776", "vehicleid"])
def test_what_makes_a_query_hard_is_known_per_query(world_root: Path, data_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    for draw in dataset.draws[:2]:
        found = query_factors(dataset, draw)
        assert len(found) == len(draw.query)
        for row in found:
            assert 0 <= row["occlusion"] <= 1
            assert row["light"] > 0
            assert 0 <= row["view_change"] <= 180  # every query has a match
    assert query_factors(load_dataset(name, data_root), load_dataset(name, data_root).draws[0]) == []
