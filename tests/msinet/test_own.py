"""Data sets of the user: lists, names, splits, several training sets, and input that others report trouble with."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from msinet.cli import run_command
from msinet.data import load_dataset
from msinet.data.check import leaks
from msinet.data.decoding import decode, size_of
from msinet.data.layouts import available, card_of, default_dataset, short_name
from msinet.data.loading import open_pixels
from msinet.data.matches import QueryCounts, count_queries
from msinet.data.own import notice, numbered
from msinet.data.splitting import split
from msinet.errors import DataError, UserError
from tests.conftest import draw

HEADER = "path,identity,camera,split"


pytestmark = pytest.mark.usefixtures("own_sets")


def write_list(folder: Path, name: str = "list.csv", header: str = HEADER, separator: str = ",") -> Path:
    """A list of ten persons with blanks and umlauts in names; the last four are for testing."""
    rows = [header]
    for i in range(1, 11):
        for n in range(4):
            path = f"photos/Köln {i:02d}/{n}.png"
            draw(folder / path, 7, i, n % 3, n, 32, 16)
            split = "train" if i < 7 else "query" if n == 0 else "gallery"
            values = {"path": path, "identity": f"walker-{i}", "camera": f"cam{n % 3}", "split": split, "time": "noon"}
            rows.append(separator.join(values[column.strip().lower()] for column in header.split(separator)))
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / name


def test_a_list_is_a_data_set_of_its_own(tmp_path: Path) -> None:
    file = write_list(tmp_path / "shop")
    for root in (file, tmp_path / "shop"):
        dataset = load_dataset("shop", root)
        assert dataset.name == card_of("shop").name == short_name("shop") == "shop"
        assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (24, 16, 6)
        assert dataset.remove_same_camera
        assert dataset.test[0].path.name == "0.png"
        assert dataset.identity_name(dataset.test[0]) == "walker-7"
        assert dataset.camera_name(dataset.test[0]) == "cam0"
        assert count_queries(dataset) == QueryCounts(4, 4, 0, 0)
    assert load_dataset("shop", file).fingerprint == load_dataset("shop", tmp_path / "shop").fingerprint


@pytest.mark.parametrize(
    ("header", "separator", "encoding"),
    [
        ("split;time;identity;path", ";", "utf-8-sig"),
        ("Path\tIdentity\tSplit\tCamera", "\t", "utf-8"),
        (" path , identity,split,camera", ",", "utf-8"),
    ],
)
def test_lists_as_spreadsheets_write_them(tmp_path: Path, header: str, separator: str, encoding: str) -> None:
    file = write_list(tmp_path, "street.csv", header, separator)
    file.write_text(file.read_text(encoding="utf-8").replace("\n", "\r\n"), encoding=encoding, newline="")
    dataset = load_dataset("street", file)
    assert (len(dataset.train), len(dataset.test)) == (24, 16)
    assert dataset.remove_same_camera == ("camera" in header.lower())
    assert {image.camera for image in dataset.train} == ({1, 2, 3} if dataset.remove_same_camera else {0})


def test_several_lists_have_the_names_of_their_files(tmp_path: Path) -> None:
    write_list(tmp_path, "shop.csv")
    write_list(tmp_path, "my street.csv")
    (tmp_path / "prices.csv").write_text("item,price\n")
    assert list(available(tmp_path)) == ["my_street", "shop"]
    with pytest.raises(DataError, match="holds my_street, shop; choose one with --dataset"):
        default_dataset(tmp_path, "market1501")
    with pytest.raises(DataError, match=r"names one data set, but .* holds 2 lists"):
        notice(tmp_path, "both")


def test_files_of_features_are_no_lists(tmp_path: Path) -> None:
    """Those of `msinet embed` for a data set have the columns of a list."""
    write_list(tmp_path, "shop.csv")
    (tmp_path / "features.csv").write_text("path,identity,camera,split,f0,f1\nphotos/0.png,1,1,query,0.5,0.25\n")
    assert list(available(tmp_path)) == ["shop"]


def test_the_rendered_world_has_no_lists(world_root: Path) -> None:
    """`factors.csv` has the columns of a list."""
    assert notice(world_root / "Market-1501-v15.09.15") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["7", "10", "0"], ({"7": 7, "10": 10, "0": 0}, {})),
        (["0007", "12"], ({"0007": 7, "12": 12}, {7: "0007"})),
        (["0007", "7"], ({"0007": 0, "7": 1}, {0: "0007", 1: "7"})),
        (["b", "a", "3"], ({"3": 0, "a": 1, "b": 2}, {0: "3", 1: "a", 2: "b"})),
        (["-1", "1"], ({"-1": 0, "1": 1}, {0: "-1", 1: "1"})),
        (["9" * 40], ({"9" * 40: 0}, {0: "9" * 40})),
    ],
)
def test_words_become_numbers(words: list[str], expected: tuple[dict[str, int], dict[int, str]]) -> None:
    assert numbered(words, first=0) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (HEADER, "path,identity,camera,splits", r"lacks split.*Did you mean 'splits'"),
        ("walker-2,cam0", ",cam0", r"list.csv:6: no identity; fill it in"),
        ("walker-2,cam0", "walker-2,", r"list.csv:6: no camera, but other lines have one"),
        ("cam0,train", "cam0,trein", r"list.csv:2: split 'trein' is not one of train, query, gallery.*'train'"),
        ("cam0,query", "cam0,test", r"split 'test'.*msinet data split"),
        ("Köln 02/3.png", "Köln 02/2.png", r"list.csv:9: photos/Köln 02/2.png is in train already \(line 8\)"),
        ("Köln 02/3.png", "x/../Köln 02//2.png", r"list.csv:9: photos/x/../Köln 02//2.png is in train .*line 8"),
        ("Köln 02/3.png", "Köln 02/4.png", r"list.csv:9: .*4.png does not exist, 1 of 40 .*Did you mean '.\.png'"),
        (HEADER, "path,identity,identity,split", r"list.csv:1: column identity occurs twice"),
        ("photos/Köln 02/3.png", "photos\\Köln 02\\3.png", r"does not exist, 1 of 40 .*; write / in place of"),
        ("walker-2,cam0", "walker,2,cam0,", r"list.csv:6: 6 values for 4 columns; put values .* in double quotes"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = write_list(tmp_path / "own")
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_dataset("own", file)


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = write_list(tmp_path / "own")
    text = file.read_text(encoding="utf-8")
    for encoding in ("latin1", "utf-16"):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="not UTF-8 text"):
            load_dataset("own", file)
    file.write_text(text.replace("\n", "\r"), encoding="utf-8", newline="")  # lines of old Macs
    assert len(load_dataset("own", file).train) == 24


def test_a_name_that_files_cannot_have_is_refused(tmp_path: Path) -> None:
    file = write_list(tmp_path, f"{'ü' * 60}.csv")
    with pytest.raises(DataError, match=r"more than 100 bytes; choose a shorter one with --name"):
        notice(file)
    assert notice(file, "short") == ["short"]


def test_a_list_may_hold_images_anywhere(tmp_path: Path) -> None:
    file = write_list(tmp_path / "own")
    text = file.read_text(encoding="utf-8")
    lists = tmp_path / "elsewhere" / "lists"
    lists.mkdir(parents=True)
    (lists / "far.csv").write_text(text.replace("photos/", "../../own/photos/"), encoding="utf-8")
    (lists / "whole.csv").write_text(text.replace("photos/", f"{tmp_path}/own/photos/"), encoding="utf-8")
    near = load_dataset("own", file)
    for name in ("far", "whole"):
        dataset = load_dataset(name, lists)
        assert [image.path for image in dataset.train] == [image.path for image in near.train]
        assert dataset.root == tmp_path
        assert len(dataset.fingerprint) == 12


def test_the_shape_of_images_tells_vehicles_from_persons(tmp_path: Path) -> None:
    file = write_list(tmp_path / "cars")
    for path in (tmp_path / "cars").rglob("*.png"):
        PIL.Image.new("RGB", (40, 30)).save(path)
    notice(file)
    notice(write_list(tmp_path / "people"))
    assert (card_of("cars").kind, card_of("people").kind) == ("vehicle", "person")


def test_the_shape_of_images_follows_their_orientation(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for name, size in (("upright", (40, 20)), ("lying", (20, 40))):
        file = write_list(tmp_path / name)
        for path in (tmp_path / name).rglob("*.png"):
            PIL.Image.new("RGB", size).save(path, exif=exif)
        notice(file)
    assert (card_of("upright").kind, card_of("lying").kind) == ("person", "vehicle")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [0, *range(1, 9)])
def test_the_size_of_an_image_is_that_of_its_pixels(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    PIL.Image.new("RGB", (5, 3)).save(path, exif=exif)
    assert size_of(path) == decode(path).shape[:2] == ((5, 3) if orientation > 4 else (3, 5))


def test_a_list_of_test_images_alone_can_be_ranked_and_one_of_training_images_trains(tmp_path: Path, capsys) -> None:
    file = write_list(tmp_path / "own")
    lines = file.read_text(encoding="utf-8").splitlines()
    for name, kept in (("tested", ("query", "gallery")), ("trained", ("train",))):
        rows = [line for line in lines[1:] if line.endswith(kept)]
        (tmp_path / "own" / f"{name}.csv").write_text("\n".join([lines[0], *rows]), encoding="utf-8")
    root = tmp_path / "own"
    assert len(load_dataset("tested", root, needs=("query", "gallery", "match")).test) == 16
    assert len(load_dataset("trained", root, needs=("train",)).train) == 24
    with pytest.raises(DataError, match="the train split holds no images"):
        load_dataset("tested", root)
    with pytest.raises(DataError, match="the query split holds no images"):
        load_dataset("trained", root)
    for name, remark in (("tested", "no training images: it can only be ranked"), ("trained", "rank another --target")):
        assert run_command(["data", "check", str(root), "--datasets", name]) == 0
        assert remark in capsys.readouterr().out


def test_another_name_for_a_known_layout(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "Market-1501-v15.09.15", tmp_path / "DukeMTMC-reID")
    with pytest.raises(DataError, match=r"DukeMTMC-reID has the layout of market1501: .*--name"):
        load_dataset("market1501", tmp_path)
    assert notice(tmp_path / "DukeMTMC-reID", "dukemtmc") == ["dukemtmc"]
    dataset = load_dataset("dukemtmc", tmp_path / "DukeMTMC-reID")
    market = load_dataset("market1501", data_root)
    assert (dataset.name, len(dataset.train)) == ("dukemtmc", len(market.train))
    assert dataset.fingerprint != market.fingerprint
    assert (card_of("dukemtmc").expected, card_of("dukemtmc").distractor) == ({}, None)
    assert list(available(tmp_path / "DukeMTMC-reID")) == ["dukemtmc"]
    for name, message in (
        ("market1501", "name of a known data set"),
        ("a+b", "cannot name"),
        ("x-heldout", "cannot name"),
    ):
        with pytest.raises(DataError, match=message):
            notice(tmp_path / "DukeMTMC-reID", name)


def test_several_training_sets_keep_their_identities_apart(data_root: Path) -> None:
    parts = [load_dataset(name, data_root) for name in ("market1501", "msmt17")]
    both = load_dataset("market1501+msmt17", data_root)
    assert both.num_classes == sum(part.num_classes for part in parts)
    assert [image.path for image in both.train] == [image.path for part in parts for image in part.train]
    pairs = {(image.path, both.labels[i]) for i, image in enumerate(both.train)}
    for start, part in ((0, parts[0]), (parts[0].num_classes, parts[1])):
        assert {(image.path, start + part.labels[i]) for i, image in enumerate(part.train)} <= pairs
    cameras = [
        {i.camera for i in both.train[: len(parts[0].train)]},
        {i.camera for i in both.train[len(parts[0].train) :]},
    ]
    assert not cameras[0] & cameras[1]
    assert both.test == parts[0].test
    assert short_name(both.name) == "M+MS"
    assert len({both.fingerprint, *(part.fingerprint for part in parts)}) == 3
    assert load_dataset("market1501+msmt17-heldout", data_root).num_classes == both.num_classes * 3 // 4
    for name in ("market1501+market1501", "vehicleid+vehicleid_800"):
        with pytest.raises(UserError, match=rf"{re.escape(name)}: the training images of a data set occur twice"):
            load_dataset(name, data_root)
    with pytest.raises(UserError, match="one of the sets has no cameras; hold out identities of a single set"):
        load_dataset("market1501+vehicleid-heldout", data_root)


# --- One camera, queries without a match -----------------------------------------------------------


def one_camera(root: Path) -> Path:
    for folder, ids, shots in (
        ("bounding_box_train", range(1, 5), 3),
        ("query", range(5, 8), 1),
        ("bounding_box_test", range(5, 8), 3),
    ):
        for i in ids:
            for n in range(shots):
                draw(root / folder / f"{i:04d}_c1s1_{n:06d}_{len(folder):02d}.jpg", 8, i, 1, n + 10 * shots, 32, 16)
    return root


def test_one_camera_is_a_setting_that_the_error_names(tmp_path: Path) -> None:
    root = one_camera(tmp_path)
    with pytest.raises(DataError, match="from another camera; --keep-same-camera"):
        load_dataset("market1501", root)
    kept = load_dataset("market1501", root, keep_same_camera=True)
    assert count_queries(kept) == QueryCounts(3, 3, 0, 0)
    bare = load_dataset("market1501", root, needs=())
    assert count_queries(bare) == QueryCounts(3, 0, 0, 3)
    assert kept.fingerprint != bare.fingerprint
    (root / "query" / "0099_c1s1_000000_05.jpg").write_bytes(next(root.rglob("*.jpg")).read_bytes())
    counts = count_queries(load_dataset("market1501", root, keep_same_camera=True))
    assert (counts.ranked, counts.not_in_gallery, counts.own_camera_only) == (3, 1, 0)
    assert str(counts) == "3 of 4 queries ranked; left out: 1 of an identity that is not in the gallery"


def test_the_check_remarks_what_makes_results_too_good(tmp_path: Path, capsys) -> None:
    root = one_camera(tmp_path)
    shutil.copy(root / "query" / "0005_c1s1_000000_05.jpg", root / "bounding_box_test" / "0006_c2s1_000000_99.jpg")
    draw(root / "bounding_box_train" / "0005_c1s1_000009_00.jpg", 8, 5, 1, 9)
    (root / "query" / "notes.heic").write_bytes(b"x")
    (root / "query" / "Thumbs.db").write_bytes(b"x")
    assert run_command(["data", "check", str(root), "--keep-same-camera"]) == 0
    out = capsys.readouterr().out
    assert "1 identities are in both training and test: 5" in out
    assert "1 queries are in the gallery as the same file or a copy (1 of them are ranked)" in out
    assert "1 files without an image suffix" in out
    found = leaks(load_dataset("market1501", root, keep_same_camera=True))
    assert found == ["1 identities are in both training and test: 5"]
    (tmp_path / "list.csv").write_text("path,identity,split\na.png,1,query\na.png,1,gallery\n")
    draw(tmp_path / "a.png", 8, 5, 1, 9)
    notice(tmp_path / "list.csv", "own")
    assert leaks(load_dataset("own", tmp_path / "list.csv", needs=("query",))) == [
        "1 queries are in the gallery as well and match themselves, as no camera is left out"
    ]
    assert "notes.heic" in out
    assert "Thumbs" not in out
    assert "no gallery image is left out because of its camera" in out


# --- Files: nested, other suffixes, 16 bits, orientation, odd names, doubled folders ---------------------


def test_every_image_file_is_used(data_root: Path, own_copy) -> None:
    folder = own_copy("market1501")
    before = load_dataset("market1501", folder)
    train = folder / "bounding_box_train"
    for i, path in enumerate(sorted(train.glob("*.jpg"))):
        (train / path.name[:4]).mkdir(exist_ok=True)
        target = train / path.name[:4] / path.name
        path.rename(target)
        if i % 3 == 0:
            suffix = (".webp", ".bmp", ".TIF")[i // 3 % 3]
            PIL.Image.open(target).save(target.with_suffix(suffix))
            target.unlink()
    after = load_dataset("market1501", folder)
    assert sorted(i.path.stem for i in after.train) == sorted(i.path.stem for i in before.train)
    assert all(decode(image.path, 4, 4).shape == (4, 4, 3) for image in after.train)


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".pgm", np.uint16)])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (6, 5)).astype(dtype)
    path = tmp_path / f"deep{suffix}"
    PIL.Image.fromarray(pixels).save(path)
    found = decode(path)
    np.testing.assert_array_equal(found, np.round(pixels[..., None] / 257).astype(np.uint8).repeat(3, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_an_unknown_range_are_refused_by_name(tmp_path: Path, dtype: type) -> None:
    PIL.Image.fromarray(np.zeros((4, 4), dtype)).save(tmp_path / "odd.tif")
    with pytest.raises(DataError, match=r"odd.tif: .*range is not known; convert it to 8 bits"):
        decode(tmp_path / "odd.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_images_are_turned_as_their_camera_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """As displayed by the definition of the tag: where row 0 and column 0 of the file belong."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    PIL.Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    shown = pixels if orientation < 5 else pixels.swapaxes(0, 1)
    rows, columns = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        orientation
    ]
    np.testing.assert_array_equal(decode(path), shown[::rows, ::columns])


