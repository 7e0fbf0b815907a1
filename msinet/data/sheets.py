"""Contact sheets: the images of a data set by identity, by camera and, for rendered sets, by factor."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps

from msinet.data.datasets import Dataset, Image
from msinet.data.decoding import decode
from msinet.data.factors import read_factors
from msinet.data.layouts import card_of
from msinet.errors import UserError
from msinet.io import atomic_path

INK, PAPER, PALE = (30, 30, 30), (255, 255, 255), (110, 110, 110)
#: Factors that get a row, with the unit of their values.
SHOWN = {
    "yaw": "°",
    "elevation": "°",
    "light": "",
    "occlusion": "",
    "zoom": "",
    "shift_x": "",
    "blur": " px",
    "noise": "",
    "resolution": "",
}


@dataclass(frozen=True)
class Line:
    """One row of a sheet."""

    label: str
    images: tuple[tuple[Path, str], ...]
    """files and their captions"""


def show(dataset: Dataset, out: Path, *, rows: int = 10, columns: int = 10, height: int = 128) -> list[Path]:
    """Draw the sheets of a data set and return their paths.

    Args:
        dataset: any set; a rendered one gets a sheet by factor as well.
        out: folder for NAME-identities.png, NAME-cameras.png, NAME-factors.png.
        rows: identities or cameras on a sheet.
        columns: images in a row.
        height: of an image in pixels.

    Raises:
        DataError: an image that cannot be decoded.
        UserError: `factors.csv` that does not fit the images.
    """
    if min(rows, columns) < 1 or height < 16:
        raise UserError(f"rows and columns must be at least 1 and height at least 16, got {rows}, {columns}, {height}")
    factors = read_factors(dataset)
    card = card_of(dataset.name)
    # Distractors have no identity to show.
    shown = {_key(i, dataset): i for i in dataset.test if i.identity != card.distractor}
    images = sorted(shown.values(), key=lambda i: i.path)
    sheets = {
        "identities": (
            by_identity(dataset, images, factors, rows, columns),
            "one identity per row, from different cameras",
        ),
        "cameras": (by_camera(dataset, images, rows, columns), "one camera per row, different identities"),
    }
    if factors:
        sheets["factors"] = (by_factor(images, factors, dataset.root, columns), "one factor per row, from low to high")
    width = height if card.kind == "vehicle" else height // 2
    written = []
    for kind, (lines, what) in sheets.items():
        path = out / f"{dataset.name}-{kind}.png"
        sheet = draw(lines, f"{dataset.name} ({dataset.layout}): {what}", height, width)
        with atomic_path(path) as temporary:
            sheet.save(temporary)
        written.append(path)
    return written


def _key(image: Image, dataset: Dataset) -> Hashable:
    """Equal for the copies of an image: VeRi's queries are also in its gallery, under the same name.

    In a list, different images may have the same name, in different folders.
    """
    return image.path if dataset.layout == "list" else (image.identity, image.camera, image.path.name)


def by_identity(
    dataset: Dataset, images: Sequence[Image], factors: dict[str, dict[str, str]], rows: int, columns: int
) -> list[Line]:
    """One row per identity, ordered by family if known; images of different cameras come first."""
    groups: dict[int, list[Image]] = {}
    for image in images:
        groups.setdefault(image.identity, []).append(image)

    def family(identity: int) -> tuple[int, int]:
        known = factors.get(groups[identity][0].path.relative_to(dataset.root).as_posix(), {})
        return int(known.get("family") or 0), identity

    lines = []
    for identity in sorted(groups, key=family)[:rows]:
        turn: dict[int, int] = {}
        order = []
        for image in groups[identity]:
            turn[image.camera] = turn.get(image.camera, 0) + 1
            order.append((turn[image.camera], image.camera, image))
        order.sort(key=lambda entry: entry[:2])
        label = _label("identity", dataset.identity_name(groups[identity][0]))
        label += f"\nfamily {family(identity)[0]}" if factors else ""
        captions = tuple((i.path, _caption("camera", dataset.camera_name(i))) for _, _, i in order[:columns])
        lines.append(Line(label, captions))
    return lines


def by_camera(dataset: Dataset, images: Sequence[Image], rows: int, columns: int) -> list[Line]:
    """One row per camera, with evenly spaced images, mostly of different identities."""
    groups: dict[int, list[Image]] = {}
    for image in images:
        groups.setdefault(image.camera, []).append(image)
    lines = []
    for camera in sorted(groups)[:rows]:
        chosen = _spaced(groups[camera], columns)
        name = dataset.camera_name(chosen[0])
        captions = tuple((i.path, _caption("id", dataset.identity_name(i))) for i in chosen)
        lines.append(Line(_label("camera", name) if name else "no camera\nnumbers", captions))
    return lines


def by_factor(images: Sequence[Image], factors: dict[str, dict[str, str]], root: Path, columns: int) -> list[Line]:
    """One row per factor, with images at evenly spaced values, including both ends."""
    lines = []
    for factor, unit in SHOWN.items():
        values = sorted((float(factors[i.path.relative_to(root).as_posix()][factor]), i.path) for i in images)
        if values[0][0] == values[-1][0]:
            continue
        numbers = np.array([value for value, _ in values])
        wanted = np.linspace(numbers[0], numbers[-1], columns)
        chosen = [values[int(abs(numbers - w).argmin())] for w in wanted]
        label = "yaw\n0: from the\nfront" if factor == "yaw" else factor.replace("_", " ")
        lines.append(Line(label, tuple((path, f"{value:g}{unit}") for value, path in chosen)))
    return lines


def _label(kind: str, name: str) -> str:
    """The label of a row; a name that is no number has a line of its own."""
    return f"{kind} {name}" if name.isdecimal() else f"{kind}\n{name[:14]}"


def _caption(kind: str, name: str) -> str:
    """The text below an image: a number with its kind, or a name, shortened to the width of an image."""
    return f"{kind} {name}" if name.isdecimal() else name[:12]


def _spaced(items: Sequence[Image], number: int) -> list[Image]:
    positions = np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int))
    return [items[i] for i in positions]


def draw(lines: Sequence[Line], title: str, height: int, width: int) -> PIL.Image.Image:
    """Draw a sheet: labels on the left, images of one size, captions below them."""
    left, top, gap, caption = 92, 34, 6, 17
    large, small = (PIL.ImageFont.load_default(size) for size in (16, 12))
    columns = max(len(line.images) for line in lines)
    size = (left + columns * (width + gap) + gap, top + len(lines) * (height + caption + gap))
    sheet = PIL.Image.new("RGB", (max(size[0], left + 8 * len(title)), size[1]), PAPER)
    pen = PIL.ImageDraw.Draw(sheet)
    pen.text((gap, 8), title, INK, large)
    for row, line in enumerate(lines):
        y = top + row * (height + caption + gap)
        pen.multiline_text((gap, y + 4), line.label, INK, small)
        for column, (path, text) in enumerate(line.images):
            x = left + column * (width + gap)
            picture = PIL.ImageOps.contain(PIL.Image.fromarray(decode(path)), (width, height))
            sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
            pen.text((x + width / 2, y + height + 1), text, PALE, small, anchor="ma")
    return sheet
