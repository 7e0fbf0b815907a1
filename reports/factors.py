"""Accuracy by level of each factor of the rendered world: occlusion, view change, light."""

from collections import defaultdict
from pathlib import Path

import pandas as pd

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from msinet.errors import UserError
from msinet.io import write_text
from reports.tables import build_table

#: Upper bounds of the levels and their names.
LEVELS: dict[str, tuple[tuple[float, str], ...]] = {
    "occlusion": ((0.0, "none hidden"), (0.25, "up to a quarter"), (1.0, "more than a quarter")),
    "view_change": ((15.0, "up to 15°"), (45.0, "15 to 45°"), (180.0, "more than 45°")),
    "light": ((0.8, "dark, up to 0.8"), (1.05, "0.8 to 1.05"), (float("inf"), "bright, above 1.05")),
}


def by_factor(catalogue: Catalogue, request: Request) -> pd.DataFrame:
    """R1 and mAP of every network on the queries of each level.

    Columns: group, method, column (of the table), factor, level, queries, R1 and mAP in per cent, means over
    seeds and draws. Queries without a match are left out, as everywhere.

    Raises:
        UserError: no finished run of the request was ranked on rendered images.
    """
    store = Store(request.store)
    rows = []
    for row in build_table(catalogue, request).rows:
        for column, place in row.places.items():
            frames = [pd.read_csv(store.run_folder(run_id) / "queries.csv") for run_id in place.run_ids]
            if not frames or not all(factor in frame for frame in frames for factor in LEVELS):
                continue
            queries = pd.concat(frames)
            queries = queries[queries["positives"] > 0]
            for factor, levels in LEVELS.items():
                low = -float("inf")
                for high, name in levels:
                    part = queries[(queries[factor] > low) & (queries[factor] <= high)]
                    low = high
                    if len(part):
                        rows.append({
                            "group": row.group, "method": row.label, "column": column, "factor": factor,
                            "level": name, "queries": len(part) // len(frames),
                            "R1": 100 * (part["first_rank"] == 1).mean(), "mAP": 100 * part["ap"].mean(),
                        })  # fmt: skip
    if not rows:
        raise UserError(f"no finished run of {catalogue.name} in {request.store} was ranked on rendered images")
    return pd.DataFrame(rows)


def as_markdown(data: pd.DataFrame) -> str:
    """One table per column: a line per factor and level, a column per network."""
    out = []
    for column, part in data.groupby("column", sort=False):
        methods = list(dict.fromkeys(zip(part["group"], part["method"], strict=True)))
        groups = defaultdict(list)
        for group, method in methods:
            groups[method].append(group)
        names = [method if len(groups[method]) == 1 else f"{method}, {group}" for group, method in methods]
        out += [f"**{column}**, R1 / mAP", "", f"| factor | level | queries | {' | '.join(names)} |",
                "|" + "---|" * (3 + len(names))]  # fmt: skip
        for (factor, level), cells in part.groupby(["factor", "level"], sort=False):
            found = {(c["group"], c["method"]): f"{c['R1']:.1f} / {c['mAP']:.1f}" for _, c in cells.iterrows()}
            values = " | ".join(found.get(method, "-") for method in methods)
            out.append(f"| {str(factor).replace('_', ' ')} | {level} | {cells['queries'].iloc[0]} | {values} |")
        out.append("")
    return "\n".join(out)


def write_factors(data: pd.DataFrame, stem: Path) -> list[Path]:
    """Write STEM.md and STEM.csv; returns the files."""
    write_text(stem.with_suffix(".md"), as_markdown(data))
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.3f"))
    return [stem.with_suffix(".md"), stem.with_suffix(".csv")]
