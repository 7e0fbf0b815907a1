"""What makes a query hard: the factors of a rendered set against a computation by hand."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from msinet.data import load_dataset
from msinet.data.datasets import Dataset, Draw, Image
from msinet.data.factors import query_factors, read_factors
from msinet.data.rendered import FACTORS
from msinet.errors import UserError

SETS = ("market1501", "msmt17", "veri776", "vehicleid")

#: name, identity, camera, yaw, occlusion, light
SCENE = (
    ("q.jpg", 1, 1, 350.0, 0.25, 0.75),
    ("same_camera.jpg", 1, 1, 352.0, 0.0, 1.0),
    ("behind.jpg", 1, 2, 170.0, 0.0, 1.0),
    ("across_zero.jpg", 1, 3, 10.0, 0.0, 1.0),
    ("other.jpg", 2, 2, 350.0, 0.0, 1.0),
)


def scene(root: Path, *, remove_same_camera: bool, world: str = "w") -> Dataset:
    """A set of five images, of which only the names are real."""
    with (root / FACTORS).open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(("path", "family", "yaw", "occlusion", "light"))
        out.writerows((name, identity + 5, yaw, *others) for name, identity, _, yaw, *others in SCENE)
    test = tuple(Image(root / name, identity, camera) for name, identity, camera, *_ in SCENE)
    return Dataset("scene", "Scene", root, (), test, (), remove_same_camera, world=world)


@pytest.mark.parametrize(
    ("gallery", "apart", "together"),
    [
        ((1, 2, 3, 4), 20.0, 2.0),  # 350° to 10° is 20°; 350° to 352° only where the same camera counts
        ((2, 4), 180.0, 180.0),
        ((1, 4), math.nan, 2.0),
        ((4,), math.nan, math.nan),
        ((), math.nan, math.nan),
    ],
)
def test_the_view_change_of_a_scene_that_was_drawn_up(
    tmp_path: Path, gallery: tuple[int, ...], apart: float, together: float
) -> None:
    draw = Draw(np.array([0]), np.array(gallery, dtype=np.int64))
    for remove, expected in ((True, apart), (False, together)):
        (found,) = query_factors(scene(tmp_path, remove_same_camera=remove), draw)
        assert found["view_change"] == pytest.approx(expected, nan_ok=True)
        assert (found["family"], found["occlusion"], found["light"]) == (6, 0.25, 0.75)


@pytest.mark.parametrize("name", SETS)
def test_the_factors_of_queries_by_brute_force(world_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    with (dataset.root / FACTORS).open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}

    def row(index: int) -> dict[str, str]:
        # VeRi's queries are listed where they lie in the gallery.
        path = dataset.test[index].path.relative_to(dataset.root).as_posix()
        return rows[path.replace("image_query/", "image_test/")]

    for draw in dataset.draws:
        found = query_factors(dataset, draw)
        assert len(found) == len(draw.query)
        for query, factors in zip(draw.query, found, strict=True):
            turns = []
            for index in draw.gallery:
                a, b = dataset.test[query], dataset.test[index]
                if a.identity == b.identity and (name == "vehicleid" or a.camera != b.camera):
                    turn = (float(row(index)["yaw"]) - float(row(query)["yaw"])) % 360
                    turns.append(min(turn, 360 - turn))
            assert factors["view_change"] == pytest.approx(min(turns, default=math.nan), abs=1e-9, nan_ok=True)
            assert factors["occlusion"] == float(row(query)["occlusion"])
            assert factors["light"] == float(row(query)["light"])
            assert factors["family"] == int(row(query)["family"])


def test_photographs_have_none(data_root: Path, tmp_path: Path) -> None:
    for name in SETS:
        dataset = load_dataset(name, data_root)
        assert read_factors(dataset) == {}
        assert query_factors(dataset, dataset.draws[0]) == []
    # A file of that name beside photographs is not ours.
    draw = Draw(np.array([0]), np.array([3]))
    assert query_factors(scene(tmp_path, remove_same_camera=True, world=""), draw) == []


def test_an_image_without_factors_is_named(tmp_path: Path) -> None:
    dataset = scene(tmp_path, remove_same_camera=True)
    lines = (tmp_path / FACTORS).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / FACTORS).write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(UserError, match=r"does not list other\.jpg; render the set again"):
        read_factors(dataset)
