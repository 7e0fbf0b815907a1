"""Measurements on a GPU: every form can be captured, errors cost one contender, tables are complete."""

import gc
import shutil
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from contenders import breaks_the_gpu

from bench import gpu, steps
from bench.__main__ import main
from bench.forms import prepare
from bench.isolation import Failure, isolated
from bench.networks import build, choose
from bench.retrieval import made_up
from msinet.retrieval import evaluate

#: The networks of the paper's tables, at a quarter of their width.
NETWORKS = [" ".join([f"{name}_x0_25", *options]) for name, *options in map(str.split, choose(()))]
PAIRS = [(name, "fp32") for name in NETWORKS] + [("msinet_x0_25", precision) for precision in ("tf32", "bf16")]
SIZE = (96, 32)  # six rows of the map, for networks of six parts


def features_of(name: str, form: str, precision: str, device: torch.device) -> torch.Tensor:
    """Features of a network in a form; those of all forms have the same weights and images."""
    torch.manual_seed(0)
    network = build(name, 5, SIZE)
    torch.manual_seed(1)
    features = prepare(network, form, precision, 3, SIZE, device)()
    assert isinstance(features, torch.Tensor)
    return features.float()


def check(found: torch.Tensor, expected: torch.Tensor, precision: str) -> None:
    tolerance = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 0.15}[precision]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_form_gives_the_features_of_the_eager_network(device: torch.device, name: str, precision: str) -> None:
    expected = features_of(name, "eager", precision, device)
    for form in ("channels_last", "deployed", "cuda_graph"):
        check(features_of(name, form, precision, device), expected, precision)


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_captured_network_keeps_its_memory(device: torch.device, name: str, precision: str) -> None:
    expected = features_of(name, "eager", precision, device)
    torch.manual_seed(0)
    network = build(name, 5, SIZE)
    torch.manual_seed(1)
    run = prepare(network, "cuda_graph", precision, 3, SIZE, device)
    del network
    gc.collect()
    torch.cuda.empty_cache()  # so that reading freed memory is an error
    others = [torch.full((1 << 20,), float("nan"), device=device) for _ in range(32)]
    for _ in range(3):
        features = run()
        assert isinstance(features, torch.Tensor)
        check(features.float(), expected, precision)
    assert len(others) == 32


@pytest.mark.skipif(
    find_spec("triton") is None or not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="torch.compile needs triton and a C compiler",
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_compiled_network_gives_the_features_of_the_eager_one(device: torch.device, precision: str) -> None:
    found, expected = (features_of("msinet_x0_25", form, precision, device) for form in ("compiled", "eager"))
    check(found, expected, precision)


def test_an_error_of_the_gpu_costs_one_contender(device: torch.device) -> None:
    found = dict(isolated(breaks_the_gpu, ["a", "bad", "b"]))
    assert isinstance(found["bad"], Failure)
    assert "CUDA" in found["bad"] or "device-side" in found["bad"]
    assert found["a"] == found["b"] == {"sum": 0.0}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(("network", "task"), [("msinet_x0_25", "train"), ("supernet_x0_25", "search")])
def test_steps_are_measured(device: torch.device, network: str, task: str, mode: str) -> None:
    row = steps._row(steps.Step(network, task, *SIZE, "tf32", mode, 8), device, 0.2)
    assert 0 < float(str(row["loop_ms"])) < 10_000
    assert (row["replay_ms"] is not None) == (mode == "graph")
    assert float(str(row["peak_mib"])) > 1


def test_latency_in_processes_of_their_own(device: torch.device, tmp_path: Path) -> None:
    words = ["latency", "--models", "msinet_x0_25", "--forms", "eager", "cuda_graph", "--precisions", "fp32", "tf32"]
    words += ["--batches", "2", "--height", "64", "--width", "32", "--rounds", "5", "--seconds", "0.05"]
    assert main([*words, "--device", "cuda", "--out", str(tmp_path / "a.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "a.csv")) == 4
    assert not (tmp_path / "a.errors.csv").exists()


def test_ranking_and_memory_are_measured(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.retrieval.SIZES", {"market1501": (30, 200, 10, 3)})
    for kind in ("clustered", "random"):
        assert float(str(gpu._ranked("market1501", kind, 32, "cuda")["ranking_seconds_cpu_sort"])) > 0
    rows: dict[int, dict[str, object]] = {}

    class Notes:
        def at(self, number: int) -> None: ...

        def row(self, number: int, row: dict[str, object]) -> None:
            rows[number] = row

    gpu.peak_memory([("msinet_x0_25", "deployed", "tf32", 4, SIZE, "cuda")], Notes())
    assert float(str(rows[0]["peak_mib"])) > 0


def test_features_on_the_gpu_are_ranked_like_those_on_the_cpu(device: torch.device) -> None:
    features = made_up(60, 900, 40, 3, 32)
    query, gallery = features.query.double(), features.gallery.double()  # rounding would swap some neighbours
    expected = evaluate(query, gallery, **features.labels)  # type: ignore[arg-type]
    found = evaluate(query.to(device), gallery.to(device), **features.labels)  # type: ignore[arg-type]
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-9)
    assert (found.first_rank == expected.first_rank).all()
