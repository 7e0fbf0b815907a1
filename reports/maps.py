"""Where networks look: activation maps (Figures 1 and 4), and how far they push negatives away (Figure 1, right).

Records hold no feature maps. They are made here from a finished run's own weights and the test images of its set;
nothing is trained. The features behind the distances are kept in the store (`reports.ranked.embeddings`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from msinet.data import Dataset, load_dataset
from msinet.data.loading import decode
from msinet.data.transforms import normalize
from msinet.environment import pick_device
from msinet.errors import UserError
from msinet.models.heads import ReIDNet
from msinet.models.interactions import LETTERS
from msinet.models.msinet import MSICell
from msinet.retrieval import top_k
from msinet.training.options import RunOptions
from reports.figures import STYLE, add_title, image_grid, looks, missing, write_figure
from reports.ranked import embeddings, load_run
from reports.tables import build_table

#: Negatives whose mean distance Figure 1 shows.
NEAREST = 10
#: Of a map over its image: dark to light in every colour vision.
COLOURMAP = "inferno"
#: Of the lines of networks in one plot.
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Looked:
    """A network of a figure."""

    label: str
    group: str
    """initial weights"""
    run_ids: tuple[str, ...]
    """one for each seed, the first seed first"""


def networks(catalogue: Catalogue, request: Request) -> tuple[list[Looked], Dataset]:
    """The finished networks of a figure and the set that they were tested on.

    Where there are networks of several initial weights, those of the last group that is whole: the pre-trained ones.

    Raises:
        UserError: a network is missing in every group; the message names the command that trains it.
        DataError: the images are not there.
    """
    request.available_datasets()  # before anything else, whether the images are there
    table = build_table(catalogue, request)
    frame = Store(request.store).frame()
    for group in reversed(dict.fromkeys(row.group for row in table.rows)):
        places = {row.label: place for row in table.rows if row.group == group for place in row.places.values()}
        if all(place.run_ids for place in places.values()):
            found = [Looked(label, group, place.run_ids) for label, place in places.items()]
            target = str(frame.loc[found[0].run_ids[0], "target"])
            return found, load_dataset(target, request.root)
    lacking = [row.label for row in table.rows for place in row.places.values() if not place.run_ids]
    raise missing(catalogue, request, f"training of {', '.join(dict.fromkeys(lacking))}")


def energy(feature_map: Tensor) -> Tensor:
    """The activation map of each image: the sum of squares over the channels, scaled to [0, 1] within the image.

    This is the energy by which attention is transferred between networks (Zagoruyko and Komodakis, 2017) and by which
    maps of re-identification networks are usually shown; the paper does not say which it shows. A map that is the
    same everywhere is 0.

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
    """(B, H, W): the energy of the final map, the one that is pooled into the (global) feature.

    Raises:
        UserError: a network without maps, such as the colour histogram.
    """
    if not isinstance(network, ReIDNet):
        raise UserError(f"{type(network).__name__} has no feature maps; choose a network that has, such as msinet")
    return energy(network.eval().backbone(images)[1])


@torch.inference_mode()
def cell_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """(B, H, W) for each MSI cell in order: the energy of its output.

    Raises:
        UserError: a network without MSI cells.
    """
    cells = [module for module in network.modules() if isinstance(module, MSICell)]
    if not cells:
        raise UserError("only MSINet has MSI cells; choose a model of its family, such as msinet or msinet_x0_5")
    maps: list[Tensor] = []
    hooks = [cell.register_forward_hook(lambda _, __, output: maps.append(energy(output))) for cell in cells]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


@dataclass(frozen=True)
class Seen:
    """What networks make of some queries."""

    paths: tuple[str, ...]
    """of the images, relative to the set"""
    pixels: tuple[NDArray[np.uint8], ...]
    """the images as the networks get them, (height, width, 3) each"""
    maps: dict[str, NDArray[np.float32]]
    """activation maps (images, H, W) in [0, 1], by what stands beside them"""


def look(
    store: Store, run_id: str, dataset: Dataset, queries: Sequence[int], name: str, run_options: RunOptions
) -> Seen:
    """Some queries (positions in the set's first draw) and the maps of one finished run.

    Args:
        store: that holds the run.
        run_id: a finished training.
        dataset: the run's test set.
        queries: as `reports.ranked.spread_queries` chooses them.
        name: what the final map is called; empty: the maps after each MSI cell instead, called by number and letters.
        run_options: device.
    """
    network, height, width = load_run(store, run_id)
    images = [dataset.test[dataset.draws[0].query[query]] for query in queries]
    pixels = tuple(decode(image.path, height, width) for image in images)
    device = pick_device(run_options.device)
    network, batch = network.to(device), torch.stack([normalize(image) for image in pixels]).to(device)
    if name:
        maps = {name: final_maps(network, batch)}
    else:
        letters = [LETTERS[type(module)] for module in network.modules() if type(module) in LETTERS]
        pairs = ["".join(letters[i : i + 2]) for i in range(0, len(letters), 2)]
        found = zip(pairs, cell_maps(network, batch), strict=True)
        maps = {f"cell {number}\n{pair}": one for number, (pair, one) in enumerate(found, 1)}
    paths = tuple(image.path.relative_to(dataset.root).as_posix() for image in images)
    return Seen(paths, pixels, {key: one.cpu().numpy() for key, one in maps.items()})


