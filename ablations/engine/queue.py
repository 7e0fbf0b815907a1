"""The work queue: runs that wait for workers, in an Optuna storage. The files of the store are the truth.

A trial of the study is one attempt at one run. It is taken once and ends once; another attempt is another trial. What a
trial carries: run_id; name and words, the catalogue and the request that want the run; attempt; and once it is taken,
worker, beat, error and next, the number of the attempt that is to follow. Nothing is lost with the queue: `enqueue`
compares what is wanted with the store and adds what is neither there nor queued.

Whether a worker lives is judged without any clock of another machine: it counts up `beat` while it works, and who sees
the same count for the length of a lease, by their own monotonic clock, takes it for dead. (Optuna has heartbeats for
databases alone, neither for the journal nor for the gRPC proxy.)
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
from dataclasses import dataclass, field
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

from ablations.store import Store
from msinet.errors import Busy, UserError
from msinet.io import REMEDIES, exclusive, write_text

#: Seconds that a database may take to answer before it counts as out of reach.
PATIENCE = 10
#: Attempts at a run before it counts as failed for good.
ATTEMPTS = 3
#: How an entry of Optuna's journal begins, and more bytes than one has.
ENTRY, LONGEST_ENTRY = b'{"op_code":', 1 << 20


class QueueError(UserError):
    """The queue is gone, damaged or out of reach."""


class Damaged(QueueError):
    """The journal holds something that is no journal."""


def default_storage(store: Path) -> str:
    """Where the queue is unless told otherwise: a journal in the store, for the workers of one host."""
    return str(store / "queue.journal")


def shown(where: str) -> str:
    """A storage as it may be printed: without its password."""
    if "://" not in where:
        return where
    try:
        url = sqlalchemy.make_url(where)
    except Exception:  # not even its parts are known
        return where.split("://")[0] + "://..."
    hidden = {name: "***" for name in url.query if "pass" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def open_storage(where: str, *, create: bool = True, connections: int = 1) -> BaseStorage:
    """The Optuna storage of that name.

    Args:
        where: the path of a journal file, `grpc://HOST:PORT` of a proxy, or the URL of a database.
        create: make a journal that does not exist.
        connections: to a database that stay open.

    Raises:
        QueueError: it is not there, cannot be reached, or was damaged. No message holds a password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in where:
        path = Path(where)
        if not create and not path.exists():
            raise QueueError(f"no queue in {where}; python -m ablations enqueue makes it")
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(ENTRY))
            if start != ENTRY[: len(start)]:
                raise QueueError(f"{where} is no journal of a queue; give another name")
        with _told(where):
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(where, lock_obj=_FileLock(where)))  # type: ignore[arg-type]
    with _told(where):
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
def _told(where: str) -> Iterator[None]:
    """Turns whatever a storage raises into one `QueueError`, without the password and the chain that may hold it."""
    try:
        yield
    except (UserError, UpdateFinishedTrialError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Optuna wraps what the database said
            cause = cause.__cause__
        if isinstance(cause, ImportError):
            raise UserError(
                f"{shown(where)} needs {cause.name}, which is not installed; "
                "pip install -e '.[cluster]' brings what PostgreSQL and the proxy need"
            ) from None
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"the queue {where} cannot be used ({cause}); {REMEDIES[cause.errno]}") from None
        reason = masked((str(cause).strip().splitlines() or [type(cause).__name__])[0], where)
        if "://" not in where and isinstance(error, ValueError | KeyError | AssertionError | TypeError):
            raise Damaged(f"the queue {where} is damaged ({reason}); python -m ablations enqueue rebuilds it") from None
        raise QueueError(f"the queue {shown(where)} cannot be used ({reason})") from None


def masked(text: str, where: str) -> str:
    """The text without the password of a storage, in whatever form it stands there."""
    with contextlib.suppress(Exception):
        url = sqlalchemy.make_url(where)
        raw = where.partition("://")[2].rpartition("@")[0].partition(":")[2]
        for secret in (url.password, raw, *(v for k, v in url.query.items() if "pass" in k)):
            if secret:
                text = text.replace(str(secret), "***")
    return text


