"""Ray casting and shading against level functions in float64, sampled along every ray."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from msinet.synthetic.solids import (
    NOTHING,
    PATTERNS,
    SHAPES,
    Body,
    Decal,
    Light,
    Surface,
    View,
    cast,
    look_at,
    project,
    shade,
)

Level = Callable[[np.ndarray], np.ndarray]
WHITE, RED = Surface((1.0, 1.0, 1.0)), (0.8, 0.1, 0.2)
#: How much larger and smaller a solid is made to bound the true one, in units of its own size; and metres per sample.
MARGIN, STEP = 0.04, 0.004


@dataclass(frozen=True)
class Solid:
    """How a solid is added to a body, and the same solid told otherwise."""

    add: Callable[[Body], int]
    level: Level
    """points (..., 3) to a number that is below 0 inside and -1 at the centre"""
    axis: np.ndarray | None = None
    """of a tube"""


def ellipsoid(centre, radii) -> Solid:
    return Solid(
        lambda body: body.ellipsoid(centre, radii, WHITE),
        lambda p: np.sqrt((((p - np.array(centre)) / np.array(radii)) ** 2).sum(-1)) - 1,
    )


def tube(start, along, radius, wider, taper) -> Solid:
    """From `start` by the vector `along`; radii forwards and sideways; far end over near end."""
    end = tuple(np.add(start, along))
    length = float(np.linalg.norm(along))
    axis = np.array(along) / length
    forward = np.eye(3)[0] if abs(axis[0]) < 0.9 else np.eye(3)[2]
    side = np.cross(axis, forward)
    side /= np.linalg.norm(side)
    forward = np.cross(side, axis)

    def level(p: np.ndarray) -> np.ndarray:
        along = (p - np.array(start)) @ axis / length
        size = 1 + (taper - 1) * along
        across = np.hypot((p - np.array(start)) @ forward / radius, (p - np.array(start)) @ side / (radius * wider))
        return np.maximum(across - size, np.abs(2 * along - 1) - 1)

    return Solid(lambda body: body.tube(start, end, (radius, radius * wider), radius * taper, WHITE), level, axis)


def polyhedron(centre, size, planes) -> Solid:
    """A box, cut by planes of the given normals whose distance from the centre is a share of the size."""
    c, half = np.array(centre), np.array(size) / 2
    cuts = []
    for normal, share in planes:
        n = np.array(normal) / np.linalg.norm(normal)
        cuts.append(np.append(n, -(n @ c) - share * half.min()))
    unit = half.min()

    def level(p: np.ndarray) -> np.ndarray:
        faces = [(np.abs(p - c) - half).max(-1) / unit, *((p @ cut[:3] + cut[3]) / unit for cut in cuts)]
        return np.max(faces, axis=0)

    low, high = tuple(c - half), tuple(c + half)
    return Solid(lambda body: body.polyhedron(np.array(cuts).reshape(-1, 4) * 2.5, low, high, WHITE), level)


def place(limit: float) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[st.floats(-limit, limit)] * 3)


def sizes(low: float, high: float) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[st.floats(low, high)] * 3)


DIRECTIONS = place(1).filter(lambda n: np.linalg.norm(n) > 0.3)
ELLIPSOIDS = st.builds(ellipsoid, place(0.5), sizes(0.1, 0.5))
TUBES = st.builds(
    tube,
    place(0.4),
    DIRECTIONS.map(lambda n: tuple(np.array(n) / np.linalg.norm(n) * 0.7)),
    st.floats(0.1, 0.2),
    st.floats(0.8, 1.3),
    st.floats(0.8, 1.25),
)
POLYHEDRA = st.builds(
    polyhedron, place(0.5), sizes(0.2, 0.9), st.lists(st.tuples(DIRECTIONS, st.floats(0.3, 0.9)), max_size=3)
)


@st.composite
def views(draw: st.DrawFn, height: int = 8, width: int = 11) -> View:
    distance = draw(st.floats(2.5, 6))
    eye, axes = look_at(draw(place(0.2)), draw(st.floats(0, 6.3)), draw(st.floats(-0.6, 1.2)), distance)
    x, y = (draw(st.floats(-0.1, 0.1)) for _ in range(2))
    half = draw(st.floats(0.3, 1.2)) / distance
    return View(eye, axes, (x - half, y - 0.8 * half, x + half, y + 0.8 * half), (height, width))


def view_from(azimuth: float, elevation: float = 0.0, half: float = 0.25, size: int = 60, distance: float = 4) -> View:
    """Towards the origin; angles in degrees."""
    eye, axes = look_at((0, 0, 0), np.radians(azimuth), np.radians(elevation), distance)
    return View(eye, axes, (-half, -half, half, half), (size, size))


def rays(view: View) -> np.ndarray:
    """The direction through the middle of every pixel, (H, W, 3), of unit length forwards."""
    (left, top, right, bottom), (h, w) = view.window, view.size
    forward, rightwards, down = view.axes.astype(float)
    x = [left + (j + 0.5) / w * (right - left) for j in range(w)]
    y = [top + (i + 0.5) / h * (bottom - top) for i in range(h)]
    return np.array([[forward + across * rightwards + below * down for across in x] for below in y])


def first(level: Level, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Where each ray is first seen inside the solid made larger and made smaller by MARGIN; infinite if never."""
    middle = float(np.linalg.norm(view.eye))
    reach = np.arange(max(0.0, middle - 2.3), middle + 2.3, STEP)
    levels = level(view.eye.astype(float) + reach[:, None, None, None] * rays(view))
    large, small = (
        np.where(inside.any(0), reach[inside.argmax(0)], np.inf) for inside in (levels <= MARGIN, levels <= -MARGIN)
    )
    return large, small


