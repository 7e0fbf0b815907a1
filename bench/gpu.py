"""`python -m bench gpu`: measures a machine with a GPU in a given time and writes at most eight files.

Each part has a share of the time: the tests marked gpu, training and search steps, latency, memory, ranking, runs of
the reference studies. Each row is written to disk as soon as it is measured, latencies after the race of each network.
Each failure is a row of errors.csv. The same command skips rows that are in its folder. `--merge` joins the folders of
several machines.
"""

import functools
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from bench.isolation import Failure, Late, Report, Work, direct, isolated
from bench.tables import Row, Rows, merge
from msinet.errors import UserError
from msinet.io import atomic_path, sync, write_json
from msinet.terminal import INTERRUPTED

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "gpu"
#: Largest share of the remaining time that each part may take, in order. The last part that is asked for gets the rest.
SHARES = {"tests": 0.35, "steps": 0.25, "latency": 0.3, "memory": 0.15, "retrieval": 0.1, "runs": 1.0}
#: Bytes of the archive of runs, below 16 MB.
ARCHIVE_LIMIT = 15_000_000
ARCHIVE = "runs.tar.gz"
MACHINES = "machine.json"
#: Files of a run in the archive. Those of the second group are left out if there is no room.
SMALL = ("experiment.json", "record.json", "genotype.json", "alphas.csv", "history.csv")
LARGE = ("queries.csv",)
#: Columns of errors.csv.
ERROR_COLUMNS = ("part", "item", "device", "error")
MEMORY_COLUMNS = ("model", "form", "precision", "batch", "height", "width", "device", "weights_mib", "peak_mib")
RANKING_COLUMNS = ("size", "features", "dim", "device", "product_seconds", "ranking_seconds_cpu_sort", "ratio")
#: Assumed seconds of the first item of a part, including the start of its process.
FIRST = 20.0


@dataclass
class Clock:
    """The time of a part. An item starts only if the longest one so far would still fit."""

    deadline: float
    """in seconds of `time.monotonic`"""
    longest: float = 0.0
    """seconds of the longest item; 0: none has ended"""
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Remaining seconds."""
        return self.deadline - time.monotonic()

    def fits(self) -> bool:
        """Return whether another item fits. The first one is assumed to take `FIRST` seconds."""
        return self.left() > (self.longest or FIRST)

    def note(self) -> None:
        """Note the end of an item."""
        now = time.monotonic()
        self.longest, self.began = max(self.longest, now - self.began), now


@dataclass(frozen=True)
class Plan:
    """Settings of a measurement."""

    out: Path
    store: Path
    minutes: float
    device: str
    """cuda or cuda:N; cpu: only parts that need no GPU"""
    parts: tuple[str, ...] = tuple(SHARES)
    jobs: int = 6
    networks: tuple[str, ...] = ()
    """names with options; empty: networks of the paper's tables"""
    sizes: tuple[tuple[int, int], ...] = ((64, 32), (256, 128))
    """(height, width) of images for steps; latency and memory use the last one"""
    batches: tuple[int, ...] = (1, 32, 128)
    seconds: float = 0.5
    """time per contender"""
    profile: str = ""
    """profile of the runs; empty: as in the list of priorities"""

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in SHARES:
                raise UserError(f"unknown part {part!r}. Known: {', '.join(SHARES)}")

    @property
    def on_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.device.startswith("cuda")


