"""Commands on trained networks: msinet evaluate | embed | find | export."""

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from msinet.cli.selection import DataOptions
from msinet.errors import UserError, first_few
from msinet.training.options import RankingOptions

if TYPE_CHECKING:
    from msinet.data import Dataset
    from msinet.data.loading import PixelSource
    from msinet.neighbours import Collection, Embedder
    from msinet.training.evaluation import Distances


Execution = Annotated[RankingOptions, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="execution")]
Selected = Annotated[DataOptions, tyro.conf.OmitArgPrefixes]


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weights file, and the settings that it may not contain."""

    weights: Path
    """file of `msinet train`, or of another code base (docs/own-images.md lists them)"""
    model: str = ""
    """name of the network, for weights that do not name it; `msinet list` shows networks"""
    options: tuple[str, ...] = ()
    """options of the network, such as genotype=GGEGAGGNGAEA"""
    height: int = 0
    """image height; 0: as the weights were trained, else the paper's"""
    width: int = 0
    """image width; 0: as the weights were trained, else the paper's"""
    partial: bool = False
    """accept weights that cover only a part of the network"""

    def load(self, dataset: str = "market1501", device: str = "cpu") -> "Embedder":
        """The network with its weights; the default size of images is the data set's. Prints what matched."""
        from msinet.neighbours import load_network
        from msinet.training.recipes import parse_settings

        options = parse_settings(self.options) or None
        found = load_network(
            self.weights,
            self.model,
            options,
            image=(self.height, self.width),
            dataset=dataset,
            device=device,
            partial=self.partial,
        )
        print(found.report)
        return found


def opened(weights: WeightsFile, dataset: "Dataset", options: RankingOptions) -> "tuple[Embedder, PixelSource]":
    """The network on its device, and the test images of a data set in the network's size."""
    from msinet.data import open_pixels
    from msinet.precision import use_precision

    use_precision("fp32")
    embedder = weights.load(dataset.name, options.device)
    size = (embedder.height, embedder.width)
    return embedder, open_pixels(dataset, "test", *size, cache=options.cache, progress=options.progress)


