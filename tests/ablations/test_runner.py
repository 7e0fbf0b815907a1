"""Whole tables on small data: run, stop, kill, fail, resume, and the same results in the end."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import ablations.__main__
import ablations.engine.attempt
from ablations.__main__ import main
from ablations.engine.attempt import Attempts
from ablations.engine.experiment import Experiment
from ablations.engine.request import Request
from ablations.engine.resolve import resolve
from ablations.engine.results import results
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.data import load_dataset, open_pixels
from msinet.errors import UserError
from msinet.models import build_model, save_weights
from msinet.training import evaluate_model
from msinet.training.run import Training

MODEL = "msinet_x0_25"
SHORT = ("epochs=1", "steps_per_epoch=2")
ALL = ("market1501", "msmt17", "veri776", "vehicleid")
#: What a finished run consists of.
FILES = {"experiment.json", "record.json", "history.csv", "queries.csv", "log.txt", "model.safetensors"}
Words = Callable[..., list[str]]
Outcome = Callable[[Path], dict[str, Any]]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def table(root: Path, store: Path, **settings: Any) -> pd.DataFrame:
    """The frame of Table 2 on these data."""
    request = Request("smoke", root, ("market1501",), models=(MODEL,), recipe=SHORT, store=store)
    return results(resolve(find_study("table2"), replace(request, **settings), Store(store)), Store(store))


def run_id(store: Path, model: str, seed: int = 0) -> str:
    """The only finished run of a model and seed."""
    frame = Store(store).frame()
    (found,) = frame.index[(frame["model"] == model) & (frame["seed"] == seed)]
    return str(found)


# A whole table


@dataclass
class Finished:
    words: Callable[[str], list[str]]
    store: Path
    root: Path
    status: int
    out: str


@pytest.fixture(scope="module")
def finished(data_root: Path, tmp_path_factory: pytest.TempPathFactory, words: Words) -> Finished:
    """Table 2 of one network on all four data sets, by one command. Shared: do not change it."""
    store = tmp_path_factory.mktemp("finished") / "results"

    def command(name: str) -> list[str]:
        return words(name, store, root=data_root, datasets=ALL)

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(command("run"))
    return Finished(command, store, data_root, status, out.getvalue())


def test_one_command_fills_the_table(finished: Finished) -> None:
    assert finished.status == 0
    assert "not run: 6 experiment(s): needs pre-trained weights: --pretrained DIR" in finished.out
    assert finished.out.endswith("10 finished\n")
    frame = table(finished.root, finished.store, datasets=ALL)
    assert len(frame) == 18
    columns = {(a, a) for a in ALL} | {("msmt17", "market1501"), ("veri776", "vehicleid")}
    for group, state in (("untrained", "done"), ("scratch", "done"), ("pretrained", "blocked")):
        rows = frame[frame["group"] == group]
        assert set(zip(rows["train"], rows["test"], strict=True)) == columns
        assert set(rows["state"]) == {state}
        assert rows[["mAP", "R1", "R5"]].notna().all(axis=None) == (state == "done")
    done = frame[frame["state"] == "done"]
    assert done[["mAP", "R1", "R5"]].map(lambda value: 0 <= value <= 1).all(axis=None)
    assert set(done["run_id"]) == names(finished.store / "runs") == set(Store(finished.store).frame().index)
    assert len(names(finished.store / "runs")) == 10
    assert not names(finished.store / "partial")
    assert not names(finished.store / "failed")


def test_the_table_has_the_metrics_of_its_queries(finished: Finished) -> None:
    # R1, R5 and mAP once more, from the ranks of the single queries that every run writes.
    frame = table(finished.root, finished.store, datasets=ALL)
    done = frame[frame["state"] == "done"]
    for _, cell in done.iterrows():
        with (finished.store / "runs" / str(cell["run_id"]) / "queries.csv").open(newline="") as stream:
            queries = [q for q in csv.DictReader(stream) if q["positives"] != "0"]
        draws: dict[str, list[dict[str, str]]] = {}
        for query in queries:
            draws.setdefault(query["draw"], []).append(query)
        assert len(draws) == (10 if cell["test"] == "vehicleid" else 1)
        per_draw = {
            "R1": [np.mean([q["first_rank"] == "1" for q in d]) for d in draws.values()],
            "R5": [np.mean([int(q["first_rank"]) <= 5 for q in d]) for d in draws.values()],
            "mAP": [np.mean([float(q["ap"]) for q in d]) for d in draws.values()],
        }
        for metric, values in per_draw.items():
            assert cell[metric] == pytest.approx(np.mean(values), abs=1e-9)
    assert len(done) == 12  # two cells of the colour histogram share the runs of others


def test_a_finished_run_can_be_traced(finished: Finished) -> None:
    for folder in (finished.store / "runs").iterdir():
        assert names(folder) == FILES
        record = json.loads((folder / "record.json").read_text())
        stored = json.loads((folder / "experiment.json").read_text())
        # The folder's name is the hash of what lies in it.
        experiment = Experiment.from_json(stored)
        prints = {experiment.source: record["source_fingerprint"], experiment.target: record["target_fingerprint"]}
        assert folder.name == record["run_id"] == experiment.run_id(prints, record["weights"])
        assert record["experiment"] == experiment.key
        for name in ("code", "torch", "cpu", "threads", "seconds_training", "finished", "macs", "mINP", "queries"):
            assert record[name] is not None
        assert not any(isinstance(value, dict | list) for value in record.values())
        log = (folder / "log.txt").read_text()
        assert experiment.model in log
        assert f"mAP {record['mAP']:.4f}" in log
        assert record["steps"] == (2 if experiment.model == MODEL else 0)


def test_a_second_run_does_nothing(finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def never(*_args: Any, **_settings: Any) -> None:
        raise AssertionError("nothing should be run")

    files = {path: path.stat().st_mtime_ns for path in (finished.store / "runs").rglob("*")}
    for module, work in (("attempt", "run"), ("attempt", "count"), ("runner", "open_pixels")):
        monkeypatch.setattr(f"ablations.engine.{module}.{work}", never)
    assert main(finished.words("run")) == 0
    assert capsys.readouterr().out.endswith("10 done\n")
    assert {path: path.stat().st_mtime_ns for path in (finished.store / "runs").rglob("*")} == files


def test_status_of_what_is_done_and_blocked(finished: Finished, capsys) -> None:
    assert main(finished.words("status")) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert total == "10 done, 6 blocked"
    done = {line.split()[0] for line in lines if line.split()[1] == "done"}
    assert done == names(finished.store / "runs")
    blocked = [line for line in lines if line.split()[1] == "blocked"]
    assert len(blocked) == 6
    assert all("pretrained" in line and line.endswith("--pretrained DIR") for line in blocked)


def test_status_of_an_empty_store_leaves_no_trace(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    assert main(words("status", tmp_path / "results", root=data_root)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 missing, 1 blocked"
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_show_starts_reports_in_a_process_of_its_own(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(ablations.__main__, "subprocess", subprocess)
    assert main(finished.words("show")) == 0
    (text,) = (finished.store / "tables").glob("table2-smoke*.txt")
    assert capfd.readouterr().out.startswith(text.read_text())


@pytest.mark.slow
def test_the_module_is_the_command(finished: Finished) -> None:
    # GLIBC_TUNABLES: set, the process does not start itself again for them.
    environment = {**os.environ, "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-m", "ablations", *finished.words("status")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "10 done, 6 blocked"


def test_what_is_printed_before_a_table_stands_before_it(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    # The table is printed by another process: what lies in this one's buffer, as in a pipe, must go first.
    printed: list[str] = []
    stream = SimpleNamespace(write=lambda text: len(text), flush=lambda: printed.append("flush"))
    run = lambda *_args, **_settings: (printed.append("table"), SimpleNamespace(returncode=0))[1]  # noqa: E731
    monkeypatch.setattr(ablations.__main__, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(finished.words("show")) == 0
    assert printed[0] == "flush"
    assert "table" in printed


def test_a_run_does_not_depend_on_what_ran_before(
    finished: Finished, data_root: Path, tmp_path: Path, words: Words
) -> None:
    # In `finished` it came after five others; alone it ends in the same weights, bit for bit.
    store = tmp_path / "results"
    assert main(words("run", store, root=data_root, datasets=("msmt17",))) == 0
    name = run_id(store, MODEL)
    alone, among = (load_file(root / "runs" / name / "model.safetensors") for root in (store, finished.store))
    assert alone.keys() == among.keys()
    assert all(torch.equal(alone[key], among[key]) for key in alone)


def test_more_seeds_add_to_what_is_there(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    store = tmp_path / "results"
    assert main(words("run", store, root=data_root)) == 0
    assert main(words("run", store, "--seeds", "2", root=data_root)) == 0
    assert capsys.readouterr().out.endswith("2 done, 1 finished\n")
    first, second = (store / "runs" / run_id(store, MODEL, seed) / "model.safetensors" for seed in (0, 1))
    assert first.read_bytes() != second.read_bytes()
    frame = table(data_root, store, seeds=2)
    trained = frame[frame["group"] == "scratch"].set_index("seed")["run_id"]
    assert trained.to_dict() == {seed: run_id(store, MODEL, seed) for seed in (0, 1)}


# Pre-trained weights


def test_pretrained_runs_start_from_the_given_weights(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    # Zero epochs: what is ranked are the given weights, so another evaluation of them must agree.
    torch.manual_seed(7)
    network = build_model(MODEL, 3)  # another number of identities, as ImageNet has
    folder, store = tmp_path / "weights", tmp_path / "results"
    save_weights(network, folder / f"{MODEL}.safetensors", {"model": MODEL})
    command = words("run", store, "--pretrained", str(folder), root=data_root, recipe=("epochs=0",))
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "not run:" not in out
    assert out.endswith("3 finished\n")

    dataset = load_dataset("market1501", data_root)
    pixels = open_pixels(dataset, "test", 32, 16, progress=False)
    expected = evaluate_model(network, dataset, pixels, torch.device("cpu")).metrics
    frame = table(data_root, store, pretrained=folder, recipe=("epochs=0",)).set_index("group")
    for metric in ("R1", "mAP"):
        assert frame.loc["pretrained", metric] == pytest.approx(expected[metric])
    assert frame.loc["scratch", "mAP"] != frame.loc["pretrained", "mAP"]
    # Without the folder the newest run of the experiment is shown.
    assert table(data_root, store, recipe=("epochs=0",)).set_index("group").loc["pretrained", "mAP"] == expected["mAP"]

    # The same file under another name is the same run; another file is another run.
    shutil.copytree(folder, tmp_path / "copy")
    assert main(words("run", store, "--pretrained", str(tmp_path / "copy"), root=data_root, recipe=("epochs=0",))) == 0
    assert capsys.readouterr().out.endswith("3 done\n")
    torch.save(build_model(MODEL, 5).state_dict(), (tmp_path / "copy" / f"{MODEL}.pth"))
    (tmp_path / "copy" / f"{MODEL}.safetensors").unlink()
    assert main(words("run", store, "--pretrained", str(tmp_path / "copy"), root=data_root, recipe=("epochs=0",))) == 0
    assert capsys.readouterr().out.endswith("2 done, 1 finished\n")


def test_what_is_missing_blocks_its_own_row_only(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    folder = tmp_path / "weights"
    save_weights(build_model(MODEL, 3), folder / f"{MODEL}.safetensors", {})
    models = (MODEL, "osnet_x0_25")
    command = words("status", tmp_path / "r", "--pretrained", str(folder), root=data_root, models=models)
    assert main(command) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert total == "4 missing, 1 blocked"
    (blocked,) = (line for line in lines if line.split()[1] == "blocked")
    assert "osnet_x0_25 pretrained" in blocked
    assert blocked.endswith(f"needs {folder}/osnet_x0_25.pth or .safetensors")


def test_weights_of_another_network_stop_the_command_before_any_run(
    data_root: Path, tmp_path: Path, words: Words, capsys
) -> None:
    folder, store = tmp_path / "weights", tmp_path / "results"
    save_weights(build_model("osnet_x0_25", 3), folder / f"{MODEL}.safetensors", {})
    assert main(words("run", store, "--pretrained", str(folder), root=data_root)) == 2
    err = capsys.readouterr().err
    assert f"{MODEL}.safetensors" in err
    assert "OSNet" in err
    assert not names(store / "runs")


# Errors before any run


def test_a_broken_image_stops_the_command_before_any_run(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(data_root / "Market-1501-v15.09.15", root / "Market-1501-v15.09.15")
    broken = sorted((root / "Market-1501-v15.09.15" / "bounding_box_train").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(words("run", tmp_path / "results", root=root)) == 2
    assert broken.name in capsys.readouterr().err
    assert not names(tmp_path / "results" / "runs")
    assert not names(tmp_path / "results" / "failed")


@pytest.mark.parametrize(
    ("more", "recipe", "told"),
    [(["--device", "abacus"], SHORT, "device 'abacus'"), ([], ("identities=9",), "a batch needs 9 identities")],
)
def test_what_no_run_could_do_stops_the_command_before_any_run(
    data_root: Path, tmp_path: Path, more: list[str], recipe: tuple[str, ...], told: str, words: Words, capsys
) -> None:
    assert main(words("run", tmp_path / "results", *more, root=data_root, recipe=recipe)) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_store_that_cannot_be_written_is_one_clear_error(
    data_root: Path, tmp_path: Path, words: Words, capsys
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(words("run", tmp_path / "file" / "results", root=data_root)) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: cannot write .*file/results/.*; check the path\n", err)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_costs_the_runs_that_need_it_and_the_next_command_goes_on(
    data_root: Path, tmp_path: Path, finish: Callable[..., int], words: Words, capsys
) -> None:
    # 64 KiB per file hold the colour histogram's run, but no weights.
    store, log = tmp_path / "results", tmp_path / "log"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    assert finish(words("run", store, "--cache", "False", root=data_root), log, limit) == 1
    text = log.read_text()
    assert "Traceback" not in text
    assert text.endswith("1 finished, 1 failed\n")
    assert main(words("status", store, root=data_root)) == 0
    (failed,) = (line for line in capsys.readouterr().out.splitlines() if " failed " in line and MODEL in line)
    assert "File too large" in failed
    assert "ulimit -f" in failed
    assert main(words("run", store, root=data_root)) == 0
    assert capsys.readouterr().out.endswith("1 done, 1 finished\n")


# Failures


def test_a_training_that_diverges_is_recorded_and_tried_again(
    data_root: Path, tmp_path: Path, words: Words, capsys
) -> None:
    store = tmp_path / "results"
    command = words("run", store, root=data_root, recipe=("lr=1e30", "epochs=2", "steps_per_epoch=3"))
    for done in ("1 finished", "1 done"):
        assert main(command) == 1
        out = capsys.readouterr().out
        assert "FAILED: " in out
        assert out.endswith(f"{done}, 1 failed\n")
        (failed,) = names(store / "failed")
        told = (store / "failed" / failed / "error.txt").read_text()
        assert "became" in told
        assert "Lower the learning rate" in told
        assert "Traceback" not in told
    frame = table(data_root, store, recipe=("lr=1e30", "epochs=2", "steps_per_epoch=3")).set_index("group")
    assert frame.loc["scratch", "state"] == "failed"
    assert np.isnan(frame.loc["scratch", "mAP"])  # a failure is not a result
    assert len(Store(store).frame()) == 1
    assert main(["status", *command[1 : command.index("--no-progress")]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 done, 1 failed, 1 blocked"
    (line,) = (line for line in lines if line.split()[1] == "failed")
    assert line.startswith(failed)
    assert line.endswith("--no-resume")


def test_a_failure_does_not_cost_the_others(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Words, capsys
) -> None:
    store = tmp_path / "results"
    command = words("run", store, root=data_root, models=("osnet_x0_25", MODEL))
    train = ablations.engine.attempt.run

    def weak(folder: Path, training: Training, *more: Any) -> Any:
        if training.model == "osnet_x0_25":
            raise RuntimeError("the machine hiccupped")
        return train(folder, training, *more)

    with monkeypatch.context() as patch:
        patch.setattr(ablations.engine.attempt, "run", weak)
        assert main(command) == 1
    out = capsys.readouterr().out
    assert out.endswith("2 finished, 1 failed\n")
    assert out.index("[2/3] osnet_x0_25") < out.index("[3/3] msinet_x0_25")
    (failed,) = names(store / "failed")
    told = (store / "failed" / failed / "error.txt").read_text()
    assert told.startswith("Traceback")  # nobody's mistake: where it happened helps
    assert told.endswith("RuntimeError: the machine hiccupped\n")

    assert main(command) == 0
    assert capsys.readouterr().out.endswith("2 done, 1 finished\n")
    assert not names(store / "failed")
    assert failed in names(store / "runs")


def test_a_table_that_cannot_be_shown_fails_no_run(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Words
) -> None:
    store = tmp_path / "results"
    monkeypatch.setattr(
        ablations.__main__, "subprocess", SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=2))
    )
    assert main(words("run", store, root=data_root)) == 2  # and the command says so
    assert len(names(store / "runs")) == 2
    assert not names(store / "failed")


def test_a_damaged_checkpoint_is_named_and_no_resume_starts_again(
    data_root: Path, tmp_path: Path, words: Words, capsys
) -> None:
    store = tmp_path / "results"
    (name,) = table(data_root, store).query("group == 'scratch'")["run_id"]
    checkpoint = Store(store).partial_folder(name) / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"no checkpoint")
    assert main(words("run", store, root=data_root)) == 1
    assert f"{checkpoint} cannot be read" in capsys.readouterr().out
    assert main(words("run", store, "--no-resume", root=data_root)) == 0
    assert capsys.readouterr().out.endswith("1 done, 1 finished\n")


def test_a_later_attempt_of_a_call_keeps_what_no_resume_began(
    data_root: Path, tmp_path: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, kept = tmp_path / "results", []

    def lost(folder: Path, *_: object) -> None:
        kept.append((folder / "checkpoint.pt").exists())
        (folder / "checkpoint.pt").write_bytes(b"")
        raise UserError("lost")

    monkeypatch.setattr(ablations.engine.attempt, "run", lost)
    again = Attempts.attempt
    monkeypatch.setattr(Attempts, "attempt", lambda *given: [again(*given), again(*given)][1])
    for _ in range(2):
        assert main(words("run", store, "--no-resume", root=data_root)) == 1
    assert kept == [False, True] * 4  # two runs


# Several processes


def test_a_run_of_another_process_is_left_to_it(data_root: Path, tmp_path: Path, words: Words, capsys) -> None:
    store = tmp_path / "results"
    (name,) = table(data_root, store).query("group == 'scratch'")["run_id"]
    lock = Store(store).root / "locks" / name
    lock.parent.mkdir(parents=True)
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main(words("run", store, root=data_root)) == 1
        out = capsys.readouterr().out
        assert f"{MODEL} scratch market1501 seed 0: another process works on it" in out
        assert out.endswith("1 finished, 1 running\n")
        assert main(words("status", store, root=data_root)) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "1 done, 1 running, 1 blocked"
        other.kill()
    assert main(words("run", store, root=data_root)) == 0


@pytest.mark.slow
def test_two_processes_share_a_table(
    data_root: Path, tmp_path: Path, start: Callable[..., Any], finish: Callable[..., int], words: Words
) -> None:
    store, logs = tmp_path / "results", [tmp_path / "a", tmp_path / "b"]
    command = words("run", store, "--seeds", "2", root=data_root, models=(MODEL, "osnet_x0_25"))
    both = [start(command, log) for log in logs]
    for process in both:
        process.join(300)
    texts = [log.read_text() for log in logs]
    # 1: at its end, the other still worked on a run.
    assert all(process.exitcode in (0, 1) for process in both), texts
    assert not any(word in text for text in texts for word in ("Traceback", "FAILED", "error"))
    published = Counter(re.findall(r"-> \S+/runs/(\w+)", "\n".join(texts)))
    assert published == dict.fromkeys(names(store / "runs"), 1)
    assert len(published) == 5
    assert not names(store / "partial")
    assert finish(command, tmp_path / "c") == 0
    assert (tmp_path / "c").read_text().endswith("5 done\n")


# Stops


LONGER = ("epochs=2", "steps_per_epoch=5")


@dataclass
class Whole:
    """The runs of an uninterrupted command, and how long it took."""

    outcome: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory, words: Words, outcome: Outcome) -> Whole:
    store = tmp_path_factory.mktemp("whole") / "results"
    began = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words("run", store, root=data_root, recipe=LONGER)) == 0
    return Whole(outcome(store), time.monotonic() - began)


#: What a process dies at: the call, what its target's path holds, at which such call, before or after it.
DEATHS = {
    "before a checkpoint takes the place of the last": ("replace", "checkpoint.pt", 4, "before"),
    "after a checkpoint": ("replace", "checkpoint.pt", 4, "after"),
    "before the weights are in place": ("replace", "model.safetensors", 2, "before"),
    "before the record is in place": ("replace", "record.json", 3, "before"),
    "with the record in place but not published": ("replace", "record.json", 3, "after"),
    "before the run is published": ("rename", "/runs/", 2, "before"),
    "after the run is published": ("rename", "/runs/", 2, "after"),
}
DEADLY = """
real, count = os.{call}, 0
def deadly(source, target):
    global count
    count += "{part}" in str(target)
    now = count == {number} and "{part}" in str(target)
    if now and "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
