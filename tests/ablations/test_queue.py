"""The queue: nothing is lost, nothing is run twice, no secret is shown; workers end as they should."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from ablations.__main__ import main
from ablations.engine.experiment import Experiment
from ablations.engine.job import Job, jobs
from ablations.engine.queue import Queue, QueueError, enqueue, masked, open_storage, rebuilt, run_proxy, shown
from ablations.engine.request import Request
from ablations.engine.resolve import resolve
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.errors import UserError
from msinet.training.recipe import Recipe, Schedule

EXPERIMENT = Experiment("osnet", "market1501", "market1501", Recipe(schedule=Schedule(epochs=3)), "smoke")
WAITING, RUNNING, COMPLETE, FAIL = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL
A, B, C = (Job(letter * 12, "table2", EXPERIMENT.to_json() | {"seed": seed}) for seed, letter in enumerate("abc"))
LONGER = ("epochs=2", "steps_per_epoch=5")
Words = Callable[..., list[str]]
STORAGES = [
    "journal",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("grpc", marks=(pytest.mark.postgres, pytest.mark.slow)),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture(scope="module")
def grpc(postgres: str) -> Iterator[str]:
    """A proxy before the test server, in a process of its own."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=run_proxy, args=(postgres, "127.0.0.1", port))
    process.start()
    url, end = f"grpc://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            open_storage(url)
            break
        except QueueError:  # it is still importing
            assert process.is_alive()
            assert time.monotonic() < end
    yield url
    process.kill()
    process.join()


@pytest.fixture(params=STORAGES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "journal") if request.param == "journal" else request.getfixturevalue(request.param)


def states(queue: Queue) -> dict[str, list[str]]:
    """States of the attempts at each run, in order."""
    found: dict[str, list[str]] = {}
    for trial in queue.trials():
        found.setdefault(trial.user_attrs["run_id"][0], []).append(trial.state.name)
    return found


def publish(store: Store, run_id: str) -> None:
    store.partial_folder(run_id).mkdir(parents=True)
    store.publish(run_id, EXPERIMENT, {"mAP": 0.5})


def job_of(trial: FrozenTrial) -> Job:
    return Job.from_attrs(trial.user_attrs)


def taken(queue: Queue, worker: str = "w", lease: float = 90.0) -> FrozenTrial:
    trial = queue.take(worker, lease)
    assert trial is not None
    return trial


# The life of an attempt


def test_a_run_waits_is_taken_and_ends(where: str, store: Store) -> None:
    queue = Queue(where, store, create=True)
    assert enqueue(queue, [A, B]) == {"added": 2}
    assert enqueue(queue, [A, B, C]) == {"queued": 2, "added": 1}  # again changes nothing
    trial = taken(queue)
    assert job_of(trial) == A  # in the order in which they came
    assert enqueue(queue, [A]) == {"queued": 1}
    publish(store, A.run_id)
    queue.finish(trial)
    assert states(queue) == {"a": ["COMPLETE"], "b": ["WAITING"], "c": ["WAITING"]}
    assert enqueue(queue, [A]) == {"done": 1}
    shutil.rmtree(store.run_folder(A.run_id))  # the files are the truth
    assert enqueue(queue, [A]) == {"added": 1}
    other = Queue(where, store)  # as a worker opens it
    assert [job_of(taken(other)) for _ in range(3)] == [B, C, A]
    assert other.take("w", 90) is None