class Measurement:
    """One call of `bench gpu`: its files and its time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.end = time.monotonic() + 60 * plan.minutes
        self.about = _machine(plan.device)
        self.device = str(self.about["device"])
        plan.out.mkdir(parents=True, exist_ok=True)
        self.errors = Rows(plan.out / "errors.csv", ERROR_COLUMNS, ERROR_COLUMNS[:3])

    def __call__(self) -> None:
        """Measure every part in turn."""
        unpack(self.plan.out / ARCHIVE, self.plan.store)
        for part in self.plan.parts:
            began = time.monotonic()
            left = self.end - began
            share = 1.0 if part == self.plan.parts[-1] else SHARES[part]
            clock = Clock(began + share * left, began=began)
            if not clock.fits():
                self._note(part, "too little time was left")
                continue
            print(f"{part}: {left / 60:.1f} minutes left", flush=True)
            try:
                PARTS[part](self, clock)
            except Exception as error:  # later parts must still run
                self.fail(part, "", f"{type(error).__name__}: {error}")
            self._note(part, f"{time.monotonic() - began:.0f} s")

    def _note(self, part: str, what: str) -> None:
        """Write down what happened, by device, so that folders of several machines can be joined."""
        path = self.plan.out / MACHINES
        write_json(path, join_machines(_read(path), {self.device: {**self.about, "parts": {part: what}}}))

    def fail(self, part: str, item: str, error: str) -> None:
        """Print and record a failure."""
        print(f"failed: {part} {item}: {error}", flush=True)
        self.errors.append({"part": part, "item": item, "device": self.device, "error": error[:500]})

    def failed(self, part: str, item: str) -> bool:
        """Return whether an item failed in this folder before; it is not tried again."""
        return {"part": part, "item": item, "device": self.device} in self.errors

    def run(self, part: str, work: Work, items: Sequence[object], clock: Clock, rows: Rows) -> None:
        """Measure items, on a GPU in another process, until the time of the part is over."""
        left = [item for item in items if not self.failed(part, str(item))]
        if self.plan.on_gpu:
            results = isolated(work, left, deadline=clock.deadline)
        else:
            results = chain.from_iterable(direct(work, [item]) for item in left)
        for item, row in results:
            self.write(part, str(item), row, clock, rows)
            if not clock.fits():
                return

    def write(self, part: str, item: str, row: "Row | Failure", clock: Clock, rows: Rows) -> None:
        """Write the row or the failure of an item.

        An item that is stopped by the end of the part is left to the next call, unless it had all the time of the part.
        """
        if isinstance(row, Late) and clock.longest:
            print(f"left to the next call: {part} {item}: {row}", flush=True)
        elif isinstance(row, Failure):
            self.fail(part, item, row)
        else:
            rows.append({**row, "device": self.device})
        clock.note()


# --- Parts ---------------------------------------------------------------------------------------


def run_tests(m: Measurement, clock: Clock) -> None:
    """Run the tests that need a GPU, unless this code has passed them; the end of their output is in tests.txt."""
    if importlib.util.find_spec("pytest") is None or not TESTS.is_dir():
        m.fail("tests", "", f"pytest or {TESTS} is missing")
        return
    path = m.plan.out / "tests.txt"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    title = f"== {m.device}, torch {m.about['torch']}, code {m.about['code']}"
    if f"{title}: status 0," in before and not title.endswith("-dirty"):
        print("tests: passed before with this code")
        return
    words = ["-m", "gpu", "-q", "-ra", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--durations=10"]
    words += ["-W", "default"]  # a warning of this machine's libraries must not stop the collection
    files = sorted(map(str, TESTS.glob("test_*.py")), reverse=True)  # trainings first
    code, output = command([sys.executable, "-m", "pytest", *words, *files], clock.left())
    now = f"{title}: status {code}, {m.about['measured']}\n{output[-200_000:]}\n"
    path.write_text(before + now, encoding="utf-8")
    if code not in (0, 5):  # 5: there are no tests
        m.fail("tests", str(m.about["measured"]), f"status {code}: {output.strip().splitlines()[-1] if output else ''}")


def measure_steps(m: Measurement, clock: Clock) -> None:
    """Training steps and search iterations, eager and captured."""
    from bench import steps
    from bench.networks import to_measure

    rows = Rows(m.plan.out / "steps.csv", steps.COLUMNS, steps.KEYS)
    modes = ("graph", "eager") if m.plan.on_gpu else ("eager",)
    every = steps.contenders({size: to_measure(m.plan.networks, size[0]) for size in m.plan.sizes}, modes)
    left = [one for one in every if {**one._asdict(), "batch": 4 * one.identities, "device": m.device} not in rows]
    m.run("steps", functools.partial(steps.time_steps, device=m.plan.device, seconds=m.plan.seconds), left, clock, rows)


def measure_latency(m: Measurement, clock: Clock) -> None:
    """Time all networks by precision and batch size. Compiled forms come last, because compiling takes long."""
    from bench.latency import COLUMNS, KEYS, Conditions, Contender, measure
    from bench.networks import to_measure

    plan, image = m.plan, m.plan.sizes[-1]
    rows = Rows(plan.out / "latency.csv", (*COLUMNS, "device"), (*KEYS, "device"))
    for precision, batch, forms, networks in latency_groups(plan, to_measure(plan.networks, image[0])):
        size = {"batch": batch, "height": image[0], "width": image[1], "device": m.device}
        left = [
            one
            for one in (Contender(n, form, precision) for form in forms for n in networks)
            if {**one._asdict(), "model": one.network, **size} not in rows
            and not m.failed("latency", f"{' '.join(one)} batch {batch}")
        ]
        if not left:
            continue
        conditions = Conditions(batch, image, plan.device, 30, plan.seconds, apart=True)
        for one, row in measure(left, conditions, deadline=clock.deadline):  # all rows of a race come at once
            m.write("latency", f"{' '.join(one)} batch {batch}", row, clock, rows)
        if not clock.fits():
            return


def latency_groups(plan: Plan, networks: Sequence[str]) -> Iterator[tuple[str, int, tuple[str, ...], Sequence[str]]]:
    """Precision, batch, forms and networks of the races of each process."""
    precisions = ("tf32", "fp32", "bf16") if plan.on_gpu else ("fp32",)
    forms = ("eager", "deployed", "cuda_graph") if plan.on_gpu else ("eager", "deployed")
    for batch, precision in product(plan.batches, precisions):
        yield precision, batch, forms, networks
    for network, precision, batch in product(networks, precisions, plan.batches) if plan.on_gpu else ():
        yield precision, batch, ("compiled",), (network,)


def measure_memory(m: Measurement, clock: Clock) -> None:
    """Peak memory of a batch of each contender."""
    from bench.networks import to_measure

    plan, image = m.plan, m.plan.sizes[-1]
    rows = Rows(plan.out / "memory.csv", MEMORY_COLUMNS, MEMORY_COLUMNS[:7])
    precisions = ("tf32", "bf16") if plan.on_gpu else ("fp32",)
    items = [
        (text, form, precision, batch, image, plan.device)
        for batch, precision, form in product(plan.batches[-1:], precisions, ("eager", "deployed"))
        for text in to_measure(plan.networks, image[0])
    ]
    left = [one for one in items if _memory_key(one) | {"device": m.device} not in rows]
    m.run("memory", peak_memory, left, clock, rows)


def _memory_key(item: Sequence[object]) -> dict[str, object]:
    text, form, precision, batch, image, _ = item
    assert isinstance(image, tuple)
    return {"model": text, "form": form, "precision": precision, "batch": batch, "height": image[0], "width": image[1]}


def peak_memory(items: Sequence[tuple[str, str, str, int, tuple[int, int], str]], report: Report) -> None:
    """Report the peak of each batch. A GPU's counter is exact; on a CPU each batch needs a fresh process."""
    from bench.latency import one_batch
    from bench.memory import EXACT, in_a_fresh_process

    for number, item in enumerate(items):
        report.at(number)
        fresh = item[-1] == "cpu"
        what = f"{item[0]} {item[1]}, batch {item[3]}"
        extra, weights = in_a_fresh_process(what, one_batch, *item, tunables=EXACT) if fresh else one_batch(*item)
        peak = None if extra is None else extra / 2**20
        report.row(number, {**_memory_key(item), "weights_mib": weights / 2**20, "peak_mib": peak})


