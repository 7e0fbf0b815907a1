"""Figures of what accuracy costs, from a measured file and finished runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.machine import rates, traffic
from msinet.errors import UserError
from reports import costs
from reports.costs import accuracy_data, by_machine, draw_accuracy, draw_roofline, pareto, read_latencies
from reports.results import Results


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    rows = [
        {
            "model": model,
            "form": form,
            "precision": "fp32",
            "batch": batch,
            "height": 64,
            "width": 32,
            "calls": 5,
            "p50_ms": batch * cost * (1 if form == "eager" else 0.5),
            "images_per_second": 1000 / cost,
            "parameters": 1_000_000 * cost,
            "macs": 10_000_000 * cost,
            "map_bytes": 400_000 * cost,
            "weight_bytes": 4_000_000,
        }
        for model, cost in (("msinet", 2), ("osnet", 1), ("resnet50", 10))
        for form in ("eager", "deployed")
        for batch in (1, 32)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "latency.csv", index=False)
    (tmp_path / "latency.json").write_text(
        json.dumps({"device": "cpu", "cpu": "a machine", "macs_per_second": 1e11, "bytes_per_second": 1e10})
    )
    return tmp_path / "latency.csv"


def test_machines_stand_side_by_side(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = tmp_path / "reference" / "h1" / "bench"
    gpu.mkdir(parents=True)
    monkeypatch.setenv("MSINET_REFERENCE", str(tmp_path / "reference"))
    frame = pd.read_csv(measured).query("model != 'osnet' and batch == 32")
    frame = frame.assign(p50_ms=frame["p50_ms"] / 10, precision="tf32", device="H1")
    pd.concat([frame, frame.assign(form="cuda_graph", p50_ms=1.0)]).to_csv(gpu / "latency.csv", index=False)
    found = by_machine(measured).set_index(["label", "batch"])
    ours, theirs, graphs = (
        "this machine, cpu, deployed, fp32, ms",
        "h1, H1, deployed, tf32, ms",
        "h1, H1, cuda graph, tf32, ms",
    )
    assert list(found.columns) == ["height", "width", theirs, graphs, ours]
    assert len(found) == 6
    assert found.loc["MSINet", 32][[ours, theirs, graphs]].tolist() == [32.0, 3.2, 1.0]
    assert found[theirs].isna().sum() == 4  # OSNet, and a batch of 1
    with pytest.raises(UserError, match="no rates of the machine"):
        draw_roofline(*read_latencies(gpu / "latency.csv"), tmp_path / "roofline")


def test_the_reference_is_no_second_machine(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSINET_REFERENCE", str(tmp_path / "none"))
    assert by_machine(tmp_path / "none.csv").empty
    monkeypatch.setenv("MSINET_REFERENCE", str(tmp_path.parent))
    folder = tmp_path / "bench"
    folder.mkdir()
    for suffix in (".csv", ".json"):
        measured.with_suffix(suffix).rename(folder / f"latency{suffix}")
    assert not [name for name in by_machine(folder / "latency.csv") if name.startswith("this machine")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    costs, gains = (pd.Series(values, dtype=float) for values in zip(*points, strict=True))
    front = pareto(costs, gains)
    for i, (cost, gain) in enumerate(points):
        beaten = any((c <= cost and g > gain) or (c < cost and g >= gain) for c, g in points)
        if i in front:
            assert not beaten
        else:
            assert beaten or points[i] in [points[j] for j in front]
    assert list(costs.iloc[front]) == sorted(costs.iloc[front])


def test_accuracy_meets_latency(measured: Path, hand, tools, tmp_path: Path) -> None:
    latencies, environment = read_latencies(measured)
    asked = hand.request("msinet", "resnet50", "osnet", datasets=("market1501",), whole=False)
    for cell in tools.cells_of("table2", asked):
        if cell.experiment.model != "osnet":
            hand.publish(cell.experiment, mAP=0.4)
    results = Results(asked)
    data = accuracy_data(latencies, results, "table2", "M", "deployed", 32)
    assert data[["label", "mAP", "ms"]].to_numpy().tolist() == [["MSINet", 40.0, 1.0], ["ResNet50", 40.0, 5.0]]
    assert costs._front(data).empty  # single seeds: their order may be chance
    assert list(costs._front(data.assign(seeds=2))["label"]) == ["MSINet"]
    written = draw_accuracy(data, "title", tmp_path / "cost") + draw_roofline(latencies, environment, tmp_path / "roof")
    assert all(path.stat().st_size > 50 for path in written)
    roof = pd.read_csv(tmp_path / "roof.csv").set_index("model")
    assert set(roof["batch"]) == {32}
    assert roof.loc["osnet", "rate"] == pytest.approx(1e7 * 1000)
    assert roof.loc["osnet", "intensity"] == pytest.approx(1e7 * 32 / (4e5 * 32 + 4e6), rel=1e-3)
    np.testing.assert_allclose(roof["relative_to_roof"], roof["rate"] / roof["roof"], rtol=1e-3)
    with pytest.raises(UserError, match="no latency of form eager at batch 7"):
        accuracy_data(latencies, results, "table2", "M", "eager", 7)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; python -m bench latency"):
        read_latencies(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="JSON next to it"):
        read_latencies(tmp_path / "a.csv")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="no column"):
        read_latencies(tmp_path / "a.csv")


def test_a_network_that_is_not_known_is_named_with_its_file(measured: Path) -> None:
    measured.write_text(measured.read_text().replace("osnet", "osnett"))
    with pytest.raises(UserError, match=r"latency\.csv: unknown network 'osnett'"):
        read_latencies(measured)


def test_traffic_in_closed_form() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Identity())
    moved, weights = traffic(network, torch.zeros(1, 3, 4, 4))
    assert moved == 4 * 16 * (3 + 8 + 8 + 8)
    assert weights == 4 * 24


class Added(nn.Module):
    """A sum, a view and attention, none of which is a module without children that reads all of its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, bias=False, batch_first=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        tokens = (maps + maps).flatten(2).transpose(1, 2)  # (B, N, 4)
        return torch.as_tensor(self.attention(tokens, tokens, tokens)[0])


def test_traffic_of_operators_that_are_no_modules() -> None:
    count, dim = 16, 4
    network = Added().eval()
    moved, weights = traffic(network, torch.zeros(1, dim, 4, 4))
    assert weights == 4 * 4 * dim * dim
    least = 3 + 2 * 4 + 2 * 2 + 1  # the sum; four projections; two products; the map that the first one writes
    assert moved >= 4 * (least * count * dim + 2 * count * count)  # and the scores, written and read
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_machine_has_rates() -> None:
    macs, bandwidth = rates(torch.device("cpu"))
    assert 1e8 < macs < 1e15
    assert 1e8 < bandwidth < 1e14
