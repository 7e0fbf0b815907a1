"""Data sets: labelled images with a protocol, and the cards that describe them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

#: Suffixes of image files: the raster formats that Pillow reads without further programs.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "j2k", "avif"),
    )
)
#: Files that operating systems leave in folders of images.
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
#: Joins the names of data sets that are trained on together: `market1501+msmt17`.
JOIN = "+"
#: `market1501-heldout`: some training identities of market1501 are ranked, the others train.
HELD_OUT = "-heldout"


@dataclass(frozen=True)
class Image:
    """One labelled image file."""

    path: Path
    identity: int
    camera: int
    """the set's own camera number; 0 where the set has none"""


def positions_by_identity(identities: ArrayLike) -> list[np.ndarray]:
    """The positions of each identity's images, identities in ascending order."""
    identities = np.asarray(identities)
    order = np.argsort(identities, kind="stable")
    starts = np.unique(identities[order], return_index=True)[1]
    return np.split(order, starts[1:]) if len(order) else []


@dataclass(frozen=True)
class Draw:
    """One choice of queries and gallery, as positions in `Dataset.test`."""

    query: np.ndarray
    """(Q,) int64"""
    gallery: np.ndarray
    """(G,) int64"""


@dataclass(frozen=True)
class Dataset:
    """A data set on disk.

    `test` holds every image that is ranked. `draws` says which are queries and which are gallery: one draw for
    Market-1501, MSMT17 and VeRi-776, ten for VehicleID.
    """

    name: str
    layout: str
    root: Path
    train: tuple[Image, ...]
    test: tuple[Image, ...]
    draws: tuple[Draw, ...]
    remove_same_camera: bool
    """whether a gallery image of the query's identity and camera is left out of its ranking"""
    junk: int = 0
    """images of identity -1, which are in no split"""
    world: str = ""
    """fingerprint of the rendering; empty for photographs"""
    skipped: tuple[Path, ...] = ()
    """files in the image folders without an image suffix"""
    identity_names: Mapping[int, str] = field(default_factory=dict)
    """identity names in a list, by number; empty: the numbers themselves"""
    camera_names: Mapping[int, str] = field(default_factory=dict)
    """camera names in a list, by number; empty: the numbers themselves"""
    parts: tuple[str, ...] = ()
    """fingerprints of the data sets that this one joins; empty for a single set"""

    @cached_property
    def labels(self) -> np.ndarray:
        """Training identities renumbered 0, 1, ... in the order of their numbers; (len(train),) int64."""
        identities = np.array([image.identity for image in self.train], dtype=np.int64)
        return np.unique(identities, return_inverse=True)[1].astype(np.int64)

    @property
    def num_classes(self) -> int:
        """Number of training identities."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    @cached_property
    def test_identities(self) -> np.ndarray:
        """Identities of the test images, (len(test),) int64."""
        return np.array([image.identity for image in self.test], dtype=np.int64)

    @cached_property
    def test_cameras(self) -> np.ndarray:
        """Cameras of the test images, (len(test),) int64."""
        return np.array([image.camera for image in self.test], dtype=np.int64)

    def ranking_labels(self, query: np.ndarray, gallery: np.ndarray) -> dict[str, Any]:
        """Labels as `msinet.retrieval.evaluate` takes them; without cameras if the protocol does not use them.

        Args:
            query: (Q,) positions in `test`.
            gallery: (G,) positions in `test`.
        """
        identities, cameras, used = self.test_identities, self.test_cameras, self.remove_same_camera
        return {
            "query_ids": identities[query],
            "gallery_ids": identities[gallery],
            "query_cameras": cameras[query] if used else None,
            "gallery_cameras": cameras[gallery] if used else None,
        }

    def matches(self, query: int, gallery: np.ndarray) -> np.ndarray:
        """The positions in `gallery` that match a query: of its identity and, if cameras are used, another camera.

        Args:
            query: position in `test`.
            gallery: (G,) positions in `test`.
        """
        found: np.ndarray = gallery[self.test_identities[gallery] == self.test_identities[query]]
        return found[self.test_cameras[found] != self.test_cameras[query]] if self.remove_same_camera else found

    def identity_name(self, image: Image) -> str:
        """The identity of an image as the data set writes it."""
        return self.identity_names.get(image.identity, str(image.identity))

    def camera_name(self, image: Image) -> str:
        """The camera of an image as the data set writes it; empty in a set without cameras."""
        return self.camera_names.get(image.camera, str(image.camera) if image.camera else "")

    def splits(self) -> dict[str, list[Image]]:
        """Train, query and gallery (of the first draw) by name."""
        draw = self.draws[0]
        return {
            "train": list(self.train),
            "query": [self.test[i] for i in draw.query],
            "gallery": [self.test[i] for i in draw.gallery],
        }

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any file name, label, split or draw.

        For photographs they also change with any file size, for rendered sets with the fingerprint of the rendering.
        """
        digest = hashlib.sha256(f"{self.name} {self.layout} {self.remove_same_camera} {self.world}\n".encode())
        digest.update(" ".join(self.parts).encode())
        for role, images in (("train", self.train), ("test", self.test)):
            for image in () if self.parts else images:
                where = image.path.relative_to(self.root).as_posix()
                size = 0 if self.world else image.path.stat().st_size
                line = f"{role} {where} {image.identity} {image.camera} {size}\n"
                digest.update(line.encode(errors="surrogateescape"))  # names may be invalid UTF-8
        for draw in self.draws:
            digest.update(draw.query.astype(np.int64).tobytes() + b"|" + draw.gallery.astype(np.int64).tobytes())
        return digest.hexdigest()[:12]

    def contents(self, role: Literal["train", "test"]) -> str:
        """Twelve hex digits that change when an image file of a role is rewritten; for caches on this machine."""
        digest = hashlib.sha256()
        for image in self.train if role == "train" else self.test:
            stat = image.path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class DatasetCard:
    """Description of a data set, apart from its parser."""

    name: str
    """as commands spell it"""
    short: str
    """as the paper's tables write it"""
    order: int
    """position in tables; small numbers come first"""
    kind: Literal["person", "vehicle"]
    """persons are twice as high as wide, vehicles square"""
    folders: tuple[str, ...]
    """possible folders below a data root; the first is the authors' name and that of the rendered set"""
    needs: tuple[str, ...]
    """entries of its folder by which it is recognised"""
    expected: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """published identities, images and cameras of train, query and gallery; empty: not published"""
    distractor: int | None = None
    """identity of gallery images that match no query"""
    metrics: tuple[str, str] = ("R1", "mAP")
    """the two metrics that tables show"""
    across: tuple[str, ...] = ()
    """other data sets on which networks trained on it are tested"""
    extra: bool = False
    """True: on the rendered world, used only with --whole or by name"""
    numbers_restart: bool = False
    """whether test identities are numbered from 0 again, so that equal numbers are different identities"""
    part_of: str = ""
    """the data set of which this is another test list; used only by name"""


Parser = Callable[[Path], Dataset]
#: Cards and parsers by name; `msinet.data.layouts` fills it.
REGISTERED: dict[str, tuple[DatasetCard, Parser]] = {}


def register(card: DatasetCard) -> Callable[[Parser], Parser]:
    """Decorator: enter a parser, from a data set's folder to a `Dataset`, under the name of its card.

    Raises:
        ValueError: the name or the short name is taken, or the name has a reserved suffix or character.
    """

    def enter(parser: Parser) -> Parser:
        if any(card.name == other.name or card.short == other.short for other, _ in REGISTERED.values()):
            raise ValueError(f"data set {card.name!r} ({card.short}) is registered twice")
        if card.name.endswith(HELD_OUT):
            raise ValueError(f"{HELD_OUT!r} at the end of {card.name!r} is reserved for held-out identities")
        if JOIN in card.name:
            raise ValueError(f"{JOIN!r} in {card.name!r} is reserved for data sets that are joined")
        REGISTERED[card.name] = card, parser
        return parser

    return enter
