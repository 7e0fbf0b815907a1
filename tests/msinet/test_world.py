"""The synthetic world: who lives in it, what an image shows, and how the sets come to lie on disk."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.cli import run_command
from msinet.data.factors import ORACLES, one_hot
from msinet.data.folders import load_class_folders
from msinet.data.layouts import available, card_of, load_dataset
from msinet.data.rendered import FACTORS, WORLD, read_world
from msinet.errors import Busy, DataError, UserError
from msinet.io import exclusive
from msinet.retrieval import evaluate
from msinet.synthetic import SETS, SIZES, Size, folder_of, groups, person, render, rendering, scene, vehicle
from msinet.synthetic.cameras import draw_camera
from msinet.synthetic.draws import CONTRAST, draw_colour
from msinet.synthetic.sets import STYLES
from msinet.synthetic.solids import NOTHING, Body, Light, View, cast, look_at, shade

Copy = Callable[[str], Path]
TINY = Size(identities=4, test_identities=3, images=4, test_images=4, height=16)
REID = tuple(name for name in SETS if name != "pretext")
PEOPLE = ("market1501", "msmt17", "pretext person")
VEHICLES = ("veri776", "vehicleid", "pretext vehicle")
EVEN = {"person": dict.fromkeys(person.COLOURS, 1.0), "vehicle": dict.fromkeys(vehicle.PAINTS, 1.0)}


def draw(root: Path, *names: str, size: Any = TINY, seed: int = 0, processes: int = 1) -> list[Path]:
    return render(root, size, names=names or ("market1501",), seed=seed, processes=processes, progress=False)


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / FACTORS).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- Bodies --------------------------------------------------------------------------------------


def look(who: person.Person | vehicle.Vehicle, azimuth: float, elevation: float = 10) -> np.ndarray:
    """Colours (H, W, 3), 0 where nothing is, from a direction in degrees: 0 the front, 90 the left side."""
    if isinstance(who, person.Person):
        body, middle, half = person.build(who, person.Pose(0.7, 0.1, (0.3, 0.3), 0.02)), 0.9, (0.24, 0.12)
    else:
        body, middle, half = vehicle.build(who), 0.7, (0.1, 0.15)
    eye, axes = look_at((0, 0, middle), np.radians(azimuth), np.radians(elevation), 5 if half[0] > half[1] else 18)
    view = View(eye, axes, (-half[1], -half[0], half[1], half[0]), (int(400 * half[0]), int(400 * half[1])))
    flat, colours = shade(body, view, cast(body, view), Light(np.array((0, 0, 1), np.float32), 0.4, 0.6))
    image = np.zeros((view.size[0] * view.size[1], 3), np.float32)
    image[flat] = colours
    return image.reshape(*view.size, 3)


def changed(a: Any, b: Any, azimuth: float) -> int:
    """Pixels that differ between two identities."""
    return int((np.abs(look(a, azimuth) - look(b, azimuth)).max(2) > 1e-3).sum())


@pytest.fixture
def plain() -> person.Person:
    """Somebody in white and grey, without prints and bags."""
    return replace(
        someone_of("person"),
        upper="shirt",
        upper_colour="white",
        upper_pattern="plain",
        lower="trousers",
        lower_colour="grey",
        lower_pattern="plain",
        front_print="none",
        back_print="none",
        print_colour="red",
        hair_length="short",
        hat="none",
        stripe="none",
        bag="none",
        bag_colour="green",
        bag_second="blue",
    )


def test_prints_are_on_the_side_they_are_named_for(plain: person.Person) -> None:
    front, back = replace(plain, front_print="disc"), replace(plain, back_print="disc")
    assert changed(plain, front, 0) > 25 < changed(plain, back, 180)
    assert changed(plain, front, 180) == changed(plain, back, 0) == 0


def test_a_backpack_hides_the_print_behind_it(plain: person.Person) -> None:
    pack = replace(plain, bag="backpack")
    print_on_back = changed(plain, replace(plain, back_print="rectangle"), 180)
    assert changed(pack, replace(pack, back_print="rectangle"), 180) < 0.2 * print_on_back
    assert changed(pack, replace(pack, front_print="disc"), 0) > 15
    assert changed(plain, pack, 180) > 3 * changed(plain, pack, 0) > 0  # of the front only the straps


def test_left_and_right_are_not_mirrored(plain: person.Person) -> None:
    shoulder, hand = (replace(plain, bag=bag) for bag in ("shoulder bag", "handbag"))
    assert changed(plain, shoulder, 90) > 2 * changed(plain, shoulder, 270)  # on the left side
    assert changed(plain, hand, 270) > 1.5 * changed(plain, hand, 90)  # in the right hand
    # From the front, what is on the body's left is on the image's right, and the other way round from behind.
    for bag, right_from in ((shoulder, 0), (hand, 180)):
        for azimuth in (0, 180):
            rows, columns = np.nonzero(np.abs(look(plain, azimuth) - look(bag, azimuth)).max(2) > 1e-3)
            low = columns[rows > 0.5 * 96]  # the bag, without the strap
            assert len(low) > 5
            assert (low.mean() > 24) == (azimuth == right_from)


@pytest.mark.parametrize("shape", vehicle.SHAPES)
def test_a_dent_is_seen_at_its_own_corner(shape: str) -> None:
    car = replace(
        someone_of("vehicle", 1),
        type=shape,
        colour="white",
        damage=0,
        two_tone="none",
        door_sticker="none",
        rear_sticker="none",
    )
    corners = {1: 45, 2: 315, 3: 135, 4: 225}  # front left, front right, rear left, rear right
    for damage, azimuth in corners.items():
        seen = {a: changed(car, replace(car, damage=damage), a) for a in corners.values()}
        assert seen[azimuth] == max(seen.values()) > 10
        assert seen[(azimuth + 180) % 360] == 0


def test_bodies_stand_on_the_ground_at_their_height(plain: person.Person) -> None:
    """Seen from the side, from far away."""
    eye, axes = look_at((0, 0, 1), np.radians(90), 0, 200)
    view = View(eye, axes, (-3.2 / 200, -1.6 / 200, 3.2 / 200, 1.6 / 200), (320, 640))  # a centimetre per pixel

    def extent(body: Body) -> tuple[float, float, float]:
        rows, columns = np.nonzero(cast(body, view).solid != NOTHING)
        return 2.6 - (rows.max() + 1) / 100, 2.6 - rows.min() / 100, (np.ptp(columns) + 1) / 100

    low, high, _ = extent(person.build(plain, person.Pose(0.0, 0.0, (0.2, 0.2), 0.0)))
    assert abs(low) < 0.06
    assert high == pytest.approx(plain.stature, rel=0.03)
    for name, shape in vehicle.SHAPES.items():
        car = replace(someone_of("vehicle"), type=name, roof="none")
        low, high, long = extent(vehicle.build(car))
        assert abs(low) < 0.02
        assert shape.roof - 0.02 <= high <= shape.roof + (0.6 if name == "truck" else 0.02)
        assert long == pytest.approx(shape.length, abs=0.2)


# --- Identities ----------------------------------------------------------------------------------

KINDS = {"person": person, "vehicle": vehicle}
PALETTE = {
    "person": (
        "hat_colour",
        "upper_colour",
        "upper_second",
        "inner_colour",
        "print_colour",
        "stripe_colour",
        "lower_colour",
        "lower_second",
        "shoe_colour",
        "bag_colour",
        "bag_second",
    ),
    "vehicle": ("colour", "second", "roof_colour", "sticker_colour", "cargo"),
}


def someone_of(kind: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return KINDS[kind].draw_family(KINDS[kind].draw_look(rng, EVEN[kind]), rng, EVEN[kind])


def differences(a: Any, b: Any) -> set[str]:
    """Fields in which two identities differ."""
    other = dataclasses.asdict(b)
    return {name for name, value in dataclasses.asdict(a).items() if value != other[name]}


@pytest.mark.parametrize("kind", KINDS)
def test_looks_and_details_are_different_factors(kind: str) -> None:
    module = KINDS[kind]
    fields = {field.name for field in dataclasses.fields(someone_of(kind))}
    details = [name for names in module.DETAILS.values() for name in names]
    assert len(set(details)) == len(details)
    assert not set(details) & set(module.LOOK)
    assert set(details) | set(module.LOOK) < fields
    assert set(module.LOOK_COLOURS) < set(module.LOOK)
    with pytest.raises(ValueError, match="no detail called 'nose'"):
        module.vary(someone_of(kind), "nose", np.random.default_rng(0), EVEN[kind])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 10**6))
def test_varying_a_detail_changes_that_detail_alone(kind: str, data: st.DataObject, seed: int) -> None:
    someone = someone_of(kind, seed)
    detail = data.draw(st.sampled_from(KINDS[kind].details_of(someone)))
    before = dataclasses.asdict(someone)
    others = [KINDS[kind].vary(someone, detail, np.random.default_rng((seed, i)), EVEN[kind]) for i in range(60)]
    assert all(differences(someone, other) for other in others)  # never the same
    # Every factor of the detail at some time, and never another.
    assert set().union(*(differences(someone, other) for other in others)) == set(KINDS[kind].DETAILS[detail])
    assert dataclasses.asdict(someone) == before


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 10**6))
def test_a_colour_without_weight_is_never_worn(kind: str, data: st.DataObject, seed: int) -> None:
    worn = data.draw(st.sets(st.sampled_from(sorted(EVEN[kind])), min_size=4))
    weights = {name: 1.0 if name in worn else 0.0 for name in EVEN[kind]}
    rng, module = np.random.default_rng(seed), KINDS[kind]
    base = module.draw_family(module.draw_look(rng, weights), rng, weights)
    for someone in (base, *(module.vary(base, detail, rng, weights) for detail in module.details_of(base))):
        assert {getattr(someone, name) for name in PALETTE[kind]} <= worn


def test_palettes_are_followed() -> None:
    """The frequency of each garment colour is its weight in the set's palette."""
    weights = STYLES["msmt17"].palette
    rng = np.random.default_rng(0)
    seen = Counter(person.draw_look(rng, weights).upper_colour for _ in range(3000))
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert seen[name] / 3000 == pytest.approx(share, abs=5 * (share / 3000) ** 0.5)


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(person.COLOURS)), min_size=1, max_size=4), st.integers(0, 100))
def test_colours_contrast_as_well_as_the_palette_allows(apart: set[str], seed: int) -> None:
    table = {name: np.array(colour) for name, colour in person.COLOURS.items()}

    def distance(name: str) -> float:
        return min(float(np.linalg.norm(table[name] - table[other])) for other in apart)

    found = draw_colour(np.random.default_rng(seed), EVEN["person"], person.COLOURS, *apart)
    assert found not in apart
    assert distance(found) >= min(CONTRAST, max(map(distance, table))) - 1e-12


