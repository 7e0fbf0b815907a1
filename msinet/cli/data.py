"""Commands on data sets: msinet data render | check | split | show."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from msinet.cli.selection import DataOptions, NameOption
from msinet.errors import unknown_name


@dataclass(frozen=True)
class Check:
    """Compare the data sets under a data root with their published sizes, and list images that cannot be decoded."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root, the folder of one data set, or a list of images (CSV)"""
    datasets: tuple[str, ...] = ()
    """data sets to check; empty: all that are found"""
    decode: bool = True
    """decode every image, not only names and sizes"""
    selection: Annotated[DataOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=DataOptions)

    def __call__(self) -> int:
        """Check the data sets; status 1 if one cannot be used."""
        from msinet.data.check import check
        from msinet.data.own import notice

        if self.selection.name:
            notice(self.root, self.selection.name)
        keep = self.selection.keep_same_camera
        return 0 if check(self.root, datasets=self.datasets, decode=self.decode, keep_same_camera=keep) else 1


@dataclass(frozen=True)
class Split:
    """Divide labelled images into training images, queries and gallery, and write the list."""

    source: Annotated[Path, tyro.conf.Positional]
    """folder with one subfolder per identity (and in it one per camera), or a CSV file with path and identity"""
    out: Path = Path("list.csv")
    """list to write (CSV)"""
    test: float = 0.5
    """share of the identities used for testing, above 0 and below 1"""
    queries: int = 1
    """queries of each test identity; its other images are gallery"""
    seed: int = 0
    """seed of the random split"""

    def __call__(self) -> int:
        """Split and write the list."""
        from msinet.data.splitting import split

        found = split(self.source, self.out, test=self.test, queries=self.queries, seed=self.seed)
        print(", ".join(f"{number} {name}" for name, number in found.items()) + f"; written: {self.out}")
        print(f"check it with msinet data check {shlex.quote(str(self.out))}")
        return 0


@dataclass(frozen=True)
class Render:
    """Render the synthetic world: data sets in their native layouts, and the pretext set for pre-training."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root to write, created if missing; an interrupted rendering resumes"""
    profile: str = "mini"
    """profile that sets the number of identities, the number of images and their size; `msinet list` shows profiles"""
    datasets: tuple[str, ...] = ()
    """data sets to render, as `msinet list` shows them, or pretext; empty: all"""
    identities: int = 0
    """training identities of each data set; 0: the profile's"""
    test_identities: int = 0
    """test identities of each data set; 0: the profile's, or --identities"""
    images_per_identity: float = 0
    """mean number of images of a training identity; 0: the profile's"""
    test_images_per_identity: float = 0
    """mean number of images of a test identity; 0: the profile's, or --images-per-identity"""
    height: int = 0
    """height of person images in pixels; vehicle images have about height x height pixels; 0: the profile's"""
    seed: int = 0
    """seed of the world: its identities and cameras"""
    processes: int = 0
    """number of processes, which does not change the output; 0: one per core"""
    progress: bool = True
    """show progress bars"""

    def __call__(self) -> int:
        """Render what is missing."""
        from msinet.data.rendered import read_world
        from msinet.synthetic import SIZES, render

        if self.profile not in SIZES:
            raise unknown_name("profile of the rendered world", self.profile, SIZES)
        wanted = {
            "identities": self.identities,
            "test_identities": self.test_identities or self.identities,
            "images": self.images_per_identity,
            "test_images": self.test_images_per_identity or self.images_per_identity,
            "height": self.height,
        }
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value}
        sizes = {name: replace(size, **given) for name, size in SIZES[self.profile].items()}
        folders = render(
            self.root, sizes, names=self.datasets, seed=self.seed, processes=self.processes, progress=self.progress
        )
        for folder in folders:
            world = read_world(folder)
            assert world is not None
            print(f"{world['images']:>7} images: {folder}")
        root = shlex.quote(str(self.root))
        print(f"use them with --data-root {root}; look at them with msinet data show {root}")
        return 0


@dataclass(frozen=True)
class Show:
    """Draw contact sheets: images by identity, by camera and, for rendered data sets, by factor."""

    root: Annotated[Path, tyro.conf.Positional]
    """data root, or the folder of one data set"""
    datasets: tuple[str, ...] = ()
    """data sets to show; empty: all that are found"""
    selection: Annotated[NameOption, tyro.conf.OmitArgPrefixes] = field(default_factory=NameOption)
    out: Path = Path("sheets")
    """folder for the sheets"""
    rows: int = 10
    """identities or cameras on a sheet"""
    columns: int = 10
    """images in a row"""
    height: int = 128
    """height of an image on the sheet, in pixels"""

    def __call__(self) -> int:
        """Draw the sheets."""
        from msinet.data import load_dataset
        from msinet.data.check import recognised
        from msinet.data.own import notice
        from msinet.data.sheets import show

        if self.selection.name:
            notice(self.root, self.selection.name)
        for name in recognised(self.root, self.datasets):
            dataset = load_dataset(name, self.root, needs=("query", "gallery"))
            written = show(dataset, self.out, rows=self.rows, columns=self.columns, height=self.height)
            print("written: " + ", ".join(map(str, written)))
        return 0
