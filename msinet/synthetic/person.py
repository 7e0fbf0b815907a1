"""Persons: the factors of an identity, and its body in a pose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from msinet.synthetic.draws import draw_colour, first_or_other
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
#: Stature in metres, girth (1: average), by class.
BUILDS: dict[str, tuple[float, float]] = {
    "short slim": (1.60, 0.88),
    "short broad": (1.60, 1.22),
    "medium": (1.74, 1.05),
    "tall slim": (1.88, 0.88),
    "tall broad": (1.88, 1.22),
}
UPPERS = ("t-shirt", "shirt", "jacket", "coat")
LOWERS = ("trousers", "shorts", "skirt")
BAGS = ("none", "backpack", "shoulder bag", "handbag")
HATS = ("none", "cap", "hood")
PRINTS = ("none", "disc", "triangle", "cross", "ring", "bars", "diamond", "rectangle")
STRIPES = ("none", "chest", "waist", "sleeves", "legs")
GARMENT_PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "block", "diagonal", "camouflage")
TROUSER_PATTERNS = ("plain", "checks", "block")


@dataclass(frozen=True)
class Person:
    """The factors of one identity; colours by name. Parts that are not worn have the colour of their garment."""

    build: str
    """class of stature and girth"""
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
    stripe: str
    """position of a band around the body"""
    stripe_colour: str
    lower: str
    lower_colour: str
    lower_second: str
    lower_pattern: str
    shoe_colour: str
    bag: str
    bag_colour: str
    bag_second: str


#: Factors that several families share.
LOOK = (
    "build",
    "upper",
    "upper_colour",
    "upper_second",
    "upper_pattern",
    "lower",
    "lower_colour",
    "lower_second",
    "lower_pattern",
)
#: Colours that several looks share.
LOOK_COLOURS = ("upper_colour", "lower_colour")
#: Details in which members of a family may differ, and their factors.
DETAILS = {
    "hat": ("hat", "hat_colour"),
    "print": ("front_print", "back_print", "print_colour"),
    "stripe": ("stripe", "stripe_colour"),
    "shoes": ("shoe_colour",),
    "bag": ("bag", "bag_colour", "bag_second"),
}

#: Details that are seen from every side.
ALL_ROUND = ("hat", "stripe", "shoes")


def draw_look(rng: np.random.Generator, weights: Mapping[str, float], colours: Sequence[str] = ()) -> Person:
    """Draw a look: build, garments, colours and patterns, without other details.

    Args:
        rng: source of all random numbers.
        weights: of each colour in the set's palette.
        colours: of the two garments; empty: draw them.
    """
    upper, lower = colours or (draw_colour(rng, weights, COLOURS) for _ in range(2))
    figure = str(rng.choice(list(BUILDS)))
    upper_pattern = first_or_other(rng, GARMENT_PATTERNS, 0.35)
    lower_pattern = first_or_other(rng, TROUSER_PATTERNS, 0.65)
    return Person(
        build=figure,
        stature=BUILDS[figure][0],
        girth=BUILDS[figure][1],
        skin=0,
        hair="black",
        hair_length="short",
        hat="none",
        hat_colour=upper,
        upper=str(rng.choice(UPPERS, p=(0.35, 0.3, 0.2, 0.15))),
        upper_colour=upper,
        upper_second=upper if upper_pattern == "plain" else draw_colour(rng, weights, COLOURS, upper),
        upper_pattern=upper_pattern,
        inner_colour=upper,
        front_print="none",
        back_print="none",
        print_colour=upper,
        stripe="none",
        stripe_colour=upper,
        lower=str(rng.choice(LOWERS, p=(0.65, 0.2, 0.15))),
        lower_colour=lower,
        lower_second=lower if lower_pattern == "plain" else draw_colour(rng, weights, COLOURS, lower),
        lower_pattern=lower_pattern,
        shoe_colour=lower,
        bag="none",
        bag_colour=upper,
        bag_second=upper,
    )


def draw_family(look: Person, rng: np.random.Generator, weights: Mapping[str, float]) -> Person:
    """Draw the first member of a family: it has the look, and its own build, face, hair and details."""
    layered = look.upper in ("jacket", "coat")
    person = replace(
        look,
        stature=round(look.stature * float(rng.uniform(0.97, 1.03)), 3),
        girth=round(look.girth * float(rng.uniform(0.94, 1.06)), 3),
        skin=int(rng.integers(len(SKIN))),
        hair=str(rng.choice(list(HAIR), p=(0.35, 0.25, 0.16, 0.14, 0.10))),
        hair_length=str(rng.choice(("short", "long", "bald"), p=(0.5, 0.4, 0.1))),
        inner_colour=draw_colour(rng, weights, COLOURS, look.upper_colour) if layered else look.upper_colour,
    )
    for detail in DETAILS:
        person = vary(person, detail, rng, weights)
    return person


def vary(person: Person, detail: str, rng: np.random.Generator, weights: Mapping[str, float]) -> Person:
    """The same person with another value of one detail, which differs in kind or has a contrasting colour.

    Raises:
        ValueError: an unknown detail, or a palette with too few colours.
    """

    def colour(*apart_from: str) -> str:
        return draw_colour(rng, weights, COLOURS, *apart_from)

    def other(values: Sequence[str], present: str, share: float) -> str:
        """Another value than the present one; the first with probability `share`."""
        left = [value for value in values if value != present]
        return first_or_other(rng, left, share) if left[0] == values[0] else str(rng.choice(left))

    if detail == "hat":
        hat = str(rng.choice([value for value in HATS if value != person.hat or value == "cap"]))
        if hat != "cap":
            return replace(person, hat=hat, hat_colour=person.upper_colour)
        return replace(person, hat=hat, hat_colour=colour(person.upper_colour, person.hat_colour))
    if detail == "print":
        front, back = first_or_other(rng, PRINTS, 0.0), first_or_other(rng, PRINTS, 0.0)
        apart_from = person.upper_colour, person.upper_second, person.print_colour
        if person.front_print == "none" or rng.random() < 0.6:
            return replace(person, front_print=front, back_print=back, print_colour=colour(*apart_from))
        return replace(person, front_print="none", back_print="none", print_colour=person.upper_colour)
    if detail == "stripe":
        stripe = other(STRIPES, person.stripe, 0.4)
        cloth = person.lower_colour if stripe == "legs" else person.upper_colour
        return replace(person, stripe=stripe, stripe_colour=cloth if stripe == "none" else colour(cloth))
    if detail == "shoes":
        return replace(person, shoe_colour=colour(person.shoe_colour, person.lower_colour))
    if detail == "bag":
        bag = other(BAGS, person.bag, 0.35)
        if bag == "none":
            return replace(person, bag=bag, bag_colour=person.upper_colour, bag_second=person.upper_colour)
        bag_colour = colour(person.upper_colour)
        return replace(person, bag=bag, bag_colour=bag_colour, bag_second=colour(bag_colour))
    raise ValueError(f"no detail called {detail!r}")


def details_of(_: Person) -> tuple[str, ...]:
    """The details that can be seen on a person."""
    return tuple(DETAILS)


def appearance(person: Person) -> Person:
    """The person without the exact stature and girth, which images do not show."""
    return replace(person, stature=0.0, girth=0.0)


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
    """Draw a pose: mostly walking, sometimes with a raised hand as on a phone call."""
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
    legs = Surface(COLOURS[person.lower_colour], COLOURS[person.lower_second], person.lower_pattern, 6.0)
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
    if person.stripe in ("chest", "waist"):
        _band(body, torso, 0.72 if person.stripe == "chest" else 0.24, 0.09, COLOURS[person.stripe_colour])
    if person.lower == "skirt":
        skirt = body.tube((0, 0, 0.29 * h), (0, 0, hip + 0.02 * h), (0.098 * h, 0.125 * h), 0.068 * h * g, legs)
        if person.stripe == "legs":
            _band(body, skirt, 0.14, 0.13, COLOURS[person.stripe_colour])
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
    thigh_solid = body.tube((0, y, hip), knee, (thick, thick), 0.039 * h * g**0.5, upper)
    body.ellipsoid(knee, (0.038 * h * g**0.5,) * 3, upper)
    body.tube(knee, ankle, (0.037 * h * g**0.5,) * 2, 0.026 * h, lower)
    if person.stripe == "legs" and person.lower != "skirt":
        _band(body, thigh_solid, 0.78, 0.14, COLOURS[person.stripe_colour])
    body.tube(ankle, (ankle[0], y, ankle[2] + 0.05 * h), (0.033 * h, 0.033 * h), 0.031 * h, shoes)
    body.ellipsoid((ankle[0] + 0.028 * h, y, ankle[2] - 0.005 * h), (0.070 * h, 0.034 * h, 0.034 * h), shoes)


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
    arm = body.tube(shoulder, elbow, (thick, thick), 0.026 * h, sleeve)
    if person.stripe == "sleeves":
        _band(body, arm, 0.55, 0.2, COLOURS[person.stripe_colour])
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


def _band(body: Body, solid: int, middle: float, half: float, colour: Colour) -> None:
    """A band around a tube; `middle` and `half` are shares of its length."""
    for axis in (0, 1):
        for side in (1, -1):
            body.decals.append(Decal(solid, axis, side, (0, middle), (2, half), "rectangle", colour))


def _prints(body: Body, person: Person, torso: int) -> None:
    """Decals on the trunk, in its own coordinates: sideways from -1 to 1, upwards from 0 to 1."""
    if person.upper in ("jacket", "coat"):
        inner = COLOURS[person.inner_colour]
        body.decals.append(Decal(torso, 0, 1, (0, 0.62), (0.3, 0.42), "triangle", inner, tilt=0.0))
        body.decals.append(Decal(torso, 0, 1, (0, 0.5), (0.05, 0.5), "rectangle", inner))
    colour = COLOURS[person.print_colour]
    for side, shape in ((1, person.front_print), (-1, person.back_print)):
        if shape != "none":
            body.decals.append(Decal(torso, 0, side, (0, 0.54), (0.7, 0.28), shape, colour))


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
