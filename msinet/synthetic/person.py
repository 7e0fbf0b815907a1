"""Persons: the factors of an identity, and its body in a pose."""

from dataclasses import dataclass, replace

import numpy as np

from msinet.synthetic.solids import Body, Colour, Decal, Surface

#: Garment colours in display RGB.
COLOURS: dict[str, Colour] = {
    "white": (0.90, 0.90, 0.88),
    "black": (0.10, 0.10, 0.11),
    "grey": (0.48, 0.48, 0.50),
    "navy": (0.12, 0.16, 0.34),
    "blue": (0.16, 0.33, 0.72),
    "sky": (0.53, 0.74, 0.90),
    "red": (0.78, 0.13, 0.15),
    "maroon": (0.42, 0.09, 0.14),
    "green": (0.15, 0.50, 0.24),
    "olive": (0.42, 0.43, 0.22),
    "yellow": (0.92, 0.80, 0.20),
    "orange": (0.90, 0.47, 0.13),
    "pink": (0.92, 0.58, 0.68),
    "purple": (0.44, 0.22, 0.55),
    "beige": (0.80, 0.70, 0.54),
    "brown": (0.42, 0.27, 0.16),
}
SKIN: tuple[Colour, ...] = ((0.93, 0.76, 0.64), (0.85, 0.65, 0.50), (0.70, 0.49, 0.34), (0.46, 0.30, 0.20))
HAIR: dict[str, Colour] = {
    "black": (0.08, 0.07, 0.07),
    "brown": (0.28, 0.17, 0.10),
    "blond": (0.80, 0.66, 0.38),
    "grey": (0.62, 0.62, 0.62),
    "ginger": (0.62, 0.28, 0.12),
}
UPPERS = ("t-shirt", "shirt", "jacket", "coat")
LOWERS = ("trousers", "shorts", "skirt")
BAGS = ("none", "backpack", "shoulder bag", "handbag")
HATS = ("none", "cap", "hood")
PRINTS = ("none", "disc", "triangle", "cross", "ring", "bars", "diamond", "rectangle")
GARMENT_PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "block", "diagonal", "camouflage")


@dataclass(frozen=True)
class Person:
    """The factors of one identity; colours by name."""

    stature: float
    """metres"""
    girth: float
    """1: average"""
    skin: int
    hair: str
    hair_length: str
    """short, long or bald"""
    hat: str
    hat_colour: str
    upper: str
    upper_colour: str
    upper_second: str
    upper_pattern: str
    inner_colour: str
    """of the shirt under an open jacket or coat"""
    front_print: str
    back_print: str
    print_colour: str
    lower: str
    lower_colour: str
    lower_second: str
    lower_pattern: str
    shoe_colour: str
    bag: str
    bag_colour: str
    bag_second: str


def draw_family(rng: np.random.Generator, weights: dict[str, float]) -> Person:
    """Draw the person from whom a family is derived.

    Args:
        rng: source of all random numbers.
        weights: of each colour in the set's palette.
    """
    names = list(weights)
    shares = np.array([weights[n] for n in names])
    shares /= shares.sum()

    def colour() -> str:
        return str(rng.choice(names, p=shares))

    upper, lower = str(rng.choice(UPPERS, p=(0.35, 0.3, 0.2, 0.15))), str(rng.choice(LOWERS, p=(0.65, 0.2, 0.15)))
    base = Person(
        stature=round(float(rng.uniform(1.55, 1.92)), 3),
        girth=round(float(rng.uniform(0.85, 1.25)), 3),
        skin=int(rng.integers(len(SKIN))),
        hair=str(rng.choice(list(HAIR), p=(0.4, 0.3, 0.12, 0.12, 0.06))),
        hair_length="short",
        hat="none",
        hat_colour=colour(),
        upper=upper,
        upper_colour=colour(),
        upper_second=colour(),
        upper_pattern="plain",
        inner_colour=colour(),
        front_print="none",
        back_print="none",
        print_colour=colour(),
        lower=lower,
        lower_colour=colour(),
        lower_second=colour(),
        lower_pattern="plain",
        shoe_colour=colour(),
        bag="none",
        bag_colour=colour(),
        bag_second=colour(),
    )
    for part in ("hair", "pattern", "lower pattern", "bag", "print", "hat"):
        base = vary(base, part, rng, weights)
    return base


#: Parts in which members of a family may differ.
PARTS = ("hair", "hat", "pattern", "inner", "print", "lower pattern", "shoes", "bag", "lower colour", "upper colour")


