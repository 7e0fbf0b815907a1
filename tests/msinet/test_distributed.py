"""Several processes do what one does: here on the CPU, with Gloo.

Tolerances: features to the last bit; in float64, over several steps, losses, weights, statistics and memories to 1e-10
of the largest number of each tensor, as only the order of sums differs; in float32 losses to 1e-2, the first to 1e-4.
The learning rates are small: a young network that takes large steps on noise multiplies a rounding error by up to a
thousand in each.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from msinet import distributed
from msinet.cli import run_command

WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture
def together(context: ForkServerContext, tmp_path: Path):
    """Runs a case of rank_worker.py in so many processes and returns what each came to."""

    def work(case: str, world: int, folder: Path | None = None, **arguments: Any) -> list[dict[str, Any]]:
        folder = folder or tmp_path / f"{case}{world}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "store").unlink(missing_ok=True)
        processes = [
            context.Process(
                target=runpy.run_path,
                args=(str(WORKER),),
                kwargs={
                    "run_name": "__main__",
                    "init_globals": {
                        "CASE": case,
                        "RANK": rank,
                        "WORLD": world,
                        "FOLDER": folder,
                        "ARGUMENTS": arguments,
                    },
                },
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + 200
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        ended = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert ended == [0] * world
        return [torch.load(folder / f"{case}-{world}-{rank}.pt", weights_only=True) for rank in range(world)]

    return work


def difference(one: Any, other: Any) -> float:
    """The largest difference of two results, as a share of the largest number of each tensor or row of numbers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max(difference(one[name], other[name]) for name in one)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max(difference(a, b) for a, b in zip(one, other, strict=True))
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
    assert a.shape == b.shape
    scale = max(float(a.abs().max()), 1e-3) if a.numel() else 1.0
    return float((a - b).abs().max()) / scale if a.numel() else 0.0


