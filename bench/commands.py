"""The commands of `python -m bench`. They import what they need when they run, so that help does not wait for torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msinet.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

#: Total stride of the networks: a smaller image has no position in the final map.
SMALLEST = 16


def check_image(height: int, width: int) -> tuple[int, int]:
    """Check and return height and width.

    Raises:
        UserError: the networks need larger images.
    """
    if min(height, width) < SMALLEST:
        raise UserError(f"images of {height}x{width} are too small; the networks need {SMALLEST}x{SMALLEST}")
    return height, width


@dataclass(frozen=True)
class Cost:
    """Count parameters (in three ways), multiply-adds and activations of networks."""

    models: tuple[str, ...] = ()
    """networks, with options in quotes: "msinet genotype=GGGGGGGGGGGG"; empty: all that `msinet list` shows"""
    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels"""
    num_classes: int = 751
    """training identities, which set the size of the classifiers"""
    csv: Path | None = None
    """file for the table, with exact counts"""

    def __call__(self) -> None:
        """Count and print.

        Raises:
            UserError: unknown network, an image that is too small, or a file that cannot be written.
        """
        from bench.cost import count, frame, render
        from bench.networks import REFERENCE, build, choose, fitting
        from msinet.io import atomic_path
        from msinet.models import CARDS

        image = check_image(self.height, self.width)
        names, left_out = (choose(self.models), []) if self.models else fitting(tuple(CARDS), self.height)
        costs = {
            name: count(build(name, self.num_classes, image), *image) for name in dict.fromkeys([*names, REFERENCE])
        }
        table = frame(costs)
        table = table[table["model"].isin(names)]
        print(f"one image of {image[0]}x{image[1]}, {self.num_classes} identities; one MAC is one multiply-add")
        print(render(table))
        for name in names:
            if costs[name].uncounted:
                print(f"not counted in {name}: {', '.join(costs[name].uncounted)}")
        print("\n".join(left_out), end="\n" * bool(left_out))
        if self.csv:
            with atomic_path(self.csv) as temporary:
                table.to_csv(temporary, index=False)


@dataclass(frozen=True)
class _OnNetworks:
    models: tuple[str, ...] = ()
    """networks, with options in quotes: "msinet genotype=GGGGGGGGGGGG"; empty: those of the paper's tables"""
    study: str = ""
    """table whose networks are measured if --models is empty, such as table2; `msinet list` shows the tables"""
    profile: str = ""
    """also measure these networks at the widths of this profile, if --models is empty"""
    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""

    def networks(self) -> list[str]:
        """The networks to measure."""
        from bench.networks import to_measure

        return to_measure(self.models, self.height, self.study, self.profile)


@dataclass(frozen=True)
class Latency(_OnNetworks):
    """Measure milliseconds per batch (median, 95th and 99th percentile), and ratios to ResNet50 timed in turn."""

    forms: tuple[str, ...] = ("eager", "channels_last", "deployed")
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    precisions: tuple[str, ...] = ("fp32",)
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 8, 32, 128)
    """batch sizes"""
    rounds: int = 100
    """maximum number of calls per network, form and precision"""
    seconds: float = 5.0
    """time limit per network, form, precision and batch size; at least 15 rounds are timed"""
    out: Path = Path("results/bench/latency.csv")
    """file for the table; machine and arguments go into a JSON file of the same name"""

    def __call__(self) -> None:
        """Measure, print and write."""
        from bench.latency import render

        self.measured(render)

    def measured(self, render: "Callable[[pd.DataFrame], str]") -> None:
        """Measure batch size by batch size and print the table.

        Each row is written to NAME.part.csv when it is measured. The file is renamed at the end. A contender that fails
        is left out of the table; its error is in NAME.errors.csv.
        """
        import pandas as pd

        from bench.forms import check_forms
        from bench.isolation import Failure
        from bench.latency import COLUMNS, KEYS, Conditions, Contender, finish, measure, surroundings
        from bench.machine import rates
        from bench.tables import Rows, check_name, growing
        from msinet.environment import pick_device

        check_name(self.out)
        device = pick_device(self.device)
        check_forms(self.forms, self.precisions, device)
        for name, values in (("batch", self.batches), ("round", (self.rounds,))):
            if not values or min(values) < 1:
                raise UserError(f"there must be at least one {name}, got {values}")
        image = check_image(self.height, self.width)
        networks = self.networks()
        every = [Contender(n, f, p) for p in self.precisions for f in self.forms for n in networks]
        failed = self.out.with_suffix(".errors.csv")
        failed.unlink(missing_ok=True)
        errors = Rows(failed, (*KEYS, "error"), KEYS)
        with growing(self.out, COLUMNS, KEYS) as rows:
            for batch in self.batches:
                conditions = Conditions(batch, image, str(device), self.rounds, self.seconds)
                for contender, row in measure(every, conditions):
                    if isinstance(row, Failure):
                        key = {**contender._asdict(), "model": contender.network, "batch": batch}
                        errors.append({**key, "height": image[0], "width": image[1], "error": row})
                        print(f"not measured: {' '.join(contender)}, batch {batch}: {row}")
                    else:
                        rows.append(row)
            if not rows.rows:
                raise UserError(f"nothing could be measured; {failed} has the errors")
            print(render(pd.read_csv(rows.path)))
            macs, bandwidth = rates(device)
            arguments = {name: str(value) for name, value in asdict(self).items()}
            about = {"macs_per_second": macs, "bytes_per_second": bandwidth, "arguments": arguments}
            finish(rows, self.out, surroundings(device, **about))