@pytest.mark.parametrize("style", ["market1501", "veri776"])
def test_a_palette_that_is_too_small_is_an_error(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws end, whatever the palette."""
    colours = list(STYLES[style].palette)
    monkeypatch.setitem(STYLES, style, replace(STYLES[style], palette={colours[0]: 1.0}))
    with pytest.raises(ValueError, match=f"no colour apart from {colours[0]}; give more colours a weight"):
        groups.draw_group(style, 0, 12, 5, 0)
    monkeypatch.undo()
    module, someone = KINDS[STYLES[style].kind], someone_of(STYLES[style].kind)
    monkeypatch.setattr(groups, "ATTEMPTS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_look", lambda *_: someone)
        with pytest.raises(UserError, match=rf"palette of {len(colours)} colours is too small for \d looks"):
            groups.draw_group(style, 0, 16, 5, 0)
    monkeypatch.setattr(module, "draw_family", lambda *_: someone)
    with pytest.raises(UserError, match=f"60 identities are too many for the palette of {style}; ask for fewer"):
        groups.draw_group(style, 0, 60, 5, 0)


@pytest.mark.parametrize("style", STYLES)
def test_identities_follow_from_the_seed_alone(style: str) -> None:
    first, again, other = (groups.draw_group(style, 0, 12, 5, seed) for seed in (3, 3, 4))
    assert (first.subjects, first.families, first.sightings) == (again.subjects, again.families, again.sightings)
    assert first.subjects != other.subjects
    assert groups.draw_group(style, 1, 12, 5, 3).subjects != first.subjects  # another split, other people
    assert {type(one) for one in first.subjects} == {person.Person if style in PEOPLE else vehicle.Vehicle}


def pairs(families: list[int]) -> list[tuple[int, int]]:
    return [(i, j) for i, f in enumerate(families) for j in range(i) if families[j] == f]


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=20, deadline=None)
@given(st.integers(2, 90), st.integers(0, 1000))
def test_families_share_a_look_and_differ_in_one_or_two_details(style: str, number: int, seed: int) -> None:
    group = groups.draw_group(style, 0, number, 5, seed)
    module = KINDS[STYLES[style].kind]
    assert len(group.subjects) == number
    sizes = np.bincount(group.families)
    assert set(sizes.tolist()) <= {2, 3, 4}
    assert group.families == sorted(group.families)
    for i, j in pairs(group.families):
        found = differences(group.subjects[i], group.subjects[j])
        details = [name for name, fields in module.DETAILS.items() if found & set(fields)]
        assert set(details) & set(module.ALL_ROUND)
        assert 1 <= len(details) <= 2
        assert found <= {field for name in details for field in module.DETAILS[name]}  # type, build, colours, patterns
    assert len({module.appearance(one) for one in group.subjects}) == number


@pytest.mark.parametrize("name", REID)
def test_looks_repeat_in_a_mini_set_and_no_two_identities_are_alike(name: str) -> None:
    """Over both parts of a set and its distractors."""
    module = KINDS[STYLES[name].kind]
    families: dict[tuple[str, tuple[Any, ...]], set[int]] = {}
    identities: dict[Any, set[int]] = {}
    for shot in SETS[name](SIZES["mini"][name], 0)[0]:
        part = "train" if shot.split == "train" else "test"
        look = tuple(getattr(shot.subject, field) for field in module.LOOK)
        families.setdefault((part, look), set()).add(shot.family)
        if shot.identity > 0 or name == "msmt17":
            number = shot.identity + (part == "test" and name == "msmt17") * 10**6
            identities.setdefault(module.appearance(shot.subject), set()).add(number)
    assert {len(numbers) for numbers in identities.values()} == {1}
    assert len(identities) == SIZES["mini"][name].identities + SIZES["mini"][name].test_identities
    # Half of the families share their look with another one, so that coarse cues do not even tell the family.
    shared = sum(len(found) for found in families.values() if len(found) > 1)
    assert 0.45 <= shared / sum(map(len, families.values())) <= 0.55


@pytest.mark.parametrize("name", REID)
def test_coarse_cues_do_not_tell_who_it_is(name: str) -> None:
    """Oracles on the drawing of the mini world, which needs no pixels."""
    shots = [shot for shot in SETS[name](SIZES["mini"][name], 0)[0] if shot.split != "train" and not shot.junk]
    rows = [{key: str(value) for key, value in dataclasses.asdict(shot.subject).items()} for shot in shots]
    kind = STYLES[name].kind
    query = np.array([shot.split == "query" or (name == "vehicleid" and shot.key[-1] > 0) for shot in shots])
    gallery = ~query | (name == "veri776")
    identities = np.array([shot.identity for shot in shots])
    cameras = None if name == "vehicleid" else np.array([shot.camera for shot in shots])
    reached = {}
    for which, columns in {**{o: c[kind] for o, c in ORACLES.items()}, "all": list(rows[0])}.items():
        features = one_hot(rows, columns)
        result = evaluate(
            features[query],
            features[gallery],
            query_ids=identities[query],
            gallery_ids=identities[gallery],
            query_cameras=None if cameras is None else cameras[query],
            gallery_cameras=None if cameras is None else cameras[gallery],
        )
        reached[which] = result.rank(1)
    assert reached["colours"] < 0.35
    assert reached["coarse"] < 0.60
    assert reached["colours"] < reached["coarse"]
    assert reached["all"] == 1


def test_oracles_know_what_families_share() -> None:
    for kind, module in KINDS.items():
        assert ORACLES["coarse"][kind] == module.LOOK
        assert ORACLES["colours"][kind] == module.LOOK_COLOURS


@pytest.mark.parametrize("style", REID)
def test_members_of_a_family_can_be_told_apart_from_some_side(style: str) -> None:
    group = groups.draw_group(style, 0, 30, 5, 0)
    looks = [np.stack([look(one, azimuth, 20) for azimuth in (0, 90, 180, 270)]) for one in group.subjects]
    for i, j in pairs(group.families):
        assert (np.abs(looks[i] - looks[j]).max(3) > 0.05).sum() > 40, differences(group.subjects[i], group.subjects[j])


# --- How many ------------------------------------------------------------------------------------


def training_images(name: str, size: Size, seed: int = 0) -> list[Any]:
    return [shot for shot in SETS[name](size, seed)[0] if shot.split == "train"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(STYLES)), st.integers(3, 40), st.floats(4, 20), st.integers(0, 100))
def test_every_group_has_the_images_that_were_asked_for(style: str, identities: int, images: float, seed: int) -> None:
    group = groups.draw_group(style, 0, identities, images, seed)
    assert len(group.subjects) == len(group.families) == identities
    assert len(group.sightings) == round(identities * images)
    assert {s.index for s in group.sightings} == set(range(identities))
    for index in range(identities):
        own = [s for s in group.sightings if s.index == index]
        assert [s.shot for s in own] == list(range(len(own)))
        cameras = Counter(s.camera for s in own)
        assert 2 <= len(cameras) <= 6
        assert min(cameras.values()) >= 2
        assert set(cameras) <= set(range(1, STYLES[style].cameras + 1))
        queries = Counter(s.camera for s in own if s.query)
        assert queries == dict.fromkeys(cameras, 1)  # so each has matches in another camera, and in its own


@pytest.mark.parametrize("profile", ["mini", "full"])
@pytest.mark.parametrize("name", REID)
def test_a_profile_has_the_identities_and_images_of_its_size(profile: str, name: str) -> None:
    size = SIZES[profile][name]
    shots, _ = SETS[name](size, 0)
    train = [shot for shot in shots if shot.split == "train"]
    assert len(train) == round(size.identities * size.images)
    assert len({shot.identity for shot in train}) == size.identities
    test = [shot for shot in shots if shot.split != "train" and (shot.identity > 0 or name == "msmt17")]
    assert len({shot.identity for shot in test}) == size.test_identities
    assert len(test) == round(size.test_identities * size.test_images)
    paths = [path for shot in shots for path in shot.paths]
    assert len(set(paths)) == len(paths)
    assert len({shot.key for shot in shots}) == len(shots)


def test_sizes_are_as_wanted() -> None:
    for sizes in SIZES.values():
        assert set(sizes) == set(SETS)
    mini = SIZES["mini"]
    assert 400 <= mini["market1501"].test_identities < mini["msmt17"].test_identities
    assert mini["market1501"].identities < mini["msmt17"].identities
    assert min(mini[name].test_identities for name in ("veri776", "vehicleid")) >= 200
    for name in ("market1501", "msmt17", "veri776"):
        expected = card_of(name).expected
        assert SIZES["full"][name].identities == expected["train"][0]
        assert SIZES["full"][name].test_identities == expected["query"][0]
    assert round(751 * SIZES["full"]["market1501"].images) == card_of("market1501").expected["train"][1]


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=6, deadline=None)
@given(st.integers(4, 9), st.integers(3, 9), st.floats(4, 60), st.integers(0, 50))
def test_no_two_images_share_a_name_or_a_seed(name: str, identities: int, test: int, images: float, seed: int) -> None:
    shots, _ = SETS[name](Size(identities, test, images, images, 16), seed)
    paths = [path for shot in shots for path in shot.paths]
    assert len(set(paths)) == len(paths)
    assert len({(shot.style, shot.key) for shot in shots}) == len(shots)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identities", 3),
        ("test_identities", 2),
        ("images", 3.9),
        ("test_images", 3.9),
        ("height", 15),
        ("identities", -5),
        ("images", float("nan")),
        ("images", float("inf")),
    ],
)
def test_a_size_that_makes_no_set_is_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"world: {field} must be .*, got {value}"):
        replace(TINY, **{field: value})


# --- Photographs ---------------------------------------------------------------------------------


def picture(data: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"), np.int64)


@pytest.mark.parametrize(
    ("style", "square", "shape"),
    [("market1501", False, (64, 32)), ("market1501", True, (64, 64)), ("veri776", True, (64, 64))],
)
def test_an_image_has_the_size_of_its_kind(style: str, square: bool, shape: tuple[int, int]) -> None:
    camera = draw_camera(style, 2, 0)
    who = someone_of(STYLES[style].kind)
    data, _ = scene.photograph(who, camera, np.random.default_rng(0), 64, square=square)
    assert PIL.Image.open(io.BytesIO(data)).format == "JPEG"
    assert picture(data).shape == (*shape, 3)


def test_a_photograph_follows_from_its_generator() -> None:
    camera, who = draw_camera("msmt17", 3, 0), someone_of("person")
    first, again, other = (scene.photograph(who, camera, np.random.default_rng(seed), 48) for seed in (5, 5, 6))
    assert first == again
    assert first[0] != other[0]


@pytest.mark.parametrize("kind", KINDS)
def test_occlusion_is_the_share_of_the_body_that_something_else_covers(kind: str, monkeypatch) -> None:
    """Counted anew with both bodies in one scene."""
    calls: list[tuple[Body, View]] = []
    monkeypatch.setattr(scene, "cast", lambda body, view: (calls.append((body, view)), cast(body, view))[1])
    camera = replace(draw_camera("market1501" if kind == "person" else "veri776", 1, 0), occluded=1.0)
    kinds: Counter[str] = Counter()
    for seed in range(40):
        calls.clear()
        _, factors = scene.photograph(someone_of(kind, seed), camera, np.random.default_rng(seed), 48)
        (body, view), (front, _) = calls
        both = Body(*(getattr(body, f.name) + getattr(front, f.name) for f in dataclasses.fields(Body)))
        alone, together = cast(body, view).solid, cast(both, view).solid
        hidden = (alone != NOTHING) & (together != alone)
        assert factors["occlusion"] == pytest.approx(hidden.sum() / (alone != NOTHING).sum(), abs=6e-4)
        assert (factors["occluder"] == "none") == (not hidden.any())
        kinds[factors["occluder"]] += 1
    assert len(set(kinds) & set(scene.OCCLUDERS[kind])) >= 4
    assert set(kinds) <= {"none", *scene.OCCLUDERS[kind]}


def test_without_occluders_nothing_is_hidden() -> None:
    camera = replace(draw_camera("market1501", 1, 0), occluded=0.0)
    for seed in range(5):
        factors = scene.photograph(someone_of("person"), camera, np.random.default_rng(seed), 16)[1]
        assert (factors["occluder"], factors["occlusion"]) == ("none", 0.0)


def test_what_the_camera_does_is_in_the_image() -> None:
    """More light is brighter, a red cast is redder, a low resolution is smoother."""
    clean = replace(
        draw_camera("market1501", 1, 0),
        noise=0.0,
        occluded=0.0,
        blur=0.2,
        quality=95,
        light=0.7,
        gains=(1.0, 1.0, 1.0),
        resolution=1.3,
    )

    def shot(**changes: Any) -> np.ndarray:
        return picture(
            scene.photograph(someone_of("person"), replace(clean, **changes), np.random.default_rng(3), 64)[0]
        )

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=0)).mean())

    base = shot()
    assert shot(light=1.0).mean() > 1.1 * base.mean()
    red = shot(gains=(1.3, 0.85, 0.85)).mean((0, 1)) / base.mean((0, 1))
    assert red[0] > 1.05 > 0.97 > max(red[1:])
    assert detail(shot(blur=2.0)) < 0.8 * detail(base)
    assert detail(shot(resolution=0.4)) < 0.9 * detail(base)
    assert detail(shot(noise=0.1)) > 1.2 * detail(base)


def test_yaw_is_the_direction_that_is_seen() -> None:
    """The print on the front shows at yaw 0 and not at yaw 180."""
    who = replace(
        someone_of("person"),
        upper="shirt",
        upper_pattern="plain",
        upper_colour="white",
        print_colour="red",
        back_print="none",
        bag="none",
        lower_colour="grey",
    )
    for yaw, visible in ((0.0, True), (180.0, False)):
        camera = replace(
            draw_camera("market1501", 1, 0), directions=(yaw, yaw), spread=0.0, noise=0.0, occluded=0.0, elevation=5.0
        )
        images = []
        for front in ("none", "disc"):
            data, factors = scene.photograph(replace(who, front_print=front), camera, np.random.default_rng(1), 64)
            assert factors["yaw"] == yaw
            images.append(picture(data))
        assert (np.abs(images[0] - images[1]).max() > 30) == visible


def test_yaw_is_rounded_within_the_circle() -> None:
    camera = replace(draw_camera("market1501", 1, 0), directions=(359.99, 359.99), spread=0.0)
    assert scene.photograph(someone_of("person"), camera, np.random.default_rng(0), 16)[1]["yaw"] == 0.0


@pytest.mark.parametrize("style", STYLES)
def test_cameras_follow_from_set_number_and_seed(style: str) -> None:
    cameras = [draw_camera(style, number, 0) for number in range(1, STYLES[style].cameras + 1)]
    draw_camera.cache_clear()
    assert draw_camera(style, 1, 0) == cameras[0]
    assert draw_camera(style, 1, 1) != cameras[0]
    assert len({camera.backdrop for camera in cameras}) == len(cameras)
    low, high = STYLES[style].elevation
    assert all(low <= camera.elevation <= high for camera in cameras)
    if (off := STYLES[style].off_axis) is not None:  # fronts and backs
        assert all(abs((camera.directions[0] + 90) % 180 - 90) < 4 * off for camera in cameras)
    for camera in cameras:
        assert (camera.directions[1] - camera.directions[0]) % 360 == pytest.approx(180)


# --- Rendering -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the smallest Market-1501. Shared: do not change it."""
    root = tmp_path_factory.mktemp("tiny")
    draw(root)
    return root


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images at a time, so that there is something between them."""
    monkeypatch.setattr(rendering, "CHUNK", 6)


@pytest.mark.usefixtures("chunks")
def test_the_same_seed_gives_the_same_bytes_elsewhere(tiny: Path, tmp_path: Path) -> None:
    (folder,) = draw(tmp_path / "deep" / "root")
    assert folder == tmp_path / "deep" / "root" / "Market-1501-v15.09.15"
    assert files(tmp_path / "deep" / "root") == files(tiny)


def test_another_seed_gives_other_images(tiny: Path, tmp_path: Path) -> None:
    draw(tmp_path, seed=1)
    images = [{data for name, data in files(root).items() if name.endswith(".jpg")} for root in (tiny, tmp_path)]
    assert not images[0] & images[1]
    worlds = [read_world(root / "Market-1501-v15.09.15") for root in (tiny, tmp_path)]
    assert [world and world["seed"] for world in worlds] == [0, 1]
    assert len({load_dataset("market1501", root).fingerprint for root in (tiny, tmp_path)}) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("chunks")
def test_several_processes_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    draw(tmp_path, processes=2)
    assert files(tmp_path) == files(tiny)


class Stop:
    """Renders a number of chunks, then raises."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error, self.real, self.drawn = after, error, rendering._render_chunk, 0

    def __call__(self, *args: Any) -> int:
        if not self.left:
            raise self.error
        self.left -= 1
        images = self.real(*args)
        self.drawn += images
        return images


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_interrupted_rendering_goes_on_to_the_same_bytes(
    tiny: Path, tmp_path: Path, after: int, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "_render_chunk", Stop(after, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path)
    assert not (tmp_path / "Market-1501-v15.09.15").exists()
    assert available(tmp_path) == {}
    before = {name: data for name, data in files(tmp_path).items() if name.endswith(".jpg")}
    assert len(before) == 6 * after
    rest = Stop(100, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "_render_chunk", rest)
        draw(tmp_path)
    images = sum(name.endswith(".jpg") for name in files(tiny))
    assert rest.drawn == images - 6 * after  # what was there is not drawn again
    assert files(tmp_path) == files(tiny)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["Market-1501-v15.09.15"]


@pytest.mark.slow
def test_a_killed_rendering_goes_on_to_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from msinet.synthetic import Size, render, rendering\n"
        "rendering.CHUNK = 3\n"
        "render(Path(sys.argv[1]), Size(4, 3, 4, 4, 16), names=('market1501',), processes=1, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    )
    partial = tmp_path / ".Market-1501-v15.09.15.partial"
    deadline = time.monotonic() + 120
    try:
        while not list(partial.glob("parts/*.csv")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert not (tmp_path / "Market-1501-v15.09.15").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "CHUNK", 3)
        draw(tmp_path)
    assert files(tmp_path) == files(tiny)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("other", [{"seed": 1}, {"size": replace(TINY, images=5)}, {"size": replace(TINY, height=17)}])
def test_what_another_rendering_left_is_not_mixed_in(tiny: Path, tmp_path: Path, other, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "_render_chunk", Stop(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path, **other)
    draw(tmp_path)
    assert files(tmp_path) == files(tiny)


@pytest.mark.parametrize("rubbish", ["folder", "spec"])
def test_rubbish_in_place_of_an_unfinished_set_does_no_harm(tiny: Path, tmp_path: Path, rubbish: str) -> None:
    partial = tmp_path / ".Market-1501-v15.09.15.partial"
    (partial / "parts").mkdir(parents=True)
    (partial / "parts" / "000000.csv").write_text("rubbish")
    if rubbish == "spec":
        (partial / "spec.json").write_text("{")
    draw(tmp_path)
    assert files(tmp_path) == files(tiny)


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    first = draw(tmp_path, "veri776")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix != ".lock"}
    assert draw(tmp_path, "veri776") == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix != ".lock"} == before


def test_sets_are_drawn_alone_as_together(world_root: Path, tmp_path: Path) -> None:
    size = Size(8, 6, 5, 5, 32)
    assert [f.name for f in draw(tmp_path, "vehicleid", size=size)] == ["VehicleID"]
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["VehicleID"]
    assert files(tmp_path / "VehicleID") == files(world_root / "VehicleID")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 1}, "seed 0"),
        ({"size": replace(TINY, identities=5)}, "identities 4"),
        ({"size": replace(TINY, height=20)}, "height 16"),
        ({"size": replace(TINY, images=5)}, "images_per_identity 4"),
    ],
)
def test_another_rendering_is_refused_and_kept(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (folder,) = draw(tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError) as caught:
        draw(tmp_path, **changes)
    for part in (str(folder), "holds another rendering", expected, "choose another root, or delete"):
        assert part in str(caught.value)
    assert files(tmp_path) == before


def test_photographs_in_the_way_are_refused_and_kept(own_copy: Copy) -> None:
    folder = own_copy("veri776")
    before = files(folder.parent)
    with pytest.raises(UserError, match=rf"{folder} exists and was not rendered by this command; choose another root"):
        draw(folder.parent, "msmt17", "veri776")
    assert files(folder.parent) == before  # nor was another set begun


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"world"',
        "7",
        "{}",
        '{"fingerprint": "a"}',
        '{"fingerprint": 1, "seed": "x", "samples": {}}',
        '{"fingerprint": "a", "seed": 0}',
        '{"fingerprint": "a", "seed": 0, "samples": []}',
        '{"fingerprint": "a", "seed": 0, "samples": {"a": "b"}}',
        b"\xff",
    ],
)
def test_a_damaged_description_is_reported(tiny: Path, tmp_path: Path, text: str | bytes) -> None:
    folder = tmp_path / "Market-1501-v15.09.15"
    for name, data in files(tiny / folder.name).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / WORLD).write_bytes(text if isinstance(text, bytes) else text.encode())
    for use in (lambda: draw(tmp_path), lambda: load_dataset("market1501", tmp_path), lambda: read_world(folder)):
        with pytest.raises(UserError) as caught:
            use()
        for part in (str(folder / WORLD), "cannot be read", f"delete {folder.resolve()} and render it again"):
            assert part in str(caught.value)


