"""Vehicles: the factors of an identity, and its body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from msinet.synthetic.draws import draw_colour, first_or_other
from msinet.synthetic.solids import Body, Colour, Decal, Surface

#: Paint in display RGB.
PAINTS: dict[str, Colour] = {
    "white": (0.90, 0.90, 0.89),
    "black": (0.09, 0.09, 0.10),
    "silver": (0.68, 0.69, 0.71),
    "grey": (0.40, 0.41, 0.43),
    "red": (0.70, 0.10, 0.12),
    "blue": (0.13, 0.25, 0.60),
    "green": (0.13, 0.38, 0.22),
    "yellow": (0.90, 0.76, 0.16),
    "orange": (0.88, 0.44, 0.12),
    "brown": (0.38, 0.25, 0.17),
    "beige": (0.78, 0.70, 0.56),
    "maroon": (0.36, 0.08, 0.12),
}
_GLASS: Colour = (0.10, 0.12, 0.14)
_RUBBER = Surface((0.07, 0.07, 0.07))
_DARK: Colour = (0.06, 0.06, 0.07)


@dataclass(frozen=True)
class Shape:
    """Proportions of a type, in metres."""

    length: float
    width: float
    belt: float
    """height of the body under the windows"""
    roof: float
    cabin: tuple[float, float, float, float]
    """x of the windscreen's foot and top, and of the rear window's top and foot, as shares of half the length"""
    hood: float
    """height of the body's front end"""
    tail: float
    """height of its rear end"""
    wheel: float
    """radius"""


SHAPES: dict[str, Shape] = {
    "sedan": Shape(4.6, 1.80, 0.95, 1.45, (0.42, 0.12, -0.38, -0.66), 0.78, 0.92, 0.32),
    "hatchback": Shape(4.0, 1.74, 0.98, 1.50, (0.46, 0.16, -0.70, -0.93), 0.80, 0.98, 0.31),
    "wagon": Shape(4.7, 1.80, 0.96, 1.50, (0.42, 0.14, -0.82, -0.95), 0.80, 0.96, 0.32),
    "suv": Shape(4.6, 1.90, 1.12, 1.78, (0.44, 0.22, -0.80, -0.93), 1.00, 1.10, 0.38),
    "pickup": Shape(5.1, 1.88, 1.10, 1.80, (0.42, 0.24, -0.10, -0.16), 1.02, 1.08, 0.39),
    "van": Shape(4.9, 1.94, 1.20, 2.10, (0.82, 0.56, -0.94, -0.97), 0.98, 1.20, 0.34),
    "truck": Shape(6.0, 2.10, 1.35, 2.25, (0.97, 0.86, 0.42, 0.40), 1.25, 0.95, 0.44),
}
RIMS = ("spokes", "many spokes", "disc", "star", "steel")
RIM_PAINTS = ("silver", "black", "white", "red", "yellow")
ROOFS = ("none", "rack", "box", "load", "ladder", "sign", "spoiler")
STICKERS = ("none", "disc", "triangle", "cross", "ring", "bars", "diamond", "rectangle")
TWO_TONES = ("none", "roof", "sill", "side stripe", "bonnet stripes", "rear half")
DENTED: tuple[Colour, Colour] = ((0.30, 0.29, 0.28), (0.66, 0.62, 0.56))


@dataclass(frozen=True)
class Vehicle:
    """The factors of one identity; colours by name. Parts that are missing have the colour of the body."""

    type: str
    colour: str
    second: str
    two_tone: str
    rims: str
    rim_colour: str
    roof: str
    roof_colour: str
    roof_place: float
    """position of the object on the roof, from -1 (rear) to 1"""
    door_sticker: str
    rear_sticker: str
    bonnet_sticker: str
    sticker_colour: str
    cargo: str
    """colour of the load or box of a pickup or truck; other types have none"""
    damage: int
    """0: none; 1 to 4: number of the dented corner"""
    plate: int
    """marks on the plate, one bit each; families share them, as plates are masked in photographs"""
    windscreen: int
    """stickers on the windscreen, one bit each"""
    bumper_dark: bool


#: Factors that several families share.
LOOK = ("type", "colour", "second", "two_tone", "cargo")
#: Colours that several looks share.
LOOK_COLOURS = ("colour", "second")
#: Details in which members of a family may differ, and their factors.
DETAILS = {
    "roof": ("roof", "roof_colour", "roof_place"),
    "stickers": ("door_sticker", "rear_sticker", "bonnet_sticker", "sticker_colour"),
    "rims": ("rims", "rim_colour"),
    "damage": ("damage",),
}