def as_frame(seen: Seen) -> pd.DataFrame:
    """One row per image, map and place of the map: image, map, y, x (from the top left) and value."""
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


def draw_maps(seen: Seen, title: str, stem: Path, *, upright: bool) -> list[Path]:
    """The images and their maps; each map runs from 0 to 1 by itself, so brightness says where, not how much.

    Args:
        seen: of `look`, possibly of several networks.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
        upright: one image to a column, with its maps below it (Figure 1); else one to a row, maps beside (Figure 4).
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
            right=0.55,
            left=0.15 + 0.065 * longest if upright else 0.05,
            top=0.3 if upright else 0.85,
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


# --- Distances -----------------------------------------------------------------------------------


def nearest_negatives(features: NDArray[np.float32], dataset: Dataset, count: int = NEAREST) -> pd.DataFrame:
    """How far each query of the first draw is from other identities and from its own.

    Args:
        features: (N, D), a row per test image.
        dataset: whose test images they are. Junk is no part of it; distractors are negatives.
        count: of the negatives that are nearest to a query; all there are where the gallery has fewer.

    Returns:
        One row per query with a match: query (its path), negatives and positives (the mean Euclidean distance between
        unit features, in [0, 2], to the `count` nearest gallery images of other identities, and to all of the query's
        own that the protocol leaves in), and ratio, the first over the second (NaN where the second is 0).
    """
    draw = dataset.draws[0]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    identities = np.array([image.identity for image in dataset.test])
    cameras = np.array([image.camera for image in dataset.test])
    same = np.zeros(len(identities), int)  # one camera for all: everything of the query's identity is left out
    _, squares = top_k(
        unit[draw.query],
        unit[draw.gallery],
        min(count, len(draw.gallery)),
        query_ids=identities[draw.query],
        gallery_ids=identities[draw.gallery],
        query_cameras=same[draw.query],
        gallery_cameras=same[draw.gallery],
    )
    rows = []
    for query, found in zip(draw.query, np.sqrt(squares), strict=True):
        own = draw.gallery[identities[draw.gallery] == identities[query]]
        if dataset.remove_same_camera:
            own = own[cameras[own] != cameras[query]]
        found = found[np.isfinite(found)]
        if not len(own) or not len(found):
            continue
        positives = float(np.linalg.norm(unit[own] - unit[query], axis=1).mean())
        rows.append(
            {
                "query": dataset.test[query].path.relative_to(dataset.root).as_posix(),
                "negatives": float(found.mean()),
                "positives": positives,
                "ratio": float(found.mean()) / positives if positives else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def distance_data(store: Store, looked: Sequence[Looked], dataset: Dataset, run_options: RunOptions) -> pd.DataFrame:
    """`nearest_negatives` of every seed of some networks, with columns network and seed (0 is the first)."""
    parts = []
    for network in looked:
        for seed, run_id in enumerate(network.run_ids):
            features = embeddings(store, run_id, dataset, device=run_options.device, progress=run_options.progress)
            parts.append(nearest_negatives(features, dataset).assign(network=network.label, seed=seed))
    data = pd.concat(parts, ignore_index=True)
    return data[["network", "seed", "query", "negatives", "positives", "ratio"]]


def draw_distances(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """Distributions over the queries: the distance to the nearest negatives, as it is and over that to the positives.

    The paper shows the first alone. How far apart a network keeps images at all depends on its neck, so distances of
    two networks compare only with others of their own: the second is 1 where the nearest negatives are as far as the
    matches, and more where they are farther.

    Args:
        data: of `distance_data`.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    colours = looks(data["network"])
    panels = {
        "negatives": f"mean distance to the {NEAREST} nearest negatives",
        "ratio": "the same over the mean distance to the positives",
    }
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.5), layout="constrained")
        for axis, (name, label) in zip(axes, panels.items(), strict=True):
            known = data.dropna(subset=name)
            # Beyond the last bin lie the few queries whose matches are nearly the same image.
            bins = np.linspace(known[name].min(), known[name].quantile(0.99), 31)
            for style, (network, part) in zip(STYLES, known.groupby("network", sort=False), strict=False):
                colour, _ = colours[str(network)]
                shown = part[name].clip(upper=bins[-1])
                weights = np.full(len(part), 100 / len(part))
                axis.hist(shown, bins, weights=weights, histtype="stepfilled", color=colour, alpha=0.2)
                axis.hist(shown, bins, weights=weights, histtype="step", color=colour, ls=style, lw=1.3)
                axis.axvline(
                    part[name].median(),
                    color=colour,
                    ls=style,
                    lw=1,
                    label=f"{network}, median {part[name].median():.2f}",
                )
            axis.set(xlabel=label, ylabel="queries, %")
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=2.2)
        axes[1].axvline(1, color="0.6", lw=0.8, zorder=0)
        add_title(figure, title)
        return write_figure(figure, data, stem)
