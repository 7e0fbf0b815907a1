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
    """Identities and their families. Two to four members share most factors, and no two look the same."""
    kind, palette = STYLES[style].kind, STYLES[style].palette
    subjects: list[Identity] = []
    families: list[int] = []
    while len(subjects) < number:
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
        subjects += members
    return subjects[:number], families[:number]


def _looks(one: Identity) -> Identity:
    """The identity without build or plate, which small images do not show."""
    if isinstance(one, person.Person):
        return replace(one, stature=0, girth=0)
    return replace(one, plate=0)


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
