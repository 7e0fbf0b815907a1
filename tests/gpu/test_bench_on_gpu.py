"""Measurements on a GPU: every form can be captured, errors cost one contender, tables are complete."""

import gc
from pathlib import Path

import pandas as pd
import pytest
import torch
from contenders import breaks_the_gpu

from bench import gpu, steps
from bench.__main__ import main
from bench.forms import prepare
from bench.isolation import Failure, isolated
from bench.networks import build
from bench.retrieval import made_up
from msinet.retrieval import evaluate

NETWORKS = ("msinet_x0_25", "msinet_x0_25 pam=True", "osnet_x0_25", "cdnet_x0_25", "resnet50_x0_25", "deit_small_x0_25")
PAIRS = [(name, "fp32") for name in NETWORKS] + [(name, p) for name in NETWORKS[:1] for p in ("tf32", "bf16")]
SIZE = (64, 32)


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_form_gives_the_features_of_the_eager_network(device: torch.device, name: str, precision: str) -> None:
    torch.manual_seed(0)
    network = build(name, 5, SIZE)
    found = {}
    for form in ("eager", "channels_last", "deployed"):
        torch.manual_seed(1)
        run = prepare(network, form, precision, 3, SIZE, device)
        features = run()
        assert isinstance(features, torch.Tensor)
        found[form] = features.float()
    scale = float(found["eager"].abs().max())
    for form, features in found.items():
        tolerance = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 0.15}[precision]
        torch.testing.assert_close(features, found["eager"], rtol=tolerance, atol=tolerance * scale, msg=form)


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_network_can_be_captured_and_keeps_its_memory(device: torch.device, name: str, precision: str) -> None:
    run = prepare(build(name, 5, SIZE), "cuda_graph", precision, 4, SIZE, device)
    gc.collect()
    torch.cuda.empty_cache()  # so that reading freed memory is an error
    others = [torch.full((1 << 20,), float("nan"), device=device) for _ in range(32)]
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    assert len(others) == 32


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
        assert float(str(gpu._ranked("market1501", kind, 32, "cuda")["ranking_seconds"])) > 0
    rows: dict[int, dict[str, object]] = {}

    class Notes:
        def at(self, number: int) -> None: ...

        def row(self, number: int, row: dict[str, object]) -> None:
            rows[number] = row

    gpu.peak_memory([("msinet_x0_25", "deployed", "tf32", 4, SIZE, "cuda")], Notes())
    assert float(str(rows[0]["peak_mib"])) > 0


def test_features_on_the_gpu_are_ranked_like_those_on_the_cpu(device: torch.device) -> None:
    features = made_up(60, 900, 40, 3, 32)
    expected = evaluate(features.query, features.gallery, **features.labels)  # type: ignore[arg-type]
    found = evaluate(features.query.to(device), features.gallery.to(device), **features.labels)  # type: ignore[arg-type]
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-6)
    assert (found.first_rank == expected.first_rank).all()
