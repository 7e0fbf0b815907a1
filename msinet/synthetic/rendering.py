"""Writes the rendered sets to disk.

Each folder holds `factors.csv`, one row per image with the numbers behind it, and `world.json`, which records how the
set was rendered. A set is written to a hidden folder and renamed when it is complete; an interrupted rendering resumes.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from msinet.data.rendered import FACTORS, WORLD, read_world
from msinet.errors import UserError, unknown_name
from msinet.io import exclusive, write_csv, write_json, write_text
from msinet.progress import bar
from msinet.synthetic.cameras import draw_camera
from msinet.synthetic.groups import VERSION, Shot
from msinet.synthetic.plans import SETS, Size, folder_of
from msinet.synthetic.scene import photograph

#: Images that one process renders before it reports.
CHUNK = 48


def render(
    root: Path, size: Size, *, names: Sequence[str] = (), seed: int = 0, processes: int = 0, progress: bool = True
) -> list[Path]:
    """Render sets under `root`; those that are there already stay.

    Args:
        root: data root, made if missing.
        size: identities, images and pixels.
        names: market1501, msmt17, veri776, vehicleid, pretext; empty: all.
        seed: of the world. The bytes follow from seed, size and library versions, not from the processes.
        processes: that render; 0: one per core.
        progress: show a bar.

    Returns:
        The sets' folders.

    Raises:
        UserError: an unknown name, a negative number, a folder in the way that holds something else, or a disk
            that refuses.
        Busy: another process renders there.
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
        wanted = asdict(size)
        wanted["images_per_identity"] = float(wanted.pop("images"))  # `world.json` counts images under that name
        spec = {"set": name, "version": VERSION, "seed": seed, **wanted}
        folders.append(folder)
        if folder.exists():
            _same_or_refuse(folder, spec)
        else:
            todo.append((name, folder, spec))
    if todo:
        lock = exclusive(root / ".render.lock", f"rendering in {root}")
        with lock, _Pool(processes or os.cpu_count() or 1) as pool:
            for name, folder, spec in todo:
                if not folder.exists():  # rendered by another process meanwhile
                    _render_set(name, folder, spec, size, seed, pool, progress)
    return folders


def _same_or_refuse(folder: Path, spec: dict[str, Any]) -> None:
    found = read_world(folder)
    if found is None:
        raise UserError(f"{folder} exists and was not rendered by this command; choose another root")
    other = {k: found.get(k) for k, v in spec.items() if found.get(k) != v}
    if other:
        raise UserError(
            f"{folder} holds another rendering ({', '.join(f'{k} {v}' for k, v in other.items())}); "
            "choose another root, or delete that folder"
        )


def _render_set(
    name: str, folder: Path, spec: dict[str, Any], size: Size, seed: int, pool: "_Pool", progress: bool
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    parts = partial / "parts"
    try:
        if partial.is_dir() and not _goes_on(partial, spec):
            shutil.rmtree(partial)
        parts.mkdir(parents=True, exist_ok=True)
        write_json(partial / "spec.json", spec)
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
        digest = hashlib.sha256("".join(f"{row['path']} {row['digest']}\n" for row in rows).encode()).hexdigest()[:12]
        write_csv(partial / FACTORS, rows)
        for file, text in lists.items():
            write_text(partial / file, text)
        write_json(partial / WORLD, spec | {"images": len(shots), "fingerprint": digest})
        shutil.rmtree(parts)
        (partial / "spec.json").unlink()
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(
            f"cannot render into {partial}: {error}; free some space or choose another root. "
            "What is there stays, and the same command goes on"
        ) from error


def _goes_on(partial: Path, spec: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((partial / "spec.json").read_text(encoding="utf-8")) == spec)
    except (OSError, ValueError):
        return False


class _Pool:
    """Renders chunks in this process or in several, which start when there is enough to do."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def render(self, partial: Path, chunks: Sequence[tuple[int, Sequence[Shot]]], height: int) -> Iterator[int]:
        """Yield the number of images of each chunk as it is done."""
        if self.processes == 1 or len(chunks) < 6:  # starting processes would take longer
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
            raise UserError("a rendering process died (out of memory?); the same command goes on") from error


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops the others after their chunk


def _render_chunk(partial: Path, number: int, shots: Sequence[Shot], height: int) -> int:
    rows = []
    for shot in shots:
        camera = draw_camera(shot.style, shot.camera, shot.key[0])
        data, factors = photograph(
            shot.who, camera, np.random.default_rng(shot.key), height, square=shot.square, junk=shot.junk
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
                "digest": hashlib.sha256(data).hexdigest()[:16],
            }
        )
    write_csv(partial / "parts" / f"{number:06d}.csv", rows)
    return len(shots)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
