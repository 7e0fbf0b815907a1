"""Draws the identities of a set, and the images that each of its cameras takes of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from msinet.errors import UserError
from msinet.synthetic import person, vehicle
from msinet.synthetic.scene import Identity
from msinet.synthetic.sets import STYLES

#: Increase this number when the same seed gives other images.
VERSION = 3
#: Number of looks per family. Below 1, some looks are shared by several families.
LOOKS_PER_FAMILY = 0.75
#: Sizes of families, and the share of each.
FAMILY_SIZES = {2: 0.6, 3: 0.3, 4: 0.1}
#: Largest number of draws to find an identity or a look that differs from all others.
ATTEMPTS = 200
#: Modules of the kinds of identities.
KINDS: dict[str, Any] = {"person": person, "vehicle": vehicle}


@dataclass(frozen=True)
class Shot:
    """An image to render."""

    paths: tuple[str, ...]
    """relative to the set; the same image is written to each"""
    split: str
    identity: int
    camera: int
    style: str
    subject: Identity
    family: int
    """number within the split"""
    key: tuple[int, ...]
    """seed of the image"""
    square: bool = False
    junk: bool = False


@dataclass(frozen=True)
class Sighting:
    """An image of an identity by a camera, before it has a file name."""

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
    """part of the seed; differs between groups of a set"""
    subjects: list[Identity]
    families: list[int]
    sightings: list[Sighting]

    def shot(self, seed: int, s: Sighting, paths: tuple[str, ...], split: str, identity: int, **more: bool) -> Shot:
        """The image of a sighting under its file names."""
        key = (seed, VERSION, list(STYLES).index(self.style), self.code, s.index, s.shot)
        subject, family = self.subjects[s.index], self.families[s.index]
        return Shot(paths, split, identity, s.camera, self.style, subject, family, key, **more)


def draw_identities(style: str, number: int, rng: np.random.Generator) -> tuple[list[Identity], list[int]]:
    """Draw identities in families of two to four, and the family of each.

    Families share their look: type, build, colours and patterns. There are fewer looks than families, and half as many
    pairs of colours as looks. Members of a family differ in one or two details. No two identities look the same.

    Raises:
        UserError: the palette has too few colours for this number of identities.
    """
    sizes = _family_sizes(number, rng)
    kind, palette = KINDS[STYLES[style].kind], STYLES[style].palette
    looks = _draw_looks(kind, palette, max(1, int(len(sizes) * LOOKS_PER_FAMILY)), rng)
    subjects: list[Identity] = []
    seen: set[Identity] = set()
    for family, size in enumerate(sizes):
        for _ in range(ATTEMPTS):
            base = kind.draw_family(looks[family % len(looks)], rng, palette)
            members = _draw_members(kind, base, size, rng, palette)
            appearances = {kind.appearance(member) for member in members}
            if not appearances & seen:
                break
        else:
            raise UserError(f"world: {number} identities are too many for the palette of {style}; ask for fewer")
        seen |= appearances
        subjects += members
    return subjects, np.repeat(np.arange(len(sizes)), sizes).tolist()


def _family_sizes(number: int, rng: np.random.Generator) -> list[int]:
    """Numbers from two to four that add up to `number`, which is at least 2."""
    sizes: list[int] = []
    while left := number - sum(sizes):
        size = int(rng.choice(list(FAMILY_SIZES), p=list(FAMILY_SIZES.values())))
        if left <= 4:
            size = left
        elif left - size == 1:
            size = 3 if size != 3 else 2
        sizes.append(size)
    return sizes


def _draw_looks(kind: Any, palette: dict[str, float], number: int, rng: np.random.Generator) -> list[Identity]:
    """Different looks. Each pair of colours is drawn for two of them."""
    looks: list[Identity] = []
    for i in range(number):
        colours = [getattr(looks[-1], field) for field in kind.LOOK_COLOURS] if i % 2 else []
        for _ in range(ATTEMPTS):
            look = kind.draw_look(rng, palette, colours)
            if look not in looks:
                break
        else:
            raise UserError(f"world: a palette of {len(palette)} colours is too small for {number} looks")
        looks.append(look)
    return looks


def _draw_members(
    kind: Any, base: Identity, size: int, rng: np.random.Generator, palette: dict[str, float]
) -> list[Identity]:
    """Members of a family. Each has its own value of one all-round detail; a second detail has two values in turn.

    Raises:
        UserError: the palette has too few colours for different members.
    """
    visible = kind.details_of(base)
    first = str(rng.choice([detail for detail in visible if detail in kind.ALL_ROUND]))
    second = str(rng.choice([detail for detail in visible if detail != first]))
    other = kind.vary(base, second, rng, palette)
    members = [base]
    values = [_detail(kind, base, first)]
    while len(members) < size:
        for _ in range(ATTEMPTS):
            varied = kind.vary(members[-1], first, rng, palette)
            if _detail(kind, varied, first) not in values:
                break
        else:
            raise UserError(f"world: a palette of {len(palette)} colours is too small for {size} values of {first}")
        values.append(_detail(kind, varied, first))
        members.append(replace(varied, **_detail(kind, other if len(members) % 2 else base, second)))
    return members


def _detail(kind: Any, one: Identity, name: str) -> dict[str, Any]:
    """The factors of a detail of an identity."""
    return {field: getattr(one, field) for field in kind.DETAILS[name]}


def draw_group(style: str, code: int, identities: int, images: float, seed: int) -> Group:
    """Draw identities, each with its own number of images by two to six of the set's cameras."""
    rng = np.random.default_rng((seed, VERSION, list(STYLES).index(style), code, 17))
    subjects, families = draw_identities(style, identities, rng)
    share = rng.uniform(0.6, 1.4, identities)
    total = round(identities * images)
    counts = np.maximum(4, np.floor(share / share.sum() * total).astype(int))
    for i in rng.permutation(identities)[: max(0, total - counts.sum())]:
        counts[i] += 1
    while counts.sum() > total:  # the minimum of four images raised the sum
        counts[counts.argmax()] -= 1
    sightings = []
    for index, count in enumerate(counts):
        most = min(STYLES[style].cameras, 6, count // 2)
        cameras = rng.permutation(STYLES[style].cameras)[: rng.integers(min(3, most), most + 1)] + 1
        # Every camera that sees an identity has at least two images of it; the first may be a query.
        sightings += [
            Sighting(index, int(cameras[shot % len(cameras)]), shot, shot < len(cameras)) for shot in range(count)
        ]
    return Group(style, code, subjects, families, sightings)