def same_on_all(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What rank 0 came to, to the last bit what all others did."""
    assert all(difference(results[0], other) == 0 for other in results[1:])
    return results[0]


# --- Parts ---------------------------------------------------------------------------------------


def test_one_process_is_left_alone() -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    assert distributed.gather(rows) is rows
    assert (distributed.world(), distributed.rank(), distributed.share(6)) == (1, 0, slice(0, 6))
    assert distributed.leads()
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    distributed.share_batch_norms(network)
    assert type(network[0]) is torch.nn.BatchNorm1d
    state = torch.get_rng_state()
    distributed.reseed(0, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_of_gathered_rows_have_the_gradients_of_one_batch(together) -> None:
    (one,) = together("shared_losses", 1)
    for world in (2, 4):
        assert difference(one, same_on_all(together("shared_losses", world))) < 1e-14


@pytest.mark.parametrize(
    ("dtype", "offset", "tolerance"), [("float64", 0.0, 1e-13), ("float64", 1e4, 1e-10), ("float32", 100.0, 1e-4)]
)
def test_batch_norms_see_the_whole_batch(together, dtype: str, offset: float, tolerance: float) -> None:
    arguments = {"dtype": dtype, "offset": offset}
    (one,) = together("batch_norms", 1, **arguments)  # torch's own
    several = same_on_all(together("batch_norms", 3, **arguments))
    assert difference(one, several) < tolerance
    assert several["0.num_batches_tracked"] == 2


def test_features_are_the_same_to_the_last_bit(together) -> None:
    cases = [(48, 8), (13, 4), (9, 4), (3, 4), (1, 4)]  # whole turns, a short last batch, ranks without one
    (one,) = together("evaluation", 1, cases=cases)
    several = same_on_all(together("evaluation", 2, cases=cases))
    assert [len(features) for features in one.values()] == [count for count, _ in cases]
    assert all(torch.equal(features, several[name]) for name, features in one.items())


# --- The loops -----------------------------------------------------------------------------------

SAM = {"alignment": "pam-self"}


@pytest.mark.parametrize("arguments", [{}, {"settings": SAM, "pam": True}], ids=["plain", "alignment"])
def test_a_training_is_that_of_one_process(together, arguments: dict[str, Any]) -> None:
    (one,) = together("training", 1, **arguments)
    several = same_on_all(together("training", 2, **arguments))
    assert len({row["loss"] for row in one["history"]}) == 3
    assert difference(one, several) < 1e-10


def test_a_training_in_float32_stays_close(together) -> None:
    arguments = {"exact": False, "settings": SAM, "pam": True}
    (one,) = together("training", 1, **arguments)
    several = same_on_all(together("training", 2, **arguments))
    apart = [difference(a["loss"], b["loss"]) for a, b in zip(one["history"], several["history"], strict=True)]
    assert apart[0] < 1e-4
    assert 0 < max(apart) < 1e-2


def test_bf16_trains_too(together) -> None:
    arguments = {"exact": False, "settings": {"precision": "bf16", "epochs": 2}}
    (one,) = together("training", 1, **arguments)
    several = same_on_all(together("training", 2, **arguments))
    assert difference(one["history"][0]["loss"], several["history"][0]["loss"]) < 1e-2


@pytest.mark.parametrize(
    "way",
    [{}, {"leak": True, "order": "alphas", "memory_init": "zeros"}, {"mechanism": "ce"}],
    ids=["default", "leak", "ce"],
)
def test_a_search_is_that_of_one_process(together, way: dict[str, Any]) -> None:
    (one,) = together("searching", 1, **way)
    several = same_on_all(together("searching", 2, **way))
    assert "network.network.backbone.stage1.0.interaction1.alpha" in one
    assert difference(one, several) < 1e-10


# --- Whole runs ----------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_same_bits(together, data_root: Path, tmp_path: Path) -> None:
    """With dropout, of which every rank draws its own; the signal reaches one rank, and all stop."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert together("complete", 2, whole, root=data_root) == [{"interrupted": False}] * 2
    assert together("complete", 2, stopped, root=data_root, stop=3) == [{"interrupted": True}] * 2
    assert not (stopped / "record.json").exists()
    assert together("complete", 2, stopped, root=data_root) == [{"interrupted": False}] * 2
    weights, again = (load_file(folder / "model.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    for name in ("history.csv", "queries.csv"):
        assert (whole / name).read_text() == (stopped / name).read_text()
    assert json.loads((whole / "record.json").read_text())["processes"] == 2
    assert not (whole / "checkpoint.pt").exists()
    assert len((whole / "log.txt").read_text().splitlines()) == 2  # not of each rank


@pytest.mark.parametrize(
    ("damage", "kinds", "message"),
    [
        ("shares", ["UserError"] * 2, "a batch of 3 identities cannot be shared among 2 processes"),
        ("nan", ["TrainingDiverged"] * 2, "the loss became nan in epoch 1, step 1"),
        ("identity", ["UserError"] * 2, "differ between the processes"),
        ("fails", ["LostProcess", "TypeError"], "NoneType"),
    ],
)
def test_an_error_is_told_by_one_rank(together, damage: str, kinds: list[str], message: str) -> None:
    found = together("refused", 2, damage=damage)
    assert [one["kind"] for one in found] == kinds
    (teller,) = [one for one in found if one["tells"]]
    assert message in teller["message"]


def test_deterministic_algorithms_change_nothing_on_the_cpu(together, data_root: Path, tmp_path: Path) -> None:
    for name, deterministic in (("a", False), ("b", True)):
        together("complete", 1, tmp_path / name, root=data_root, deterministic=deterministic)
    assert (tmp_path / "a" / "history.csv").read_text() == (tmp_path / "b" / "history.csv").read_text()
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "search"])
def test_torchrun_does_what_one_process_does(data_root: Path, tmp_path: Path, command: str) -> None:
    """From the command line, with the restart for the allocator; one rank speaks, and one tells what is wrong."""

    def words(folder: Path) -> list[str]:
        network = {"train": "msinet_x0_25", "search": "supernet_x0_25"}[command]
        return [
            command,
            "--data-root",
            str(data_root),
            "--out",
            str(folder),
            "--dataset",
            "market1501",
            "--profile",
            "smoke",
            "--model",
            network,
            "--recipe",
            "identities=2",
            "lr=1e-6",
            "--device",
            "cpu",
            "--no-progress",
        ]

    def torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "msinet"]
        return subprocess.run(
            [*start, *words(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
            env={name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"},
        )

    assert run_command(words(tmp_path / "one")) == 0
    done = torchrun(tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1
    one, two = (json.loads((tmp_path / name / "record.json").read_text()) for name in ("one", "two"))
    assert (one.get("processes"), two["processes"]) == (None, 2)
    assert one["steps"] == two["steps"] == 6
    assert (tmp_path / "one" / "history.csv").read_text().splitlines()[0] == (
        tmp_path / "two" / "history.csv"
    ).read_text().splitlines()[0]
    again = torchrun(tmp_path / "two")
    assert again.returncode != 0
    assert again.stderr.count("error: ") == 1
    assert f"{tmp_path / 'two'} holds a finished" in again.stderr
