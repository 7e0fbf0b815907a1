"""Measurements and their tables. No test judges how fast anything is."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bench import latency, retrieval
from bench.__main__ import main
from bench.forms import FORMS, check_forms, prepare
from bench.latency import LEAST, WARM_UP, race, render, render_memory, render_throughput
from bench.memory import in_a_fresh_process, peak_extra
from bench.networks import build, choose, label, paper_costs
from msinet.environment import pick_device
from msinet.errors import UserError

SMALL = ["--height", "32", "--width", "32"]


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def work(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock.now)
    return clock


def test_contenders_take_turns_forwards_and_backwards(clock: Clock) -> None:
    runs = {name: lambda name=name: clock.work(name, 0.01) for name in "abc"}
    race(runs, rounds=6, seconds=100, finish=lambda: None)  # type: ignore[arg-type]
    assert "".join(clock.calls) == "aabbcc" + "abccba" * 3
    assert WARM_UP == 2


def test_slow_ones_stop_when_their_seconds_are_used_up(clock: Clock) -> None:
    runs = {"slow": lambda: clock.work("slow", 2.0), "fast": lambda: clock.work("fast", 0.1)}
    times = race(runs, rounds=40, seconds=2.0, finish=lambda: None)  # type: ignore[arg-type]
    assert times["slow"] == pytest.approx([2.0] * LEAST)
    assert 20 <= len(times["fast"]) <= 21
    assert times["fast"] == pytest.approx([0.1] * len(times["fast"]))
    times = race(runs, rounds=40, seconds=2.0, finish=lambda: None, references=("slow",))  # type: ignore[arg-type]
    assert len(times["slow"]) == len(times["fast"])
    assert len(race(runs, rounds=3, seconds=9, finish=lambda: None)["slow"]) == 3  # type: ignore[arg-type]


def test_waiting_for_the_device_counts(clock: Clock) -> None:
    times = race({"a": lambda: None}, rounds=5, seconds=9, finish=lambda: clock.work("wait", 0.5))  # type: ignore[arg-type]
    assert times["a"] == pytest.approx([0.5] * 5)


def test_ratios_are_those_of_the_same_rounds() -> None:
    slow, fast = [2.0, 4.0, 6.0, 40.0], [1.0, 2.0, 3.0]  # a drift of both, and a call without a partner
    assert latency.ratios(slow, fast) == pytest.approx([2.0] * 3)
    assert latency.ratios([1.0, 1.0, 3.0, 4.0, 9.0], [1.0] * 5) == pytest.approx([1.0, 3.0, 4.0])
    found = latency._summary(list(np.arange(1, 101) / 1000), [0.001] * 100, None)
    assert (found["calls"], found["p50"], found["p95"]) == (100, pytest.approx(0.0505), pytest.approx(0.09505))
    assert found["ratio"] == pytest.approx(50.5)
    assert found["ratio_low"] < found["ratio"] < found["ratio_high"]  # type: ignore[operator]
    assert np.isnan(found["ratio_same"])  # type: ignore[call-overload]


def test_latency_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["latency", "--models", "msinet_x0_25", "msinet_x0_25 genotype=NNNNNN", "--batches", "1", "3", *SMALL]
    words += ["--rounds", "5", "--seconds", "0.01", "--device", "cpu", "--out", str(tmp_path / "a.csv")]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "a.csv")
    assert len(table) == 2 * 3 * 2
    assert set(table["model"]) == {"msinet_x0_25", "msinet_x0_25 genotype=NNNNNN"}  # the reference only if asked for
    assert (table["calls"] == 5).all()
    assert (table["p50_ms"] <= table["p99_ms"]).all()
    np.testing.assert_allclose(table["images_per_second"], 1e3 * table["batch"] / table["p50_ms"], rtol=1e-4)
    environment = json.loads((tmp_path / "a.json").read_text())
    assert {"torch", "cpu", "threads", "allocator", "device", "cpu_mhz", "code", "measured"} <= set(environment)
    assert "images 32x32" in capsys.readouterr().out


def test_ratios_are_to_resnet50_of_the_same_race(tmp_path: Path) -> None:
    words = ["latency", "--models", "resnet50", "--batches", "2", *SMALL, "--rounds", "5", "--seconds", "0.01"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "a.csv")]) == 0
    table = pd.read_csv(tmp_path / "a.csv").set_index("form")
    assert table.loc["eager", "ratio"] == 1
    assert (table["ratio_same"] == 1).all()
    assert (table["ratio_low"] <= table["ratio"]).all()
    assert (table["ratio"] <= table["ratio_high"]).all()
    assert table["ratio"].between(0.2, 5).all()


def made(**columns: object) -> pd.DataFrame:
    """Rows as a command of bench writes them, for two networks and two batch sizes."""
    pairs = [(model, batch) for model in ("resnet50", "msinet pam=True") for batch in (1, 32)]
    rows = pd.DataFrame(pairs, columns=["model", "batch"]).assign(form="eager", precision="fp32", height=64, width=32)
    return rows.assign(**columns)


def words_of(text: str) -> list[list[str]]:
    """Words of the lines under the header."""
    lines = [line.split() for line in text.splitlines()]
    return lines[next(i for i, line in enumerate(lines) if line[0] == "model") + 1 :]


def test_a_latency_stands_beside_its_ratio_and_the_papers() -> None:
    table = made(p50_ms=[10.0, 200.0, 7.0, 50.0], ratio=[1, 1, 0.7, 0.25])
    assert words_of(render(table)) == [
        ["ResNet50", "eager", "fp32", "10.0", "(1.00)", "200.0", "(1.00)", "1.00"],
        ["MSINet-SAM", "eager", "fp32", "7.0", "(0.70)", "50.0", "(0.25)", "0.71"],
    ]
    table["model"] = table["model"].replace({"msinet pam=True": "msinet ratio=2"})
    assert words_of(render(table))[1][-1] == "-"  # the paper has none of these


def test_throughput_by_batch() -> None:
    table = made(images_per_second=[30.0, 20.0, 8.0, 64.0])
    assert [line[3:] for line in words_of(render_throughput(table))] == [["30.0", "20.0", "1"], ["8.0", "64.0", "32"]]
    table = made(images_per_second=[29.0, 30.0, 28.0, 30.0])
    assert [line[-1] for line in words_of(render_throughput(table))] == ["1", "32"]  # within 5 % of the fastest, or not


def test_memory_by_batch_and_without_linux() -> None:
    table = made(weights_mib=[90.0, 90.0, 9.13, 9.13], peak_mib=[4, None, 3, 88])
    assert [line[3:] for line in words_of(render_memory(table))] == [["90.0", "4", "-"], ["9.1", "3", "88"]]
    nothing = words_of(render_memory(table.assign(peak_mib=None)))
    assert [line[3:] for line in nothing] == [["90.0", "-", "-"], ["9.1", "-", "-"]]


def test_throughput_names_the_best_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["throughput", "--models", "msinet_x0_25", "--batches", "1", "4", *SMALL, "--rounds", "5"]
    assert main([*words, "--seconds", "0.01", "--device", "cpu", "--out", str(tmp_path / "a.csv")]) == 0
    assert "best batch" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "a.csv")["form"]) == {"deployed"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_peak_memory_is_that_of_the_work() -> None:
    # 64 MiB. In this process, earlier memory is used again.
    extra = in_a_fresh_process("ones", peak_extra, partial(np.ones, 8 << 20))
    assert extra is not None
    assert 60 << 20 < extra < 80 << 20


@pytest.mark.slow
def test_memory_table(tmp_path: Path) -> None:
    words = ["memory", "--models", "msinet_x0_25", "msinet_x0_25 pam=True", "--forms", "eager", "--batches", "16"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "a.csv")]) == 0
    one, same = pd.read_csv(tmp_path / "a.csv").to_dict("records")
    assert 1 < one["weights_mib"] < 3
    if sys.platform == "linux":
        # The stem's output, 16 x 16 x 128 x 64 float32, is 8 MiB; it and its batch-normed copy exist at once.
        assert 16 < one["peak_mib"] < 64
        assert same["peak_mib"] == pytest.approx(one["peak_mib"], rel=0.1)  # at inference the same network


def test_a_process_that_dies_is_one_clear_error() -> None:
    with pytest.raises(UserError, match=r"osnet eager, batch 32 was not measured: its process ended unexpectedly"):
        in_a_fresh_process("osnet eager, batch 32", os._exit, 3)


MEMORY = ["memory", "--models", "msinet", "--forms", "eager", "--batches", "1", "2", "--device", "cpu"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (UserError("msinet eager, batch 2 was not measured"), 2)]
)
def test_rows_survive_a_measurement_that_ends_early(
    error: BaseException,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(what: str, *_arguments: object, **_: object) -> tuple[int, int]:
        if what == "msinet eager, batch 2":
            raise error
        return 3 << 20, 5 << 20

    monkeypatch.setattr("bench.memory.in_a_fresh_process", measured)
    assert main([*MEMORY, "--out", str(tmp_path / "a.csv")]) == status
    assert f"rows measured before: 1, in {tmp_path}/a.part.csv" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "a.part.csv")["peak_mib"].tolist() == [3]
    assert not (tmp_path / "a.csv").exists()

    monkeypatch.setattr("bench.memory.in_a_fresh_process", lambda *_, **__: (3 << 20, 5 << 20))
    assert main([*MEMORY, "--out", str(tmp_path / "a.csv")]) == 0
    assert pd.read_csv(tmp_path / "a.csv")["batch"].tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json"]


def test_a_table_is_never_newer_than_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.csv").write_text("old")
    monkeypatch.setattr("bench.memory.in_a_fresh_process", lambda *_, **__: (3 << 20, 5 << 20))
    monkeypatch.setattr(latency, "write_json", stopped)
    assert main([*MEMORY, "--out", str(tmp_path / "a.csv")]) == 130
    assert (tmp_path / "a.csv").read_text() == "old"


@pytest.mark.parametrize(("form", "precision"), [(form, "fp32") for form in FORMS[:3]] + [("deployed", "bf16")])
def test_forms_give_the_same_features_and_leave_the_network_alone(form: str, precision: str) -> None:
    torch.manual_seed(0)
    network = build("msinet_x0_25", 5, (32, 32))
    torch.manual_seed(1)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = network.eval()(images)
    weights = {name: (p.dtype, p.stride()) for name, p in network.named_parameters()}
    torch.manual_seed(1)
    found = prepare(network, form, precision, 2, (32, 32), torch.device("cpu"))()
    assert weights == {name: (p.dtype, p.stride()) for name, p in network.named_parameters()}
    assert isinstance(found, torch.Tensor)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.slow
def test_every_compiled_contender_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(tuple(next(i for i in inputs if i.shape[1:] == (3, 32, 32)).shape))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # torch's own, put back at the end
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = build("resnet50_x0_25", 5, (32, 32))
    for batch in range(1, 10):
        prepare(network, "compiled", "fp32", batch, (32, 32), torch.device("cpu"))()
    assert compiled == [(batch, 3, 32, 32) for batch in range(1, 10)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latency", "--models", "msinat"], "Did you mean 'msinet'"),
        (["latency", "--forms", "eagre"], "Did you mean 'eager'"),
        (["latency", "--precisions", "fp31"], "Did you mean 'fp32'"),
        (["latency", "--device", "cpu", "--forms", "cuda_graph"], "needs a GPU"),
        (["latency", "--device", "cpu", "--precisions", "tf32"], "tf32 needs a GPU"),
        (["latency", "--device", "cpu", "--batches", "0"], "at least one batch"),
        (["latency", "--device", "cpu", "--height", "8"], "too small"),
        (["memory", "--device", "cpu", "--forms", "eagre"], "Did you mean"),
        (["memory", "--forms", "cuda_graph"], "measure the form deployed instead"),
        (["memory", "--device", "cpu", "--batches", "-1"], "at least one batch"),
        (["memory", "--device", "cpu", "--out", "memory.json"], "--out memory.json must be a file X.csv"),
        (["latency", "--device", "cpu", "--models", "msinet_x0_25", "--out", "/"], "--out / must be a file X.csv"),
        (["retrieval", "--sizes", "market"], "Did you mean 'market1501'"),
        (["retrieval", "--rounds", "0"], "at least 1"),
    ],
)
def test_wrong_words_are_named_before_anything_is_measured(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_gpu_named_by_its_number_is_torch_s_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cpu", "cuda", "cuda:1"):
        assert pick_device(name) == torch.device(name)
    assert current == [torch.device("cuda:1")]


def test_a_network_is_a_name_with_options() -> None:
    (text,) = choose(("msinet_x0_25   genotype=NNNNNN",))
    assert text == "msinet_x0_25 genotype=NNNNNN"
    assert label(text) == "MSINet genotype=NNNNNN x0.25"
    assert sum(p.numel() for p in build(text, 3, (32, 32)).parameters()) < sum(
        p.numel() for p in build("msinet_x0_25", 3, (32, 32)).parameters()
    )
    with pytest.raises(UserError, match="needs a name"):
        choose(("",))


def test_networks_are_those_of_the_papers_tables() -> None:
    # Tables 2, 3 and 6, with MSINet-SAM as a network of its own.
    everything = {"resnet50", "osnet", "cdnet", "msinet", "msinet pam=True", "deit_small", "deit_base", "vit_base"}
    everything |= {"pcb", "pcb_rpp", "mgn", "ianet", "rga_sc", "sft", "batnet"}
    assert set(choose(())) == everything
    table2 = ["resnet50", "osnet", "cdnet", "msinet", "msinet pam=True"]
    assert choose((), "table2") == table2
    narrow = [text.replace(name := text.split()[0], f"{name}_x0_25") for text in table2]
    assert choose((), "table2", "smoke") == [*table2, *narrow]
    assert choose((), "table2", "paper") == table2
    with pytest.raises(UserError, match="Did you mean 'table2'"):
        choose((), "table22")
    with pytest.raises(UserError, match="unknown profile"):
        choose((), "", "smok")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("msinet", "MSINet"),
        ("msinet_x0_25", "MSINet x0.25"),
        ("msinet_x0_25 pam=True", "MSINet-SAM x0.25"),
        ("resnet50_x0_5", "ResNet50 x0.5"),
        ("msinet ratio=2", "MSINet ratio=2"),
    ],
)
def test_networks_are_called_as_in_the_tables(text: str, written: str) -> None:
    assert label(text) == written
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match="only on the CPU in fp32"):
        check_forms(("onnx",), ("bf16",), torch.device("cpu"))


# --- Ranking -------------------------------------------------------------------------------------


def test_the_dense_reference_is_the_same_algorithm() -> None:
    features = retrieval.made_up(20, 150, 12, 4, 24)
    dense = retrieval.dense_rerank(features.query, features.gallery)
    np.testing.assert_allclose(retrieval.rerank(features.query, features.gallery), dense, atol=2e-5)


def test_ranking_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(retrieval, "SIZES", {"market1501": (30, 200, 10, 3)})
    # Three processes would import torch for as many numbers that nobody looks at.
    monkeypatch.setattr(retrieval, "in_a_fresh_process", lambda _what, work, *arguments, **_: work(*arguments))
    words = ["retrieval", "--sizes", "market1501", "--dense", "--disk", "1500", "--disk-queries", "7", "--dim", "32"]
    assert main([*words, "--out", str(tmp_path / "a.csv")]) == 0
    table = pd.read_csv(tmp_path / "a.csv")
    assert len(table) == 5
    assert [work.split(", ")[-1] for work in table["work"][:2]] == ["clustered", "random"]
    ranked = table[:2]
    np.testing.assert_allclose(ranked["ratio"], ranked["seconds"] / ranked["product_seconds"], rtol=1e-4)
    assert "times as fast as with dense matrices" in capsys.readouterr().out


def test_the_papers_costs() -> None:
    costs = paper_costs()
    assert len(costs) == 8
    assert (costs["msinet"]["parameters_millions"], costs["msinet"]["relative_time"]) == ("2.3", "0.71")
    assert (costs["resnet50"]["parameters_millions"], costs["resnet50"]["approximate"]) == ("24", "yes")
    assert set(costs) < set(choose(()))