def test_each_run_is_taken_by_one(where: str, store: Store) -> None:
    everything = [Job(f"{number:012d}", "table2", {}) for number in range(20)]
    enqueue(Queue(where, store, create=True), everything)
    found: list[str] = []

    def take() -> None:
        queue = Queue(where, store)
        while (trial := queue.take(threading.current_thread().name, 90)) is not None:
            found.append(job_of(trial).run_id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [job.run_id for job in everything]


def test_a_failed_attempt_is_followed_by_another_and_the_last_one_by_none(where: str, store: Store) -> None:
    queue = Queue(where, store, create=True)
    enqueue(queue, [A, B])
    assert queue.fail(taken(queue), "it broke", following=2)
    assert states(queue) == {"a": ["FAIL", "WAITING"], "b": ["WAITING"]}
    assert job_of(taken(queue)) == B  # the others first
    trial = taken(queue)
    assert job_of(trial).attempt == 2
    assert queue.fail(trial, "it broke again", following=None)
    assert not queue.fail(trial, "twice", following=3)  # it has ended
    assert states(queue) == {"a": ["FAIL", "FAIL"], "b": ["RUNNING"]}
    assert [t.user_attrs.get("error") for t in queue.trials()] == ["it broke", None, "it broke again"]
    assert enqueue(queue, [A], again=False) == {"failed": 1}
    assert enqueue(queue, [A]) == {"added": 1}  # who asks once more wants it tried once more
    assert job_of(taken(queue)).attempt == 1


def test_a_run_that_another_process_works_on_is_passed_over(store: Store, tmp_path: Path) -> None:
    # By python -m ablations run in a terminal, say.
    queue = Queue(str(tmp_path / "journal"), store, create=True)
    enqueue(queue, [A, B])
    with store.lock(A.run_id):
        assert job_of(taken(queue)) == B
        assert queue.take("w", 90) is None
    assert job_of(taken(queue)) == A


def test_a_run_that_is_queued_twice_is_not_run_by_two(where: str, store: Store) -> None:
    queue = Queue(where, store, create=True)
    queue.add(A, A)
    first = taken(queue)
    assert queue.take("other", 90) is None
    publish(store, A.run_id)
    queue.finish(first)
    assert job_of(taken(queue)) == A  # whose worker finds it done


# Signs of life


def test_an_attempt_is_ended_when_its_worker_is_silent_for_its_lease(where: str, store: Store) -> None:
    queue, observer = Queue(where, store, create=True), Queue(where, store)
    enqueue(queue, [A, B])
    silent, alive = taken(queue, "silent", 0.6), taken(queue, "alive", 0.6)
    end, count = time.monotonic() + 1.5, 0
    retired: list[FrozenTrial] = []
    while time.monotonic() < end:
        count += 1
        assert queue.beat(alive, "alive", 0.6, count)
        retired += observer.retire(0.6, attempts=3)
        assert not retired or time.monotonic() > end - 1  # not before the lease is over
        time.sleep(0.05)
    assert [job_of(trial) for trial in retired] == [A]
    assert states(queue) == {"a": ["FAIL", "WAITING"], "b": ["RUNNING"]}
    assert not queue.beat(silent, "silent", 0.6, 1)  # who comes back learns that it lost the run
    assert queue.trials()[0].user_attrs["error"] == "worker silent was lost"
    assert queue.trials()[2].user_attrs["attempt"] == 2


@pytest.mark.parametrize("at", ["1999-12-31T23:59:59+00:00", "2199-01-01T00:00:00+00:00"])
def test_clocks_of_other_machines_do_not_matter(store: Store, tmp_path: Path, at: str) -> None:
    queue = Queue(str(tmp_path / "journal"), store, create=True)
    enqueue(queue, [A])
    trial = taken(queue)

    def beat(count: int) -> None:  # of a machine whose clock is wrong by decades
        queue._set(trial, "beat", {"worker": "skewed", "lease": 0.4, "count": count, "at": at})

    for count in range(8):
        beat(count)
        assert not queue.retire(0.4, attempts=3)
        time.sleep(0.1)
    time.sleep(0.4)
    assert len(queue.retire(0.4, attempts=3)) == 1


def test_a_worker_killed_before_its_first_sign_is_noticed(store: Store, tmp_path: Path) -> None:
    queue = Queue(str(tmp_path / "journal"), store, create=True)
    enqueue(queue, [A])
    (trial,) = queue.trials()
    queue._storage.set_trial_state_values(trial._trial_id, RUNNING)
    assert not queue.retire(0.2, attempts=1)
    time.sleep(0.3)
    assert len(queue.retire(0.2, attempts=1)) == 1
    assert states(queue) == {"a": ["FAIL"]}  # its last attempt


def test_a_follower_that_was_never_added_is_added_once(where: str, store: Store) -> None:
    # Who ended the attempt was killed in the very moment before.
    queue = Queue(where, store, create=True)
    enqueue(queue, [A, B])
    for trial in (taken(queue), taken(queue)):
        queue._set(trial, "next", 2 if job_of(trial) == A else None)
        queue._end(trial, FAIL)
    for _ in range(2):
        queue.repair()
        assert states(queue) == {"a": ["FAIL", "WAITING"], "b": ["FAIL"]}


# A queue that is gone


def test_a_lost_queue_is_rebuilt_from_the_files(where: str, store: Store, tmp_path: Path) -> None:
    enqueue(Queue(where, store, create=True), [A, B, C])
    queue = Queue(where, store)
    publish(store, A.run_id)
    queue.finish(taken(queue))
    if "://" in where:
        queue._storage.delete_study(queue._study)
    else:
        Path(where).unlink()
    with pytest.raises(QueueError):
        queue.trials()
    with pytest.raises(QueueError, match="enqueue creates it"):
        queue.open()
    assert enqueue(rebuilt(where, store), [A, B, C]) == {"done": 1, "added": 2}
    queue.open()  # a worker that waited for it goes on
    assert job_of(taken(queue)) == B


def test_another_journal_in_the_place_of_the_old_one_is_noticed(store: Store, tmp_path: Path) -> None:
    where = tmp_path / "journal"
    queue = Queue(str(where), store, create=True)
    enqueue(queue, [A])
    where.rename(tmp_path / "old")
    enqueue(Queue(str(where), store, create=True), [B])
    with pytest.raises(QueueError, match="was removed"):
        queue.trials()
    queue.open()
    assert job_of(taken(queue)) == B


def test_an_entry_that_was_cut_off_costs_nothing(store: Store, tmp_path: Path) -> None:
    # A process killed while it wrote, or a full disk.
    where = tmp_path / "journal"
    queue = Queue(str(where), store, create=True)
    enqueue(queue, [A])
    whole = where.read_bytes()
    entry = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(entry)):
        where.write_bytes(whole + entry[:cut])
        assert states(Queue(str(where), store)) == {"a": ["WAITING"]}
    Queue(str(where), store).add(B)
    assert where.read_bytes().startswith(whole)
    assert states(Queue(str(where), store)) == {"a": ["WAITING"], "b": ["WAITING"]}


