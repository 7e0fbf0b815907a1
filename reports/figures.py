"""Figures from finished runs, each a PNG and an SVG with the CSV that it shows."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from ablations.table2 import row_label
from msinet.errors import UserError
from msinet.io import atomic_path, write_text
from reports.tables import build_table

#: Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
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
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "0"}):
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
        for suffix in (".png", ".svg"):
            with atomic_path(stem.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, dpi=160, metadata={"Date": None} if suffix == ".svg" else None)
        plt.close(figure)
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.3f"))
    return [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]
