"""Writes the rendered sets to disk.

Each folder holds `factors.csv`, one row per image with the numbers behind it, and `world.json`, which records how the
set was rendered. A set is written to a hidden folder and renamed when it is complete; an interrupted rendering resumes.

A set's fingerprint is the hash of its parameters and `VERSION`, so it is the same on every machine. The bytes of the
images can differ: they depend on the libraries that filter and encode them. Before rendering, `check_renderer` compares
the colours of reference images with those of this version; `msinet.data.rendered` checks a set when it is loaded.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from msinet.data.rendered import FACTORS, SAMPLES, TOLERANCE, WORLD, read_world, statistics
from msinet.errors import UserError, unknown_name
from msinet.io import exclusive, write_csv, write_json, write_text
from msinet.progress import bar
from msinet.synthetic.cameras import draw_camera
from msinet.synthetic.groups import VERSION, Shot, draw_group
from msinet.synthetic.plans import SETS, Size, folder_of
from msinet.synthetic.scene import photograph
from msinet.synthetic.solids import Colour

#: Columns of `factors.csv` with the colours of an image.
STATISTICS = ("mean_red", "mean_green", "mean_blue", "std_red", "std_green", "std_blue")
#: Images that a process renders per task.
CHUNK = 48


#: Reference images of each style.
REFERENCES = 6
#: Their mean red, green and blue, from 0 to 255. Run `reference_colours` again when `VERSION` changes.
EXPECTED: dict[str, tuple[float, float, float]] = {
    "market1501": (116.54, 107.6, 103.43),
    "msmt17": (112.32, 100.8, 104.91),
    "veri776": (136.26, 135.82, 129.74),
    "vehicleid": (98.76, 84.73, 87.82),
    "pretext person": (112.01, 106.77, 108.41),
    "pretext vehicle": (95.78, 85.56, 107.33),
}


def render(
    root: Path,
    sizes: Size | Mapping[str, Size],
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    processes: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Render sets under `root`; sets that exist are kept.

    Args:
        root: data root, created if missing.
        sizes: identities, images and pixels of every set, or of each by name.
        names: market1501, msmt17, veri776, vehicleid, pretext; empty: all.
        seed: of the world. Output depends on seed and size, not on the number of processes.
        processes: number of rendering processes; 0: one per core.
        progress: show a bar.

    Returns:
        The sets' folders.

    Raises:
        UserError: an unknown name, a negative number, an existing folder with other contents, a failure to write, or
            library versions that give other images.
        Busy: another process renders under `root`.
    """
    for name in names:
        if name not in SETS:
            raise unknown_name("rendered set", name, SETS)
    for what, number in (("seed", seed), ("processes", processes)):
        if number < 0:
            raise UserError(f"world: {what} must be at least 0, got {number}")
    todo = []
    folders = []
    for name in names or tuple(SETS):
        folder = root / folder_of(name)
        size = sizes if isinstance(sizes, Size) else sizes[name]
        description = describe(name, size, seed)
        folders.append(folder)
        if folder.exists():
            _check_same(folder, description)
        else:
            todo.append((name, folder, description, size))
    if todo:
        check_renderer()
        lock = exclusive(root / ".render.lock", f"rendering in {root}")
        with lock, _Pool(processes or os.cpu_count() or 1) as pool:
            for name, folder, description, size in todo:
                if not folder.exists():  # rendered by another process meanwhile
                    _render_set(name, folder, description, size, seed, pool, progress)
    return folders


def describe(name: str, size: Size, seed: int) -> dict[str, Any]:
    """Everything that identifies a rendered set, and its fingerprint."""
    numbers = {
        "identities": size.identities,
        "test_identities": size.test_identities,
        "images_per_identity": float(size.images),  # `world.json` counts images as "images"
        "test_images_per_identity": float(size.test_images),
        "height": size.height,
    }
    description = {"set": name, "version": VERSION, "seed": seed, **numbers}
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return description | {"fingerprint": digest[:12]}


