"""Figures from finished runs, each a PNG and an SVG with the CSV that it shows."""

import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from ablations.table2 import row_label
from msinet.errors import UserError
from msinet.io import atomic_path, write_text
from reports.tables import Table, baseline_of, build_table, headline, paper_name

#: Of every figure: text as small as a paper's captions, no frame beyond the axes, the same SVG from the same data.
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.titlesize": 8.5,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "0",
}
#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito), each with a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^vDP"
#: A network has one colour and one marker in every figure: those of its place here.
NETWORKS = ("MSINet", "OSNet", "CDNet", "ResNet50", "MSINet-SAM")


def looks(labels: Iterable[object]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label.

    Networks have their own, the row that learned nothing is grey, and others take what is left in order; when the
    colours are used up they come round again with other markers.
    """
    names = list(dict.fromkeys(map(str, labels)))
    known = {name: NETWORKS.index(paper_name(name)) for name in names if paper_name(name) in NETWORKS}
    free = [place for place in range(len(COLOURS)) if place not in known.values()] or list(range(len(COLOURS)))
    found: dict[str, tuple[str, str]] = {}
    others = 0
    for name in names:
        if name.startswith("colour histogram"):
            found[name] = "0.45", "X"
        elif name in known:
            found[name] = COLOURS[known[name]], MARKERS[known[name]]
        else:
            place, turn = free[others % len(free)], others // len(free)
            found[name] = COLOURS[place], MARKERS[(place + turn) % len(MARKERS)]
            others += 1
    return found


def curve_data(store: Store, catalogue: Catalogue, request: Request) -> pd.DataFrame:
    """mAP on the test set while training: one row per run and evaluated epoch.

    Columns: model, column (of the table), seed, step, mAP and R1 in per cent. Only runs that were evaluated
    on the way are in it (`--evaluate-every`); the row that learned nothing has a single step 0.

    Raises:
        UserError: no run of the request was evaluated on the way.
    """
    wanted = {
        run_id: column
        for row in build_table(catalogue, request).rows
        for column, place in row.places.items()
        for run_id in place.run_ids
    }
    frame = store.frame()
    rows = []
    for run_id, column in wanted.items():
        run = frame.loc[run_id]
        label = row_label(str(run["model"])).replace("_", " ")
        if not run["steps"]:
            rows.append(
                {"model": label, "column": column, "seed": 0, "step": 0, "mAP": 100 * run["mAP"], "R1": 100 * run["R1"]}
            )
            continue
        history = pd.read_csv(store.run_folder(run_id) / "history.csv")
        if "mAP" not in history:
            continue
        history["step"] = history["steps"].cumsum()
        rows += [
            {
                "model": label,
                "column": column,
                "seed": run["seed"],
                "step": point["step"],
                "mAP": 100 * point["mAP"],
                "R1": 100 * point["R1"],
            }
            for _, point in history.dropna(subset="mAP").iterrows()
        ]
    data = pd.DataFrame(rows)
    if data.empty or not (data["step"] > 0).any():
        raise UserError("no run of this request was evaluated on the way; run it with --evaluate-every N")
    return data


def draw_curves(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP against training steps, a line per seed, with the row that learned nothing as a dashed level.

    Args:
        data: of `curve_data`.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    columns = list(dict.fromkeys(data["column"]))
    look = looks(data["model"])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(columns), figsize=(0.6 + 3 * len(columns), 2.5), squeeze=False, layout="constrained"
        )
        for axis, column in zip(axes[0], columns, strict=True):
            part = data[data["column"] == column]
            for model, lines in part[part["step"] > 0].groupby("model", sort=False):
                colour, marker = look[str(model)]
                for number, (_, line) in enumerate(lines.groupby("seed")):
                    axis.plot(
                        line["step"],
                        line["mAP"],
                        marker=marker,
                        ms=3.5,
                        color=colour,
                        alpha=0.9,
                        label=str(model) if number == 0 else None,
                    )
            for _, level in part[part["step"] == 0].iterrows():
                axis.axhline(level["mAP"], color="0.4", ls="--", lw=1, label=f"{level['model']} (learns nothing)")
            axis.set(xlabel="training steps", ylim=(0, None), xlim=(0, None))
            axis.set_title(column)
            axis.grid(axis="y")
        axes[0][0].set_ylabel("mAP on the test set, %")
        axes[0][0].legend(loc="best")
        add_title(figure, title)
        return write_figure(figure, data, stem)


#: What a history holds of each epoch, and how its axis is called.
TRAINING = {"loss": "training loss\n(all branches)", "accuracy": "training accuracy, %", "lr": "learning rate"}


def training_data(store: Store, catalogue: Catalogue, request: Request) -> pd.DataFrame:
    """Loss, accuracy and learning rate of every training of a table: one row per run and epoch.

    Columns: group, row, column (of the table), seed, run_id, epoch, step (the last of the epoch), loss (the mean over
    the epoch), accuracy (of the identity classifier on augmented training images, in per cent) and lr.

    Raises:
        UserError: no training of the request is finished.
    """
    frame = store.frame()
    parts = []
    for row in build_table(catalogue, request).rows:
        for column, place in row.places.items():
            for run_id in place.run_ids:
                if not frame.loc[run_id, "steps"]:
                    continue  # what learns nothing has no history
                history = pd.read_csv(store.run_folder(run_id) / "history.csv")
                parts.append(
                    pd.DataFrame(
                        {
                            "group": row.group,
                            "row": row.label,
                            "column": column,
                            "seed": frame.loc[run_id, "seed"],
                            "run_id": run_id,
                            "epoch": history["epoch"],
                            "step": history["steps"].cumsum(),
                            "loss": history["loss"],
                            "accuracy": 100 * history["accuracy"],
                            "lr": history["lr"],
                        }
                    )
                )
    if not parts:
        raise missing(catalogue, request)
    return pd.concat(parts, ignore_index=True)


def by_group(data: pd.DataFrame, stem: Path) -> list[tuple[str, pd.DataFrame, Path]]:
    """Each group of initial weights, what learned nothing with it, and the name of its figure.

    A figure of a single group keeps the name.

    Args:
        data: with a column group.
        stem: of the figure.
    """
    untrained = data["group"] == "no training"
    groups = data["group"][~untrained].unique()
    if len(groups) < 2:
        return [(str(group), data, stem) for group in groups[:1]] or [("no training", data, stem)]
    found = []
    for group in groups:
        words = re.sub(r"[^\w]+", "-", group)
        found.append((group, data[untrained | (data["group"] == group)], stem.with_name(f"{stem.name}-{words}")))
    return found


def missing(catalogue: Catalogue, request: Request, what: str = "run") -> UserError:
    """The error for a figure whose runs are not there, with the command that makes them."""
    words = " ".join(request.as_args())
    return UserError(
        f"no finished {what} of {catalogue.name} in {request.store}; "
        f"python -m ablations run {catalogue.name} {words}".rstrip()
    )


def draw_training(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """Loss, accuracy and learning rate against training steps: a line per run, a column of panels per task.

    Args:
        data: of `training_data`, of one group of initial weights.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    panels = list(data.groupby("column", sort=False))
    look = looks(data["row"])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(TRAINING),
            len(panels),
            figsize=(0.9 + 1.9 * len(panels), 1.2 + 1.3 * len(TRAINING)),
            squeeze=False,
            sharex="col",
            sharey="row",
            layout="constrained",
        )
        for place, (column, part) in enumerate(panels):
            for axis, name in zip(axes[:, place], TRAINING, strict=True):
                for row, runs in part.groupby("row", sort=False):
                    colour, marker = look[str(row)]
                    for _, run in runs.groupby("run_id"):
                        every = max(1, len(run) // 6)
                        axis.plot(
                            run["step"],
                            run[name],
                            color=colour,
                            marker=marker,
                            markevery=every,
                            ms=3,
                            lw=1.1,
                            label=str(row),
                        )
                axis.grid(axis="y")
                axis.set_xlim(0, None)
            axes[0, place].set_title(str(column))
            axes[-1, place].set_xlabel("training steps")
        for axis, label in zip(axes[:, 0], TRAINING.values(), strict=True):
            axis.set_ylabel(label)
            axis.set_ylim(0, None)  # of the whole row, now that all of it is drawn
        figure.align_ylabels(axes[:, 0])
        handles = {line.get_label(): line for axis in axes[0] for line in axis.lines}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
        add_title(figure, title)
        return write_figure(figure, data, stem)


def title_lines(title: str, inches: float) -> list[str]:
    """The lines that a title takes in a figure of that width."""
    width = int(14.5 * inches)  # characters of this size to an inch
    return [line for part in title.splitlines() for line in textwrap.wrap(part, width)]


def add_title(figure: Figure, title: str) -> None:
    """A title on the left, in as many lines as the width asks for; a figure with a layout engine grows by them."""
    lines = title_lines(title, figure.get_figwidth())
    if figure.get_layout_engine():
        figure.set_figheight(figure.get_figheight() + 0.16 * (len(lines) - 1))
    # A layout engine finds the place, unless it is told one.
    top = {} if figure.get_layout_engine() else {"y": 1 - 0.06 / figure.get_figheight(), "va": "top"}
    figure.suptitle("\n".join(lines), x=0.01, ha="left", **top)


def image_grid(
    tall: int,
    wide: int,
    size: tuple[int, int],
    title: str,
    *,
    left: float,
    top: float,
    right: float = 0.05,
    below: float = 0.0,
    side: float = 0.78,
) -> tuple[Figure, list[list[Axes]], Axes]:
    """A figure of images of one size without gaps between them, with a title: it, its axes by row, axes for a bar.

    Args:
        tall: rows.
        wide: images in a row.
        size: (height, width) of an image, of which only the ratio counts.
        title: of the figure.
        left: inches beside the images for labels.
        top: inches above them for a title of one line and labels.
        right: inches beside them; room for a colour bar from 0.3 on.
        below: inches under every row for captions.
        side: inches of an image's longer side.
    """
    gap = 0.05
    height, width = side * min(1, size[0] / size[1]), side * min(1, size[1] / size[0])
    across = left + wide * (width + gap) + right
    top += 0.16 * (len(title_lines(title, across)) - 1)
    whole = across, top + tall * (height + below + gap)
    figure = plt.figure(figsize=whole)
    add_title(figure, title)

    def box(x: float, y: float, w: float, h: float) -> Axes:  # inches from the top left corner
        return figure.add_axes((x / whole[0], 1 - (y + h) / whole[1], w / whole[0], h / whole[1]))

    axes = [
        [box(left + x * (width + gap), top + y * (height + below + gap), width, height) for x in range(wide)]
        for y in range(tall)
    ]
    for axis in (one for row in axes for one in row):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    bar = box(left + wide * (width + gap) + 0.04, top, 0.09, whole[1] - top - gap - below)
    bar.set_visible(right >= 0.3)
    return figure, axes, bar


def write_figure(figure: Figure, data: pd.DataFrame, stem: Path) -> list[Path]:
    """STEM.png, .svg and the .csv that they show."""
    for suffix in (".png", ".svg"):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=200, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.4g"))
    return [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]


def row_data(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """What `draw_rows` and `draw_levels` show: a line per run.

    Columns: group, row, column, seed, run_id, metric (the one that the column is judged by), R1 and mAP in per cent,
    parameters (without classifiers) and macs.
    """
    rows = []
    for row in table.rows:
        for column, place in row.places.items():
            for run_id, run in frame.loc[list(place.run_ids)].iterrows():
                rows.append(
                    {
                        "group": row.group,
                        "row": row.label,
                        "column": column,
                        "seed": run["seed"],
                        "run_id": run_id,
                        "metric": headline(table.columns[column]),
                        "R1": 100 * run["R1"],
                        "mAP": 100 * run["mAP"],
                        "parameters": run["parameters_without_classifier"],
                        "macs": run["macs"],
                    }
                )
    return pd.DataFrame(rows)


def draw_rows(data: pd.DataFrame, title: str, baseline: str, stem: Path) -> list[Path]:
    """Accuracy of every row of an ablation as a difference to the baseline row: a panel for each group and column.

    A dot is a run, a bar the mean of a row's runs, which stands in numbers on the right; a grey line leads to it from
    the row that it is compared with. The metric is the one that the paper judges the column by.

    Args:
        data: of `row_data`, not empty.
        title: of the figure.
        baseline: the row that the others are compared with.
        stem: path without suffix for the .png, .svg and .csv.
    """
    rows = list(dict.fromkeys(data["row"]))
    panels = list(data.groupby(["group", "column"], sort=False))  # runs of different initial weights share no mean
    several = data["group"].nunique() > 1
    repeated = bool(data.groupby(["group", "column", "row"]).size().max() > 1)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(1 + 0.055 * max(map(len, rows)) + 2.3 * len(panels), 1.3 + 0.21 * len(rows)),
            squeeze=False,
            sharey=True,
            layout="constrained",
        )
        for axis, ((group, column), part) in zip(axes[0], panels, strict=True):
            metric = str(part["metric"].iloc[0])
            means = part.groupby("row", sort=False)[metric].mean().reindex(rows)
            if baseline in part["row"].to_numpy():
                axis.axvline(means[baseline], color="0.6", lw=0.8, ls="--", zorder=0)
                bases = [means.get(baseline_of(row, baseline), means[baseline]) for row in rows]
                axis.hlines(range(len(rows)), bases, means, color="0.8", lw=2, zorder=0)
            sns.stripplot(
                part,
                x=metric,
                y="row",
                order=rows,
                color=COLOURS[0],
                size=4.5,
                jitter=False,
                alpha=0.55 if repeated else 1,
                ax=axis,
            )
            if repeated:
                axis.plot(means, range(len(rows)), "|", ms=11, mew=2, color=COLOURS[1])
            for place, mean in enumerate(means):
                axis.text(
                    1.02,
                    place,
                    "-" if pd.isna(mean) else f"{mean:.1f}",
                    va="center",
                    fontsize=7.5,
                    transform=axis.get_yaxis_transform(),
                )
            axis.margins(x=0.12)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set(xlabel=f"{metric}, %", ylabel="", ylim=(len(rows) - 0.4, -0.6))
            axis.set_title(textwrap.fill(f"{column}, {group}", 26) if several else column)
            axis.grid(axis="y")
            axis.set_axisbelow(True)
            axis.tick_params(axis="y", length=0)
        mark = "dot: a run; bar and number: their mean" if repeated else "one run a row, so no spread is known"
        figure.supxlabel(f"{mark}; dashed: {baseline}", fontsize=7, color="0.35")
        add_title(figure, title)
        return write_figure(figure, data, stem)


@dataclass(frozen=True)
class Numbered:
    """Rows of an ablation that are levels of one number."""

    axis: str
    """name of the number"""
    pattern: re.Pattern[str]
    """of such rows; its group is the number"""
    unit: str = ""
    """after the number"""
    costs: bool = False
    """whether the number changes the network's size, which is then shown beside"""


#: Ablations that are drawn against a number.
NUMBERED = {
    "figure5a": Numbered("share of identities on both sides (overlap)", re.compile(r"TCM, overlap ([\d.]+)")),
    "figure5d": Numbered("scale ratio of the branches", re.compile(r"([\d.]+):1"), ":1", costs=True),
    "figure5e": Numbered("weight of spatial alignment", re.compile(r"weight ([\d.]+)")),
}


def draw_levels(data: pd.DataFrame, title: str, numbered: Numbered, stem: Path) -> list[Path]:
    """Accuracy against the number that an ablation varies, with other rows as dashed levels.

    There is a panel for each group and column. A dot is a run, the line goes through the means. Where the number
    changes the network's size, two more panels show its parameters and multiply-adds.

    Args:
        data: of `row_data`, not empty.
        title: of the figure.
        numbered: which rows are levels of what.
        stem: path without suffix for the .png, .svg and .csv.
    """
    number = data["row"].str.extract(f"^{numbered.pattern.pattern}$")[0].astype(float)
    data = data.assign(level=number)
    panels = list(data.groupby(["group", "column"], sort=False))
    sizes = {"parameters": ("parameters, M", 1e6), "macs": ("multiply-adds, $10^9$", 1e9)}
    costs = sizes if numbered.costs else {}
    several = data["group"].nunique() > 1
    wide = len(panels) + len(costs)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, wide, figsize=(0.9 + 2.4 * wide, 2.5), squeeze=False, layout="constrained")
        for axis, ((group, column), part) in zip(axes[0], panels, strict=False):
            metric = str(part["metric"].iloc[0])
            levels = part.dropna(subset="level").sort_values("level")
            means = levels.groupby("level")[metric].mean()
            axis.plot(means.index, means, "-", color=COLOURS[0], zorder=1)
            alpha = 0.7 if len(levels) > len(means) else 1
            axis.plot(levels["level"], levels[metric], "o", ms=4.5, color=COLOURS[0], alpha=alpha)
            others = part[part["level"].isna()].groupby("row", sort=False)[metric].mean()
            for colour, (row, mean) in zip(COLOURS[1:], others.items(), strict=False):
                axis.axhline(mean, color=colour, ls="--", lw=1.1)
                # At the end where the line through the means stays farther away.
                side = int(abs(means.iloc[-1] - mean) > abs(means.iloc[0] - mean))
                axis.annotate(
                    str(row),
                    (side, mean),
                    (2 - 4 * side, 2),
                    xycoords=("axes fraction", "data"),
                    ha="right" if side else "left",
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                    bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
                )
            axis.set(xlabel=numbered.axis, ylabel=f"{metric} on {column}, %", xticks=list(means.index))
            axis.margins(x=0.06, y=0.15)
            if several:
                axis.set_title(group)
        once = data.dropna(subset="level").drop_duplicates("level").sort_values("level")
        for axis, (name, (label, unit)) in zip(axes[0][len(panels) :], costs.items(), strict=True):
            values = once[name] / unit
            axis.plot(once["level"], values, "s-", ms=4, color="0.35")
            axis.set(xlabel=numbered.axis, ylabel=label, xticks=list(once["level"]), ylim=(0, 1.1 * values.max()))
            axis.margins(x=0.06)
        for axis in axes[0]:
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}{numbered.unit}")
            axis.grid(axis="y")
            axis.set_axisbelow(True)
        several_runs = data.groupby(["group", "column", "row"]).size().max() > 1
        mark = "dot: a run; line: the mean" if several_runs else "one run a point, so no spread is known"
        figure.supxlabel(mark, fontsize=7, color="0.35")
        add_title(figure, title)
        return write_figure(figure, data, stem)


