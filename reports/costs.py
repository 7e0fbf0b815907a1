"""Figures of measured latencies: accuracy against cost, and the roofline of the machine."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ablations.engine.reference import reference_folder
from ablations.engine.study import group_label
from bench.networks import label
from msinet.errors import UserError
from msinet.models.registry import split_name
from reports.drawing import STYLE, add_title, finish_axes, looks, write_figure
from reports.layout import build_table
from reports.placement import annotate
from reports.results import Results, device_of
from reports.tables import network_of, timed_as

#: Columns that identify a row in the table of all machines.
PLACE = ["label", "height", "width", "batch"]


def read_latencies(path: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    """The table of `python -m bench latency` or `gpu`, and its environment, which is empty for that of `gpu`.

    Raises:
        UserError: the file does not exist or is not such a table.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; python -m bench latency makes it")
    about, environment = path.with_suffix(".json"), dict[str, object]()
    try:
        table = pd.read_csv(path)
        if about.exists() or "device" not in table:
            environment = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} or the JSON next to it cannot be read ({error}); measure again") from error
    missing = {"model", "form", "precision", "batch", "p50_ms", "macs", "parameters", "map_bytes"} - set(table)
    if missing:
        raise UserError(f"{path} has no column {', '.join(sorted(missing))}; python -m bench latency writes them")
    try:
        table["label"] = [label(str(text)) for text in table["model"]]
    except UserError as error:
        raise UserError(f"{path}: {error}; measure it again, or pass another file with --latency") from error
    return table, environment


def first_device(latencies: pd.DataFrame) -> pd.DataFrame:
    """The latencies of one device: the first in the table of `python -m bench gpu`, whose parts can be merged."""
    if "device" not in latencies or latencies.empty:
        return latencies
    found: pd.DataFrame = latencies[latencies["device"] == latencies["device"].iloc[0]]
    return found


def by_machine(own: Path) -> pd.DataFrame:
    """Milliseconds of a batch on every machine, to compare them: deployed networks, on GPUs also as CUDA graphs.

    Args:
        own: table of `python -m bench latency` on this machine; it may be missing.

    Returns:
        One row per network, image size and batch; a column per machine, device, form and precision: those of the
        reference results, then this machine's. NaN where a machine has no measurement.

    Raises:
        UserError: a table cannot be read.
    """
    tables = {path.parts[-3]: path for path in sorted(reference_folder().glob("*/bench/latency.csv"))}
    if own.exists() and own.resolve() not in {path.resolve() for path in tables.values()}:
        tables["this machine"] = own
    columns = {}
    for machine, path in tables.items():
        table, environment = read_latencies(path)
        table = table[table["form"].isin(["deployed", "cuda_graph"])]
        devices = table["device"] if "device" in table else pd.Series(str(environment["device"]), table.index)
        for (device, form, precision), part in table.groupby([devices, "form", "precision"], sort=False):
            name = f"{machine}, {device}, {str(form).replace('_', ' ')}, {precision}, ms"
            columns[name] = part.drop_duplicates(PLACE).set_index(PLACE)["p50_ms"]
    if not columns:
        return pd.DataFrame(columns=PLACE)
    return pd.DataFrame(columns).rename_axis(PLACE).reset_index()


def pareto(costs: "pd.Series[float]", gains: "pd.Series[float]") -> list[int]:
    """Positions of the Pareto-optimal points, by rising cost."""
    order = np.lexsort((-gains.to_numpy(), costs.to_numpy()))
    front, best = [], -np.inf
    for place in order:
        if gains.iloc[place] > best:
            front.append(int(place))
            best = gains.iloc[place]
    return front


def accuracy_data(
    latencies: pd.DataFrame, results: Results, study: str, column: str, form: str, batch: int
) -> pd.DataFrame:
    """One row per network that has both: group, label, network, seeds, mAP in per cent, ms per image, parameters.

    The latencies are those of the first device in the table.

    Raises:
        UserError: nothing was measured in that form at that batch, or none of these networks has results.
    """
    latencies = first_device(latencies)
    chosen = latencies[(latencies["form"] == form) & (latencies["batch"] == batch) & (latencies["precision"] == "fp32")]
    if chosen.empty:
        raise UserError(f"no latency of form {form} at batch {batch}; measure it, or choose --form and --batch")
    measured = chosen.drop_duplicates("model").set_index("model").to_dict("index")
    table = build_table(results, study)
    rows = []
    for row in table.rows:
        cell = next((cell for one, cell in row.cells.items() if one.label == column), None)
        model = timed_as(row)
        if row.group == "untrained" or cell is None or not cell.done or model not in measured:
            continue
        rows.append(
            {
                "group": group_label(row.group),
                "label": table.label(row.factors),
                "network": network_of(row),
                "seeds": cell.done,
                "mAP": cell.mean("mAP"),
                "ms": measured[model]["p50_ms"] / batch,
                "parameters": measured[model]["parameters"],
            }
        )
    if not rows:
        raise UserError(
            f"no network of {study} has both a result on {column} and a latency; run the table, or python -m bench "
            "latency with networks of the table's width"
        )
    return pd.DataFrame(rows)


