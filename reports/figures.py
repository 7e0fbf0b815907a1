"""Figures from finished runs, each a PNG and an SVG with the CSV that it shows."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from ablations.table2 import row_label
from msinet.errors import UserError
from msinet.io import atomic_path, write_text
from reports.tables import Table, build_table

#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "0"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def curve_data(store: Store, catalogue: Catalogue, request: Request) -> pd.DataFrame:
    """mAP on the test set while training: one row per run and evaluated epoch.

    Columns: model, column (of the table), seed, step, mAP and R1 in per cent. Only runs that were evaluated
    on the way are in it (`--evaluate-every`); the row that learned nothing has a single step 0.

    Raises:
        UserError: no run of the request was evaluated on the way.
    """
    wanted = {run_id: column for row in build_table(catalogue, request).rows for column, place in row.places.items()
              for run_id in place.run_ids}  # fmt: skip
    frame = store.frame()
    rows = []
    for run_id, column in wanted.items():
        run = frame.loc[run_id]
        label = row_label(str(run["model"])).replace("_", " ")
        if not run["steps"]:
            rows.append({"model": label, "column": column, "seed": 0, "step": 0,
                         "mAP": 100 * run["mAP"], "R1": 100 * run["R1"]})  # fmt: skip
            continue
        history = pd.read_csv(store.run_folder(run_id) / "history.csv")
        if "mAP" not in history:
            continue
        history["step"] = history["steps"].cumsum()
        rows += [
            {"model": label, "column": column, "seed": run["seed"], "step": point["step"],
             "mAP": 100 * point["mAP"], "R1": 100 * point["R1"]}
            for _, point in history.dropna(subset="mAP").iterrows()
        ]  # fmt: skip
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
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(columns), figsize=(0.8 + 4.4 * len(columns), 3.2), squeeze=False, layout="constrained"
        )
        for axis, column in zip(axes[0], columns, strict=True):
            part = data[data["column"] == column]
            trained = part[part["step"] > 0]
            for colour, (model, lines) in zip(COLOURS, trained.groupby("model", sort=False), strict=False):
                for number, (_, line) in enumerate(lines.groupby("seed")):
                    axis.plot(line["step"], line["mAP"], "o-", ms=3, lw=1.2, color=colour, alpha=0.9,
                              label=str(model) if number == 0 else None)  # fmt: skip
            for _, level in part[part["step"] == 0].iterrows():
                axis.axhline(level["mAP"], color="0.4", ls="--", lw=1, label=f"{level['model']} (learns nothing)")
            axis.set(xlabel="training steps", ylabel="mAP on the test set, %", ylim=(0, None), xlim=(0, None))
            axis.set_title(column, loc="left")
            axis.legend(frameon=False, loc="lower right")
        figure.suptitle(title, x=0.01, ha="left")
        return write_figure(figure, data, stem)


def write_figure(figure: Figure, data: pd.DataFrame, stem: Path) -> list[Path]:
    """STEM.png, .svg and the .csv that they show."""
    for suffix in (".png", ".svg"):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=160, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.4g"))
    return [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]


def row_data(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """What `draw_rows` shows: a line per run with group, row, column, seed, R1 and mAP in per cent."""
    rows = []
    for row in table.rows:
        for column, place in row.places.items():
            for run_id, run in frame.loc[list(place.run_ids)].iterrows():
                rows.append({
                    "group": row.group, "row": row.label, "column": column, "seed": run["seed"], "run_id": run_id,
                    "R1": 100 * run["R1"], "mAP": 100 * run["mAP"],
                })  # fmt: skip
    return pd.DataFrame(rows)


def draw_rows(data: pd.DataFrame, title: str, baseline: str, stem: Path) -> list[Path]:
    """mAP of every row of an ablation, a dot per run and a bar at their mean, with the baseline row's mean as a line.

    There is a panel for each group and column.

    Args:
        data: of `row_data`, not empty.
        title: of the figure.
        baseline: the row that the others are compared with.
        stem: path without suffix for the .png, .svg and .csv.
    """
    rows = list(dict.fromkeys(data["row"]))
    panels = list(data.groupby(["group", "column"], sort=False))  # runs of different initial weights share no mean
    several = data["group"].nunique() > 1
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(2.6 + 3.2 * len(panels), 1.6 + 0.3 * len(rows)), squeeze=False, sharey=True,
            layout="constrained",
        )  # fmt: skip
        for axis, ((group, column), part) in zip(axes[0], panels, strict=True):
            means = part.groupby("row", sort=False)["mAP"].mean()
            sns.stripplot(
                part, x="mAP", y="row", order=rows, color=COLOURS[0], size=5, jitter=False, alpha=0.6, ax=axis
            )
            axis.plot(means.reindex(rows), range(len(rows)), "|", ms=14, mew=2, color=COLOURS[1])
            if baseline in means:
                axis.axvline(means[baseline], color="0.6", lw=1, ls="--", zorder=0)
            axis.set(xlabel="mAP, %", ylabel="", ylim=(len(rows) - 0.4, -0.6))
            axis.set_title(f"{column}, {group}" if several else column, loc="left", fontsize=8 if several else None)
            axis.grid(axis="y", color="0.92")
        figure.supxlabel("dot: a run; bar: the mean of a row; dashed: the baseline", fontsize=7, color="0.35")
        figure.suptitle(title, x=0.01, ha="left")
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
        figure, axes = plt.subplots(1, panels, figsize=(1 + 3.2 * panels, 3), squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], summary["vary"], strict=False):
            for state, colour in (("complete", COLOURS[0]), ("pruned", COLOURS[4])):
                part = trials[trials["state"] == state]
                if len(part):
                    sns.scatterplot(part, x=name, y="mAP", color=colour, s=36, label=state, ax=axis)
            axis.plot(summary["best"][name], 100 * summary["best_mAP"], "*", ms=14, color=COLOURS[1], label="best")
            axis.set(xlabel=name.replace("_", " "), ylabel="mAP on held-out identities, %")
            axis.legend(frameon=False)
        if importances:
            sns.barplot(x=list(importances.values()), y=[n.replace("_", " ") for n in importances], color=COLOURS[0],
                        ax=axes[0][-1])  # fmt: skip
            axes[0][-1].set(xlabel="share of the variance that it explains (PED-ANOVA)", ylabel="")
        figure.suptitle(
            f"Sweep on {summary['set']}, profile {summary['profile']}, {len(trials)} trials", x=0.01, ha="left"
        )
        return write_figure(figure, trials, stem)
