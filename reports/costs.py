"""What accuracy costs, and what the machine would allow: figures of measured latencies."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from ablations.catalogue import Catalogue, Request
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import networks
from msinet.errors import UserError
from reports.figures import STYLE, add_title, looks, write_figure
from reports.placement import annotate
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
    try:
        table["label"] = [networks.label(str(text)) for text in table["model"]]
    except UserError as error:
        raise UserError(f"{path}: {error}; measure it again, or pass another file with --latency") from error
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
) -> pd.DataFrame:
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
        rows.append(
            {
                "group": row.group,
                "label": row.label,
                "mAP": place.values["mAP"][0],
                "ms": one["p50_ms"] / batch,
                "parameters": one["parameters"],
            }
        )
    if not rows:
        raise UserError(
            f"no network of {catalogue.name} has both a result on {column} and a latency; run the "
            "table, or python -m bench latency with networks as wide as its"
        )
    return pd.DataFrame(rows)


def draw_accuracy(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP against milliseconds an image; areas are parameters, the line joins what nothing else beats.

    Args:
        data: of `accuracy_data`.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    groups = list(data.groupby("group", sort=False))
    look = looks(data["label"])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(groups), figsize=(0.5 + 3.2 * len(groups), 2.6), squeeze=False, sharey=True, layout="constrained"
        )
        spread = max(1.0, data["mAP"].max() - data["mAP"].min())
        for axis, (group, part) in zip(axes[0], groups, strict=True):
            front = pareto(part["ms"], part["mAP"])
            axis.plot(part["ms"].iloc[front], part["mAP"].iloc[front], color="0.7", lw=1, zorder=0)
            for _, row in part.iterrows():
                colour, marker = look[str(row["label"])]
                axis.scatter(row["ms"], row["mAP"], s=_area(row["parameters"]), color=colour, marker=marker, alpha=0.8)
            axis.set(
                xlabel="milliseconds an image",
                xlim=(0, 1.2 * part["ms"].max()),
                ylim=(max(0, data["mAP"].min() - 0.25 * spread), data["mAP"].max() + 0.25 * spread),
            )
            axis.set_title(str(group))
            axis.grid()
            axis.set_axisbelow(True)
        axes[0][0].set_ylabel("mAP, %")
        add_title(figure, title)
        for axis, (_, part) in zip(axes[0], groups, strict=True):
            texts = [f"{row['label']}, {row['parameters'] / 1e6:.1f} M" for _, row in part.iterrows()]
            areas = [_area(parameters) for parameters in part["parameters"]]
            front = pareto(part["ms"], part["mAP"])
            annotate(
                axis,
                part["ms"].tolist(),
                part["mAP"].tolist(),
                texts,
                areas=areas,
                fontsize=7.5,
                line=(part["ms"].iloc[front], part["mAP"].iloc[front]),
            )
        return write_figure(figure, data, stem)


def _area(parameters: float) -> float:
    """Of a marker, in points squared."""
    return 20 + parameters / 2e5


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
    look = looks(data["label"])
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(3.8, 2.8), layout="constrained")
        low, high = 0.4 * data["intensity"].min(), 2.5 * max(data["intensity"].max(), peak / bandwidth)
        line = np.geomspace(low, high, 200)
        axis.plot(line, np.minimum(peak, line * bandwidth) / 1e9, color="0.4", lw=1.5)
        points = data.drop_duplicates("label")
        for _, row in points.iterrows():
            colour, marker = look[str(row["label"])]
            axis.plot(row["intensity"], row["rate"] / 1e9, marker, color=colour, ms=6, zorder=3)
        axis.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            xlabel="multiply-adds for each byte moved",
            ylabel="$10^9$ multiply-adds a second",
            # A decade at least, so that differences look as large as they are.
            ylim=(min(peak / 1e10, 0.5 * data["rate"].min() / 1e9), 1.6 * peak / 1e9),
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(10, (1, 2, 5)))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            side.set_minor_formatter(NullFormatter())
        axis.grid()
        axis.set_axisbelow(True)
        machine = environment["cpu"] if environment["device"] == "cpu" else environment["device"]
        axis.set_title(
            f"deployed, fp32, batch {data['batch'].iloc[0]}, {machine};\n"
            "line: what the machine can do, per cent: of that"
        )
        annotate(
            axis,
            points["intensity"].tolist(),
            (points["rate"] / 1e9).tolist(),
            [f"{row['label']} {row['share_of_roof']:.0%}" for _, row in points.iterrows()],
            areas=[36.0] * len(points),
            fontsize=7.5,
            line=(line, np.minimum(peak, line * bandwidth) / 1e9),
        )
        return write_figure(figure, data, stem)
