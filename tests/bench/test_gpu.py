"""Time, tables, isolation and merging of `bench gpu`, which need no GPU. What does: tests/gpu."""

import json
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contenders import measured, raced
from support import interrupt

from bench import gpu, latency, steps
from bench.__main__ import main
from bench.gpu import Clock, Measurement, Plan, command, join, pack, unpack
from bench.isolation import Failure, Late, direct, isolated
from bench.latency import Conditions, Contender, measure, races
from bench.networks import build
from bench.tables import Rows
from msinet.errors import UserError
from msinet.models.registry import card_of

# --- Tables --------------------------------------------------------------------------------------

COLUMNS = ("name", "size", "seconds")


def test_rows_are_on_disk_at_once_and_continue(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    rows = Rows(path, COLUMNS, COLUMNS[:2])
    assert not path.exists()
    rows.append({"name": "a, b", "size": 3, "seconds": 1 / 3})
    assert path.read_text() == 'name,size,seconds\n"a, b",3,0.333333\n'
    rows.append({"name": "c\nd", "size": 4, "seconds": None})
    again = Rows(path, COLUMNS, COLUMNS[:2])
    assert {"name": "a, b", "size": "3"} in again
    assert {"name": "a, b", "size": 4} not in again
    again.append({"name": "a, b", "size": 3, "seconds": 9.0})  # known
    assert path.read_text().splitlines()[1:] == ['"a, b",3,0.333333', "c d,4,"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_row_that_was_cut_off_is_measured_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv"
    rows = Rows(path, COLUMNS, COLUMNS[:2])
    for number in range(2):
        rows.append({"name": "a", "size": number, "seconds": 1.25})
    whole = path.read_text()
    path.write_text(whole[:-cut])
    again = Rows(path, COLUMNS, COLUMNS[:2])
    assert len(again.rows) == (1 if cut <= 9 else 0)
    for number in range(2):
        again.append({"name": "a", "size": number, "seconds": 1.25})
    assert path.read_text() == whole


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    Rows(path, COLUMNS, COLUMNS[:1]).append({"name": "a"})
    with pytest.raises(UserError, match="has other columns"):
        Rows(path, (*COLUMNS, "device"), COLUMNS[:1])


# --- Isolation -----------------------------------------------------------------------------------


def test_a_contender_that_fails_costs_itself_alone() -> None:
    found = dict(isolated(measured, ["a", "raises", "bb", "dies", "silent", "exits", "ccc"]))
    assert {item: row["length"] for item, row in found.items() if not isinstance(row, Failure)} == {
        "a": 1,
        "bb": 2,
        "ccc": 3,
    }
    assert found["raises"].startswith("ValueError: this one (contenders.py:")
    assert found["dies"] == "its process ended with signal SIGKILL"
    assert found["exits"] == "its process ended with status 3"
    assert "silent" not in found
    assert len({row["process"] for row in found.values() if not isinstance(row, Failure)}) == 3


def test_a_contender_that_hangs_is_killed() -> None:
    began = time.monotonic()
    found = dict(isolated(measured, ["hangs"], patience=1.0))
    assert found["hangs"] == "killed: no sign of life for 1 s"
    assert time.monotonic() - began < 30


def test_an_item_that_is_stopped_by_the_end_is_late() -> None:
    found = list(isolated(measured, ["hangs", "a"], deadline=time.monotonic() + 1.0))
    ((item, row),) = found  # the others are left out
    assert item == "hangs"
    assert isinstance(row, Late)
    assert row == "not ready after 1 s, when the time was over"


@pytest.mark.parametrize("run", [direct, isolated])
def test_a_race_starts_again_without_the_one_that_failed(run: Callable[..., Any]) -> None:
    found = dict(run(raced, ["a", "bad 1", "b", "bad 2"]))
    assert found["a"] == found["b"] == {"together": 2}
    assert isinstance(found["bad 1"], Failure)
    assert "bad 2 cannot be prepared" in found["bad 2"]


def test_whoever_wants_no_more_rows_ends_the_process() -> None:
    results = isolated(measured, ["a", "hangs"])
    assert next(results)[0] == "a"
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5


# --- Latency -------------------------------------------------------------------------------------

ON_CPU = Conditions(2, (32, 32), "cpu", 5, 0.01)


def test_a_network_that_fails_leaves_the_others_in_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = latency.prepare

    def broken(network: Any, form: str, *rest: Any) -> Any:
        if form == "deployed":
            raise RuntimeError("out of memory")
        return prepare(network, form, *rest)

    monkeypatch.setattr(latency, "prepare", broken)
    monkeypatch.setattr(latency, "REFERENCE", "resnet18_x0_25")
    contenders = [Contender("resnet18_x0_25", form, "fp32") for form in ("eager", "deployed", "channels_last")]
    found = dict(measure(contenders, ON_CPU))
    assert isinstance(found[contenders[1]], Failure)
    assert found[contenders[1]].startswith("RuntimeError: out of memory")
    for contender in (contenders[0], contenders[2]):
        row = found[contender]
        assert not isinstance(row, Failure)
        assert set(row) == set(latency.COLUMNS)
        assert float(str(row["ratio"])) > 0
    assert set(found) == set(contenders)


def test_each_network_has_a_race_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "REFERENCE", "r")
    contenders = [Contender(network, form, "fp32") for form in ("eager", "deployed") for network in "arb"]
    assert races(contenders, apart=True) == [[0, 1, 3, 4], [1, 2, 4, 5]]
    assert races(contenders, apart=False) == [[0, 1, 2, 3, 4, 5]]
    assert races(contenders[1:2], apart=True) == [[0]]


def test_rows_of_a_network_come_before_the_next_one_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    race = latency.race

    def raced_now(runs: dict[int, Any], **settings: Any) -> Any:
        events.append(f"race of {len(runs)}")
        return race(runs, **settings)

    class Notes:
        def at(self, number: int) -> None: ...

        def row(self, number: int, row: dict[str, Any]) -> None:
            assert row["ratio"] > 0
            assert row["ratio_same"] > 0
            events.append(names[number])

    monkeypatch.setattr(latency, "REFERENCE", "resnet18_x0_25")
    monkeypatch.setattr(latency, "race", raced_now)
    names = ["msinet_x0_25", "resnet18_x0_25", "osnet_x0_25"]
    contenders = [Contender(name, "eager", "fp32") for name in names]
    latency.time_contenders(contenders, Notes(), replace(ON_CPU, apart=True))
    assert events == ["race of 2", names[0], "race of 2", names[1], names[2]]
    events.clear()
    latency.time_contenders(contenders, Notes(), replace(ON_CPU, apart=True), deadline=time.monotonic())
    assert events == ["race of 2", names[0], names[1]]  # no time for another race


def test_a_network_that_cannot_be_built_fails_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str, *rest: Any) -> Any:
        if text == "osnet_x0_25":
            raise ValueError("no such option")
        return build(text, *rest)

    monkeypatch.setattr(latency, "REFERENCE", "resnet18_x0_25")
    monkeypatch.setattr(latency, "build", broken)
    contenders = [Contender(name, "eager", "fp32") for name in ("msinet_x0_25", "resnet18_x0_25", "osnet_x0_25")]
    found = dict(measure(contenders, replace(ON_CPU, apart=True)))
    assert [one for one, row in found.items() if isinstance(row, Failure)] == contenders[2:]
    assert set(found) == set(contenders)


