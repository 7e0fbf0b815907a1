"""What accuracy costs, and what the machine would allow: figures of measured latencies."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ablations.catalogue import Catalogue, Request
from bench.networks import LABELS
from msinet.errors import UserError
from reports.figures import COLOURS, STYLE, write_figure
from reports.tables import build_table


def read_latencies(path: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    """The table of `python -m bench latency`, and what it was measured on.

    Raises:
        UserError: no such file, or not one of these.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; python -m bench latency makes it")
    try:
        table = pd.read_csv(path)
        environment: dict[str, object] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} or the JSON beside it cannot be read ({error}); measure it again") from error
    missing = {"model", "form", "precision", "batch", "p50_ms", "macs", "parameters", "map_bytes"} - set(table)
    if missing:
        raise UserError(f"{path} has no column {', '.join(sorted(missing))}; python -m bench latency writes them")
    table["label"] = [LABELS.get(text, text) for text in table["model"]]
    return table, environment


def pareto(costs: "pd.Series[float]", gains: "pd.Series[float]") -> list[int]:
    """Positions of the points that no other beats in one without losing in the other, from cheap to dear."""
    order = np.lexsort((-gains.to_numpy(), costs.to_numpy()))
    front, best = [], -np.inf
    for place in order:
        if gains.iloc[place] > best:
            front.append(int(place))
            best = gains.iloc[place]
    return front


def accuracy_data(
    latencies: pd.DataFrame, catalogue: Catalogue, request: Request, column: str, form: str, batch: int
) -> pd.DataFrame:  # fmt: skip
    """One row per network that has both: group, label, mAP in per cent, milliseconds an image, parameters.

    Raises:
        UserError: nothing was measured in that form at that batch, or none of it has results.
    """
    chosen = latencies[(latencies["form"] == form) & (latencies["batch"] == batch) & (latencies["precision"] == "fp32")]
    if chosen.empty:
        raise UserError(f"no latency of form {form} at batch {batch}; measure it, or choose --form and --batch")
    by_label = chosen.set_index("label")
    rows = []
    for row in build_table(catalogue, request).rows:
        place = row.places.get(column)
        if place is None or "mAP" not in place.values or row.label not in by_label.index:
            continue
        one = by_label.loc[row.label]
        rows.append({
            "group": row.group, "label": row.label, "mAP": place.values["mAP"][0], "ms": one["p50_ms"] / batch,
            "parameters": one["parameters"],
        })  # fmt: skip
    if not rows:
        raise UserError(f"no network of {catalogue.name} has both a result on {column} and a latency; run the table")
    return pd.DataFrame(rows)


def draw_accuracy(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP against milliseconds an image; areas are parameters, the line joins what nothing else beats.

    Args:
        data: of `accuracy_data`.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    groups = list(data.groupby("group", sort=False))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(groups), figsize=(1 + 4 * len(groups), 3.4), squeeze=False, sharey=True, layout="constrained"
        )
        for axis, (group, part) in zip(axes[0], groups, strict=True):
            front = pareto(part["ms"], part["mAP"])
            axis.plot(part["ms"].iloc[front], part["mAP"].iloc[front], color="0.7", lw=1, zorder=0)
            axis.scatter(part["ms"], part["mAP"], s=20 + part["parameters"] / 1e5, color=COLOURS[0], alpha=0.6)
            for _, row in part.iterrows():
                axis.annotate(f"{row['label']}, {row['parameters'] / 1e6:.1f} M", (row["ms"], row["mAP"]),
                              xytext=(6, 6), textcoords="offset points", fontsize=7)  # fmt: skip
            axis.set(xlabel="milliseconds an image", ylabel="mAP, %", xlim=(0, 1.25 * part["ms"].max()))
            axis.set_title(str(group), loc="left")
        figure.suptitle(title, x=0.01, ha="left")
        return write_figure(figure, data, stem)


def draw_roofline(latencies: pd.DataFrame, environment: dict[str, object], stem: Path) -> list[Path]:
    """How near networks come to what the machine can do: multiply-adds a second against multiply-adds a byte.

    Bytes are those of the deployed network's maps and weights, a layer at a time.

    Args:
        latencies: of `read_latencies`.
        environment: with the machine's measured rates.
        stem: path without suffix for the .png, .svg and .csv.
    """
    peak, bandwidth = float(str(environment["macs_per_second"])), float(str(environment["bytes_per_second"]))
    data = latencies[(latencies["form"] == "deployed") & (latencies["precision"] == "fp32")].copy()
    if data.empty:
        raise UserError("no latency of the deployed form in fp32; measure it with python -m bench latency")
    data = data[data["batch"] == data["batch"].max()]
    data["intensity"] = data["macs"] * data["batch"] / (data["map_bytes"] * data["batch"] + data["weight_bytes"])
    data["rate"] = data["macs"] * data["images_per_second"]
    data["roof"] = np.minimum(peak, data["intensity"] * bandwidth)
    data["share_of_roof"] = data["rate"] / data["roof"]
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
        low, high = 0.5 * data["intensity"].min(), max(2 * data["intensity"].max(), 2 * peak / bandwidth)
        line = np.geomspace(low, high, 200)
        axis.plot(line, np.minimum(peak, line * bandwidth) / 1e9, color="0.4", lw=1.5)
        axis.scatter(data["intensity"], data["rate"] / 1e9, color=COLOURS[0], s=30, zorder=3)
        for _, row in data.drop_duplicates("label").iterrows():
            axis.annotate(f"{row['label']} {row['share_of_roof']:.0%}", (row["intensity"], row["rate"] / 1e9),
                          xytext=(5, -9), textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set(
            xscale="log", yscale="log", xlabel="multiply-adds for each byte moved", ylabel="10^9 multiply-adds a second"
        )
        machine = environment["cpu"] if environment["device"] == "cpu" else environment["device"]
        axis.set_title(
            f"deployed, batch {data['batch'].iloc[0]}, {machine}; per cent: of the roof", loc="left", fontsize=8,
        )  # fmt: skip
        return write_figure(figure, data, stem)
