"""A run is in the store whole or not at all, whatever stops the process that works on it."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablations.engine.experiment import Experiment
from ablations.engine.options import ClusterOptions
from ablations.engine.resolve import Run
from ablations.engine.status import seconds_left
from ablations.engine.store import Store
from msinet.errors import Busy, UserError
from msinet.training.recipe import Recipe, Schedule, Search, with_settings

EXPERIMENT = Experiment(
    "osnet", "market1501", "market1501", Recipe(schedule=Schedule(epochs=3)), "smoke", options=(("ratio", 2),)
)
RECORD: dict[str, Any] = {"mAP": 0.5, "R1": 0.25, "weights": None, "seconds_training": 1.5}
#: What a training leaves for the store to publish.
FILES = {"log.txt": "a line\n", "history.csv": "epoch\n1\n", "model.safetensors": "weights"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def work(store: Store, run_id: str) -> Path:
    """A partial run as a training leaves it."""
    folder = store.partial_folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@contextmanager
def elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock file for the block."""
    code = (
        "import filelock, pathlib, sys; path = pathlib.Path(sys.argv[1]); path.parent.mkdir(parents=True)\n"
        "with filelock.FileLock(path): print('held', flush=True); sys.stdin.read()"
    )
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


# Publishing


def test_cluster_options_need_a_cluster() -> None:
    assert not ClusterOptions().remote
    assert ClusterOptions(on="slurm", partition="gpu").remote
    for changes in ({"partition": "gpu"}, {"threads": 2}, {"address": "auto"}):
        with pytest.raises(UserError, match="no effect without --on ray or slurm"):
            ClusterOptions(**changes)  # type: ignore[arg-type]


def test_a_published_run_holds_all_of_it(store: Store) -> None:
    work(store, "r1")
    store.publish("r1", EXPERIMENT, RECORD)
    folder = store.run_folder("r1")
    assert names(folder) == sorted([*FILES, "experiment.json", "record.json"])
    for name, text in FILES.items():
        assert (folder / name).read_text() == text
    record = json.loads((folder / "record.json").read_text())
    assert record == {"run_id": "r1", "experiment": EXPERIMENT.key, **RECORD}
    experiment = json.loads((folder / "experiment.json").read_text())
    assert experiment["model"] == "osnet"
    assert experiment["recipe"]["epochs"] == 3
    assert experiment["options"] == [["ratio", 2]]
    assert not store.partial_folder("r1").exists()


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_publishing_is_all_or_nothing_at_every_step(
    store: Store, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    # Every call that changes the disk fails in turn: nothing may be visible then, and the next attempt must do.
    for step in range(100):
        calls = 0

        def counted(real: Any, step: int = step) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == step + 1:
                    raise failure
                return real(*args, **kwargs)

            return call

        folder = work(store, run_id := f"r{step}")
        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                store.publish(run_id, EXPERIMENT, RECORD)
            except (OSError, UserError, KeyboardInterrupt):
                assert not store.done(run_id)
                assert run_id not in store.frame().index
                assert set(FILES) <= set(names(folder))  # nothing of the training is lost
        if not store.done(run_id):
            store.publish(run_id, EXPERIMENT, RECORD)
        assert names(store.run_folder(run_id)) == sorted([*FILES, "experiment.json", "record.json"])
        assert run_id in store.frame().index
        if calls <= step:  # every step has failed once
            break
    assert step > 8  # experiment.json, record.json: sync, rename, sync; every file and the folder; the rename


def test_a_run_is_on_the_disk_before_it_is_visible(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work(store, "r1")
    synced: set[int] = set()  # inodes, which a rename does not change
    before: set[int] = set()
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (before.update(synced), rename(a, b)))
    store.publish("r1", EXPERIMENT, RECORD)
    folder = store.run_folder("r1")
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} <= before