def test_a_name_that_is_no_text_is_used(own_copy, tmp_path: Path) -> None:
    folder = own_copy("market1501")
    path = next((folder / "bounding_box_test").glob("0001_c2*"))
    odd = folder / "bounding_box_test" / (b"0001_c2s1_000999_\xd6\xd0.jpg".decode("utf-8", "surrogateescape"))
    try:
        path.rename(odd)
    except OSError:
        pytest.skip("this file system has text names only")
    dataset = load_dataset("market1501", folder)
    assert odd in [image.path for image in dataset.test]
    assert len(dataset.fingerprint) == 12


def test_a_set_one_level_down_is_found_and_a_missing_entry_is_named(own_copy, tmp_path: Path) -> None:
    folder = own_copy("market1501")
    deep = tmp_path / "deep" / "Market-1501" / "Market-1501"
    deep.parent.mkdir(parents=True)
    folder.rename(deep)
    assert load_dataset("market1501", tmp_path / "deep").root == deep
    (deep / "query").rename(tmp_path / "query")
    with pytest.raises(DataError, match=r"Market-1501, which lacks query of the layout of market1501"):
        load_dataset("market1501", deep)
    (tmp_path / "query").rename(deep / "query")
    shutil.copytree(deep.parent, tmp_path / "deep" / "copy")
    with pytest.raises(DataError, match=r"several folders under .*deep hold market1501: .*; give one of them"):
        load_dataset("market1501", tmp_path / "deep")
    assert set(available(tmp_path / "deep")) == {"market1501"}  # other sets under that root can be used
    with pytest.raises(DataError, match=r"deap does not exist; .*Did you mean 'deep'"):
        load_dataset("market1501", tmp_path / "deap")