#: Details that are seen from every side.
ALL_ROUND = ("roof", "stickers")


def draw_look(rng: np.random.Generator, weights: Mapping[str, float], colours: Sequence[str] = ()) -> Vehicle:
    """Draw a look: type, paint and cargo, without other details.

    Args:
        rng: source of all random numbers.
        weights: of each paint in the set's palette.
        colours: the two of the body; empty: draw them.
    """
    kind = str(rng.choice(list(SHAPES), p=(0.25, 0.16, 0.12, 0.18, 0.09, 0.12, 0.08)))
    colour = colours[0] if colours else draw_colour(rng, weights, PAINTS)
    second = colours[1] if colours else colour
    two_tone = first_or_other(rng, TWO_TONES, 0.35)
    if two_tone == "none":
        second = colour
    elif second == colour:
        second = draw_colour(rng, weights, PAINTS, colour)
    return Vehicle(
        type=kind,
        colour=colour,
        second=second,
        two_tone=two_tone,
        rims="disc",
        rim_colour="silver",
        roof="none",
        roof_colour=colour,
        roof_place=0.0,
        door_sticker="none",
        rear_sticker="none",
        bonnet_sticker="none",
        sticker_colour=colour,
        cargo=draw_colour(rng, weights, PAINTS, colour) if kind in ("pickup", "truck") else colour,
        damage=0,
        plate=0,
        windscreen=0,
        bumper_dark=False,
    )


def draw_family(look: Vehicle, rng: np.random.Generator, weights: Mapping[str, float]) -> Vehicle:
    """Draw the first member of a family: it has the look, and its own details."""
    v = replace(
        look, plate=int(rng.integers(64)), windscreen=int(rng.integers(16)), bumper_dark=bool(rng.random() < 0.4)
    )
    for detail in details_of(v):
        v = vary(v, detail, rng, weights)
    return v


def vary(v: Vehicle, detail: str, rng: np.random.Generator, weights: Mapping[str, float]) -> Vehicle:
    """The same vehicle with another value of one detail, which differs in kind or has a contrasting colour.

    Raises:
        ValueError: an unknown detail, or a palette with too few colours.
    """

    def paint(*apart_from: str) -> str:
        return draw_colour(rng, weights, PAINTS, *apart_from)

    if detail == "roof":
        left = [kind for kind in ROOFS if kind != v.roof]
        roof = first_or_other(rng, left, 0.3) if left[0] == "none" else str(rng.choice(left))
        if roof == "none":
            return replace(v, roof=roof, roof_colour=v.colour, roof_place=0.0)
        place = 0.0 if roof == "spoiler" else float(rng.choice((-1, 0, 1)))
        return replace(v, roof=roof, roof_colour=paint(v.colour), roof_place=place)
    if detail == "stickers":
        if v.door_sticker != "none" and rng.random() < 0.4:
            return replace(v, door_sticker="none", rear_sticker="none", bonnet_sticker="none", sticker_colour=v.colour)
        door, rear, bonnet = (first_or_other(rng, STICKERS, 0.0) for _ in range(3))
        colour = paint(v.colour, v.sticker_colour)
        return replace(v, door_sticker=door, rear_sticker=rear, bonnet_sticker=bonnet, sticker_colour=colour)
    if detail == "rims":
        rims = str(rng.choice([kind for kind in RIMS if kind != v.rims]))
        return replace(v, rims=rims, rim_colour=draw_colour(rng, dict.fromkeys(RIM_PAINTS, 1.0), PAINTS, v.rim_colour))
    if detail == "damage":
        corners = [corner for corner in range(5) if corner != v.damage]
        return replace(v, damage=int(rng.choice(corners)))
    raise ValueError(f"no detail called {detail!r}")


def details_of(v: Vehicle) -> tuple[str, ...]:
    """The details that can be seen on a vehicle: the box of a truck has no roof load."""
    return tuple(detail for detail in DETAILS if v.type != "truck" or detail != "roof")


def appearance(v: Vehicle) -> Vehicle:
    """The vehicle without its plate, which small images do not show."""
    return replace(v, plate=0)


