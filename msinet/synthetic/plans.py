"""The images and list files of every rendered set, in the native layout of its namesake (docs/protocol.md)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from msinet.data.layouts import card_of
from msinet.errors import UserError
from msinet.synthetic import vehicle
from msinet.synthetic.groups import Shot, Sighting, draw_group
from msinet.synthetic.scene import Identity


@dataclass(frozen=True)
class Size:
    """Size of a rendered set."""

    identities: int
    """for training"""
    test_identities: int
    images: float
    """per identity for training, on average"""
    test_images: float
    """per identity for testing, on average"""
    height: int
    """of person images in pixels; vehicle images have about height x height pixels, in the body's proportions"""

    def __post_init__(self) -> None:
        least = {"identities": 4, "test_identities": 3, "images": 4, "test_images": 4, "height": 16}
        for name, number in least.items():
            if not number <= getattr(self, name) < math.inf:  # nan is refused too
                raise UserError(f"world: {name} must be at least {number}, got {getattr(self, name)}")


#: Sizes of the sets by profile. The standard error of mAP is about 1 point over 400 test identities, 2 over 100.
SIZES: dict[str, dict[str, Size]] = {
    "smoke": dict.fromkeys(("market1501", "msmt17", "veri776", "vehicleid", "pretext"), Size(12, 8, 6, 6, 32)),
    "mini": {
        "market1501": Size(100, 400, 10, 6, 96),
        "msmt17": Size(120, 500, 10, 6, 96),
        "veri776": Size(100, 200, 10, 6, 96),
        "vehicleid": Size(120, 200, 10, 6, 96),
        "pretext": Size(150, 100, 12, 12, 96),
    },
    # Identities as in the real sets; fewer images where rendering would take too long.
    "full": {
        "market1501": Size(751, 750, 12936 / 751, 22, 256),
        "msmt17": Size(1041, 3060, 32621 / 1041, 10, 256),
        "veri776": Size(576, 200, 30, 30, 256),
        "vehicleid": Size(2400, 2400, 9, 7, 256),
        "pretext": Size(751, 750, 12936 / 751, 12936 / 751, 256),
    },
}

#: Text of list files by path relative to the set.
Lists = dict[str, str]
#: From a size and a seed to the images of a set and its list files.
Plan = Callable[[Size, int], tuple[list[Shot], Lists]]
#: File name, identity, camera and vehicle.
VeRiRow = tuple[str, int, int, Identity]


def _numbers(count: int, seed: int, code: int, start: int) -> np.ndarray:
    """Identity numbers in random order, so that members of a family do not follow each other."""
    return np.random.default_rng((seed, code, 29)).permutation(count) + start


def _parts(size: Size) -> tuple[tuple[str, int, float], ...]:
    """Name, identities and images per identity of both parts of a set."""
    return ("train", size.identities, size.images), ("test", size.test_identities, size.test_images)


