"""Contact sheets, found again by colour: every image of a small set is of one colour that no other has."""

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from msinet.cli import run_command
from msinet.data import sheets
from msinet.data.layouts import load_dataset
from msinet.data.sheets import SHOWN, Line, show
from msinet.errors import UserError

NAMES = ("market1501", "msmt17", "veri776", "vehicleid")
IDENTITIES, CAMERAS, SHOTS = (2, 3, 4), (1, 2, 3), (0, 1)
Box = tuple[int, int, int, int]


def colour(identity: int, camera: int, shot: int) -> np.ndarray:
    return np.array((40 + 50 * identity, 30 + 60 * camera, 20 + 100 * shot))


def paint(path: Path, rgb: Iterable[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (16, 32), tuple(map(int, rgb))).save(path, quality=95)


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """A Market-1501 whose every image has a colour of its own; identity 0 is a distractor."""
    root = tmp_path / "Market-1501-v15.09.15"
    paint(root / "bounding_box_train" / "0001_c1s1_000000_00.jpg", (5, 5, 5))
    paint(root / "bounding_box_test" / "0000_c1s1_000000_00.jpg", (250, 0, 250))
    for identity in IDENTITIES:
        for camera in CAMERAS:
            for shot in SHOTS:
                folder = "query" if shot == 0 else "bounding_box_test"
                paint(root / folder / f"{identity:04d}_c{camera}s1_{shot:06d}_00.jpg", colour(identity, camera, shot))
    return root


def rendered(root: Path, yaw: dict[tuple[int, int, int], float] | None = None) -> None:
    """Pretend that a set was rendered: a description, and factors that are the same but for yaw and family."""
    (root / "world.json").write_text(json.dumps({"fingerprint": "abc", "seed": 0, "samples": {}}))
    rows = []
    for path in sorted(root.rglob("*.jpg")):
        key = int(path.name[:4]), int(path.name[6]), int(path.name[10:16])
        row = {"path": path.relative_to(root).as_posix(), "family": 9 - key[0] // 3, **dict.fromkeys(SHOWN, 1.0)}
        rows.append(row | {"yaw": (yaw or {}).get(key, 0.0)})
    with (root / "factors.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def open_sheet(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image, np.int64)


def find(sheet: np.ndarray, rgb: np.ndarray) -> Box | None:
    """Left, top, width and height of the only patch of a colour; None without one."""
    rows, columns = np.nonzero(np.abs(sheet - rgb).max(2) <= 4)
    if not len(rows):
        return None
    box = int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    assert len(rows) == box[2] * box[3]  # it fills its rectangle
    return box


def patches(path: Path) -> dict[tuple[int, int, int], Box]:
    """Where each image of the coloured set is on a sheet."""
    sheet = open_sheet(path)
    keys = [(i, c, s) for i in IDENTITIES for c in CAMERAS for s in SHOTS]
    return {key: box for key in keys if (box := find(sheet, colour(*key)))}


# --- Where images are ----------------------------------------------------------------------------


def test_identities_have_a_row_each_with_different_cameras_first(coloured: Path, tmp_path: Path) -> None:
    paths = show(load_dataset("market1501", coloured), tmp_path / "out", height=64)
    assert [path.name for path in paths] == ["market1501-identities.png", "market1501-cameras.png"]
    found = patches(paths[0])
    assert len(found) == 18
    assert {box[2:] for box in found.values()} == {(32, 64)}
    tops = {identity: {found[identity, c, s][1] for c in CAMERAS for s in SHOTS} for identity in IDENTITIES}
    assert all(len(rows) == 1 for rows in tops.values())
    assert [min(tops[i]) for i in IDENTITIES] == sorted(min(tops[i]) for i in IDENTITIES)
    assert len({min(rows) for rows in tops.values()}) == 3
    for identity in IDENTITIES:
        order = sorted((box[0], key) for key, box in found.items() if key[0] == identity)
        assert [key[1] for _, key in order] == [1, 2, 3, 1, 2, 3]
        assert all(right[0] - left[0] >= 32 for left, right in pairwise(order))  # beside each other
    assert find(open_sheet(paths[0]), np.array((250, 0, 250))) is None  # a distractor
    assert find(open_sheet(paths[0]), np.array((5, 5, 5))) is None  # a training image


def test_cameras_have_a_row_each_with_different_identities(coloured: Path, tmp_path: Path) -> None:
    paths = show(load_dataset("market1501", coloured), tmp_path, columns=3, height=64)
    found = patches(paths[1])
    assert len(found) == 9
    for camera in CAMERAS:
        row = {key: box for key, box in found.items() if key[1] == camera}
        assert len(row) == 3
        assert len({box[1] for box in row.values()}) == 1
        assert len({key[0] for key in row}) >= 2
    assert len({box[1] for box in found.values()}) == 3


def test_rows_and_columns_are_limits(coloured: Path, tmp_path: Path) -> None:
    paths = show(load_dataset("market1501", coloured), tmp_path, rows=2, columns=4, height=32)
    by_identity, by_camera = (patches(path) for path in paths)
    assert {key[0] for key in by_identity} == {2, 3}
    assert {key[1] for key in by_camera} == {1, 2}
    assert len(by_identity) == len(by_camera) == 8


def test_factors_go_from_low_to_high_and_families_stand_together(coloured: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [(i, c, s) for i in IDENTITIES for c in CAMERAS for s in SHOTS]
    yaw = {key: float(value) for key, value in zip(keys, rng.permutation(18) * 20.0, strict=True)}
    rendered(coloured, yaw)
    paths = show(load_dataset("market1501", coloured), tmp_path, columns=4, height=64)
    assert paths[2].name == "market1501-factors.png"
    found = patches(paths[2])
    assert len({box[1] for box in found.values()}) == 1  # factors that are the same everywhere are not shown
    assert [yaw[key] for key in sorted(found, key=lambda key: found[key][0])] == [0, 120, 220, 340]
    rows = patches(paths[0])
    assert rows[3, 1, 0][1] < rows[4, 1, 0][1] < rows[2, 1, 0][1]  # by family


@pytest.mark.parametrize("name", NAMES)
def test_sheets_of_any_set_can_be_read(data_root: Path, world_root: Path, tmp_path: Path, name: str) -> None:
    for root, kinds in ((data_root, ["identities", "cameras"]), (world_root, ["identities", "cameras", "factors"])):
        paths = show(load_dataset(name, root), tmp_path / root.name, rows=4, columns=5, height=32)
        assert [path.name for path in paths] == [f"{name}-{kind}.png" for kind in kinds]
        for path in paths:
            sheet = open_sheet(path)
            assert (sheet[:, -3:] == 255).all() or (sheet[:3] == 255).all()  # paper
            assert (sheet < 200).any(2).mean() > 0.02  # and pictures
        assert sorted(p.name for p in (tmp_path / root.name).iterdir()) == sorted(p.name for p in paths)


def test_both_identities_of_a_repeated_number_are_not_mixed(world_root: Path, tmp_path: Path) -> None:
    """MSMT17 has an identity 0, which is nobody's distractor."""
    dataset = load_dataset("msmt17", world_root)
    copy = Path(shutil.copytree(dataset.root, tmp_path / "MSMT17_V1"))
    for path in (copy / "test" / "0000").iterdir():
        paint(path, (255, 0, 255))
    world = json.loads((copy / "world.json").read_text())
    (copy / "world.json").write_text(json.dumps(world | {"samples": {}}))  # of the images that were painted over
    path = show(load_dataset("msmt17", copy), tmp_path / "out", rows=6, columns=1, height=32)[0]
    rows, _ = np.nonzero(np.abs(open_sheet(path) - (255, 0, 255)).max(2) <= 4)
    assert len(rows) == 16 * 32


def write_list(folder: Path, images: dict[str, tuple[str, str]], cameras: bool = True) -> Path:
    """A list of gallery images, by path, with their identities and cameras; the first is a query as well."""
    rows = [("path", "identity", "camera", "split"), (next(iter(images)), *next(iter(images.values())), "query")]
    rows += [(path, *labels, "gallery") for path, labels in images.items()]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(row if cameras else (row[0], row[1], row[3])) for row in rows]
    (folder / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "list.csv"


def captured(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Line]]:
    """The lines of every sheet that is drawn from now on."""
    found: list[Sequence[Line]] = []
    original = sheets.draw
    monkeypatch.setattr(sheets, "draw", lambda lines, *rest: found.append(lines) or original(lines, *rest))
    return found


@pytest.mark.parametrize("cameras", [True, False])
def test_images_of_a_list_that_share_a_file_name_are_all_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_sets: None, cameras: bool
) -> None:
    images = {
        f"{person}/{camera} {day}/{n}.png": (person, camera)
        for person in ("ann", "bob")
        for camera in ("door", "hall")
        for day in (1, 2)
        for n in (0, 1)
    }
    for number, path in enumerate(images):
        paint(tmp_path / "shop" / path, (10 * number, 100, 0))
    found = captured(monkeypatch)
    show(load_dataset("shop", write_list(tmp_path / "shop", images, cameras), needs=("query", "gallery")), tmp_path)
    assert [len(line.images) for line in found[0]] == [8, 8]  # the query, listed twice, is shown once
    assert {path for line in found[0] for path, _ in line.images} == {tmp_path / "shop" / path for path in images}


def test_the_query_copies_of_veri_are_shown_once(data_root: Path, tmp_path: Path, monkeypatch) -> None:
    dataset = load_dataset("veri776", data_root)
    found = captured(monkeypatch)
    show(dataset, tmp_path, rows=100, columns=100)
    names = [path.name for line in found[0] for path, _ in line.images]
    assert sorted(names) == sorted({image.path.name for image in dataset.test})
    assert len(names) < len(dataset.test)


def test_names_of_a_list_are_shown_instead_of_numbers(tmp_path: Path, monkeypatch, own_sets: None) -> None:
    images = {f"{i}.png": ("walker-7" if i < 2 else "walker-9", "door" if i % 2 else "hall") for i in range(4)}
    for path in images:
        paint(tmp_path / "shop" / path, (9, 9, 9))
    found = captured(monkeypatch)
    show(load_dataset("shop", write_list(tmp_path / "shop", images), needs=("query", "gallery")), tmp_path)
    people, cameras = ([(line.label, [text for _, text in line.images]) for line in lines] for lines in found)
    assert people == [("identity\nwalker-7", ["door", "hall"]), ("identity\nwalker-9", ["door", "hall"])]
    assert cameras == [("camera\ndoor", ["walker-7", "walker-9"]), ("camera\nhall", ["walker-7", "walker-9"])]


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [{"rows": 0}, {"columns": 0}, {"height": 15}, {"rows": -1}])
def test_a_sheet_without_room_is_refused(coloured: Path, tmp_path: Path, size: dict[str, int]) -> None:
    with pytest.raises(UserError, match="rows and columns must be at least 1 and height at least 16, got"):
        show(load_dataset("market1501", coloured), tmp_path / "out", **size)
    assert not (tmp_path / "out").exists()


def test_factors_that_lack_an_image_are_reported(coloured: Path, tmp_path: Path) -> None:
    rendered(coloured)
    file = coloured / "factors.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "0003_c2s1_000001" not in line))
    with pytest.raises(UserError) as caught:
        show(load_dataset("market1501", coloured), tmp_path / "out")
    assert "factors.csv does not list bounding_box_test/0003_c2s1_000001_00.jpg" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_reported(coloured: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        show(load_dataset("market1501", coloured), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# --- Command -------------------------------------------------------------------------------------


def test_the_command_draws_what_is_recognised(world_root: Path, tmp_path: Path, capsys) -> None:
    words = ["data", "show", str(world_root), "--out", str(tmp_path), "--rows", "2", "--columns", "3", "--height", "16"]
    assert run_command(words) == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(f"{n}-{kind}.png" for n in NAMES for kind in ("identities", "cameras", "factors"))
    printed = capsys.readouterr().out
    assert all(name in printed for name in written)
    assert run_command([*words, "--datasets", "veri776", "--out", str(tmp_path / "one")]) == 0
    assert len(list((tmp_path / "one").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--datasets", "veri"], "unknown data set 'veri'"),
        (["--rows", "0"], "rows and columns must be at least 1"),
        (["--height", "3"], "height at least 16"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_status_2(data_root, tmp_path: Path, capsys, words, expected: str) -> None:
    assert run_command(["data", "show", str(data_root), "--out", str(tmp_path / "out"), *words]) == 2
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_an_option_without_effect_is_unknown(data_root: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_command(["data", "show", str(data_root), "--keep-same-camera"])
    assert "--keep-same-camera" in capsys.readouterr().err


def test_a_root_without_sets_is_reported(tmp_path: Path, capsys) -> None:
    assert run_command(["data", "show", str(tmp_path)]) == 2
    assert "no known layout under" in capsys.readouterr().err