def moved(level: Level, offset, turn: float) -> Level:
    """The solid turned about the vertical and then moved: its level where the point came from."""
    c, s = np.cos(turn), np.sin(turn)
    return lambda p: level((p - np.array(offset)) @ np.array(((c, -s, 0), (s, c, 0), (0, 0, 1))))


# --- Which solid, and how far --------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(ELLIPSOIDS | TUBES | POLYHEDRA, min_size=1, max_size=4),
    views(),
    st.none() | st.tuples(place(0.3), st.floats(-4, 4)),
)
def test_every_pixel_sees_the_nearest_solid_at_its_depth(solids: list[Solid], view: View, move) -> None:
    """The true depth lies between those of the solid made a little larger and a little smaller."""
    body = Body()
    assert [solid.add(body) for solid in solids] == list(range(len(solids)))
    levels = [solid.level for solid in solids]
    directions = rays(view)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    for solid in solids:  # a view into a cone's own opening is left to chance in the code
        if solid.axis is not None:
            turn = move[1] if move else 0.0
            axis = np.array(
                (
                    solid.axis[0] * np.cos(turn) - solid.axis[1] * np.sin(turn),
                    solid.axis[0] * np.sin(turn) + solid.axis[1] * np.cos(turn),
                    solid.axis[2],
                )
            )
            assume(np.abs(directions @ axis).max() < np.cos(np.radians(12)))
    if move:
        body = body.moved(*move)
        levels = [moved(level, *move) for level in levels]
    hits = cast(body, view)
    assert (hits.solid.shape, hits.depth.shape, hits.face.shape) == ((view.size,) * 3)
    large, small = (np.stack(depths) for depths in zip(*(first(level, view) for level in levels), strict=True))
    none = hits.solid == NOTHING
    assert np.isinf(hits.depth[none]).all()
    assert (hits.depth <= small.min(0) + 1e-3).all()  # nothing lies before it, and nothing is missed
    seen = np.take_along_axis(large, np.maximum(hits.solid, 0)[None], 0)[0]
    assert (hits.depth[~none] >= seen[~none] - STEP - 1e-3).all()  # and it is there


@pytest.mark.parametrize("radius", [0.1, 0.4])
def test_a_ball_is_seen_at_the_depth_of_its_equation(radius: float) -> None:
    view = view_from(30, 20, half=0.12, size=40, distance=4)
    body = Body()
    body.ellipsoid((0, 0, 0), (radius,) * 3, WHITE)
    d = rays(view)
    a, b, c = (d * d).sum(-1), d @ view.eye.astype(float), float(view.eye.astype(float) @ view.eye) - radius**2
    root = b * b - a * c
    hits = cast(body, view)
    clear = np.abs(root) > 1e-3
    assert ((hits.solid == 0) == (root > 0))[clear].all()
    expected = (-b - np.sqrt(np.maximum(root, 0))) / a
    on = (hits.solid == 0) & clear
    np.testing.assert_allclose(hits.depth[on], expected[on], atol=2e-4)


def test_an_empty_body_and_one_out_of_sight_are_not_seen() -> None:
    view = view_from(0, size=8)
    away = Body()
    away.ellipsoid((0, 5, 0), (0.3,) * 3, WHITE)
    away.tube((0, -5, 0), (0, -5, 1), (0.2, 0.2), 0.1, WHITE)
    away.box((0, 0, -4), (1, 1, 1), WHITE)
    for body in (Body(), away):
        hits = cast(body, view)
        assert (hits.solid == NOTHING).all()
        assert np.isinf(hits.depth).all()
        flat, colours = shade(body, view, hits, Light(np.array((0, 0, 1.0)), 1.0, 1.0))
        assert (flat.shape, colours.shape) == ((0,), (0, 3))