def reference_colours(style: str) -> Colour:
    """Mean red, green and blue of the reference images of a style, from 0 to 255."""
    group = draw_group(style, 0, 4, 4, 0)
    means = []
    for sighting in group.sightings[:: len(group.sightings) // REFERENCES][:REFERENCES]:
        shot = group.shot(0, sighting, (), "", 0)
        camera = draw_camera(style, shot.camera, 0)
        data, _ = photograph(shot.subject, camera, np.random.default_rng(shot.key), 48)
        means.append(statistics(data)[:3])
    red, green, blue = np.mean(means, 0).round(2).tolist()
    return red, green, blue


def check_renderer() -> None:
    """Compare the mean colours of reference images with those of this version.

    Raises:
        UserError: they differ, so sets with the same fingerprint would differ too.
    """
    for style, expected in EXPECTED.items():
        found = reference_colours(style)
        if max(abs(a - b) for a, b in zip(found, expected, strict=True)) > TOLERANCE:
            raise UserError(
                f"reference images of {style} have mean colour {found} here instead of {expected} (tolerance "
                f"{TOLERANCE:g}), so the rendered world would not be version {VERSION}; install other "
                f"versions of NumPy and Pillow (here {np.__version__} and {PIL.__version__})"
            )


def _check_same(folder: Path, description: dict[str, Any]) -> None:
    found = read_world(folder)
    if found is None:
        raise UserError(f"{folder} exists and was not rendered by this command; choose another root")
    other = {k: found.get(k) for k, v in description.items() if found.get(k) != v}
    if other:
        raise UserError(
            f"{folder} holds another rendering ({', '.join(f'{k} {v}' for k, v in other.items())}); "
            "choose another root, or delete that folder"
        )


def _render_set(
    name: str, folder: Path, description: dict[str, Any], size: Size, seed: int, pool: "_Pool", progress: bool
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    parts = partial / "parts"
    try:
        if partial.is_dir() and not _resumable(partial, description):
            shutil.rmtree(partial)
        parts.mkdir(parents=True, exist_ok=True)
        write_json(partial / "spec.json", description)
        shots, lists = SETS[name](size, seed)
        for path in sorted({os.path.dirname(p) for shot in shots for p in shot.paths}):
            (partial / path).mkdir(parents=True, exist_ok=True)
        chunks = [(number, shots[i : i + CHUNK]) for number, i in enumerate(range(0, len(shots), CHUNK))]
        missing = [(number, chunk) for number, chunk in chunks if not (parts / f"{number:06d}.csv").exists()]
        meter = bar(
            desc=f"rendering {name}",
            total=len(shots),
            unit="img",
            disable=not progress,
            initial=len(shots) - sum(len(chunk) for _, chunk in missing),
        )
        with meter:
            for done in pool.render(partial, missing, size.height):
                meter.update(done)
        rows = [row for number, _ in chunks for row in _read(parts / f"{number:06d}.csv")]
        write_csv(partial / FACTORS, rows)
        for file, text in lists.items():
            write_text(partial / file, text)
        write_json(partial / WORLD, description | {"images": len(shots), **_summary(rows)})
        shutil.rmtree(parts)
        (partial / "spec.json").unlink()
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(
            f"cannot render into {partial}: {error}; free some space or choose another root. "
            "Finished images are kept; run the same command to resume"
        ) from error


def _summary(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Mean and standard deviation of all pixels by channel, every image with the same weight, and samples."""
    columns = np.array([[float(row[name]) for name in STATISTICS] for row in rows])
    mean, spread = columns[:, :3], columns[:, 3:]
    overall = mean.mean(0)
    variance = (spread**2 + mean**2).mean(0) - overall**2
    chosen = np.unique(np.linspace(0, len(rows) - 1, SAMPLES).round().astype(int))
    return {
        "mean": overall.round(2).tolist(),
        "std": np.sqrt(variance).round(2).tolist(),
        "samples": {rows[i]["path"]: mean[i].tolist() for i in chosen},
    }


def _resumable(partial: Path, description: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((partial / "spec.json").read_text(encoding="utf-8")) == description)
    except (OSError, ValueError):
        return False


class _Pool:
    """Renders chunks in this process, or in several if there are enough chunks."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def render(self, partial: Path, chunks: Sequence[tuple[int, Sequence[Shot]]], height: int) -> Iterator[int]:
        """Render chunks and yield the number of images of each when it is finished."""
        if self.processes == 1 or len(chunks) < 6:  # starting processes takes longer
            for number, chunk in chunks:
                yield _render_chunk(partial, number, chunk, height)
            return
        if self.executor is None:
            self.executor = ProcessPoolExecutor(self.processes, get_context("spawn"), _ignore_ctrl_c)
        try:
            tasks = [self.executor.submit(_render_chunk, partial, n, chunk, height) for n, chunk in chunks]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise UserError("a rendering process died (out of memory?); run the same command to resume") from error


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops them after their chunk


def _render_chunk(partial: Path, number: int, shots: Sequence[Shot], height: int) -> int:
    rows = []
    for shot in shots:
        camera = draw_camera(shot.style, shot.camera, shot.key[0])
        data, factors = photograph(
            shot.subject, camera, np.random.default_rng(shot.key), height, square=shot.square, junk=shot.junk
        )
        for path in shot.paths:
            (partial / path).write_bytes(data)
        rows.append(
            {
                "path": shot.paths[0],
                "split": shot.split,
                "identity": shot.identity,
                "camera": shot.camera,
                "family": shot.family,
                **factors,
                **dict(zip(STATISTICS, statistics(data), strict=True)),
            }
        )
    write_csv(partial / "parts" / f"{number:06d}.csv", rows)
    return len(shots)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