def test_latency_keeps_rows_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    seen: list[int] = []

    def made_up(contenders: Sequence[Contender], conditions: Conditions) -> Any:
        out = (tmp_path / "a.part.csv").read_text().count("\n") if seen else 0
        seen.append(out)
        for one in contenders:
            row = dict.fromkeys(latency.COLUMNS, 1.0) | {"model": one.network, "form": one.form, "precision": "fp32"}
            row |= {"batch": conditions.batch, "height": 32, "width": 32}
            yield one, (Failure("Boom: at last") if one.form == "deployed" else row)

    monkeypatch.setattr(latency, "measure", made_up)
    monkeypatch.setattr("bench.machine.rates", lambda _: (1.0, 1.0))
    words = ["latency", "--models", "msinet", "--forms", "eager", "deployed", "--batches", "1", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a.csv")]) == 0
    assert seen == [0, 2]  # the first batch was on disk when the second began
    assert (tmp_path / "a.csv").read_text().count("\n") == 3
    assert (tmp_path / "a.errors.csv").read_text().splitlines()[1:] == [
        f"msinet,deployed,fp32,{batch},256,128,Boom: at last" for batch in (1, 2)
    ]
    assert "not measured: msinet deployed fp32, batch 2: Boom: at last" in capsys.readouterr().out

    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    seen.clear()
    (tmp_path / "a.csv").write_text("old")
    monkeypatch.setattr("bench.machine.rates", stopped)
    assert main([*words, "--out", str(tmp_path / "a.csv")]) == 130
    assert (tmp_path / "a.csv").read_text() == "old"  # as the description next to it


# --- Time ----------------------------------------------------------------------------------------


def test_no_item_begins_that_would_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now)
    clock = Clock(100.0, began=0.0)
    for passed, fits in ((40.0, True), (45.0, True), (59.0, True), (61.0, False)):  # the longest item took 40 s
        now = passed
        clock.note()
        assert clock.fits() is fits