def test_a_solid_behind_the_camera_is_not_seen() -> None:
    view = view_from(0, distance=4)
    body = Body()
    body.ellipsoid((6, 0, 0), (0.5,) * 3, WHITE)
    body.tube((6, 0, -1), (6, 0, 1), (0.3, 0.3), 0.2, WHITE)
    assert (cast(body, view).solid == NOTHING).all()


def test_a_body_partly_in_the_window_is_cut_off_not_moved() -> None:
    """A window onto a part shows what a window onto the whole shows there."""
    body = Body()
    body.ellipsoid((0, 0.2, 0.1), (0.3, 0.6, 0.4), WHITE)
    body.box((0.1, -0.4, -0.2), (0.4, 0.5, 0.7), WHITE)
    whole = view_from(20, 10, half=0.25, size=40)
    part = replace(whole, window=(-0.25, 0.0, 0.05, 0.25), size=(20, 24))
    a, b = cast(body, whole), cast(body, part)
    assert (a.solid[20:, :24] == b.solid).mean() > 0.99
    assert set(np.unique(b.solid)) == {NOTHING, 0, 1}


# --- Cameras -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(place(1), st.floats(0, 6.3), st.floats(-1.3, 1.3), st.floats(1.5, 20))
def test_a_camera_looks_at_its_target_and_stands_upright(target, azimuth, elevation, distance) -> None:
    eye, axes = look_at(target, azimuth, elevation, distance)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)
    forward, right, down = axes.astype(float)
    np.testing.assert_allclose(eye + distance * forward, target, atol=1e-4)
    np.testing.assert_allclose(np.cross(forward, (0, 0, 1)) / np.cos(elevation), right, atol=1e-4)  # not mirrored
    assert down[2] < 0
    offset = eye.astype(float) - target
    assert offset[2] == pytest.approx(distance * np.sin(elevation), abs=1e-3)
    np.testing.assert_allclose(
        offset[:2], distance * np.cos(elevation) * np.array((np.cos(azimuth), np.sin(azimuth))), atol=1e-3
    )


@settings(max_examples=100, deadline=None)
@given(place(1), views())
def test_a_point_projects_to_where_the_ray_through_it_meets_the_window(point, view: View) -> None:
    x, y = project(np.array(point, np.float32), view.eye, view.axes)
    forward, right, down = view.axes.astype(float)
    ray = forward + float(x) * right + float(y) * down
    offset = np.array(point) - view.eye
    np.testing.assert_allclose(offset, (offset @ forward) * ray, atol=2e-4)


