"""Commands in processes of their own, which can be interrupted and killed, without importing torch for each."""

import getpass
import multiprocessing
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

import ablations.__main__
import reports.__main__
from msinet.synthetic import SETS, SIZES, Size

#: Runs in a fork of a process that has imported everything. No table after each run, as that is one more
#: process; the state is saved after every step, so that a kill finds it at any age.
CHILD = """
import os, signal, sys
import ablations.__main__ as commands
from msinet.training import loop
signal.signal(signal.SIGINT, signal.default_int_handler)  # where pytest runs in the background it is ignored
sys.stdout = sys.stderr = open(log, "a", buffering=1)
loop.CHECKPOINT_SECONDS = 0
commands.show = lambda *_, **__: 0
exec(prelude)
sys.exit(commands.main(words))
"""

Start = Callable[..., BaseProcess]
#: Images of the rendered world in these tests.
TINY = dict.fromkeys(SETS, Size(4, 3, 4, 4, 16))


@pytest.fixture(autouse=True, scope="module")  # a folder without __init__.py is no package to pytest
def _tiny_worlds() -> Iterator[None]:
    """A command without --data-root renders in a moment, whatever the profile."""
    with pytest.MonkeyPatch.context() as patch:
        for profile in SIZES:
            patch.setitem(SIZES, profile, TINY)
        yield


@pytest.fixture(autouse=True, scope="module")  # a folder without __init__.py is no package to pytest
def _tables_in_process() -> Iterator[None]:
    """`show` starts a process for each table; its imports take longer than the training does here."""

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "reports"]
        return SimpleNamespace(returncode=reports.__main__.main(command[3:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations.__main__, "subprocess", SimpleNamespace(run=run))
        yield


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -m ablations WORDS` with its output in a file; `prelude` is code that runs before it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.__main__", "pytest"])
    started: list[BaseProcess] = []

    def begin(words: list[str], log: Path, prelude: str = "") -> BaseProcess:
        # A built-in as target: the child needs no module of the tests.
        process = context.Process(target=exec, args=(CHILD, {"words": words, "log": str(log), "prelude": prelude}))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def finish(start: Start) -> Callable[..., int]:
    """Run such a command to its end and return its exit status; negative: the signal that ended it."""

    def run(words: list[str], log: Path, prelude: str = "") -> int:
        process = start(words, log, prelude)
        process.join(timeout=300)  # only a hang takes so long
        assert process.exitcode is not None, log.read_text()
        return process.exitcode

    return run


#: Of the test server; its characters are those that URLs and Optuna's templates write otherwise.
PASSWORD = "geheim/{wort}%@:"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the tests. Skips where none is installed."""
    pytest.importorskip("psycopg")
    import sqlalchemy

    found = [Path(path).parent for path in (shutil.which("pg_ctl"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    binaries = next((path for path in found if (path / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    become: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: sockets have paths of at most 107 characters
    if getpass.getuser() == "root":  # which PostgreSQL refuses to run as
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, "postgres", "postgres")
        become = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "password").write_text(PASSWORD)

    def call(name: str, *words: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [*become, str(binaries / name), *words],
                check=True,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LC_ALL": "C"},
            )

    data = str(folder / "data")
    try:
        call(
            "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-E",
            "UTF8",
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(folder / "password"),
            "-N",
        )
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=50"
        call("pg_ctl", "start", "-w", "-D", data, "-l", str(folder / "server.log"), "-o", options)
        url = sqlalchemy.URL.create("postgresql+psycopg", "tester", PASSWORD, "127.0.0.1", port, "postgres")
        yield url.render_as_string(hide_password=False)
        call("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)
