"""Finished networks for figures of images."""

from dataclasses import dataclass

from ablations.engine.study import group_label
from msinet.data import Dataset
from reports.layout import build_table
from reports.results import Results
from reports.tables import network_of


@dataclass(frozen=True)
class FinishedNetwork:
    """A network whose trainings are finished."""

    label: str
    network: str
    """name of its card"""
    group: str
    """initial weights, as tables write them"""
    run_ids: tuple[str, ...]
    """one for each seed"""
    seeds: tuple[int, ...]


def finished_networks(results: Results, study: str) -> tuple[list[FinishedNetwork], Dataset]:
    """The finished networks of a figure and the set that they were tested on.

    If there are several groups, the last complete one is used: the pre-trained networks.

    Raises:
        UserError: a network is missing in every group; the message names the command that trains it.
        DataError: the images do not exist.
    """
    results.request.available_datasets()  # raises if the images do not exist
    table = build_table(results, study)
    for group in reversed(dict.fromkeys(row.group for row in table.rows)):
        rows = [row for row in table.rows if row.group == group]
        if all(cell.done for row in rows for cell in row.cells.values()):
            found = [
                FinishedNetwork(
                    table.label(row.factors),
                    network_of(row),
                    group_label(group),
                    cell.run_ids,
                    tuple(int(seed) for seed in cell.runs["seed"]),
                )
                for row in rows
                for cell in row.cells.values()
            ]
            return found, results.dataset(table.columns[0].test)
    lacking = [table.label(row.factors) for row in table.rows for cell in row.cells.values() if not cell.done]
    raise results.missing(study, f"training of {', '.join(dict.fromkeys(lacking))}")