def draw_sweep(outcome: Path, stem: Path) -> list[Path]:
    """The trials of a sweep against each setting that it varied, and how much each setting mattered.

    Args:
        outcome: JSON file of `python -m ablations sweep`, with its CSV beside it.
        stem: path without suffix for the .png, .svg and .csv.

    Raises:
        UserError: no such sweep.
    """
    if not outcome.exists():
        raise UserError(f"{outcome} does not exist; python -m ablations sweep makes it")
    summary: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    trials = pd.read_csv(outcome.with_suffix(".csv"))
    trials["mAP"] *= 100
    importances: dict[str, float] = summary["importances"]
    panels = len(summary["vary"]) + bool(importances)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(0.9 + 2.6 * panels, 2.5), squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], summary["vary"], strict=False):
            for state, colour, marker in (("complete", COLOURS[0], "o"), ("pruned", COLOURS[4], "v")):
                part = trials[trials["state"] == state]
                if len(part):
                    axis.plot(part[name], part["mAP"], marker, ms=5, color=colour, label=f"{state} trial")
            axis.plot(summary["best"][name], 100 * summary["best_mAP"], "*", ms=12, color=COLOURS[1], label="best")
            axis.set(xlabel=name.replace("_", " "), ylabel="mAP on held-out identities, %")
            axis.margins(y=0.12)
            axis.grid(axis="y")
            axis.set_axisbelow(True)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        if importances:
            sns.barplot(
                x=list(importances.values()),
                y=[n.replace("_", " ") for n in importances],
                color=COLOURS[0],
                ax=axes[0][-1],
            )
            axes[0][-1].set(xlabel="share of the variance that it explains (PED-ANOVA)", ylabel="")
        add_title(figure, f"Sweep on {summary['set']}, profile {summary['profile']}, {len(trials)} trials")
        return write_figure(figure, trials, stem)
