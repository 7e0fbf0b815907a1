"""The commands of `python -m bench`. They import what they need when they run, so that help does not wait for torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msinet.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

#: Total stride of the networks: a smaller image has no position in the final map.
SMALLEST = 16


def check_image(height: int, width: int) -> tuple[int, int]:
    """Height and width, checked.

    Raises:
        UserError: the networks need larger images.
    """
    if min(height, width) < SMALLEST:
        raise UserError(f"images of {height}x{width} are too small; the networks need {SMALLEST}x{SMALLEST}")
    return height, width


@dataclass(frozen=True)
class Cost:
    """Count parameters in three ways, multiply-adds and activations of networks."""

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
    """only the networks of this table, such as table2; `msinet list` shows the tables of a network"""
    profile: str = ""
    """measure the networks of the tables at the widths of this profile, too"""
    height: int = 256
    """image height in pixels"""
    width: int = 128
    """image width in pixels"""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one"""

    def networks(self) -> list[str]:
        """The networks to measure."""
        from bench.networks import choose, fitting

        chosen = choose(self.models, self.study, self.profile)
        if self.models:
            return chosen
        names, left_out = fitting(chosen, self.height)
        print("\n".join(left_out), end="\n" * bool(left_out))
        return names


@dataclass(frozen=True)
class Latency(_OnNetworks):
    """Measure milliseconds a batch (median, 95th and 99th percentile), and ratios to ResNet50 in the same race."""

    forms: tuple[str, ...] = ("eager", "channels_last", "deployed")
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    precisions: tuple[str, ...] = ("fp32",)
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 8, 32, 128)
    """batch sizes"""
    rounds: int = 100
    """largest number of calls of each contender"""
    seconds: float = 5.0
    """time for each contender and batch size, after its fifth call"""
    out: Path = Path("results/bench/latency.csv")
    """file for the table; machine and arguments go into a JSON file beside it"""

    def __call__(self) -> None:
        """Measure, print and write."""
        from bench.latency import render, write

        table, environment = self.run()
        print(render(table))
        write(table, self.out, environment)

    def run(self) -> "tuple[pd.DataFrame, dict[str, object]]":
        """The table, and the entries of its JSON file."""
        import torch

        from bench.forms import check_forms
        from bench.latency import LEAST, Contender, measure, surroundings
        from bench.machine import rates, traffic
        from bench.networks import build
        from msinet.environment import pick_device
        from msinet.models.deploy import deploy

        device = pick_device(self.device)
        check_forms(self.forms, self.precisions, device)
        for name, values in (("batch", self.batches), ("round", (self.rounds,))):
            if not values or min(values) < 1:
                raise UserError(f"there must be at least one {name}, got {values}")
        image = check_image(self.height, self.width)
        networks = self.networks()
        table = measure(
            [
                Contender(text, form, precision)
                for precision in self.precisions
                for form in self.forms
                for text in networks
            ],
            batches=self.batches,
            image=image,
            device=device,
            rounds=max(self.rounds, LEAST),
            seconds=self.seconds,
        )
        macs, bandwidth = rates(device)
        moved = {text: traffic(deploy(build(text, 1, image)), torch.zeros(1, 3, *image)) for text in networks}
        table["map_bytes"], table["weight_bytes"] = zip(*(moved[text] for text in table["model"]), strict=True)
        return table, surroundings(
            device,
            macs_per_second=macs,
            bytes_per_second=bandwidth,
            arguments={name: str(value) for name, value in asdict(self).items()},
        )


@dataclass(frozen=True)
class Throughput(Latency):
    """Measure images a second by batch size, and the batch at which each network is fastest."""

    forms: tuple[str, ...] = ("deployed",)
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """batch sizes"""
    out: Path = Path("results/bench/throughput.csv")
    """file for the table; machine and arguments go into a JSON file beside it"""

    def __call__(self) -> None:
        """Measure, print and write."""
        from bench.latency import render_throughput, write

        table, environment = self.run()
        print(render_throughput(table))
        write(table, self.out, environment)


@dataclass(frozen=True)
class Memory(_OnNetworks):
    """Measure the peak memory of one inference batch beyond weights and images, each in a process of its own."""

    forms: tuple[str, ...] = ("eager", "deployed")
    """eager, channels_last, deployed, compiled, cuda_graph, onnx"""
    precision: str = "fp32"
    """fp32, bf16, and on a GPU tf32"""
    batches: tuple[int, ...] = (1, 32)
    """batch sizes"""
    out: Path = Path("results/bench/memory.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print and write."""
        from itertools import product

        import pandas as pd
        from tqdm import tqdm

        from bench.forms import check_forms
        from bench.latency import one_batch, render_memory, surroundings, write
        from bench.memory import EXACT, in_a_fresh_process
        from msinet.environment import pick_device

        device = pick_device(self.device)
        check_forms(self.forms, (self.precision,), device)
        image = check_image(self.height, self.width)
        rows = []
        for text, form, batch in tqdm(list(product(self.networks(), self.forms, self.batches)), desc="memory"):
            arguments = text, form, self.precision, batch, image, str(device)
            extra, weights = in_a_fresh_process(one_batch, *arguments, tunables=EXACT)
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
        table = pd.DataFrame(rows)
        print(render_memory(table))
        write(table, self.out, surroundings(device, allocator=EXACT))


@dataclass(frozen=True)
class Ranking:
    """Measure CMC and mAP against the bare matrix product, re-ranking, and a gallery that stays on disk."""

    sizes: tuple[str, ...] = ("market1501", "msmt17")
    """market1501, msmt17: as many queries and gallery images as those test sets"""
    dim: int = 512
    """length of a feature"""
    rerank: bool = True
    """measure k-reciprocal re-ranking at Market-1501's size, too"""
    dense: bool = False
    """compare it with dense matrices, which take 8 GiB and about a minute"""
    disk: int = 0
    """images of a gallery that is written to disk and streamed from there; 0: none"""
    disk_queries: int = 100
    """queries against that gallery"""
    rounds: int = 7
    """calls of each contender, in turn"""
    out: Path = Path("results/bench/retrieval.csv")
    """file for the table"""

    def __call__(self) -> None:
        """Measure, print and write."""
        import torch

        from bench import retrieval
        from bench.latency import surroundings, write

        for name in self.sizes:
            if name not in retrieval.SIZES:
                raise unknown_name("test set", name, retrieval.SIZES)
        if min(self.dim, self.rounds, self.disk_queries) < 1 or self.disk < 0:
            raise UserError("dim, rounds and disk_queries must be at least 1, disk at least 0")
        table = retrieval.measure(
            self.sizes,
            dim=self.dim,
            rounds=self.rounds,
            reranked=self.rerank,
            dense=self.dense,
            disk=self.disk,
            disk_queries=self.disk_queries,
        )
        print(retrieval.render(table))
        write(table, self.out, surroundings(torch.device("cpu"), dim=self.dim, rounds=self.rounds))
