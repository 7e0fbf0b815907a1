"""The work queue: runs that wait for workers, in an Optuna storage. The files of the store are the truth.

A trial of Optuna's study is one attempt at one run. It is taken once and ends once; another attempt is another trial.
Its attributes are run_id, attempt and job; once it is taken beat; once it has failed error and next, the number of the
following attempt. The queue can be lost without loss: `enqueue` compares the wanted runs with the store and adds those
that are neither there nor queued.

Workers are judged without another machine's clock: a worker counts up `beat` while it works. A process that sees the
same count for the length of a lease, by its own monotonic clock, considers the worker lost. (Optuna has heartbeats only
for databases, not for the journal or the gRPC proxy.)
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablations.engine.job import Job
from ablations.engine.store import Store
from msinet.errors import Busy, UserError
from msinet.io import REMEDIES, exclusive, write_text

#: Seconds that a database may take to answer before it counts as out of reach.
PATIENCE = 10
#: Start of an entry in Optuna's journal, and more bytes than one has.
ENTRY, LONGEST_ENTRY = b'{"op_code":', 1 << 20


class QueueError(UserError):
    """The queue is missing, damaged or cannot be reached."""


class Damaged(QueueError):
    """The journal holds something else."""


def shown(where: str) -> str:
    """A storage without its password, for messages."""
    if "://" not in where:
        return where
    try:
        url = sqlalchemy.make_url(where)
    except Exception:  # it cannot be parsed
        return where.split("://")[0] + "://..."
    hidden = {name: "***" for name in url.query if "pass" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def open_storage(where: str, *, create: bool = True, connections: int = 1) -> BaseStorage:
    """The Optuna storage of that name.

    Args:
        where: the path of a journal file, `grpc://HOST:PORT` of a proxy, or the URL of a database.
        create: make a journal that does not exist.
        connections: number of open connections to a database.

    Raises:
        QueueError: it does not exist, cannot be reached, or was damaged. No message holds a password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in where:
        path = Path(where)
        if not create and not path.exists():
            raise QueueError(f"no queue in {where}; python -m ablations enqueue creates it")
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(ENTRY))
            if start != ENTRY[: len(start)]:
                raise QueueError(f"{where} is not the journal of a queue; give another name")
        with _queue_errors(where):
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(where, lock_obj=_FileLock(where)))  # type: ignore[arg-type]
    with _queue_errors(where):
        try:
            url = sqlalchemy.make_url(where)
        except Exception:
            # Not `from error`: the message of the original holds the whole URL.
            raise QueueError(
                f"{shown(where)} is no URL of a database; write postgresql+psycopg://USER@HOST/DATABASE"
            ) from None
        if url.drivername == "grpc":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                proxy = GrpcStorageProxy(host=url.host or "localhost", port=url.port or 13000)
            proxy.wait_server_ready(timeout=PATIENCE)
            return proxy
        arguments: dict[str, Any] = {"pool_pre_ping": True}
        if url.drivername.startswith("postgres"):
            url = url.set(drivername="postgresql+psycopg")  # the only driver that this project asks for
            arguments["connect_args"] = {"connect_timeout": PATIENCE, "tcp_user_timeout": 1000 * PATIENCE}
            arguments["pool_size"] = connections
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna fills in braces
        database = RDBStorage(text, engine_kwargs=arguments)
        storage = get_storage(database)  # with a cache of trials that have ended
        weakref.finalize(storage, database.engine.dispose)  # which nobody else would close
        return storage


@contextlib.contextmanager
def _queue_errors(where: str) -> Iterator[None]:
    """Turn all errors of a storage into one `QueueError`, without the password and the chain that may hold it."""
    try:
        yield
    except (UserError, UpdateFinishedTrialError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Optuna wraps the database's error
            cause = cause.__cause__
        if isinstance(cause, ImportError):
            raise UserError(
                f"{shown(where)} needs {cause.name}, which is not installed; "
                "pip install -e '.[cluster]' installs what PostgreSQL and the proxy need"
            ) from None
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"the queue {where} cannot be used ({cause}); {REMEDIES[cause.errno]}") from None
        reason = masked((str(cause).strip().splitlines() or [type(cause).__name__])[0], where)
        if "://" not in where and isinstance(error, ValueError | KeyError | AssertionError | TypeError):
            raise Damaged(f"the queue {where} is damaged ({reason}); python -m ablations enqueue rebuilds it") from None
        raise QueueError(f"the queue {shown(where)} cannot be used ({reason})") from None