def test_leftovers_of_a_killed_process_are_not_published(store: Store) -> None:
    folder = work(store, "r1")
    (folder / ".checkpoint.0badc0de.tmp.pt").write_text("half of it")  # msinet.io's name for a file in the making
    store.publish("r1", EXPERIMENT, RECORD)
    assert names(store.run_folder("r1")) == sorted([*FILES, "experiment.json", "record.json"])


# States


def test_a_run_goes_from_missing_to_done(store: Store) -> None:
    assert store.state("r1") == "missing"
    assert not store.root.exists()  # asking leaves no trace
    work(store, "r1")
    assert store.state("r1") == "interrupted"
    store.publish("r1", EXPERIMENT, RECORD)
    assert store.state("r1") == "done"
    assert store.state("r2") == "missing"


def test_a_run_of_another_process_is_running_until_that_process_ends(store: Store) -> None:
    with elsewhere(store.root / "locks" / "r1") as process:
        work(store, "r1")
        assert store.state("r1") == "running"
        assert store.state("r2") == "missing"
        with pytest.raises(Busy, match=r"run r1 is in progress in another process"), store.lock("r1"):
            pass
        process.kill()  # no chance to tidy up
        process.wait()
        assert store.state("r1") == "interrupted"
        with store.lock("r1"):  # free again
            pass


def test_the_state_in_a_read_only_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work(store, "r1")
    with store.lock("r1"):
        pass
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(store.root)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(UserError, match="Permission denied"), store.lock("r1"):
        pass
    assert store.state("r1") == "interrupted"


def test_an_attempt_waits_for_a_lock_that_is_held_for_a_moment(store: Store) -> None:
    with elsewhere(store.root / "locks" / "r1") as process:
        threading.Timer(0.3, process.kill).start()
        with pytest.raises(Busy), store.lock("r1", patience=0.1):
            pass
        with store.lock("r1", patience=30):
            assert process.wait() != 0


def test_a_failure_is_told_and_is_no_result(store: Store) -> None:
    work(store, "r1")  # a training that diverges leaves its log behind
    where = store.fail("r1", EXPERIMENT, "Traceback\n  somewhere\nValueError: the reason\n")
    assert store.state("r1") == "failed"
    assert store.error("r1") == "ValueError: the reason"
    assert "somewhere" in where.read_text()
    assert json.loads((where.parent / "experiment.json").read_text())["model"] == "osnet"
    assert not store.done("r1")
    assert store.frame().empty


def test_a_failure_before_any_work_is_told_as_well(store: Store) -> None:
    store.fail("r1", EXPERIMENT, "no such weights")
    assert store.state("r1") == "failed"
    assert store.error("r1") == "no such weights"
    assert store.error("r2") == ""


def test_a_later_success_removes_the_failure(store: Store) -> None:
    store.fail("r1", EXPERIMENT, "the reason")
    store.fail("r2", EXPERIMENT, "another reason")
    work(store, "r1")
    store.publish("r1", EXPERIMENT, RECORD)
    assert store.state("r1") == "done"
    assert store.error("r1") == ""
    assert names(store.root / "failed") == ["r2"]


def test_the_remaining_time_includes_pseudo_labels(store: Store) -> None:
    work(store, "r1")
    store.publish("r1", EXPERIMENT, RECORD | {"seconds_labelling": 8.0, "seconds_evaluating": 2.0})
    runs = [Run(EXPERIMENT, "r1", "done"), Run(EXPERIMENT, "r2", "missing"), Run(EXPERIMENT, "r3", "running")]
    assert seconds_left(runs, store) == pytest.approx(1.5 * (1.5 + 8 + 2))