def test_a_file_written_again_with_the_same_size_is_decoded_again(tmp_path: Path, own_cache: Path) -> None:
    root = one_camera(tmp_path / "set")
    path = sorted((root / "query").iterdir())[0]
    PIL.Image.new("RGB", (16, 32), (250, 0, 0)).save(path.with_suffix(".bmp"))
    path.unlink()
    for colour in ((250, 0, 0), (0, 250, 0)):
        PIL.Image.new("RGB", (16, 32), colour).save(path.with_suffix(".bmp"))
        dataset = load_dataset("market1501", root, keep_same_camera=True)
        pixels = open_pixels(dataset, "test", 8, 4, cache=True, progress=False)
        assert tuple(np.asarray(pixels[0])[0, 0]) == colour


# --- msinet data split -----------------------------------------------------------------------------


def test_folders_of_identities_are_split_by_seed(tmp_path: Path, capsys) -> None:
    for i in range(10):
        for n in range(1 if i == 0 else 4):
            draw(tmp_path / "people" / f"person {i}" / f"{n}.jpg", 9, i, 1, n, 32, 16)
    outs = {}
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        out = tmp_path / "lists" / f"{name}.csv"
        words = ["data", "split", str(tmp_path / "people"), "--out", str(out), "--test", "0.4", "--seed", str(seed)]
        assert run_command(words) == 0
        assert f"msinet data check {out}\n" in capsys.readouterr().out
        with out.open(newline="") as stream:
            outs[name] = list(csv.DictReader(stream))
    assert run_command(["data", "split", str(tmp_path / "people"), "--out", str(tmp_path / "a b.csv")]) == 0
    assert f"msinet data check '{tmp_path}/a b.csv'\n" in capsys.readouterr().out
    assert outs["a"] == outs["again"] != outs["other"]
    (tmp_path / "people" / "person 1" / "phone.heic").touch()
    assert run_command(["data", "split", str(tmp_path / "people"), "--out", str(tmp_path / "b.csv")]) == 0
    assert "1 files without an image suffix are not used" in capsys.readouterr().err
    by_split = {s: {row["identity"] for row in outs["a"] if row["split"] == s} for s in ("train", "query", "gallery")}
    assert len(by_split["train"]) == 6
    assert not by_split["train"] & by_split["gallery"]
    assert by_split["query"] <= by_split["gallery"]
    assert len(outs["a"]) == 37
    dataset = load_dataset("a", tmp_path / "lists" / "a.csv")
    assert count_queries(dataset).ranked == len(by_split["query"])
    with (tmp_path / "plain.csv").open("w") as stream:
        stream.write("path,identity\n" + "".join(f"lists/{row['path']},{row['identity']}\n" for row in outs["a"]))
    words = ["data", "split", str(tmp_path / "plain.csv"), "--out", str(tmp_path / "c.csv"), "--test", "0.4"]
    assert run_command(words) == 0
    again = load_dataset("c", tmp_path / "c.csv")
    assert {(i.path, again.identity_name(i)) for i in again.train} == {
        (i.path, dataset.identity_name(i)) for i in dataset.train
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["people", "--test", "1"], "--test must be above 0 and below 1"),
        (["people", "--queries", "0"], "--queries must be at least 1"),
        (["people", "--out", "list.txt"], "must end with .csv"),
        (["people", "--test", "0.1"], "identities give 0 for testing"),
        (["poeple"], "Did you mean 'people'"),
        (["people", "--test", "0.3"], "no test identity has two images, so there is no query: "),
        (["people/ann"], "outside an identity folder"),
    ],
)
def test_what_cannot_be_split_is_said(tmp_path: Path, monkeypatch, capsys, words: list[str], message: str) -> None:
    for name in ("ann", "bob", "eve"):
        draw(tmp_path / "people" / name / "0.jpg", 9, 1, 1, 0, 32, 16)
    monkeypatch.chdir(tmp_path)
    assert run_command(["data", "split", *words]) == 2
    assert not (tmp_path / "list.csv").exists()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stray", "kept", "message"),
    [
        ("ann/stray.jpg", "{}/cam{}/0.jpg", r"1 image\(s\) outside a camera folder, .* other 6: .*ann/stray.jpg"),
        ("ann/day/stray.jpg", "{}/{}.jpg", r"1 image\(s\) inside a camera folder, .* other 6: .*ann/day/stray.jpg"),
    ],
)
def test_images_at_another_depth_are_named(tmp_path: Path, stray: str, kept: str, message: str) -> None:
    people = tmp_path / "people"
    for i, name in enumerate(("ann", "bob", "eve")):
        for n in range(2):
            draw(people / kept.format(name, n), 9, i, 1, n, 32, 16)
    assert sum(split(people, tmp_path / "list.csv", test=0.3).values()) == 6
    draw(people / stray, 9, 0, 1, 9, 32, 16)
    with pytest.raises(DataError, match=message):
        split(people, tmp_path / "again.csv", test=0.3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("walker-2,cam0", "walker-2,", r"list.csv:6: no camera, but other lines have one"),
        ("Köln 02/3.png", "Köln 02/./2.png", r"list.csv:9: photos/Köln 02/./2.png is listed already \(line 8\)"),
        ("Köln 02/3.png", "Köln 02/4.png", r"list.csv:9: .*4.png does not exist, 1 of 40 .*Did you mean '.\.png'"),
    ],
)
def test_a_list_that_cannot_be_used_is_not_split(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = write_list(tmp_path / "own")
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        split(file, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_list_is_not_replaced(tmp_path: Path, monkeypatch, capsys) -> None:
    file = write_list(tmp_path)
    before = file.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert run_command(["data", "split", "list.csv"]) == 2  # whose default output has the same name
    assert "list.csv exists; choose another --out, or remove it" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", [b" ann", b"caf\xe9"])
def test_names_that_a_list_cannot_hold_are_refused(tmp_path: Path, name: bytes) -> None:
    for identity in (name, b"bob", b"eve"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "people") + b"/" + identity))
        try:
            folder.mkdir(parents=True)
        except OSError:  # macOS has only UTF-8 names
            pytest.skip("the file system refuses this name")
        draw(folder / "0.jpg", 9, 1, 1, 0, 32, 16)
    with pytest.raises(DataError, match="cannot stand in a list"):
        split(tmp_path / "people", tmp_path / "people" / "list.csv", test=0.3)
    assert not (tmp_path / "people" / "list.csv").exists()