def test_a_folder_without_description_is_not_rendered(data_root: Path) -> None:
    assert read_world(data_root / "VeRi") is None


@contextlib.contextmanager
def limit(size: int) -> Iterator[None]:
    """Files may not grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("size", [200, 1200])  # too small for an image; for a list of factors
def test_a_disk_that_refuses_is_one_error_and_what_is_there_stays(
    tiny: Path, tmp_path: Path, size: int, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "_render_chunk", Stop(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path)
    before = files(tmp_path)
    with limit(size), pytest.raises(UserError) as caught:
        draw(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "File too large" in str(caught.value)
    assert before.items() <= files(tmp_path).items()
    draw(tmp_path)
    assert files(tmp_path) == files(tiny)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is where even root may not write")
def test_a_root_that_cannot_be_written_is_reported() -> None:
    with pytest.raises(UserError, match=r"cannot write /proc/self/world"):
        draw(Path("/proc/self/world"))


def test_a_file_in_place_of_the_root_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        draw(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_renderings_in_one_root_do_not_mix(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".render.lock", "a test"), pytest.raises(Busy, match=r"rendering in .* is in progress"):
        draw(tmp_path)


def test_unknown_names_and_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown rendered set 'market'. Did you mean 'market1501'\?.*veri776"):
        draw(tmp_path, "veri776", "market")
    with pytest.raises(UserError, match="seed must be at least 0, got -1"):
        draw(tmp_path, seed=-1)
    with pytest.raises(UserError, match="processes must be at least 0, got -2"):
        draw(tmp_path, processes=-2)
    assert list(tmp_path.iterdir()) == []


# --- Fingerprints and colours --------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_fingerprint_follows_from_the_parameters(name: str) -> None:
    """These must be the same on every machine and with every version of every library."""
    known = {"market1501": "6d4014999f6b"}
    if name in known:
        assert rendering.describe(name, SIZES["mini"][name], 0)["fingerprint"] == known[name]
    base = rendering.describe(name, TINY, 0)
    others = [
        rendering.describe(name, TINY, 1),
        *(rendering.describe(name, replace(TINY, **{f.name: 40}), 0) for f in dataclasses.fields(Size)),
        *(rendering.describe(other, TINY, 0) for other in SETS if other != name),
    ]
    assert base["fingerprint"] not in {other["fingerprint"] for other in others}
    assert rendering.describe(name, replace(TINY, images=4.0), 0) == base


def test_other_jpeg_bytes_keep_the_fingerprints(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scene._sensor

    def larger(pixels: Any, gains: Any, blur: Any, noise: Any, resolution: Any, quality: int, rng: Any) -> bytes:
        return real(pixels, gains, blur, noise, resolution, min(95, quality + 3), rng)

    monkeypatch.setattr(scene, "_sensor", larger)
    draw(tmp_path, "market1501")
    one, other = (load_dataset("market1501", root) for root in (tiny, tmp_path))
    assert other.test[0].path.read_bytes() != one.test[0].path.read_bytes()
    assert (other.world, other.fingerprint) == (one.world, one.fingerprint)
    (folder,) = draw(tmp_path / "pretext", "pretext")
    (before,) = draw(tmp_path / "before", "pretext")
    monkeypatch.undo()
    (after,) = draw(tmp_path / "after", "pretext")
    assert files(folder) != files(after)
    assert load_class_folders(folder).fingerprint == load_class_folders(after).fingerprint
    assert files(folder) == files(before)


def test_a_renderer_that_differs_is_refused_before_it_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(rendering.EXPECTED) == set(STYLES)
    real = scene._sensor
    monkeypatch.setattr(scene, "_sensor", lambda pixels, gains, *rest: real(pixels, 1.03 * gains, *rest))
    with pytest.raises(UserError, match=r"reference images of market1501 .* would not be version 3; install other"):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_that_were_changed_are_noticed(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny / "Market-1501-v15.09.15", tmp_path / "Market-1501-v15.09.15"))
    world = read_world(folder)
    assert world is not None
    name = next(iter(world["samples"]))
    image = picture((folder / name).read_bytes())
    for shift, refused in ((0, False), (8, True)):
        PIL.Image.fromarray((image + shift).clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
        if refused:
            with pytest.raises(DataError, match=rf"{Path(name).name} has mean colour .* as rendered .*render it again"):
                load_dataset("market1501", tmp_path)
        else:
            load_dataset("market1501", tmp_path)
    (folder / name).unlink()
    with pytest.raises(DataError, match=Path(name).name):
        load_dataset("market1501", tmp_path)


# --- What is written -----------------------------------------------------------------------------

COUNTED = ("train", "query", "gallery", "test", "val")


@pytest.mark.parametrize("name", SETS)
def test_factors_have_a_row_per_image_and_a_value_per_column(world_root: Path, name: str) -> None:
    folder = world_root / folder_of(name)
    found = table(folder)
    paths = {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")}
    listed = {row["path"] for row in found}
    assert len(listed) == len(found)
    queries = {f"image_query/{Path(p).name}" for p in listed} & paths if name == "veri776" else set()
    assert listed | queries == paths
    assert not listed & queries
    kinds = set()
    for row in found:
        data = (folder / row["path"]).read_bytes()
        found_colours = [float(row[column]) for column in rendering.STATISTICS]
        pixels = picture(data).reshape(-1, 3)
        assert found_colours == pytest.approx([*pixels.mean(0), *pixels.std(0)], abs=0.006)
        known = person.Person if row.get("stature") else vehicle.Vehicle
        kinds.add(known)
        columns = {f.name for f in dataclasses.fields(known)} | set(row) - {
            f.name for kind in (person.Person, vehicle.Vehicle) for f in dataclasses.fields(kind)
        }
        assert all(row[column] != "" for column in columns)
        assert 0 <= float(row["yaw"]) < 360
        assert 2 <= float(row["elevation"]) <= 50
        assert 0 <= float(row["occlusion"]) <= 1
        assert row["occluder"] != "none" or float(row["occlusion"]) == 0
        assert row["split"] in COUNTED
        assert min(float(row[c]) for c in ("light", "blur", "noise", "distance", "zoom", "resolution")) > 0
    for path in queries:  # the same bytes under both names
        assert (folder / path).read_bytes() == (folder / path.replace("image_query", "image_test")).read_bytes()
    styles = {"pretext": {person.Person, vehicle.Vehicle}}
    human = name in PEOPLE
    assert kinds == styles.get(name, {person.Person} if human else {vehicle.Vehicle})


@pytest.mark.parametrize("name", SETS)
def test_the_description_says_what_was_rendered(world_root: Path, name: str) -> None:
    folder = world_root / folder_of(name)
    world = read_world(folder)
    found = table(folder)
    assert world is not None
    parameters = {
        "set": name,
        "version": 3,
        "seed": 0,
        "identities": 8,
        "test_identities": 6,
        "height": 32,
        "images_per_identity": 5,
        "test_images_per_identity": 5,
    }
    written = json.dumps({**parameters, "images_per_identity": 5.0, "test_images_per_identity": 5.0}, sort_keys=True)
    fingerprint = hashlib.sha256(written.encode()).hexdigest()[:12]
    pixels = [picture((folder / row["path"]).read_bytes()).reshape(-1, 3) for row in found]
    mean = np.mean([p.mean(0) for p in pixels], 0)
    spread = np.sqrt(np.mean([(p.astype(float) ** 2).mean(0) for p in pixels], 0) - mean**2)
    assert world.pop("mean") == pytest.approx(mean.tolist(), abs=0.01)
    assert world.pop("std") == pytest.approx(spread.tolist(), abs=0.02)
    samples = world.pop("samples")
    assert len(samples) == 8
    for path, colour in samples.items():
        assert colour == pytest.approx(picture((folder / path).read_bytes()).mean((0, 1)).tolist(), abs=0.006)
    assert world == {**parameters, "images": len(found), "fingerprint": fingerprint}


@pytest.mark.parametrize("name", SETS)
def test_images_have_the_promised_sizes(world_root: Path, name: str) -> None:
    folder = world_root / folder_of(name)
    sizes = {picture(path.read_bytes()).shape[1::-1] for path in folder.rglob("*.jpg")}
    if name == "pretext":
        assert sizes == {(32, 32)}
    elif name in PEOPLE:
        assert sizes == {(16, 32)}
    else:
        assert len(sizes) > 3  # a car from the side is wider than from the front
        for w, h in sizes:
            assert abs(w * h - 32 * 32) <= (w + h) / 2 + 1
            assert 0.7 <= w / h <= 2.1


@pytest.mark.parametrize("name", REID)
def test_one_identity_keeps_its_looks_and_one_camera_its_habits(world_root: Path, name: str) -> None:
    found = [row for row in table(world_root / folder_of(name)) if row["identity"] not in ("0", "-1")]
    known = person.Person if name in PEOPLE else vehicle.Vehicle
    part = "train" if name in ("msmt17",) else ""
    for key, columns in (
        ("identity", [f.name for f in dataclasses.fields(known)]),
        ("camera", ["red", "quality", "sun"]),
    ):
        groups: dict[tuple[bool, str], set[tuple[str, ...]]] = {}
        for row in found:  # MSMT17's test identities are others under the same numbers
            groups.setdefault((row["split"] == part, row[key]), set()).add(tuple(row[c] for c in columns))
        assert all(len(values) == 1 for values in groups.values())
        assert len(set().union(*groups.values())) > 3


# --- Commands ------------------------------------------------------------------------------------

TEST_IDENTITIES = ("--test-identities", "3")
SMALLEST = (
    "--identities=4",
    *TEST_IDENTITIES,
    "--images-per-identity=4",
    "--test-images-per-identity=4",
    "--height=16",
    "--processes=1",
    "--no-progress",
)


def test_the_command_renders_what_the_function_does(tiny: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / "my data"
    assert run_command(["data", "render", str(root), "--datasets", "market1501", *SMALLEST]) == 0
    assert files(root) == files(tiny)
    printed = capsys.readouterr().out
    world = read_world(tiny / "Market-1501-v15.09.15")
    assert world is not None
    assert f"{world['images']} images: {root}/Market-1501-v15.09.15" in printed
    assert f"--data-root '{root}'; look at them with msinet data show '{root}'" in printed


def test_test_identities_follow_identities(tmp_path: Path, capsys) -> None:
    words = [word for word in SMALLEST if word not in TEST_IDENTITIES]
    assert run_command(["data", "render", str(tmp_path), *words, "--datasets", "vehicleid", "--identities=5"]) == 0
    world = read_world(tmp_path / "VehicleID")
    assert world is not None
    assert (world["identities"], world["test_identities"]) == (5, 5)
    assert (world["images_per_identity"], world["test_images_per_identity"]) == (4, 4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--profile", "ful"], "unknown profile of the rendered world 'ful'. Did you mean 'full'?"),
        (["--datasets", "veri"], "unknown rendered set 'veri'"),
        (["--identities", "3"], "world: identities must be at least 4, got 3"),
        (["--height", "8"], "world: height must be at least 16, got 8"),
        (["--images-per-identity", "nan"], "world: images must be"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--processes", "-1"], "processes must be at least 0"),
    ],
)
def test_invalid_requests_are_one_line_and_status_2(tmp_path: Path, capsys, words: list[str], expected: str) -> None:
    assert run_command(["data", "render", str(tmp_path / "root"), *SMALLEST, *words]) == 2
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert expected in message
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "render",
            "profile datasets identities test-identities images-per-identity test-images-per-identity height "
            "seed processes progress",
        ),
        ("show", "datasets out rows columns height"),
    ],
)
def test_help_names_every_option(capsys, command: str, options: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["data", command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{option}" in text for option in options.split())