def vary(person: Person, part: str, rng: np.random.Generator, weights: dict[str, float]) -> Person:
    """The same person with one part drawn again.

    Raises:
        ValueError: unknown part.
    """
    names = list(weights)
    shares = np.array([weights[n] for n in names])
    shares /= shares.sum()

    def colour(*apart_from: str) -> str:
        while True:
            name = str(rng.choice(names, p=shares))
            if name not in apart_from:
                return name

    def one(values: tuple[str, ...], first: float) -> str:
        """The first value with probability `first`, otherwise one of the others."""
        return values[0] if rng.random() < first else values[1 + int(rng.integers(len(values) - 1))]

    if part == "hair":
        return replace(
            person,
            hair_length=str(rng.choice(("short", "long", "bald"), p=(0.55, 0.37, 0.08))),
            hair=str(rng.choice(list(HAIR))),
        )
    if part == "hat":
        return replace(person, hat=one(HATS, 0.65), hat_colour=colour())
    if part == "pattern":
        return replace(person, upper_pattern=one(GARMENT_PATTERNS, 0.35), upper_second=colour(person.upper_colour))
    if part == "inner":
        return replace(person, inner_colour=colour(person.upper_colour))
    if part == "print":
        return replace(
            person, front_print=one(PRINTS, 0.35), back_print=one(PRINTS, 0.5), print_colour=colour(person.upper_colour)
        )
    if part == "lower pattern":
        return replace(
            person,
            lower_pattern=one(("plain", "side stripe", "checks", "block"), 0.55),
            lower_second=colour(person.lower_colour),
        )
    if part == "shoes":
        return replace(person, shoe_colour=colour(person.shoe_colour))
    if part == "bag":
        return replace(person, bag=one(BAGS, 0.35), bag_colour=colour(person.upper_colour), bag_second=colour())
    if part == "lower colour":
        return replace(person, lower_colour=colour(person.lower_colour))
    if part == "upper colour":
        return replace(person, upper_colour=colour(person.upper_colour))
    raise ValueError(f"no part called {part!r}")


def draw_member(base: Person, rng: np.random.Generator, weights: dict[str, float]) -> Person:
    """A member of a family: a few parts drawn again, and a slightly different build."""
    person = replace(
        base,
        stature=round(base.stature * float(rng.uniform(0.97, 1.03)), 3),
        girth=round(base.girth * float(rng.uniform(0.94, 1.06)), 3),
    )
    for part in rng.permutation(PARTS)[: rng.integers(4, 7)]:
        person = vary(person, str(part), rng, weights)
    return person