@dataclass(frozen=True, kw_only=True)
class Evaluate(WeightsFile):
    """Rank the test images of a data set with given weights: CMC, mAP and mINP."""

    data_root: Path
    """folder that holds the data sets in their native layouts, or a list of images (CSV)"""
    dataset: str = ""
    """test set; empty: market1501, or the only one under --data-root"""
    rerank: bool = False
    """apply k-reciprocal re-ranking; the paper's numbers do not use it"""
    k1: int = 20
    """re-ranking: number of neighbours (k-reciprocal sets)"""
    k2: int = 6
    """re-ranking: number of neighbours whose encodings are averaged; 1: no averaging"""
    weight: Annotated[float, tyro.conf.arg(name="lambda")] = 0.3
    """re-ranking: weight of the feature distance, in [0, 1]"""
    blur: int = 0
    """number of nearest gallery images for SFT's post-processing (its authors: 50, on MSMT17 150); 0: none"""
    blur_temperature: float = 0.1
    """temperature of that post-processing; its authors use 0.02 on MSMT17"""
    out: Path | None = None
    """JSON file for the metrics"""
    selection: Selected = field(default_factory=DataOptions)
    run_options: Execution = field(default_factory=RankingOptions)

    def distances(self, dataset: "Dataset") -> "tuple[Distances | None, str]":
        """The distance function of the re-ranking (None: no re-ranking) and the note that is printed.

        Raises:
            UserError: both kinds of re-ranking, a setting without effect, or one out of range for the data set.
        """
        from msinet.retrieval import blur, rerank
        from msinet.retrieval.blurring import check_blurring
        from msinet.retrieval.reranking import check_reranking

        if self.blur < 0 or (self.rerank and self.blur):
            raise UserError(
                f"--blur takes a number of images above 0 and does not go with --rerank, got {self.blur}; choose one"
            )
        for needed, chosen, settings in (
            ("--rerank", self.rerank, {"--k1": "k1", "--k2": "k2", "--lambda": "weight"}),
            ("--blur", self.blur, {"--blur-temperature": "blur_temperature"}),
        ):
            unused = [flag for flag, name in settings.items() if getattr(self, name) != getattr(Evaluate, name)]
            if unused and not chosen:
                raise UserError(f"{', '.join(unused)} has no effect without {needed}; add {needed} or leave it out")
        if self.blur:
            check_blurring(self.blur, self.blur_temperature)
            return partial(blur, nearest=self.blur, temperature=self.blur_temperature), f", {self.blur} nearest blurred"
        if not self.rerank:
            return None, ""
        check_reranking(self.k1, self.k2, self.weight, min(len(d.query) + len(d.gallery) for d in dataset.draws))
        note = f", re-ranked with k1 {self.k1}, k2 {self.k2}, lambda {self.weight:g}"
        return partial(rerank, k1=self.k1, k2=self.k2, weight=self.weight), note

    def __call__(self) -> int:
        """Evaluate, print and write the metrics."""
        from msinet import distributed
        from msinet.cli.training import metrics_line
        from msinet.data.layouts import ALL
        from msinet.environment import describe
        from msinet.io import check_writable, write_json
        from msinet.training import evaluate_model

        names = self.selection.chosen([self.dataset] if self.dataset else [], self.data_root, "market1501")
        dataset = self.selection.load(names, self.data_root, ALL[1:])
        distances, note = self.distances(dataset)
        if self.out is not None and distributed.leads():
            check_writable(self.out)
        embedder, pixels = opened(self, dataset, self.run_options)
        network, device, progress = embedder.network, embedder.device, self.run_options.progress
        result = evaluate_model(network, dataset, pixels, device, progress=progress, distances=distances)
        print(metrics_line(dataset.name + note, result.metrics))
        print(result.counts)
        if len(result.draws) > 1:
            print(f"  standard deviation over {len(result.draws)} draws: " + metrics_line("", result.std))
        if self.out is not None and distributed.leads():
            settings = {"k1": self.k1, "k2": self.k2, "lambda": self.weight} if self.rerank else {}
            settings |= {"blur_temperature": self.blur_temperature} if self.blur else {}
            write_json(
                self.out,
                {
                    **result.metrics,
                    **{f"{name}_std_draws": value for name, value in result.std.items()},
                    **result.counts.record(),
                    "dataset": dataset.name,
                    "fingerprint": dataset.fingerprint,
                    "same_camera": "removed" if dataset.remove_same_camera else "kept",
                    "weights": str(self.weights),
                    "height": embedder.height,
                    "width": embedder.width,
                    "reranked": self.rerank,
                    **settings,
                    "blurred": self.blur,
                    **describe(device),
                },
            )
            print(f"written: {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Embed(WeightsFile):
    """Write one feature row per image, for a folder, a single image, or the test images of a data set."""

    images: Annotated[Path | None, tyro.conf.Positional] = None
    """folder of images, or one image; no labels are needed"""
    data_root: Path | None = None
    """instead of images: folder that holds the data sets in their native layouts, or a list of images (CSV)"""
    dataset: str = ""
    """test set; empty: market1501, or the only one under --data-root"""
    out: Path = Path("features.npz")
    """file to write: .npz, or .csv with one column per feature dimension"""
    selection: Selected = field(default_factory=DataOptions)
    run_options: Execution = field(default_factory=RankingOptions)

    def __call__(self) -> int:
        """Compute and write the features."""
        from msinet import distributed
        from msinet.io import check_writable

        if (self.images is None) == (self.data_root is None):
            raise UserError("embed needs either a folder of images (or one image), or --data-root; see --help")
        given = {
            "--dataset": self.dataset,
            "--name": self.selection.name,
            "--keep-same-camera": self.selection.keep_same_camera,
        }
        if self.images is not None and any(given.values()):
            flags = ", ".join(flag for flag, value in given.items() if value)
            raise UserError(f"{flags} has no effect on a folder of images; leave it out, or pass --data-root instead")
        if self.selection.keep_same_camera:
            raise UserError("--keep-same-camera has no effect on embed, which ranks nothing; leave it out")
        if self.out.suffix.lower() not in (".npz", ".csv"):
            raise UserError(f"--out {self.out}: the suffix chooses the format, .npz or .csv")
        if distributed.leads():
            check_writable(self.out)
        columns = self._of_files() if self.data_root is None else self._of_dataset(self.data_root)
        if distributed.leads():
            write_features(self.out, columns)
            rows, length = columns["features"].shape
            print(f"{rows} features of {length} numbers, written: {self.out}")
        return 0

    def _of_files(self) -> dict[str, Any]:
        """The columns of a folder or an image."""
        import numpy as np

        from msinet.neighbours import image_files

        assert self.images is not None
        paths = image_files(self.images)
        found = collected(self.load(device=self.run_options.device), self, paths, self.run_options)
        top = os.path.abspath(self.images if self.images.is_dir() else self.images.parent)
        names = [found.path(i).relative_to(top).as_posix() for i in range(len(found))]
        return {"features": found.features, "paths": np.array(names)}

    def _of_dataset(self, root: Path) -> dict[str, Any]:
        """The columns of the test images of a data set."""
        import numpy as np

        from msinet.training import embed

        names = self.selection.chosen([self.dataset] if self.dataset else [], root, "market1501")
        dataset = self.selection.load(names, root, ())
        if not dataset.test:
            raise UserError(f"{dataset.name} has no test images; embed a folder instead, without --data-root")
        embedder, pixels = opened(self, dataset, self.run_options)
        features = embed(embedder.network, pixels, embedder.device, progress=self.run_options.progress)
        words = dataset.identity_names
        cameras = [dataset.camera_names.get(i.camera, i.camera) for i in dataset.test]
        return {
            "features": features.numpy(),
            "paths": np.array([i.path.relative_to(dataset.root).as_posix() for i in dataset.test]),
            "identities": np.array([words.get(i.identity, i.identity) for i in dataset.test]),
            **({"cameras": np.array(cameras)} if any(cameras) else {}),
            "query": dataset.draws[0].query,
            "gallery": dataset.draws[0].gallery,
        }


def collected(embedder: "Embedder", weights: WeightsFile, paths: "list[Path]", options: RankingOptions) -> "Collection":
    """Features of image files, from the cache if allowed; prints images that cannot be decoded to standard error."""
    from msinet.neighbours import collect
    from msinet.precision import use_precision

    use_precision("fp32")
    found = collect(embedder, weights.weights, paths, cache=options.cache is not False, progress=options.progress)
    if found.unreadable:
        message = f"{len(found.unreadable)} of {len(paths)} image(s) left out: {first_few(found.unreadable)}"
        print(message, file=sys.stderr)
    return found


def write_features(path: Path, columns: dict[str, Any]) -> None:
    """Write features and the known labels of their images as .npz, or as .csv with one line per image."""
    import csv

    import numpy as np

    from msinet.io import atomic_path

    if path.suffix.lower() == ".npz":
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **columns)
        return
    features = columns["features"]
    roles = np.full(len(features), "", dtype="U7")
    for role in ("gallery", "query"):
        if role in columns:
            roles[columns[role]] = role
    known = {"path": "paths", "identity": "identities", "camera": "cameras"}
    known = {name: column for name, column in known.items() if column in columns}
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        role_names = ["split"] if "query" in columns else []
        writer.writerow([*known, *role_names, *(f"f{i}" for i in range(features.shape[1]))])
        for row in range(len(features)):
            about = [str(columns[column][row]) for column in known.values()]
            writer.writerow([*about, *([roles[row]] if role_names else []), *map(float, features[row])])