def test_a_damaged_journal_is_put_aside_and_rebuilt(store: Store, tmp_path: Path) -> None:
    where = tmp_path / "journal"
    enqueue(Queue(str(where), store, create=True), [A, B])
    lines = where.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + lines[1][:20] + b"\x00\xff\n" + b"".join(lines[2:])
    where.write_bytes(damaged)
    with pytest.raises(QueueError, match=r"journal is damaged \(.*\); python -m ablations enqueue rebuilds it"):
        Queue(str(where), store)
    publish(store, A.run_id)
    assert enqueue(rebuilt(str(where), store), [A, B]) == {"done": 1, "added": 1}
    (aside,) = tmp_path.glob("journal.damaged-*")
    assert aside.read_bytes() == damaged


@pytest.mark.parametrize("text", ["my notes", "my notes\nof today\n", "\n", "{}"])
def test_a_file_that_is_no_journal_is_left_alone(store: Store, tmp_path: Path, text: str) -> None:
    where = tmp_path / "notes.txt"
    where.write_text(text)
    with pytest.raises(QueueError, match=r"notes\.txt is not the journal"):
        rebuilt(str(where), store)
    assert where.read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "results"}


def test_a_queue_belongs_to_one_store(where: str, store: Store, tmp_path: Path) -> None:
    enqueue(Queue(where, store, create=True), [A])
    other = Store(tmp_path / "elsewhere")
    with pytest.raises(QueueError, match=r"elsewhere has no queue; pass --store"):
        Queue(where, other)
    assert not other.root.exists()
    assert not Queue(where, other, create=True).trials()
    shutil.copytree(store.root, tmp_path / "mounted")  # the same store under another path
    assert states(Queue(where, Store(tmp_path / "mounted"))) == {"a": ["WAITING"]}


# Storages that are refused, and passwords


@pytest.mark.parametrize("where", ["sqlite:///queue.db", "sqlite://"])
def test_sqlite_is_refused(store: Store, where: str) -> None:
    with pytest.raises(QueueError, match="SQLite gives one trial to two workers; give the path of a journal file"):
        Queue(where, store, create=True)
    assert not store.root.exists()


SECRET = "pa55/w@rd{x}"
URLS = {
    "no driver": f"oracle://me:{SECRET.replace('@', '%40')}@localhost/db",
    "no port": f"postgresql+psycopg://me:{SECRET}@localhost:port/db",
    "nobody there": "postgresql+psycopg://me:pa55%2Fw%40rd%7Bx%7D@127.0.0.1:9/db",
    "in the query": "postgresql+psycopg://127.0.0.1:9/db?user=me&password=pa55%2Fw%40rd%7Bx%7D",
    "no URL": f"://me:{SECRET}@",
    "proxy": "grpc://me:pa55%2Fw%40rd%7Bx%7D@127.0.0.1:port",
}