@dataclass(frozen=True)
class Throughput(Latency):
    """Measure images per second by batch size, and the fastest batch size of each network."""

    forms: tuple[str, ...] = ("deployed",)
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """batch sizes"""
    out: Path = Path("results/bench/throughput.csv")
    """file for the table; machine and arguments go into a JSON file of the same name"""

    def __call__(self) -> None:
        """Measure, print and write."""
        from bench.latency import render_throughput

        self.measured(render_throughput)


@dataclass(frozen=True)
class Memory(_OnNetworks):
    """Measure the peak memory of an inference batch, without weights and images, each in a new process."""

    forms: tuple[str, ...] = ("eager", "deployed")
    """eager, channels_last, deployed, compiled, onnx"""
    precision: str = "fp32"
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 32)
    """batch sizes"""
    out: Path = Path("results/bench/memory.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print, and write each row as it is measured."""
        from itertools import product

        import pandas as pd
        from tqdm import tqdm

        from bench.forms import check_forms
        from bench.latency import KEYS, MEMORY_COLUMNS, finish, one_batch, render_memory, surroundings
        from bench.memory import EXACT, in_a_fresh_process
        from bench.tables import growing
        from msinet.environment import pick_device

        if "cuda_graph" in self.forms:
            raise UserError("a captured graph allocates its memory before it runs; measure the form deployed instead")
        device = pick_device(self.device)
        check_forms(self.forms, (self.precision,), device)
        if not self.batches or min(self.batches) < 1:
            raise UserError(f"there must be at least one batch, got {self.batches}")
        image = check_image(self.height, self.width)
        every = list(product(self.networks(), self.forms, self.batches))
        with growing(self.out, MEMORY_COLUMNS, KEYS) as rows:
            for text, form, batch in tqdm(every, desc="memory"):
                what = f"{text} {form}, batch {batch}"
                arguments = text, form, self.precision, batch, image, str(device)
                extra, weights = in_a_fresh_process(what, one_batch, *arguments, tunables=EXACT)
                rows.append(
                    {
                        "model": text,
                        "form": form,
                        "precision": self.precision,
                        "batch": batch,
                        "height": image[0],
                        "width": image[1],
                        "weights_mib": weights / 2**20,
                        "peak_mib": None if extra is None else extra / 2**20,
                    }
                )
            print(render_memory(pd.read_csv(rows.path)))
            finish(rows, self.out, surroundings(device, allocator=EXACT))


@dataclass(frozen=True)
class Ranking:
    """Measure ranking (CMC, mAP) relative to the matrix product, re-ranking, and search in a gallery on disk."""

    sizes: tuple[str, ...] = ("market1501", "msmt17")
    """market1501, msmt17: as many queries and gallery images as those test sets"""
    dim: int = 512
    """feature dimension"""
    rerank: bool = True
    """also measure k-reciprocal re-ranking at Market-1501's size"""
    dense: bool = False
    """also measure re-ranking with dense matrices, which take 8 GiB and about a minute"""
    disk: int = 0
    """number of images in the gallery on disk; 0: do not measure it"""
    disk_queries: int = 100
    """number of queries for the gallery on disk"""
    rounds: int = 7
    """calls of ranking and product, in turn, fewer if they take long; the shortest time counts"""
    out: Path = Path("results/bench/retrieval.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print, and write each row as it is measured."""
        import pandas as pd
        import torch

        from bench import retrieval
        from bench.latency import finish, surroundings
        from bench.tables import growing

        for name in self.sizes:
            if name not in retrieval.SIZES:
                raise unknown_name("test set", name, retrieval.SIZES)
        if min(self.dim, self.rounds, self.disk_queries) < 1 or self.disk < 0:
            raise UserError("dim, rounds and disk_queries must be at least 1, disk at least 0")
        measured = retrieval.measure(
            self.sizes,
            dim=self.dim,
            rounds=self.rounds,
            reranked=self.rerank,
            dense=self.dense,
            disk=self.disk,
            disk_queries=self.disk_queries,
        )
        with growing(self.out, retrieval.COLUMNS, retrieval.COLUMNS[:1]) as rows:
            for row in measured:
                rows.append(row)
            print(retrieval.render(pd.read_csv(rows.path)))
            finish(rows, self.out, surroundings(torch.device("cpu"), dim=self.dim, rounds=self.rounds))


@dataclass(frozen=True)
class Gpu:
    """Measure a machine with a GPU in a given time. The same command continues in the same folder."""

    out: Path = Path("results/gpu")
    """output folder: at most eight files, each below 16 MB"""
    minutes: float = 15.0
    """total time"""
    store: Path | None = None
    """folder of the runs of the reference studies; None: OUT-store, next to OUT"""
    device: str = "auto"
    """cuda, cuda:N or auto; cpu: only parts that need no GPU"""
    parts: tuple[str, ...] = ("tests", "steps", "latency", "memory", "retrieval", "runs")
    """parts to measure, in this order"""
    jobs: int = 6
    """runs at once; they share the GPU"""
    models: tuple[str, ...] = ()
    """networks, with options in quotes; empty: those of the paper's tables"""
    profile: str = ""
    """profile of the runs; empty: as in the list of priorities (`ablations fill`)"""
    merge: tuple[Path, ...] = ()
    """measure nothing; merge these folders of other machines or earlier calls into OUT"""

    def __call__(self) -> None:
        """Measure, or join folders.

        Raises:
            UserError: an unknown part, network or device, or a folder with tables of another version.
        """
        from bench import gpu
        from bench.networks import choose
        from msinet.environment import pick_device

        out = self.out.resolve()
        store = self.store or out.with_name(f"{out.name}-store")
        if self.merge:
            gpu.join(self.merge, self.out, store)
        else:
            choose(self.models)
            device = str(pick_device(self.device))
            plan = gpu.Plan(
                self.out, store, self.minutes, device, self.parts, self.jobs, self.models, profile=self.profile
            )
            gpu.Measurement(plan)()
        rows = gpu.count_rows(self.out)
        print(f"rows: {', '.join(f'{name} {count}' for name, count in rows.items())}; written: {self.out}")


@dataclass(frozen=True)
class Clustering:
    """Measure pseudo-labels of a training set: Jaccard distances and clusters."""

    sizes: tuple[str, ...] = ("market1501", "msmt17")
    """as many images as these training sets"""
    dim: int = 2048
    """feature dimension"""
    dense: bool = False
    """also measure dense matrices at Market-1501's size, as in public code, which take several GiB and minutes"""
    threads: int = 2
    """threads for the distances"""
    out: Path = Path("results/bench/clustering.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print, and write each row as it is measured."""
        import pandas as pd
        import torch

        from bench import clustering
        from bench.latency import finish, surroundings
        from bench.tables import growing

        for name in self.sizes:
            if name not in clustering.SIZES:
                raise unknown_name("training set", name, clustering.SIZES)
        if min(self.dim, self.threads) < 1:
            raise UserError("dim and threads must be at least 1")
        with growing(self.out, clustering.COLUMNS, clustering.COLUMNS[:3]) as rows:
            for row in clustering.measure(self.sizes, dim=self.dim, dense=self.dense, threads=self.threads):
                rows.append(row)
                print(f"{row['set']}, {row['features']}, {row['form']}: {row['seconds']:.1f} s", flush=True)
            print(clustering.render(pd.read_csv(rows.path)))
            finish(rows, self.out, surroundings(torch.device("cpu"), dim=self.dim, threads=self.threads))
