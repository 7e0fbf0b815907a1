"""Writes the world's sets to disk in the native layouts of their namesakes (SPEC F).

ROOT/Market-1501-v15.09.15/, MSMT17_V1/, VeRi/, VehicleID/ and ROOT/pretext/. Each holds `factors.csv`, one row per
image with every number behind it, and `world.json`, which says how to render it again. A set appears under
its name when it is whole; until then it grows in a folder beside, from which the same command goes on.
"""

import csv
import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from msinet.data.rendered import FACTORS, WORLD, read_world
from msinet.errors import UserError, unknown_name
from msinet.io import exclusive, write_csv, write_json, write_text
from msinet.progress import bar
from msinet.synthetic import person, vehicle
from msinet.synthetic.cameras import draw_camera
from msinet.synthetic.scene import Identity, photograph
from msinet.synthetic.sets import STYLES

#: Raise when the same seed gives other images.
VERSION = 1
#: Images that one process renders before it reports.
CHUNK = 48


@dataclass(frozen=True)
class Size:
    """How much is rendered of each set."""

    identities: int
    """for training"""
    test_identities: int
    images: float
    """per identity, on average"""
    height: int
    """of persons in pixels; vehicles fill height x height pixels"""

    def __post_init__(self) -> None:
        for name, least in {"identities": 4, "test_identities": 3, "images": 4, "height": 16}.items():
            if not least <= getattr(self, name) < math.inf:  # nan is refused too
                raise UserError(f"world: {name} must be at least {least}, got {getattr(self, name)}")


SIZES = {
    "smoke": Size(12, 8, 6, 32),
    "mini": Size(150, 100, 12, 96),
    "full": Size(751, 750, 12936 / 751, 256),  # Market-1501's training set
}


@dataclass(frozen=True)
class Shot:
    """One image to be."""

    paths: tuple[str, ...]
    """relative to the set; the same bytes under each"""
    split: str
    identity: int
    camera: int
    style: str
    who: Identity
    family: int
    """counted within the split"""
    key: tuple[int, ...]
    """the image's own seed"""
    square: bool = False
    junk: bool = False


@dataclass(frozen=True)
class Sighting:
    """An identity before a camera, not yet named."""

    index: int
    """of the identity in its group"""
    camera: int
    shot: int
    query: bool


@dataclass
class Group:
    """Identities of one split and their sightings."""

    style: str
    code: int
    """part of the seed: apart from other groups of the set"""
    people: list[Identity]
    families: list[int]
    sightings: list[Sighting]

    def shot(self, seed: int, s: Sighting, paths: tuple[str, ...], split: str, identity: int, **more: bool) -> Shot:
        """The image of a sighting."""
        key = (seed, VERSION, list(STYLES).index(self.style), self.code, s.index, s.shot)
        who, family = self.people[s.index], self.families[s.index]
        return Shot(paths, split, identity, s.camera, self.style, who, family, key, **more)


def draw_identities(style: str, number: int, rng: np.random.Generator) -> tuple[list[Identity], list[int]]:
    """Identities and their families: two to four who share most of what they are, and no two the same."""
    kind, palette = STYLES[style].kind, STYLES[style].palette
    people: list[Identity] = []
    families: list[int] = []
    while len(people) < number:
        base = (person if kind == "person" else vehicle).draw_family(rng, palette)
        members: list[Identity] = []
        for _ in range(rng.integers(2, 5)):
            member: Identity
            if isinstance(base, person.Person):
                member = person.draw_member(base, rng, palette)
            else:
                member = vehicle.draw_member(base, rng, palette)
            if _looks(member) not in map(_looks, members):
                members.append(member)
        families += [families[-1] + 1 if families else 0] * len(members)
        people += members
    return people[:number], families[:number]


def _looks(who: Identity) -> Identity:
    """All but the build or the plate, which a small image does not show."""
    if isinstance(who, person.Person):
        return replace(who, stature=0, girth=0)
    return replace(who, plate=0)


