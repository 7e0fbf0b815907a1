"""Summary of the report: costs, claims, and every network of Table 2 on one line."""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pandas as pd

from ablations.engine.study import group_label
from reports.costs import first_device
from reports.layout import comparisons_of
from reports.notes import obstacles, orders
from reports.page.report import Data, Part, Report
from reports.results import device_of, nearby
from reports.sizes import full_size_cost
from reports.statistics import Status
from reports.tables import BEST, NOISE, Table, network_of, random_weights, timed_as
from reports.verdicts import Measured, Verdict


def summary(report: Report) -> Part:
    """The first section, and the values for the head of the page."""
    form, times = milliseconds(report.latencies)
    rows = glance_rows(report.table("table2"), times)
    table = report.table("table2")
    compared = comparisons_of(report.results, "table2") if table else None
    columns = [
        {"title": "parameters", "unit": "M", "digits": 2},
        {"title": "multiply-adds", "unit": "G", "digits": 2},
        {"title": "time per image", "unit": "ms", "digits": 1},
        *(
            {"title": column.label.replace(">", " → "), "unit": column.headline, "digits": 1}
            for column in (table.columns if table else ())
        ),
    ]
    request, records, environment = report.request, report.results.records, report.environment
    return Part(
        {
            "request": {
                "profile": request.profile,
                "recipe": list(request.recipe),
                "seeds": report.results.seeds,
                "repetitions": report.results.repetitions,
                "reference": report.results.is_reference,
                "rendered": request.rendered,
                "root": str(request.root),
                "store": str(nearby(report.results.store.root)),
                "command": build_command(report),
            },
            "devices": sorted({device_of(record) for record in records.to_dict("records")}),
            "versions": sorted(set(records.get("torch", ()))),
            "machine": device_of(environment) if environment else "",
            "costs": costs(times),
            "glance": {"rows": rows, "form": form, "columns": columns, "best": BEST, "noise": NOISE},
            "effects": effects(report.verdicts),
            "orders": [*obstacles(table, compared), *orders(table, compared)] if table and compared else [],
            "leaning": Counter(verdict.leans for verdict in report.verdicts),
            "latency_command": report.bench_command("latency"),
            "add_command": "python -m reports reference add --machine NAME --who PERSON "
            + shlex.join(request.as_args()),
        }
    )


def build_command(report: Report) -> str:
    """The command that built the page, without its folder and files of bench."""
    results = report.results
    source = ["--reference"] * results.is_reference + (["--machine", results.machine] if results.machine else [])
    return shlex.join(["python", "-m", "reports", "build", *source, *report.request.as_args()])


def effects(verdicts: Sequence[Verdict]) -> Data:
    """Differences in statements, each once, and their positions on an axis from 0 to 100 %.

    A difference of several statements has the status of a decided one.
    """
    found: dict[str, tuple[Measured, Status]] = {}
    for verdict in verdicts:
        for measured in (one.measured for one in verdict.outcomes if one.measured is not None):
            before = found.get(measured.label)
            decided = before is not None and before[1] in ("holds", "fails")
            found[measured.label] = (measured, before[1] if before and decided else verdict.status)
    ends = [end for one, _ in found.values() for end in (*one.interval, one.paper) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return 100 * (value - low) / span

    rows = [
        {
            "label": one.label,
            "status": status,
            "text": f"{one.mean:+.1f} [{one.interval[0]:+.1f}, {one.interval[1]:+.1f}]",
            "mean": place(one.mean),
            "low": place(one.interval[0]),
            "width": place(one.interval[1]) - place(one.interval[0]),
            "paper": None if one.paper is None else place(one.paper),
            "theirs": "" if one.paper is None else f"{one.paper:+.1f}",
        }
        for one, status in sorted(found.values(), key=lambda pair: -abs(pair[0].mean))
    ]
    statuses = [status for status in get_args(Status) if any(row["status"] == status for row in rows)]
    return {"rows": rows, "zero": place(0.0), "statuses": statuses}


def costs(times: dict[str, float]) -> Data:
    """Costs of MSINet next to ResNet50 for an image of 256x128."""
    resnet, ours = full_size_cost("resnet50"), full_size_cost("msinet")
    return {
        "parameters": ours.parameters_without_classifier,
        "inference": ours.parameters_at_inference,
        "macs": ours.macs,
        "fewer_parameters": resnet.parameters_without_classifier / ours.parameters_without_classifier,
        "fewer_macs": resnet.macs / ours.macs,
        "time": times["msinet"] / times["resnet50"] if {"msinet", "resnet50"} <= set(times) else None,
    }


def milliseconds(latencies: pd.DataFrame) -> tuple[str, dict[str, float]]:
    """The form that was measured, deployed if possible, and milliseconds per image by network at the largest batch."""
    if latencies.empty:
        return "", {}
    latencies = first_device(latencies)
    plain = latencies[latencies["precision"] == "fp32"]
    for form in ("deployed", *dict.fromkeys(plain["form"])):
        part = plain[plain["form"] == form]
        if len(part):
            batch = part["batch"].max()
            part = part[part["batch"] == batch]
            size = f"{part['height'].iloc[0]}x{part['width'].iloc[0]}"
            device = f", {part['device'].iloc[0]}" if "device" in part else ""
            text = f"{form.replace('_', '-')}, batch {batch}, images {size}, fp32{device}"
            return text, dict(zip(part["model"], part["p50_ms"] / batch, strict=True))
    return "", {}


def glance_rows(table: Table | None, times: dict[str, float]) -> list[Data]:
    """The networks of Table 2 with results, then the colour histogram and the oracles.

    Costs are for images of 256x128. Each column shows its headline metric.
    """
    rows: list[Data] = []
    for row in sorted(table.rows if table else (), key=lambda row: row.group == "untrained"):
        if not row.done or random_weights(row):
            continue
        assert table is not None
        model = timed_as(row)
        cost = full_size_cost(model)
        rows.append(
            {
                "group": group_label(row.group),
                "label": table.label(row.factors),
                "ours": network_of(row) == "msinet",
                "trained": row.group != "untrained",
                "marks": [""] * 3 + [row.cells[c].marks.get(c.headline, "") for c in table.columns],
                "values": [
                    cost.parameters_without_classifier / 1e6 or None,
                    cost.macs / 1e9 or None,
                    times.get(model),
                    *(row.cells[c].mean(c.headline) if row.cells[c].done else None for c in table.columns),
                ],
            }
        )
    for one in rows:
        most = [max((r["values"][i] or 0 for r in rows), default=0) or 1 for i in range(len(one["values"]))]
        one["shares"] = [None if v is None else v / m for v, m in zip(one["values"], most, strict=True)]
    return rows