def measure_ranking(m: Measurement, clock: Clock) -> None:
    """Ranking by `evaluate` with features on the device, and the matrix product alone.

    The device computes the product. The CPU sorts in both cases.
    """
    rows = Rows(m.plan.out / "retrieval.csv", RANKING_COLUMNS, RANKING_COLUMNS[:4])
    items = [
        (size, kind, 512, m.plan.device) for size, kind in product(("market1501", "msmt17"), ("clustered", "random"))
    ]
    left = [
        one for one in items if {**dict(zip(RANKING_COLUMNS, one[:3], strict=False)), "device": m.device} not in rows
    ]
    m.run("retrieval", rank_on_device, left, clock, rows)


def rank_on_device(items: Sequence[tuple[str, str, int, str]], report: Report) -> None:
    """Report seconds of the product of all features on a device, and of their ranking."""
    for number, item in enumerate(items):
        report.at(number)
        report.row(number, _ranked(*item))


def _ranked(size: str, kind: str, dim: int, device: str) -> dict[str, object]:
    from bench.retrieval import SIZES, made_up
    from msinet.precision import use_precision
    from msinet.retrieval import evaluate

    use_precision("fp32")
    features = made_up(*SIZES[size], dim, clustered=kind == "clustered")
    query, gallery = features.query.to(device), features.gallery.to(device)
    product_seconds = _best(lambda: query @ gallery.T, device)
    ranking_seconds = _best(lambda: evaluate(query, gallery, **features.labels), device)  # type: ignore[arg-type]
    return {
        "size": size,
        "features": kind,
        "dim": dim,
        "product_seconds": product_seconds,
        "ranking_seconds_cpu_sort": ranking_seconds,
        "ratio": ranking_seconds / product_seconds,
    }