@pytest.mark.parametrize("url", URLS.values(), ids=list(URLS))
def test_a_password_is_never_told(url: str, store: Store, capsys) -> None:
    with pytest.raises(UserError) as caught:
        Queue(url, store, create=True)
    text = "".join(traceback.format_exception(caught.value, chain=True)) + shown(url)
    text = "\n".join(line for line in text.splitlines() if "Queue(url" not in line)
    for secret in ("pa55", "w@rd", "w%40rd"):
        assert secret not in text


@pytest.mark.postgres
def test_a_wrong_password_is_told_without_it(postgres: str, store: Store) -> None:
    url = sqlalchemy.make_url(postgres).set(password=SECRET).render_as_string(hide_password=False)
    with pytest.raises(QueueError, match="password authentication failed") as caught:
        Queue(url, store, create=True)
    assert "pa55" not in str(caught.value)
    assert "tester:***@127.0.0.1" in str(caught.value)


@given(st.text(min_size=1), st.sampled_from(["postgresql+psycopg", "mysql"]))
def test_any_password_is_masked_wherever_it_stands(password: str, driver: str) -> None:
    url = sqlalchemy.URL.create(driver, "me", password, "host", 5432, "db").render_as_string(hide_password=False)
    assert shown(url) == f"{driver}://me:***@host:5432/db"
    assert masked(f"cannot reach {url}", url) in (f"cannot reach {shown(url)}", masked(f"cannot reach {url}", url))
    assert url not in masked(f"cannot reach {url}!", url)


@pytest.mark.postgres
def test_no_file_and_no_row_holds_the_password(
    postgres: str, store: Store, data_root: Path, words: Words, capsys
) -> None:
    assert main([*words("enqueue", store.root, root=data_root, recipe=LONGER), "--storage", postgres]) == 0
    out, err = capsys.readouterr()
    queue = Queue(postgres, store)
    rows = json.dumps([trial.user_attrs for trial in queue.trials()])
    files = "".join(path.read_text() for path in store.root.rglob("*") if path.is_file())
    for text in (out, err, rows, files):
        assert "geheim" not in text
    assert "tester:***@" in out


def test_a_missing_driver_is_named_with_the_remedy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(UserError, match=r"needs psycopg, which is not installed; pip install -e '\.\[cluster\]'"):
        open_storage("postgresql://me@localhost/db")


# Jobs


def test_a_job_carries_its_experiment_and_the_paths_of_its_inputs(data_root: Path, tmp_path: Path) -> None:
    request = Request(
        "smoke",
        data_root,
        ("market1501", "veri776"),
        models=("msinet_x0_25",),
        seeds=2,
        recipe=("epochs=2", "milestones=(1,2)"),
        whole=True,
        store=tmp_path / "here",
    )
    resolution = resolve(find_study("table2"), request, Store(request.store))
    queued = jobs(resolution)
    known = [one for one in resolution.runs() if one.state != "blocked"]
    assert [job.run_id for job in queued] == [one.run_id for one in known]
    for job, one in zip(queued, known, strict=True):
        again = Job.from_attrs({"job": json.loads(json.dumps(job.to_json()))})
        assert again == job
        assert again.parse(again.experiment) == one.experiment
        there = again.request(Store(tmp_path / "there"))
        assert (there.profile, there.root, there.pretrained) == ("smoke", data_root, None)
        assert there.store == tmp_path / "there"
        assert set(there.datasets) == {one.experiment.source, one.experiment.target}


def test_the_job_of_a_search_carries_its_trainings(data_root: Path, tmp_path: Path) -> None:
    request = Request("smoke", data_root, ("msmt17",), store=tmp_path)
    resolution = resolve(find_study("figure5a"), request, Store(tmp_path))
    for job in jobs(resolution):
        (training,) = map(job.parse, job.trainings)
        assert training.genotype_from == job.parse(job.experiment)
        assert training.genotype_from is not None
        assert training.genotype_from.recipe.search is not None