class _FileLock:
    """The lock of a journal, on an open file, which the system frees when its holder is killed.

    Optuna's own is a file that exists, so that one killed process stops every other for 30 seconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock, then cut off what a killed process or a full disk left of an entry."""
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
        """Free it."""
        os.close(self._descriptor)


@dataclass(frozen=True)
class Job:
    """One attempt at a run, as it waits in the queue."""

    run_id: str
    name: str
    """of the catalogue that wants the run"""
    words: tuple[str, ...]
    """the request, as words of the command line, without the store"""
    attempt: int = 1

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Job":
        """What a trial carries."""
        attrs = trial.user_attrs
        return cls(attrs["run_id"], attrs["name"], tuple(attrs["words"]), attrs["attempt"])


@dataclass
class Queue:
    """The queue of one store.

    Its study is named after a word in the store, so that a worker that was given another store, or sees another folder
    under the same path, finds no queue rather than publish its runs where nobody looks.
    """

    where: str
    """of the storage: a journal file, or a URL"""
    store: Store
    create: bool = False
    """make what is not there yet"""
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict, init=False, repr=False)
    """last beat of each running trial, and since when"""

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Connect, again if need be.

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
                f"{self.store.root} has no queue; pass --store, the folder that python -m ablations enqueue was given"
            )
        name = f"runs-{word.read_text(encoding='utf-8').strip()}"
        self._storage = open_storage(self.where, create=self.create)
        with _told(self.where):
            try:
                self._study = self._storage.get_study_id_from_name(name)
            except KeyError:
                if not self.create:
                    raise QueueError(
                        f"{shown(self.where)} holds no queue of {self.store.root}; python -m ablations enqueue makes it"
                    ) from None
                with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                    self._storage.create_new_study([StudyDirection.MINIMIZE], name)
                self._study = self._storage.get_study_id_from_name(name)
        self._file = self._identity()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For the block, no other process adds what seems to be missing. Waits for it; blocks are short."""
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
            raise QueueError(f"the queue {self.where} was taken away")
        with _told(self.where):
            found = self._storage.get_all_trials(self._study, deepcopy=False)
        return sorted((t for t in found if "run_id" in t.user_attrs), key=lambda t: t.number)

    def _identity(self) -> int:
        """Of a journal: it is followed from where it was last read, so that another in its place must be noticed."""
        try:
            return 0 if "://" in self.where else os.stat(self.where).st_ino
        except FileNotFoundError:
            return -1

    def add(self, *jobs: Job) -> None:
        """Let them wait at the end."""
        for job in jobs:
            attrs = {"run_id": job.run_id, "name": job.name, "words": list(job.words), "attempt": job.attempt}
            with _told(self.where):
                self._storage.create_new_trial(self._study, create_trial(state=TrialState.WAITING, user_attrs=attrs))

    def take(self, worker: str, lease: float) -> FrozenTrial | None:
        """The first trial that waits and whose run nobody works on; from now on it is this worker's."""
        trials = self.trials()
        busy = {trial.user_attrs["run_id"] for trial in trials if trial.state == TrialState.RUNNING}
        waiting = Counter(trial.user_attrs["run_id"] for trial in trials if trial.state == TrialState.WAITING)
        for trial in trials:
            run_id = trial.user_attrs["run_id"]
            if trial.state != TrialState.WAITING or run_id in busy or self.store.state(run_id) == "running":
                continue
            with _told(self.where), contextlib.suppress(UpdateFinishedTrialError):
                if not self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    continue
                self.beat(trial, worker, lease, 0)
                if waiting[run_id] == 1 or self._first(trial):
                    return trial
                self.fail(trial, "queued twice", following=None)
        return None

    def _first(self, trial: FrozenTrial) -> bool:
        """Of a run that is queued twice and was taken twice in one moment: the first keeps it."""
        return all(
            other.number >= trial.number
            for other in self.trials()
            if other.state == TrialState.RUNNING and other.user_attrs["run_id"] == trial.user_attrs["run_id"]
        )

    def beat(self, trial: FrozenTrial, worker: str, lease: float, count: int) -> bool:
        """Tell that the worker lives; False if the trial is no longer its own."""
        at = datetime.now(UTC).isoformat(timespec="seconds")  # for people alone
        return self._set(trial, "beat", {"worker": worker, "lease": lease, "count": count, "at": at})

    def finish(self, trial: FrozenTrial) -> None:
        """The run is published."""
        self._end(trial, TrialState.COMPLETE)

    def fail(self, trial: FrozenTrial, error: str, *, following: int | None) -> bool:
        """End an attempt and let another wait.

        Args:
            trial: the attempt.
            error: why it ended.
            following: number of the attempt that follows; None: the run has failed for good.

        Returns:
            Whether this call ended it, rather than another process.
        """
        if not self._set(trial, "error", error) or not self._set(trial, "next", following):
            return False
        if not self._end(trial, TrialState.FAIL):
            return False
        if following is not None:  # a process that is killed right here leaves it to `mend`
            self.add(_following(trial, following))
        return True

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> bool:
        with _told(self.where), contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial._trial_id, name, value)
            return True
        return False

    def _end(self, trial: FrozenTrial, state: TrialState) -> bool:
        with _told(self.where), contextlib.suppress(UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial._trial_id, state)
        return False

    def retire(self, lease: float, attempts: int) -> list[FrozenTrial]:
        """End the attempts of workers that have not been heard of for their lease; returns those.

        Args:
            lease: seconds, of a worker that did not come to tell its own.
            attempts: at one run, before it has failed for good.
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

    def mend(self) -> None:
        """Add attempts that should follow a failed one and do not, as who ended it was killed before it could."""
        with self.alone():
            for run_id, trial in last_attempts(self.trials()).items():
                attempt = trial.user_attrs.get("next")
                if trial.state == TrialState.FAIL and attempt is not None and not self.store.done(run_id):
                    self.add(_following(trial, attempt))


def _following(trial: FrozenTrial, attempt: int) -> Job:
    job = Job.of(trial)
    return Job(job.run_id, job.name, job.words, attempt)


def _next(trial: FrozenTrial, attempts: int) -> int | None:
    attempt = int(trial.user_attrs["attempt"])
    return attempt + 1 if attempt < attempts else None


def last_attempts(trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Of each run the attempt that counts: one that waits or runs, else the newest."""
    live = (TrialState.WAITING, TrialState.RUNNING)
    return {t.user_attrs["run_id"]: t for t in sorted(trials, key=lambda t: (t.state in live, t.number))}