def _best(work: Callable[[], object], device: str) -> float:
    import torch

    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def run_studies(m: Measurement, clock: Clock) -> None:
    """Run the reference studies with `ablations fill`, and pack the small files of all runs into the archive."""
    plan = m.plan
    words = ["fill", "--store", str(plan.store), "--minutes", f"{max(0.0, clock.left() - 15) / 60:.2f}"]
    words += ["--device", plan.device, "--no-progress", "--jobs", str(plan.jobs)]
    if (times := plan.out / "steps.csv").exists():
        words += ["--step-times", str(times)]
    words += ["--profile", plan.profile] if plan.profile else []
    archive = functools.partial(pack, plan.store, plan.out / ARCHIVE)
    code, output = command([sys.executable, "-m", "ablations", *words], clock.left(), archive)
    print(output[-2000:], flush=True)
    if code not in (0, INTERRUPTED):
        lines = output.strip().splitlines()
        m.fail("runs", str(m.about["measured"]), f"status {code}: {lines[-1] if lines else ''}")


PARTS: dict[str, Callable[[Measurement, Clock], None]] = {
    "tests": run_tests,
    "steps": measure_steps,
    "latency": measure_latency,
    "memory": measure_memory,
    "retrieval": measure_ranking,
    "runs": run_studies,
}


def command(
    words: Sequence[str], seconds: float, between: Callable[[], object] = lambda: None, patience: float = 10.0
) -> tuple[int, str]:
    """Run a command with a time limit. Return its exit status and its output.

    At the time limit and at Ctrl-C, the command and its children are interrupted, so that they save their state. If
    they do not end soon, they are killed.

    Args:
        words: the command and its arguments.
        seconds: time limit.
        between: called every half minute while the command runs, and at the end.
        patience: seconds between interruption and kill.
    """
    deadline = time.monotonic() + seconds
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # tests/gpu needs none
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
        errors="replace",
    )
    output = None
    try:
        while output is None and (left := deadline - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=min(30.0, left))
            between()
    finally:
        if output is None:
            output = f"{_end(process, patience)}\n(interrupted after {seconds:.0f} s)"
            between()
    return process.returncode, output