def test_a_search_that_two_studies_want_has_the_trainings_of_both(store: Store, tmp_path: Path) -> None:
    queue = Queue(str(tmp_path / "journal"), store, create=True)
    first, second = ({"model": name} for name in ("one", "two"))
    assert enqueue(queue, [replace(A, trainings=(first,))]) == {"added": 1}
    for _ in range(2):
        assert enqueue(queue, [replace(A, trainings=(first, second))]) == {"queued": 1}
        assert job_of(queue.trials()[0]).trainings == (first, second)


@pytest.mark.parametrize("attrs", [{}, {"job": {}}, {"job": {**A.to_json(), "later": 1}}, {"job": 3}, {"words": []}])
def test_a_job_of_another_version_is_one_clear_error(attrs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a job of another version of the code; enqueue it again"):
        Job.from_attrs(attrs)


def test_an_experiment_of_another_version_is_one_clear_error(store: Store) -> None:
    job = replace(A, experiment=A.experiment | {"later": 1})
    with pytest.raises(UserError, match=f"run {A.run_id} was queued by another version; enqueue it again"):
        job.request(store)


# Workers, whose runs are forks of them here: importing torch for each would take longer than the test


FORK = "from functools import partial; workers.Worker = partial(workers.Worker, method='fork')\n"
MODEL = "msinet_x0_25"
Start = Callable[..., BaseProcess]


def worker(store: Store, *more: str, lease: float = 9.0) -> list[str]:
    common = ["--store", str(store.root), "--device", "cpu", "--no-progress", "--lease", str(lease)]
    return ["worker", *common, *more]


def journal(store: Store) -> Queue:
    return Queue(str(store.root / "queue.journal"), store)


@pytest.fixture(scope="module")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory, words: Words) -> dict[str, float]:
    """mAP of each run where one process did it all without a break."""
    store = Store(tmp_path_factory.mktemp("whole") / "results")
    assert main(words("run", store.root, root=data_root, recipe=LONGER)) == 0
    return dict(Store(store.root).frame()["mAP"])