def test_no_part_begins_without_time_for_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.time, "monotonic", lambda: 0.0)
    assert not Clock(gpu.FIRST).fits()
    assert Clock(gpu.FIRST + 1).fits()


def test_a_command_has_a_limit_and_saves_its_state(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_):\n    pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    calls: list[int] = []
    began = time.monotonic()
    status, output = command([sys.executable, "-c", code, str(tmp_path / "a")], 2.0, lambda: calls.append(1))
    assert time.monotonic() - began < 20
    assert status == 130
    assert output.startswith("ready")
    assert output.endswith("(interrupted after 2 s)")
    assert (tmp_path / "a").read_text() == "saved"
    assert calls
    assert command([sys.executable, "-c", "print(1)"], 20.0) == (0, "1\n")


def test_ctrl_c_ends_the_command_that_runs(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\nout = pathlib.Path(sys.argv[1])\n"
        "try:\n    out.write_text('ready')\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    out.write_text('saved')\n"
    )
    out = tmp_path / "a"

    def interrupt_when_ready() -> None:
        while not out.exists() or out.read_text() != "ready":
            time.sleep(0.05)
        interrupt()
        if not ended.wait(15):  # Python drops a Ctrl-C that arrives in a finalizer
            interrupt()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # libraries of earlier tests may have another one
    ended = threading.Event()
    thread = threading.Thread(target=interrupt_when_ready, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        command([sys.executable, "-c", code, str(out)], 60.0)
    ended.set()
    assert out.read_text() == "saved"


# --- The command ---------------------------------------------------------------------------------


def plan(out: Path, **changes: Any) -> Plan:
    small = {"networks": ("msinet_x0_25",), "sizes": ((32, 32),), "batches": (1,), "seconds": 0.02}
    return Plan(out, out / "store", **{"minutes": 30.0, "device": "cpu", **small, **changes})


def test_parts_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        steps, "contenders", lambda *_: [steps.Step("msinet_x0_25", "train", 32, 32, "tf32", "eager", 4)]
    )
    monkeypatch.setattr("bench.retrieval.SIZES", dict.fromkeys(("market1501", "msmt17"), (20, 60, 8, 3)))
    monkeypatch.setattr("bench.latency.REFERENCE", "msinet_x0_25")
    parts = ("steps", "latency", "retrieval")
    Measurement(plan(tmp_path, parts=parts))()
    tables = {name: (tmp_path / f"{name}.csv").read_text() for name in parts}
    assert [text.count("\n") - 1 for text in tables.values()] == [1, 2, 4]
    assert tables["steps"].splitlines()[1].startswith("msinet_x0_25,train,32,32,16,tf32,eager,cpu,")
    monkeypatch.setattr(gpu, "isolated", None)
    monkeypatch.setattr(gpu, "direct", lambda _, items: iter(()) if not items else pytest.fail(f"again: {items}"))
    monkeypatch.setattr(latency, "measure", lambda *_, **__: pytest.fail("again"))
    Measurement(plan(tmp_path, parts=parts))()
    assert {name: (tmp_path / f"{name}.csv").read_text() for name in parts} == tables
    assert not (tmp_path / "errors.csv").exists()
    assert set(json.loads((tmp_path / "machine.json").read_text())["cpu"]["parts"]) == set(parts)


