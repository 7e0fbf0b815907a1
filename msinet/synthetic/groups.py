"""Draws the identities of a set, and the images that each of its cameras takes of them."""

from dataclasses import dataclass, replace

import numpy as np

from msinet.synthetic import person, vehicle
from msinet.synthetic.scene import Identity
from msinet.synthetic.sets import STYLES

#: Raise when the same seed gives other images.
VERSION = 1


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