def draw_group(style: str, code: int, identities: int, images: float, seed: int) -> Group:
    """Identities, each with its own number of images, before two to six of the set's cameras."""
    rng = np.random.default_rng((seed, VERSION, list(STYLES).index(style), code, 17))
    people, families = draw_identities(style, identities, rng)
    wish = rng.uniform(0.6, 1.4, identities)
    total = round(identities * images)
    counts = np.maximum(4, np.floor(wish / wish.sum() * total).astype(int))
    for i in rng.permutation(identities)[: max(0, total - counts.sum())]:
        counts[i] += 1
    while counts.sum() > total:  # the least number of images was given out too often
        counts[counts.argmax()] -= 1
    sightings = []
    for index, count in enumerate(counts):
        most = min(STYLES[style].cameras, 6, count // 2)
        cameras = rng.permutation(STYLES[style].cameras)[: rng.integers(min(3, most), most + 1)] + 1
        # Every camera has at least two images of an identity that it sees; the first may be a query.
        sightings += [
            Sighting(index, int(cameras[shot % len(cameras)]), shot, shot < len(cameras)) for shot in range(count)
        ]
    return Group(style, code, people, families, sightings)


# --- The layouts ---------------------------------------------------------------------------------

Lists = dict[str, str]
#: From a size and a seed to the images of a set and its list files.
Plan = Callable[[Size, int], tuple[list[Shot], Lists]]


def _numbers(count: int, seed: int, code: int, start: int) -> np.ndarray:
    """Identity numbers in random order, so that families are not neighbours."""
    return np.random.default_rng((seed, code, 29)).permutation(count) + start


def plan_market1501(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Test identities are numbered after the training ones; junk is -1, distractors are 0."""
    train = draw_group("market1501", 0, size.identities, size.images, seed)
    test = draw_group("market1501", 1, size.test_identities, size.images, seed)
    others = draw_group("market1501", 2, max(3, round(0.12 * size.test_identities)), size.images, seed)
    numbers = _numbers(size.identities, seed, 0, 1)
    shots = [
        train.shot(seed, s, (_market("bounding_box_train", numbers[s.index], s),), "train", int(numbers[s.index]))
        for s in train.sightings
    ]
    numbers = _numbers(size.test_identities, seed, 1, size.identities + 1)
    for s in test.sightings:
        split, folder = ("query", "query") if s.query else ("gallery", "bounding_box_test")
        shots.append(test.shot(seed, s, (_market(folder, numbers[s.index], s),), split, int(numbers[s.index])))
    for place, s in enumerate(others.sightings):
        junk = place % 3 == 0
        path = _market("bounding_box_test", -1 if junk else 0, s, place)
        shots.append(others.shot(seed, s, (path,), "gallery", -1 if junk else 0, junk=junk))
    return shots, {}


def _market(folder: str, identity: int, s: Sighting, frame: int = 0) -> str:
    number = f"{identity:04d}" if identity >= 0 else "-1"
    return f"{folder}/{number}_c{s.camera}s{1 + s.shot % 3}_{1000 * frame + 25 * s.shot + 1:06d}_{s.shot % 4:02d}.jpg"


def plan_msmt17(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Both parts count their identities from 0; each training identity gives one image to list_val."""
    shots: list[Shot] = []
    lists: dict[str, list[str]] = {name: [] for name in ("train", "val", "query", "gallery")}
    for code, (part, count) in enumerate((("train", size.identities), ("test", size.test_identities))):
        group = draw_group("msmt17", code, count, size.images, seed)
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
    """Query images lie in the gallery as well; lists of names, labels and per-query matches as in the original."""
    shots: list[Shot] = []
    names: dict[str, list[tuple[str, int, int, Identity]]] = {"train": [], "query": [], "test": []}
    for code, (part, count) in enumerate((("train", size.identities), ("test", size.test_identities))):
        group = draw_group("veri776", code, count, size.images, seed)
        numbers = _numbers(count, seed, code, 1 + code * size.identities)
        for s in group.sightings:
            n = int(numbers[s.index])
            name = f"{n:04d}_c{s.camera:03d}_{250 * s.shot:08d}_{s.shot % 2}.jpg"
            query = part == "test" and s.query
            paths = (f"image_{part}/{name}", *([f"image_query/{name}"] if query else []))
            shots.append(group.shot(seed, s, paths, "query" if query else "train" if part == "train" else "gallery", n))
            for split in (part, *(["query"] if query else [])):
                names[split].append((name, n, s.camera, group.people[s.index]))
    rows = {split: sorted(entries, key=lambda e: e[0]) for split, entries in names.items()}
    lists = {f"name_{split}.txt": _text([e[0] for e in entries]) for split, entries in rows.items()}
    for split, title in (("train", "TrainingImages"), ("test", "TestImages")):
        lists[f"{split}_label.xml"] = _veri_xml(title, rows[split])
    lists["list_color.txt"] = _text([f"{i} {name}" for i, name in enumerate(vehicle.PAINTS, 1)])
    lists["list_type.txt"] = _text([f"{i} {name}" for i, name in enumerate(vehicle.SHAPES, 1)])
    seen: dict[int, list[tuple[int, int]]] = {}  # 1-based positions in name_test and cameras, by identity
    for position, (_, identity, camera, _) in enumerate(rows["test"], 1):
        seen.setdefault(identity, []).append((position, camera))
    good, junk = [], []
    for _, identity, camera, _ in rows["query"]:
        same = seen[identity]
        good.append(" ".join(str(i) for i, c in same if c != camera))
        junk.append(" ".join(str(i) for i, c in same if c == camera))
    return shots, lists | {"gt_index.txt": _text(good), "jk_index.txt": _text(junk)}


def _veri_xml(title: str, rows: Sequence[tuple[str, int, int, Identity]]) -> str:
    colours, types = list(vehicle.PAINTS), list(vehicle.SHAPES)
    items = [
        f'<Item imageName="{name}" vehicleID="{n:04d}" cameraID="c{camera:03d}" '
        f'colorID="{1 + colours.index(who.colour)}" typeID="{1 + types.index(who.type)}" />'
        for name, n, camera, who in rows
        if isinstance(who, vehicle.Vehicle)
    ]
    head = f'<?xml version="1.0" encoding="gb2312"?>\n<{title} Version="1.0">\n<Items number="{len(items)}">\n'
    return head + _text(items) + f"</Items>\n</{title}>\n"


def plan_vehicleid(size: Size, seed: int) -> tuple[list[Shot], Lists]:
    """Numbered images without cameras; the three test lists nest, a third and two thirds of the vehicles and all."""
    shots: list[Shot] = []
    lists: dict[str, list[str]] = {"train_list": []}
    labels: dict[str, list[str]] = {"color_attr": [], "model_attr": []}
    number = 0
    for code, count in enumerate((size.identities, size.test_identities)):
        group = draw_group("vehicleid", code, count, size.images, seed)
        numbers = _numbers(count, seed, code, 1 + code * size.identities)
        place = np.argsort(numbers)
        for index in place:
            who, n = group.people[index], int(numbers[index])
            assert isinstance(who, vehicle.Vehicle)
            labels["color_attr"].append(f"{n} {list(vehicle.PAINTS).index(who.colour)}")
            labels["model_attr"].append(f"{n} {list(vehicle.SHAPES).index(who.type)}")
        for s in sorted(group.sightings, key=lambda s: (numbers[s.index], s.shot)):
            number += 1
            n = int(numbers[s.index])
            split = "test" if code else "train"
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
    for style, count in (("pretext person", size.identities // 2), ("pretext vehicle", size.identities // 2)):
        group = draw_group(style, 0, count, size.images, seed)
        for s in group.sightings:
            kind = style.split()[1]
            split = "val" if s.shot % 8 == 3 else "train"
            path = f"{split}/{kind}{s.index:04d}/{s.shot:03d}_c{s.camera}.jpg"
            shots.append(group.shot(seed, s, (path,), split, s.index + (0 if kind == "person" else count), square=True))
    return shots, {}


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


#: Folder and plan of every set.
SETS: dict[str, tuple[str, Plan]] = {
    "market1501": ("Market-1501-v15.09.15", plan_market1501),
    "msmt17": ("MSMT17_V1", plan_msmt17),
    "veri776": ("VeRi", plan_veri776),
    "vehicleid": ("VehicleID", plan_vehicleid),
    "pretext": ("pretext", plan_pretext),
}


# --- Writing -------------------------------------------------------------------------------------


def render(
    root: Path, size: Size, *, names: Sequence[str] = (), seed: int = 0, processes: int = 0, progress: bool = True
) -> list[Path]:
    """Render sets under `root`; those that are there already stay.

    Args:
        root: data root, made if missing.
        size: identities, images and pixels.
        names: market1501, msmt17, veri776, vehicleid, pretext; empty: all.
        seed: of the world. The bytes follow from seed, size and library versions, not from the processes.
        processes: that render; 0: one per core.
        progress: show a bar.

    Returns:
        The sets' folders.

    Raises:
        UserError: an unknown name, a negative number, a folder in the way that holds something else, or a disk
            that refuses.
        Busy: another process renders there.
    """
    for name in names:
        if name not in SETS:
            raise unknown_name("rendered set", name, SETS)
    for what, number in (("seed", seed), ("processes", processes)):
        if number < 0:
            raise UserError(f"world: {what} must be at least 0, got {number}")
    todo = []
    folders = []
    for name in names or tuple(SETS):
        folder = root / SETS[name][0]
        wanted = asdict(size)
        wanted["images_per_identity"] = float(wanted.pop("images"))  # `world.json` counts images under that name
        spec = {"set": name, "version": VERSION, "seed": seed, **wanted}
        folders.append(folder)
        if folder.exists():
            _same_or_refuse(folder, spec)
        else:
            todo.append((name, folder, spec))
    if todo:
        lock = exclusive(root / ".render.lock", f"rendering in {root}")
        with lock, _Pool(processes or os.cpu_count() or 1) as pool:
            for name, folder, spec in todo:
                if not folder.exists():  # rendered by another process meanwhile
                    _render_set(name, folder, spec, size, seed, pool, progress)
    return folders


def _same_or_refuse(folder: Path, spec: dict[str, Any]) -> None:
    found = read_world(folder)
    if found is None:
        raise UserError(f"{folder} exists and was not rendered by this command; choose another root")
    other = {k: found.get(k) for k, v in spec.items() if found.get(k) != v}
    if other:
        raise UserError(
            f"{folder} holds another rendering ({', '.join(f'{k} {v}' for k, v in other.items())}); "
            "choose another root, or delete that folder"
        )


def _render_set(
    name: str, folder: Path, spec: dict[str, Any], size: Size, seed: int, pool: "_Pool", progress: bool
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    parts = partial / "parts"
    try:
        if partial.is_dir() and not _goes_on(partial, spec):
            shutil.rmtree(partial)
        parts.mkdir(parents=True, exist_ok=True)
        write_json(partial / "spec.json", spec)
        shots, lists = SETS[name][1](size, seed)
        for path in sorted({os.path.dirname(p) for shot in shots for p in shot.paths}):
            (partial / path).mkdir(parents=True, exist_ok=True)
        chunks = [(number, shots[i : i + CHUNK]) for number, i in enumerate(range(0, len(shots), CHUNK))]
        missing = [(number, chunk) for number, chunk in chunks if not (parts / f"{number:06d}.csv").exists()]
        meter = bar(
            desc=f"rendering {name}",
            total=len(shots),
            unit="img",
            disable=not progress,
            initial=len(shots) - sum(len(chunk) for _, chunk in missing),
        )
        with meter:
            for done in pool.render(partial, missing, size.height):
                meter.update(done)
        rows = [row for number, _ in chunks for row in _read(parts / f"{number:06d}.csv")]
        digest = hashlib.sha256("".join(f"{row['path']} {row['digest']}\n" for row in rows).encode()).hexdigest()[:12]
        write_csv(partial / FACTORS, rows)
        for file, text in lists.items():
            write_text(partial / file, text)
        write_json(partial / WORLD, spec | {"images": len(shots), "fingerprint": digest})
        shutil.rmtree(parts)
        (partial / "spec.json").unlink()
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(
            f"cannot render into {partial}: {error}; free some space or choose another root. "
            "What is there stays, and the same command goes on"
        ) from error


def _goes_on(partial: Path, spec: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((partial / "spec.json").read_text(encoding="utf-8")) == spec)
    except (OSError, ValueError):
        return False


class _Pool:
    """Renders chunks in this process or in several, which start when there is enough to do."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def render(self, partial: Path, chunks: Sequence[tuple[int, Sequence[Shot]]], height: int) -> Iterator[int]:
        """Yield the number of images of each chunk as it is done."""
        if self.processes == 1 or len(chunks) < 6:  # starting processes would take longer
            for number, chunk in chunks:
                yield _render_chunk(partial, number, chunk, height)
            return
        if self.executor is None:
            self.executor = ProcessPoolExecutor(self.processes, get_context("spawn"), _ignore_ctrl_c)
        try:
            tasks = [self.executor.submit(_render_chunk, partial, n, chunk, height) for n, chunk in chunks]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise UserError("a rendering process died (out of memory?); the same command goes on") from error


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the others after their chunk


def _render_chunk(partial: Path, number: int, shots: Sequence[Shot], height: int) -> int:
    rows = []
    for shot in shots:
        camera = draw_camera(shot.style, shot.camera, shot.key[0])
        data, factors = photograph(
            shot.who, camera, np.random.default_rng(shot.key), height, square=shot.square, junk=shot.junk
        )
        for path in shot.paths:
            (partial / path).write_bytes(data)
        rows.append(
            {
                "path": shot.paths[0],
                "split": shot.split,
                "identity": shot.identity,
                "camera": shot.camera,
                "family": shot.family,
                **factors,
                "digest": hashlib.sha256(data).hexdigest()[:16],
            }
        )
    write_csv(partial / "parts" / f"{number:06d}.csv", rows)
    return len(shots)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