@settings(max_examples=50, deadline=None)
@given(views(height=20, width=25), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_a_small_ball_is_in_the_pixel_that_its_centre_projects_to(view: View, right: float, down: float) -> None:
    (x0, y0, x1, y1), (h, w) = view.window, view.size
    x, y = x0 + right * (x1 - x0), y0 + down * (y1 - y0)
    point = view.eye + 3 * (view.axes[0] + np.float32(x) * view.axes[1] + np.float32(y) * view.axes[2])
    body = Body()
    body.ellipsoid(tuple(point), (1.2 * 3 * (x1 - x0) / w,) * 3, WHITE)
    rows, columns = np.nonzero(cast(body, view).solid == 0)
    assert rows.mean() + 0.5 == pytest.approx(down * h, abs=0.8)
    assert columns.mean() + 0.5 == pytest.approx(right * w, abs=0.8)


# --- Surfaces ------------------------------------------------------------------------------------


def normals(body: Body, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Positions and normals of the pixels that see the (white, dull) body, from suns along the axes alone."""
    hits = cast(body, view)
    parts = []
    for axis in np.eye(3, dtype=np.float32):
        flat, there = shade(body, view, hits, Light(axis, 1.0, 0.0))
        _, back = shade(body, view, hits, Light(-axis, 1.0, 0.0))
        parts.append(there[:, 0] - back[:, 0])
    return flat, np.stack(parts, 1)


@settings(max_examples=60, deadline=None)
@given(ELLIPSOIDS | TUBES | POLYHEDRA, views())
def test_normals_are_unit_vectors_towards_the_camera_and_across_the_surface(solid: Solid, view: View) -> None:
    body = Body()
    solid.add(body)
    directions = rays(view)
    if solid.axis is not None:
        unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        assume(np.abs(unit @ solid.axis).max() < np.cos(np.radians(12)))
    flat, normal = normals(body, view)
    assume(len(flat) > 0)
    np.testing.assert_allclose((normal**2).sum(1), 1, atol=1e-4)
    ray = directions.reshape(-1, 3)[flat]
    assert ((normal * ray).sum(1) < 1e-2).all()
    point = view.eye + cast(body, view).depth.ravel()[flat, None].astype(float) * ray
    e = 5e-4
    upwards, downwards = (
        np.stack([(solid.level(point + sign * e * axis) - solid.level(point)) * sign for axis in np.eye(3)], 1)
        for sign in (1, -1)
    )
    smooth = np.abs(upwards - downwards).max(1) < 0.02 * np.abs(upwards).max(1)  # not at an edge
    gradient = (upwards + downwards)[smooth]
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    assert ((gradient * normal[smooth]).sum(1) > 0.9995).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ["ellipsoid", "tube", "box"])
def test_a_pattern_uses_its_two_colours_and_no_other(pattern: str, kind: str) -> None:
    surface = Surface((0.9, 0.4, 0.1), (0.2, 0.3, 0.8), pattern, 6.0)

    def painted(surface: Surface) -> np.ndarray:
        body = Body()
        if kind == "ellipsoid":
            body.ellipsoid((0, 0, 0), (0.4, 0.5, 0.6), surface)
        elif kind == "tube":
            body.tube((0, 0, -0.5), (0, 0.1, 0.5), (0.3, 0.4), 0.25, surface)
        else:
            body.box((0, 0, 0), (0.6, 0.8, 1.0), surface)
        view = view_from(35, 15)
        return shade(body, view, cast(body, view), Light(np.array((0.6, 0, 0.8), np.float32), 0.4, 0.6))[1]

    colours = np.sqrt(painted(surface) / painted(WHITE))  # without the light
    is_first, is_second = (np.abs(colours - c).max(1) < 1e-3 for c in (surface.colour, surface.second))
    assert (is_first ^ is_second).all()
    assert (0.05 < is_second.mean() < 0.95) == (pattern != "plain")


@pytest.mark.parametrize("shine", [0.0, 0.8])
def test_light_makes_brighter_and_dull_surfaces_keep_their_share(shine: float) -> None:
    body = Body()
    body.ellipsoid((0, 0, 0), (0.5, 0.4, 0.6), Surface((0.5, 0.7, 0.9), shine=shine))
    view = view_from(-40, 25)
    sun = np.array((0.6, 0.0, 0.8), np.float32)
    hits = cast(body, view)

    def lit(direct: float, ambient: float, sun: np.ndarray = sun) -> np.ndarray:
        return shade(body, view, hits, Light(sun, direct, ambient))[1]

    for more, less in (((0.8, 0.5), (0.4, 0.5)), ((0.4, 0.9), (0.4, 0.5))):
        assert (lit(*more) >= lit(*less)).all()
        assert (lit(*more) > lit(*less)).any()
    assert (lit(0, 0) == 0).all()
    linear = np.array((0.25, 0.49, 0.81))
    if shine:
        assert (lit(0.5, 0.5) > (0.5 + 0.5) * linear + 1e-3).any()  # a glint
        return
    assert (lit(0.5, 0.5) <= (0.5 + 0.5) * linear + 1e-5).all()
    assert (lit(0.5, 0.5) >= 0.5 * 0.24 * linear - 1e-5).all()  # the sky reaches what faces the ground
    assert (lit(1, 0, -sun) * lit(1, 0)).max() < 1e-9  # the sun lights one half


def test_a_moved_body_takes_its_patterns_and_decals_along() -> None:
    body = Body()
    trunk = body.tube((0, 0, -0.4), (0, 0, 0.4), (0.3, 0.4), 0.2, Surface((0.9, 0.9, 0.2), RED, "stripes", 5.0))
    body.box((0.3, 0.2, 0.1), (0.2, 0.3, 0.4), Surface((0.1, 0.4, 0.9)))
    body.decals.append(Decal(trunk, 0, 1, (0, 0.5), (0.5, 0.3), "triangle", (0.1, 0.9, 0.1)))
    turn, offset = 0.9, np.array((0.4, -0.2, 0.1), np.float32)
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1)), np.float32)
    view, sun = view_from(25, 20), np.array((0.6, 0, 0.8), np.float32)
    after = replace(view, eye=rotation @ view.eye + offset, axes=view.axes @ rotation.T)
    other = body.moved(tuple(offset), turn)
    images = []
    for b, v, towards in ((body, view, sun), (other, after, rotation @ sun)):
        image = np.zeros((60 * 60, 3))
        flat, colours = shade(b, v, cast(b, v), Light(towards, 0.5, 0.5))
        image[flat] = colours
        images.append(image)
    assert (np.abs(images[0] - images[1]).max(1) < 1e-3).mean() > 0.995


# --- Decals --------------------------------------------------------------------------------------

#: Share of its rectangle that each outline fills.
AREAS = {
    "rectangle": 1.0,
    "disc": np.pi / 4,
    "triangle": 0.5,
    "cross": 1 - 0.66**2,
    "ring": 0.7 * np.pi / 4,
    "bars": 0.5,
    "diamond": 0.5,
    "arch": 0.5 + np.pi / 8,
}
#: Azimuth, elevation from which a side of a box is seen.
SIDES = {(0, 1): (0, 0), (0, -1): (180, 0), (1, 1): (90, 0), (1, -1): (270, 0), (2, 1): (0, 89.9), (2, -1): (0, -89.9)}


def marked(decal: Decal, azimuth: float, elevation: float, size: int = 120) -> np.ndarray:
    """Pixels in the decal's colour on a white box of one metre, seen from far away in a window just around it."""
    body = Body()
    decal = replace(decal, solid=body.box((0, 0, 0), (1, 1, 1), WHITE))
    body.decals.append(decal)
    view = view_from(azimuth, elevation, half=0.5 / 100, size=size, distance=100.5)
    flat, colours = shade(body, view, cast(body, view), Light(np.array((0, 0, 1), np.float32), 0, 1))
    mask = np.zeros(size * size, bool)
    mask[flat] = (colours[:, 0] > 0) & (np.abs(colours[:, 1] / colours[:, 0] - (0.1 / 0.8) ** 2) < 1e-3)
    return mask.reshape(size, size)


def test_every_outline_is_tested() -> None:
    assert set(AREAS) == set(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decal_fills_its_outline_where_it_is_and_nothing_else(shape: str) -> None:
    mask = marked(Decal(0, 0, 1, (0.2, -0.1), (0.2, 0.3), shape, RED), 0, 0)
    assert mask.mean() == pytest.approx(AREAS[shape] * 0.4 * 0.6, rel=0.04)
    rows, columns = np.nonzero(mask)
    # From the front, the left side of the body (y) is on the right.
    assert columns.min() >= 119 * 0.5 - 1
    assert columns.max() <= 120 * 0.9 + 1
    assert rows.min() >= 120 * 0.3 - 1
    assert rows.max() <= 120 * 0.9 + 1
    if shape != "bars":
        assert abs(columns.mean() - 0.7 * 120) < 1.5  # alike on both sides
    if shape == "triangle":
        widths = mask.sum(1)[rows.min() : rows.max() + 1]
        assert (np.diff(widths) >= -1).all()  # it stands on its base
        assert widths[-1] > 5 * widths[1]


@pytest.mark.parametrize(("axis", "side"), SIDES)
def test_a_decal_is_on_the_side_it_faces_only(axis: int, side: int) -> None:
    decal = Decal(0, axis, side, (0, 0), (0.3, 0.3), "rectangle", RED)
    shares = {key: marked(decal, *angles, size=40).mean() for key, angles in SIDES.items()}
    assert shares.pop((axis, side)) == pytest.approx(0.36, rel=0.05)
    assert set(shares.values()) == {0.0}


def test_a_tilted_decal_leans() -> None:
    straight, leaning = (
        marked(Decal(0, 0, 1, (0, 0), (0.1, 0.4), "rectangle", RED, tilt=tilt), 0, 0) for tilt in (0.0, 2.0)
    )
    assert leaning.sum() == pytest.approx(straight.sum(), rel=0.05)
    middle = [np.nonzero(leaning[row])[0].mean() for row in (20, 60, 100)]
    assert middle[0] - middle[1] == pytest.approx(2 * 0.1 * 120 * (40 / 48), abs=2)
    assert middle[1] - middle[2] == pytest.approx(2 * 0.1 * 120 * (40 / 48), abs=2)


def test_the_later_decal_lies_on_the_earlier() -> None:
    body = Body()
    box = body.box((0, 0, 0), (1, 1, 1), WHITE)
    for colour in ((0.1, 0.9, 0.1), RED):
        body.decals.append(Decal(box, 0, 1, (0, 0), (0.5, 0.5), "rectangle", colour))
    view = view_from(0, half=0.1, size=10)
    _, colours = shade(body, view, cast(body, view), Light(np.array((0, 0, 1), np.float32), 0, 1 / 0.62))
    np.testing.assert_allclose(np.sqrt(colours), np.broadcast_to(RED, (100, 3)), atol=1e-4)