def build(v: Vehicle) -> Body:
    """The body of a vehicle, its front towards x."""
    body = Body()
    s = SHAPES[v.type]
    half, wide = s.length / 2, s.width / 2
    paint = Surface(PAINTS[v.colour], shine=0.8)
    second = PAINTS[v.second]
    sill = 0.32 * s.wheel + 0.12

    # Lower body: a box with sloped bonnet, tail, nose and flanks.
    front = s.cabin[0] * half
    rear = s.cabin[3] * half
    planes = [
        _slope((front, s.belt), (half, s.hood)),
        _slope((-half, s.tail), (rear, s.belt)),
        (1, 0, -0.1, -half + 0.1 * s.hood),
        (-1, 0, -0.1, -half + 0.1 * s.tail),
        (0, 1, 0.18, -wide - 0.18 * s.belt * 0.55),
        (0, -1, 0.18, -wide - 0.18 * s.belt * 0.55),
    ]
    low = body.polyhedron(np.array(planes), (-half, -wide, sill), (half, wide, s.belt), paint)
    # Cabin: windscreen, rear window, and sides that lean inwards.
    a, b, c, d = (x * half for x in s.cabin)
    lean = 0.16 if s.roof < 2 else 0.07
    inner = wide - 0.05
    planes = [
        _slope((b, s.roof), (a, s.belt)),
        _slope((d, s.belt), (c, s.roof)),
        (0, 1, lean, -inner - lean * s.belt),
        (0, -1, lean, -inner - lean * s.belt),
    ]
    roof_paint = replace(paint, colour=second) if v.two_tone == "roof" else paint
    cabin = body.polyhedron(np.array(planes), (d, -inner, s.belt), (a, inner, s.roof), roof_paint)
    _windows(body, v, s, cabin, (a, b, c, d))
    _two_tone(body, v, s, low, sill)
    _ends(body, v, s, low, sill)
    _sides(body, v, s, low, sill)
    _stickers(body, v, s, low, cabin)
    for x in (0.62 * half, -0.60 * half):
        for side in (1, -1):
            _wheel(body, v, s, x, side)
    for side in (1, -1):
        body.ellipsoid((a - 0.12, side * (wide + 0.05), s.belt + 0.08), (0.09, 0.10, 0.09), paint)
    _cargo(body, v, s, half, wide)
    _roof(body, v, s, b, c)
    return body


def _slope(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float, float, float]:
    """The plane through two points (x, z) whose inside is below the line from start to end."""
    (x0, z0), (x1, z1) = start, end
    n = np.array((z0 - z1, x1 - x0))
    n = n / np.sqrt((n**2).sum())
    if n[1] < 0:
        n = -n
    return (float(n[0]), 0.0, float(n[1]), float(-(n[0] * x0 + n[1] * z0)))


def _windows(body: Body, v: Vehicle, s: Shape, cabin: int, x: tuple[float, float, float, float]) -> None:
    a, b, c, d = x
    middle, high = (a + d) / 2, (s.roof - s.belt) / 2
    lo, hi = (c + d) / 2 - middle, (a + b) / 2 - middle
    inner = s.width / 2 - 0.05
    glass: list[Decal] = []
    for axis_side in (1, -1):  # windscreen and rear window, seen in the (y, z) plane
        if axis_side < 0 and v.type in ("van", "truck"):
            continue
        glass.append(Decal(cabin, 0, axis_side, (0, 0.01), (inner - 0.16, high - 0.09), "rectangle", _GLASS, 1.0))
    ends = (hi - 0.75, hi - 0.02) if v.type in ("van", "truck") else (lo + 0.10, hi - 0.06)
    centre, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    for side in (1, -1):
        glass.append(Decal(cabin, 1, side, (centre, 0.0), (half, high - 0.10), "rectangle", _GLASS, 1.0))
        if half > 0.5:
            post = Decal(cabin, 1, side, (centre + 0.04, 0.0), (0.05, high), "rectangle", PAINTS[v.colour], 0.6)
            glass.append(post)
    body.decals += glass
    label = ((0.85, 0.2, 0.2), (0.95, 0.95, 0.9), (0.2, 0.6, 0.85), (0.95, 0.8, 0.2))
    for bit in range(4):
        if v.windscreen >> bit & 1:
            y = (-0.62, -0.34, 0.34, 0.62)[bit] * inner
            body.decals.append(Decal(cabin, 0, 1, (y, high - 0.24), (0.09, 0.09), "rectangle", label[bit]))