def masked(text: str, where: str) -> str:
    """The text without the password of a storage, in any of its forms."""
    with contextlib.suppress(Exception):
        url = sqlalchemy.make_url(where)
        raw = where.partition("://")[2].rpartition("@")[0].partition(":")[2]
        for secret in (url.password, raw, *(v for k, v in url.query.items() if "pass" in k)):
            if secret:
                text = text.replace(str(secret), "***")
    return text


class _FileLock:
    """The lock of a journal, on an open file; the system frees it when its holder is killed.

    Optuna's own lock is a file that exists, so that one killed process stops every other for 30 seconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock, then remove an incomplete entry of a killed process or a full disk."""
        self._descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with open(self._path, "ab+") as journal:
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(0, size - LONGEST_ENTRY))
            rest = journal.read().rpartition(b"\n")[2]
            if rest[: len(ENTRY)] == ENTRY[: len(rest)] and rest:
                journal.truncate(size - len(rest))
        return True

    def release(self) -> None:
        """Free the lock."""
        os.close(self._descriptor)


@dataclass
class Queue:
    """The queue of one store.

    Optuna's study is named after a random word in the store. A worker with another store, or with another folder under
    the same path, finds no queue; otherwise it would publish its runs in the wrong folder.
    """

    where: str
    """storage: a journal file, or a URL"""
    store: Store
    create: bool = False
    """create storage and queue if they do not exist"""
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict, init=False, repr=False)
    """last beat of each running trial, and the time it was first seen"""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Connect, or connect again.

        Raises:
            QueueError: the storage cannot be used, or holds no queue of this store.
        """
        if self.where.startswith("sqlite"):
            raise QueueError(
                "SQLite gives one trial to two workers; give the path of a journal file, or postgresql+psycopg://..."
            )
        word = self.store.root / "queue.id"
        if self.create and not word.exists():
            with self.alone():
                if not word.exists():
                    write_text(word, secrets.token_hex(6))
        if not word.exists():
            raise QueueError(
                f"{self.store.root} has no queue; pass --store, the folder given to python -m ablations enqueue"
            )
        name = f"runs-{word.read_text(encoding='utf-8').strip()}"
        self._storage = open_storage(self.where, create=self.create)
        with _queue_errors(self.where):
            try:
                self._study = self._storage.get_study_id_from_name(name)
            except KeyError:
                if not self.create:
                    raise QueueError(
                        f"{shown(self.where)} holds no queue of {self.store.root}; enqueue creates it"
                    ) from None
                with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                    self._storage.create_new_study([StudyDirection.MINIMIZE], name)
                self._study = self._storage.get_study_id_from_name(name)
        self._file = self._identity()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager: no other process adds missing runs meanwhile. Waits for the lock; blocks are short."""
        while True:
            try:
                with exclusive(self.store.root / "locks" / "queue", f"the queue of {self.store.root}"):
                    yield
                return
            except Busy:
                time.sleep(0.05)

    def trials(self) -> list[FrozenTrial]:
        """Every attempt, in order."""
        if self._identity() != self._file:
            raise QueueError(f"the queue {self.where} was removed")
        with _queue_errors(self.where):
            found = self._storage.get_all_trials(self._study, deepcopy=False)
        return sorted((t for t in found if "run_id" in t.user_attrs), key=lambda t: t.number)

    def _identity(self) -> int:
        """Inode of a journal. Optuna continues where it last read, so another file under the name must be noticed."""
        try:
            return 0 if "://" in self.where else os.stat(self.where).st_ino
        except FileNotFoundError:
            return -1

    def add(self, *jobs: Job) -> None:
        """Add jobs at the end of the queue."""
        for job in jobs:
            attrs = {"run_id": job.run_id, "attempt": job.attempt, "job": job.to_json()}
            with _queue_errors(self.where):
                self._storage.create_new_trial(self._study, create_trial(state=TrialState.WAITING, user_attrs=attrs))

    def extend(self, trial: FrozenTrial, job: Job) -> None:
        """Add a job's trainings to a queued attempt at the same search, which another study may have queued."""
        queued = Job.from_attrs(trial.user_attrs)
        if more := tuple(training for training in job.trainings if training not in queued.trainings):
            self._set(trial, "job", replace(queued, trainings=queued.trainings + more).to_json())

    def take(self, worker: str, lease: float) -> FrozenTrial | None:
        """The first waiting trial whose run is not in progress; it now belongs to this worker."""
        trials = self.trials()
        busy = {trial.user_attrs["run_id"] for trial in trials if trial.state == TrialState.RUNNING}
        waiting = Counter(trial.user_attrs["run_id"] for trial in trials if trial.state == TrialState.WAITING)
        for trial in trials:
            run_id = trial.user_attrs["run_id"]
            if trial.state != TrialState.WAITING or run_id in busy or self.store.state(run_id) == "running":
                continue
            with _queue_errors(self.where), contextlib.suppress(UpdateFinishedTrialError):
                if not self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    continue
                self.beat(trial, worker, lease, 0)
                if waiting[run_id] == 1 or self._first(trial):
                    return trial
                self.fail(trial, "queued twice", following=None)
        return None

    def _first(self, trial: FrozenTrial) -> bool:
        """True unless an earlier trial of the same run was taken at the same moment."""
        return all(
            other.number >= trial.number
            for other in self.trials()
            if other.state == TrialState.RUNNING and other.user_attrs["run_id"] == trial.user_attrs["run_id"]
        )

    def beat(self, trial: FrozenTrial, worker: str, lease: float, count: int) -> bool:
        """Show that the worker is alive; False if the trial no longer belongs to it."""
        at = datetime.now(UTC).isoformat(timespec="seconds")  # for people only
        return self._set(trial, "beat", {"worker": worker, "lease": lease, "count": count, "at": at})

    def finish(self, trial: FrozenTrial) -> None:
        """End an attempt whose run is published."""
        self._end(trial, TrialState.COMPLETE)

    def fail(self, trial: FrozenTrial, error: str, *, following: int | None) -> bool:
        """End an attempt as failed and add the following one.

        Args:
            trial: the attempt.
            error: why it ended.
            following: number of the following attempt; None: the run has failed for good.

        Returns:
            Whether this call ended it, rather than another process.
        """
        if not self._set(trial, "error", error) or not self._set(trial, "next", following):
            return False
        if not self._end(trial, TrialState.FAIL):
            return False
        if following is not None:  # if the process is killed here, `repair` adds it
            self.add(_following(trial, following))
        return True

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> bool:
        with _queue_errors(self.where), contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial._trial_id, name, value)
            return True
        return False

    def _end(self, trial: FrozenTrial, state: TrialState) -> bool:
        with _queue_errors(self.where), contextlib.suppress(UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial._trial_id, state)
        return False

    def retire(self, lease: float, attempts: int) -> list[FrozenTrial]:
        """End the attempts of lost workers, whose beat is older than their lease; returns those.

        Args:
            lease: seconds, for a worker that was lost before its first beat.
            attempts: number of attempts at a run before it has failed for good.
        """
        retired = []
        trials = self.trials()
        running = {trial._trial_id: trial for trial in trials if trial.state == TrialState.RUNNING}
        now = time.monotonic()
        for number, trial in running.items():
            beat = trial.user_attrs.get("beat")
            seen, since = self._seen.setdefault(number, (beat, now))
            if seen != beat:
                self._seen[number] = (beat, now)
            elif now - since > (beat or {}).get("lease", lease):
                worker = (beat or {}).get("worker", "unknown")
                error = f"worker {worker} was lost"
                if self.fail(trial, error, following=_next(trial, attempts)):
                    retired.append(trial)
        self._seen = {number: seen for number, seen in self._seen.items() if number in running}
        return retired

    def repair(self) -> None:
        """Add following attempts that are missing because the process that ended the last one was killed."""
        with self.alone():
            for run_id, trial in last_attempts(self.trials()).items():
                attempt = trial.user_attrs.get("next")
                if trial.state == TrialState.FAIL and attempt is not None and not self.store.done(run_id):
                    self.add(_following(trial, attempt))


