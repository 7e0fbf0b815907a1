"""The paper's numbers, addressed by the same coordinates as the studies' cells."""

from functools import cache
from importlib.resources import files

import pandas as pd

from reports.results import Factors, has

#: Groups of the suite that stand for another group of the paper.
STANDS_FOR = {"pretext": "pretrained"}


@cache
def paper_numbers(study: str) -> pd.DataFrame:
    """The paper's numbers of a table: group, factors (pairs), train, test, metric, value (per cent), origin.

    origin: "ran" if the paper's authors ran it, "cited" if they cite it, "cited?" if the paper leaves it open. The
    group is empty where the paper does not state the initial weights; factors leave out the width and the patch size.
    """
    with files("reports").joinpath("paper.csv").open(encoding="utf-8") as stream:
        numbers = pd.read_csv(stream, keep_default_na=False, dtype={"value": float})
    numbers = numbers[numbers["study"] == study].drop(columns="study").reset_index(drop=True)
    numbers["factors"] = numbers["factors"].map(lambda text: tuple(tuple(pair.split("=")) for pair in text.split(";")))
    return numbers


def of_group(numbers: pd.DataFrame, group: str) -> pd.DataFrame:
    """The numbers that belong next to a group; all of them if the paper leaves initial weights open."""
    if (numbers["group"] == "").any():
        return numbers
    return numbers[numbers["group"] == STANDS_FOR.get(group, group)]


def of_row(numbers: pd.DataFrame, factors: Factors) -> pd.DataFrame:
    """The numbers of a row. A narrower network has those of the full-width one."""
    return numbers[numbers["factors"].map(lambda stated: has(factors, stated)).astype(bool)]


def of_cell(numbers: pd.DataFrame, train: str, test: str) -> tuple[dict[str, float], str]:
    """Values by metric and their origin at a training and a test set; empty if the paper has none."""
    found = numbers[(numbers["train"] == train) & (numbers["test"] == test)]
    values = dict(zip(found["metric"], found["value"], strict=True))
    return values, "" if found.empty else str(found["origin"].iloc[0])
