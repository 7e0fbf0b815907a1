"""Time and memory of ranking, compared with the matrix product that every ranking needs."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.dense import KINDS, dense_jaccard
from bench.memory import EXACT, in_a_fresh_process, peak_and_seconds
from msinet.retrieval import evaluate, rerank, top_k

#: Queries, gallery items, identities and cameras of the paper's test sets.
SIZES = {"market1501": (3368, 15_913, 750, 6), "msmt17": (11_659, 82_161, 3060, 15)}
#: Standard deviation of features around their identity's centre: about 84 % of the queries have a match at rank 1.
NOISE = 1.6
#: Least number of calls of each contender, and seconds after which a race ends.
LEAST, SECONDS = 3, 30.0
#: Memory for blocks of similarities when the gallery is on disk: each block reads the whole gallery once.
STREAM_BYTES = 512 << 20


@dataclass(frozen=True)
class Features:
    """Random features of a test set, with labels as `evaluate` takes them."""

    query: torch.Tensor
    gallery: torch.Tensor
    labels: dict[str, np.ndarray]


def made_up(queries: int, items: int, identities: int, cameras: int, dim: int, *, clustered: bool = True) -> Features:
    """Random unit features around one centre per identity, or all around zero if not clustered."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((identities, dim), np.float32) * np.float32(clustered)

    def some(count: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        ids = rng.integers(0, identities, count)
        rows = centres[ids]
        rows += np.float32(NOISE) * rng.standard_normal((count, dim), np.float32)
        return torch.nn.functional.normalize(torch.from_numpy(rows)), ids, rng.integers(0, cameras, count)

    (query, query_ids, query_cameras), (gallery, gallery_ids, gallery_cameras) = some(queries), some(items)
    return Features(
        query,
        gallery,
        {
            "query_ids": query_ids,
            "gallery_ids": gallery_ids,
            "query_cameras": query_cameras,
            "gallery_cameras": gallery_cameras,
        },
    )


def ranking(features: Features) -> dict[str, Callable[[], object]]:
    """The two contenders: the ranking, and the matrix product of all features into allocated memory."""
    out = torch.empty(len(features.query), len(features.gallery))
    return {
        "product": lambda: torch.mm(features.query, features.gallery.T, out=out),
        "ranking": lambda: evaluate(features.query, features.gallery, **features.labels),  # type: ignore[arg-type]
    }


def least_seconds(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Shortest time of each in seconds, called in turn: the time without disturbance by other processes.

    Args:
        contenders: calls by name.
        rounds: largest number of calls of each. After `LEAST`, a contender that has used up `SECONDS` ends the race.
    """
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        if number >= LEAST and max(map(sum, took.values())) > SECONDS:
            break
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            took[name].append(time.perf_counter() - began)
    return {name: min(times) for name, times in took.items()}


def dense_rerank(query: torch.Tensor, gallery: torch.Tensor, k1: int = 20, k2: int = 6) -> np.ndarray:
    """Re-ranking with N x N matrices and a loop over images, as in public code; lambda 0.3."""
    features = torch.cat([query, gallery]).numpy()
    count, queries = len(features), len(query)
    distances = (2 - 2 * features @ features.T).clip(min=0)
    distances /= distances.max(1, keepdims=True)
    order = np.argpartition(distances, range(1, k1 + 1), axis=1)[:, : k1 + 1]
    jaccard = np.empty((queries, count), np.float32)
    dense_jaccard(distances, order, k1, k2, jaccard)
    result: np.ndarray = 0.7 * jaccard[:, queries:] + 0.3 * distances[:queries, queries:]
    return result


def _at_size(size: tuple[int, int, int, int], dim: int, work: str, clustered: bool = True) -> tuple[int | None, float]:
    """`peak_and_seconds` of ranking or re-ranking features of that size. Must run in a fresh process."""
    features = made_up(*size, dim, clustered=clustered)
    torch.mm(features.query[:64], features.gallery[:64].T)  # loads libraries
    works: dict[str, Callable[[], object]] = {
        "ranking": lambda: evaluate(features.query, features.gallery, **features.labels),  # type: ignore[arg-type]
        "sparse": lambda: rerank(features.query, features.gallery),
        "dense": lambda: dense_rerank(features.query, features.gallery),
    }
    return peak_and_seconds(works[work])


def write_gallery(path: Path, items: int, dim: int) -> None:
    """Write random float32 rows to a .npy file in parts."""
    rng = np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (items, dim))
    for start in range(0, items, 100_000):
        rows = rng.standard_normal((min(100_000, items - start), dim), np.float32)
        mapped[start : start + len(rows)] = rows
    mapped.flush()


def _on_disk(path: Path, queries: int) -> tuple[int | None, float]:
    """`peak_and_seconds` of the ten nearest images of each query in a gallery on disk. Must run in a fresh process."""
    gallery = np.load(path, mmap_mode="r")
    query = np.random.default_rng(1).standard_normal((queries, gallery.shape[1]), np.float32)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # loads libraries
    return peak_and_seconds(lambda: top_k(query, gallery, 10, chunk_bytes=STREAM_BYTES))


def memory_and_time(
    what: str, work: Callable[..., tuple[int | None, float]], *arguments: object
) -> tuple[int | None, float]:
    """Bytes and seconds of `work`, each measured in a new process with a suitable allocator."""
    extra, _ = in_a_fresh_process(what, work, *arguments, tunables=EXACT)
    return extra, in_a_fresh_process(what, work, *arguments)[1]


def measure(
    sizes: Sequence[str], *, dim: int, rounds: int, reranked: bool, dense: bool, disk: int, disk_queries: int
) -> Iterator[dict[str, object]]:
    """A row per task: seconds, those of the matrix product, their ratio, and extra memory in MiB.

    Args:
        sizes: names in `SIZES`.
        dim: length of a feature.
        rounds: largest number of calls of ranking and product, in turn; the shortest time counts.
        reranked: whether to measure re-ranking at Market-1501's size.
        dense: whether to measure re-ranking with dense matrices.
        disk: images of a gallery on disk; 0: none.
        disk_queries: queries against that gallery.
    """
    for name, (kind, clustered) in itertools.product(sizes, KINDS.items()):
        what = f"CMC + mAP, {name}, {kind}"
        seconds = least_seconds(ranking(made_up(*SIZES[name], dim, clustered=clustered)), rounds)
        extra, _ = in_a_fresh_process(what, _at_size, SIZES[name], dim, "ranking", clustered, tunables=EXACT)
        product, ours = seconds["product"], seconds["ranking"]
        yield _row(what, ours, extra, product=product, ratio=ours / product)
    if reranked:
        extra, fast = memory_and_time(what := "re-ranking, market1501", _at_size, SIZES["market1501"], dim, "sparse")
        yield _row(what, fast, extra)
    if dense:
        what = "the same with dense matrices"
        extra, slow = memory_and_time(what, _at_size, SIZES["market1501"], dim, "dense")
        yield _row(what, slow, extra)
        if reranked:
            print(f"re-ranking is {slow / fast:.1f} times as fast as with dense matrices")
    if disk:
        what = f"10 nearest of {disk_queries} queries, {disk:,} on disk"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gallery.npy"
            write_gallery(path, disk, dim)
            extra, streamed = memory_and_time(what, _on_disk, path, disk_queries)
        yield _row(what, streamed, extra)


def render(table: pd.DataFrame) -> str:
    """A line per task; a dash where there is no matrix product."""
    return table.to_string(index=False, na_rep="-", float_format="{:.2f}".format)


#: The columns of a row of `measure`; the first one identifies it.
COLUMNS = ("work", "seconds", "product_seconds", "ratio", "extra_mib")


def _row(
    what: str, seconds: float, extra: int | None, product: float | None = None, ratio: float | None = None
) -> dict[str, object]:
    return {
        "work": what,
        "seconds": seconds,
        "product_seconds": product,
        "ratio": ratio,
        "extra_mib": None if extra is None else extra / 2**20,
    }