def test_a_part_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[float] = []

    def broken(m: Measurement, clock: Clock) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(gpu.PARTS, "steps", broken)
    for part in ("latency", "memory"):
        monkeypatch.setitem(gpu.PARTS, part, lambda _, clock: ran.append(clock.left()))
    Measurement(plan(tmp_path, parts=("steps", "latency", "memory"), minutes=10.0))()
    assert ran == [pytest.approx(180, abs=12), pytest.approx(600, abs=12)]  # 0.3 of ten minutes; the last gets all
    assert (tmp_path / "errors.csv").read_text().splitlines()[1:] == ["steps,,cpu,RuntimeError: no such thing"]


def test_no_part_begins_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.PARTS, "steps", lambda *_: pytest.fail("begun"))
    Measurement(plan(tmp_path, parts=("steps",), minutes=0.0))()
    assert json.loads((tmp_path / "machine.json").read_text())["cpu"]["parts"] == {"steps": "too little time was left"}


def test_a_second_call_keeps_the_parts_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("steps", "latency"):
        monkeypatch.setitem(gpu.PARTS, part, lambda *_: None)
        Measurement(plan(tmp_path, parts=(part,)))()
    assert json.loads((tmp_path / "machine.json").read_text())["cpu"]["parts"] == {"steps": "0 s", "latency": "0 s"}


def test_tests_that_passed_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, ran, status = "0.2.0+abc", [], 1
    monkeypatch.setattr(gpu, "command", lambda *_: (ran.append(code), (status, "output"))[1])
    monkeypatch.setattr("msinet.environment.code_version", lambda: code)
    monkeypatch.setattr(gpu, "TESTS", Path(__file__).parent)
    for status, times in ((1, 1), (0, 2), (0, 2)):  # noqa: B007  (read by the command)
        Measurement(plan(tmp_path, parts=("tests",)))()
        assert len(ran) == times
    code = "0.2.0+abd"
    Measurement(plan(tmp_path, parts=("tests",)))()
    code = "0.2.0+abd-dirty"
    for _ in range(2):
        Measurement(plan(tmp_path, parts=("tests",)))()
    assert ran == ["0.2.0+abc", "0.2.0+abc", "0.2.0+abd", *(2 * ["0.2.0+abd-dirty"])]


def test_the_store_is_not_in_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(gpu, "Measurement", lambda plan: (plans.append(plan), lambda: None)[1])
    monkeypatch.chdir(tmp_path)
    for out in ("gpu", "."):
        assert main(["gpu", "--out", out, "--device", "cpu"]) == 0
    assert [one.store for one in plans] == [tmp_path / "gpu-store", tmp_path.with_name(f"{tmp_path.name}-store")]


def test_the_networks_of_every_part_fit_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[tuple[str, tuple[int, int]]] = []

    def note_run(self: Measurement, part: str, work: object, found: Sequence[Any], *_: object) -> None:
        one = [(item.network, item[2:4]) if part == "steps" else (item[0], item[4]) for item in found]
        items.extend(one)

    def note_race(contenders: Sequence[Contender], conditions: Conditions, **_: object) -> Iterator[Any]:
        items.extend((one.network, conditions.image) for one in contenders)
        return iter(())

    monkeypatch.setattr(Measurement, "run", note_run)
    monkeypatch.setattr(latency, "measure", note_race)
    for part in ("steps", "latency", "memory"):
        before = len(items)
        Measurement(Plan(tmp_path, tmp_path / "store", 60.0, "cpu", (part,)))()
        assert len(items) > before
    assert {size for _, size in items} == {(64, 32), (256, 128)}
    for text, size in dict.fromkeys(items):
        name, *options = text.split()
        network = build(" ".join([card_of(name).named("smoke"), *options]), 3, size)
        with torch.no_grad():
            network(torch.zeros(2, 3, *size))  # training mode: parts are cut from the map