def test_a_list_may_have_capitals_in_its_suffix(tmp_path: Path) -> None:
    write_list(tmp_path / "shop").rename(tmp_path / "shop" / "LIST.CSV")
    assert len(load_dataset("shop", tmp_path / "shop").train) == 24


def test_held_out_identities_need_training_images_only(tmp_path: Path) -> None:
    file = write_list(tmp_path / "shop")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if line.startswith("path") or ",train" in line), encoding="utf-8")
    assert load_dataset("shop-heldout", file).num_classes == 5


# --- Through the command line --------------------------------------------------------------------------


def test_an_own_list_is_trained_ranked_and_recorded_under_its_name(tmp_path: Path, capsys) -> None:
    file = write_list(tmp_path / "shop")
    small = ["--recipe", "epochs=1", "identities=2", "images=2", "steps_per_epoch=1", "height=32", "width=16"]
    quiet = ["--no-progress", "--device", "cpu"]
    words = ["train", "--data-root", str(file), "--out", str(tmp_path / "run"), "--profile", "smoke", *quiet]
    assert run_command([*words, "--model", "msinet_x0_25", *small]) == 0
    assert "shop: mAP" in (out := capsys.readouterr().out)
    assert "4 of 4 queries ranked" in out
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["queries"], record["queries_ranked"], record["source_layout"]) == (4, 4, "list")
    with (tmp_path / "run" / "queries.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["identity"] == "walker-7"
    assert rows[0]["query"] == "photos/Köln 07/0.png"
    assert rows[0]["camera"] == "cam0"
    weights = str(tmp_path / "run" / "model.safetensors")
    found = tmp_path / "found.json"
    again = ["evaluate", "--data-root", str(file.parent), "--weights", weights, *quiet, "--out", str(found)]
    assert run_command([*again, "--rerank", "--k1", "5", "--k2", "2", "--lambda", "0.5"]) == 0
    evaluated = json.loads(found.read_text())
    assert (evaluated["k1"], evaluated["k2"], evaluated["lambda"], evaluated["queries_ranked"]) == (5, 2, 0.5, 4)
    assert evaluated["dataset"] == "shop"
    assert run_command([*words, "--model", "msinet_x0_25", *small]) == 2
    assert f"--weights {weights} starts from its weights" in capsys.readouterr().err
    assert run_command([*again, "--height", "7"]) == 2
    assert "height must be at least 16" in capsys.readouterr().err
