"""Activation maps of finished networks (Figures 1 and 4).

Records hold no feature maps. They are computed from a run's weights and the test images; nothing is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ablations.engine.store import Store
from msinet.data import Dataset
from msinet.data.decoding import decode
from msinet.data.transforms import normalize
from msinet.environment import pick_device
from msinet.errors import UserError
from msinet.models.heads import ReIDNet
from msinet.models.msinet import MSICell, operations_of
from reports.drawing import STYLE, Margins, image_grid, write_figure
from reports.ranked import load_run

#: Colours of a map over its image: dark to light for every kind of colour vision.
COLOURMAP = "inferno"


def energy(feature_map: Tensor) -> Tensor:
    """The activation map of each image: the sum of squares over the channels, scaled to [0, 1] within the image.

    This is the activation energy of attention transfer (Zagoruyko and Komodakis, 2017), the usual
    choice in re-identification; the paper does not define its maps. A constant map is 0.

    Args:
        feature_map: (B, C, H, W).

    Returns:
        (B, H, W).
    """
    squares = feature_map.double().square().sum(1)
    low, high = squares.amin((1, 2), keepdim=True), squares.amax((1, 2), keepdim=True)
    return ((squares - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)).float()


@torch.inference_mode()
def final_maps(network: nn.Module, images: Tensor) -> Tensor:
    """(B, H, W): the energy of the final map, which is pooled into the (global) feature.

    Raises:
        UserError: the network has no feature maps, such as the colour histogram.
    """
    if not isinstance(network, ReIDNet):
        raise UserError(f"{type(network).__name__} has no feature maps; choose another network, such as msinet")
    return energy(network.eval().backbone(images)[1])


@torch.inference_mode()
def cell_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """(B, H, W) for each MSI cell in order: the energy of its output.

    Raises:
        UserError: the network has no MSI cells.
    """
    cells = [module for module in network.modules() if isinstance(module, MSICell)]
    if not cells:
        raise UserError("only MSINet has MSI cells; choose msinet or a narrower one, such as msinet_x0_5")
    maps: list[Tensor] = []
    hooks = [cell.register_forward_hook(lambda _, __, output: maps.append(energy(output))) for cell in cells]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


@dataclass(frozen=True)
class QueryMaps:
    """Activation maps of some queries."""

    paths: tuple[str, ...]
    """paths of the images, relative to the set"""
    pixels: tuple[NDArray[np.uint8], ...]
    """the images in the size of the networks' input, (height, width, 3) each"""
    maps: dict[str, NDArray[np.float32]]
    """maps (images, H, W) in [0, 1] by name"""


def query_maps(
    store: Store, run_id: str, dataset: Dataset, queries: Sequence[int], name: str, device_name: str
) -> QueryMaps:
    """Maps of one finished run for some queries (positions in the set's first draw).

    Args:
        store: store that holds the run.
        run_id: a finished training.
        dataset: the run's test set.
        queries: as `reports.ranked.spread_queries` chooses them.
        name: name of the final map; empty: the maps after each MSI cell, named by number and genotype letters.
        device_name: cpu, cuda, cuda:N or auto.
    """
    network, height, width = load_run(store, run_id)
    images = [dataset.test[dataset.draws[0].query[query]] for query in queries]
    pixels = tuple(decode(image.path, height, width) for image in images)
    device = pick_device(device_name)
    network, batch = network.to(device), torch.stack([normalize(image) for image in pixels]).to(device)
    if name:
        maps = {name: final_maps(network, batch)}
    else:
        letters = list(operations_of(network).values())
        pairs = ["".join(letters[i : i + 2]) for i in range(0, len(letters), 2)]
        found = zip(pairs, cell_maps(network, batch), strict=True)
        maps = {f"cell {number}\n{pair}": one for number, (pair, one) in enumerate(found, 1)}
    paths = tuple(image.path.relative_to(dataset.root).as_posix() for image in images)
    return QueryMaps(paths, pixels, {key: one.cpu().numpy() for key, one in maps.items()})


def as_frame(seen: QueryMaps) -> pd.DataFrame:
    """One row per image, map and position in the map: image, map, y, x (from the top left) and value."""
    rows = []
    for name, maps in seen.maps.items():
        for path, one in zip(seen.paths, maps, strict=True):
            y, x = np.indices(one.shape)
            rows.append(
                pd.DataFrame(
                    {
                        "image": path,
                        "map": name.replace("\n", ": "),
                        "y": y.ravel(),
                        "x": x.ravel(),
                        "value": one.ravel(),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def overlay(pixels: NDArray[np.uint8], activation: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image in grey with its map, interpolated to the image's size, over it: (height, width, 3) in [0, 1]."""
    grown = (
        torch.nn.functional.interpolate(
            torch.from_numpy(activation)[None, None], pixels.shape[:2], mode="bicubic", align_corners=False
        )[0, 0]
        .clamp(0, 1)
        .numpy()
    )
    grey = (pixels / 255) @ np.array([0.299, 0.587, 0.114])
    mixed = 0.35 * grey[..., None] + 0.65 * mpl.colormaps[COLOURMAP](grown)[..., :3]
    result: NDArray[np.float32] = mixed.astype(np.float32)
    return result


def draw_maps(seen: QueryMaps, title: str, stem: Path, *, upright: bool) -> list[Path]:
    """The images and their maps. Each map is scaled from 0 to 1, so brightness compares positions, not networks.

    Args:
        seen: from `query_maps`, possibly of several networks.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
        upright: one image per column, maps below it (Figure 1); else one image per row, maps next to it (Figure 4).
    """
    lines = [("image", None), *seen.maps.items()]
    tall, wide = (len(lines), len(seen.pixels)) if upright else (len(seen.pixels), len(lines))
    longest = max(len(line) for name, _ in lines for line in name.splitlines())
    with mpl.rc_context(STYLE):
        figure, axes, bar = image_grid(
            tall,
            wide,
            seen.pixels[0].shape[:2],
            title,
            Margins(left=0.15 + 0.065 * longest if upright else 0.05, top=0.3 if upright else 0.85, right=0.55),
        )
        for place, (name, maps) in enumerate(lines):
            for number, pixels in enumerate(seen.pixels):
                axis = axes[place][number] if upright else axes[number][place]
                axis.imshow(pixels if maps is None else overlay(pixels, maps[number]), interpolation="nearest")
                size = "" if maps is None else f"\n{maps.shape[1]}x{maps.shape[2]}"
                if upright and number == 0:
                    axis.set_ylabel(name + size, rotation=0, ha="right", va="center")
                elif not upright and number == 0:
                    axis.set_title(name + size, loc="center", fontsize=7.5)
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), COLOURMAP)
        scale = figure.colorbar(colours, cax=bar, ticks=[0, 1])
        scale.ax.set_yticklabels(["low", "high"])
        scale.ax.spines[:].set_visible(False)
        return write_figure(figure, as_frame(seen), stem)