@dataclass(frozen=True)
class Pose:
    """Pose of a standing or walking person."""

    phase: float
    """of the walking cycle, radians"""
    stride: float
    """swing of the thighs, radians; 0: standing"""
    elbows: tuple[float, float]
    """bend of the left and the right elbow, radians"""
    lean: float
    """forwards, radians"""


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose: mostly walking, sometimes with a raised hand as at a telephone."""
    walking = rng.random() < 0.75
    elbows = rng.uniform(0.1, 0.6, 2)
    if rng.random() < 0.2:
        elbows[rng.integers(2)] = rng.uniform(1.6, 2.2)
    return Pose(
        float(rng.uniform(0, 2 * np.pi)),
        float(rng.uniform(0.2, 0.5)) if walking else float(rng.uniform(0, 0.08)),
        (float(elbows[0]), float(elbows[1])),
        float(rng.uniform(-0.02, 0.08)),
    )


def build(person: Person, pose: Pose) -> Body:
    """The body of a person in a pose, facing x, with the feet on the ground."""
    body = Body()
    h, g = person.stature, person.girth
    skin = Surface(SKIN[person.skin])
    hair = Surface(HAIR[person.hair])
    cloth = Surface(
        COLOURS[person.upper_colour],
        COLOURS[person.upper_second],
        person.upper_pattern,
        {"dots": 8.0, "checks": 6.0, "camouflage": 5.0, "diagonal": 5.0}.get(person.upper_pattern, 7.0),
    )
    sleeve = replace(cloth, pattern="plain") if cloth.pattern == "block" else cloth
    pattern = person.lower_pattern if person.lower_pattern != "side stripe" else "plain"
    legs = Surface(COLOURS[person.lower_colour], COLOURS[person.lower_second], pattern, 6.0)
    shoes = Surface(COLOURS[person.shoe_colour])

    hip, shoulder = 0.50 * h, 0.815 * h
    lean = float(np.tan(pose.lean)) * (shoulder - hip)

    for number, side in enumerate((1, -1)):
        _leg(body, person, pose, side, legs, skin, shoes, hip)
        _arm(body, person, pose, side, number, sleeve, skin, (lean, 0.118 * h * g**0.5 * side, shoulder - 0.022 * h))

    # Trunk: pelvis, chest, shoulders.
    body.ellipsoid((0, 0, hip), (0.068 * h * g, 0.088 * h * g**0.7, 0.062 * h), legs)
    torso = body.tube(
        (0, 0, hip + 0.005 * h), (lean, 0, shoulder), (0.066 * h * g, 0.090 * h * g**0.7), 0.075 * h * g**0.6, cloth
    )
    body.ellipsoid((lean, 0, shoulder - 0.008 * h), (0.058 * h * g**0.6, 0.118 * h * g**0.5, 0.036 * h), sleeve)
    if person.upper == "coat":
        body.tube((0, 0, 0.33 * h), (0, 0, hip + 0.03 * h), (0.092 * h * g, 0.115 * h * g**0.7), 0.072 * h * g, cloth)
    if person.lower == "skirt":
        body.tube((0, 0, 0.29 * h), (0, 0, hip + 0.02 * h), (0.098 * h, 0.125 * h), 0.068 * h * g, legs)
    _prints(body, person, torso)

    _head(body, person, skin, hair, lean)
    _bag(body, person, torso, lean, hip)
    return body


def _leg(
    body: Body, person: Person, pose: Pose, side: int, legs: Surface, skin: Surface, shoes: Surface, hip: float
) -> None:
    h, g = person.stature, person.girth
    swing = pose.stride * float(np.sin(pose.phase + (0 if side > 0 else np.pi)))
    bend = 0.12 + 1.1 * pose.stride * max(0.0, float(np.cos(pose.phase + (0 if side > 0 else np.pi))))
    y = 0.047 * h * g**0.5 * side
    thigh, shin = 0.245 * h, 0.225 * h
    knee = (thigh * float(np.sin(swing)), y, hip - thigh * float(np.cos(swing)))
    back = swing - bend
    ankle = (knee[0] + shin * float(np.sin(back)), y, max(0.03 * h, knee[2] - shin * float(np.cos(back))))
    upper = legs
    lower = legs if person.lower == "trousers" else skin
    if person.lower == "skirt":
        upper = skin
    thick = 0.052 * h * g**0.7
    t = body.tube((0, y, hip), knee, (thick, thick), 0.039 * h * g**0.5, upper)
    body.ellipsoid(knee, (0.038 * h * g**0.5,) * 3, upper)
    s = body.tube(knee, ankle, (0.037 * h * g**0.5,) * 2, 0.026 * h, lower)
    if person.lower_pattern == "side stripe" and person.lower != "skirt":
        for solid in (t, s) if person.lower == "trousers" else (t,):
            body.decals.append(Decal(solid, 1, side, (0, 0.5), (0.42, 0.5), "rectangle", COLOURS[person.lower_second]))
    body.ellipsoid((ankle[0] + 0.028 * h, y, ankle[2] - 0.005 * h), (0.066 * h, 0.029 * h, 0.027 * h), shoes)


def _arm(
    body: Body,
    person: Person,
    pose: Pose,
    side: int,
    number: int,
    sleeve: Surface,
    skin: Surface,
    shoulder: tuple[float, float, float],
) -> None:
    h, g = person.stature, person.girth
    swing = -0.8 * pose.stride * float(np.sin(pose.phase + (0 if side > 0 else np.pi)))
    bend = pose.elbows[number]
    upper, lower = 0.165 * h, 0.15 * h
    thick = 0.030 * h * g**0.6
    elbow = (
        shoulder[0] + upper * float(np.sin(swing)),
        shoulder[1] + 0.018 * h * side,
        shoulder[2] - upper * float(np.cos(swing)),
    )
    angle = swing + bend
    hand = (
        elbow[0] + lower * float(np.sin(angle)),
        elbow[1] - 0.012 * h * side,
        elbow[2] - lower * float(np.cos(angle)),
    )
    long = person.upper != "t-shirt"
    body.ellipsoid(shoulder, (1.08 * thick,) * 3, sleeve)
    body.tube(shoulder, elbow, (thick, thick), 0.026 * h, sleeve)
    body.ellipsoid(elbow, (0.026 * h,) * 3, sleeve if long else skin)
    body.tube(elbow, hand, (0.025 * h,) * 2, 0.019 * h, sleeve if long else skin)
    body.ellipsoid(hand, (0.026 * h, 0.02 * h, 0.03 * h), skin)
    if person.bag == "handbag" and side < 0:
        x, y, z = hand
        bag = body.box((x, y, z - 0.10 * h), (0.20 * h, 0.07 * h, 0.15 * h), Surface(COLOURS[person.bag_colour]))
        stripe = COLOURS[person.bag_second]
        for face in (1, -1):
            body.decals.append(Decal(bag, 1, face, (0, -0.01 * h), (0.1 * h, 0.022 * h), "rectangle", stripe))
        body.tube((x, y, z - 0.04 * h), (x, y, z), (0.012 * h,) * 2, 0.012 * h, Surface(COLOURS[person.bag_colour]))


def _prints(body: Body, person: Person, torso: int) -> None:
    """Decals on the trunk, in its own coordinates: sideways from -1 to 1, upwards from 0 to 1."""
    if person.upper in ("jacket", "coat"):
        inner = COLOURS[person.inner_colour]
        body.decals.append(Decal(torso, 0, 1, (0, 0.62), (0.3, 0.42), "triangle", inner, tilt=0.0))
        body.decals.append(Decal(torso, 0, 1, (0, 0.5), (0.05, 0.5), "rectangle", inner))
    colour = COLOURS[person.print_colour]
    for side, shape in ((1, person.front_print), (-1, person.back_print)):
        if shape != "none":
            body.decals.append(Decal(torso, 0, side, (0, 0.56), (0.55, 0.24), shape, colour))
    if person.upper == "t-shirt":
        body.decals.append(Decal(torso, 0, 1, (0, 0.02), (1, 0.03), "rectangle", COLOURS[person.lower_second]))


def _head(body: Body, person: Person, skin: Surface, hair: Surface, lean: float) -> None:
    h = person.stature
    top = 0.925 * h
    body.tube((lean, 0, 0.82 * h), (lean, 0, 0.88 * h), (0.032 * h,) * 2, 0.03 * h, skin)
    head = body.ellipsoid((lean + 0.008 * h, 0, top), (0.056 * h, 0.046 * h, 0.068 * h), skin)
    dark = (0.16, 0.1, 0.09)
    for side in (1, -1):
        body.decals.append(Decal(head, 0, 1, (0.42 * side, 0.12), (0.16, 0.08), "disc", dark))
    body.decals.append(Decal(head, 0, 1, (0, -0.5), (0.26, 0.06), "rectangle", (0.62, 0.3, 0.28)))
    if person.hair_length != "bald":
        body.ellipsoid((lean - 0.008 * h, 0, top + 0.02 * h), (0.056 * h, 0.052 * h, 0.062 * h), hair)
    if person.hair_length == "long":
        body.tube((lean - 0.03 * h, 0, 0.80 * h), (lean - 0.025 * h, 0, top), (0.026 * h, 0.056 * h), 0.034 * h, hair)
    if person.hat == "cap":
        cap = Surface(COLOURS[person.hat_colour])
        body.ellipsoid((lean - 0.002 * h, 0, top + 0.036 * h), (0.062 * h, 0.056 * h, 0.044 * h), cap)
        body.ellipsoid((lean + 0.062 * h, 0, top + 0.022 * h), (0.04 * h, 0.04 * h, 0.008 * h), cap)
    elif person.hat == "hood":
        hood = Surface(COLOURS[person.upper_colour])
        body.ellipsoid((lean - 0.022 * h, 0, top - 0.002 * h), (0.062 * h, 0.063 * h, 0.082 * h), hood)


def _bag(body: Body, person: Person, torso: int, lean: float, hip: float) -> None:
    if person.bag == "none":
        return
    h, g = person.stature, person.girth
    colour, second = COLOURS[person.bag_colour], COLOURS[person.bag_second]
    if person.bag == "backpack":
        deep = 0.066 * h * g
        x = lean - deep - 0.045 * h
        bag = body.ellipsoid((x, 0, 0.70 * h), (0.065 * h, 0.095 * h, 0.125 * h), Surface(colour))
        body.decals.append(Decal(bag, 0, -1, (0, -0.25), (0.62, 0.34), "rectangle", second))
        for side in (1, -1):  # its straps show from the front
            body.decals.append(Decal(torso, 0, 1, (0.52 * side, 0.6), (0.11, 0.4), "rectangle", colour))
    elif person.bag == "shoulder bag":
        y = 0.135 * h * g**0.5
        bag = body.box((0.0, y, hip + 0.01 * h), (0.19 * h, 0.07 * h, 0.13 * h), Surface(colour))
        body.decals.append(Decal(bag, 1, 1, (0, 0.015 * h), (0.095 * h, 0.02 * h), "rectangle", second))
        for face in (1, -1):  # the strap runs from one shoulder across the trunk
            body.decals.append(Decal(torso, 0, face, (0, 0.5), (0.12, 0.5), "rectangle", colour, tilt=-6.0))