def plan_market1501(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Test identities are numbered after the training ones; junk is -1, distractors are 0."""
    train = draw_group("market1501", 0, size.identities, size.images, seed)
    test = draw_group("market1501", 1, size.test_identities, size.test_images, seed)
    others = draw_group("market1501", 2, max(3, round(0.12 * size.test_identities)), size.test_images, seed)
    others.families = [family + test.families[-1] + 1 for family in others.families]
    numbers = _numbers(size.identities, seed, 0, 1)
    shots = [
        train.shot(seed, s, (_market("bounding_box_train", numbers[s.index], s),), "train", int(numbers[s.index]))
        for s in train.sightings
    ]
    numbers = _numbers(size.test_identities, seed, 1, size.identities + 1)
    for s in test.sightings:
        split, folder = ("query", "query") if s.query else ("gallery", "bounding_box_test")
        shots.append(test.shot(seed, s, (_market(folder, numbers[s.index], s),), split, int(numbers[s.index])))
    for number, s in enumerate(others.sightings):
        junk = number % 3 == 0
        path = _market("bounding_box_test", -1 if junk else 0, s, number)
        shots.append(others.shot(seed, s, (path,), "gallery", -1 if junk else 0, junk=junk))
    return shots, {}


def _market(folder: str, identity: int, s: Sighting, frame: int = 0) -> str:
    number = f"{identity:04d}" if identity >= 0 else "-1"
    return f"{folder}/{number}_c{s.camera}s{1 + s.shot % 3}_{1000 * frame + 25 * s.shot + 1:06d}_{s.shot % 4:02d}.jpg"


def plan_msmt17(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Training and test identities both start at 0; each training identity gives one image to list_val."""
    shots: list[Shot] = []
    lists: dict[str, list[str]] = {name: [] for name in ("train", "val", "query", "gallery")}
    for code, (part, count, images) in enumerate(_parts(size)):
        group = draw_group("msmt17", code, count, images, seed)
        numbers = _numbers(count, seed, code, 0)
        for s in group.sightings:
            n = int(numbers[s.index])
            slot = ("morning", "noon", "afternoon")[s.shot % 3]
            name = f"{n:04d}/{n:04d}_{s.shot:03d}_{s.camera:02d}_0303{slot}_{40 * s.shot:04d}_{s.shot % 4}.jpg"
            split = "train" if part == "train" else "query" if s.query else "gallery"
            shots.append(group.shot(seed, s, (f"{part}/{name}",), split, n))
            lists["val" if part == "train" and s.shot == 0 else split].append(f"{name} {n}")
    return shots, {f"list_{name}.txt": _text(sorted(lines)) for name, lines in lists.items()}


def plan_veri776(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Query images are also in the gallery; lists of names, labels and per-query matches as in the original."""
    shots: list[Shot] = []
    names: dict[str, list[VeRiRow]] = {"train": [], "query": [], "test": []}
    for code, (part, count, images) in enumerate(_parts(size)):
        group = draw_group("veri776", code, count, images, seed)
        numbers = _numbers(count, seed, code, 1 + code * size.identities)
        for s in group.sightings:
            n = int(numbers[s.index])
            name = f"{n:04d}_c{s.camera:03d}_{250 * s.shot:08d}_{s.shot % 2}.jpg"
            query = part == "test" and s.query
            paths = (f"image_{part}/{name}", *([f"image_query/{name}"] if query else []))
            shots.append(group.shot(seed, s, paths, "query" if query else "train" if part == "train" else "gallery", n))
            for split in (part, *(["query"] if query else [])):
                names[split].append((name, n, s.camera, group.subjects[s.index]))
    rows = {split: sorted(entries, key=lambda e: e[0]) for split, entries in names.items()}
    lists = {f"name_{split}.txt": _text([e[0] for e in entries]) for split, entries in rows.items()}
    for split, title in (("train", "TrainingImages"), ("test", "TestImages")):
        lists[f"{split}_label.xml"] = _veri_xml(title, rows[split])
    lists["list_color.txt"] = _text([f"{i} {name}" for i, name in enumerate(vehicle.PAINTS, 1)])
    lists["list_type.txt"] = _text([f"{i} {name}" for i, name in enumerate(vehicle.SHAPES, 1)])
    return shots, lists | _veri_index(rows["query"], rows["test"])


def _veri_index(query: Sequence[VeRiRow], test: Sequence[VeRiRow]) -> Lists:
    """Per query: 1-based positions in name_test of its vehicle from other cameras, and from its own camera."""
    seen: dict[int, list[tuple[int, int]]] = {}  # positions and cameras by identity
    for position, (_, identity, camera, _) in enumerate(test, 1):
        seen.setdefault(identity, []).append((position, camera))
    good = [" ".join(str(i) for i, c in seen[identity] if c != camera) for _, identity, camera, _ in query]
    junk = [" ".join(str(i) for i, c in seen[identity] if c == camera) for _, identity, camera, _ in query]
    return {"gt_index.txt": _text(good), "jk_index.txt": _text(junk)}


def _veri_xml(title: str, rows: Sequence[VeRiRow]) -> str:
    colours, types = list(vehicle.PAINTS), list(vehicle.SHAPES)
    items = [
        f'<Item imageName="{name}" vehicleID="{n:04d}" cameraID="c{camera:03d}" '
        f'colorID="{1 + colours.index(one.colour)}" typeID="{1 + types.index(one.type)}" />'
        for name, n, camera, one in rows
        if isinstance(one, vehicle.Vehicle)
    ]
    head = f'<?xml version="1.0" encoding="gb2312"?>\n<{title} Version="1.0">\n<Items number="{len(items)}">\n'
    return head + _text(items) + f"</Items>\n</{title}>\n"


def plan_vehicleid(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Numbered images without cameras; the three nested test lists have a third, two thirds and all of the vehicles."""
    shots: list[Shot] = []
    lists: dict[str, list[str]] = {"train_list": []}
    labels: dict[str, list[str]] = {"color_attr": [], "model_attr": []}
    number = 0
    for code, (split, count, images) in enumerate(_parts(size)):
        group = draw_group("vehicleid", code, count, images, seed)
        numbers = _numbers(count, seed, code, 1 + code * size.identities)
        for index in np.argsort(numbers):
            one, n = group.subjects[index], int(numbers[index])
            assert isinstance(one, vehicle.Vehicle)
            labels["color_attr"].append(f"{n} {list(vehicle.PAINTS).index(one.colour)}")
            labels["model_attr"].append(f"{n} {list(vehicle.SHAPES).index(one.type)}")
        for s in sorted(group.sightings, key=lambda s: (numbers[s.index], s.shot)):
            number += 1
            n = int(numbers[s.index])
            shots.append(group.shot(seed, s, (f"image/{number:07d}.jpg",), split, n))
            line = f"{number:07d} {n}"
            if not code:
                lists["train_list"].append(line)
                continue
            rank = (n - 1 - size.identities) / count
            for name, share in (("800", 1 / 3), ("1600", 2 / 3), ("2400", 1.0)):
                if rank < share:
                    lists.setdefault(f"test_list_{name}", []).append(line)
    files = {f"train_test_split/{name}.txt": _text(lines) for name, lines in lists.items()}
    return shots, files | {f"attribute/{name}.txt": _text(lines) for name, lines in labels.items()}


def plan_pretext(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """One folder per class, half of them persons and half vehicles, in square frames; an eighth is for validation."""
    shots: list[Shot] = []
    count = size.identities // 2
    for style in ("pretext person", "pretext vehicle"):
        group = draw_group(style, 0, count, size.images, seed)
        for s in group.sightings:
            kind = style.split()[1]
            split = "val" if s.shot % 8 == 3 else "train"
            path = f"{split}/{kind}{s.index:04d}/{s.shot:03d}_c{s.camera}.jpg"
            shots.append(group.shot(seed, s, (path,), split, s.index + (0 if kind == "person" else count), square=True))
    return shots, {}


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


#: Plans of the rendered sets: the data sets whose layout they have, and the one for pre-training.
SETS: dict[str, Plan] = {
    "market1501": plan_market1501,
    "msmt17": plan_msmt17,
    "veri776": plan_veri776,
    "vehicleid": plan_vehicleid,
    "pretext": plan_pretext,
}


def folder_of(name: str) -> str:
    """The folder of a rendered set below its root: the first of its data set's card."""
    return name if name == "pretext" else card_of(name).folders[0]