def draw_accuracy(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP against milliseconds per image; marker areas show parameters; the line is the Pareto front.

    Groups with a row of a single seed have no line, because their order may be chance.

    Args:
        data: from `accuracy_data`.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    groups = list(data.groupby("group", sort=False))
    look = looks(dict(zip(data["label"], data["network"], strict=True)))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(groups), figsize=(0.5 + 3.2 * len(groups), 2.6), squeeze=False, sharey=True, layout="constrained"
        )
        spread = max(1.0, data["mAP"].max() - data["mAP"].min())
        for axis, (group, part) in zip(axes[0], groups, strict=True):
            front = _front(part)
            axis.plot(front["ms"], front["mAP"], color="0.7", lw=1, zorder=0)
            for _, row in part.iterrows():
                colour, marker = look[str(row["label"])]
                axis.scatter(row["ms"], row["mAP"], s=_area(row["parameters"]), color=colour, marker=marker, alpha=0.8)
            axis.set(
                xlabel="ms per image; M: million parameters",
                xlim=(0, 1.2 * part["ms"].max()),
                ylim=(max(0, data["mAP"].min() - 0.25 * spread), data["mAP"].max() + 0.25 * spread),
            )
            axis.set_title(f"{group}{', single seed' if part['seeds'].max() == 1 else ''}")
            finish_axes(axis, "both")
        axes[0][0].set_ylabel("mAP, %")
        add_title(figure, title)
        for axis, (_, part) in zip(axes[0], groups, strict=True):
            texts = [f"{row['label']}, {row['parameters'] / 1e6:.1f} M" for _, row in part.iterrows()]
            areas = [_area(parameters) for parameters in part["parameters"]]
            front = _front(part)
            annotate(
                axis,
                part["ms"].tolist(),
                part["mAP"].tolist(),
                texts,
                areas=areas,
                fontsize=7.5,
                line=(front["ms"], front["mAP"]),
            )
        return write_figure(figure, data.drop(columns="network"), stem)


def _front(part: pd.DataFrame) -> pd.DataFrame:
    """The Pareto-optimal rows of a group; none if a row has a single seed."""
    return part.iloc[pareto(part["ms"], part["mAP"]) if part["seeds"].min() > 1 else []]


def plain_network(model: str) -> str:
    """The card name of a network without options; else empty."""
    return "" if " " in model else split_name(model)[0]


def _area(parameters: float) -> float:
    """Area of a marker in points squared."""
    return 20 + parameters / 2e5


def draw_roofline(latencies: pd.DataFrame, environment: dict[str, object], stem: Path) -> list[Path]:
    """The roofline of a machine with its networks: multiply-adds per second against multiply-adds per byte.

    Bytes are those of the deployed network's feature maps and weights, operator by operator. The roof is a measured
    product and copy (`bench.machine.rates`): the faster one of a matrix product and a convolution. Networks can come
    above it, as their own convolutions have other sizes.

    Args:
        latencies: from `read_latencies`.
        environment: with the machine's measured rates.
        stem: path without suffix for the .png, .svg and .csv.

    Raises:
        UserError: no rates of the machine, or no latency of the deployed form.
    """
    if "macs_per_second" not in environment:
        raise UserError("the table of latencies has no rates of the machine; measure with python -m bench latency")
    peak, bandwidth = float(str(environment["macs_per_second"])), float(str(environment["bytes_per_second"]))
    data = latencies[(latencies["form"] == "deployed") & (latencies["precision"] == "fp32")].copy()
    if data.empty:
        raise UserError("no latency of the deployed form in fp32; measure it with python -m bench latency")
    data = data[data["batch"] == data["batch"].max()]
    data["intensity"] = data["macs"] * data["batch"] / (data["map_bytes"] * data["batch"] + data["weight_bytes"])
    data["rate"] = data["macs"] * data["images_per_second"]
    data["roof"] = np.minimum(peak, data["intensity"] * bandwidth)
    data["relative_to_roof"] = data["rate"] / data["roof"]
    look = looks(dict(zip(data["label"], map(plain_network, data["model"]), strict=True)))
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
        low, high = 0.4 * data["intensity"].min(), 2.5 * max(data["intensity"].max(), peak / bandwidth)
        line = np.geomspace(low, high, 200)
        axis.plot(line, np.minimum(peak, line * bandwidth) / 1e9, color="0.4", lw=1.5)
        points = data.drop_duplicates("label")
        for _, row in points.iterrows():
            colour, marker = look[str(row["label"])]
            axis.plot(row["intensity"], row["rate"] / 1e9, marker, color=colour, ms=6, mfc="none", mew=1.3, zorder=3)
        axis.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            xlabel="multiply-adds per byte moved",
            ylabel="$10^9$ multiply-adds per second",
            # At least a decade, so that small differences do not look large.
            ylim=(min(peak / 1e10, 0.5 * data["rate"].min() / 1e9), 1.6 * peak / 1e9),
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(10, (1, 2, 5)))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            side.set_minor_formatter(NullFormatter())
        finish_axes(axis, "both")
        machine = device_of(environment)
        axis.set_title(
            f"deployed, fp32, batch {data['batch'].iloc[0]}, {machine};\n"
            "line: fastest product or convolution measured, sloping where a copy is slower;\n"
            "per cent: relative to the line"
        )
        annotate(
            axis,
            points["intensity"].tolist(),
            (points["rate"] / 1e9).tolist(),
            [f"{row['label']} {row['relative_to_roof']:.0%}" for _, row in points.iterrows()],
            areas=[64.0] * len(points),
            fontsize=7.5,
            line=(line, np.minimum(peak, line * bandwidth) / 1e9),
        )
        return write_figure(figure, data, stem)