def _two_tone(body: Body, v: Vehicle, s: Shape, low: int, sill: float) -> None:
    half, wide = s.length / 2, s.width / 2
    second, high = PAINTS[v.second], (s.belt - sill) / 2
    for side in (1, -1):
        if v.two_tone == "sill":
            body.decals.append(Decal(low, 1, side, (0, -0.6 * high), (half, 0.42 * high), "rectangle", second, 0.6))
        elif v.two_tone == "side stripe":
            body.decals.append(Decal(low, 1, side, (0, 0.25 * high), (half, 0.16 * high), "rectangle", second, 0.6))
        elif v.two_tone == "rear half":
            body.decals.append(Decal(low, 1, side, (-half / 2, 0), (half / 2, high), "rectangle", second, 0.6))
        if v.two_tone in ("sill", "rear half"):
            z = -0.6 * high if v.two_tone == "sill" else 0
            if v.two_tone == "sill" or side < 0:
                size = (wide, 0.42 * high if v.two_tone == "sill" else high)
                body.decals.append(Decal(low, 0, side, (0, z), size, "rectangle", second, 0.6))
    if v.two_tone == "bonnet stripes":
        for y in (0.22, -0.22):
            body.decals.append(Decal(low, 2, 1, (0, y), (half, 0.12), "rectangle", second, 0.6))
            body.decals.append(Decal(low, 0, 1, (y, high * 0.6), (0.12, 0.4 * high), "rectangle", second, 0.6))


def _ends(body: Body, v: Vehicle, s: Shape, low: int, sill: float) -> None:
    """Lights, grille, bumpers and plates, in (y, z) from the middle of the lower body."""
    wide, middle = s.width / 2, (s.belt + sill) / 2
    bumper = _DARK if v.bumper_dark else None
    for side in (1, -1):
        if bumper is not None:
            body.decals.append(Decal(low, 0, side, (0, sill + 0.12 - middle), (wide, 0.14), "rectangle", bumper))
        height = (s.hood if side > 0 else s.tail) - 0.17 - middle
        lamp = (0.95, 0.95, 0.88) if side > 0 else (0.75, 0.08, 0.08)
        for y in (1, -1):
            body.decals.append(Decal(low, 0, side, (y * (wide - 0.24), height), (0.19, 0.085), "rectangle", lamp, 0.8))
        if side > 0:
            body.decals.append(Decal(low, 0, 1, (0, height - 0.02), (0.42, 0.10), "bars", _DARK))
        body.decals.append(
            Decal(low, 0, side, (0, sill + 0.20 - middle), (0.27, 0.07), "rectangle", (0.88, 0.90, 0.93))
        )
        for mark in range(6):
            if v.plate >> mark & 1:
                centre = (side * (mark - 2.5) * 0.08, sill + 0.20 - middle)
                body.decals.append(Decal(low, 0, side, centre, (0.025, 0.045), "rectangle", (0.1, 0.15, 0.4)))


def _sides(body: Body, v: Vehicle, s: Shape, low: int, sill: float) -> None:
    """Wheel arches, door gaps, a dent, in (x, z) from the middle of the lower body."""
    half, middle = s.length / 2, (s.belt + sill) / 2
    bare = DENTED[sum(PAINTS[v.colour]) < 1.5]  # primer on dark paint, dirt on bright
    for side in (1, -1):
        for x in (0.62 * half, -0.60 * half):
            arch = Decal(low, 1, side, (x, s.wheel - middle), (1.22 * s.wheel, 1.22 * s.wheel), "disc", _DARK)
            body.decals.append(arch)
        for x in (0.36 * half, 0.02 * half):
            gap = (0.012, 0.36 * (s.belt - sill))
            body.decals.append(Decal(low, 1, side, (x, 0.04), gap, "rectangle", _DARK))
        if v.damage and (v.damage % 2 == 1) == (side > 0):
            x = (0.86 if v.damage <= 2 else -0.86) * half
            body.decals.append(Decal(low, 1, side, (x, 0.0), (0.42, 0.32), "diamond", bare))
    if v.damage:
        end = 1 if v.damage <= 2 else -1
        y = (0.55 if v.damage % 2 == 1 else -0.55) * s.width / 2
        body.decals.append(Decal(low, 0, end, (y, -0.04), (0.36, 0.26), "diamond", bare))


