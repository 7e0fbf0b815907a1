"""Curves of finished trainings: loss, accuracy and learning rate, and mAP of runs made with --evaluate-every."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from ablations.engine.study import group_label
from reports.drawing import STYLE, add_legend, add_title, finish_axes, looks, write_figure
from reports.layout import build_table
from reports.results import Results, file_name
from reports.tables import network_of

#: Columns of a history that are drawn, and names of their axes.
TRAINING = {"loss": "training loss\n(all branches)", "accuracy": "training accuracy, %", "lr": "learning rate"}


def draw_study_curves(results: Results, name: str, folder: Path) -> list[Path]:
    """Training curves of a study, one figure per group, and curves of mAP if its runs were evaluated during training.

    Raises:
        UserError: no training is finished.
    """
    request = results.request
    stem, profile = folder / file_name(name, request), f"profile {' '.join((request.profile, *request.recipe))}"
    data = curve_data(results, name)
    written: list[Path] = []
    first = ~data["copied"] if not data["copied"].all() else True  # MS>M has the trainings of MS
    for group, part, one in by_group(data[(data["epoch"] > 0) & first], stem.with_name(f"{stem.name}-training")):
        written += draw_training(part, f"Training, {group}, {profile}", one)
    if data.loc[data["epoch"] > 0, "mAP"].notna().any():
        written += draw_curves(data, f"mAP while training, {profile}", stem.with_name(f"{stem.name}-curves"))
    else:
        print("no curve of mAP: no run was evaluated during training; run it with --evaluate-every N")
    return written


def curve_data(results: Results, name: str) -> pd.DataFrame:
    """Histories of a study's finished runs: one row per run and epoch, and one of epoch 0 per untrained run.

    Columns: group, row, network, column, seed, run_id, copied (True: the training of another column, ranked on another
    set), epoch, step (the last of the epoch), loss (mean over the epoch), accuracy (of the identity classifier on
    augmented training images), lr, mAP and R1 on the test set (NaN where it was not evaluated). Accuracies are in per
    cent.

    Raises:
        UserError: no training is finished.
    """
    table = build_table(results, name)
    columns = ["epoch", "step", "loss", "accuracy", "lr", "mAP", "R1"]
    parts = []
    for row in table.rows:
        about = {"group": group_label(row.group), "row": table.label(row.factors), "network": network_of(row)}
        for column, cell in row.cells.items():
            for _, run in cell.runs.iterrows():
                if run["steps"]:
                    history = results.history(run["run_id"])
                    history["step"] = history["steps"].cumsum()
                else:  # an untrained network has no history
                    history = pd.DataFrame([{"epoch": 0, "step": 0, "mAP": run["mAP"], "R1": run["R1"]}])
                run_about = {"column": column.label, "seed": run["seed"], "run_id": run["run_id"]}
                run_about["copied"] = run.get("same_weights") is True
                parts.append(history.reindex(columns=columns).assign(**about, **run_about))
    if not any(part["epoch"].iloc[0] for part in parts):
        raise results.missing(name)
    data = pd.concat([part.dropna(axis="columns", how="all") for part in parts], ignore_index=True)
    return data.reindex(columns=data.columns.union(columns, sort=False))  # mAP and R1 if no run was evaluated


def by_group(data: pd.DataFrame, stem: Path) -> list[tuple[str, pd.DataFrame, Path]]:
    """Each trained group with the untrained rows, and the stem of its figure; a single group keeps the stem.

    Args:
        data: with a column group.
        stem: path of the figure without suffix.
    """
    nothing = group_label("untrained")
    untrained = data["group"] == nothing
    groups = [str(group) for group in data["group"][~untrained].unique()]
    if len(groups) < 2:
        return [((groups or [nothing])[0], data, stem)]
    return [
        (group, data[untrained | (data["group"] == group)], stem.with_name(f"{stem.name}-{file_words(group)}"))
        for group in groups
    ]


def file_words(text: str) -> str:
    """A group as part of a file name."""
    return re.sub(r"[^\w]+", "-", text)


def draw_curves(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP against training steps, a line per run, with the untrained rows as dashed levels.

    Args:
        data: from `curve_data`.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    data = data.dropna(subset="mAP").drop(columns=["loss", "accuracy", "lr"])
    columns = list(dict.fromkeys(data["column"]))
    look = looks(dict(zip(data["row"], data["network"], strict=True)))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(columns), figsize=(0.6 + 3 * len(columns), 2.5), squeeze=False, layout="constrained"
        )
        for axis, column in zip(axes[0], columns, strict=True):
            part = data[data["column"] == column]
            for (row, _), line in part[part["step"] > 0].groupby(["row", "run_id"], sort=False):
                colour, marker = look[str(row)]
                axis.plot(line["step"], line["mAP"], marker=marker, ms=3.5, color=colour, alpha=0.9, label=str(row))
            for _, level in part[part["step"] == 0].iterrows():
                colour, _ = look[str(level["row"])]
                axis.axhline(level["mAP"], color=colour, ls="--", lw=1, label=f"{level['row']} (untrained)")
            axis.set(xlabel="training steps", ylim=(0, None), xlim=(0, None))
            axis.set_title(column)
            finish_axes(axis)
        axes[0][0].set_ylabel("mAP on the test set, %")
        handles = _handles(axes[0])
        axes[0][0].legend(handles.values(), handles.keys(), loc="best")
        add_title(figure, title)
        return write_figure(figure, data.drop(columns=["network", "copied"]), stem)


def draw_training(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """Loss, accuracy and learning rate against training steps: a line per run, a column of panels per task.

    Args:
        data: from `curve_data`, of one group.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    panels = list(data.groupby("column", sort=False))
    look = looks(dict(zip(data["row"], data["network"], strict=True)))
    size = (0.9 + 1.9 * len(panels), 1.2 + 1.3 * len(TRAINING))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(TRAINING), len(panels), figsize=size, squeeze=False, sharex="col", sharey="row", layout="constrained"
        )
        for place, (column, part) in enumerate(panels):
            for axis, name in zip(axes[:, place], TRAINING, strict=True):
                for (row, _), run in part.groupby(["row", "run_id"], sort=False):
                    colour, marker = look[str(row)]
                    style = {"marker": marker, "markevery": max(1, len(run) // 6), "ms": 3, "lw": 1.1}
                    axis.plot(run["step"], run[name], color=colour, label=str(row), **style)
                axis.grid(axis="y")
                axis.set_xlim(0, None)
            axes[0, place].set_title(str(column))
            axes[-1, place].set_xlabel("training steps")
        for axis, label in zip(axes[:, 0], TRAINING.values(), strict=True):
            axis.set_ylabel(label)
            axis.set_ylim(0, None)  # of the whole row, now that all of it is drawn
        figure.align_ylabels(axes[:, 0])
        add_legend(figure, _handles(axes[0]))
        add_title(figure, title)
        return write_figure(figure, data.drop(columns=["network", "copied", "mAP", "R1"]), stem)


def _handles(axes: Sequence[Axes]) -> dict[str, Artist]:
    """One line for each label."""
    return {str(line.get_label()): line for axis in axes for line in axis.lines}