def test_items_stop_with_the_time_and_failures_are_not_tried_again(tmp_path: Path) -> None:
    m = Measurement(plan(tmp_path))
    rows = Rows(tmp_path / "a.csv", ("length", "device"), ("length", "device"))
    m.run("part", measured, ["a", "raises", "bb"], Clock(time.monotonic() + 100), rows)
    assert [row["length"] for row in rows.rows] == ["1", "2"]
    m.run("part", measured, ["raises", "ccc"], Clock(time.monotonic() + 100), rows)
    assert len(m.errors.rows) == 1
    clock = Clock(time.monotonic() + 100)
    clock.longest = 1000.0  # after the next item
    m.run("part", measured, ["dddd", "eeeee"], clock, rows)
    assert [row["length"] for row in rows.rows] == ["1", "2", "3", "4"]


def test_an_item_without_time_is_left_to_the_next_call(tmp_path: Path) -> None:
    m, rows = Measurement(plan(tmp_path)), Rows(tmp_path / "a.csv", ("length", "device"), ("length", "device"))
    clock = Clock(time.monotonic() + 100)
    m.write("part", "a", {"length": 1}, clock, rows)
    m.write("part", "slow", Late("not ready"), clock, rows)
    assert not m.errors.rows
    m.write("part", "slow", Late("not ready"), Clock(time.monotonic() + 100), rows)  # had all the time
    assert [row["item"] for row in m.errors.rows] == ["slow"]


def test_all_rows_of_the_last_race_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raced_at_the_end(contenders: Sequence[Contender], conditions: Conditions, **_: object) -> Iterator[Any]:
        for one in contenders:
            yield one, {**one._asdict(), "model": one.network, "batch": 1, "height": 32, "width": 32}

    monkeypatch.setattr(latency, "measure", raced_at_the_end)
    m, clock = Measurement(plan(tmp_path)), Clock(time.monotonic() + 100)
    clock.longest = 1000.0
    gpu.measure_latency(m, clock)
    assert (tmp_path / "latency.csv").read_text().count("\n") == 1 + 2  # eager, deployed


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--out", str(tmp_path), "--device", "cpu", "--parts", "latancy"]) == 2
    assert "unknown part 'latancy'" in capsys.readouterr().err


# --- Archive and merging -------------------------------------------------------------------------


def made_store(root: Path, runs: Sequence[str], queries: int = 10) -> Path:
    for run in runs:
        folder = root / "runs" / run
        folder.mkdir(parents=True)
        for name in ("experiment.json", "record.json"):
            (folder / name).write_text(json.dumps({"run_id": run}))
        (folder / "queries.csv").write_bytes(np.random.default_rng(0).bytes(queries))
        (folder / "model.safetensors").write_bytes(bytes(1000))
    return root