def enqueue(queue: Queue, jobs: Sequence[Job], *, again: bool = True) -> Counter[str]:
    """Let wait what is neither in the store nor queued.

    Args:
        queue: where to.
        jobs: what is wanted.
        again: also what has failed for good.

    Returns:
        How many are "done" already, "queued" before, "added" now, or "failed" and left so.
    """
    tally: Counter[str] = Counter()
    with queue.alone():
        last = last_attempts(queue.trials())
        for job in jobs:
            trial = last.get(job.run_id)
            if queue.store.done(job.run_id):
                tally["done"] += 1
            elif trial is not None and trial.state in (TrialState.WAITING, TrialState.RUNNING):
                tally["queued"] += 1
            elif trial is not None and trial.state == TrialState.FAIL and not again:
                tally["failed"] += 1
            else:
                queue.add(job)
                tally["added"] += 1
    return tally


def rebuilt(where: str, store: Store) -> Queue:
    """The queue of a store, made anew if it is not there or its journal is damaged; a damaged one is put aside."""
    try:
        return Queue(where, store, create=True)
    except Damaged:
        aside = Path(f"{where}.damaged-{secrets.token_hex(3)}")
        os.replace(where, aside)
        logging.getLogger(__name__).warning("the queue %s was damaged: it is now %s, and rebuilt", where, aside)
        return Queue(where, store, create=True)


def run_proxy(where: str, host: str, port: int) -> None:
    """Serve the storage of a database to workers that are given `grpc://HOST:PORT`, until interrupted.

    Raises:
        QueueError: the database cannot be used, or the port is taken.
    """
    if "://" not in where or where.startswith(("sqlite", "grpc")):
        raise QueueError(f"a proxy stands before a database: postgresql+psycopg://..., not {shown(where)}")
    storage = open_storage(where, connections=10)  # as it has threads
    with _told(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        print(f"{shown(where)} is served at grpc://{host}:{port}", flush=True)
        optuna.storages.run_grpc_proxy_server(storage, host=host, port=port)