def _end(process: "subprocess.Popen[str]", patience: float) -> str:
    """Interrupt a process and its children, then kill those that are left. Return the output."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)[0]
    finally:  # also after a second Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def _machine(device: str) -> dict[str, object]:
    import torch

    from bench.latency import surroundings
    from msinet.environment import pick_device

    about = surroundings(where := pick_device(device))
    if where.type == "cuda":
        properties = torch.cuda.get_device_properties(where)
        about |= {"gpu_memory_mib": properties.total_memory / 2**20, "cuda": torch.version.cuda}
        about |= {"capability": f"{properties.major}.{properties.minor}"}
    return about | {"cores": os.cpu_count()}


# --- The archive ---------------------------------------------------------------------------------


def pack(store: Path, archive: Path) -> None:
    """Write the small files of all runs, and the errors of failed ones, into one archive below 16 MB."""
    for names in ((*SMALL, *LARGE), SMALL):
        paths = [path for name in names for path in sorted(store.glob(f"runs/*/{name}"))]
        paths += sorted(store.glob("failed/*/error.txt"))
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            for path in paths:
                with suppress(FileNotFoundError):  # removed meanwhile, such as the error of a run that succeeds now
                    tar.add(path, path.relative_to(store).as_posix())
        if content.tell() <= ARCHIVE_LIMIT:
            break
    if paths:
        with atomic_path(archive) as temporary:
            temporary.write_bytes(content.getvalue())


def unpack(archive: Path, store: Path) -> None:
    """Add runs of an archive that a store lacks, so that they are not run again.

    A run is extracted into a temporary folder of the store and then renamed, so that it appears whole or not at all.
    """
    if not archive.exists():
        return
    runs: dict[str, list[tarfile.TarInfo]] = {}
    (store / "runs").mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(prefix=".unpack-", dir=store) as temporary:
        for one in tar.getmembers():
            if one.isfile() and one.name.startswith("runs/"):
                runs.setdefault(os.path.dirname(one.name), []).append(one)
        for name, members in runs.items():
            names = {os.path.basename(one.name) for one in members}
            # A run that was removed while the archive was written lacks files.
            if {"experiment.json", "record.json"} <= names and not (store / name).is_dir():
                tar.extractall(temporary, members, filter="data")
                for path in (*Path(temporary, name).iterdir(), Path(temporary, name)):
                    sync(path)
                os.rename(Path(temporary, name), store / name)


def join(folders: Sequence[Path], out: Path, store: Path) -> None:
    """Join the output of other machines or earlier calls into a folder.

    Raises:
        UserError: a folder is missing, or a table has other columns.
    """
    from bench import steps
    from bench.latency import COLUMNS, KEYS

    tables = {
        "errors.csv": (ERROR_COLUMNS, ERROR_COLUMNS[:3]),
        "steps.csv": (steps.COLUMNS, steps.KEYS),
        "latency.csv": ((*COLUMNS, "device"), (*KEYS, "device")),
        "memory.csv": (MEMORY_COLUMNS, MEMORY_COLUMNS[:7]),
        "retrieval.csv": (RANKING_COLUMNS, RANKING_COLUMNS[:4]),
    }
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder of `bench gpu`")
    out.mkdir(parents=True, exist_ok=True)
    for name, (columns, keys) in tables.items():
        merge([path for folder in folders if (path := folder / name).exists()], Rows(out / name, columns, keys))
    machines: dict[str, Any] = {}
    for folder in (*folders, out):
        machines = join_machines(machines, _read(folder / MACHINES))
        unpack(folder / ARCHIVE, store)
    write_json(out / MACHINES, machines)
    texts = [path.read_text(encoding="utf-8") for folder in (out, *folders) if (path := folder / "tests.txt").exists()]
    if texts:
        calls = [call for text in texts for call in re.split(r"^(?=== )", text, flags=re.MULTILINE)]
        (out / "tests.txt").write_text("".join(dict.fromkeys(calls)), encoding="utf-8")
    pack(store, out / ARCHIVE)


def join_machines(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Descriptions of machines by device. New ones replace known ones, except for parts that only those have."""
    parts = {device: known.get(device, {}).get("parts", {}) | about.get("parts", {}) for device, about in new.items()}
    return {**known, **{device: {**about, "parts": parts[device]} for device, about in new.items()}}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def count_rows(out: Path) -> Row:
    """Rows of each table, for the last line of output."""
    return {path.name: max(0, path.read_text(encoding="utf-8").count("\n") - 1) for path in sorted(out.glob("*.csv"))}