@pytest.mark.slow
@pytest.mark.postgres
def test_workers_of_a_database_do_what_one_command_would(
    postgres: str,
    data_root: Path,
    store: Store,
    tmp_path: Path,
    start: Start,
    whole: dict[str, float],
    words: Words,
    capsys,
) -> None:
    storage = ("--storage", postgres)
    assert main([*words("enqueue", store.root, root=data_root, recipe=LONGER), *storage]) == 0
    assert "2 added\n" in capsys.readouterr().out
    logs = [tmp_path / "a", tmp_path / "b"]
    both = [start(worker(store, *storage), log, FORK) for log in logs]
    for process in both:
        process.join(120)
    text = "".join(log.read_text() for log in logs)
    assert [process.exitcode for process in both] == [0, 0], text
    assert text.count("nothing is left to do") == 2
    assert dict(Store(store.root).frame()["mAP"]) == whole
    assert main([*words("status", store.root, root=data_root, recipe=LONGER), *storage]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert total == "2 done, 1 blocked"
    finished = [re.search(r"^worker \S+: no run now; (\d+) finished, 0 ended", line) for line in lines]
    assert sum(int(found[1]) for found in finished if found) == 2
    assert main([*words("enqueue", store.root, root=data_root, recipe=LONGER), *storage]) == 0
    assert "2 done\n" in capsys.readouterr().out


#: Slow enough that a signal finds the training in its midst on any machine.
SLOW = "save = fit.save_checkpoint; fit.save_checkpoint = lambda *a: (save(*a), __import__('time').sleep(0.3))\n"


def in_training(store: Store) -> bool:
    return bool(list(store.root.glob("partial/*/checkpoint.pt")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_worker_gives_its_run_back_with_its_state(
    number: int,
    data_root: Path,
    store: Store,
    tmp_path: Path,
    start: Start,
    whole: dict[str, float],
    words: Words,
    wait_for: Callable[..., None],
) -> None:
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    process = start(worker(store), tmp_path / "log", FORK + SLOW.replace("0.3", "2"))  # on a busy machine as well
    wait_for(lambda: in_training(store) or not process.is_alive())
    os.kill(process.pid or 0, number)
    process.join(60)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 130, text
    assert "Traceback" not in text
    assert "saves its state" in text
    (waiting,) = (trial for trial in journal(store).trials() if trial.state == WAITING)
    assert waiting.user_attrs["attempt"] == 1  # nobody's failure
    checkpoint = store.partial_folder(waiting.user_attrs["run_id"]) / "checkpoint.pt"
    assert checkpoint.exists()
    process = start(worker(store), tmp_path / "second", FORK)
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "second").read_text()
    assert dict(Store(store.root).frame()["mAP"]) == whole


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("finds the process of a run in /proc")
    return [int(word) for word in path.read_text().split()]


@pytest.mark.slow
def test_the_run_of_a_killed_worker_saves_its_state_and_another_takes_over(
    data_root: Path,
    store: Store,
    tmp_path: Path,
    start: Start,
    whole: dict[str, float],
    words: Words,
    wait_for: Callable[..., None],
) -> None:
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    first = start(worker(store, lease=4.5), tmp_path / "first", FORK + SLOW)
    wait_for(lambda: in_training(store) or not first.is_alive())
    (run,) = children(first.pid or 0)
    first.kill()
    second = start(worker(store, lease=4.5), tmp_path / "second", FORK)
    second.join(120)
    text = (tmp_path / "second").read_text()
    assert second.exitcode == 0, text
    assert not Path(f"/proc/{run}").exists()
    assert len(re.findall(r"worker \S+ was lost", text)) == 1
    assert "attempt 2" in text
    assert dict(Store(store.root).frame()["mAP"]) == whole


@pytest.mark.slow
def test_a_run_whose_process_is_killed_each_time_fails_for_good_and_is_shown(
    data_root: Path, store: Store, tmp_path: Path, start: Start, words: Words, capsys
) -> None:
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    deadly = "real = runner.run\n"
    deadly += f"runner.run = lambda *a, **k: real(*a, **k) if a[1].model != '{MODEL}' else os.kill(os.getpid(), 9)\n"
    process = start(worker(store), tmp_path / "log", FORK + deadly)
    process.join(120)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 1, text
    assert text.count("failed: the process of the run ended with signal SIGKILL") == 3
    assert len(Store(store.root).frame()) == 1  # never cached as a result
    assert main(words("status", store.root, root=data_root, recipe=LONGER)) == 0
    lines = capsys.readouterr().out.splitlines()
    (failed,) = (line for line in lines if line.split()[1] == "failed")
    assert MODEL in failed
    assert failed.endswith("the process of the run ended with signal SIGKILL")
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0  # tried again when asked for
    assert "1 done, 1 added" in capsys.readouterr().out
    process = start(worker(store), tmp_path / "log", FORK)
    process.join(120)
    assert len(Store(store.root).frame()) == 2
    assert not list((store.root / "failed").iterdir())


def test_a_failing_run_is_tried_three_times_and_its_traceback_kept(
    data_root: Path, store: Store, tmp_path: Path, start: Start, words: Words
) -> None:
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    broken = "real = runner.run\n"
    broken += f"runner.run = lambda *a, **k: real(*a, **k) if a[1].model != '{MODEL}' else 1 / 0\n"
    process = start(worker(store), tmp_path / "log", FORK + broken)
    process.join(120)
    assert process.exitcode == 1, (tmp_path / "log").read_text()
    (failed,) = (store.root / "failed").iterdir()
    text = (failed / "error.txt").read_text()
    assert text.startswith("Traceback")
    assert text.endswith("ZeroDivisionError: division by zero\n")
    attempts = [trial for trial in journal(store).trials() if trial.user_attrs["run_id"] == failed.name]
    assert [(trial.user_attrs["attempt"], trial.state) for trial in attempts] == [(1, FAIL), (2, FAIL), (3, FAIL)]
    assert attempts[-1].user_attrs["error"] == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_a_worker_under_which_everything_fails_ends_before_it_fails_everything(
    data_root: Path, store: Store, tmp_path: Path, start: Start, words: Words
) -> None:
    assert main(words("enqueue", store.root, "--seeds", "6", root=data_root, recipe=LONGER)) == 0
    broken = "runner.run = lambda *a, **k: 1 / 0\n"
    process = start(worker(store), tmp_path / "log", FORK + broken)
    process.join(120)
    assert process.exitcode == 2
    assert "error: 3 different runs failed in a row" in (tmp_path / "log").read_text()
    found = Counter(trial.state for trial in journal(store).trials())
    assert found == {FAIL: 3, WAITING: 7}  # seven runs are left, three of them for a second attempt


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--device", "cuda:99"), "error: device 'cuda:99' cannot be used"),
        (("--data-root", "/nowhere"), "error: data root /nowhere does not exist"),
        (("--data-root", "OTHER"), "of table2 is another run here: the data under .*OTHER, the weights or the code"),
    ],
)
def test_a_machine_that_cannot_do_it_gives_the_run_back_and_ends(
    data_root: Path, store: Store, tmp_path: Path, start: Start, more: tuple[str, ...], message: str, words: Words
) -> None:
    shutil.copytree(data_root / "Market-1501-v15.09.15", tmp_path / "OTHER" / "Market-1501-v15.09.15")
    next((tmp_path / "OTHER").rglob("*.jpg")).unlink()
    more = tuple(str(tmp_path / word) if word == "OTHER" else word for word in more)
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    command = worker(store, *more)
    process = start(command, tmp_path / "log", FORK)
    process.join(120)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 2, text
    assert re.search(message, text)
    assert "Traceback" not in text
    trials = journal(store).trials()
    assert [trial.user_attrs["attempt"] for trial in trials if trial.state == WAITING] == [1, 1]
    assert not (store.root / "failed").exists()


