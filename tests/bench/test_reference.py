"""The documents show the records of `reference/*/bench`, to the last digit."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench import cost, latency, retrieval
from bench.networks import label, paper_costs

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "reference").glob("*/bench/*.csv"))
RENDER: dict[str, Callable[[pd.DataFrame], str]] = {
    "cost": cost.render,
    "throughput": latency.render_throughput,
    "memory": latency.render_memory,
    "retrieval": retrieval.render,
}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_is_shown_as_its_command_printed_it(path: Path) -> None:
    shown = RENDER.get(path.stem, latency.render)(pd.read_csv(path))
    assert shown.strip("\n") in (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_tells_what_it_was_measured_on(path: Path) -> None:
    if path.stem == "cost":  # the same on every machine
        return
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"device", "cpu", "threads", "torch", "code", "measured", "allocator"} <= set(told)
    assert "dirty" not in told["code"]


def test_the_summary_of_costs_is_the_records() -> None:
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    folder = ROOT / "reference" / "epyc-2-cores" / "bench"
    counts = pd.read_csv(folder / "cost.csv").set_index("model")
    times = pd.read_csv(folder / "latency.csv")
    compiled = pd.read_csv(folder / "compiled.csv")
    ratio = pd.concat([times, compiled[compiled["form"] == "compiled"]]).query("batch == 32")
    ratio = ratio.set_index(["model", "form"])["ratio"]
    for model in ("resnet50", "osnet", "cdnet", "msinet", "deit_small"):
        parameters = [counts.loc[model, f"parameters_{what}"] for what in ("without_classifier", "at_inference")]
        cells = [f"{n:,}" for n in parameters] + [f"{counts.loc[model, 'macs'] / 1e9:.3f}"]
        cells += [
            f"{ratio[model, form]:.2f}" if (model, form) in ratio else "-"
            for form in ("eager", "channels_last", "deployed", "compiled", "onnx")
        ]
        row = f"| {label(model)} | {' | '.join(cells)} | {paper_costs()[model]['relative_time']} |"
        assert row in page