def test_the_archive_has_the_small_files_and_gives_them_back(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", ["a", "b"])
    (store / "failed" / "c").mkdir(parents=True)
    (store / "failed" / "c" / "error.txt").write_text("boom")
    pack(store, tmp_path / "runs.tar.gz")
    other = made_store(tmp_path / "other", ["b"], queries=3)
    unpack(tmp_path / "runs.tar.gz", other)
    assert (other / "runs" / "a" / "record.json").read_text() == '{"run_id": "a"}'
    assert (other / "runs" / "a" / "queries.csv").stat().st_size == 10
    assert (other / "runs" / "b" / "queries.csv").stat().st_size == 3  # its own
    assert not (other / "runs" / "a" / "model.safetensors").exists()
    with tarfile.open(tmp_path / "runs.tar.gz") as tar:
        assert "failed/c/error.txt" in tar.getnames()


def test_a_file_that_disappears_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, add = made_store(tmp_path / "store", ["a", "b"]), tarfile.TarFile.add

    def add_and_remove(tar: tarfile.TarFile, path: Path, name: str) -> None:
        add(tar, path, name)
        (store / "runs" / "b" / "record.json").unlink(missing_ok=True)

    monkeypatch.setattr(tarfile.TarFile, "add", add_and_remove)
    pack(store, tmp_path / "runs.tar.gz")
    with tarfile.open(tmp_path / "runs.tar.gz") as tar:
        names = {name for name in tar.getnames() if name.endswith(".json")}
    assert names == {"runs/a/experiment.json", "runs/a/record.json", "runs/b/experiment.json"}


def test_a_run_is_unpacked_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, store, made = tmp_path / "runs.tar.gz", tmp_path / "new", []
    pack(made_store(tmp_path / "store", ["a", "b"]), archive)
    makefile = tarfile.TarFile.makefile

    def full(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        made.append(member.name)
        if len(made) == 5:  # a run has three files
            raise OSError(28, "No space left on device")
        makefile(tar, member, path)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "makefile", full)
        with pytest.raises(OSError, match="No space left"):
            unpack(archive, store)
    (whole,) = (store / "runs").iterdir()
    assert len(list(whole.iterdir())) == 3
    assert [path.name for path in store.iterdir()] == ["runs"]
    unpack(archive, store)
    assert {path.name: len(list(path.iterdir())) for path in (store / "runs").iterdir()} == {"a": 3, "b": 3}


def test_a_run_without_a_record_is_not_unpacked(tmp_path: Path) -> None:
    made = made_store(tmp_path / "store", ["a", "b"])
    (made / "runs" / "b" / "record.json").unlink()
    pack(made, tmp_path / "runs.tar.gz")
    unpack(tmp_path / "runs.tar.gz", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "runs").iterdir()] == ["a"]


def test_the_archive_stays_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made_store(tmp_path / "store", ["a"], queries=2000)
    monkeypatch.setattr(gpu, "ARCHIVE_LIMIT", 1000)
    pack(store, tmp_path / "runs.tar.gz")
    with tarfile.open(tmp_path / "runs.tar.gz") as tar:
        assert "runs/a/record.json" in tar.getnames()
        assert "runs/a/queries.csv" not in tar.getnames()


def test_the_output_of_two_machines_is_joined(tmp_path: Path) -> None:
    for number, machine in enumerate(("H100", "H200")):
        out = tmp_path / machine
        rows = Rows(out / "steps.csv", steps.COLUMNS, steps.KEYS)
        for network in ("msinet", "osnet"):
            rows.append({"network": network, "task": "train", "device": machine, "loop_ms": 1.0 + number})
        errors = Rows(out / "errors.csv", gpu.ERROR_COLUMNS, gpu.ERROR_COLUMNS[:3])
        errors.append({"part": "steps", "item": "x", "device": machine, "error": "boom"})
        parts = {"shared": {"parts": {machine: "3 s"}}}
        (out / "machine.json").write_text(json.dumps({machine: {"torch": "2.11"}, **parts}))
        (out / "tests.txt").write_text(f"== {machine}\n")
        pack(made_store(tmp_path / f"store{number}", ["shared", machine]), out / "runs.tar.gz")
    joined = tmp_path / "joined"
    for _ in range(2):  # joining again changes nothing
        join([tmp_path / "H100", tmp_path / "H200"], joined, joined / "store")
        assert (joined / "steps.csv").read_text().count("\n") == 5
        assert (joined / "errors.csv").read_text().count("boom") == 2
        machines = json.loads((joined / "machine.json").read_text())
        assert set(machines) == {"H100", "H200", "shared"}
        assert machines["shared"]["parts"] == {"H100": "3 s", "H200": "3 s"}
        assert (joined / "tests.txt").read_text() == "== H100\n== H200\n"
        assert {path.name for path in (joined / "store" / "runs").iterdir()} == {"shared", "H100", "H200"}
    files = [path for path in joined.iterdir() if path.is_file()]
    assert len(files) <= 8
    with pytest.raises(UserError, match="is no folder of `bench gpu`"):
        join([tmp_path / "nowhere"], joined, joined / "store")
