"""Figures 1, 4 and 6: activation maps and ranked lists for some queries of the test set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from msinet.data import Dataset
from msinet.errors import UserError
from msinet.training.options import RankingOptions
from reports.distances import distance_data, draw_distances
from reports.given import given_lists
from reports.lists import draw_lists
from reports.maps import draw_maps, query_maps
from reports.networks import FinishedNetwork, finished_networks
from reports.ranked import load_run, ranked_lists, spread_queries
from reports.results import Results, file_name


def figure1(results: Results, folder: Path, images: int, run_options: RankingOptions) -> list[Path]:
    """Activation maps of networks on the same images, and distances to the nearest negatives."""
    networks, dataset = finished_networks(results, "figure1")
    queries = some_queries(dataset, images)
    seen = [
        query_maps(results.store, one.run_ids[0], dataset, queries, one.label, run_options.device) for one in networks
    ]
    maps = replace(seen[0], maps={name: maps for one in seen for name, maps in one.maps.items()})
    where, stem = trained_on(networks[0], dataset, results), folder / file_name("figure1", results.request)
    title = f"Figure 1, left: activation maps, {where}"
    written = draw_maps(maps, title, stem.with_name(f"{stem.name}-maps"), upright=True)
    data = distance_data(results.store, networks, dataset, run_options)
    title = f"Figure 1, right: distances of {data['query'].nunique()} queries, {where}"
    return written + draw_distances(data, title, stem.with_name(f"{stem.name}-distances"))


def figure4(results: Results, folder: Path, images: int, run_options: RankingOptions) -> list[Path]:
    """Activation maps after each MSI cell of MSINet."""
    networks, dataset = finished_networks(results, "figure4")
    queries = some_queries(dataset, images)
    maps = query_maps(results.store, networks[0].run_ids[0], dataset, queries, "", run_options.device)
    title = f"Figure 4: maps after each cell of {networks[0].label}, {trained_on(networks[0], dataset, results)}"
    return draw_maps(maps, title, folder / file_name("figure4", results.request), upright=False)


def figure6(results: Results, folder: Path, images: int, run_options: RankingOptions, length: int = 15) -> list[Path]:
    """Ranked lists of networks for the same queries."""
    networks, dataset = finished_networks(results, "figure6")
    queries = some_queries(dataset, images)
    lists = {
        one.label: ranked_lists(results, one.run_ids[0], dataset, queries, length, run_options) for one in networks
    }
    _, height, width = load_run(results.store, networks[0].run_ids[0])
    title = f"Figure 6: the {length} nearest images, {trained_on(networks[0], dataset, results)}"
    return draw_lists(lists, dataset, (height, width), title, folder / file_name("figure6", results.request))


def figure6_of(
    given: Sequence[Path], dataset: Dataset, folder: Path, images: int, length: int, run_options: RankingOptions
) -> list[Path]:
    """Ranked lists of given weights for the same queries of a data set."""
    found = given_lists(given, dataset, some_queries(dataset, images), length, run_options)
    lists = {one.label: one.lists for one in found}
    title = f"The {length} nearest images, {dataset.name} ({dataset.layout})"
    return draw_lists(lists, dataset, found[0].size, title, folder / f"figure6-{dataset.name}")


def some_queries(dataset: Dataset, images: int) -> list[int]:
    """Queries for a picture, evenly spaced through the set.

    Raises:
        UserError: `images` is less than 1.
    """
    if images < 1:
        raise UserError(f"--images must be at least 1, got {images}")
    return spread_queries(dataset, images)


def trained_on(network: FinishedNetwork, dataset: Dataset, results: Results) -> str:
    """Data, initial weights and profile of a picture's networks, for its title."""
    return f"{dataset.name} ({dataset.layout}), {network.group}, profile {results.request.profile}"