@pytest.mark.slow
def test_a_full_disk_fails_the_run_in_words_and_costs_nothing_else(
    data_root: Path, store: Store, tmp_path: Path, start: Start, whole: dict[str, float], words: Words
) -> None:
    # 64 KiB per file hold the queue and the colour histogram's run, but no weights.
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    process = start(worker(store), tmp_path / "log", FORK + limit)
    process.join(120)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 1, text
    assert "Traceback" not in text
    assert text.count("File too large") >= 3
    assert len(Store(store.root).frame()) == 1
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    process = start(worker(store), tmp_path / "second", FORK)
    process.join(120)
    assert process.exitcode == 0
    assert dict(Store(store.root).frame()["mAP"]) == whole


#: Root may write everywhere, nobody may not, and may not read Python's own folder either.
NOBODY = "import multiprocessing.popen_fork\nif os.getuid() == 0: os.setuid(65534)\n"


def test_a_store_that_cannot_be_written_is_one_clear_error(data_root: Path, start: Start, words: Words) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        store = Store(root / "results")
        assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
        for folder in (root, store.root, store.root / "locks"):
            folder.chmod(0o555)
        log = root.with_suffix(".log")
        process = start(worker(store), log, FORK + NOBODY)
        process.join(120)
        text = log.read_text()
        assert process.exitcode == 2, text
        assert "Permission denied" in text
        assert "Traceback" not in text
        log.unlink()
    finally:
        for folder in (root, *root.rglob("*")):
            folder.chmod(0o755)
        shutil.rmtree(root)


def test_a_worker_ends_after_so_many_runs_or_so_long_without_any(
    data_root: Path, store: Store, tmp_path: Path, start: Start, words: Words
) -> None:
    assert main(words("enqueue", store.root, root=data_root, recipe=LONGER)) == 0
    process = start(worker(store, "--max-runs", "1"), tmp_path / "log", FORK)
    process.join(120)
    assert process.exitcode == 0
    assert len(Store(store.root).frame()) == 1
    taken(journal(store), "another")  # which is at work
    began = time.monotonic()
    process = start(worker(store, "--idle-exit", "1", lease=90), tmp_path / "log", FORK)
    process.join(60)
    assert time.monotonic() - began < 30
    assert process.exitcode == 0
    assert "others work on what is left" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_trainings_follow_when_their_search_is_finished(
    data_root: Path, store: Store, tmp_path: Path, start: Start, words: Words, capsys
) -> None:
    short = ("--search-recipe", "epochs=1", "steps_per_epoch=1", "identities=2")
    request = words("enqueue", store.root, *short, root=data_root, study="table1", datasets=("msmt17",), models=())[1:]
    assert main(["enqueue", *request]) == 0
    out = capsys.readouterr().out
    follow = int(re.search(r"(\d+) training\(s\) follow", out)[1])  # type: ignore[index]
    process = start(worker(store), tmp_path / "log", FORK)
    process.join(200)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 0, text
    assert f"is finished: {follow} run(s) more" in text
    assert main(["status", *request]) == 0
    assert re.fullmatch(r"\d+ done(, \d+ blocked)?", capsys.readouterr().out.splitlines()[-1])