os.{call} = deadly
"""


@pytest.mark.parametrize("death", DEATHS)
def test_killed_at_a_tender_moment(
    death: str,
    data_root: Path,
    tmp_path: Path,
    finish: Callable[..., int],
    whole: Whole,
    words: Words,
    outcome: Outcome,
    capsys,
) -> None:
    call, part, number, when = DEATHS[death]
    store, log = tmp_path / "results", tmp_path / "log"
    command = words("run", store, root=data_root, recipe=LONGER)
    prelude = DEADLY.format(call=call, part=part, number=number, when=when)
    assert finish(command, log, prelude) == -signal.SIGKILL, log.read_text()
    assert all(names(store / "runs" / run) == FILES for run in names(store / "runs"))  # whole or not there
    assert main(words("status", store, root=data_root, recipe=LONGER)) == 0
    expected = "2 done, 1 blocked" if death.startswith("after the run") else "1 done, 1 interrupted, 1 blocked"
    assert capsys.readouterr().out.splitlines()[-1] == expected

    assert finish(command, log) == 0, log.read_text()
    assert outcome(store) == whole.outcome
    assert not names(store / "partial")
    for run in names(store / "runs"):  # nothing is left lying about
        assert names(store / "runs" / run) == FILES


@pytest.mark.slow
def test_killed_at_random_moments(
    data_root: Path,
    tmp_path: Path,
    start: Callable[..., Any],
    finish: Callable[..., int],
    whole: Whole,
    words: Words,
    outcome: Outcome,
) -> None:
    store, log = tmp_path / "results", tmp_path / "log"
    command = words("run", store, root=data_root, recipe=LONGER)
    rng = np.random.default_rng()  # other moments every time: each of them must do
    ends = []
    for most in (0.1, 0.3, 0.5, 0.7):  # shares of a whole run, the first so small that it cannot end before
        process = start(command, log)
        process.join(rng.uniform(0, most) * whole.seconds)
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert ends[0] == -signal.SIGKILL
    assert set(ends) <= {-signal.SIGKILL, 0}
    assert finish(command, log) == 0, log.read_text()
    assert "FAILED" not in log.read_text()
    assert outcome(store) == whole.outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_goes_on(
    number: int,
    data_root: Path,
    tmp_path: Path,
    start: Callable[..., Any],
    finish: Callable[..., int],
    whole: Whole,
    words: Words,
    outcome: Outcome,
    wait_for: Callable[..., None],
    capsys,
) -> None:
    store, log = tmp_path / "results", tmp_path / "log"
    command = words("run", store, root=data_root, recipe=LONGER)
    # Slow enough that the signal finds it in the midst of a training on any machine.
    slow = "import time; save = fit.save_checkpoint; fit.save_checkpoint = lambda *a: (save(*a), time.sleep(0.2))"
    process = start(command, log, slow)
    wait_for(lambda: list(store.glob("partial/*/checkpoint.pt")) or process.exitcode is not None)
    assert process.exitcode is None, log.read_text()
    os.kill(process.pid, number)
    process.join(300)
    assert process.exitcode == 130
    text = log.read_text()
    assert text.endswith("interrupted; the state is saved and the same command resumes\n")
    assert "Traceback" not in text
    assert main(words("status", store, root=data_root, recipe=LONGER)) == 0
    assert "1 interrupted" in capsys.readouterr().out.splitlines()[-1]
    assert finish(command, log) == 0
    assert outcome(store) == whole.outcome


@pytest.mark.parametrize("moment", ["resolve", "status_lines", "show"])
def test_ctrl_c_at_any_other_moment_is_no_traceback(
    moment: str, finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def interrupted(*_args: Any, **_settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablations.__main__, moment, interrupted)
    assert main(finished.words("status" if moment == "status_lines" else "run")) == 130
    assert capsys.readouterr().err.startswith("\ninterrupted; ")