def _following(trial: FrozenTrial, attempt: int) -> Job:
    return replace(Job.from_attrs(trial.user_attrs), attempt=attempt)


def _next(trial: FrozenTrial, attempts: int) -> int | None:
    attempt = int(trial.user_attrs["attempt"])
    return attempt + 1 if attempt < attempts else None


def last_attempts(trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
    """The attempt that counts for each run: a waiting or running one, else the newest."""
    live = (TrialState.WAITING, TrialState.RUNNING)
    return {t.user_attrs["run_id"]: t for t in sorted(trials, key=lambda t: (t.state in live, t.number))}


def enqueue(queue: Queue, jobs: Sequence[Job], *, again: bool = True) -> Counter[str]:
    """Queue the jobs whose runs are neither in the store nor queued.

    Args:
        queue: to add to.
        jobs: wanted runs.
        again: add those that have failed for good as well.

    Returns:
        The number of jobs that are "done" already, were "queued" before, are "added" now, or have "failed" for good.
    """
    tally: Counter[str] = Counter()
    with queue.alone():
        last = last_attempts(queue.trials())
        for job in jobs:
            trial = last.get(job.run_id)
            if queue.store.done(job.run_id):
                tally["done"] += 1
            elif trial is not None and trial.state in (TrialState.WAITING, TrialState.RUNNING):
                queue.extend(trial, job)
                tally["queued"] += 1
            elif trial is not None and trial.state == TrialState.FAIL and not again:
                tally["failed"] += 1
            else:
                queue.add(job)
                tally["added"] += 1
    return tally


def rebuilt(where: str, store: Store) -> Queue:
    """The queue of a store; a missing one is created, a damaged journal is renamed and replaced."""
    try:
        return Queue(where, store, create=True)
    except Damaged:
        aside = Path(f"{where}.damaged-{secrets.token_hex(3)}")
        os.replace(where, aside)
        logging.getLogger(__name__).warning("the queue %s was damaged; it was renamed to %s and rebuilt", where, aside)
        return Queue(where, store, create=True)


def worker_lines(queue: Queue) -> list[str]:
    """Each worker's current run, and how many it has finished."""
    found: dict[str, dict[str, Any]] = {}
    for trial in queue.trials():
        beat = trial.user_attrs.get("beat")
        if not beat:
            continue
        mine = found.setdefault(beat["worker"], {"finished": 0, "ended otherwise": 0, "now": ""})
        if trial.state == TrialState.RUNNING:
            age = (datetime.now(UTC) - datetime.fromisoformat(beat["at"])).total_seconds()
            seen = "" if age < beat["lease"] else f", no beat for {age / 60:.0f} min"
            mine["now"] = f"run {trial.user_attrs['run_id']}, attempt {trial.user_attrs['attempt']}{seen}"
        elif trial.state.is_finished():  # a trial may have been taken while it was read
            mine["finished" if trial.state == TrialState.COMPLETE else "ended otherwise"] += 1
    return [
        f"worker {name}: {mine['now'] or 'no run now'}; {mine['finished']} finished, "
        f"{mine['ended otherwise']} ended otherwise"
        for name, mine in found.items()
    ]


def run_proxy(where: str, host: str, port: int) -> None:
    """Offer the storage of a database to workers that are given `grpc://HOST:PORT`, until interrupted.

    Raises:
        QueueError: the database cannot be used, or the port is taken.
    """
    if "://" not in where or where.startswith(("sqlite", "grpc")):
        raise QueueError(f"a proxy needs a database: postgresql+psycopg://..., not {shown(where)}")
    storage = open_storage(where, connections=10)  # as it has threads
    with _queue_errors(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        print(f"{shown(where)} is served at grpc://{host}:{port}", flush=True)
        optuna.storages.run_grpc_proxy_server(storage, host=host, port=port)