@dataclass(frozen=True, kw_only=True)
class Find(WeightsFile):
    """Find the images of a folder that are nearest to a query; write a picture, a CSV file and an HTML page."""

    query: Annotated[Path, tyro.conf.Positional]
    """query image, or a folder of query images; each gets a ranked list"""
    gallery: Path
    """folder of images, or a list of images (CSV); with a list, identities are shown"""
    k: int = 10
    """number of images in a ranked list"""
    out: Path = Path("neighbours")
    """folder for ranked.png, ranked.csv and ranked.html"""
    run_options: Execution = field(default_factory=RankingOptions)

    def __call__(self) -> int:
        """Rank, print and write the lists."""
        from msinet.io import check_writable
        from msinet.neighbour_lists import PICTURE, find, gallery_of, write_lists
        from msinet.neighbours import image_files

        if self.k < 1:
            raise UserError(f"--k must be at least 1, got {self.k}")
        queries = image_files(self.query)
        paths, labels = gallery_of(self.gallery)
        embedder = self.load(device=self.run_options.device)
        check_writable(self.out / PICTURE)
        own = collected(embedder, self, queries, self.run_options)
        found = collected(embedder, self, paths, self.run_options)
        lists = find(own, found, self.k, labels)
        for line in lists[0].lines() if len(lists) == 1 else ():
            print(line)
        print("written: " + ", ".join(map(str, write_lists(lists, self.out))))
        return 0


@dataclass(frozen=True, kw_only=True)
class Export(WeightsFile):
    """Export the deployed form of a network to ONNX or TorchScript, after a comparison with torch."""

    out: Path
    """X.onnx, or X.pt for TorchScript; input: normalised images (B, 3, H, W), output: features (B, D)"""

    def __call__(self) -> int:
        """Export and compare."""
        from msinet.export import describe_export, export, need_format
        from msinet.io import check_writable

        need_format(self.out)
        check_writable(self.out)
        embedder = self.load()
        image = (embedder.height, embedder.width)
        difference = export(embedder.network, self.out, image, describe_export(embedder))
        print(f"features equal torch's to {difference:.1e} of the largest; written: {self.out}")
        return 0