def test_the_remaining_time_of_a_search_is_not_that_of_trainings(store: Store) -> None:
    search = replace(EXPERIMENT, recipe=replace(EXPERIMENT.recipe, search=Search()))
    for run_id, experiment, seconds in (("r1", EXPERIMENT, 2.0), ("r2", search, 50.0)):
        work(store, run_id)
        store.publish(run_id, experiment, RECORD | {"seconds_training": seconds, "seconds_evaluating": 0.0})
    runs = [Run(EXPERIMENT, "r1", "done"), Run(search, "r2", "done")]
    for experiment, seconds in ((EXPERIMENT, 2.0), (search, 50.0)):
        assert seconds_left([*runs, Run(experiment, "r3", "missing")], store) == seconds
    across = replace(EXPERIMENT, same_weights=True)  # ranked with other weights: of no known kind, so the mean of all
    assert seconds_left([*runs, Run(across, "r3", "missing")], store) == 26.0


# The frame


def test_a_store_without_runs_has_an_empty_frame(store: Store) -> None:
    frame = store.frame()
    assert frame.empty
    assert frame.index.name == "run_id"
    assert not store.root.exists()


def test_the_frame_is_read_once_and_again_after_a_publication(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work(store, "r1")
    store.publish("r1", EXPERIMENT, RECORD)
    read: list[str] = []
    row = Store._row
    monkeypatch.setattr(Store, "_row", lambda self, folder: (read.append(folder.name), row(self, folder))[1])
    assert list(store.frame().index) == list(store.frame().index) == ["r1"]
    assert read == ["r1"]
    work(store, "r2")
    store.publish("r2", EXPERIMENT, RECORD)
    assert list(store.frame().index) == ["r1", "r2"]


def test_the_frame_has_one_flat_row_per_run(store: Store) -> None:
    other = Experiment("cdnet", "msmt17", "market1501", with_settings(Recipe(), {"pad": 3}), "smoke", seed=2)
    for run_id, experiment, metric in (("r2", EXPERIMENT, 0.25), ("r1", other, 0.75)):
        work(store, run_id)
        store.publish(run_id, experiment, RECORD | {"R1": metric})
    work(store, "r3")  # in progress
    store.fail("r4", EXPERIMENT, "failed")
    (store.root / "runs" / ".DS_Store").write_text("")  # a file manager was here
    frame = store.frame()
    assert list(frame.index) == ["r1", "r2"]
    assert frame.columns.is_unique
    assert list(frame["R1"]) == [0.75, 0.25]
    assert list(frame["model"]) == ["cdnet", "osnet"]
    assert list(frame["seed"]) == [2, 0]
    assert list(frame["experiment"]) == [other.key, EXPERIMENT.key]
    assert list(frame["recipe.epochs"]) == [350, 3]
    assert list(frame["recipe.pad"]) == [3, 10]
    assert pd.isna(frame.loc["r1", "option.ratio"])
    assert frame.loc["r2", "option.ratio"] == 2
    assert not any(isinstance(value, dict) for value in frame.iloc[0])


@pytest.mark.parametrize(
    ("name", "text"), [("record.json", '{"mAP": 0.'), ("record.json", None), ("experiment.json", None), ("x", None)]
)
def test_a_damaged_run_is_named(store: Store, name: str, text: str | None) -> None:
    work(store, "r1")
    store.publish("r1", EXPERIMENT, RECORD)
    path = store.run_folder("r1") / name
    if name == "x":  # a folder that somebody put there
        (store.root / "runs" / "mine").mkdir()
    elif text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=r"runs/(r1|mine)\b.*remove it"):
        store.frame()


# A store that cannot be written


def test_a_store_in_the_place_of_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    store = Store(tmp_path / "file" / "results")
    for attempt in (lambda: store.lock("r1").__enter__(), lambda: store.fail("r1", EXPERIMENT, "reason")):
        with pytest.raises(UserError, match=r"cannot write .*file/results.*; check the path"):
            attempt()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    work(store, "r1")
    monkeypatch.setattr(os, "fsync", full)
    for attempt in (store.publish, store.fail):
        with pytest.raises(UserError, match=r"cannot write .*r1/.*No space left.*MiB free.*free some space"):
            attempt("r1", EXPERIMENT, RECORD if attempt == store.publish else "reason")  # type: ignore[arg-type]
    assert not store.done("r1")