def _stickers(body: Body, v: Vehicle, s: Shape, low: int, cabin: int) -> None:
    colour = PAINTS[v.sticker_colour]
    half = s.length / 2
    tall = v.type in ("van",)
    for side in (1, -1):
        if v.door_sticker != "none":
            solid, size = (cabin, 0.45) if tall else (low, 0.34)
            x = -0.25 * half if tall else -0.16 * half
            body.decals.append(Decal(solid, 1, side, (x, 0.02), (size * 1.3, size), v.door_sticker, colour))
    if v.rear_sticker != "none":
        solid, z = (cabin, 0.0) if tall else (low, 0.12)
        body.decals.append(Decal(solid, 0, -1, (0.28, z), (0.36, 0.26), v.rear_sticker, colour))
    if v.bonnet_sticker != "none" and not tall:
        body.decals.append(Decal(low, 2, 1, (0.72 * half, 0), (0.42, 0.5), v.bonnet_sticker, colour))


def _wheel(body: Body, v: Vehicle, s: Shape, x: float, side: int) -> None:
    y, r = side * (s.width / 2), s.wheel
    body.tube((x, y - side * 0.16, r), (x, y + side * 0.02, r), (r, r), r, _RUBBER)
    rim = PAINTS[v.rim_colour]
    shapes = {"spokes": "cross", "many spokes": "bars", "disc": "disc", "star": "diamond", "steel": "ring"}
    q = 0.82 * r
    disc = body.tube((x, y, r), (x, y + side * 0.03, r), (q, q), q, Surface((0.16, 0.16, 0.17)))
    body.decals.append(Decal(disc, 2, 1, (0, 0), (0.95, 0.95), shapes[v.rims], rim, 0.3))  # 2: along the axle, outwards


def _cargo(body: Body, v: Vehicle, s: Shape, half: float, wide: float) -> None:
    colour = Surface(PAINTS[v.cargo])
    if v.type == "truck":
        box = body.box((-0.30 * half, 0, 1.85), (1.36 * half, s.width + 0.06, 1.95), replace(colour, shine=0.2))
        mark = PAINTS[v.sticker_colour]
        for side in (1, -1):
            band = Decal(box, 1, side, (0, -0.75), (0.68 * half, 0.12), "rectangle", PAINTS[v.second])
            body.decals.append(band)
            if v.door_sticker != "none":
                body.decals.append(Decal(box, 1, side, (0, 0.1), (0.8, 0.55), v.door_sticker, mark))
        if v.rear_sticker != "none":
            body.decals.append(Decal(box, 0, -1, (0, 0.1), (0.5, 0.5), v.rear_sticker, mark))
    elif v.type == "pickup":
        x, length = -0.58 * half, 0.74 * half
        for side in (1, -1):
            body.box(
                (x, side * (wide - 0.06), s.belt + 0.06), (length, 0.08, 0.12), Surface(PAINTS[v.colour], shine=0.6)
            )
        body.box((x + 0.1, 0.0, s.belt + 0.20), (0.6 * length, 1.1, 0.46), colour)


def _roof(body: Body, v: Vehicle, s: Shape, front: float, rear: float) -> None:
    colour = Surface(PAINTS[v.roof_colour], shine=0.3)
    metal = Surface((0.25, 0.25, 0.26), shine=0.3)
    middle = (front + rear) / 2 + v.roof_place * 0.16 * (front - rear)
    length, z = front - rear, s.roof
    if v.type == "truck":
        return
    if v.roof in ("rack", "box", "load", "ladder"):
        for x in (middle + 0.28 * length, middle - 0.28 * length):
            body.box((x, 0, z + 0.06), (0.12, s.width - 0.5, 0.12), metal)
    if v.roof == "box":
        body.box((middle, -0.15, z + 0.27), (0.72 * length, 0.85, 0.36), colour)
    elif v.roof == "load":
        body.box((middle, 0.0, z + 0.25), (0.5 * length, 1.1, 0.30), colour)
        body.box((middle + 0.05, 0.1, z + 0.50), (0.3 * length, 0.7, 0.24), Surface(PAINTS[v.second]))
    elif v.roof == "ladder":
        for y in (0.3, -0.05):
            body.box((middle, y, z + 0.19), (length + 0.7, 0.12, 0.14), colour)
    elif v.roof == "sign":
        body.box((middle, 0, z + 0.15), (0.45, 0.9, 0.30), Surface(PAINTS[v.roof_colour]))
    elif v.roof == "spoiler":
        body.box((rear - 0.1, 0, z + 0.10), (0.5, s.width - 0.3, 0.12), colour)
